"""In come embeddings, hashes and texts of clips; out go borders, clusters, and which clips show or say the same."""
