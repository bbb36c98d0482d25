"""Read a corpus folder back, record by record, without `datasets`."""

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from dataset_builder.schema import InterleavedVideo, from_row


SHARD_NAME = "{split}-{index:05d}-of-{count:05d}.parquet"


def read_corpus(folder: Path | str, split: str, *, include_dropped: bool = False) -> Iterator[InterleavedVideo]:
    """Records of one split in the order of the shards; a row group at a time is in memory.

    Args:
        folder: what `cosmo build` wrote.
        split: "train", "validation" or "test".
        include_dropped: also hand out the clips (and records) that a filter rejected.

    Raises:
        ValueError: where the folder holds no such split or misses one of its shards.
    """
    for shard in list_shards(folder, split):
        with pq.ParquetFile(shard) as file:
            for group in range(file.num_row_groups):
                for row in file.read_row_group(group).to_pylist():
                    record = from_row(row)
                    if include_dropped:
                        yield record
                    elif (kept := record.kept()).clips:
                        yield kept


def list_splits(folder: Path | str) -> list[str]:
    """Names of the splits that a corpus folder holds, in the order train, validation, test."""
    names = {match[1] for path in Path(folder, "data").glob("*.parquet") if (match := _SHARD.match(path.name))}
    return [split for split in ("train", "validation", "test") if split in names]


def list_shards(folder: Path | str, split: str) -> list[Path]:
    """The shards of a split, in order.

    Raises:
        ValueError: where there is none, or one is missing.
    """
    paths = sorted(Path(folder, "data").glob(f"{split}-*-of-*.parquet"))
    if not paths:
        raise ValueError(f"{folder} holds no shards of the split {split!r} (found splits: {list_splits(folder)})")
    count = int(_SHARD.match(paths[0].name)[3])  # type: ignore[index]
    expected = [SHARD_NAME.format(split=split, index=index, count=count) for index in range(count)]
    if [path.name for path in paths] != expected:
        raise ValueError(
            f"{folder}/data has {len(paths)} of the {count} shards of {split!r}; build or download it again"
        )
    return paths


_SHARD = re.compile(r"(\w+)-(\d{5})-of-(\d{5})\.parquet$")
