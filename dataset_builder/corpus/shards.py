"""Plan which shard holds which records, and write shards that stream: small row groups; same input, same bytes."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builder.atomic import replacing
from dataset_builder.corpus.tar_shards import write_tar
from dataset_builder.draft import positive
from dataset_builder.schema import FEATURES, InterleavedVideo, to_row


ROW_BYTES = 4096  # approximate size of a record without its video
GROUP_ROWS = 256  # most records in a row group: without embedded videos, thousands would fit into its megabytes
WITH_STATISTICS = ["video_id", "duration_s", "source", "license"]  # readers filter by these; never the videos' bytes
SUFFIXES = {"parquet": ".parquet", "webdataset": ".tar"}


@dataclass(frozen=True, kw_only=True)
class ShardSettings:
    """How the corpus is stored on disk."""

    format: str = "parquet"
    """`parquet`, or `webdataset`: tar files with `KEY.json` and `KEY.mp4` for every record."""
    embed_videos: bool
    """True: the shards hold the videos' bytes. False: the files are linked or copied into `videos/` next to them."""
    max_shard_mb: float = 256.0
    """A shard is closed before it grows past this size (a single larger record makes a larger shard)."""
    row_group_mb: float = 16.0
    """parquet: how much a reader must hold in memory at a time."""
    multiple_of: int = 1
    """The number of a split's shards is a multiple of this (processes of a training run), if the records suffice."""
    shuffle: bool = False
    """True: records in an order drawn from the recipe's seed. False: sorted by `video_id`."""
    tokenizer: str | None = None
    """Folder or id of a tokenizer with which the card counts tokens per document; null: the card counts words."""

    def __post_init__(self) -> None:
        if self.format not in ("parquet", "webdataset"):
            raise ValueError(f"format is {self.format!r}; expected parquet or webdataset")
        if self.format == "webdataset" and not self.embed_videos:
            raise ValueError("format: webdataset embeds the videos; set embed_videos: true")
        positive(self, "max_shard_mb", "row_group_mb", "multiple_of")


def shard_name(split: str, index: int, count: int, settings: ShardSettings) -> str:
    """File name of one shard, such as `train-00000-of-00004.parquet`."""
    return f"{split}-{index:05d}-of-{count:05d}{SUFFIXES[settings.format]}"


def plan_shards(num_bytes: Sequence[int], max_shard_mb: float, multiple_of: int = 1) -> list[range]:
    """Assign records to shards, in order: a shard is closed before it grows past the limit.

    Args:
        num_bytes: size of every record.
        max_shard_mb: limit in MB (1e6 bytes); a larger record makes a shard of its own.
        multiple_of: the number of shards is a multiple of this, and their sizes are even, so that as many processes
            get equally many shards. A split with fewer records than this gets one shard per record; one with too few
            records for the next multiple uses the multiple below, with larger shards.
    """
    plan = _fill(num_bytes, max_shard_mb * 1e6)
    if len(plan) % multiple_of == 0 or not num_bytes:
        return plan
    count = -(-len(plan) // multiple_of) * multiple_of
    if count > len(num_bytes):
        count = len(num_bytes) // multiple_of * multiple_of or len(num_bytes)
    low, high = max(num_bytes), sum(num_bytes)
    while low < high:  # find the smallest limit that needs no more shards than wanted
        middle = (low + high) // 2
        low, high = (low, middle) if len(_fill(num_bytes, middle)) <= count else (middle + 1, high)
    plan = _fill(num_bytes, low)
    while len(plan) < count:
        longest = max(range(len(plan)), key=lambda index: (len(plan[index]), -index))
        half = plan[longest].start + len(plan[longest]) // 2
        plan[longest : longest + 1] = [range(plan[longest].start, half), range(half, plan[longest].stop)]
    return plan


def _fill(num_bytes: Sequence[int], limit: float) -> list[range]:
    borders, filled = [0], 0
    for index, size in enumerate(num_bytes):
        if index > borders[-1] and filled + size > limit:
            borders.append(index)
            filled = 0
        filled += size
    return [range(first, last) for first, last in zip(borders, [*borders[1:], len(num_bytes)], strict=True)]


def write_shard(
    path: Path,
    records: Iterable[InterleavedVideo],
    settings: ShardSettings,
    files: Mapping[str, Path] | None = None,
) -> None:
    """Write one shard, with one row group in memory for Parquet, and less than one video for WebDataset.

    Args:
        path: the shard.
        records: in order; with `video_bytes`, or without.
        settings: format and sizes.
        files: `video_id` -> the file to embed, for records that do not hold their bytes.

    Raises:
        WriteError: if the shard cannot be written; no part of it is left.
    """
    if settings.format == "webdataset":
        write_tar(path, records, files or {})
    else:
        _write_parquet(path, records, settings, files or {})


def _write_parquet(
    path: Path, records: Iterable[InterleavedVideo], settings: ShardSettings, files: Mapping[str, Path]
) -> None:
    schema = FEATURES.arrow_schema
    order = None if settings.shuffle else pq.SortingColumn.from_ordering(schema, [("video_id", "ascending")])
    with (
        replacing(path, durable=True) as temporary,
        pq.ParquetWriter(
            temporary, schema, compression="zstd", write_statistics=WITH_STATISTICS, sorting_columns=order
        ) as writer,
    ):
        for group in _row_groups(_with_bytes(records, files), settings.row_group_mb):
            rows = [to_row(record) for record in group]
            for row in rows:
                row["provenance"] = json.dumps(row["provenance"], sort_keys=True)
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _with_bytes(records: Iterable[InterleavedVideo], files: Mapping[str, Path]) -> Iterator[InterleavedVideo]:
    for record in records:
        path = files.get(record.video_id) if record.video_bytes is None else None
        yield replace(record, video_bytes=path.read_bytes()) if path else record


def _row_groups(records: Iterable[InterleavedVideo], row_group_mb: float) -> Iterator[list[InterleavedVideo]]:
    group: list[InterleavedVideo] = []
    filled = 0
    for record in records:
        size = ROW_BYTES + len(record.video_bytes or b"")
        if group and (filled + size > row_group_mb * 1e6 or len(group) == GROUP_ROWS):
            yield group
            group, filled = [], 0
        group.append(record)
        filled += size
    if group:
        yield group
