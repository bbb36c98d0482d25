"""What stages hand on: a video on its way to its record, with the arrays that never reach the corpus."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dataset_builder.errors import DamagedInput
from dataset_builder.inputs import SourceVideo
from dataset_builder.schema import Clip, InterleavedVideo


AT_VIDEO = "(at the video"  # begins the note on an error that ends a build


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A damaged file: one line of quarantine.jsonl."""

    path: str
    """Path below the input folder."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """What one pass over a video's sampled frames leaves; frame k lies at `k / rate_hz` seconds."""

    rate_hz: float
    embeddings: np.ndarray
    """float32, shape `(N, D)`, any norm."""
    brightness: np.ndarray
    """Mean grey level, 0 to 255, shape `(N,)`."""
    changes: np.ndarray
    """Mean absolute difference to the frame before, in grey levels, shape `(N,)`; the first is 0."""
    hashes: np.ndarray
    """Difference hash of every frame, uint64, shape `(N,)`."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A sentence that belongs to no clip, and why."""

    start_s: float
    end_s: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A video between two stages. A stage returns a changed copy; what it does not know it hands on."""

    source: SourceVideo
    record: InterleavedVideo
    """The record as far as it is; its clips come with the stage `segment`."""
    sampled: Sampled | None = None
    """Set by `segment`; forgotten when the video's stages are through, but for `frame_hashes`."""
    clip_embeddings: np.ndarray | None = None
    """Unit-length mean of the embeddings of each clip's frames, shape `(C, D)`; kept beside the record, float16."""
    frame_hashes: np.ndarray | None = None
    """`sampled.hashes`, kept beside the record for the stages that compare videos."""
    left_out: tuple[LeftOut, ...] = ()
    """Sentences that `speech` gave to no clip."""
    faults: tuple[Fault, ...] = ()
    """What is wrong with the video's files."""
    damaged: bool = False
    """The video cannot be read: no stage touches it any more and it gets no record."""

    @property
    def spans(self) -> list[tuple[float, float]]:
        """`(start_s, end_s)` of every clip."""
        return [(clip.start_s, clip.end_s) for clip in self.record.clips]

    def with_clips(self, clips: Iterable[Clip]) -> "Draft":
        """The same video with other clips."""
        return replace(self, record=replace(self.record, clips=tuple(clips)))

    def noted(self, stage: str, facts: dict[str, Any]) -> "Draft":
        """With what a stage says about itself added to the provenance of the record."""
        return replace(self, record=replace(self.record, provenance={**self.record.provenance, stage: facts}))

    def with_fault(self, path: Path, reason: str) -> "Draft":
        """With one more line for quarantine.jsonl, about a file in the folder of the video."""
        name = Path(self.source.name).with_name(path.name).as_posix()
        return replace(self, faults=(*self.faults, Fault(path=name, reason=reason)))

    def quarantined(self, reason: str) -> "Draft":
        """The video cannot be read, for this reason; nothing of it is kept but its faults."""
        return replace(self.with_fault(self.source.path, reason), damaged=True, sampled=None)


class Stage(Protocol):
    """A step of the pipeline: reads drafts one after the other and hands them on in the same order."""

    def __call__(self, drafts: Iterable[Draft]) -> Iterable[Draft]:
        """The same videos, further on."""
        ...


def each(drafts: Iterable[Draft], work: Callable[[Draft], Draft]) -> Iterator[Draft]:
    """Apply a function to every video that is not damaged; `DamagedInput` puts the video into quarantine.

    Any other error ends the build; a note tells at which video.
    """
    for draft in drafts:
        if draft.damaged:
            yield draft
            continue
        try:
            done = work(draft)
        except DamagedInput as error:
            done = draft.quarantined(str(error))
        except Exception as error:
            error.add_note(f"{AT_VIDEO} {draft.source.name})")
            raise
        yield done


def positive(settings: object, *names: str) -> None:
    """Refuse settings that are not above 0 (None is nothing to refuse).

    Raises:
        ValueError: naming the setting.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} is {value}; expected more than 0")


def share(settings: object, *names: str) -> None:
    """Refuse settings that are no share from 0 to 1 (None is nothing to refuse).

    Raises:
        ValueError: naming the setting.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; expected a share from 0 to 1")
