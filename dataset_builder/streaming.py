"""Stream a corpus for training: shuffled by seed, split over ranks and workers, resumed exactly where it stopped.

`load_dataset(..., streaming=True)` reads every corpus, and its resume is exact as long as nothing is shuffled. With
`.shuffle(buffer_size=...)` it is not: rows in the buffer are lost when a run stops. Stopped in the middle of 40 rows
with a buffer of 10, datasets 5.2 yields 35 of them (test_streaming.py). Here no rows are buffered: the order is a
function of seed and epoch (stream_order.py), so a position is the complete state.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from dataset_builder.corpus.blocks import Block, BlockReader, Filters
from dataset_builder.corpus.files import open_corpus
from dataset_builder.corpus.shard_index import Shard, read_index
from dataset_builder.corpus.stream_order import EpochOrder
from dataset_builder.schema import InterleavedVideo


LANES = 12  # divisible by 1, 2, 3, 4, 6 and 12 readers


@dataclass(frozen=True)
class _Point:
    """Progress within an epoch."""

    position: int = 0
    """The next batch is at `position + rank` of the epoch; with ranks in step, all before `position` are done."""
    rows: int = 0
    """Rows of the next batch that are also done."""
    worker: int | None = None
    """The worker whose progress this is, if it is that of one worker only."""


@dataclass(frozen=True)
class _Rows:
    """A block of a shard, and the rows wanted from it."""

    shard: Shard
    block: int
    wanted: Sequence[int]


def stream_corpus(
    corpus: str | Path,
    split: str = "train",
    *,
    seed: int | None = 0,
    columns: Sequence[str] | None = None,
    filters: Filters | None = None,
    include_dropped: bool = False,
    batch_size: int = 1,
    num_replicas: int | None = None,
    rank: int | None = None,
    lanes: int = LANES,
) -> "CorpusStream":
    """Stream the records of a split for a torch `DataLoader`; the order depends only on corpus, seed and epoch.

    With `DataLoader(stream, batch_size=n)`, pass the same `batch_size=n` here: an epoch then has the same batches in
    the same order, whatever the number of workers (without batches: `DataLoader(stream, batch_size=None)`). The ranks'
    batches of a step are `num_replicas` neighbours in one global order, which does not depend on the number of ranks
    either. The numbers of batches of any two ranks differ by at most one; the last batch of an epoch may be smaller.
    Every row comes exactly once.

    Args:
        corpus: a folder, a dataset repository on the Hub (`owner/name`), or an address that fsspec opens.
        split: "train", "validation" or "test".
        seed: seed of the shuffled order; None streams in corpus order, in which every worker reads every block.
        columns: columns to read; `video.path` for the path without the bytes; None reads all. Other fields of the
            records keep their defaults.
        filters: `(column, operator, value)`, all of which must hold, on `video_id`, `duration_s`, `source`, `license`;
            only for Parquet shards. They are evaluated once, in this call, on those columns only.
        include_dropped: also yield the clips that a filter rejected. Records whose clips were all rejected are always
            yielded; without this, they have no clips.
        batch_size: rows that stay together, in one worker's batch.
        num_replicas: number of ranks; None asks torch.distributed if it is initialised, else 1.
        rank: number of this rank; None as above.
        lanes: a multiple of ranks x workers; part of the definition of the order. At most `lanes` blocks are in
            memory, over all ranks and workers together.

    Raises:
        ValueError: if the corpus has no such split or column, there is no such rank, or a shard is missing.
    """
    if num_replicas is None or rank is None:
        initialised = torch.distributed.is_available() and torch.distributed.is_initialized()
        num_replicas = torch.distributed.get_world_size() if initialised else 1
        rank = torch.distributed.get_rank() if initialised else 0
    if not 0 <= rank < num_replicas:
        raise ValueError(f"rank is {rank}; expected 0 to {num_replicas - 1} with {num_replicas} replicas")
    if batch_size < 1 or lanes < 1 or lanes % num_replicas:
        raise ValueError(
            f"batch_size {batch_size} and lanes {lanes} must be positive, lanes a multiple of {num_replicas} ranks"
        )
    files = open_corpus(corpus)
    reader = BlockReader(files, columns)
    blocks = []
    for shard in read_index(files, split):
        passing: list[list[int] | None] = [None] * len(shard.block_rows)
        if filters:
            passing = reader.passing(shard, filters)
        for block, (num_rows, rows) in enumerate(zip(shard.block_rows, passing, strict=True)):
            blocks.append(_Rows(shard, block, range(num_rows) if rows is None else rows))
    return CorpusStream(
        reader, blocks, seed=seed, batch_size=batch_size, num_replicas=num_replicas, rank=rank, lanes=lanes,
        include_dropped=include_dropped,
    )  # fmt: skip


class CorpusStream(IterableDataset[InterleavedVideo]):
    """The stream that `stream_corpus` returns. Its complete state is one position in the order of the epoch."""

    def __init__(
        self,
        reader: BlockReader,
        blocks: Sequence[_Rows],
        *,
        seed: int | None,
        batch_size: int,
        num_replicas: int,
        rank: int,
        lanes: int,
        include_dropped: bool,
    ) -> None:
        self._reader, self._blocks, self._include_dropped = reader, blocks, include_dropped
        self._seed, self._batch_size, self._lanes = seed, batch_size, lanes
        self._num_replicas, self._rank = num_replicas, rank
        # Shared, so that workers that live for several epochs see `set_epoch` calls of the main process.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._start = _Point()  # where the next iteration starts, in the epoch of a loaded state
        self._start_epoch = 0
        self._reached = _Point()
        self._identity = self._make_identity()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; call this before each epoch. A loaded position applies only to the loaded epoch."""
        self._epoch.fill_(epoch)

    @property
    def epoch(self) -> int:
        """The epoch of the next iteration."""
        return int(self._epoch)

    @property
    def num_samples(self) -> int:
        """Rows that this rank gets in an epoch."""
        order = self._order()
        last = (order.num_chunks - 1) % self._num_replicas == self._rank
        chunks = len(range(self._rank, order.num_chunks, self._num_replicas))
        return chunks * self._batch_size - (last and order.num_chunks * self._batch_size - order.num_rows)

    def __iter__(self) -> Iterator[InterleavedVideo]:
        """Yield the records of this rank and worker, from the loaded position on."""
        worker = get_worker_info()
        if worker is not None:
            self._reader = self._reader.reopened()
        begin = self._begin()
        first, stride, skip = self._share(begin, worker.id if worker else None, worker.num_workers if worker else 1)
        order, open_blocks = self._order(), dict[int, tuple[int, Block]]()
        number = worker.id if worker else None
        self._reached = _Point(first - self._rank, skip, number)
        for chunk in range(first, order.num_chunks, stride):
            for index, (block, row) in enumerate(order.chunk(chunk)):
                if chunk == first and index < skip:
                    continue
                rows = self._open(open_blocks, order.lane(chunk), block)
                record = rows.record(self._blocks[block].wanted[row])
                complete = index + 1 == self._batch_size
                position = (chunk + stride if complete else chunk) - self._rank
                self._reached = _Point(position, 0 if complete else index + 1, number)
                yield record if self._include_dropped else record.kept()
        if worker is None:
            self._start = _Point()  # the next iteration starts from the beginning

    def state_dict(self, num_samples: int | None = None) -> dict[str, Any]:
        """The position, as plain values.

        Args:
            num_samples: rows of this rank that a `DataLoader` returned since the epoch began or a state was loaded:
                its workers read ahead, so only the loop that consumes the rows knows how many were used. None: as many
                as this object itself yielded (iteration without workers; torchdata's `StatefulDataLoader` asks its
                workers this way).
        """
        point = self._reached if num_samples is None else self._after(num_samples)
        return {"epoch": self.epoch, **asdict(point), "num_replicas": self._num_replicas, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state: with any number of workers and, between batches, also with another number of ranks.

        Raises:
            ValueError: if the state belongs to another order: another corpus, split, filter, seed, batch size or
                number of lanes.
        """
        for name, expected in self._identity.items():
            if state.get(name) != expected:
                found = state.get(name)
                raise ValueError(f"the state is of a stream with {name} {found!r}; this one has {expected!r}")
        if state["rows"] and state["num_replicas"] != self._num_replicas:
            raise ValueError(
                f"the state is inside a batch of one of {state['num_replicas']} ranks; it cannot be loaded with "
                f"{self._num_replicas}"
            )
        self.set_epoch(state["epoch"])
        self._start_epoch = state["epoch"]
        self._start = self._reached = _Point(state["position"], state["rows"], state["worker"])

    def _begin(self) -> "_Point":
        """The loaded point if it belongs to this epoch, else the epoch's start."""
        return self._start if self._start_epoch == self.epoch else _Point()

    def _after(self, num_samples: int) -> "_Point":
        """The point that is `num_samples` of this rank after the loaded one."""
        begin = self._begin()
        batches, rows = divmod(begin.rows + num_samples, self._batch_size)
        return _Point(begin.position + batches * self._num_replicas, rows)

    def _share(self, begin: "_Point", worker: int | None, num_workers: int) -> tuple[int, int, int]:
        """First position of this rank and worker, the stride to their next one, finished rows of the first.

        Ranks and workers are counted from the start of the iteration: a `DataLoader` asks worker 0 first.

        Raises:
            ValueError: if ranks x workers do not divide the lanes, or the point belongs to another worker.
        """
        stride = self._num_replicas * num_workers
        if self._seed is not None and self._lanes % stride:
            raise ValueError(
                f"{self._num_replicas} ranks x {num_workers} workers do not divide lanes={self._lanes}; "
                f"give stream_corpus a multiple, such as lanes={stride * max(1, LANES // stride)}"
            )
        if begin.worker is not None and begin.worker != worker:
            raise ValueError(f"the state is of worker {begin.worker}; it cannot be loaded in {worker or 'no worker'}")
        first = begin.position + self._rank
        if begin.worker is None and worker:
            return first + self._num_replicas * worker, stride, 0
        return first, stride, begin.rows

    def _order(self) -> EpochOrder:
        rows = [len(block.wanted) for block in self._blocks]
        return EpochOrder(rows, self._seed, self.epoch, self._lanes, self._batch_size)

    def _open(self, open_blocks: dict[int, tuple[int, Block]], lane: int, block: int) -> Block:
        """The block that a lane currently reads; lanes that reach the same block share it."""
        if lane not in open_blocks or open_blocks[lane][0] != block:
            open_blocks.pop(lane, None)  # freed before the next one is read
            shared = next((rows for number, rows in open_blocks.values() if number == block), None)
            place = self._blocks[block]
            open_blocks[lane] = (block, self._reader.read(place.shard, place.block) if shared is None else shared)
        return open_blocks[lane][1]

    def _make_identity(self) -> dict[str, Any]:
        """The properties in which two streams must agree for one to continue from the other's position."""
        rows = [
            (block.shard.path, block.block, len(block.wanted) if isinstance(block.wanted, range) else block.wanted)
            for block in self._blocks
        ]
        digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
        return {"corpus": digest, "seed": self._seed, "batch_size": self._batch_size, "lanes": self._lanes}
