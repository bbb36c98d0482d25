"""Sources and items of each micro-batch, as pure functions of the seed and the step.

Nothing here is drawn in sequence. So a resumed run needs no saved generator and reads nothing again, and every process
finds its own rows of the same global batch.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


Indices = NDArray[np.int64]
GOLDEN = (5**0.5 - 1) / 2


def source_schedule(weights: Mapping[str, float], seed: int, num_micro_steps: int) -> list[str]:
    """Return the source of each of the first `num_micro_steps` micro-batches.

    The fractional parts of `start + k * golden ratio` fill 0..1 more evenly than random numbers. So in any n
    consecutive micro-batches, each source has its share to within a few batches.

    Args:
        weights: source -> relative share; a source with share 0 never occurs.
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
    """Items 0..num_items-1 in a new seeded order per epoch, addressed by the number of items drawn before.

    Args:
        num_items: at least 1.
        seed: non-negative numbers; equal seeds give equal orders.
    """

    def __init__(self, num_items: int, *seed: int) -> None:
        if num_items < 1:
            raise ValueError("cannot shuffle an empty source")
        self._num_items, self._seed = num_items, seed
        self._orders: dict[int, Indices] = {}

    def take(self, start: int, count: int) -> Indices:
        """Return the items at positions `start` to `start + count` (exclusive) of the endless sequence."""
        positions = np.arange(start, start + count)
        epochs, offsets = np.divmod(positions, self._num_items)
        self._orders = {epoch: self._order(epoch) for epoch in np.unique(epochs).tolist()}
        return np.array([self._orders[epoch][offset] for epoch, offset in zip(epochs.tolist(), offsets, strict=True)])

    def _order(self, epoch: int) -> Indices:
        known = self._orders.get(epoch)
        return np.random.default_rng([*self._seed, epoch]).permutation(self._num_items) if known is None else known


def rows_of_rank(batch_size: int, rank: int) -> slice:
    """Return the rows of the global batch that one process computes: a contiguous block, in rank order."""
    return slice(rank * batch_size, (rank + 1) * batch_size)
