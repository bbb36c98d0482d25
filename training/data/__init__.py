"""In comes a split of a corpus; out go batches of model inputs, each a function of the seed and its number."""
