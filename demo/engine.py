"""The page's use of the model: captions, captions after demonstrations, and embeddings for the search.

Only the public interface of a saved model is used, so any CosMo folder or repository works, whether the project is
installed or not.
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
    """A medium with the text that it should get."""

    medium: Medium
    """The clip or picture."""
    text: str
    """Its caption."""


class CaptionEngine:
    """A model and its processor, ready to caption and to embed.

    Args:
        model: a `CosmoForConditionalGeneration`, from any copy of its code.
        processor: the model's processor.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model.eval()
        self.processor = processor
        most = model.config.max_frames or processor.num_frames
        self.num_frames: int = min(processor.num_frames, most)
        self.max_tokens: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)

    @classmethod
    def load(cls, path_or_id: str) -> "CaptionEngine":
        """Load a saved folder or a repository of the Hub, and execute the code in it.

        Raises:
            OSError: if there is no such folder or repository, or one of its files is missing.
            ValueError: if it is not a CosMo model.
        """
        check_model_name(path_or_id)
        processor = AutoProcessor.from_pretrained(path_or_id, trust_remote_code=True)
        model: Any = AutoModelForImageTextToText.from_pretrained(path_or_id, trust_remote_code=True)
        return cls(model.to("cuda" if torch.cuda.is_available() else "cpu"), processor)

    def caption(self, medium: Medium, demonstrations: Sequence[Demonstration] = ()) -> str:
        """Return the whole caption of a medium, decoded greedily."""
        text = ""
        for text in self.stream_caption(medium, demonstrations):  # noqa: B007  the last item is the whole caption
            pass
        return text

    def stream_caption(self, medium: Medium, demonstrations: Sequence[Demonstration] = ()) -> Iterator[str]:
        """Yield the caption as it grows; each item is the caption so far. Decoding stops when the caller does.

        Args:
            medium: the medium to caption.
            demonstrations: examples to put before it, in this order.

        Raises:
            ValueError: if the examples leave no room for a caption.
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
        """Embed media in the shared space; returns unit vectors, shape `(N, E)`, on the CPU."""
        inputs = self.processor(videos=[[list(medium.frames)] for medium in media], return_tensors="pt")
        return _unit(self.model.get_video_features(**inputs.to(self.model.device)).pooler_output)

    @torch.inference_mode()
    def embed_text(self, text: str) -> torch.Tensor:
        """Embed a sentence in the shared space; returns a unit vector, shape `(E,)`, on the CPU.

        As in training, the sentence is the text of a medium. The text tower itself never sees media.

        Raises:
            ValueError: if it is longer than the model can read.
        """
        inputs = self.processor.tokenizer(self.processor.interleave([text]), return_tensors="pt").to(self.model.device)
        self._check_length("the text", inputs["input_ids"].shape[1])
        features = self.model.get_text_features(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        return _unit(features.pooler_output[0])

    def _check_length(self, what: str, num_tokens: int) -> None:
        if self.max_tokens is not None and num_tokens > self.max_tokens:
            raise ValueError(f"{what} would take {num_tokens} tokens; this model reads at most {self.max_tokens}")


def _unit(embeddings: torch.Tensor) -> torch.Tensor:
    """Normalise in float32 on the CPU; unit length in bfloat16 is off by up to half a percent."""
    return functional.normalize(embeddings.float(), dim=-1).cpu()


def check_model_name(path_or_id: str) -> None:
    """Refuse anything that is neither a local folder nor formed like a repository name, before asking the Hub.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    if not Path(path_or_id).is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", path_or_id):
        raise FileNotFoundError(f"no model at {path_or_id}: expected a saved folder, or a repository as owner/name")


class _Generation(Thread):
    """`generate` in its own thread, feeding a streamer; keeps its error for the caller."""

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
    """Criterion that stops generation once an event is set."""

    def __init__(self, event: Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device, dtype=torch.bool)
