"""Outputs of the CosMo models.

Shape letters: B samples, R text rows (B, or B x beams), L text length, M media, V visual tokens, D_v and D_t widths of
vision tower and language model, E shared embedding.
"""

from dataclasses import dataclass

import torch
from transformers import Cache
from transformers.utils.generic import ModelOutput


@dataclass
class CosmoModelOutput(ModelOutput):
    """Output of `CosmoModel`; what was not computed is `None`."""

    last_hidden_state: torch.Tensor | None = None
    """States of the language model's last layer, shape `(R, L, D_t)`."""
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None
    """Weights of each gated block, shape `(B, heads, R / B * L, M * V)`; with eager attention only."""
    text_embeds: torch.Tensor | None = None
    """Unit length, shape `(B, E)`."""
    vision_embeds: torch.Tensor | None = None
    """Unit length, shape `(B, E)`; zeros for a sample without media (see `vision_mean_includes_padding`)."""
    visual_tokens: torch.Tensor | None = None
    """What the gated blocks attend to, shape `(B, M, V, D_v)`."""
    logit_scale: torch.Tensor | None = None
    """Inverse temperature of the contrastive loss, already exponentiated, shape `(1,)`; given with the embeddings."""


@dataclass
class CosmoCausalLMOutput(ModelOutput):
    """Output of `CosmoForConditionalGeneration`; what was not computed is `None`."""

    loss: torch.Tensor | None = None
    """`lm_loss + contrastive_weight * contrastive_loss`, in nats."""
    lm_loss: torch.Tensor | None = None
    """Mean cross-entropy of the next token over all labels that count, in nats."""
    contrastive_loss: torch.Tensor | None = None
    """See `contrastive_loss`, in nats."""
    logits: torch.Tensor | None = None
    """Shape `(R, L, vocabulary)`."""
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None
    text_embeds: torch.Tensor | None = None
    """Unit length, shape `(B, E)`."""
    vision_embeds: torch.Tensor | None = None
    """Unit length, shape `(B, E)`; zeros for a sample without media (see `vision_mean_includes_padding`)."""
    visual_tokens: torch.Tensor | None = None
    """Shape `(B, M, V, D_v)`, on request."""
