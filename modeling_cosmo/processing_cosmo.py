"""From texts, pictures and videos to what the model reads; the one place that writes placeholders into text.

Shape letters: B samples, L text length, M media, F frames.
"""

from os import PathLike
from typing import Any, Self

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, BatchFeature, CLIPImageProcessorPil, ProcessorMixin

from .media_inputs_cosmo import Frames, load_frames, pair_media
from .tokens_cosmo import ADDED_TOKENS, END_OF_CHUNK, IGNORED_LABEL, PADDING, VISUAL


CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] in ('image', 'video') %}" + VISUAL + "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}" + END_OF_CHUNK + "{% endif %}"
    "{% endfor %}"
)
"""The few-shot form: each medium before its text, each answer closed as the end of a chunk."""


class CosmoProcessor(ProcessorMixin):
    """Tokenizer and image processor of the towers, with the special tokens of CosMo.

    Args:
        image_processor: of the vision tower.
        tokenizer: of the language model, with the special tokens added.
        num_frames: frames to take from each video file.
        chat_template: Jinja template of `apply_chat_template`.
    """

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, num_frames: int = 3, chat_template: str | None = None
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self._untrained_tokens: tuple[str, ...] = ()
        self.num_frames = num_frames
        missing = [token for token in (VISUAL, END_OF_CHUNK) if token not in tokenizer.get_vocab()]
        if missing:
            raise ValueError(f"the tokenizer lacks {' and '.join(missing)}: build it with CosmoProcessor.from_towers")

    @classmethod
    def from_towers(cls, vision: Any, text: Any, num_frames: int = 3) -> Self:
        """Join what prepares the inputs of two pretrained towers.

        Args:
            vision: path, id or instance of the image processor; or an instance of the vision model, whose picture size
                then goes with CLIP's mean and deviation.
            text: path, id or instance of the language model's tokenizer; it is changed, not copied.
            num_frames: frames to take from each video file.
        """
        if isinstance(vision, str | PathLike):
            vision = AutoImageProcessor.from_pretrained(vision)
        elif hasattr(vision, "config"):
            vision = _image_processor_for(vision.config)
        tokenizer = AutoTokenizer.from_pretrained(text) if isinstance(text, str | PathLike) else text
        untrained = [token for token in ADDED_TOKENS if token not in tokenizer.get_vocab()]
        tokenizer.add_special_tokens(
            {"extra_special_tokens": [token for token in ADDED_TOKENS if token != PADDING], "pad_token": PADDING},
            replace_extra_special_tokens=False,
        )
        tokenizer.padding_side = "left"  # generation continues the end of each row
        tokenizer.init_kwargs["padding_side"] = "left"  # what is saved
        processor = cls(vision, tokenizer, num_frames, chat_template=CHAT_TEMPLATE)
        processor._untrained_tokens = tuple(untrained)
        return processor

    def token_ids(self) -> dict[str, int]:
        """Ids that the config must hold, by the names of its fields."""
        tokens = {"visual_token_id": VISUAL, "end_of_chunk_token_id": END_OF_CHUNK}
        ids = {name: self.tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()}
        return ids | {"pad_token_id": self.tokenizer.pad_token_id}

    def check_config(self, config: Any) -> None:
        """Refuse a model whose special tokens have other ids than this tokenizer's.

        Raises:
            ValueError: naming the field and both ids.
        """
        for name, token_id in self.token_ids().items():
            if getattr(config, name) != token_id:
                raise ValueError(f"{name} is {getattr(config, name)} in the config but {token_id} in the tokenizer")

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        videos: Any = None,
        return_tensors: str | None = "pt",
        num_frames: int | None = None,
        **tokenizer_options: Any,
    ) -> BatchFeature:
        """Prepare a batch.

        Args:
            images: pictures of each sample, `[[picture, ...], ...]`: PIL, uint8 array or tensor, path, URL.
            text: one text per sample with a `<visual>` for each of its media.
            videos: videos of each sample in the same form: path, bytes, uint8 frames `(F, 3, height, width)`, or a
                list of pictures. How pictures and videos of one sample mix: see `pair_media`.
            return_tensors: only `pt`.
            num_frames: frames to take from each video file; default: the processor's.
            tokenizer_options: of the tokenizer's call, such as `padding_side`, `truncation`, `max_length`.

        Returns:
            `input_ids`, `attention_mask` (B, L); where there are media, `pixel_values` (B, M, F, 3, height, width) and
            `media_mask` (B, M, F), `True` where a frame is real. (Texts whose media come as cached features:
            `processor.tokenizer`.)

        Raises:
            ValueError: if placeholders and media of a sample differ in number, or a medium cannot be read.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors is {return_tensors!r}; CosMo's media come as torch tensors: use 'pt'")
        texts = [text] if isinstance(text, str) else text
        media = pair_media(images, videos, None if texts is None else len(texts))
        data: dict[str, Any] = {}
        if texts is not None:
            options = {"padding": True, "return_token_type_ids": False} | tokenizer_options
            data |= self.tokenizer(texts, return_tensors="pt", **options)
            self._check_counts(data["input_ids"], media)
        num_frames = self.num_frames if num_frames is None else num_frames
        frames = [
            [load_frames(kind, medium, num_frames, sample) for kind, medium in of_sample]
            for sample, of_sample in enumerate(media)
        ]
        if any(frames):
            data |= self._pack(frames)
        return BatchFeature(data)

    def _check_counts(self, input_ids: torch.Tensor, media: list[list[Any]]) -> None:
        placeholder = self.tokenizer.convert_tokens_to_ids(VISUAL)
        for sample, (ids, of_sample) in enumerate(zip(input_ids.tolist(), media, strict=True)):
            if ids.count(placeholder) != len(of_sample):
                raise ValueError(
                    f"sample {sample} has {ids.count(placeholder)} {VISUAL} placeholders but {len(of_sample)} media"
                )

    def _pack(self, frames: list[list[Frames]]) -> dict[str, torch.Tensor]:
        """Pixels of all frames in one padded tensor, and which of them are real."""
        pictures: list[Image.Image] = [frame for sample in frames for medium in sample for frame in medium]
        pixels = self.image_processor(images=pictures, return_tensors="pt")["pixel_values"]  # (frames, 3, h, w)
        num_media = max(len(sample) for sample in frames)
        num_frames = max(len(medium) for sample in frames for medium in sample)
        mask = torch.zeros(len(frames), num_media, num_frames, dtype=torch.bool)
        for row, sample in enumerate(frames):
            for slot, medium in enumerate(sample):
                mask[row, slot, : len(medium)] = True
        pixel_values = pixels.new_zeros(*mask.shape, *pixels.shape[1:])
        pixel_values[mask] = pixels
        return {"pixel_values": pixel_values, "media_mask": mask}

    def interleave(self, captions: list[str], prompt: str | None = None) -> str:
        """Text of media and their captions in order, each closed, for training or as demonstrations.

        Args:
            captions: one per medium.
            prompt: begin of the text of one more medium, to be continued by `generate`; may be empty.
        """
        shown = "".join(f"{VISUAL}{caption}{END_OF_CHUNK}" for caption in captions)
        return shown if prompt is None else f"{shown}{VISUAL}{prompt}"

    def build_labels(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Labels for training on all text: -100 at padding, at placeholders and at the token that begins a row.

        Args:
            input_ids: shape `(B, L)`.
            attention_mask: shape `(B, L)`.

        Returns:
            Shape `(B, L)`, not shifted.
        """
        is_first = attention_mask.cumsum(dim=-1) == 1  # (B, L); where a bos stands if there is one
        ignored = (
            (attention_mask == 0)
            | (input_ids == self.tokenizer.convert_tokens_to_ids(VISUAL))
            | (is_first & (input_ids == (-1 if self.tokenizer.bos_token_id is None else self.tokenizer.bos_token_id)))
        )
        return input_ids.masked_fill(ignored, IGNORED_LABEL)

    def _multimodal_inputs_from_conversations(self, conversations: list[Any], *_: Any, **__: Any) -> tuple[Any, ...]:
        """Media of chats in the order of their parts: `None` holds the place of the other kind."""
        images: list[list[Any]] = []
        videos: list[list[Any]] = []
        for conversation in conversations:
            contents = [message["content"] for message in conversation if not isinstance(message["content"], str)]
            parts = [part for content in contents for part in content if part["type"] in ("image", "video")]
            media = [next(part[key] for key in (part["type"], "url", "path") if key in part) for part in parts]
            kinds = [part["type"] for part in parts]
            images.append([medium if kind == "image" else None for kind, medium in zip(kinds, media, strict=True)])
            videos.append([medium if kind == "video" else None for kind, medium in zip(kinds, media, strict=True)])
        return images, videos, [], {}

    @property
    def model_input_names(self) -> list[str]:
        """Names of the model's inputs that this processor makes."""
        return ["input_ids", "attention_mask", "pixel_values", "media_mask"]


def _image_processor_for(config: Any) -> Any:
    size = getattr(config, "vision_config", config).image_size
    return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


CosmoProcessor.register_for_auto_class()
