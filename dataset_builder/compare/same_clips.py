"""Clips of different videos that show nearly the same: within a cluster of embeddings, all are compared.

Abbas et al., "SemDeDup", 2023: clusters keep the number of comparisons small.
"""

import numpy as np

from dataset_builder.compare.kept_clips import KeptClips
from dataset_builder.compare.kmeans import assign, fit_centres


CLUSTER_SIZE = 512  # clips of a cluster, on average


def find_same_clips(kept: KeptClips, order: np.ndarray, least_cosine: float, seed: int) -> dict[int, int]:
    """Rows that nearly equal another row, of another video, that stays.

    Args:
        kept: the clips.
        order: rank of every video; of two clips that are the same the one whose video ranks first stays.
        least_cosine: of the embeddings of clips that count as the same.
        seed: of the clusters.

    Returns:
        row that goes -> row that stays.
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
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)  # float16 has rounded them
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
