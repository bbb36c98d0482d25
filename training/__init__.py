"""From a corpus to a trained model: its batches, the training loop, the evaluation and what becomes of the result."""
