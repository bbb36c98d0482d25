"""Which media each text token may look at (Flamingo, arXiv:2204.14198, section 2.3).

Shape letters: B samples, N text rows per sample (beams or returned sequences; 1 otherwise), L text length,
M media slots per sample, F frames, V visual tokens per medium.
"""

from typing import NamedTuple

import torch


PADDING_SLOT = torch.iinfo(torch.int64).max
"""Place of a media slot that holds no medium: greater than every place, so no comparison with a text token is true."""


class MediaVisibility(NamedTuple):
    """What the cross-attention of one forward pass may look at."""

    mask: torch.Tensor
    """Boolean, shape `(B, 1, N * L, M * V)`, `True` = may attend; never all `False` in a row, so softmax is safe."""
    sees_any: torch.Tensor
    """Boolean, shape `(B, N * L, 1)`: `False` where the token has no medium yet; there the mask shows every medium."""


def media_places(is_real: torch.Tensor) -> torch.Tensor:
    """Place of each media slot in its row's order of real media.

    Args:
        is_real: boolean, shape `(B, M)`, `False` where the slot is padding.

    Returns:
        Integer tensor of shape `(B, M)`: 0 for a row's first real medium, `PADDING_SLOT` for padding.
    """
    return (is_real.long().cumsum(dim=-1) - 1).masked_fill(~is_real, PADDING_SLOT)


def last_media_index(is_placeholder: torch.Tensor, num_seen: torch.Tensor, num_media: torch.Tensor) -> torch.Tensor:
    """Place of the medium that most recently precedes each token.

    A surplus placeholder looks at the last medium, so that it cannot blind its row.

    Args:
        is_placeholder: boolean, shape `(R, L)`; the k-th placeholder of a row stands for medium k and sees it.
        num_seen: placeholders of each row before this piece of text, shape `(R,)`.
        num_media: real media of each row, shape `(R,)`.

    Returns:
        Integer tensor of shape `(R, L)`; `-1` where no medium has been seen yet.
    """
    seen = num_seen[:, None] + is_placeholder.long().cumsum(dim=-1)  # (R, L)
    return torch.minimum(seen, num_media[:, None]) - 1


def media_visibility(
    media_index: torch.Tensor,
    places: torch.Tensor,
    tokens_per_medium: int,
    only_immediate: bool,
) -> MediaVisibility:
    """Let every token attend to the visual tokens of its own medium, or of all media up to and including it.

    Args:
        media_index: output of `last_media_index`, shape `(B * N, L)`; rows of one sample are neighbours.
        places: output of `media_places`, shape `(B, M)`.
        tokens_per_medium: visual tokens per medium after resampling (V).
        only_immediate: see only the latest medium instead of all media so far.
    """
    index = media_index.reshape(len(places), -1, 1)  # (B, N * L, 1)
    slots = places[:, None, :]  # (B, 1, M)
    sees_medium = slots == index if only_immediate else slots <= index  # (B, N * L, M)
    sees_any = sees_medium.any(dim=-1, keepdim=True)  # (B, N * L, 1)
    sees_token = (sees_medium | ~sees_any).repeat_interleave(tokens_per_medium, dim=-1)  # (B, N * L, M * V)
    return MediaVisibility(sees_token[:, None], sees_any)
