"""Handle SIGTERM: finish the current step, save, and say how to continue."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(RuntimeError):
    """The run was asked to stop and has saved its current step."""


@contextmanager
def stop_request() -> Iterator[dict[str, bool]]:
    """Record SIGTERM in `["asked"]` while the block runs, instead of dying."""
    request = {"asked": False}

    def note(signum: int, frame: FrameType | None) -> None:
        request["asked"] = True

    try:
        before = signal.signal(signal.SIGTERM, note)
    except ValueError:  # only the main thread may set a handler
        yield request
        return
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)
