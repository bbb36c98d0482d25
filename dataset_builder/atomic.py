"""Files appear whole or not at all: written to a temporary name in the same folder, then renamed."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class WriteError(OSError):
    """A file could not be written; the message is one line with the file and the system's reason."""


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Hand out a temporary name that becomes `path` when the block ends well, and vanishes when it does not.

    Args:
        path: the final name; its folder is made where it is missing.
        durable: wait until the bytes are on the disk before the rename, so that not even a power cut leaves a hole.

    Raises:
        WriteError: with the path and the system's reason (disk full, no permission, ...).
    """
    # File names end at 255 bytes; processes of two machines that share the disk may have one number.
    temporary = path.with_name(f"{path.name[:40]}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        known = (str(path), str(temporary), str(path.parent))
        if error.filename not in (None, *known) and error.filename2 not in known:  # a copy names both its ends
            raise  # something else the block read or wrote
        reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
        raise WriteError(f"cannot write {path}: {reason}; nothing half-written is kept, run again to go on") from error
    finally:
        with suppress(OSError):  # it was renamed, or never came to be
            temporary.unlink()


def write_whole(path: Path, data: str | bytes) -> None:
    """Write a small file whole or not at all (text as UTF-8)."""
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
