"""K-means over unit vectors, to group clips about the same thing. Small, in numpy; same seed, same result."""

from collections.abc import Iterator

import numpy as np


ROUNDS = 20
TRIALS = 6
SAMPLES_PER_CLUSTER = 256  # more rows hardly move the centres
BLOCK = 65536  # rows compared at once


def fit_centres(rows: np.ndarray, num_clusters: int, seed: int) -> np.ndarray:
    """Centres of clusters by cosine (spherical K-means), initialised by K-means++ and fitted on a sample of the rows.

    Args:
        rows: unit length, shape `(N, D)`, N >= 1, any float type.
        num_clusters: K; at most N centres are made.
        seed: of the sample and of the initial centres.

    Returns:
        float32, unit length, shape `(K, D)`.
    """
    draw = np.random.default_rng(seed)
    num_clusters = min(num_clusters, len(rows))
    size = min(len(rows), SAMPLES_PER_CLUSTER * num_clusters)
    sample = np.asarray(rows[np.sort(draw.choice(len(rows), size=size, replace=False))], dtype=np.float32)
    centres = sample[_spread(sample, num_clusters, draw)]
    for _ in range(ROUNDS):
        nearest = assign(sample, centres)
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, sample)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        moved = np.where(norms > 1e-6, sums / np.maximum(norms, 1e-6), centres)  # an empty cluster stays
        if np.allclose(moved, centres, atol=1e-6):
            break
        centres = moved
    return centres


def assign(rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Index of the nearest centre by cosine, int32, shape `(N,)`."""
    parts = [(rows[block].astype(np.float32) @ centres.T).argmax(axis=1) for block in _blocks(len(rows))]
    return np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, dtype=np.int32)


def _spread(rows: np.ndarray, num_clusters: int, draw: np.random.Generator) -> list[int]:
    """Greedy K-means++: of a few rows drawn in proportion to their squared distance, take the one that helps most."""
    chosen = [int(draw.integers(len(rows)))]
    distances = 2 - 2 * (rows @ rows[chosen[0]])
    while len(chosen) < num_clusters:
        weights = np.maximum(distances, 0).astype(np.float64)
        weights[chosen] = 0.0
        if weights.sum() == 0:  # all rows are the same
            weights = np.ones(len(rows))
            weights[chosen] = 0.0
        drawn = draw.choice(len(rows), size=TRIALS, p=weights / weights.sum())
        left = np.minimum(distances[:, None], 2 - 2 * (rows @ rows[drawn].T))  # (N, trials)
        best = int(left.sum(axis=0).argmin())
        chosen.append(int(drawn[best]))
        distances = left[:, best]
    return chosen


def _blocks(num_rows: int) -> Iterator[slice]:
    return (slice(first, first + BLOCK) for first in range(0, num_rows, BLOCK))
