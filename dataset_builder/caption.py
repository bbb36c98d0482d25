"""Captioners that need no model: the toy world's truth, and what is said. caption_checkpoint.py runs a model."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from dataset_builder.errors import DamagedInput
from dataset_builder.inputs import SourceVideo


class Captions(NamedTuple):
    """What a captioner says about one clip."""

    caption: str
    """The clip's caption; empty where there is nothing to say."""
    frame_captions: tuple[str, ...] = ()
    """Captions of single frames it is made from, in time order."""


class Captioner(Protocol):
    """Writes a caption for every clip of a video."""

    def provenance(self) -> dict[str, Any]:
        """Tool, version and settings, without clock, host or path."""
        ...

    def __call__(
        self, source: SourceVideo, clips: Sequence[tuple[float, float]], speech: Sequence[str]
    ) -> list[Captions]:
        """Captions of the clips `(start_s, end_s)` with what is said in each.

        Raises:
            DamagedInput: where what it needs of the video cannot be read.
        """
        ...


@dataclass(frozen=True)
class SpeechCaptioner:
    """The caption is what is said in the clip."""

    def provenance(self) -> dict[str, Any]:
        """Tool and version."""
        return {"tool": "speech", "version": 1}

    def __call__(
        self, source: SourceVideo, clips: Sequence[tuple[float, float]], speech: Sequence[str]
    ) -> list[Captions]:
        """One caption per clip: its speech."""
        return [Captions(text) for text in speech]


@dataclass(frozen=True, kw_only=True)
class TruthCaptioner:
    """Reads the toy world's ground truth: a clip gets the caption of the step that it shows longest."""

    noise: float
    """Share of clips, 0 to 1, that get the caption of another step of the same video instead."""
    seed: int

    def provenance(self) -> dict[str, Any]:
        """Tool, version and noise."""
        return {"tool": "truth", "version": 1, "noise": self.noise, "seed": self.seed}

    def __call__(
        self, source: SourceVideo, clips: Sequence[tuple[float, float]], speech: Sequence[str]
    ) -> list[Captions]:
        """One caption per clip; the draws depend on seed and video alone, not on the order of the build."""
        steps = _read_steps(source)
        draw = random.Random(f"{self.seed} {source.split}/{source.video_id}")
        captions = []
        for start_s, end_s in clips:
            overlaps = [min(end_s, step["end_s"]) - max(start_s, step["start_s"]) for step in steps]
            best = max(range(len(steps)), key=overlaps.__getitem__)
            others = [step["caption"] for step in steps if step["caption"] != steps[best]["caption"]]
            replaced = draw.random() < self.noise and others
            captions.append(Captions(draw.choice(others) if replaced else steps[best]["caption"]))
        return captions


def _read_steps(source: SourceVideo) -> list[dict[str, Any]]:
    """The steps of a toy video, from the JSON beside it."""
    if source.truth is None:
        raise DamagedInput(f"no ground truth beside it ({source.path.stem}.json), which captioner: truth needs")
    try:
        steps = json.loads(source.truth.read_text(encoding="utf-8"))["steps"]
        checked = [{key: step[key] for key in ("start_s", "end_s", "caption")} for step in steps]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedInput(f"ground truth {source.truth.name} is not the toy world's ({error!r})") from error
    if not checked:
        raise DamagedInput(f"ground truth {source.truth.name} has no steps")
    return checked
