"""In comes the folder of a model, a corpus or the demo; out goes a checked repository of the Hub."""
