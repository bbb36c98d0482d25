"""How CosMo takes part in `generate`: media are encoded once per sample, their keys and values projected once."""

from typing import Any

import torch
from transformers import GenerationMixin

from .cache_cosmo import CosmoCache
from .configuration_cosmo import CosmoConfig


MEDIA_ARGUMENTS = ("pixel_values", "media_mask", "vision_features")


def default_generation_tokens(config: CosmoConfig) -> dict[str, Any]:
    """Generation defaults that follow from the special tokens.

    A text ends at the end of its chunk too, and the placeholder of a medium is never generated.

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


_Base: Any = GenerationMixin  # its methods are typed for another `self`, which no subclass can satisfy


class CosmoGenerationMixin(_Base):
    """The three places where generation with media differs from generation of plain text."""

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

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """Put the language model's cache beside one for the media."""
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        cache = model_kwargs.get("past_key_values")
        if cache is not None and not hasattr(cache, "places"):
            model_kwargs["past_key_values"] = CosmoCache(cache)

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, *args: Any, is_first_iteration: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Give the media to the first pass only, whose cache serves the others; embeddings are not needed."""
        inputs = super().prepare_inputs_for_generation(
            input_ids, *args, is_first_iteration=is_first_iteration, **kwargs
        )
        if not is_first_iteration and kwargs.get("use_cache", True):
            for name in MEDIA_ARGUMENTS:
                inputs.pop(name, None)
        return inputs | {"compute_contrastive": False}
