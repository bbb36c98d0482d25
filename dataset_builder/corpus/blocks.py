"""Read blocks of rows from the shards of a corpus: only the requested columns, only the rows that pass a filter."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from dataset_builder.corpus.files import CorpusFiles
from dataset_builder.corpus.parquet_damage import parquet_damage
from dataset_builder.corpus.shard_index import Shard
from dataset_builder.corpus.tar_shards import read_tar
from dataset_builder.errors import DamagedInput
from dataset_builder.schema import FEATURES, InterleavedVideo, from_row


ALWAYS = ("video_id", "duration_s")  # every record needs these
Filters = Sequence[tuple[str, str, Any]]
MOST_FOOTERS = 64  # footers of Parquet shards to keep, so that the footer of a shard in use is read once
JSON_READ_BYTES = 1 << 16  # read at once from a remote tar if the videos between the JSONs are skipped


class Block:
    """The rows of one block, in memory."""

    def __init__(self, rows: pa.Table | list[InterleavedVideo]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def record(self, row: int) -> InterleavedVideo:
        """One row as a record."""
        if isinstance(self._rows, list):
            return self._rows[row]
        return from_row(self._rows.slice(row, 1).to_pylist()[0])


class BlockReader:
    """Reader of the blocks of one corpus.

    Args:
        files: the corpus.
        columns: the columns to read, `video.path` for the path without the bytes; None reads all.

    Raises:
        ValueError: for a column that no corpus has.
    """

    def __init__(self, files: CorpusFiles, columns: Sequence[str] | None) -> None:
        unknown = [name for name in columns or () if name not in FEATURES and name != "video.path"]
        if unknown:
            raise ValueError(f"no column {unknown[0]!r}; a corpus has {', '.join(FEATURES)} and video.path")
        self._files, self._wanted = files, columns
        self._columns = None if columns is None else list(dict.fromkeys([*ALWAYS, *columns]))
        self._footers: dict[str, pq.FileMetaData] = {}

    def reopened(self) -> "BlockReader":
        """The same reader for another process, which cannot use the connections of this one."""
        return BlockReader(self._files.reopened(), self._wanted)

    def read(self, shard: Shard, block: int) -> Block:
        """Read one block.

        Raises:
            ValueError: if the shard is damaged, or does not match the index.
        """
        with self._naming(shard, block):
            rows = self._read_tar(shard, block) if shard.block_starts else self._read_parquet(shard, block)
        if len(rows) != shard.block_rows[block]:
            raise ValueError(
                f"{self._files.name}: block {block} of {shard.path} has {len(rows)} rows; "
                f"expected {shard.block_rows[block]} (was the shard replaced?)"
            )
        return Block(rows)

    @contextmanager
    def _naming(self, shard: Shard, block: int) -> Iterator[None]:
        """Name the block in errors about damage."""
        try:
            with parquet_damage():
                yield
        except DamagedInput as error:
            raise ValueError(f"{self._files.name}: block {block} of {shard.path} is damaged ({error})") from error

    def _read_parquet(self, shard: Shard, block: int) -> pa.Table:
        # pyarrow requests exactly the ranges that it needs; a cache in between would read more.
        with self._files.open(shard.path, cache_type="none") as file:
            if shard.path not in self._footers:
                if len(self._footers) == MOST_FOOTERS:
                    del self._footers[next(iter(self._footers))]  # the oldest
                self._footers[shard.path] = pq.read_metadata(file)
            with pq.ParquetFile(file, metadata=self._footers[shard.path], pre_buffer=True) as parquet:
                return parquet.read_row_group(block, columns=self._columns, use_threads=False)

    def _read_tar(self, shard: Shard, block: int) -> list[InterleavedVideo]:
        start, end = shard.block_starts[block : block + 2]
        if self._columns is None or "video" in self._columns:
            return list(read_tar(io.BytesIO(self._files.read(shard.path, start, end))))
        with self._files.open(shard.path, block_size=JSON_READ_BYTES) as file:
            file.seek(start)
            return list(read_tar(file, end=end, with_video=False))

    def passing(self, shard: Shard, filters: Filters) -> list[list[int] | None]:
        """Which rows of each block pass the filters; None if all do.

        Only the columns that the filters name are read, and not even these if the footer's statistics rule out that
        any row passes.

        Raises:
            ValueError: for filters on columns without plain values or on WebDataset shards, and for damaged shards.
        """
        names = sorted({name for name, _, _ in filters})
        plain = [name for name in FEATURES if FEATURES.arrow_schema.field(name).type in (pa.string(), pa.float64())]
        if unknown := [name for name in names if name not in plain]:
            raise ValueError(f"cannot filter by {unknown[0]!r}; expected one of {', '.join(plain)}")
        if shard.block_starts:
            raise ValueError(f"{self._files.name}: filters need Parquet shards; a WebDataset tar has no columns")
        expression = pq.filters_to_expression(list(filters))
        passing: list[list[int] | None] = []
        with self._files.open(shard.path, cache_type="none") as file:
            with self._naming(shard, 0):
                whole = pads.ParquetFileFormat().make_fragment(file)
                whole.ensure_complete_metadata()
            for block in range(len(shard.block_rows)):
                fragment = whole.subset(row_group_ids=[block])
                if not fragment.subset(expression).row_groups:
                    passing.append([])
                    continue
                with self._naming(shard, block):
                    table = fragment.to_table(columns=names, use_threads=False)
                numbered = table.append_column("row", pa.array(range(len(table))))
                rows = pads.dataset(numbered).to_table(columns=["row"], filter=expression)["row"].to_pylist()
                passing.append(None if len(rows) == len(table) else rows)
        return passing
