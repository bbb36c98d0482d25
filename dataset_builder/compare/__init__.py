"""Input: embeddings, hashes and texts of clips. Output: borders, clusters, and which clips show or say the same."""
