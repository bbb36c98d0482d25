"""Generation with media: they are encoded once per sample, and their keys and values are projected once."""

from typing import Any

import torch
from transformers import GenerationMixin, LogitsProcessor, LogitsProcessorList, SuppressTokensLogitsProcessor

from .cache_cosmo import CosmoCache, rows_per_sample
from .configuration_cosmo import CosmoConfig
from .vision_cosmo import check_axes


MEDIA_ARGUMENTS = ("pixel_values", "media_mask", "vision_features")


def default_generation_tokens(config: CosmoConfig) -> dict[str, Any]:
    """Generation defaults that follow from the special tokens.

    A text also ends at the end of its chunk, and the placeholder of a medium is never generated.

    Returns:
        Fields of a `GenerationConfig`.
    """
    ends: list[int | None] = [*config.eos_token_id] if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    ends = [token for token in [*ends, config.end_of_chunk_token_id] if token is not None]
    defaults: dict[str, Any] = {"bos_token_id": config.bos_token_id, "pad_token_id": config.pad_token_id}
    if ends:
        defaults["eos_token_id"] = list(dict.fromkeys(ends))
    if config.visual_token_id is not None:
        defaults["suppress_tokens"] = [config.visual_token_id]
    return defaults


class SuppressTokens(LogitsProcessor):
    """Faster form of transformers' own processor, which compares the whole vocabulary with the tokens at every step.

    With 50,000 tokens, that comparison takes 2 % of a step on a CPU.
    """

    def __init__(self, token_ids: torch.Tensor) -> None:
        self.token_ids = token_ids

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores, `(R, vocabulary)`, with those of the tokens set to minus infinity."""
        return scores.index_fill(-1, self.token_ids.to(scores.device), -torch.inf)


_Base: Any = GenerationMixin  # its methods are typed for another `self`, which no subclass can satisfy


class CosmoGenerationMixin(_Base):
    """Overrides for the places where generation with media differs from generation of plain text."""

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Repeat the text for every beam, but not the media: beams of a sample share them."""
        media = {name: model_kwargs.pop(name) for name in MEDIA_ARGUMENTS if name in model_kwargs}
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        return input_ids, model_kwargs | media

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        """Choose processors as usual, but with a faster one to suppress placeholders."""
        processors = super()._get_logits_processor(*args, **kwargs)
        for index, processor in enumerate(processors):
            if type(processor) is SuppressTokensLogitsProcessor:
                processors[index] = SuppressTokens(processor.suppress_tokens)
        return processors

    def _prepare_model_inputs(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Refuse ids without an embedding and media that no text would see, before anything else in `generate`."""
        inputs, name, model_kwargs = super()._prepare_model_inputs(*args, **kwargs)
        if name == "input_ids":
            _check_ids(inputs, self.config.text_config.vocab_size)
            if model_kwargs.get("past_key_values") is None:  # else: see `_without_cached_media`
                _check_media(inputs == self.config.visual_token_id, model_kwargs)
        return inputs, name, model_kwargs

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """Combine the language model's cache with one for the media.

        Raises:
            ValueError: if a prompt with media should be read in chunks.
        """
        if generation_config.prefill_chunk_size and any(
            model_kwargs.get(name) is not None for name in MEDIA_ARGUMENTS
        ):
            raise ValueError("prefill_chunk_size cannot be given with media: they need the whole prompt at once")
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        cache = model_kwargs.get("past_key_values")
        if cache is not None and not hasattr(cache, "places"):
            model_kwargs["past_key_values"] = CosmoCache(cache)

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        *args: Any,
        inputs_embeds: torch.Tensor | None = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Pass media to the first pass only, since later passes use its cache; skip the contrastive embeddings."""
        cache = kwargs.get("past_key_values")
        if is_first_iteration and getattr(cache, "places", None) is not None:
            is_placeholder = self.model._find_placeholders(input_ids if inputs_embeds is None else None, inputs_embeds)
            is_new = is_placeholder[:, -(kwargs.get("next_sequence_length") or 0) :]
            kwargs |= _without_cached_media(is_placeholder, is_new, kwargs)
        inputs = super().prepare_inputs_for_generation(
            input_ids, *args, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        if not is_first_iteration and kwargs.get("use_cache", True):
            for name in MEDIA_ARGUMENTS:
                inputs.pop(name, None)
        return inputs | {"compute_contrastive": False}


def _check_ids(input_ids: torch.Tensor, vocab_size: int) -> None:
    """Refuse ids beyond the vocabulary.

    Raises:
        ValueError: naming the first of them and its place.
    """
    unknown = ((input_ids < 0) | (input_ids >= vocab_size)).nonzero().tolist()
    if unknown:
        row, column = unknown[0]
        raise ValueError(
            f"sample {row} has token id {int(input_ids[row, column])} at place {column}, but the model's vocabulary "
            f"has {vocab_size} tokens: is this the model's own tokenizer?"
        )


def _check_media(is_placeholder: torch.Tensor, media: dict[str, Any]) -> None:
    """Refuse media whose number differs from the number of placeholders in their text.

    Args:
        is_placeholder: boolean, shape `(R, L)`.
        media: the media arguments of `CosmoModel.forward`, among others.

    Raises:
        ValueError: naming the first such sample and both numbers.
    """
    if media.get("pixel_values") is not None:
        check_axes(media["pixel_values"])
    is_real = _real_frames(media)
    if is_real is None:
        return
    rows_per_sample(len(is_placeholder), len(is_real))
    num_given = is_real.any(dim=-1).sum(dim=-1).tolist()
    num_expected = is_placeholder.sum(dim=-1).tolist()
    for row, expected in enumerate(num_expected):
        given = num_given[row * len(num_given) // len(num_expected)]
        if given != expected:
            raise ValueError(f"sample {row} has {expected} <visual> placeholders but {given} media")


def _real_frames(media: dict[str, Any]) -> torch.Tensor | None:
    """Which frames are real, boolean `(B, M, F)`; `None` if no media are given."""
    frames = media.get("vision_features") if media.get("pixel_values") is None else media["pixel_values"]
    if frames is None or media.get("media_mask") is not None:
        return None if frames is None else media["media_mask"]
    return torch.ones(frames.shape[:3], dtype=torch.bool, device=frames.device)


def _without_cached_media(is_placeholder: torch.Tensor, is_new: torch.Tensor, media: dict[str, Any]) -> dict[str, Any]:
    """Leave out media that the cache holds: a later turn may bring those of its new text, or of the whole text.

    Args:
        is_placeholder: where the whole text or its new part has a placeholder, boolean `(R, L)`.
        is_new: the same for the part that the cache does not hold, `(R, L_new)`.
        media: the media arguments of `CosmoModel.forward`.

    Returns:
        Media arguments without the media in the cache; empty if they need no change.

    Raises:
        ValueError: if a sample's media match neither the placeholders of its new text nor those of its whole text.
    """
    given = {name: media[name] for name in MEDIA_ARGUMENTS if media.get(name) is not None}
    is_real = _real_frames(given)
    if is_real is None:
        return {}
    mask = is_real.clone()
    step = rows_per_sample(len(is_placeholder), len(mask))  # rows of one sample are neighbours
    num_given = mask.any(dim=-1).sum(dim=-1).tolist()
    num_new = is_new[::step].sum(dim=-1).tolist()
    num_all = is_placeholder[::step].sum(dim=-1).tolist()
    if num_given == num_new:
        return {}
    for sample, counts in enumerate(zip(num_given, num_new, num_all, strict=True)):
        if counts[0] != counts[2]:
            raise ValueError(f"sample {sample} has {counts[1]} new <visual> placeholders but {counts[0]} media")
    num_cached = [of_all - of_new for of_all, of_new in zip(num_all, num_new, strict=True)]
    for sample, count in enumerate(num_cached):
        mask[sample, :count] = False
    given["media_mask"] = mask
    return {name: value[:, min(num_cached) :] for name, value in given.items()}
