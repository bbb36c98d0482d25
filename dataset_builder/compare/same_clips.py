"""Find clips of different videos that show nearly the same, by comparing all pairs within a cluster of embeddings.

The clusters keep the number of comparisons small: Abbas et al., "SemDeDup", 2023.
"""

import numpy as np

from dataset_builder.compare.kept_clips import KeptClips
from dataset_builder.compare.kmeans import assign, fit_centres


CLUSTER_SIZE = 512  # clips in a cluster, on average


def find_same_clips(kept: KeptClips, order: np.ndarray, least_cosine: float, seed: int) -> dict[int, int]:
    """Rows that nearly equal a row of another video, which stays.

    Args:
        kept: the clips.
        order: rank of every video; of two matching clips, the one whose video ranks first stays.
        least_cosine: clips match if their embeddings have at least this cosine.
        seed: of the clusters.

    Returns:
        row that is dropped -> row that stays.
    """
    if not len(kept.clips):
        return {}
    centres = fit_centres(kept.embeddings, max(1, len(kept.clips) // CLUSTER_SIZE), seed)
    clusters = assign(kept.embeddings, centres)
    ranks = order[kept.videos]
    copies: dict[int, int] = {}
    for cluster in range(len(centres)):
        members = np.flatnonzero(clusters == cluster)
        members = members[np.lexsort((kept.clips[members], ranks[members]))]
        rows = kept.embeddings[members].astype(np.float32)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)  # undoes the rounding of float16
        gone = np.zeros(len(members), dtype=bool)
        for place in range(len(members)):
            if gone[place]:
                continue
            later = slice(place + 1, None)
            same = rows[later] @ rows[place] >= least_cosine
            same &= (kept.videos[members[later]] != kept.videos[members[place]]) & ~gone[later]
            for copy in members[later][same]:
                copies[int(copy)] = int(members[place])
            gone[later] |= same
    return copies
