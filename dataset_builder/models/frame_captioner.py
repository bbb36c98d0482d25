"""Ask any transformers image-to-text or image-text-to-text checkpoint the same question about many pictures."""

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
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

from dataset_builder.models.devices import compute_dtype, worker_device
from dataset_builder.models.model_folders import find_model, first_line, weights


SECOND_TRY = {"no_repeat_ngram_size": 3, "min_new_tokens": 4, "repetition_penalty": 1.2}
"""Generation settings after an empty or repetitive answer: the same settings would give the same answer again."""


class FrameCaptioner:
    """A model that answers a question about pictures, greedily.

    Args:
        checkpoint: folder or repository of the model with its processor (or tokenizer and picture processor).
        trust_remote_code: run Python code that comes with the weights.

    Raises:
        ValueError: if the checkpoint cannot be loaded.
    """

    def __init__(self, checkpoint: str, trust_remote_code: bool = False) -> None:
        self.place = find_model(checkpoint)
        self._device = worker_device()
        self._dtype = compute_dtype(self._device)
        options: dict[str, Any] = {"trust_remote_code": trust_remote_code} | self.place.options
        where = self.place.location
        try:
            self._model: Any = AutoModelForImageTextToText.from_pretrained(where, dtype=self._dtype, **options)
            self._type = AutoConfig.from_pretrained(where, **options).model_type
            if self._type == "vision-encoder-decoder":  # has no processor class
                self._processor = None
                self._picture_processor = AutoImageProcessor.from_pretrained(where, backend="pil", **options)
                self._tokenizer = AutoTokenizer.from_pretrained(where, **options)
            else:
                self._processor = AutoProcessor.from_pretrained(where, **options)
                self._tokenizer = self._processor.tokenizer
        except Exception as error:  # torn weights, no processor, ...: each library raises its own types
            hint = "" if trust_remote_code or "trust_remote_code" not in str(error) else _TRUST
            raise ValueError(f"cannot load the captioner {checkpoint!r}: {first_line(error)}{hint}") from error
        torch.nn.Module.to(self._model, self._device).eval()
        self._tokenizer.padding_side = "left"  # pictures may take different numbers of tokens; answers follow them

    def provenance(self) -> dict[str, Any]:
        """Tool, version and weights."""
        facts = {"tool": "transformers", "version": __version__, "checkpoint": self.place.name}
        return facts | weights(self.place, self._model)

    def __call__(
        self,
        frames: np.ndarray,
        prompt: str,
        max_new_tokens: int,
        timeout_s: float | None = None,
        generation: Mapping[str, Any] | None = None,
    ) -> list[str | None]:
        """One answer per picture.

        Args:
            frames: uint8, shape `(N, H, W, 3)`.
            prompt: the question, through the model's chat template if it has one; Florence-2 takes its task names.
            max_new_tokens: the longest answer.
            timeout_s: generation stops after this long.
            generation: further arguments of `generate`.

        Returns:
            The answers; None for all of them if the time was up.
        """
        tokens = self._generate(frames, prompt, max_new_tokens, timeout_s, generation or {})
        if tokens is None:
            return [None] * len(frames)
        return [" ".join(text.split()) for text in self._tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    def regions(
        self, frames: np.ndarray, prompt: str, max_new_tokens: int, timeout_s: float | None = None
    ) -> list[list[str]]:
        """Captions of regions in the model's order, each once; none if the time was up.

        Args:
            frames: uint8, shape `(N, H, W, 3)`.
            prompt: Florence-2's `<DENSE_REGION_CAPTION>` or `<OD>`; for another model a question, which it should
                answer with captions between semicolons.
            max_new_tokens: the longest answer about one picture.
            timeout_s: generation stops after this long.
        """
        if self._type != "florence2":
            answers = self(frames, prompt, max_new_tokens, timeout_s)
            return [_distinct((answer or "").split(";")) for answer in answers]
        tokens = self._generate(frames, prompt, max_new_tokens, timeout_s, {})
        if tokens is None:
            return [[] for _ in frames]
        size = (frames.shape[2], frames.shape[1])
        assert self._processor is not None  # Florence-2 has one
        frame_ids = {self._tokenizer.bos_token_id, self._tokenizer.eos_token_id, self._tokenizer.pad_token_id}
        labels = []
        for row in tokens.tolist():
            said = [token for token in row if token not in frame_ids]  # keeps the tokens of the boxes
            parse = self._processor.post_process_generation
            found = parse(sequence=said, task=prompt, image_size=size)[prompt]["labels"] if said else []
            labels.append(_distinct(found))
        return labels

    def _generate(
        self,
        frames: np.ndarray,
        prompt: str,
        max_new_tokens: int,
        timeout_s: float | None,
        generation: Mapping[str, Any],
    ) -> torch.Tensor | None:
        """Tokens of the answers, without the question; None if the time was up."""
        inputs = self._inputs([Image.fromarray(frame) for frame in frames], prompt)
        begin_s = time.monotonic()
        with torch.inference_mode():
            tokens: torch.Tensor = self._model.generate(
                **inputs, max_new_tokens=max_new_tokens, do_sample=False, max_time=timeout_s, **generation
            )
        if timeout_s is not None and time.monotonic() - begin_s >= timeout_s:
            return None
        asked = inputs.get("input_ids")
        if asked is not None and torch.equal(tokens[:, : asked.shape[1]], asked):
            tokens = tokens[:, asked.shape[1] :]  # decoder-only models repeat the prompt
        return tokens

    def _inputs(self, pictures: list[Image.Image], prompt: str) -> dict[str, Any]:
        """A batch for `generate` on the model's device; without a prompt, the model gets no text."""
        batch = self._processed(pictures, prompt)
        return {
            name: value.to(self._device, self._dtype if value.is_floating_point() else value.dtype)
            for name, value in batch.items()
        }

    def _processed(self, pictures: list[Image.Image], prompt: str) -> BatchFeature:
        if self._processor is None:
            return self._picture_processor(images=pictures, return_tensors="pt")
        if getattr(self._processor, "chat_template", None):
            question = [{"type": "image"}, {"type": "text", "text": prompt}]
            prompt = self._processor.apply_chat_template(
                [{"role": "user", "content": question}], add_generation_prompt=True
            )
        elif self._type == "cosmo":
            prompt = f"{self._processor.image_token}{prompt}"
        if not prompt:
            return self._processor(images=pictures, return_tensors="pt")
        return self._processor(images=pictures, text=[prompt] * len(pictures), padding=True, return_tensors="pt")


@lru_cache(maxsize=2)
def load_captioner(checkpoint: str, trust_remote_code: bool = False) -> FrameCaptioner:
    """Load a captioner, once per process for all stages that use it."""
    return FrameCaptioner(checkpoint, trust_remote_code)


def _distinct(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(cleaned for text in texts if (cleaned := " ".join(text.split()))))


_TRUST = " (set trust_remote_code: true in the recipe if you trust that code)"
