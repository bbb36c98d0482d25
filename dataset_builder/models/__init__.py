"""Input: frames, sound and texts. Output: embeddings, transcripts, captions and answers, each from a named model."""
