"""Write records as Parquet shards that stream: small row groups, schema in the metadata, same input same bytes."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builder.atomic import replacing
from dataset_builder.recipe import ShardSettings
from dataset_builder.schema import FEATURES, InterleavedVideo, to_row


ROW_BYTES = 4096  # about what a record weighs without its video
WITH_STATISTICS = ["video_id", "duration_s", "source", "license"]  # what readers filter by; never the videos' bytes


def plan_shards(num_bytes: Sequence[int], max_shard_mb: float) -> list[range]:
    """Which records go into which shard, in order: a shard is closed before it grows past the limit.

    Args:
        num_bytes: size of every record.
        max_shard_mb: limit in MB (1e6 bytes); a larger record makes a shard of its own.
    """
    borders, filled = [0], 0
    for index, size in enumerate(num_bytes):
        if index > borders[-1] and filled + size > max_shard_mb * 1e6:
            borders.append(index)
            filled = 0
        filled += size
    return [range(first, last) for first, last in zip(borders, [*borders[1:], len(num_bytes)], strict=True)]


def write_shard(path: Path, records: Iterable[InterleavedVideo], settings: ShardSettings) -> None:
    """Write one shard; a row group at a time is in memory.

    Raises:
        WriteError: where the disk does not take it; nothing is left then.
    """
    schema = FEATURES.arrow_schema
    with (
        replacing(path, durable=True) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd", write_statistics=WITH_STATISTICS) as writer,
    ):
        for group in _row_groups(records, settings.row_group_mb):
            rows = [to_row(record) for record in group]
            for row in rows:
                row["provenance"] = json.dumps(row["provenance"], sort_keys=True)
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _row_groups(records: Iterable[InterleavedVideo], row_group_mb: float) -> Iterator[list[InterleavedVideo]]:
    group: list[InterleavedVideo] = []
    filled = 0
    for record in records:
        size = ROW_BYTES + len(record.video_bytes or b"")
        if group and filled + size > row_group_mb * 1e6:
            yield group
            group, filled = [], 0
        group.append(record)
        filled += size
    if group:
        yield group
