"""Captions that belong to another clip, found in a video's similarity matrix by linear assignment, as MMC4 does."""

from collections.abc import Sequence

import numpy as np


Matrix = Sequence[Sequence[float | None]]


def find_misplaced(matrix: Matrix, margin: float) -> dict[int, int]:
    """Captions that the best one-to-one matching of clips and captions gives to another clip than their own.

    Args:
        matrix: cosine similarities, square, clips x captions; None below an empty caption, which takes no part.
        margin: a caption counts only if it fits its new clip by at least this much better than its own: among clips
            that look alike the matching is decided by noise.

    Returns:
        Index of the caption -> index of the clip that it belongs to.
    """
    written = [index for index, value in enumerate(matrix[0]) if value is not None] if matrix else []
    if len(written) < 2:
        return {}
    similarities = np.array([[row[index] for index in written] for row in matrix], dtype=np.float64)  # (C, W)
    from scipy.optimize import linear_sum_assignment  # half a second that reading a recipe does not need

    clips, columns = linear_sum_assignment(similarities, maximize=True)
    return {
        written[column]: int(clip)
        for clip, column in zip(clips, columns, strict=True)
        if clip != written[column] and similarities[clip, column] - similarities[written[column], column] >= margin
    }
