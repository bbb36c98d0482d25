"""The stage `select`: keep less data with the same variety. Clips are clustered by what they show, and drawn evenly.

This is how the paper uses only 72 % of the data: K-means over embeddings, then the same number from each cluster, so
that scenes shown a thousand times give way to those shown once.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from dataset_builder.compare.kept_clips import drop_clips, read_kept_clips
from dataset_builder.compare.kmeans import assign, fit_centres
from dataset_builder.compare.marks import Drafts
from dataset_builder.draft import positive


REASON = "not selected"


@dataclass(frozen=True, kw_only=True)
class SelectSettings:
    """How many clips are kept, and how finely they are clustered. The others stay in the corpus, with a reason."""

    share: float
    """Share to keep of the clips that are still kept, above 0 and up to 1."""
    num_clusters: int = 256
    """K of K-means over the clips' embeddings."""

    def __post_init__(self) -> None:
        positive(self, "share", "num_clusters")
        if self.share > 1:
            raise ValueError(f"share is {self.share}; expected a share up to 1")


class SelectStage:
    """Draws clips evenly over the clusters of the whole corpus."""

    def __init__(self, settings: SelectSettings, seed: int) -> None:
        self.settings, self.seed = settings, seed

    def __call__(self, drafts: Drafts) -> Drafts:
        """The same videos, with `keep: false` for clips that were not drawn."""
        kept = read_kept_clips(drafts)
        if not len(kept.clips):
            return drafts
        centres = fit_centres(kept.embeddings, self.settings.num_clusters, self.seed)
        clusters = assign(kept.embeddings, centres)
        chosen = draw_evenly(clusters, round(self.settings.share * len(clusters)), self.seed)
        reasons: dict[int, dict[int, str]] = defaultdict(dict)
        for row in np.flatnonzero(~chosen):
            reasons[int(kept.videos[row])][int(kept.clips[row])] = REASON
        return drop_clips(drafts, reasons)


def draw_evenly(clusters: np.ndarray, num_wanted: int, seed: int) -> np.ndarray:
    """Draw equally many rows from every cluster; a cluster with fewer rows gives all of them.

    Args:
        clusters: cluster of every row, shape `(N,)`.
        num_wanted: how many rows to draw, at most N.
        seed: of the draws.

    Returns:
        True for the rows drawn, shape `(N,)`.
    """
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(clusters))
    by_cluster = order[np.argsort(clusters[order], kind="stable")]  # in drawn order within a cluster
    sizes = np.bincount(clusters)
    starts = np.cumsum(sizes) - sizes
    rank = np.empty(len(clusters), dtype=np.int64)  # a row's position within its cluster
    rank[by_cluster] = np.arange(len(clusters)) - np.repeat(starts, sizes)
    tie = np.empty(len(clusters), dtype=np.int64)
    tie[order] = np.arange(len(clusters))
    chosen = np.zeros(len(clusters), dtype=bool)
    chosen[np.lexsort((tie, rank))[:num_wanted]] = True  # one from each cluster, then a second from each, ...
    return chosen
