"""Which source and which items each micro-batch takes: pure functions of the seed and the step.

Nothing here is drawn in sequence, so a resumed run needs no saved generator and no re-reading, and every process finds
its own rows of the same global batch.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


Indices = NDArray[np.int64]
GOLDEN = (5**0.5 - 1) / 2


def source_schedule(weights: Mapping[str, float], seed: int, num_micro_steps: int) -> list[str]:
    """Name of the source of each of the first `num_micro_steps` micro-batches.

    The fractional parts of `start + k * golden ratio` fill 0..1 more evenly than random numbers do, so that any
    stretch of n micro-batches holds each source's share to within a few batches.

    Args:
        weights: source -> relative share; sources at 0 never occur.
        seed: shifts the sequence.
        num_micro_steps: length of the schedule.
    """
    names = [name for name, weight in weights.items() if weight > 0]
    borders = np.cumsum([weights[name] for name in names])
    start = np.random.default_rng(seed).random()
    positions = (start + GOLDEN * np.arange(num_micro_steps)) % 1.0 * borders[-1]
    chosen = np.searchsorted(borders, positions, side="right").clip(max=len(names) - 1)
    return [names[index] for index in chosen]


class EndlessShuffle:
    """Items 0..num_items-1 in a new seeded order in every epoch, addressed by how many were drawn before.

    Args:
        num_items: at least 1.
        seed: any non-negative numbers; equal seeds give equal orders.
    """

    def __init__(self, num_items: int, *seed: int) -> None:
        if num_items < 1:
            raise ValueError("cannot shuffle an empty source")
        self._num_items, self._seed = num_items, seed
        self._orders: dict[int, Indices] = {}

    def take(self, start: int, count: int) -> Indices:
        """Items at positions `start` to `start + count` of the endless sequence."""
        positions = np.arange(start, start + count)
        epochs, offsets = np.divmod(positions, self._num_items)
        self._orders = {epoch: self._order(epoch) for epoch in np.unique(epochs).tolist()}
        return np.array([self._orders[epoch][offset] for epoch, offset in zip(epochs.tolist(), offsets, strict=True)])

    def _order(self, epoch: int) -> Indices:
        known = self._orders.get(epoch)
        return np.random.default_rng([*self._seed, epoch]).permutation(self._num_items) if known is None else known


def rows_of_rank(batch_size: int, rank: int) -> slice:
    """The rows of the global batch that one process computes: a contiguous block in rank order."""
    return slice(rank * batch_size, (rank + 1) * batch_size)
