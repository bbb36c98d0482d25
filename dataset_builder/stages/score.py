"""The stage `score`: how well clips and captions match, by the cosine of their embeddings under a CLIP-type tower.

The full matrix of a video, clips x captions, stays in its record, as in MMC4, so that training can choose other pairs
or another threshold. The stage marks nothing; `filter` does (its `min_similarity` and `misplaced_margin`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dataset_builder.draft import Draft, each, positive
from dataset_builder.stages.segment import SegmentSettings
from dataset_builder.video.clip_frames import clip_frames


DECIMALS = 6  # more than float32 can resolve


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """The tower that compares clips with captions."""

    tower: str | None = None
    """Folder or id of a CLIP- or SigLIP-type model with both halves (`toy` is the shipped one); null: segment's tower,
    whose embeddings of the sampled frames are reused."""
    frames_per_clip: int = 3
    """With a tower other than segment's: how many frames of each clip are decoded for it."""

    def __post_init__(self) -> None:
        positive(self, "frames_per_clip")


class ScoreStage:
    """Fills in the clips' `similarity` and the record's `similarity_matrix`."""

    def __init__(self, settings: ScoreSettings, segment: SegmentSettings) -> None:
        tower = settings.tower or segment.tower
        assert tower is not None  # the recipe refuses it
        from dataset_builder.models.embed import (
            load_tower,
        )  # torch and transformers take seconds; reading a recipe needs none
        from dataset_builder.models.embed_text import TextEmbedder

        self.settings, self.shares_frames = settings, tower == segment.tower
        self.embedder = load_tower(tower)
        self.embed_texts = TextEmbedder(self.embedder)

    def provenance(self) -> dict[str, Any]:
        """Tool, version, weights, and whether the frames come from `segment`."""
        frames = "segment" if self.shares_frames else self.settings.frames_per_clip
        return {"tool": "cosine", "version": 1, "frames": frames, "embeddings": self.embedder.provenance()}

    def __call__(self, drafts: Iterable[Draft]) -> Iterator[Draft]:
        """Videos with their scores."""
        return each(drafts, self._score)

    def _score(self, draft: Draft) -> Draft:
        clips = draft.record.clips
        matrix = self._similarities(draft, [clip.caption for clip in clips])
        scored = [
            replace(clip, similarity=None if row[index] is None else row[index])
            for index, (clip, row) in enumerate(zip(clips, matrix, strict=True))
        ]
        record = replace(draft.record, clips=tuple(scored), similarity_matrix=matrix)
        return replace(draft, record=record).noted("score", self.provenance())

    def _similarities(self, draft: Draft, captions: Sequence[str]) -> tuple[tuple[float | None, ...], ...]:
        """Cosine of every clip with every caption; None for empty captions."""
        written = [index for index, caption in enumerate(captions) if caption.strip()]
        matrix: list[list[float | None]] = [[None] * len(captions) for _ in draft.record.clips]
        if written:
            texts = self.embed_texts([captions[index] for index in written])  # (W, D)
            cosines = self._clip_embeddings(draft) @ texts.T  # (C, W)
            for row, values in zip(matrix, cosines, strict=True):
                for index, value in zip(written, values, strict=True):
                    row[index] = round(float(value), DECIMALS)
        return tuple(map(tuple, matrix))

    def _clip_embeddings(self, draft: Draft) -> np.ndarray:
        """Unit-length mean of the unit embeddings of each clip's frames, `(C, D)`."""
        if self.shares_frames:
            assert draft.clip_embeddings is not None  # `segment` has run
            return draft.clip_embeddings
        means = []
        for frames in clip_frames(draft.source.path, draft.spans, self.settings.frames_per_clip, self.embedder.fit):
            embeds = self.embedder(frames.reshape(-1, *frames.shape[2:])).reshape(*frames.shape[:2], -1)  # (n, F, D)
            means.append(unit(unit(embeds).mean(axis=1)))
        return np.concatenate(means)


def unit(rows: np.ndarray) -> np.ndarray:
    """Scale vectors along the last axis to length 1."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
