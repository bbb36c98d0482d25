"""The errors that are no bug: a damaged input, and a build that had to stop."""


class DamagedInput(ValueError):
    """An input file that cannot be read; the message says what was found, and names no path (the caller knows it).

    The build turns it into a line of quarantine.jsonl and goes on.
    """


class BuildStopped(RuntimeError):
    """A build that may not begin yet or was cut short: another one at work, a killed worker, failed ranks.

    The message is one line that says what to do; what was done is kept, and the next run goes on.
    """
