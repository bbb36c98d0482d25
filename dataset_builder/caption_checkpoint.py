"""A captioner whose caption is what a transformers checkpoint says about the middle frame of the clip.

It asks as the stage `look` does (look.py): nonsense, or no answer in time, is asked for once more, then the clip goes.
"""

from collections.abc import Sequence
from typing import Any

from dataset_builder.caption import Captions
from dataset_builder.inputs import SourceVideo
from dataset_builder.look import LookSettings, LookStage
from dataset_builder.video.clip_frames import clip_frames


class CheckpointCaptioner:
    """Captions the middle frame of every clip, greedily.

    Args:
        checkpoint: folder or repository of the model with its processor (or tokenizer and picture processor).
        prompt: what the model is asked; through its chat template where it has one.
        max_new_tokens: the longest caption.

    Raises:
        ValueError: where the checkpoint cannot be loaded.
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
        """One caption per clip, that of its middle frame; or why there is none."""
        captions: list[Captions] = []
        for frames in clip_frames(source.path, clips, frames_per_clip=1):
            answers = self._look.captions(frames[:, 0])
            captions += [Captions(said, (said,) if said else (), fault or "") for said, fault in answers]
        return captions
