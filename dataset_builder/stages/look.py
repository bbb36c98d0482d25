"""The stage `look`: a model's captions of frames of every clip, and of regions in them.

The paper's dataset was made with BLIP-2 for frames and GRIT for regions. GRIT needs its own packages, so Florence-2's
dense region captions replace it. One checkpoint can do both.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dataset_builder.draft import Draft, each, positive
from dataset_builder.schema import Clip
from dataset_builder.text.nonsense import find_nonsense
from dataset_builder.video.clip_frames import clip_frames


@dataclass(frozen=True, kw_only=True)
class LookSettings:
    """The models that look at the frames, and their questions."""

    checkpoint: str
    """Folder or id of a transformers image-to-text or image-text-to-text model."""
    prompt: str = ""
    """The question about a frame; Florence-2 takes its tasks: `<CAPTION>`, `<DETAILED_CAPTION>`, ..."""
    max_new_tokens: int = 40
    """The longest frame caption, in tokens."""
    max_words: int = 80
    """An answer of more words counts as nonsense."""
    frames_per_clip: int = 1
    """How many frames of a clip the model sees: the middle of each of this many equal parts."""
    regions_checkpoint: str | None = None
    """The model for captions of regions; null: no regions."""
    regions_prompt: str = "<DENSE_REGION_CAPTION>"
    """Florence-2's task; for another model, a question that it should answer with captions between semicolons."""
    regions_max_new_tokens: int = 512
    """The longest answer about the regions of a frame, in tokens."""
    max_regions: int = 12
    """A clip keeps at most this many different captions of regions, the first ones."""
    batch_size: int = 8
    """Frames in a batch of the model."""
    timeout_s: float = 300.0
    """A longer batch is given up: its frames are asked again one by one, then their clips are dropped; in seconds."""
    trust_remote_code: bool = False
    """Run Python code that comes with the weights (CosMo's own checkpoints need it)."""

    def __post_init__(self) -> None:
        positive(self, "max_new_tokens", "max_words", "frames_per_clip", "regions_max_new_tokens", "max_regions")
        positive(self, "batch_size", "timeout_s")


class LookStage:
    """Adds captions of frames and of regions to every clip."""

    def __init__(self, settings: LookSettings) -> None:
        from dataset_builder.models.frame_captioner import (  # torch and transformers take seconds
            SECOND_TRY,
            load_captioner,
        )

        self.settings, self._second_try = settings, SECOND_TRY
        self.captioner = load_captioner(settings.checkpoint, settings.trust_remote_code)
        regions = settings.regions_checkpoint
        self.region_captioner = load_captioner(regions, settings.trust_remote_code) if regions else None

    def provenance(self) -> dict[str, Any]:
        """Tools, versions, weights, prompts."""
        keys: tuple[str, ...] = ("prompt", "max_new_tokens", "max_words", "frames_per_clip", "batch_size")
        facts = self.captioner.provenance() | {key: getattr(self.settings, key) for key in keys}
        if self.region_captioner:
            keys = ("regions_prompt", "regions_max_new_tokens", "max_regions")
            facts["regions"] = self.region_captioner.provenance()
            facts["regions"] |= {key.removeprefix("regions_"): getattr(self.settings, key) for key in keys}
        return facts

    def __call__(self, drafts: Iterable[Draft]) -> Iterator[Draft]:
        """Videos whose clips have frame captions and regions; drop clips for which a model has no usable answer."""
        return each(drafts, self._look)

    def _look(self, draft: Draft) -> Draft:
        clips: list[Clip] = []
        for frames in clip_frames(draft.source.path, draft.spans, self.settings.frames_per_clip):
            seen = draft.record.clips[len(clips) : len(clips) + len(frames)]
            clips += self._look_at(seen, frames)
        return draft.with_clips(clips).noted("look", self.provenance())

    def _look_at(self, clips: tuple[Clip, ...], frames: np.ndarray) -> list[Clip]:
        """Clips with captions of their frames `(n, F, H, W, 3)` and of regions in them."""
        per_clip = frames.shape[1]
        flat = frames.reshape(-1, *frames.shape[2:])  # (n * F, H, W, 3)
        answers, regions = self.captions(flat), self._regions(flat)
        looked = []
        for index, clip in enumerate(clips):
            of_clip = slice(index * per_clip, (index + 1) * per_clip)
            captions, faults = zip(*answers[of_clip], strict=True)
            found = dict.fromkeys(label for labels in regions[of_clip] for label in labels)
            fault = next(filter(None, faults), None)
            looked.append(
                replace(
                    clip,
                    frame_captions=tuple(caption for caption in captions if caption),
                    regions=tuple(found)[: self.settings.max_regions],
                    keep=clip.keep and fault is None,
                    drop_reason=clip.drop_reason or (f"no usable frame caption: {fault}" if fault else ""),
                )
            )
        return looked

    def captions(self, frames: np.ndarray) -> list[tuple[str, str | None]]:
        """Answer and fault of every frame; frames with a nonsensical answer are asked once more, alone."""
        settings, answers = self.settings, list[str | None]()
        for first in range(0, len(frames), settings.batch_size):
            batch = frames[first : first + settings.batch_size]
            answers += self.captioner(batch, settings.prompt, settings.max_new_tokens, settings.timeout_s)
        judged = [self._judged(answer) for answer in answers]
        for index, (_, fault) in enumerate(judged):
            if fault:
                (answer,) = self.captioner(
                    frames[index : index + 1],
                    settings.prompt,
                    settings.max_new_tokens,
                    settings.timeout_s,
                    self._second_try,
                )
                judged[index] = self._judged(answer)
        return judged

    def _judged(self, answer: str | None) -> tuple[str, str | None]:
        """The answer to keep, and its fault."""
        if answer is None:
            return "", "timed out"
        fault = find_nonsense(answer, self.settings.max_words)
        return ("", fault) if fault else (answer, None)

    def _regions(self, frames: np.ndarray) -> list[list[str]]:
        """Captions of regions of every frame, without nonsense; having none is not a fault of a clip."""
        settings, regions = self.settings, list[list[str]]()
        if self.region_captioner is None:
            return [[] for _ in frames]
        for first in range(0, len(frames), settings.batch_size):
            batch = frames[first : first + settings.batch_size]
            regions += self.region_captioner.regions(
                batch, settings.regions_prompt, settings.regions_max_new_tokens, settings.timeout_s
            )
        return [[label for label in labels if not find_nonsense(label, settings.max_words)] for labels in regions]
