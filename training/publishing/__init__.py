"""In comes a folder that a command left, a model, a corpus or the demo; out goes a checked repository of the Hub."""
