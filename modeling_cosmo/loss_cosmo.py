"""Next-token loss that needs memory only for the logits and their gradient.

`torch.nn.functional.cross_entropy` keeps the log-probabilities as well as the logits, and computes a gradient for
both; in half precision, transformers also gives it a float32 copy of the logits. With a vocabulary of 50,000 that is
the memory peak of a training step (docs/benchmarks.md).
Shape letters: N tokens, K vocabulary.
"""

from typing import Any

import torch
from torch.nn import functional as F

from .tokens_cosmo import IGNORED_LABEL


CHUNK = 128
"""Tokens per chunk: the logits of one chunk are copied, to at least float32, to compute its loss or gradient."""


class _TokenLoss(torch.autograd.Function):
    """Cross-entropy of each token, shape `(N,)`, zero where the label does not count."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(logits, labels)
        chunks = zip(logits.split(CHUNK), labels.split(CHUNK), strict=True)
        return torch.cat([F.cross_entropy(_precise(part), of_part, reduction="none") for part, of_part in chunks])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, labels = ctx.saved_tensors
        counts = labels != IGNORED_LABEL
        columns = labels.where(counts, 0)[:, None]  # (N, 1)
        weights = (gradients[0] * counts)[:, None]  # (N, 1)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # create_graph, for second derivatives
            whole = _precise(logits).softmax(dim=-1) - F.one_hot(columns[:, 0], logits.shape[-1])
            return (whole * weights).to(logits.dtype), None
        gradient = torch.empty_like(logits)
        for start in range(0, len(logits), CHUNK):
            rows = slice(start, start + CHUNK)
            part = _precise(logits[rows]).softmax(dim=-1).mul_(weights[rows])
            gradient[rows] = part.scatter_add_(-1, columns[rows], -weights[rows])
        return gradient, None


def _precise(logits: torch.Tensor) -> torch.Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def next_token_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    vocab_size: int,
    num_items_in_batch: torch.Tensor | int | None = None,
    shift_labels: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor:
    """Mean cross-entropy of the next token, as computed by `ForCausalLMLoss` of transformers.

    Args:
        logits: shape `(..., L, K)`.
        labels: token ids, shape `(..., L)`, not shifted; -100 does not count.
        vocab_size: K.
        num_items_in_batch: divides the sum; default: the number of labels that count (at least one).
        shift_labels: used instead of `labels`, already shifted.

    Returns:
        Scalar, in nats, at least float32.

    Raises:
        ValueError: if there are not as many labels as tokens.
    """
    if shift_labels is None:
        shift_labels = F.pad(labels[..., 1:], (0, 1), value=IGNORED_LABEL)
    shift_labels = shift_labels.flatten().to(logits.device)
    if num_items_in_batch is None:
        num_items_in_batch = (shift_labels != IGNORED_LABEL).sum().clamp(min=1)
    logits = logits.reshape(-1, vocab_size)  # (N, K)
    if len(logits) != len(shift_labels):
        raise ValueError(f"{len(shift_labels)} labels for the logits of {len(logits)} tokens")
    return _TokenLoss.apply(logits, shift_labels).sum() / num_items_in_batch
