"""Files and folders appear whole or not at all: written to a temporary name beside their own, then renamed.

A killed writer leaves one of three names: `NAME.TOKEN.tmp` is a half-written file, `.NAME.TOKEN.tmp` a half-filled
folder, `.NAME.TOKEN.old/NAME` a folder that was moved aside and not yet replaced. `recover` clears them up.
"""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path


LEFTOVER = re.compile(r"\.?(?P<name>.+)\.[0-9a-f]{16}\.(?P<kind>tmp|old)", re.DOTALL)
NAME_LETTERS = 40
"""Letters of its final name that a temporary name begins with: names end at 255 bytes, and a letter takes up to 4."""


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
    temporary = path.with_name(_temporary_name(path, "tmp"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            _wait_for_disk(temporary)
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


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Hand out a new folder that takes the place of `path` when the block ends well, and vanishes when it does not.

    The files are on the disk before the folder gets its name, so that not even a power cut leaves a hole. Python
    cannot exchange two folders in one call, so the old one is moved aside first and deleted last. A kill between the
    renames leaves nothing at `path`, but both folders whole; the next `recover` puts the old one back.
    """
    fresh = path.with_name(f".{_temporary_name(path, 'tmp')}")  # hidden from those who look for `step-*`
    fresh.mkdir(parents=True)
    try:
        yield fresh
        for part in [*fresh.rglob("*"), fresh]:
            _wait_for_disk(part)
        put_in_place(fresh, path)
    finally:
        _remove(fresh)  # it was renamed, or the block failed


def put_in_place(fresh: Path, path: Path) -> None:
    """Give a finished folder its name; what had the name before is deleted once the new folder is there.

    Args:
        fresh: a folder on the same disk.
        path: its final name; what is there (a folder, a file, a link) is kept aside until the new folder has the name.

    Raises:
        OSError: if a rename fails; the old folder is at its place again.
    """
    aside = path.with_name(f".{_temporary_name(path, 'old')}")
    aside.mkdir()
    try:
        with suppress(FileNotFoundError):
            path.rename(aside / path.name)  # under its whole name: this is how `recover` knows where it belongs
        fresh.rename(path)
    except BaseException:
        _put_back(aside)
        raise
    _remove_aside(aside)


def recover(folder: Path, names: str = "*") -> None:
    """Clear up what killed writers left in a folder: put back what was moved aside, delete what is half written.

    Call it only where nobody else writes meanwhile: it would delete what they are writing.

    Args:
        folder: holds the files and folders that were to be written; it may be missing.
        names: shell pattern of their final names; of longer names, of their first `NAME_LETTERS` letters.
    """
    for path in [*folder.glob("*.old"), *folder.glob("*.tmp")]:
        found = LEFTOVER.fullmatch(path.name)
        if found is None or not fnmatchcase(found["name"], names):
            continue  # somebody's own
        if found["kind"] == "tmp":
            _remove(path)
        elif path.name.startswith(".") and path.is_dir():
            _put_back(path)


def _put_back(aside: Path) -> None:
    for old in [*aside.iterdir()]:  # one; none if the kill came before it was moved
        if not os.path.lexists(aside.with_name(old.name)):
            old.rename(aside.with_name(old.name))
    _remove_aside(aside)


def _remove_aside(aside: Path) -> None:
    """Delete under another name, so that `recover` never takes a half-deleted folder for a whole one."""
    doomed = aside.with_suffix(".tmp")
    with suppress(OSError):
        aside.rename(doomed)
        _remove(doomed)


def _remove(path: Path) -> None:
    """Delete a file, a link or a folder; do nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _temporary_name(path: Path, kind: str) -> str:
    """A name of one writer alone; processes of two machines that share the disk may have one number."""
    return f"{path.name[:NAME_LETTERS]}.{secrets.token_hex(8)}.{kind}"


def _wait_for_disk(path: Path) -> None:
    """Return once a file's bytes, or a folder's entries where the file system can say so, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.EBADF, errno.ENOTSUP)):
            raise
    finally:
        os.close(opened)
