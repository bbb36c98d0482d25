"""The index of a corpus: the blocks of rows in its shards, which a reader must know to read them in any order.

A block is read at once: a row group of a Parquet shard, or a run of whole records in a tar. `shards.json` lists the
blocks, so that a stream over thousands of remote shards starts with one request; without it (older corpora, shards of
other tools) the same list is read from the shards' footers and headers.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.parquet as pq

from dataset_builder.atomic import write_whole
from dataset_builder.corpus.files import CorpusFiles, open_corpus
from dataset_builder.corpus.parquet_damage import parquet_damage
from dataset_builder.corpus.reading import shards_among, splits_among
from dataset_builder.corpus.tar_shards import scan_tar
from dataset_builder.errors import DamagedInput


INDEX_NAME = "shards.json"
TAR_BLOCK_BYTES = 4_000_000  # most bytes in a block of a tar, unless a single record is larger


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file with records."""

    path: str
    """Relative to the corpus, with `/`."""
    num_bytes: int
    """Length of the file."""
    block_rows: tuple[int, ...]
    """Records in each block, in order."""
    block_starts: tuple[int, ...] = ()
    """Tars: first byte of each block, and the byte after the last block. Empty for Parquet, whose footer has them."""

    @property
    def num_rows(self) -> int:
        """Records in the shard."""
        return sum(self.block_rows)


def write_index(folder: Path) -> None:
    """Write `shards.json` from the shards of a corpus folder."""
    if not any((folder / "data").iterdir()):
        (folder / INDEX_NAME).unlink(missing_ok=True)
        return
    files = open_corpus(folder)
    splits = splits_among(files.sizes("data"))
    shards = {split: [asdict(shard) for shard in scan_shards(files, split)] for split in splits}
    write_whole(folder / INDEX_NAME, json.dumps({"splits": shards}, separators=(",", ":")) + "\n")


def read_index(files: CorpusFiles, split: str) -> list[Shard]:
    """The shards of a split, from `shards.json` if it matches the files, else from the shards themselves.

    Raises:
        ValueError: if there is no such split, or a shard is missing or damaged.
    """
    sizes = files.sizes("data")
    expected = [f"data/{name}" for name in shards_among([*sizes], split, files.name)]
    if files.exists(INDEX_NAME):
        listed = _listed(files.read(INDEX_NAME), split)
        if [(shard.path, shard.num_bytes) for shard in listed] == [(path, sizes[path[5:]]) for path in expected]:
            return listed
    return scan_shards(files, split)


def scan_shards(files: CorpusFiles, split: str) -> list[Shard]:
    """The shards of a split, read from their footers (Parquet) or the headers of their members (tar).

    Raises:
        ValueError: if there is no such split, or a shard is missing or damaged.
    """
    sizes = files.sizes("data")
    return [_scan(files, f"data/{name}", sizes[name]) for name in shards_among([*sizes], split, files.name)]


def _scan(files: CorpusFiles, path: str, num_bytes: int) -> Shard:
    try:
        if path.endswith(".tar"):
            with files.open(path) as tar:
                return _tar_blocks(path, num_bytes, list(scan_tar(tar)))
        with files.open(path) as file, parquet_damage():
            metadata = pq.read_metadata(file)
    except DamagedInput as error:
        raise ValueError(f"{files.name}: the shard {path} is damaged ({error})") from error
    rows = tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    return Shard(path=path, num_bytes=num_bytes, block_rows=rows)


def _tar_blocks(path: str, num_bytes: int, records: Sequence[tuple[int, int]]) -> Shard:
    rows, starts, end = list[int](), list[int](), 0
    for start, end in records:
        if not rows or end - starts[-1] > TAR_BLOCK_BYTES:
            starts.append(start)
            rows.append(0)
        rows[-1] += 1
    return Shard(path=path, num_bytes=num_bytes, block_rows=tuple(rows), block_starts=(*starts, end))


def _listed(index: bytes, split: str) -> list[Shard]:
    """The shards that the file lists; none if it is not a valid index."""
    try:
        return [
            Shard(**shard | {"block_rows": tuple(shard["block_rows"]), "block_starts": tuple(shard["block_starts"])})
            for shard in json.loads(index)["splits"].get(split, ())
        ]
    except (ValueError, TypeError, LookupError, AttributeError):
        return []
