"""Find videos that show the same in another encoding, size or cut, by matching the difference hashes of their frames.

A frame's hash (segment.py) changes in few of its 64 bits when the video is encoded again, rescaled or brightened. Flat
frames (black, a title on white) have hardly any bits set and prove nothing; mirrored or heavily cropped copies are not
found. Memory: about 20 kB per video.
"""

from collections import Counter, defaultdict

import numpy as np


INDEXED_FRAMES = 64  # frames by which a video is looked up; then all frames are compared
COMMON = 1000  # a piece of a hash that more videos share proves nothing (a logo, a channel's opening)
LEAST_BITS = 6  # hashes with fewer bits set, or unset, belong to flat pictures
LEAST_FRAMES = 4  # videos with fewer usable frames cannot be compared
ROWS = 256  # frames of one video that are compared with all frames of another at once
BANDS = 4  # a hash is looked up by its four pieces of 16 bits: three changed bits leave one piece intact


class SameVideoIndex:
    """Index of videos by their frames, which finds out whether an earlier video shows the same.

    Args:
        least_share: share of the shorter video's usable frames that have to match, 0 to 1.
        max_bits: frames match if at most this many of the 64 bits differ.
    """

    def __init__(self, least_share: float, max_bits: int) -> None:
        self._least_share, self._max_bits = least_share, max_bits
        self._buckets: dict[int, list[int]] = defaultdict(list)
        self._hashes: dict[int, np.ndarray] = {}

    def find_or_add(self, key: int, hashes: np.ndarray) -> int | None:
        """The key of an earlier video that shows the same; if there is none, add this video and return None.

        Args:
            key: identifies this video.
            hashes: uint64, one per sampled frame, at the same rate for all videos, shape `(N,)`.
        """
        telling = _tells(hashes)
        if telling.sum() < LEAST_FRAMES:
            return None
        pieces = _pieces(hashes[telling])
        votes: Counter[int] = Counter()
        for piece in pieces:
            bucket = self._buckets.get(piece, ())
            if len(bucket) <= COMMON:
                votes.update(bucket)
        for other, _ in sorted(votes.items(), key=lambda item: (-item[1], item[0]))[:20]:
            if self._match(self._hashes[other], hashes) >= self._least_share:
                return other
        self._hashes[key] = hashes
        for piece in pieces:
            self._buckets[piece].append(key)
        return None

    def _match(self, first: np.ndarray, second: np.ndarray) -> float:
        """Share of the shorter video's usable frames that match, at the time shift with the most matches."""
        tells = (_tells(first), _tells(second))
        shifts = np.zeros(len(first) + len(second), dtype=np.int64)
        for start in range(0, len(first), ROWS):  # all pairs of two long videos at once would take gigabytes
            block = slice(start, start + ROWS)
            alike = self._alike(first[block, None], second) & tells[0][block, None] & tells[1]  # (ROWS, M)
            rows, columns = np.nonzero(alike)
            shifts += np.bincount(columns - rows - start + len(first), minlength=len(shifts))
        near = np.convolve(shifts, np.ones(3, dtype=int))  # allow one frame of difference, as rates round differently
        best = int(near.argmax()) - 1 - len(first)
        matched = np.zeros(len(first), dtype=bool)
        for shift in (best - 1, best, best + 1):
            rows = np.arange(max(0, -shift), min(len(first), len(second) - shift))
            columns = rows + shift
            matched[rows] |= self._alike(first[rows], second[columns]) & tells[0][rows] & tells[1][columns]
        return int(matched.sum()) / max(1, min(int(tells[0].sum()), int(tells[1].sum())))

    def _alike(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Whether few enough bits differ."""
        return np.bitwise_count(first ^ second) <= self._max_bits


def _tells(hashes: np.ndarray) -> np.ndarray:
    """Whether each frame's hash has enough bits to be usable."""
    bits = np.bitwise_count(hashes)
    return (bits >= LEAST_BITS) & (bits <= 64 - LEAST_BITS)


def _pieces(hashes: np.ndarray) -> list[int]:
    """The distinct pieces of evenly chosen frames, each marked with its position in the hash."""
    chosen = hashes[np.unique(np.linspace(0, len(hashes) - 1, INDEXED_FRAMES).round().astype(int))]
    bands = [((chosen >> np.uint64(16 * band)) & np.uint64(0xFFFF)) | np.uint64(band << 16) for band in range(BANDS)]
    return np.unique(np.concatenate(bands)).tolist()
