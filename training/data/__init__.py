"""In comes a split of a corpus; out go batches of the model's inputs, each a function of the seed and its number."""
