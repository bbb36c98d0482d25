"""Patch tokens from a vision tower of transformers (CLIP, SigLIP).

Shape letters: N pictures, P patches, D width.
"""

from contextlib import nullcontext
from typing import Any

import torch


HALF = (torch.float16, torch.bfloat16)


def encode_patches(tower: Any, pixel_values: torch.Tensor, patch_tokens: str, **kwargs: Any) -> Any:
    """Patch tokens of each picture, without the class token.

    Args:
        tower: a `CLIPVisionModel`, whose last hidden state comes before the final LayerNorm, or a `SiglipVisionModel`,
            which normalises it already.
        pixel_values: shape `(N, 3, height, width)`.
        patch_tokens: `before_ln_post` or `after_ln_post`; see the config.
        kwargs: passed on to the tower, such as `output_hidden_states`.

    Returns:
        The tower's output, with the patch tokens of shape `(N, P, D)` as its `last_hidden_state`.
    """
    with _own_precision(tower, pixel_values.device.type):
        outputs = tower(pixel_values=pixel_values.to(tower.dtype), **kwargs)
    if hasattr(tower.embeddings, "class_embedding"):
        patches = outputs.last_hidden_state[:, 1:]
        outputs.last_hidden_state = tower.post_layernorm(patches) if patch_tokens == "after_ln_post" else patches
    return outputs


def _own_precision(tower: Any, device_type: str) -> Any:
    """Keep a tower that is wholly in half precision out of autocast, which on a GPU widens its stream to float32.

    There every LayerNorm gives float32, CLIP's first one too, so that all its layers would move twice the bytes.
    """
    on = torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)
    if not on or any(weight.dtype not in HALF for weight in tower.parameters()):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


def check_axes(pixel_values: torch.Tensor) -> None:
    """Refuse pixels without axes for media and for frames, the form that other models take.

    Raises:
        ValueError: naming their shape.
    """
    if pixel_values.ndim != 6:
        raise ValueError(
            f"pixel_values has shape {tuple(pixel_values.shape)}; it must be (B, M, F, 3, height, width): samples, "
            "their media, and frames of each"
        )


def check_patch_tokens(tower: Any, patch_tokens: str) -> None:
    """Refuse patch tokens that a tower cannot give.

    Raises:
        ValueError: if the tower always normalises its patch tokens but the config wants them from before that.
    """
    if not hasattr(tower, "embeddings"):
        raise ValueError(f"vision tower {type(tower).__name__} is neither a CLIP nor a SigLIP vision model")
    if patch_tokens == "before_ln_post" and not hasattr(tower.embeddings, "class_embedding"):
        raise ValueError(
            f"{type(tower).__name__} gives patch tokens after its LayerNorm: set patch_tokens='after_ln_post'"
        )
