"""From clips to samples: a frame with its caption, a clip with its caption, neighbouring clips with all captions.

A sample is indices and text; `training.data.collate` adds pixels or features. Axes: B batch, M media, F frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.config import TrainingConfig
from training.data.clips import ClipTable
from training.data.sampling import EndlessShuffle, Indices


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Batch of samples before decoding and tokenising."""

    captions: list[list[str]]
    """Captions of each sample's media, in order."""
    clips: Indices
    """Clip of each medium, shape (B, M); -1 if a sample has fewer media."""
    frames: Indices
    """Which of a clip's decoded frames the model sees, shape (B, M, F)."""
    contrastive: bool
    """Whether these samples count in the contrastive loss."""

    def rows(self, block: slice) -> "Samples":
        """Return a slice of the samples."""
        return Samples(
            captions=self.captions[block],
            clips=self.clips[block],
            frames=self.frames[block],
            contrastive=self.contrastive,
        )


class Source:
    """One kind of sample from a table of clips; the n-th sample depends only on seed and n."""

    name: str

    def __init__(self, table: ClipTable, config: TrainingConfig) -> None:
        self.table = table
        self.num_frames, self.frame_choices = config.num_frames, config.frame_choices
        self.contrastive = config.contrastive(self.name)
        self.seed = [config.seed, SOURCE_TYPES.index(type(self))]
        items = self.num_items()
        if not items:
            raise ValueError(
                f"{table.name} has no samples for {self.name}: set {self.name}_weight=0 or bring more clips"
            )
        self.order = EndlessShuffle(items, *self.seed)

    def num_items(self) -> int:
        """Return the number of samples in one epoch."""
        return self.table.num_clips

    def draw(self, start: int, count: int) -> Samples:
        """Draw samples `start` to `start + count` (exclusive) of the endless shuffled sequence."""
        generator = np.random.default_rng([*self.seed, start, count])
        return self.build(self.order.take(start, count), generator)

    def build(self, items: Indices, generator: np.random.Generator) -> Samples:
        """Build the samples of these items; `generator` draws their frames and neighbours."""
        raise NotImplementedError

    def _pair(self, clips: Indices, frames: Indices) -> Samples:
        captions = [[self.table.captions[clip]] for clip in clips.tolist()]
        return Samples(captions=captions, clips=clips[:, None], frames=frames, contrastive=self.contrastive)

    def _frame_of_each_part(self, shape: Sequence[int], generator: np.random.Generator) -> Indices:
        """Draw one decoded frame from each of the F equal parts of a clip, shape (*shape, F)."""
        first = np.arange(self.num_frames) * self.frame_choices
        return first + generator.integers(self.frame_choices, size=(*shape, self.num_frames))


class FrameText(Source):
    """One random frame of a clip, with the clip's caption."""

    name = "frame_text"

    def build(self, items: Indices, generator: np.random.Generator) -> Samples:
        """Build samples with one medium of one frame; see `Source.build`."""
        frames = generator.integers(self.num_frames * self.frame_choices, size=(len(items), 1, 1))
        return self._pair(items, frames)


class ClipText(Source):
    """One clip with its caption."""

    name = "clip_text"

    def build(self, items: Indices, generator: np.random.Generator) -> Samples:
        """Build samples with one medium of F frames; see `Source.build`."""
        return self._pair(items, self._frame_of_each_part((len(items), 1), generator))


class Interleaved(Source):
    """Neighbouring kept clips of one video with all their captions; the first clip is random."""

    name = "interleaved"

    def __init__(self, table: ClipTable, config: TrainingConfig) -> None:
        self.most_clips = config.clips_per_document
        self.documents = [document for document in table.documents if len(document) >= 2]
        super().__init__(table, config)

    def num_items(self) -> int:
        """Return the number of videos with at least two clips."""
        return len(self.documents)

    def build(self, items: Indices, generator: np.random.Generator) -> Samples:
        """Build samples with a number of media drawn per batch; shorter videos leave slots empty."""
        num_media = int(generator.integers(2, self.most_clips + 1))
        clips = np.full((len(items), num_media), -1)
        for row, item in enumerate(items.tolist()):
            document = self.documents[item]
            start = generator.integers(max(1, len(document) - num_media + 1))
            chosen = document[start : start + num_media]
            clips[row, : len(chosen)] = chosen
        captions = [[self.table.captions[clip] for clip in row if clip >= 0] for row in clips.tolist()]
        frames = self._frame_of_each_part(clips.shape, generator)
        return Samples(captions=captions, clips=clips, frames=frames, contrastive=self.contrastive)


SOURCE_TYPES: tuple[type[Source], ...] = (FrameText, ClipText, Interleaved)


def build_sources(table: ClipTable, config: TrainingConfig) -> dict[str, Source]:
    """Return the sources with a weight above 0, by name.

    Raises:
        ValueError: if the table has no sample for one of them.
    """
    return {kind.name: kind(table, config) for kind in SOURCE_TYPES if config.weight(kind.name)}
