"""Read WebDataset shards: plain tars whose adjacent members with one stem are a sample; nothing is ever unpacked."""

import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import fsspec

from dataset_builder.corpus.tar_members import is_plain_file, read_member, tar_members
from dataset_builder.errors import DamagedInput
from dataset_builder.readers.lines import MAX_JSON_BYTES, parse_json
from dataset_builder.readers.media_folder import check_name
from dataset_builder.readers.tally import Tally


PICKLES = ("pkl", "pickle", "pyd", "pth", "pt", "joblib")  # counted but never read


@dataclass
class TarSample:
    """The requested members of a sample."""

    key: str
    """Their common path without the extension."""
    fields: dict[str, bytes] = field(default_factory=dict)
    """Extension (everything after the first dot of the name, in lower case) -> content."""


class TarMember(NamedTuple):
    """A requested member that is not read yet."""

    key: str
    """Its path without the extension."""
    extension: str
    """Everything after the first dot of its name, in lower case."""
    offset: int
    """First byte of its content in the tar."""
    size: int
    read: Callable[[], bytes]
    """Reads its content while the tar is open; raises `DamagedInput` if it is cut off."""


def read_tar_samples(url: str, max_bytes: Mapping[str, int], tally: Tally) -> Iterator[TarSample]:
    """Yield the samples of a shard in order.

    Some members are left out and counted: those whose name leads out of the folder, links and devices, sparse files,
    repeated members, members larger than allowed, and pickles. Members with other extensions are skipped unread.

    Args:
        url: path or address of the tar.
        max_bytes: extension -> largest content in bytes; other extensions are not read.
        tally: counts what is left out.

    Raises:
        DamagedInput: if the tar is damaged, cut off or compressed; after the samples before that place.
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
            begun, sample = sample, None  # yields no sample if this member is cut off
            begun.fields[member.extension] = member.read()
            sample = begun
    except DamagedInput:
        if sample:
            yield sample
        raise
    if sample:
        yield sample


def read_tar_pages(url: str, tally: Tally) -> Iterator[tuple[str, Any]]:
    """Yield key and JSON of each sample; samples that are not JSON are counted."""
    for sample in read_tar_samples(url, {"json": MAX_JSON_BYTES}, tally):
        try:
            page = parse_json(sample.fields["json"])
        except DamagedInput as error:
            tally.skip("malformed document", sample.key, str(error))
            continue
        yield sample.key, page


def read_tar_members(url: str, max_bytes: Mapping[str, int], tally: Tally) -> Iterator[TarMember]:
    """Yield members one by one with their offsets; otherwise like `read_tar_samples`."""
    with fsspec.open(url, "rb") as file:
        for member in tar_members(file):
            reason, key, extension = _judge(member, max_bytes)
            if reason:
                tally.drop(f"member: {reason}", member.name)
            elif extension in max_bytes:
                yield TarMember(key, extension, member.offset_data, member.size, partial(read_member, file, member))


def _judge(member: tarfile.TarInfo, max_bytes: Mapping[str, int]) -> tuple[str, str, str]:
    """Why a member is left out (empty if it is not), its key and its extension."""
    if member.isdir():
        return "", "", ""
    try:
        path = PurePosixPath(check_name(member.name))
    except DamagedInput as error:
        return str(error), "", ""
    stem, _, extension = path.name.partition(".")
    extension = extension.lower()
    if not is_plain_file(member):
        return "not a regular file", "", ""
    if extension.split(".")[-1] in PICKLES:
        return "pickle, never read", "", ""
    if member.size > max_bytes.get(extension, member.size):
        return f"{extension} larger than {max_bytes[extension]} bytes", "", ""
    return "", path.with_name(stem).as_posix() if stem else path.as_posix(), extension
