"""Symmetric contrastive loss between texts and media (CLIP, arXiv:2103.00020, figure 3), over all processes.

Shape letters: B batch of this process, E shared embedding dimension, W processes.
"""

from typing import Any

import torch
from torch import distributed
from torch.nn import functional as F

from .tokens_cosmo import IGNORED_LABEL


class _GatherRows(torch.autograd.Function):
    """Concatenate the rows of all processes; in backward, each gets the gradients of all processes for its rows."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        ctx.num_rows = len(rows)
        pieces = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(pieces, rows.contiguous())
        return torch.cat(pieces)  # (W * B, E)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        gradient = gradients[0].contiguous().clone()
        distributed.all_reduce(gradient)
        start = distributed.get_rank() * ctx.num_rows
        return gradient[start : start + ctx.num_rows]


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Gather the rows of all processes in rank order, with gradient; a single process gets its own rows back.

    Every process must call this, with the same number of rows. Data parallelism afterwards divides the summed gradient
    by the number of processes; the result equals the gradient of one process with the whole batch.

    Args:
        rows: one vector per sample of this process, shape `(B, E)`.

    Returns:
        Shape `(W * B, E)`.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return rows
    return _GatherRows.apply(rows)


def contrastive_loss(
    vision_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    is_pair: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean cross-entropy, in nats, of picking each row's partner among the batch, both ways.

    Args:
        vision_embeds: one vector per sample, any norm, shape `(B, E)`.
        text_embeds: their partners, shape `(B, E)`; row i of one matches row i of the other.
        logit_scale: inverse temperature, already exponentiated, one number.
        is_pair: which rows are a text with media, boolean `(B,)`; other rows are left out. Default: all rows.

    Returns:
        Scalar float32 tensor; `log(B)` for uninformative embeddings, 0 without a pair.

    Raises:
        ValueError: if the two shapes differ.
    """
    if vision_embeds.shape != text_embeds.shape:
        raise ValueError(
            f"every vision embedding needs one text partner; got shapes "
            f"{tuple(vision_embeds.shape)} and {tuple(text_embeds.shape)}"
        )
    vision = F.normalize(vision_embeds.float(), dim=-1)  # (B, E)
    text = F.normalize(text_embeds.float(), dim=-1)  # (B, E)
    logits = logit_scale.float() * text @ vision.T  # (B, B), row = text, column = vision
    partner = torch.arange(len(logits), device=logits.device)
    if is_pair is None:
        is_pair = torch.ones_like(partner, dtype=torch.bool)
    logits = logits.masked_fill(~(is_pair[:, None] & is_pair), torch.finfo(logits.dtype).min)
    partner = partner.masked_fill(~is_pair, IGNORED_LABEL)
    picks = torch.stack([F.cross_entropy(scores, partner, reduction="sum") for scores in (logits, logits.T)])
    return picks.mean() / is_pair.sum().clamp(min=1)
