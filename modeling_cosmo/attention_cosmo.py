"""Attention and feed-forward layers shared by the parts of CosMo.

Shape letters: B batch, H heads, Q queries, S keys, D width, C channels of a head.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **_: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax attention written out, for callers that want the weights.

    Args:
        module: the calling layer (unused; part of the interface of `ALL_ATTENTION_FUNCTIONS`).
        query: shape `(B, H, Q, C)`.
        key: shape `(B, H, S, C)`.
        value: shape `(B, H, S, C)`.
        attention_mask: boolean, broadcastable to `(B, H, Q, S)`, `True` = may attend.
        scaling: factor on the products.

    Returns:
        The attended values `(B, Q, H, C)` and the weights `(B, H, Q, S)`.
    """
    scores = query @ key.transpose(-1, -2) * scaling  # (B, H, Q, S)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2), weights


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
    implementation: str | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attend with the implementation that the config names; shapes as in `eager_attention`.

    Flash and flex attention cannot express a boolean mask per query, so SDPA replaces them.
    """
    name = implementation or "eager"
    if "flash" in name or "flex" in name:
        name = "sdpa"
    interface = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention)
    return interface(module, query, key, value, mask, scaling=scaling, dropout=0.0, is_causal=False)


def split_heads(states: torch.Tensor, head_dim: int) -> torch.Tensor:
    """`(B, S, H * C)` -> `(B, H, S, C)`; under tensor parallelism, H counts only the heads on this device."""
    return states.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def initialise_linear(layer: nn.Linear) -> None:
    """Initialise with torch's default for a linear layer (variance 1 / (3 * inputs)), like the released model."""
    init.kaiming_uniform_(layer.weight, a=5**0.5)


class FeedForward(nn.Module):
    """LayerNorm, linear, exact GELU, linear; only the norm has a bias. The caller adds the residual."""

    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up_proj = nn.Linear(width, inner_width, bias=False)
        self.down_proj = nn.Linear(inner_width, width, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`(..., D)` -> `(..., D)`."""
        return self.down_proj(F.gelu(self.up_proj(self.norm(states))))


class LatentAttention(nn.Module):
    """Learned latents attend to a sequence and to themselves (perceiver attention, Flamingo's appendix A.1.1).

    The resampler uses it on patch tokens, the text pool on hidden states of the language model.
    """

    def __init__(self, width: int, num_heads: int, head_dim: int, qk_norm: bool = False) -> None:
        super().__init__()
        inner_width = num_heads * head_dim
        self.head_dim = head_dim
        self.scaling = head_dim**-0.5
        self.norm_media = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, inner_width, bias=False)
        self.k_proj = nn.Linear(width, inner_width, bias=False)
        self.v_proj = nn.Linear(width, inner_width, bias=False)
        self.o_proj = nn.Linear(inner_width, width, bias=False)
        self.q_norm = nn.LayerNorm(inner_width) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(inner_width) if qk_norm else nn.Identity()

    def forward(
        self, media: torch.Tensor, latents: torch.Tensor, mask: torch.Tensor | None, implementation: str | None
    ) -> torch.Tensor:
        """Attend from every latent.

        Args:
            media: sequence to read, shape `(B, S, D)`.
            latents: queries, shape `(B, Q, D)`; they are keys too.
            mask: boolean, shape `(B, S)`, `False` where the sequence is padding; `None`: no padding.
            implementation: name of the attention implementation.

        Returns:
            Shape `(B, Q, D)`, without the residual.
        """
        latents = self.norm_latents(latents)
        context = torch.cat([self.norm_media(media), latents], dim=1)  # (B, S + Q, D)
        query = split_heads(self.q_norm(self.q_proj(latents)), self.head_dim)  # (B, H, Q, C)
        key = split_heads(self.k_norm(self.k_proj(context)), self.head_dim)  # (B, H, S + Q, C)
        value = split_heads(self.v_proj(context), self.head_dim)
        if mask is not None:
            mask = F.pad(mask, (0, latents.shape[1]), value=True)[:, None, None]  # (B, 1, 1, S + Q)
        attended, _ = attend(self, query, key, value, mask, self.scaling, implementation)
        return self.o_proj(attended.flatten(2))
