"""What the page does with the model: captions, captions after demonstrations, embeddings for the search.

Only the public face of a saved model is used, so that any CosMo folder or repository works, with or without the
project installed.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from transformers import AutoModelForImageTextToText, AutoProcessor, StoppingCriteria, TextIteratorStreamer


if TYPE_CHECKING or __package__:
    from demo.media import Medium
else:
    from media import Medium


MAX_NEW_TOKENS = 48


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """A medium together with the text that it should have."""

    medium: Medium
    """The clip or picture."""
    text: str
    """Its caption."""


class Captioner:
    """A model and its processor, ready to caption and to embed.

    Args:
        model: A `CosmoForConditionalGeneration`, from whichever copy of its code.
        processor: Its processor.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model.eval()
        self.processor = processor
        most = model.config.max_frames or processor.num_frames
        self.num_frames: int = min(processor.num_frames, most)
        self.max_tokens: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)

    @classmethod
    def load(cls, path_or_id: str) -> "Captioner":
        """Loads a saved folder or a repository of the Hub, running the code that lies in it.

        Raises:
            OSError: There is no such folder or repository, or a file of it is missing.
            ValueError: It is no CosMo model.
        """
        check_model_name(path_or_id)
        processor = AutoProcessor.from_pretrained(path_or_id, trust_remote_code=True)
        model: Any = AutoModelForImageTextToText.from_pretrained(path_or_id, trust_remote_code=True)
        return cls(model.to("cuda" if torch.cuda.is_available() else "cpu"), processor)

    def caption(self, medium: Medium, demonstrations: Sequence[Demonstration] = ()) -> str:
        """The whole caption of a medium, greedily decoded."""
        text = ""
        for text in self.stream_caption(medium, demonstrations):  # noqa: B007  the last one is the whole
            pass
        return text

    def stream_caption(self, medium: Medium, demonstrations: Sequence[Demonstration] = ()) -> Iterator[str]:
        """The caption as it grows: each item is all of it so far. Decoding stops when nobody listens any more.

        Args:
            medium: What is to be captioned.
            demonstrations: Examples in front of it, in this order.

        Raises:
            ValueError: The examples leave no room for a caption.
        """
        text = self.processor.interleave([shown.text for shown in demonstrations], prompt="")
        media = [shown.medium for shown in demonstrations] + [medium]
        inputs = self.processor(text=[text], videos=[[list(part.frames) for part in media]], return_tensors="pt")
        self._check_length("the examples and a caption", inputs["input_ids"].shape[1] + MAX_NEW_TOKENS)
        inputs = inputs.to(self.model.device)
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        worker = _Generation(self.model, streamer, inputs)
        worker.start()
        grown = ""
        try:
            for piece in streamer:
                grown += piece
                yield grown.strip()
        finally:
            worker.unwanted.set()
            worker.join()
        if worker.error is not None:
            raise worker.error
        yield grown.strip()

    @torch.inference_mode()
    def embed_media(self, media: Sequence[Medium]) -> torch.Tensor:
        """Embeddings of media in the shared space, unit length: (N, E), on the CPU."""
        inputs = self.processor(videos=[[list(medium.frames)] for medium in media], return_tensors="pt")
        return _unit(self.model.get_video_features(**inputs.to(self.model.device)).pooler_output)

    @torch.inference_mode()
    def embed_text(self, text: str) -> torch.Tensor:
        """Embedding of a sentence in the shared space, unit length: (E,), on the CPU.

        The sentence stands as in training: as the text of a medium. The text tower itself never sees media.

        Raises:
            ValueError: It is longer than the model can read.
        """
        inputs = self.processor.tokenizer(self.processor.interleave([text]), return_tensors="pt").to(self.model.device)
        self._check_length("the text", inputs["input_ids"].shape[1])
        features = self.model.get_text_features(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        return _unit(features.pooler_output[0])

    def _check_length(self, what: str, num_tokens: int) -> None:
        if self.max_tokens is not None and num_tokens > self.max_tokens:
            raise ValueError(f"{what} would take {num_tokens} tokens; this model reads at most {self.max_tokens}")


def _unit(embeddings: torch.Tensor) -> torch.Tensor:
    """In float32 on the CPU; what bfloat16 calls unit length is off by up to half a percent."""
    return functional.normalize(embeddings.float(), dim=-1).cpu()


def check_model_name(path_or_id: str) -> None:
    """Refuses what is neither a folder here nor in the form of a repository's name, before the Hub is asked for it.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    if not Path(path_or_id).is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", path_or_id):
        raise FileNotFoundError(f"no model at {path_or_id}: expected a saved folder, or a repository as owner/name")


class _Generation(Thread):
    """`generate` in a thread of its own, feeding a streamer; keeps its error for the listener."""

    def __init__(self, model: Any, streamer: TextIteratorStreamer, inputs: Any) -> None:
        super().__init__(daemon=True)
        self.model, self.streamer, self.inputs = model, streamer, inputs
        self.unwanted = Event()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            with torch.inference_mode():
                self.model.generate(
                    **self.inputs,
                    streamer=self.streamer,
                    do_sample=False,
                    num_beams=1,
                    max_new_tokens=MAX_NEW_TOKENS,
                    stopping_criteria=[_StopWhen(self.unwanted)],
                )
        except Exception as error:
            self.error = error
            self.streamer.end()


class _StopWhen(StoppingCriteria):
    """Stops generation once an event is set."""

    def __init__(self, event: Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device, dtype=torch.bool)
