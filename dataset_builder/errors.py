"""Errors that are not bugs: a damaged input, and a build that had to stop."""


class DamagedInput(ValueError):
    """An input file that cannot be read; the message says what was found, without the path, which the caller knows.

    The build turns it into a line of quarantine.jsonl and continues.
    """


class BuildStopped(RuntimeError):
    """A build that cannot start yet or was cut short: another build is running, a worker was killed, ranks failed.

    The message is one line that says what to do; finished work is kept, and the next run continues from there.
    """
