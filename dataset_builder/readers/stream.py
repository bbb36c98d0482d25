"""Turn a list of shards into an `IterableDataset` that is split by node and worker, resumed by state, and counted."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
from datasets import Features, IterableDataset
from fsspec.implementations.local import LocalFileSystem

from dataset_builder.errors import DamagedInput
from dataset_builder.readers.tally import Tally


Source = str | Path | Sequence[str | Path]
"""A file, a folder, a pattern with `*` or an address that fsspec knows; or several of these."""
ReadShard = Callable[[Any, Tally], Iterator[dict[str, Any]]]
DAMAGED_SHARD = "rest of a damaged shard"


def stream_shards(
    shards: list[Any], read: ReadShard, features: Features, report: str | Path | None
) -> IterableDataset:
    """Rows of all shards, in order.

    `datasets` gives whole shards to nodes and workers if their number allows, else every n-th sample; either way, each
    sample is read once. Its state names the shard and how many of its samples are done, so a shard must give the same
    samples every time it is read.

    Args:
        shards: at least one; anything that pickles and has a unique `str`.
        read: yields the rows of one shard, and counts in the tally what it leaves out; raises `DamagedInput` if it
            cannot continue.
        features: features of the rows.
        report: folder for the counts (`read_summary`), or None.
    """
    generate = partial(_rows_of_shards, read=read, report=None if report is None else str(report))
    return IterableDataset.from_generator(generate, features=features, gen_kwargs={"shards": shards})


def _rows_of_shards(shards: list[Any], read: ReadShard, report: str | None) -> Iterator[dict[str, Any]]:
    for shard in shards:
        yield from rows_of_shard(shard, read, report)


def rows_of_shard(shard: Any, read: ReadShard, report: str | Path | None) -> Iterator[dict[str, Any]]:
    """Yield the rows of one shard; at its end, log and write its counts."""
    tally = Tally(str(shard))
    try:
        for row in read(shard, tally):
            tally.num_samples += 1
            yield row
    except DamagedInput as error:
        tally.skip(DAMAGED_SHARD, detail=str(error))
    tally.close(report)


def find_shards(source: Source, suffixes: Sequence[str]) -> list[str]:
    """Paths or addresses of the shards.

    Args:
        source: see `Source`; of a folder, only the files with the first of `suffixes` that any of its files has
            (img2dataset leaves a Parquet file of metadata next to each tar).
        suffixes: in order of preference.

    Raises:
        ValueError: if nothing is found.
    """
    if isinstance(source, (str, Path)):
        found = _list_one(str(source), suffixes)
    else:
        found = [shard for part in source for shard in _list_one(str(part), suffixes)]
    if not found:
        raise ValueError(f"no shards in {source} (looked for files that end in {', '.join(suffixes)})")
    return found


def _list_one(source: str, suffixes: Sequence[str]) -> list[str]:
    system, path = fsspec.core.url_to_fs(source)
    full_name = str if isinstance(system, LocalFileSystem) else system.unstrip_protocol
    if any(letter in path for letter in "*?["):
        return [full_name(name) for name in sorted(system.glob(path))]
    if system.isdir(path):
        names = sorted(system.ls(path, detail=False))
        by_suffix = ([name for name in names if name.endswith(suffix)] for suffix in suffixes)
        return [full_name(name) for name in next(filter(None, by_suffix), [])]
    if not system.isfile(path):
        raise ValueError(f"no file or folder {source}")
    return [full_name(path)]
