"""The stage `caption`: captions from the toy world's truth, from the speech, or from a model that sees one frame."""

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from dataset_builder.draft import Draft, each, positive
from dataset_builder.errors import DamagedInput
from dataset_builder.inputs import SourceVideo
from dataset_builder.stages.look import LookSettings, LookStage
from dataset_builder.video.clip_frames import clip_frames


CAPTIONERS = ("truth", "speech", "checkpoint")


@dataclass(frozen=True, kw_only=True)
class CaptionSettings:
    """The source of the captions."""

    captioner: str
    """`truth` reads the toy world's JSON, `speech` repeats the speech, `checkpoint` runs a model."""
    noise: float = 0.0
    """truth: share of captions, 0 to 1, that are replaced by the caption of another step."""
    checkpoint: str | None = None
    """checkpoint: folder or id of a transformers image-to-text or image-text-to-text model."""
    prompt: str = ""
    """checkpoint: the question for the model, if it takes text."""
    max_new_tokens: int = 40
    """checkpoint: the longest caption, in tokens."""

    def __post_init__(self) -> None:
        if self.captioner not in CAPTIONERS:
            raise ValueError(f"captioner is {self.captioner!r}; expected one of {', '.join(CAPTIONERS)}")
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise is {self.noise}; expected a share from 0 to 1")
        if self.noise and self.captioner != "truth":
            raise ValueError(f"noise is for captioner: truth, not for captioner: {self.captioner}")
        if (self.checkpoint is not None) != (self.captioner == "checkpoint"):
            raise ValueError(f"captioner: {self.captioner} with checkpoint: {self.checkpoint} contradict each other")
        if self.prompt and self.captioner != "checkpoint":
            raise ValueError(f"prompt is for captioner: checkpoint, not for captioner: {self.captioner}")
        positive(self, "max_new_tokens")


class CaptionStage:
    """Adds a caption to every clip."""

    def __init__(self, settings: CaptionSettings, seed: int) -> None:
        self.captioner = make_captioner(settings, seed)

    def __call__(self, drafts: Iterable[Draft]) -> Iterator[Draft]:
        """Videos whose clips have captions, perhaps empty; drop clips for which a model has no usable caption."""
        return each(drafts, self._caption)

    def _caption(self, draft: Draft) -> Draft:
        said = [clip.asr for clip in draft.record.clips]
        clips = [
            replace(
                clip,
                caption=written.caption,
                frame_captions=written.frame_captions or clip.frame_captions,
                keep=clip.keep and not written.fault,
                drop_reason=clip.drop_reason or (f"no usable caption: {written.fault}" if written.fault else ""),
            )
            for clip, written in zip(draft.record.clips, self.captioner(draft.source, draft.spans, said), strict=True)
        ]
        return draft.with_clips(clips).noted("caption", self.captioner.provenance())


class Captions(NamedTuple):
    """A captioner's output for one clip."""

    caption: str
    """The clip's caption; empty if there is nothing to say."""
    frame_captions: tuple[str, ...] = ()
    """Captions of the single frames that it is made from, in time order."""
    fault: str = ""
    """Why a model has no usable caption for the clip, which is then dropped."""


class Captioner(Protocol):
    """Writes a caption for every clip of a video."""

    def provenance(self) -> dict[str, Any]:
        """Tool, version and settings, without clock, host or path."""
        ...

    def __call__(
        self, source: SourceVideo, clips: Sequence[tuple[float, float]], speech: Sequence[str]
    ) -> list[Captions]:
        """Captions of the clips `(start_s, end_s)`, given the speech of each.

        Raises:
            DamagedInput: if the parts of the video that it needs cannot be read.
        """
        ...


@dataclass(frozen=True)
class SpeechCaptioner:
    """Uses the speech of a clip as its caption."""

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
    """Reads the toy world's ground truth: each clip gets the caption of the step that it shows longest."""

    noise: float
    """Share of clips, 0 to 1, that get the caption of another step of the same video instead."""
    seed: int

    def provenance(self) -> dict[str, Any]:
        """Tool, version and noise."""
        return {"tool": "truth", "version": 1, "noise": self.noise, "seed": self.seed}

    def __call__(
        self, source: SourceVideo, clips: Sequence[tuple[float, float]], speech: Sequence[str]
    ) -> list[Captions]:
        """One caption per clip; random draws depend only on the seed and the video, not on the order of the build."""
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


class CheckpointCaptioner:
    """Captions the middle frame of every clip, greedily, with a transformers checkpoint.

    Like the stage `look` (look.py), it asks once more after nonsense or a timeout, then drops the clip.

    Args:
        checkpoint: folder or repository of the model with its processor (or tokenizer and picture processor).
        prompt: the question for the model, through its chat template if it has one.
        max_new_tokens: the longest caption.

    Raises:
        ValueError: if the checkpoint cannot be loaded.
    """

    def __init__(self, checkpoint: str, prompt: str, max_new_tokens: int) -> None:
        self._look = LookStage(LookSettings(checkpoint=checkpoint, prompt=prompt, max_new_tokens=max_new_tokens))

    def provenance(self) -> dict[str, Any]:
        """Tool, version, weights, prompt and limits."""
        settings = self._look.settings
        keys = ("prompt", "max_new_tokens", "max_words")
        return self._look.captioner.provenance() | {key: getattr(settings, key) for key in keys}

    def __call__(
        self, source: SourceVideo, clips: Sequence[tuple[float, float]], speech: Sequence[str]
    ) -> list[Captions]:
        """One caption per clip, of its middle frame, or why there is none."""
        captions: list[Captions] = []
        for frames in clip_frames(source.path, clips, frames_per_clip=1):
            answers = self._look.captions(frames[:, 0])
            captions += [Captions(said, (said,) if said else (), fault or "") for said, fault in answers]
        return captions


def make_captioner(settings: CaptionSettings, seed: int) -> Captioner:
    """The captioner that a recipe names."""
    if settings.captioner == "truth":
        return TruthCaptioner(noise=settings.noise, seed=seed)
    if settings.captioner == "speech":
        return SpeechCaptioner()
    assert settings.checkpoint is not None  # the recipe refuses captioner: checkpoint without one
    return CheckpointCaptioner(settings.checkpoint, settings.prompt, settings.max_new_tokens)


def _read_steps(source: SourceVideo) -> list[dict[str, Any]]:
    """The steps of a toy video, from the JSON file next to it."""
    if source.truth is None:
        raise DamagedInput(f"no ground truth next to it ({source.path.stem}.json), which captioner: truth needs")
    try:
        steps = json.loads(source.truth.read_text(encoding="utf-8"))["steps"]
        checked = [
            {"start_s": float(step["start_s"]), "end_s": float(step["end_s"]), "caption": str(step["caption"])}
            for step in steps
        ]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DamagedInput(f"ground truth {source.truth.name} is not the toy world's ({error!r})") from error
    if not checked:
        raise DamagedInput(f"ground truth {source.truth.name} has no steps")
    return checked
