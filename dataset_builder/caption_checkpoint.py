"""A captioner whose caption is what a transformers checkpoint says about the middle frame of the clip."""

from collections.abc import Sequence
from typing import Any

from dataset_builder.caption import Captions
from dataset_builder.clip_frames import clip_frames
from dataset_builder.frame_captioner import load_captioner
from dataset_builder.inputs import SourceVideo


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
        self._prompt, self._max_new_tokens = prompt, max_new_tokens
        self._model = load_captioner(checkpoint)

    def provenance(self) -> dict[str, Any]:
        """Tool, version, weights and prompt."""
        return self._model.provenance() | {"prompt": self._prompt, "max_new_tokens": self._max_new_tokens}

    def __call__(
        self, source: SourceVideo, clips: Sequence[tuple[float, float]], speech: Sequence[str]
    ) -> list[Captions]:
        """One caption per clip, that of its middle frame."""
        answers: list[str | None] = []
        for frames in clip_frames(source.path, clips, frames_per_clip=1):
            answers += self._model(frames[:, 0], self._prompt, self._max_new_tokens)
        return [Captions(answer or "", (answer or "",)) for answer in answers]
