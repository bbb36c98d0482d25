"""In which order an epoch hands out the rows of a corpus: a pure function of position, seed and epoch.

There is no shuffle buffer, so there is nothing in memory that a stopped run could lose. An epoch draws a permutation
of all blocks, and of the rows within each block. The long sequence of rows that this gives is cut into `lanes`,
stretches of equal length that are read side by side: position i of the epoch is the next row of lane i modulo `lanes`.
So neighbours in the epoch come from blocks far apart, and whoever reads every n-th position (n a divisor of `lanes`:
the ranks and their workers) reads a few lanes, alone and from front to back: every block is read once, but for those
on the border of two lanes.
"""

import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple


class Place(NamedTuple):
    """Where a row lies."""

    block: int
    """Number of the block, in corpus order."""
    row: int
    """Number of the row in its block."""


class EpochOrder:
    """The order of one epoch, in chunks of rows that stay together.

    Args:
        block_rows: number of rows in every block, in corpus order.
        seed: seed of all permutations; None hands out the rows in corpus order.
        epoch: every epoch has its own permutations.
        lanes: how many stretches are read side by side.
        chunk_rows: rows of one lane in sequence; the last chunk of the epoch may hold fewer.
    """

    def __init__(self, block_rows: Sequence[int], seed: int | None, epoch: int, lanes: int, chunk_rows: int) -> None:
        self._seed, self._epoch, self._lanes, self._chunk_rows = seed, epoch, lanes, chunk_rows
        self._blocks = permutation(len(block_rows), f"{seed} {epoch}") if seed is not None else range(len(block_rows))
        self._block_rows = block_rows
        self._starts = [0, *accumulate(block_rows[block] for block in self._blocks)]
        self._drawn: dict[int, list[int]] = {}
        self.num_rows = self._starts[-1]
        self.num_chunks = -(-self.num_rows // chunk_rows)

    def chunk(self, position: int) -> Iterator[Place]:
        """The rows of one chunk of the epoch, 0 <= position < num_chunks."""
        first = self._in_sequence(position) * self._chunk_rows
        for row in range(first, min(first + self._chunk_rows, self.num_rows)):
            index = bisect_right(self._starts, row) - 1  # bisect finds the last of equal starts: empty blocks pass
            block = self._blocks[index]
            yield Place(block, self._within(block)[row - self._starts[index]])

    def lane(self, position: int) -> int:
        """Which lane a chunk belongs to; all of them share one where rows come in corpus order."""
        return 0 if self._seed is None else position % self._lanes

    def _in_sequence(self, position: int) -> int:
        """Number of a chunk in the sequence that is cut into lanes.

        The lane of the epoch's last position lies last in the sequence, since there the rows may run out inside a
        chunk.
        """
        if self._seed is None:
            return position
        length, longer = divmod(self.num_chunks, self._lanes)  # the first `longer` lanes hold one chunk more
        before = (position - longer) % self._lanes  # lanes that lie before this one: the shorter ones come first
        return before * length + max(0, before - (self._lanes - longer)) + position // self._lanes

    def _within(self, block: int) -> Sequence[int]:
        if self._seed is None:
            return range(self._block_rows[block])
        if block not in self._drawn:
            if len(self._drawn) > 2 * self._lanes:
                self._drawn.clear()  # they are drawn again when needed
            self._drawn[block] = permutation(self._block_rows[block], f"{self._seed} {self._epoch} {block}")
        return self._drawn[block]


def permutation(length: int, key: str) -> list[int]:
    """The numbers below `length` in an order that depends on the key alone, on any machine and version."""
    draw = random.Random(key)
    keys = [draw.random() for _ in range(length)]  # the one method whose sequence Python promises to keep
    return sorted(range(length), key=keys.__getitem__)
