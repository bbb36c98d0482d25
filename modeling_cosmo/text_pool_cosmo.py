"""Text embedding: one learned query reads the hidden states of the unimodal half (CosMo, arXiv:2401.00849).

Shape letters: B batch, L text length, D width of the language model.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .attention_cosmo import FeedForward, LatentAttention
from .configuration_cosmo import CosmoConfig
from .resampler_cosmo import LATENT_INIT_STD


class CosmoTextPool(nn.Module):
    """Pooling of a text into one vector; it never sees pictures."""

    def __init__(self, config: CosmoConfig) -> None:
        super().__init__()
        self.config = config
        width = config.text_config.hidden_size
        self.query = nn.Parameter(torch.empty(1, width))
        self.attention = LatentAttention(
            width, config.cross_attention_heads, config.cross_attention_head_dim, config.qk_norm
        )
        self.feed_forward = FeedForward(width, config.feed_forward_factor * width)
        self.norm_scale = nn.Parameter(torch.empty(width))

    @torch.no_grad()
    def initialise_own_parameters(self) -> None:
        """Draw the query near zero, like the resampler's latents, and set the norm's scale to one."""
        init.normal_(self.query, std=LATENT_INIT_STD)
        init.ones_(self.norm_scale)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Pool each row.

        Args:
            hidden_states: states after the unimodal layers, shape `(B, L, D)`.
            attention_mask: shape `(B, L)`, zero at padding; `None`: no padding.

        Returns:
            Shape `(B, D)`.
        """
        mask = None
        if attention_mask is not None and not self.config.text_pool_attends_padding:
            mask = attention_mask.bool()
        query = self.query.expand(len(hidden_states), -1, -1)  # (B, 1, D)
        pooled = query + self.attention(hidden_states, query, mask, self.config._attn_implementation)
        pooled = pooled + self.feed_forward(pooled)
        return F.layer_norm(pooled[:, 0], pooled.shape[-1:], self.norm_scale)
