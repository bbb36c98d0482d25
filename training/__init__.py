"""Train, evaluate and publish a model on a corpus."""
