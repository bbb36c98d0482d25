"""Clips as evaluation receives them, and their features. Axes: N clips, F frames, P patches."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.data.features import encode, pixels_of


Media = torch.Tensor | NDArray[np.float16] | Sequence[NDArray[np.uint8]]
"""Features (N, F, P, D_v) of the frozen tower, or the frames of each clip, uint8 (F, 3, H, W)."""


def media_features(model: Any, processor: Any, media: Media) -> torch.Tensor:
    """Return features (N, F, P, D_v) of clips; encode frames with the model's vision tower, pass features unchanged.

    Raises:
        ValueError: if clips have different numbers of frames.
    """
    if isinstance(media, torch.Tensor):
        return media
    if isinstance(media, np.ndarray) and media.dtype != np.uint8:
        return torch.from_numpy(np.ascontiguousarray(media))
    counts = {len(frames) for frames in media}
    if len(counts) != 1:
        raise ValueError(f"clips have {sorted(counts)} frames; give each the same number")
    encoded = encode(model, torch.cat([pixels_of(processor, frames) for frames in media]))
    return encoded.reshape(len(media), counts.pop(), *encoded.shape[1:])


def feature_batches(model: Any, features: torch.Tensor, batch_size: int) -> Iterator[torch.Tensor]:
    """Yield batches of one medium per sample, on the model's device and in its dtype: (B, 1, F, P, D_v)."""
    for part in features.split(batch_size):
        yield part[:, None].to(device=model.device, dtype=model.dtype)
