"""WebDataset shards: plain tars whose neighbouring members with one stem are a sample; nothing is ever unpacked."""

import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import fsspec

from dataset_builder.errors import DamagedInput
from dataset_builder.readers.media_folder import check_name
from dataset_builder.readers.tally import Tally


PICKLES = ("pkl", "pickle", "pyd", "pth", "pt", "joblib")  # counted and never read, as all members nobody asked for
MAX_HEADER_BYTES = 1_000_000  # long names and pax headers are read whole by `tarfile`


@dataclass
class TarSample:
    """The members of a sample that were asked for."""

    key: str
    """Their common path without the extension."""
    fields: dict[str, bytes] = field(default_factory=dict)
    """Extension (all that follows the first dot of the name, in lower case) -> content."""


class TarMember(NamedTuple):
    """A member that was asked for, not yet read."""

    key: str
    """Its path without the extension."""
    extension: str
    """All that follows the first dot of its name, in lower case."""
    offset: int
    """First byte of its content in the tar."""
    size: int
    read: Callable[[], bytes]
    """Its content, as long as the next member has not been asked for; raises `DamagedInput` where it is cut off."""


def read_tar_samples(url: str, max_bytes: Mapping[str, int], tally: Tally) -> Iterator[TarSample]:
    """Samples of a shard in its order.

    Left out and counted: members whose name leads out of the folder, that are links or devices, sparse, repeated or
    larger than allowed, and pickles. Members with other extensions are passed over without being read.

    Args:
        url: path or address of the tar.
        max_bytes: extension -> largest content; other extensions are not read.
        tally: counts what is left out.

    Raises:
        DamagedInput: where the tar is damaged, cut off or compressed; after the samples before that place.
    """
    sample: TarSample | None = None
    try:
        for member in read_tar_members(url, max_bytes, tally):
            if sample is None or sample.key != member.key:
                if sample:
                    yield sample
                sample = TarSample(member.key)
            if member.extension in sample.fields:
                tally.drop("member: repeated", f"{member.key}.{member.extension}")
                continue
            begun, sample = sample, None  # none to hand out, should this member be cut off
            begun.fields[member.extension] = member.read()
            sample = begun
    except DamagedInput:
        if sample:
            yield sample
        raise
    if sample:
        yield sample


def read_tar_members(url: str, max_bytes: Mapping[str, int], tally: Tally) -> Iterator[TarMember]:
    """Members one by one, with where they lie; as `read_tar_samples` in all else."""
    try:
        with fsspec.open(url, "rb") as raw:
            file = _Limited(raw, max(max_bytes.values()) + MAX_HEADER_BYTES)
            with tarfile.open(fileobj=file, mode="r:") as tar:  # type: ignore[call-overload]  # uncompressed only
                yield from _members(tar, max_bytes, tally)
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE).strip(b"\0"):  # `tarfile` takes a damaged header for the end
                    raise tarfile.ReadError("a damaged header")
    except (tarfile.TarError, EOFError, ValueError) as error:  # not OSError: a lost connection is no damage
        raise DamagedInput(f"no plain tar, or damaged or cut off: {error}") from error


def _members(tar: tarfile.TarFile, max_bytes: Mapping[str, int], tally: Tally) -> Iterator[TarMember]:
    before = -1
    while member := tar.next():
        tar.members.clear()  # type: ignore[attr-defined]  # it would remember every header
        if member.offset <= before or member.size < 0:
            raise tarfile.ReadError("headers that point backwards")
        before = member.offset
        reason, key, extension = _judge(member, max_bytes)
        if reason:
            tally.drop(f"member: {reason}", member.name)
        elif extension in max_bytes:
            yield TarMember(key, extension, member.offset_data, member.size, partial(_content, tar, member))


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # it is a regular file
    try:
        return file.read()
    except tarfile.TarError as error:
        raise DamagedInput(f"cut off inside {member.name}") from error


def _judge(member: tarfile.TarInfo, max_bytes: Mapping[str, int]) -> tuple[str, str, str]:
    """Why a member is left out (empty where it is not), its key and its extension."""
    if member.isdir():
        return "", "", ""
    try:
        path = PurePosixPath(check_name(member.name))
    except DamagedInput as error:
        return str(error), "", ""
    stem, _, extension = path.name.partition(".")
    extension = extension.lower()
    if not member.isreg() or member.issparse():
        return "no regular file", "", ""
    if extension.split(".")[-1] in PICKLES:
        return "pickle, never read", "", ""
    if member.size > max_bytes.get(extension, member.size):
        return f"{extension} larger than {max_bytes[extension]} bytes", "", ""
    return "", path.with_name(stem).as_posix() if stem else path.as_posix(), extension


class _Limited:
    """A file that refuses to read more at once than any header or allowed member needs."""

    def __init__(self, file: Any, limit: int) -> None:
        self._file, self._limit = file, limit
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        """As a file's `read`.

        Raises:
            DamagedInput: where a header asks for more than the limit.
        """
        if not 0 <= size <= self._limit:
            raise DamagedInput(f"a header asks for {size} bytes at once")
        return self._file.read(size)
