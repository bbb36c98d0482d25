"""Texts that say nearly the same: MinHash finds the candidates, the true overlap of their word runs decides.

Broder, "On the resemblance and containment of documents", 1997. Memory: about 9 kB per text, nearly all of it the
entries of the bands (docs/decisions/0009-libraries.md).
"""

import hashlib
from collections import defaultdict

import numpy as np


RUN_WORDS = 3  # texts are compared as sets of runs of this many words
BANDS, ROWS = 32, 4  # of 128 hashes: texts that share half of their runs meet in a band in 87 of 100 cases, 0.7: 99.98
_PRIME = np.uint64((1 << 31) - 1)


class NearTextIndex:
    """Texts by their runs of words; asked for each text whether one before it says nearly the same.

    Args:
        least_overlap: Jaccard similarity of the sets of runs, 0 to 1.
    """

    def __init__(self, least_overlap: float) -> None:
        self._least = least_overlap
        draw = np.random.default_rng(0)  # the functions are part of the method: the same in every build
        self._factors = draw.integers(1, int(_PRIME), size=BANDS * ROWS, dtype=np.uint64)
        self._offsets = draw.integers(0, int(_PRIME), size=BANDS * ROWS, dtype=np.uint64)
        self._buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
        self._runs: dict[int, np.ndarray] = {}

    def find_or_add(self, key: int, text: str) -> int | None:
        """The key of an earlier text that says nearly the same; None where there is none, and this one is added."""
        runs = runs_of(text)
        if not len(runs):
            return None
        bands = self._bands(runs)
        candidates = sorted({other for band in bands for other in self._buckets.get(band, ())})
        for other in candidates:
            if overlap(self._runs[other], runs) >= self._least:
                return other
        self._runs[key] = runs
        for band in bands:
            self._buckets[band].append(key)
        return None

    def _bands(self, runs: np.ndarray) -> list[tuple[int, bytes]]:
        """The smallest value of each hash function over all runs, in bands."""
        values = (runs.astype(np.uint64)[:, None] * self._factors + self._offsets) % _PRIME  # (runs, 128)
        smallest = values.min(axis=0).astype(np.uint32).reshape(BANDS, ROWS)
        return [(index, band.tobytes()) for index, band in enumerate(smallest)]


def runs_of(text: str) -> np.ndarray:
    """Hashes of the distinct runs of a text's words, below 2^31, sorted; case and punctuation do not count."""
    words = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
    length = min(RUN_WORDS, len(words))
    runs = {" ".join(words[first : first + length]) for first in range(len(words) - length + 1)} if words else set()
    hashes = {int.from_bytes(hashlib.blake2b(run.encode(), digest_size=4).digest()) >> 1 for run in runs}
    return np.array(sorted(hashes), dtype=np.uint32)


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Jaccard similarity of two sets, given as sorted arrays: what both have, as a share of what either has."""
    both = len(np.intersect1d(first, second, assume_unique=True))
    return both / (len(first) + len(second) - both)
