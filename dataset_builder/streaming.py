"""Stream a corpus for training: shuffled by seed, dealt to ranks and workers, resumed exactly where it stopped.

`load_dataset(..., streaming=True)` reads every corpus, and its resume is exact as long as nothing is shuffled. With
`.shuffle(buffer_size=...)` it is not: what waits in the buffer when a run stops is gone. Stopped in the middle of 40
rows with a buffer of 10, datasets 5.2 hands out 35 of them (test_streaming.py). Here no row waits anywhere: the order
is a function of seed and epoch (stream_order.py), so that a position says it all.
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


LANES = 12  # 1, 2, 3, 4, 6 and 12 readers divide it


@dataclass(frozen=True)
class _Point:
    """How far an epoch is."""

    position: int = 0
    """Next is the batch at `position + rank` of the epoch; all before `position` are done where ranks are in step."""
    rows: int = 0
    """Rows of the next batch that are done, too."""
    worker: int | None = None
    """Whose point it is, where one worker alone tells its own."""


@dataclass(frozen=True)
class _Rows:
    """A block of a shard, and which of its rows are wanted."""

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
    """Records of a split for a torch `DataLoader`, in an order that depends on corpus, seed and epoch alone.

    With `DataLoader(stream, batch_size=n)` give the same `batch_size=n` here: the batches of an epoch are then the
    same, and in the same order, whatever the number of workers (without batches: `DataLoader(stream,
    batch_size=None)`). The ranks' batches of a step are `num_replicas` neighbours of one global order, which does not
    depend on the number of ranks either. Ranks get equally many batches, or one more; the last batch of an epoch may
    be smaller. Nothing is left out and nothing comes twice.

    Args:
        corpus: a folder, a dataset repository of the Hub (`owner/name`), or an address that fsspec opens.
        split: "train", "validation" or "test".
        seed: of the shuffled order; None streams in corpus order, where every worker reads every block.
        columns: what to read; `video.path` for the path without the bytes; None reads all. Other fields of the
            records keep their defaults.
        filters: `(column, operator, value)`, all of which must hold, on `video_id`, `duration_s`, `source`, `license`;
            of Parquet shards only. They are evaluated once, here, on those columns alone.
        include_dropped: also hand out the clips that a filter rejected. Records whose clips were all rejected come
            in any case, then without clips.
        batch_size: rows that stay together, in one worker's batch.
        num_replicas: number of ranks; None asks torch.distributed where it is initialised, else 1.
        rank: this one's number; None as above.
        lanes: a multiple of ranks x workers; part of what defines the order. In memory are at most `lanes` blocks,
            over all ranks and workers together.

    Raises:
        ValueError: if the corpus has no such split, column or rank, or misses a shard.
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
    """The stream that `stream_corpus` makes. One position in the order of the epoch is its whole state."""

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
        # Shared, so that workers which live over several epochs see what `set_epoch` says in the main process.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._start = _Point()  # where the next iteration begins, in the epoch of a loaded state
        self._start_epoch = 0
        self._reached = _Point()
        self._identity = self._make_identity()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; call it before each one. A loaded position counts for the loaded epoch only."""
        self._epoch.fill_(epoch)

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration hands out."""
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
            self._start = _Point()  # the next iteration begins from the front

    def state_dict(self, num_samples: int | None = None) -> dict[str, Any]:
        """The position, as plain values.

        Args:
            num_samples: rows of this rank that came out of a `DataLoader` since the epoch began or a state was
                loaded: its workers read ahead, so that only the loop that consumes the rows knows how many were
                used. None: as many as this object itself handed out (iteration without workers; torchdata's
                `StatefulDataLoader` asks its workers this way).
        """
        point = self._reached if num_samples is None else self._after(num_samples)
        return {"epoch": self.epoch, **asdict(point), "num_replicas": self._num_replicas, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state: with any number of workers, and between batches also with another number of ranks.

        Raises:
            ValueError: if the state is that of another order: of another corpus, split, filter, seed, batch size
                or number of lanes.
        """
        for name, expected in self._identity.items():
            if state.get(name) != expected:
                found = state.get(name)
                raise ValueError(f"the state is of a stream with {name} {found!r}; this one has {expected!r}")
        if state["rows"] and state["num_replicas"] != self._num_replicas:
            raise ValueError(
                f"the state lies inside a batch of one of {state['num_replicas']} ranks; it cannot be loaded with "
                f"{self._num_replicas}"
            )
        self.set_epoch(state["epoch"])
        self._start_epoch = state["epoch"]
        self._start = self._reached = _Point(state["position"], state["rows"], state["worker"])

    def _begin(self) -> "_Point":
        """The loaded point, where it is of this epoch."""
        return self._start if self._start_epoch == self.epoch else _Point()

    def _after(self, num_samples: int) -> "_Point":
        """The point `num_samples` of this rank after the loaded one."""
        begin = self._begin()
        batches, rows = divmod(begin.rows + num_samples, self._batch_size)
        return _Point(begin.position + batches * self._num_replicas, rows)

    def _share(self, begin: "_Point", worker: int | None, num_workers: int) -> tuple[int, int, int]:
        """First position of this rank and worker, the distance to their next, rows of the first that are done.

        Ranks and workers are counted from where the iteration begins: a `DataLoader` asks worker 0 first.

        Raises:
            ValueError: if ranks x workers do not divide the lanes, or the point is that of another worker.
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
        """The block that a lane is in; a lane has one, and lanes that meet in a block share it."""
        if lane not in open_blocks or open_blocks[lane][0] != block:
            open_blocks.pop(lane, None)  # given back before the next one is read
            shared = next((rows for number, rows in open_blocks.values() if number == block), None)
            place = self._blocks[block]
            open_blocks[lane] = (block, self._reader.read(place.shard, place.block) if shared is None else shared)
        return open_blocks[lane][1]

    def _make_identity(self) -> dict[str, Any]:
        """What two streams must agree in, so that one can go on from the other's position."""
        rows = [
            (block.shard.path, block.block, len(block.wanted) if isinstance(block.wanted, range) else block.wanted)
            for block in self._blocks
        ]
        digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
        return {"corpus": digest, "seed": self._seed, "batch_size": self._batch_size, "lanes": self._lanes}
