"""Gated cross-attention, and the wrapper that puts it before a stock decoder layer (Flamingo, arXiv:2204.14198, 2.2).

Media travel as arguments: a wrapper holds no state between calls.
Shape letters: B samples, N text rows per sample, R = B * N, L text length, S = M * V visual tokens of a sample,
H heads, C channels of a head, D_v and D_t widths of vision tower and language model.
"""

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import Cache
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention_cosmo import FeedForward, attend, split_heads
from .backbone_cosmo import DROPS_ARGUMENTS, arguments_beside_the_call
from .configuration_cosmo import CosmoConfig
from .media_attention_cosmo import MediaVisibility


@dataclass
class LayerTap:
    """What to collect during one pass through the decoder layers, besides its result."""

    text_depth: int | None = None
    """Take the hidden states after this many layers, for the text embedding."""
    stop: bool = False
    """Skip the layers above `text_depth`."""
    text_states: torch.Tensor | None = None
    """Those states, shape `(R, L, D_t)`."""
    first_input: torch.Tensor | None = None
    """Input of the first layer, before its block if it has one, shape `(R, L, D_t)`."""
    cross_attentions: list[torch.Tensor] = field(default_factory=list)
    """Weights of each block, shape `(B, H, N * L, S)`; only eager attention gives them."""


class CosmoCrossAttention(nn.Module):
    """Text tokens attend to the visual tokens of their media."""

    def __init__(self, config: CosmoConfig, block_index: int) -> None:
        super().__init__()
        self.config = config
        self.block_index = block_index
        self.uniform_before_first = config.uniform_before_first_medium and not config.only_attend_immediate_media
        self.head_dim = head_dim = config.cross_attention_head_dim // config.compress_ratio
        self.scaling = (config.cross_attention_head_dim if config.scale_by_uncompressed_head else head_dim) ** -0.5
        width, inner_width = config.text_config.hidden_size, config.cross_attention_heads * head_dim
        self.norm = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, inner_width, bias=False)
        self.k_proj = nn.Linear(config.vision_config.hidden_size, inner_width, bias=False)
        self.v_proj = nn.Linear(config.vision_config.hidden_size, inner_width, bias=False)
        self.o_proj = nn.Linear(inner_width, width, bias=False)
        self.q_norm = nn.LayerNorm(inner_width) if config.qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(inner_width) if config.qk_norm else nn.Identity()

    def forward(
        self,
        hidden_states: torch.Tensor,
        visual_tokens: torch.Tensor | None,
        visibility: MediaVisibility,
        cache: Cache | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend to new media, cached media, or both.

        Args:
            hidden_states: shape `(R, L, D_t)`; rows of one sample are neighbours.
            visual_tokens: of media that are new in this pass, shape `(B, S_new, D_v)`.
            visibility: which token sees which of all media of the text.
            cache: holds the projected media of this text, slot `block_index`; new ones are added.

        Returns:
            Shape `(R, L, D_t)`, by default zero for a token that sees no medium; with eager attention also the
            weights `(B, H, N * L, S)`.
        """
        key, value = self._project(visual_tokens, cache)  # (B, H, S, C)
        query = self.q_norm(self.q_proj(self.norm(hidden_states)))
        query = query.view(len(key), -1, query.shape[-1])  # (B, N * L, H * C)
        if self.uniform_before_first:
            query = query * visibility.sees_any  # a query of zeros attends uniformly
        query = split_heads(query, self.head_dim)  # (B, H, N * L, C)
        attended, weights = attend(
            self, query, key, value, visibility.mask, self.scaling, self.config._attn_implementation
        )
        attended = attended.flatten(2)  # (B, N * L, H * C)
        if not self.uniform_before_first:
            attended = attended * visibility.sees_any
        return self.o_proj(attended.view(*hidden_states.shape[:2], -1)), weights

    def _project(self, visual_tokens: torch.Tensor | None, cache: Cache | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of all media, each projected in the pass that brought it and cached from then on."""
        if visual_tokens is None:
            assert cache is not None
            layer: Any = cache.layers[self.block_index]
            return layer.keys, layer.values
        key = split_heads(self.k_norm(self.k_proj(visual_tokens)), self.head_dim)
        value = split_heads(self.v_proj(visual_tokens), self.head_dim)
        return (key, value) if cache is None else cache.update(key, value, self.block_index)


class CosmoGatedBlock(nn.Module):
    """Cross-attention and a feed-forward layer, each behind a tanh gate that starts closed."""

    def __init__(self, config: CosmoConfig, block_index: int) -> None:
        super().__init__()
        width = config.text_config.hidden_size
        self.attention = CosmoCrossAttention(config, block_index)
        self.attention_gate = nn.Parameter(torch.zeros(1))
        self.feed_forward = FeedForward(width, config.feed_forward_factor * width // config.compress_ratio)
        self.feed_forward_gate = nn.Parameter(torch.zeros(1))

    @torch.no_grad()
    def initialise_own_parameters(self) -> None:
        """Close both gates, so that the model starts as the plain language model."""
        init.zeros_(self.attention_gate)
        init.zeros_(self.feed_forward_gate)

    def forward(
        self,
        hidden_states: torch.Tensor,
        visual_tokens: torch.Tensor | None,
        visibility: MediaVisibility | None,
        cache: Cache | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Like `CosmoCrossAttention.forward`, with the residuals; `visibility` is `None` for a text without media."""
        weights = None
        if visibility is not None:
            attended, weights = self.attention(hidden_states, visual_tokens, visibility, cache)
            hidden_states = _add(hidden_states, self.attention_gate, attended)
        return _add(hidden_states, self.feed_forward_gate, self.feed_forward(hidden_states)), weights


def _add(hidden_states: torch.Tensor, gate: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """Add a gated change in the language model's own precision: a float32 gate would widen everything after it."""
    return hidden_states + (gate.tanh() * change).to(hidden_states.dtype)


class CosmoDecoderLayer(GradientCheckpointingLayer):
    """A stock decoder layer, with a gated block before it where the config says so."""

    def __init__(
        self,
        decoder_layer: nn.Module,
        layer_index: int,
        cross_attention: CosmoGatedBlock | None,
        returns_tuple: bool = False,
    ) -> None:
        super().__init__()
        self.decoder_layer = decoder_layer
        self.layer_index = layer_index
        self.cross_attention = cross_attention
        self.returns_tuple = returns_tuple

    def __getattr__(self, name: str) -> Any:
        """Take what a language model reads from its layers, such as `attention_type`, from the stock layer."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or name == "decoder_layer":
                raise
            return getattr(self.decoder_layer, name)

    def __call__(
        self,
        hidden_states: torch.Tensor,
        *args: Any,
        visual_tokens: torch.Tensor | None = None,
        tap: LayerTap | None = None,
        **kwargs: Any,
    ) -> Any:
        """Fill the tap; pass visual tokens by position, since reentrant checkpointing differentiates only those."""
        if tap is None and (beside := arguments_beside_the_call()):
            return self(hidden_states, *args, **kwargs, **beside)
        if tap is None:
            return super().__call__(hidden_states, visual_tokens, *args, **kwargs)
        if self.layer_index == 0:
            tap.first_input = hidden_states
            tap.text_states = hidden_states if tap.text_depth == 0 else None
        if tap.stop and tap.text_depth is not None and self.layer_index >= tap.text_depth:
            return (hidden_states, None) if self.returns_tuple else hidden_states
        output = super().__call__(hidden_states, visual_tokens, *args, tap=tap, **kwargs)
        if tap.text_depth == self.layer_index + 1:
            tap.text_states = output[0] if self.returns_tuple else output
        return output

    def forward(
        self,
        hidden_states: torch.Tensor,
        visual_tokens: torch.Tensor | None = None,
        *args: Any,
        visibility: MediaVisibility | None = None,
        cross_attention_cache: Cache | None = None,
        tap: LayerTap | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the block, then the stock layer with the rest of the arguments."""
        if self.cross_attention is not None:
            hidden_states, weights = self.cross_attention(
                hidden_states, visual_tokens, visibility, cross_attention_cache
            )
            if tap is not None and weights is not None:
                tap.cross_attentions.append(weights)
        return self.decoder_layer(hidden_states, *args, **kwargs)


def wrap_decoder_layers(language_model: nn.Module, config: CosmoConfig) -> None:
    """Replace every decoder layer with a `CosmoDecoderLayer` around it, with blocks where the config puts them.

    Args:
        language_model: any language model of transformers that keeps its layers in one `ModuleList` and passes
            keyword arguments on to them.
        config: says where the blocks go.

    Raises:
        ValueError: if the language model is not of that kind, saying what is missing.
    """
    name, num_layers = type(language_model).__name__, config.text_config.num_hidden_layers
    stacks = (module for module in language_model.modules() if isinstance(module, nn.ModuleList))
    layers = next((stack for stack in stacks if len(stack) == num_layers), None)
    if layers is None:
        raise ValueError(f"{name} has no ModuleList of {num_layers} decoder layers, so no block can be put before one")
    parameters = inspect.signature(language_model.forward).parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        raise ValueError(f"{name}.forward takes no **kwargs, so visual tokens cannot reach its decoder layers")
    if getattr(language_model, "_is_stateful", False) and not hasattr(config.text_config, "num_attention_heads"):
        raise ValueError(f"{name} has no attention: it caches a state, but CosMo needs keys and values")
    positions = config.block_positions
    for index, layer in enumerate(layers):
        block = CosmoGatedBlock(config, positions.index(index)) if index in positions else None
        layers[index] = CosmoDecoderLayer(layer, index, block, config.text_config.model_type in DROPS_ARGUMENTS)
