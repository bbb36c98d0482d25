"""From a corpus to a trained model: samples, batches, the training loop and its evaluation."""
