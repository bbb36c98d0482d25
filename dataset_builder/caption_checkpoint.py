"""A captioner that runs any transformers image-to-text or image-text-to-text checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BatchFeature,
    __version__,
)

from dataset_builder.caption import Captions
from dataset_builder.decode import frames_at
from dataset_builder.inputs import SourceVideo
from dataset_builder.model_folders import first_line, folder_fingerprint


CLIP_BATCH = 8


class CheckpointCaptioner:
    """Captions the middle frame of every clip, greedily.

    Args:
        checkpoint: folder or id of the model with its processor (or tokenizer and picture processor).
        prompt: what the model is asked; through its chat template where it has one.
        max_new_tokens: the longest caption.

    Raises:
        ValueError: where the checkpoint cannot be loaded.
    """

    def __init__(self, checkpoint: str, prompt: str, max_new_tokens: int) -> None:
        self._prompt, self._max_new_tokens = prompt, max_new_tokens
        self._provenance = {"tool": "transformers", "version": __version__, "checkpoint": Path(checkpoint).name}
        if Path(checkpoint).is_dir():
            self._provenance["weights"] = folder_fingerprint(Path(checkpoint))
        try:
            self._model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()
            if AutoConfig.from_pretrained(checkpoint).model_type == "vision-encoder-decoder":  # has no processor class
                self._processor = None
                self._picture_processor = AutoImageProcessor.from_pretrained(checkpoint, backend="pil")
                self._tokenizer = AutoTokenizer.from_pretrained(checkpoint)
            else:
                self._processor = AutoProcessor.from_pretrained(checkpoint)
                self._tokenizer = self._processor.tokenizer
        except Exception as error:  # torn weights, no processor, ...: each library has its own kinds
            raise ValueError(f"cannot load the captioner {checkpoint!r}: {first_line(error)}") from error

    def provenance(self) -> dict[str, Any]:
        """Tool, version, weights and prompt."""
        return self._provenance | {"prompt": self._prompt, "max_new_tokens": self._max_new_tokens}

    def __call__(
        self, source: SourceVideo, clips: Sequence[tuple[float, float]], speech: Sequence[str]
    ) -> list[Captions]:
        """One caption per clip, that of its middle frame."""
        frames = frames_at(source.path, [(start_s + end_s) / 2 for start_s, end_s in clips])  # (C, H, W, 3)
        captions = []
        for first in range(0, len(frames), CLIP_BATCH):
            captions += self._caption(frames[first : first + CLIP_BATCH])
        return [Captions(caption, (caption,)) for caption in captions]

    def _caption(self, frames: np.ndarray) -> list[str]:
        inputs = self._inputs([Image.fromarray(frame) for frame in frames])
        with torch.inference_mode():
            tokens = self._model.generate(**inputs, max_new_tokens=self._max_new_tokens, do_sample=False)
        asked = inputs.get("input_ids")
        if asked is not None and torch.equal(
            tokens[:, : asked.shape[1]], asked
        ):  # decoder-only models repeat the prompt
            tokens = tokens[:, asked.shape[1] :]
        return [" ".join(text.split()) for text in self._tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    def _inputs(self, pictures: list[Image.Image]) -> BatchFeature:
        """A batch for `generate`; without a prompt the text is left to the model."""
        if self._processor is None:
            return self._picture_processor(images=pictures, return_tensors="pt")
        if getattr(self._processor, "chat_template", None):
            question = [{"type": "image"}, {"type": "text", "text": self._prompt}]
            text = self._processor.apply_chat_template(
                [{"role": "user", "content": question}], add_generation_prompt=True
            )
            return self._processor(images=pictures, text=[text] * len(pictures), padding=True, return_tensors="pt")
        text = [self._prompt] * len(pictures) if self._prompt else None
        return self._processor(images=pictures, text=text, return_tensors="pt")
