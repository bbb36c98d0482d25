"""Write files and folders whole or not at all: under a temporary name next to the final one, then renamed.

A killed writer leaves one of three names: `NAME.TOKEN.tmp` is a half-written file, `.NAME.TOKEN.tmp` a half-filled
folder, `.NAME.TOKEN.old/NAME` a folder that was moved aside and not yet replaced. `recover` cleans them up.
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
"""Letters of the final name that a temporary name keeps: a name has at most 255 bytes, and a letter takes up to 4."""


class WriteError(OSError):
    """A file could not be written; the message is one line with the file and the system's reason."""


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary name; it is renamed to `path` if the block succeeds and deleted if it fails.

    Args:
        path: the final name; its folder is created if missing.
        durable: wait until the bytes are on the disk before the rename, so that even a power cut leaves no hole.

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
        if error.filename not in (None, *known) and error.filename2 not in known:  # a copy names both its files
            raise  # about another file that the block read or wrote
        reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
        raise WriteError(f"cannot write {path}: {reason}; nothing half-written is kept, run again to go on") from error
    finally:
        with suppress(OSError):  # already renamed, or never created
            temporary.unlink()


def write_whole(path: Path, data: str | bytes) -> None:
    """Write a small file whole or not at all (text as UTF-8)."""
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder; it replaces `path` if the block succeeds and is deleted if it fails.

    The files are on the disk before the folder gets its name, so that even a power cut leaves no hole. Python cannot
    exchange two folders in one call, so the old one is moved aside first and deleted last. A kill between the renames
    leaves nothing at `path` but keeps both folders whole; the next `recover` puts the old one back.
    """
    fresh = path.with_name(f".{_temporary_name(path, 'tmp')}")  # hidden from patterns such as `step-*`
    fresh.mkdir(parents=True)
    try:
        yield fresh
        for part in [*fresh.rglob("*"), fresh]:
            _wait_for_disk(part)
        put_in_place(fresh, path)
    finally:
        _remove(fresh)  # gone if it was renamed; still there if the block failed


def put_in_place(fresh: Path, path: Path) -> None:
    """Give a finished folder its final name; whatever had that name is deleted once the new folder is in place.

    Args:
        fresh: a folder on the same disk.
        path: its final name; a folder, file or link of that name is kept aside until the new folder has replaced it.

    Raises:
        OSError: if a rename fails; the old folder is put back first.
    """
    aside = path.with_name(f".{_temporary_name(path, 'old')}")
    aside.mkdir()
    try:
        with suppress(FileNotFoundError):
            path.rename(aside / path.name)  # under its full name, so that `recover` knows where it belongs
        fresh.rename(path)
    except BaseException:
        _put_back(aside)
        raise
    _remove_aside(aside)


def recover(folder: Path, names: str = "*") -> None:
    """Clean up after killed writers in a folder: put back what was moved aside, delete what is half written.

    Call it only while nobody else writes there: it would delete their unfinished files.

    Args:
        folder: where the files and folders were being written; it may be missing.
        names: shell pattern of their final names; only the first `NAME_LETTERS` letters of a name are compared.
    """
    for path in [*folder.glob("*.old"), *folder.glob("*.tmp")]:
        found = LEFTOVER.fullmatch(path.name)
        if found is None or not fnmatchcase(found["name"], names):
            continue  # not ours
        if found["kind"] == "tmp":
            _remove(path)
        elif path.name.startswith(".") and path.is_dir():
            _put_back(path)


def _put_back(aside: Path) -> None:
    for old in [*aside.iterdir()]:  # one entry; none if the kill came before the move
        if not os.path.lexists(aside.with_name(old.name)):
            old.rename(aside.with_name(old.name))
    _remove_aside(aside)


def _remove_aside(aside: Path) -> None:
    """Delete under another name, so that `recover` never mistakes a half-deleted folder for a whole one."""
    doomed = aside.with_suffix(".tmp")
    with suppress(OSError):
        aside.rename(doomed)
        _remove(doomed)


def _remove(path: Path) -> None:
    """Delete a file, a link or a folder; do nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _temporary_name(path: Path, kind: str) -> str:
    """A name unique to one writer; process ids would not do, as machines that share a disk may use the same ones."""
    return f"{path.name[:NAME_LETTERS]}.{secrets.token_hex(8)}.{kind}"


def _wait_for_disk(path: Path) -> None:
    """Wait until a file's bytes are on the disk, or a folder's entries if the file system supports that."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.EBADF, errno.ENOTSUP)):
            raise
    finally:
        os.close(opened)
