"""Limit the requests per minute of all worker processes of a machine together."""

import fcntl
import os
import time
from pathlib import Path

from dataset_builder.atomic import WriteError


class RateLimit:
    """Evenly spaced moments for requests; a file that all workers lock holds the next free one.

    Args:
        file: shared by the workers.
        per_minute: most requests per minute.
    """

    def __init__(self, file: Path, per_minute: float) -> None:
        self._file, self._gap_s = file, 60.0 / per_minute
        file.parent.mkdir(parents=True, exist_ok=True)

    def wait(self) -> None:
        """Wait until the next request may be made.

        Raises:
            WriteError: if the disk is full.
        """
        now_s = time.time()
        try:
            mine_s = self._book(now_s)
        except OSError as error:
            raise WriteError(f"cannot write {self._file}: {error.strerror}; run again to go on") from error
        time.sleep(max(mine_s - now_s, 0.0))

    def _book(self, now_s: float) -> float:
        """Take the next free moment."""
        with os.fdopen(os.open(self._file, os.O_RDWR | os.O_CREAT), "r+") as shared:
            fcntl.flock(shared, fcntl.LOCK_EX)
            try:
                booked_s = float(shared.read())
            except ValueError:  # new, or torn by a crash
                booked_s = 0.0
            mine_s = max(now_s, min(booked_s, now_s + 3600.0))  # a clock that was set back must not stop the build
            shared.seek(0)
            shared.truncate()
            shared.write(repr(mine_s + self._gap_s))
        return mine_s
