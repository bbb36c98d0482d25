"""In come frames, sound and texts; out go embeddings, words heard, captions and answers, each by a named model."""
