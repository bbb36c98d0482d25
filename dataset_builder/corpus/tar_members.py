"""Read the members of untrusted plain tars in place, one by one; nothing is ever unpacked."""

import io
import tarfile
from collections.abc import Iterator
from typing import Any

from dataset_builder.errors import DamagedInput


MAX_HEADER_BYTES = 1_000_000  # `tarfile` reads long names and pax headers whole


def tar_members(file: Any, end: int | None = None) -> Iterator[tarfile.TarInfo]:
    """Yield headers from the file's current position on, including folders, links and devices.

    Args:
        file: seekable, at the first byte of a header; `read_member` may move it between two members.
        end: the byte after the last wanted member; None reads to the end of the tar.

    Raises:
        DamagedInput: if the tar is damaged, cut off or compressed; after the members before that place.
    """
    headers = _Headers(file, end)
    try:
        with tarfile.open(fileobj=headers, mode="r:") as tar:  # type: ignore[call-overload]  # uncompressed only
            before = -1
            while member := tar.next():
                tar.members.clear()  # else it would keep every header
                if member.offset <= before or member.size < 0:
                    raise tarfile.ReadError("headers that point backwards")
                before = member.offset
                yield member
            headers.seek(tar.offset)
            if headers.read(tarfile.BLOCKSIZE).strip(b"\0"):  # `tarfile` mistakes a damaged header for the end
                raise tarfile.ReadError("a damaged header")
    except (tarfile.TarError, EOFError, ValueError) as error:  # not OSError: a lost connection is not damage
        raise DamagedInput(f"not a plain tar, or damaged or cut off: {error}") from error


def is_plain_file(member: tarfile.TarInfo) -> bool:
    """Whether a member is a file whose content is stored unchanged in the tar: no link, no device, not sparse."""
    return member.isreg() and not member.issparse()


def read_member(file: Any, member: tarfile.TarInfo) -> bytes:
    """Read the content of a plain file.

    Raises:
        DamagedInput: if the tar ends inside it.
    """
    if member.offset_data + member.size > file.seek(0, io.SEEK_END):  # before memory is allocated for missing bytes
        raise DamagedInput(f"cut off inside {member.name}, which has {member.size} bytes")
    file.seek(member.offset_data)
    content: bytes = file.read(member.size)
    return content


class _Headers:
    """A file that refuses to read more at once than any header needs, and ends at the byte `end`."""

    def __init__(self, file: Any, end: int | None) -> None:
        self._file, self._end = file, end
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        """Like a file's `read`.

        Raises:
            DamagedInput: if a header asks for more than the limit.
        """
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise DamagedInput(f"a header asks for {size} bytes at once")
        return self._file.read(size if self._end is None else min(size, max(0, self._end - self._file.tell())))
