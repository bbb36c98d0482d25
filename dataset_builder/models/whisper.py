"""Transcribe the speech of a video with a Whisper checkpoint of transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor, WhisperForConditionalGeneration, __version__

from dataset_builder.models.devices import compute_dtype, worker_device
from dataset_builder.models.model_folders import find_model, first_line, weights
from dataset_builder.text.subtitles import Sentence
from dataset_builder.video.sound import decode_sound


WINDOW_S = 600.0  # sound in memory at a time; Whisper's own 30 s window moves through it from pause to pause
MAX_REPEATS = 3  # a sentence repeated more often in a row is invented: the model fills music and silence with loops


class WhisperListener:
    """Greedy transcription with times.

    Args:
        checkpoint: folder or repository of a Whisper model with its processor.
        language: code of the spoken language; None: the model detects it.

    Raises:
        ValueError: if the checkpoint cannot be loaded.
    """

    def __init__(self, checkpoint: str, language: str | None) -> None:
        self._language = language
        place, self._device = find_model(checkpoint), worker_device()
        options: dict[str, Any] = dict(place.options)
        self._dtype = compute_dtype(self._device)
        try:
            self._processor = AutoProcessor.from_pretrained(place.location, **options)
            self._model: Any = WhisperForConditionalGeneration.from_pretrained(
                place.location, dtype=self._dtype, **options
            )
        except Exception as error:  # torn weights, another kind of model, ...: each library raises its own types
            raise ValueError(f"cannot load the Whisper model {checkpoint!r}: {first_line(error)}") from error
        torch.nn.Module.to(self._model, self._device).eval()
        self._provenance = {"tool": "whisper", "version": __version__, "checkpoint": place.name}
        self._provenance |= weights(place, self._model)
        self._rate_hz = self._processor.feature_extractor.sampling_rate

    def provenance(self) -> dict[str, Any]:
        """Tool, version, weights, language."""
        return self._provenance | {"language": self._language}

    def __call__(self, video: Path) -> Sequence[Sentence]:
        """Sentences in time order; none for a video without sound.

        Raises:
            DamagedInput: if the sound cannot be decoded.
        """
        sentences: list[Sentence] = []
        for index, samples in enumerate(decode_sound(video, self._rate_hz, WINDOW_S)):
            sentences += self._listen(samples, offset_s=index * WINDOW_S)
        return without_loops(sentences)

    def _listen(self, samples: np.ndarray, offset_s: float) -> list[Sentence]:
        extractor = self._processor.feature_extractor
        features = extractor(
            samples,
            sampling_rate=self._rate_hz,
            return_tensors="pt",
            return_attention_mask=True,
            truncation=False,
            padding="max_length" if len(samples) <= extractor.n_samples else "longest",
        )
        options: dict[str, Any] = {"language": self._language, "task": "transcribe"} if self._multilingual() else {}
        with torch.inference_mode():
            heard = self._model.generate(
                **features.to(self._device, self._dtype), return_timestamps=True, return_segments=True, **options
            )
        sentences = []
        for segment in heard["segments"][0]:
            text = " ".join(self._processor.tokenizer.decode(segment["tokens"], skip_special_tokens=True).split())
            start_s, end_s = float(segment["start"]), min(float(segment["end"]), len(samples) / self._rate_hz)
            if text and start_s < end_s:
                sentences.append(Sentence(start_s=offset_s + start_s, end_s=offset_s + end_s, text=text))
        return sentences

    def _multilingual(self) -> bool:
        return bool(getattr(self._model.generation_config, "is_multilingual", False))


def without_loops(sentences: Sequence[Sentence]) -> list[Sentence]:
    """Leave out sentences that are repeated word for word more than `MAX_REPEATS` times in a row."""
    kept: list[Sentence] = []
    run: list[Sentence] = []
    for sentence in [*sentences, None]:
        if run and (sentence is None or sentence.text != run[0].text):
            kept += run if len(run) <= MAX_REPEATS else []
            run = []
        if sentence is not None:
            run.append(sentence)
    return kept
