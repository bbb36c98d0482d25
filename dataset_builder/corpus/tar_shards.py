"""WebDataset shards: tar files with `KEY.json` and `KEY.mp4` for every record; same input, same bytes.

Tars are read member by member in place; nothing is ever unpacked to a path named in an archive.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from datasets import Features, Value, Video

from dataset_builder.atomic import replacing
from dataset_builder.corpus.tar_members import is_plain_file, read_member, tar_members
from dataset_builder.errors import DamagedInput
from dataset_builder.schema import FEATURES, InterleavedVideo, from_row, to_row


# The columns that `load_dataset` returns from such shards; the card states them, so that they need not be guessed.
TAR_FEATURES = Features(
    {
        "json": {name: feature for name, feature in FEATURES.items() if name != "video"}
        | {"video": {"path": Value("string")}},
        "mp4": Video(decode=False),
        "__key__": Value("string"),
        "__url__": Value("string"),
    }
)
MAX_JSON_BYTES = 1 << 30  # a record has kilobytes; a larger member cannot be one
LONGEST_KEY = 80


def write_tar(path: Path, records: Iterable[InterleavedVideo], files: Mapping[str, Path]) -> None:
    """Write one shard. Files are copied in piece by piece; no clock, user or file mode of the machine is stored.

    The video is named `KEY.mp4` whatever its container, so that all rows have the same columns; decoders look at the
    content, and `video.path` in the JSON has the real name.

    Args:
        path: the shard.
        records: in order, with `video_bytes` or a file.
        files: `video_id` -> the file to embed.

    Raises:
        ValueError: for a record with neither bytes nor a file.
        WriteError: if the shard cannot be written; no part of it is left.
    """
    with (
        replacing(path, durable=True) as temporary,
        tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for record in records:
            key = tar_key(record.video_id)
            row = to_row(record)
            del row["video"]["bytes"]
            _add(tar, f"{key}.json", io.BytesIO(json.dumps(row, sort_keys=True, ensure_ascii=False).encode()))
            if record.video_bytes is not None:
                _add(tar, f"{key}.mp4", io.BytesIO(record.video_bytes))
            elif record.video_id in files:
                with files[record.video_id].open("rb") as video:
                    _add(tar, f"{key}.mp4", video)
            else:
                raise ValueError(f"{record.video_id} holds no video and none was given; a WebDataset shard embeds it")


def _add(tar: tarfile.TarFile, name: str, content: BinaryIO) -> None:
    member = tarfile.TarInfo(name)
    member.size = content.seek(0, io.SEEK_END)
    content.seek(0)
    tar.addfile(member, content)


def tar_key(video_id: str) -> str:
    """Name of a record inside a tar: ASCII letters, digits, `-` and `_`, unique for every `video_id`.

    A WebDataset key ends at its first dot, and a slash makes it a folder, so ids with any other characters are
    rewritten and kept distinct by a digest.
    """
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", video_id)[:LONGEST_KEY]
    if plain == video_id and not re.search(r"-[0-9a-f]{12}$", video_id):
        return plain
    return f"{plain}-{hashlib.sha256(video_id.encode()).hexdigest()[:12]}"


def read_tar(file: BinaryIO, *, end: int | None = None, with_video: bool = True) -> Iterator[InterleavedVideo]:
    """Yield the records of a tar from the file's current position on; one video is in memory at a time.

    Args:
        file: seekable, at the first byte of a record's first member.
        end: the byte after the last wanted record; None reads to the end of the tar.
        with_video: read the videos' bytes, too; else skip them.

    Raises:
        DamagedInput: if it is not a tar of records, or is damaged or cut off; after the records before that place.
    """
    row: dict[str, Any] | None = None
    video: bytes | None = None
    for key, suffix, member in _members(file, end):
        if suffix == "json":
            if row is not None:
                yield _record(row, video)
            row, video = _load_json(file, member, key), None
        elif suffix == "mp4" and row is not None and with_video:
            video = read_member(file, member)
    if row is not None:
        yield _record(row, video)


def scan_tar(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Yield the first byte of every record and the byte after its last, reading only headers."""
    start: int | None = None
    end = 0
    for _, suffix, member in _members(file):
        if suffix == "json":
            if start is not None:
                yield start, end
            start = member.offset
        end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    if start is not None:
        yield start, end


def _members(file: BinaryIO, end: int | None = None) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Yield key and suffix of the plain files in a tar; links, devices and folders are skipped."""
    for member in tar_members(file, end):
        if is_plain_file(member):
            key, _, suffix = member.name.rpartition(".")
            yield key, suffix, member


def _load_json(file: BinaryIO, member: tarfile.TarInfo, key: str) -> dict[str, Any]:
    if member.size > MAX_JSON_BYTES:
        raise DamagedInput(f"{member.name} has {member.size} bytes; expected the JSON of one record")
    try:
        row = json.loads(read_member(file, member))
    except DamagedInput:
        raise
    except (ValueError, RecursionError) as error:
        raise DamagedInput(f"{member.name} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DamagedInput(f"{member.name} of {key} holds {type(row).__name__}; expected the keys of a record")
    return row


def _record(row: dict[str, Any], video: bytes | None) -> InterleavedVideo:
    try:
        path = (row.get("video") or {}).get("path")
        return from_row({**row, "video": {"path": path, "bytes": video}})
    except (ValueError, TypeError, AttributeError) as error:
        raise DamagedInput(f"{row.get('video_id')!r} is not a record: {error}") from error
