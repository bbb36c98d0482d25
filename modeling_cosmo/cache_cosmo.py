"""Cache of a text in progress: keys and values of the text and of its media, and the place of each medium.

Shape letters: R text rows (samples x beams), B samples, M media slots.
"""

import torch
from transformers import Cache, DynamicCache, EncoderDecoderCache

from .media_attention_cosmo import PADDING_SLOT, last_media_index, media_places


class CosmoCache(EncoderDecoderCache):
    """Self-attention cache of the language model, plus the projected keys and values of the media.

    The media part has one row per sample, not per beam: all beams of a sample see the same media, so expanding or
    reordering beams does not touch it. It grows when a later turn brings new media.
    """

    def __init__(self, self_attention_cache: Cache, cross_attention_cache: Cache | None = None) -> None:
        super().__init__(self_attention_cache, cross_attention_cache or DynamicCache())
        self.places: torch.Tensor | None = None
        """Place of every media slot in its sample's order, shape `(B, M)`; see `media_places`."""
        self.num_seen: torch.Tensor | None = None
        """Media that each text row has passed so far, shape `(R,)`; generated placeholders do not count."""
        self.length_with_media: int | torch.Tensor = 0
        """Tokens up to and including the last placeholder of any row; cropping cannot remove these."""

    def add_media(self, places: torch.Tensor) -> torch.Tensor:
        """Append the slots of new media to those of earlier turns.

        Args:
            places: output of `media_places` for the new media alone, shape `(B, M_new)`.

        Returns:
            The places of all slots, shape `(B, M)`.
        """
        if self.places is not None:
            num_before = (self.places != PADDING_SLOT).sum(dim=-1, keepdim=True)  # (B, 1)
            places = torch.where(places == PADDING_SLOT, places, places + num_before)
            places = torch.cat([self.places, places], dim=-1)
        self.places = places
        return places

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens of the text; `tokens_to_remove` is their number, negative.

        Raises:
            ValueError: if the placeholder of a medium is among them.
        """
        if self.get_seq_length() + tokens_to_remove < self.length_with_media:
            raise ValueError(
                f"cannot remove {-tokens_to_remove} of {self.get_seq_length()} cached tokens: token "
                f"{int(self.length_with_media) - 1} stands for a medium, which the cache has to keep"
            )
        super().crop(tokens_to_remove)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Reorder the text part; all beams of a sample share its media."""
        self.self_attention_cache.reorder_cache(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat the text part; the new rows share their sample's media."""
        self.self_attention_cache.batch_repeat_interleave(repeats)
        if self.num_seen is not None:
            self.num_seen = self.num_seen.repeat_interleave(repeats)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some rows; only for a cache with one text row per sample."""
        self.self_attention_cache.batch_select_indices(indices)
        if self.places is not None and self.num_seen is not None:
            if len(self.places) != len(self.num_seen):
                raise ValueError(
                    f"cannot select rows: {len(self.num_seen)} text rows share {len(self.places)} samples"
                )
            self.cross_attention_cache.batch_select_indices(indices)
            self.places = self.places[indices]
        if self.num_seen is not None:
            self.num_seen = self.num_seen[indices]

    def reset(self) -> None:
        """Forget the text and its media."""
        super().reset()
        self.places = self.num_seen = None
        self.length_with_media = 0


def follow_media(
    is_placeholder: torch.Tensor, is_real: torch.Tensor | None, cache: CosmoCache | None
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Find the place of each medium of a text, and the latest medium before each token.

    Placeholders count only in a pass that brings media: a placeholder that the model itself emits changes nothing.

    Args:
        is_placeholder: boolean, shape `(R, L)`.
        is_real: which media slots of this pass hold a medium, boolean `(B, M_new)`; `None`: the pass brings none.
        cache: cache of the text so far; it is updated in place.

    Returns:
        Places of all slots, shape `(B, M)`, or `None` for a text without media so far; and for each token the place of
        the latest medium, shape `(R, L)`, `-1` before the first one.
    """
    if is_real is None:  # no new media: every token follows the same medium as the last token before this pass
        if cache is None or cache.places is None or cache.num_seen is None:
            return None, torch.full_like(is_placeholder, -1, dtype=torch.long)
        return cache.places, (cache.num_seen[:, None] - 1).expand_as(is_placeholder)
    new_places = media_places(is_real)
    places = new_places if cache is None else cache.add_media(new_places)
    step = rows_per_sample(len(is_placeholder), len(places))
    num_media = (places != PADDING_SLOT).sum(dim=-1).repeat_interleave(step)  # (R,)
    num_seen = torch.zeros_like(num_media) if cache is None or cache.num_seen is None else cache.num_seen
    media_index = last_media_index(is_placeholder, num_seen, num_media)
    if cache is not None:
        cache.length_with_media = cache.get_seq_length() + _last_step(media_index, num_seen)
        cache.num_seen = media_index[:, -1] + 1
    return places, media_index


def rows_per_sample(num_rows: int, num_samples: int) -> int:
    """Number of text rows that share the media of one sample.

    Raises:
        ValueError: if the rows are not a multiple of the samples.
    """
    if num_rows % num_samples:
        raise ValueError(f"{num_rows} texts cannot share the media of {num_samples} samples")
    return num_rows // num_samples


def _last_step(media_index: torch.Tensor, num_seen: torch.Tensor) -> torch.Tensor:
    """Number of tokens of this piece, `(R, L)`, up to the last that reaches a new medium in any row; 0 if none."""
    num_before = (media_index < media_index[:, -1:]).sum(dim=-1)  # (R,)
    return ((num_before + 1) * (media_index[:, -1] >= num_seen)).amax()
