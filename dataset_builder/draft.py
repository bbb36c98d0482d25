"""The draft: a video between two stages, with the arrays that never reach the corpus."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dataset_builder.errors import DamagedInput
from dataset_builder.inputs import SourceVideo
from dataset_builder.schema import Clip, InterleavedVideo


AT_VIDEO = "(at the video"  # start of the note that is added to an error that ends a build


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A damaged file: one line of quarantine.jsonl."""

    path: str
    """Path below the input folder."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Results of a pass over sampled frames; frame k represents the `1 / rate_hz` seconds from `k / rate_hz` on."""

    rate_hz: float
    embeddings: np.ndarray
    """float32, shape `(N, D)`, any norm."""
    brightness: np.ndarray
    """Mean grey level, 0 to 255, shape `(N,)`."""
    changes: np.ndarray
    """Mean absolute difference from the previous frame, in grey levels, shape `(N,)`; the first is 0."""
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
    """A video between two stages. A stage returns a changed copy and keeps the fields that it does not use."""

    source: SourceVideo
    record: InterleavedVideo
    """The record so far; the stage `segment` adds its clips."""
    sampled: Sampled | None = None
    """Set by `segment`; dropped after the video's last stage, except for the hashes (`frame_hashes`)."""
    clip_embeddings: np.ndarray | None = None
    """Unit-length mean of the embeddings of each clip's frames, shape `(C, D)`; saved with the record, as float16."""
    frame_hashes: np.ndarray | None = None
    """`sampled.hashes`, saved with the record for the stages that compare videos."""
    left_out: tuple[LeftOut, ...] = ()
    """Sentences that `speech` assigned to no clip."""
    faults: tuple[Fault, ...] = ()
    """Problems with the video's files."""
    damaged: bool = False
    """The video cannot be read: later stages skip it, and it gets no record."""

    @property
    def spans(self) -> list[tuple[float, float]]:
        """`(start_s, end_s)` of every clip."""
        return [(clip.start_s, clip.end_s) for clip in self.record.clips]

    def with_clips(self, clips: Iterable[Clip]) -> "Draft":
        """The same video with other clips."""
        return replace(self, record=replace(self.record, clips=tuple(clips)))

    def noted(self, stage: str, facts: dict[str, Any]) -> "Draft":
        """The same video with a stage's facts added to the provenance of its record."""
        return replace(self, record=replace(self.record, provenance={**self.record.provenance, stage: facts}))

    def with_fault(self, path: Path, reason: str) -> "Draft":
        """The same video with one more line for quarantine.jsonl, about a file in the video's folder."""
        name = Path(self.source.name).with_name(path.name).as_posix()
        return replace(self, faults=(*self.faults, Fault(path=name, reason=reason)))

    def quarantined(self, reason: str) -> "Draft":
        """The same video, marked as unreadable for this reason; only its faults will be kept."""
        return replace(self.with_fault(self.source.path, reason), damaged=True, sampled=None)


class Stage(Protocol):
    """A step of the pipeline: reads drafts one by one and yields them in the same order."""

    def __call__(self, drafts: Iterable[Draft]) -> Iterable[Draft]:
        """The same videos after this step."""
        ...


def each(drafts: Iterable[Draft], work: Callable[[Draft], Draft]) -> Iterator[Draft]:
    """Apply a function to every video that is not damaged; `DamagedInput` quarantines the video.

    Any other error ends the build, with a note that names the video.
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
    """Refuse settings that are not above 0; None passes.

    Raises:
        ValueError: naming the setting.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} is {value}; expected more than 0")


def share(settings: object, *names: str) -> None:
    """Refuse settings that are not a share from 0 to 1; None passes.

    Raises:
        ValueError: naming the setting.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; expected a share from 0 to 1")
