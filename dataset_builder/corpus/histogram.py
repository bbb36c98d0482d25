"""Histograms: counts over even bins with round borders."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


NUM_BINS = 12
BAR_WIDTH = 40


@dataclass(frozen=True)
class Bin:
    """Number of values in a range."""

    label: str
    count: int


def histogram(values: Sequence[float], num_bins: int = NUM_BINS) -> list[Bin]:
    """Count values, none below 0, over at most `num_bins` bins.

    If the largest hundredth of the values is far out, the last bin is open and holds them, so that a few long videos
    do not push all others into the first bin.
    """
    if not values:
        return []
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    common = ordered[(99 * (len(ordered) - 1)) // 100]
    if high > 2 * common > 2 * low:
        high = common
    whole = all(value == int(value) for value in values)
    step = _round_step((high - low) / num_bins, whole=whole)
    first = math.floor(low / step)
    last = min(max(math.floor(high / step), first), first + num_bins - 1)
    counts = [0] * (last - first + 1)
    for value in values:
        counts[min(math.floor(value / step), last) - first] += 1
    labels = [_label(first + index, step, whole=whole) for index in range(len(counts))]
    if ordered[-1] >= (last + 1) * step:
        labels[-1] = labels[-1].split("-")[0] + "+"
    return [Bin(label, count) for label, count in zip(labels, counts, strict=True)]


def bars(bins: Sequence[Bin]) -> list[str]:
    """The histogram as lines of text."""
    most = max((item.count for item in bins), default=0)
    width = max((len(item.label) for item in bins), default=0)
    return [
        f"{item.label:>{width}}  {'█' * math.ceil(BAR_WIDTH * item.count / most) if item.count else '':<{BAR_WIDTH}}"
        f"  {item.count}"
        for item in bins
    ]


def _round_step(step: float, *, whole: bool) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below a step (at least 1 for whole values)."""
    if step <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    found = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))
    return max(found, 1.0) if whole else found


def _label(index: int, step: float, *, whole: bool) -> str:
    """`2-4` for values from 2 to below 4; for whole values `2-3`, or `2` if the bin holds only one value."""
    digits = max(0, -math.floor(math.log10(step)))
    start, end = index * step, (index + 1) * step - whole
    return f"{start:.{digits}f}" if whole and step == 1 else f"{start:.{digits}f}-{end:.{digits}f}"
