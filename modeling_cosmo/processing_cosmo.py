"""Turn texts, pictures and videos into the model's inputs; the only place that writes placeholders into text.

Shape letters: B samples, L text length, M media, F frames.
"""

from numbers import Integral
from os import PathLike
from typing import Any, Self

import torch
import transformers
from transformers import AutoImageProcessor, AutoTokenizer, BatchFeature, PreTrainedConfig, ProcessorMixin
from transformers.processing_utils import TextKwargs
from transformers.utils.import_utils import is_torchvision_available

from .chat_cosmo import CHAT_TEMPLATE, media_of_chats
from .configuration_cosmo import CosmoConfig
from .frames_cosmo import Frame, FrameReader
from .media_inputs_cosmo import pair_media
from .tokens_cosmo import ADDED_TOKENS, END_OF_CHUNK, IGNORED_LABEL, PADDING, VISUAL


AUTO_MAP = {"AutoProcessor": "processing_cosmo.CosmoProcessor"}
"""Where a saved folder has its own code."""
HUB_OPTIONS = ("cache_dir", "local_files_only", "token", "revision", "subfolder")
"""Arguments of `from_pretrained` that say where files come from."""
VIDEO_OPTIONS = ("num_frames", "do_sample_frames")
"""Options for videos alone; their frames are prepared like pictures."""
UNKNOWN_VIDEO_OPTIONS = ("fps", "video_metadata", "return_metadata")
"""Options of the library's video processors that would change nothing here."""


class CosmoProcessor(ProcessorMixin):
    """Tokenizer and image processor of the towers, with the special tokens of CosMo.

    Args:
        image_processor: of the vision tower.
        tokenizer: of the language model, with the special tokens added.
        num_frames: frames to take from each video file.
        chat_template: Jinja template of `apply_chat_template`.
    """

    text_kwargs = TextKwargs(padding=True, return_token_type_ids=False)

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, num_frames: int = 3, chat_template: str | None = None
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self._untrained_tokens: tuple[str, ...] = ()
        self.auto_map = dict(AUTO_MAP)
        self.num_frames = num_frames
        if num_frames < 1:
            raise ValueError(f"num_frames is {num_frames}; it must be at least 1")
        missing = [token for token in (VISUAL, END_OF_CHUNK) if token not in tokenizer.get_vocab()]
        if missing:
            raise ValueError(f"the tokenizer lacks {' and '.join(missing)}: build it with CosmoProcessor.from_towers")

    @classmethod
    def from_towers(cls, vision: Any, text: Any, num_frames: int = 3) -> Self:
        """Join the image processor and the tokenizer of two pretrained towers.

        Args:
            vision: path or id of a model folder, or an image processor; or an instance of a vision model (CLIP or
                SigLIP), which gets the usual image processor of its kind with its picture size.
            text: path, id or instance of the language model's tokenizer; an instance is changed, not copied.
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
        tokenizer.init_kwargs["padding_side"] = "left"  # this is what gets saved
        processor = cls(vision, tokenizer, num_frames, chat_template=CHAT_TEMPLATE)
        processor._untrained_tokens = tuple(untrained)
        return processor

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike, *args: Any, **kwargs: Any) -> Self:
        """Load a saved processor; if the same place holds a CosMo model, compare their special tokens.

        Raises:
            ValueError: if the ids of the tokenizer are not those of the model's config.
        """
        processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        hub_options = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
        try:
            config, _ = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **hub_options)
        except OSError:  # a processor without a model
            config = {}
        if config.get("model_type") == CosmoConfig.model_type:
            processor.check_config(CosmoConfig.from_dict(config))
        return processor

    def save_pretrained(self, save_directory: str | PathLike, *args: Any, **kwargs: Any) -> Any:
        """Save as the library does, but without the last call's truncation and padding, which a load would inherit."""
        if backend := getattr(self.tokenizer, "backend_tokenizer", None):
            backend.no_truncation()
            backend.no_padding()
        return super().save_pretrained(save_directory, *args, **kwargs)

    def token_ids(self) -> dict[str, int]:
        """Ids that the config must hold, by the names of its fields."""
        tokens = {"visual_token_id": VISUAL, "end_of_chunk_token_id": END_OF_CHUNK}
        ids = {name: self.tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()}
        return ids | {"pad_token_id": self.tokenizer.pad_token_id}

    def check_config(self, config: Any) -> None:
        """Refuse a model whose special tokens have other ids than this tokenizer's, or that knows fewer tokens.

        Raises:
            ValueError: naming the field and both ids or numbers.
        """
        for name, token_id in self.token_ids().items():
            if getattr(config, name) != token_id:
                raise ValueError(f"{name} is {getattr(config, name)} in the config but {token_id} in the tokenizer")
        num_known = config.text_config.vocab_size
        if len(self.tokenizer) > num_known:
            raise ValueError(f"the tokenizer has {len(self.tokenizer)} tokens but the model's vocabulary {num_known}")

    def __call__(self, images: Any = None, text: Any = None, videos: Any = None, **kwargs: Any) -> BatchFeature:
        """Prepare a batch. docs/processor.md shows every form of input.

        Args:
            images: pictures of each sample, `[[picture, ...], ...]`: PIL, uint8 array or tensor (channels first or
                last), path, URL, base64, bytes of a file, `{"path": ..., "bytes": ...}`.
            text: one text per sample with a `<visual>` for each of its media.
            videos: videos of each sample in the same form: path, URL, bytes of a file, uint8 frames
                `(F, 3, height, width)` or `(F, height, width, 3)`, a list of pictures, or
                `{"path": ..., "start_s": ..., "end_s": ...}`. How pictures and videos mix: see `pair_media`.
            kwargs: `num_frames` (of each video file; default: the processor's), options of the tokenizer
                (`padding_side`, `truncation`, `max_length`, ...) and of the image processor (`do_rescale`, ...), flat
                or as `text_kwargs`, `images_kwargs`, `videos_kwargs`.

        Returns:
            `input_ids`, `attention_mask` (B, L); if there are media, `pixel_values` (B, M, F, 3, height, width) and
            `media_mask` (B, M, F), `True` where a frame is real. (For texts whose media come as cached features, use
            `processor.tokenizer`.)

        Raises:
            ValueError: if placeholders and media of a sample differ in number, or a medium cannot be read.
        """
        if text is None and images is None and videos is None:
            raise ValueError("give text, images or videos")
        options = self._merge_options(kwargs)
        data: dict[str, Any] = {}
        num_placeholders = None
        if text is not None:
            texts = _list_of_texts(text)
            data |= self._tokenize(texts, options["text_kwargs"])
            num_placeholders = (data["input_ids"] == self.image_token_id).sum(dim=-1).tolist()
        media = pair_media(images, videos, num_placeholders)
        if num_placeholders is not None:
            _check_counts(texts, num_placeholders, [len(of_sample) for of_sample in media])
        if any(media):
            reader = self._frame_reader(options["images_kwargs"], options["videos_kwargs"])
            frames = [_read_sample(reader, sample, of_sample) for sample, of_sample in enumerate(media)]
            data |= self._pack(frames, options["images_kwargs"])
        return BatchFeature(data)

    def _merge_options(self, kwargs: Any) -> dict[str, dict[str, Any]]:
        """Group the options of a call by what they are for, as the library does.

        Raises:
            ValueError: for options that are not supported.
        """
        options = self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        for part in ("text_kwargs", "images_kwargs", "videos_kwargs"):
            if (kind := options[part].pop("return_tensors", "pt")) != "pt":
                raise ValueError(f"return_tensors is {kind!r}; CosmoProcessor makes torch tensors: use 'pt'")
        unknown = {name for name in kwargs.get("videos_kwargs", {}) if name not in VIDEO_OPTIONS}
        unknown |= {name for name in UNKNOWN_VIDEO_OPTIONS if options["videos_kwargs"].get(name) is not None}
        if unknown:
            raise ValueError(
                f"CosmoProcessor has no option {', '.join(sorted(unknown))} for videos alone; it has "
                f"{', '.join(VIDEO_OPTIONS)} (frames are prepared like pictures, by images_kwargs)"
            )
        return options

    def _tokenize(self, texts: list[str], options: dict[str, Any]) -> dict[str, Any]:
        ignored = ("return_mm_token_type_ids", "return_text_replacement_offsets")  # a placeholder stays one token
        options = {name: value for name, value in options.items() if name not in ignored}
        return self.tokenizer(texts, return_tensors="pt", **options)

    def _frame_reader(self, image_options: dict[str, Any], video_options: dict[str, Any]) -> FrameReader:
        num_frames = video_options.get("num_frames")
        num_frames = self.num_frames if num_frames is None else num_frames
        if not isinstance(num_frames, Integral) or num_frames < 1:
            raise ValueError(f"num_frames is {num_frames!r}; it must be at least 1, and whole")
        layout = image_options.pop("input_data_format", None)
        do_rescale = image_options.get("do_rescale")
        do_rescale = getattr(self.image_processor, "do_rescale", True) if do_rescale is None else do_rescale
        return FrameReader(
            image_processor=self.image_processor,
            num_frames=int(num_frames),
            sample_given_frames=bool(video_options.get("do_sample_frames")),
            is_rescaled=not do_rescale,
            channels_last=None if layout is None else layout == "channels_last",
        )

    def _pack(self, frames: list[list[list[Frame]]], options: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Pixels of all frames in one padded tensor, and which of them are real."""
        flat = [frame for of_sample in frames for medium in of_sample for frame in medium]
        prepared = self.image_processor(flat, input_data_format="channels_first", return_tensors="pt", **options)
        pixels = prepared["pixel_values"]  # (frames, 3, h, w)
        num_media = max(len(of_sample) for of_sample in frames)
        num_frames = max(len(medium) for of_sample in frames for medium in of_sample)
        mask = torch.zeros(len(frames), num_media, num_frames, dtype=torch.bool)
        for row, of_sample in enumerate(frames):
            for slot, medium in enumerate(of_sample):
                mask[row, slot, : len(medium)] = True
        mask = mask.to(pixels.device)
        if len(flat) == mask.numel():  # nothing to pad: no copy
            return {"pixel_values": pixels.unflatten(0, mask.shape), "media_mask": mask}
        pixel_values = pixels.new_zeros(*mask.shape, *pixels.shape[1:])
        pixel_values[mask] = pixels
        return {"pixel_values": pixel_values, "media_mask": mask}

    def interleave(self, captions: list[str], prompt: str | None = None) -> str:
        """Text of media and their captions in order, each closed, for training or as demonstrations.

        Args:
            captions: one per medium.
            prompt: start of the text of one more medium, for `generate` to continue; may be empty.
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
        is_first = attention_mask.cumsum(dim=-1) == 1  # (B, L); the place of the bos if there is one
        ignored = (
            (attention_mask == 0)
            | (input_ids == self.tokenizer.convert_tokens_to_ids(VISUAL))
            | (is_first & (input_ids == (-1 if self.tokenizer.bos_token_id is None else self.tokenizer.bos_token_id)))
        )
        return input_ids.masked_fill(ignored, IGNORED_LABEL)

    def _multimodal_inputs_from_conversations(self, conversations: list[Any], *_: Any, **__: Any) -> tuple[Any, ...]:
        return *media_of_chats(conversations), [], {}

    @property
    def model_input_names(self) -> list[str]:
        """Names of the model's inputs that this processor makes."""
        return ["input_ids", "attention_mask", "pixel_values", "media_mask"]

    @property
    def image_token(self) -> str:
        """The placeholder of a picture, under the library's name for it."""
        return VISUAL

    @property
    def image_token_id(self) -> int:
        """Id of the placeholder."""
        return self.tokenizer.convert_tokens_to_ids(VISUAL)

    @property
    def video_token(self) -> str:
        """The placeholder of a video: the same as for a picture."""
        return VISUAL

    @property
    def video_token_id(self) -> int:
        """Id of the placeholder."""
        return self.image_token_id


def _list_of_texts(text: Any) -> list[str]:
    texts = [text] if isinstance(text, str) else text
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(one, str) for one in texts):
        raise ValueError(f"text must be a string or a list of strings, got {text!r:.80}")
    return list(texts)


def _check_counts(texts: list[str], num_placeholders: list[int], num_media: list[int]) -> None:
    for sample, (placeholders, media) in enumerate(zip(num_placeholders, num_media, strict=True)):
        if placeholders != media:
            cut_off = texts[sample].count(VISUAL) - placeholders
            hint = f" ({cut_off} more were cut off by truncation)" if cut_off > 0 else ""
            raise ValueError(f"sample {sample} has {placeholders} {VISUAL} placeholders but {media} media{hint}")


def _read_sample(reader: FrameReader, sample: int, media: list[tuple[str, Any]]) -> list[list[Frame]]:
    """Frames of each medium of a sample; errors name the sample."""
    try:
        return [reader.read(kind, medium) for kind, medium in media]
    except ValueError as error:
        raise ValueError(f"sample {sample}: {error}") from error


def _image_processor_for(config: Any) -> Any:
    """Image processor for a vision tower that is given without one."""
    config = getattr(config, "vision_config", config)
    side = config.image_size
    if config.model_type.startswith("siglip"):
        return _library_class("SiglipImageProcessor")(size={"height": side, "width": side})
    return _library_class("CLIPImageProcessor")(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )


def _library_class(name: str) -> Any:
    """The class that transformers itself would choose: for tensors with torchvision, for PIL pictures without."""
    return getattr(transformers, name if is_torchvision_available() else f"{name}Pil")


CosmoProcessor.register_for_auto_class()
