"""SIGTERM: finish the step under way, save, and say how to go on."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(RuntimeError):
    """The run was asked to stop and has saved where it stands."""


@contextmanager
def stop_request() -> Iterator[dict[str, bool]]:
    """Notes SIGTERM in `["asked"]` instead of dying, while the block runs."""
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
