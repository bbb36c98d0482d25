"""The order in which an epoch yields the rows of a corpus: a pure function of position, seed and epoch.

There is no shuffle buffer, so a stopped run cannot lose anything in memory. An epoch draws a permutation of all blocks
and of the rows within each block. The resulting long sequence of rows is cut into `lanes`, parts of equal length that
are read in parallel: position i of the epoch is the next row of lane i modulo `lanes`. So neighbours in the epoch come
from blocks far apart, and a reader of every n-th position (n a divisor of `lanes`: the ranks and their workers) has a
few lanes to itself, which it reads from front to back: every block is read once, except those on the border of two
lanes.
"""

import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple


class RowPosition(NamedTuple):
    """Position of a row in the corpus."""

    block: int
    """Index of the block, in corpus order."""
    row: int
    """Index of the row in its block."""


class EpochOrder:
    """The order of one epoch, in chunks of rows that stay together.

    Args:
        block_rows: number of rows in every block, in corpus order.
        seed: seed of all permutations; None yields the rows in corpus order.
        epoch: every epoch has its own permutations.
        lanes: number of parts that are read in parallel.
        chunk_rows: consecutive rows of one lane; the last chunk of the epoch may hold fewer.
    """

    def __init__(self, block_rows: Sequence[int], seed: int | None, epoch: int, lanes: int, chunk_rows: int) -> None:
        self._seed, self._epoch, self._lanes, self._chunk_rows = seed, epoch, lanes, chunk_rows
        self._blocks = permutation(len(block_rows), f"{seed} {epoch}") if seed is not None else range(len(block_rows))
        self._block_rows = block_rows
        self._starts = [0, *accumulate(block_rows[block] for block in self._blocks)]
        self._drawn: dict[int, list[int]] = {}
        self.num_rows = self._starts[-1]
        self.num_chunks = -(-self.num_rows // chunk_rows)

    def chunk(self, position: int) -> Iterator[RowPosition]:
        """Yield the rows of one chunk of the epoch, 0 <= position < num_chunks."""
        first = self._in_sequence(position) * self._chunk_rows
        for row in range(first, min(first + self._chunk_rows, self.num_rows)):
            index = bisect_right(self._starts, row) - 1  # the last of equal starts, which skips empty blocks
            block = self._blocks[index]
            yield RowPosition(block, self._within(block)[row - self._starts[index]])

    def lane(self, position: int) -> int:
        """The lane of a chunk; if rows come in corpus order, there is only one."""
        return 0 if self._seed is None else position % self._lanes

    def _in_sequence(self, position: int) -> int:
        """Index of a chunk in the sequence that is cut into lanes.

        The lane of the epoch's last position comes last in the sequence, as its rows may run out inside a chunk.
        """
        if self._seed is None:
            return position
        length, longer = divmod(self.num_chunks, self._lanes)  # the first `longer` lanes hold one chunk more
        before = (position - longer) % self._lanes  # number of lanes before this one: the shorter ones come first
        return before * length + max(0, before - (self._lanes - longer)) + position // self._lanes

    def _within(self, block: int) -> Sequence[int]:
        if self._seed is None:
            return range(self._block_rows[block])
        if block not in self._drawn:
            if len(self._drawn) > 2 * self._lanes:
                self._drawn.clear()  # redrawn when needed
            self._drawn[block] = permutation(self._block_rows[block], f"{self._seed} {self._epoch} {block}")
        return self._drawn[block]


def permutation(length: int, key: str) -> list[int]:
    """The numbers below `length`, in an order that depends only on the key, on any machine and Python version."""
    draw = random.Random(key)
    keys = [draw.random() for _ in range(length)]  # the only method whose sequence Python promises to keep
    return sorted(range(length), key=keys.__getitem__)
