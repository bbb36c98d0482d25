"""Read a corpus folder back, record by record, without `datasets`."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from dataset_builder.corpus.parquet_damage import parquet_damage
from dataset_builder.corpus.tar_shards import read_tar
from dataset_builder.errors import DamagedInput
from dataset_builder.inputs import SPLITS
from dataset_builder.schema import InterleavedVideo, from_row


_SHARD = re.compile(r"(?P<split>\w+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.(?P<suffix>parquet|tar)$")


def read_corpus(folder: Path | str, split: str, *, include_dropped: bool = False) -> Iterator[InterleavedVideo]:
    """Yield the records of one split in the order of the shards, with one row group (WebDataset: record) in memory.

    Args:
        folder: a corpus that `cosmo build` wrote.
        split: "train", "validation" or "test".
        include_dropped: also yield the clips (and records) that a filter rejected.

    Raises:
        ValueError: if the folder has no such split, or a shard is missing or damaged.
    """
    for shard in list_shards(folder, split):
        for record in _named(shard, _read_shard(shard)):
            if include_dropped:
                yield record
            elif (kept := record.kept()).clips:
                yield kept


def _named(path: Path, records: Iterator[InterleavedVideo]) -> Iterator[InterleavedVideo]:
    """Yield the same records; if the shard is damaged, the error names it."""
    try:
        with parquet_damage():
            yield from records
    except DamagedInput as error:
        raise ValueError(f"the shard {path} is damaged ({error})") from error


def _read_shard(path: Path) -> Iterator[InterleavedVideo]:
    if path.suffix == ".tar":
        with path.open("rb") as tar:
            yield from read_tar(tar)
        return
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            for row in file.read_row_group(group).to_pylist():
                yield from_row(row)


def list_splits(folder: Path | str) -> list[str]:
    """Names of a corpus folder's splits, in the order train, validation, test."""
    return splits_among(path.name for path in Path(folder, "data").glob("*"))


def list_shards(folder: Path | str, split: str) -> list[Path]:
    """The shards of a split, in order.

    Raises:
        ValueError: if there are none, or one is missing.
    """
    data = Path(folder, "data")
    return [data / name for name in shards_among([path.name for path in data.glob("*")], split, str(folder))]


def splits_among(names: Iterable[str]) -> list[str]:
    """The splits with shards among these file names, in the order train, validation, test."""
    found = {match["split"] for name in names if (match := _SHARD.match(name))}
    return [split for split in SPLITS if split in found]


def shards_among(names: Sequence[str], split: str, folder: str) -> list[str]:
    """The names of a split's shards, in order.

    Args:
        names: file names in the folder `data`.
        split: name of the split.
        folder: the corpus, for messages.

    Raises:
        ValueError: if there are none, or the shards are not exactly those that their names promise.
    """
    shards = sorted(name for name in names if (match := _SHARD.match(name)) and match["split"] == split)
    if not shards:
        raise ValueError(f"{folder} holds no shards of the split {split!r} (found splits: {splits_among(names)})")
    first = _SHARD.match(shards[0])
    assert first is not None  # only such names are in the list
    count = int(first["count"])
    if shards != [f"{split}-{index:05d}-of-{count:05d}.{first['suffix']}" for index in range(count)]:
        raise ValueError(
            f"{folder}/data has {len(shards)} of the {count} shards of {split!r}; build or download it again"
        )
    return shards
