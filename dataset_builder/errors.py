"""The one error that a damaged input raises; the build turns it into a line of quarantine.jsonl and goes on."""


class DamagedInput(ValueError):
    """An input file that cannot be read; the message says what was found, and names no path (the caller knows it)."""
