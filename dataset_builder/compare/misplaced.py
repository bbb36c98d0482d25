"""Find captions that belong to another clip, by linear assignment in a video's similarity matrix, as MMC4 does."""

from collections.abc import Sequence

import numpy as np


Matrix = Sequence[Sequence[float | None]]


def find_misplaced(matrix: Matrix, margin: float) -> dict[int, int]:
    """Captions that the best one-to-one matching of clips and captions assigns to another clip than their own.

    Args:
        matrix: cosine similarities, square, clips x captions; a column of None is an empty caption, which is ignored.
        margin: a caption counts only if it fits its new clip better than its own by at least this much: among clips
            that look alike, noise decides the matching.

    Returns:
        Index of the caption -> index of the clip that it belongs to.
    """
    written = [index for index, value in enumerate(matrix[0]) if value is not None] if matrix else []
    if len(written) < 2:
        return {}
    similarities = np.array([[row[index] for index in written] for row in matrix], dtype=np.float64)  # (C, W)
    from scipy.optimize import linear_sum_assignment  # takes half a second to import; reading a recipe needs none

    clips, columns = linear_sum_assignment(similarities, maximize=True)
    return {
        written[column]: int(clip)
        for clip, column in zip(clips, columns, strict=True)
        if clip != written[column] and similarities[clip, column] - similarities[written[column], column] >= margin
    }
