"""Kernel temporal segmentation (KTS): find where a sequence of embeddings changes.

Potapov et al., "Category-specific video summarization", ECCV 2014, section 3: choose borders so that the embeddings
within a segment scatter as little as possible, and as many segments as the penalty allows. The kernel is the cosine.
Shape letters: N sampled frames, D embedding width, L the most frames a segment may have, S segments.
"""

import numpy as np


BLOCK = 256  # segment ends whose scatters are computed at once


def kts(
    embeddings: np.ndarray, max_segments: int, penalty: float, min_frames: int = 1, max_frames: int | None = None
) -> list[int]:
    """Indices of the frames that begin a new segment (without the 0 of the first segment).

    The number of segments m is the one with the least `scatter(m) / N + penalty_term(m)`.

    Args:
        embeddings: shape `(N, D)`, N >= 1.
        max_segments: the most segments to consider (more if `max_frames` requires it).
        penalty: weight of the term that grows with m.
        min_frames: the shortest segment; a shorter video is one segment.
        max_frames: the longest segment; at least `2 * min_frames - 1`, so that every N can be filled.
    """
    num_frames = len(embeddings)
    longest = min(max_frames or num_frames, num_frames)
    shortest = min(min_frames, num_frames)
    max_segments = min(max(max_segments, -(-num_frames // longest)), max(1, num_frames // shortest))
    costs, borders = best_scatters(scatters(embeddings, longest), max_segments, shortest)
    counts = np.arange(1, max_segments + 1)
    total = costs / num_frames + penalty * counts / (2 * num_frames) * (np.log(num_frames / counts) + 1)
    return borders_of(borders, int(total.argmin()) + 1)


def scatters(embeddings: np.ndarray, longest: int) -> np.ndarray:
    """Sum of squared distances to the segment's mean, for each segment of up to `longest` frames.

    Returns:
        float64, shape `(N + 1, L)`: entry `[end, k]` is the scatter of the `k + 1` frames before frame `end`, infinite
        if there are fewer.
    """
    unit = np.asarray(embeddings, dtype=np.float64)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)  # (N, D)
    num_frames = len(unit)
    sums = np.concatenate([np.zeros((1, unit.shape[1])), unit.cumsum(axis=0)])  # (N + 1, D): prefix sums
    squares = np.concatenate([[0.0], (unit**2).sum(axis=1).cumsum()])  # (N + 1,)
    norms = (sums**2).sum(axis=1)  # (N + 1,)
    lengths = np.arange(1, longest + 1)
    result = np.full((num_frames + 1, longest), np.inf)
    for first in range(1, num_frames + 1, BLOCK):
        ends = np.arange(first, min(first + BLOCK, num_frames + 1))
        low = max(0, first - longest)
        products = sums[ends] @ sums[low : ends[-1]].T  # (ends, starts)
        starts = ends[:, None] - lengths  # (ends, L)
        picked = np.clip(starts, 0, None)
        between = (
            norms[ends, None] + norms[picked] - 2 * np.take_along_axis(products, np.clip(starts - low, 0, None), 1)
        )
        scatter = squares[ends, None] - squares[picked] - between / lengths  # sum |x|^2 - |sum x|^2 / length
        result[ends] = np.where(starts >= 0, np.maximum(scatter, 0.0), np.inf)
    return result


def best_scatters(scatter: np.ndarray, max_segments: int, shortest: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Least total scatter for each number of segments, by dynamic programming over the end of the last segment.

    Args:
        scatter: output of `scatters`, shape `(N + 1, L)`.
        max_segments: S.
        shortest: fewest frames in a segment.

    Returns:
        `costs` of shape `(S,)`, infinite if that many segments do not fit, and `lengths` of shape `(S, N + 1)`:
        length of the last of m + 1 segments that end before frame n.
    """
    num_ends, longest = scatter.shape
    scatter = np.where(np.arange(1, longest + 1) < shortest, np.inf, scatter)
    best = np.full(num_ends, np.inf)
    best[0] = 0.0
    costs, lengths = np.empty(max_segments), np.zeros((max_segments, num_ends), dtype=np.int32)
    for count in range(max_segments):
        padded = np.concatenate([np.full(longest, np.inf), best])
        before = np.lib.stride_tricks.sliding_window_view(padded, longest)[
            :num_ends, ::-1
        ]  # [end, k]: best[end - 1 - k]
        totals = before + scatter  # (N + 1, L)
        chosen = totals.argmin(axis=1)
        best = totals[np.arange(num_ends), chosen]
        lengths[count], costs[count] = chosen + 1, best[-1]
    return costs, lengths


def borders_of(lengths: np.ndarray, num_segments: int) -> list[int]:
    """Trace the dynamic programme back from the last frame to where each segment but the first begins."""
    end, borders = lengths.shape[1] - 1, []
    for count in range(num_segments - 1, 0, -1):
        end -= int(lengths[count, end])
        borders.append(end)
    return borders[::-1]
