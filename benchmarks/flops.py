"""Floating-point operations that a training step cannot do without, and the rate of the hardware that does them.

Only matrix products count, two operations for each multiplication with its addition; norms, activations, softmax,
the optimizer and the two projections of one vector a sample (below 0.01 %) do not. Per part:

- frozen, below every block (vision tower, lower half of the language model): the forward pass;
- frozen, above the first block (upper half, head): the forward pass and the gradients of the activations;
- trained (resampler, gated blocks, text pool): these and the gradients of the weights.

What is computed again or thrown away does not count: recomputed attention, frozen weights' gradients, padding.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


PEAKS = {  # dense bfloat16 with float32 sums, as the data sheets have it; the longest name that fits counts
    "NVIDIA H100": 989.4e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": 989.4e12,
    "NVIDIA A100": 312e12,
}
CEILING_SIZE = {"cuda": 8192, "cpu": 512}


def counted_flops(step: Callable[[], object]) -> float:
    """Floating-point operations of the matrix products that a step really runs."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def layer_flops(tokens: int, width: int, inner_width: int) -> float:
    """Forward products with the weights of a transformer layer: four square projections and a feed-forward."""
    return 2.0 * tokens * (4 * width * width + 2 * width * inner_width)


def attention_flops(rows: int, queries: int, keys: int, width: int) -> float:
    """Forward products of attention itself: scores and weighted sum."""
    return 4.0 * rows * queries * keys * width


def latent_attention_flops(rows: int, latents: int, media: int, width: int, inner_width: int) -> float:
    """Forward products of perceiver attention with its feed-forward of four times the width."""
    keys = media + latents
    projections = 2.0 * rows * width * inner_width * (2 * latents + 2 * keys)
    return (
        projections + attention_flops(rows, latents, keys, inner_width) + 2.0 * rows * latents * 2 * width * 4 * width
    )


def plain_flops(config: Any, rows: int, length: int) -> float:
    """Forward and backward of a language model that trains whole: the backward takes twice the forward."""
    tokens, width = rows * length, config.hidden_size
    layer = layer_flops(tokens, width, config.ffn_dim) + attention_flops(rows, length, length, width)
    return 3 * (config.num_hidden_layers * layer + 2.0 * tokens * width * config.vocab_size)


def needed_flops(
    config: Any, rows: int, length: int, media: int, *, frames: int = 1, contrastive: bool = True
) -> float:
    """What a training step of CosMo on OPT and CLIP with frozen towers cannot do without; see the module.

    Args:
        config: the model's.
        rows: samples.
        length: tokens of each.
        media: pictures or clips of each.
        frames: of each medium.
        contrastive: whether the step has the contrastive loss, whose text pool only then runs.
    """
    text, vision, num_media = config.text_config, config.vision_config, rows * media
    tokens, width = rows * length, text.hidden_size
    weights = layer_flops(tokens, width, text.ffn_dim)
    attention = attention_flops(rows, length, length, width)
    num_lower = config.block_positions[0]
    language = num_lower * (weights + attention)
    language += (text.num_hidden_layers - num_lower) * (2 * weights + 3 * attention)  # dQ, dK, dV are activations' too
    head = 2 * 2.0 * tokens * width * text.vocab_size

    num_patches = (vision.image_size // vision.patch_size) ** 2
    frame = layer_flops(num_patches + 1, vision.hidden_size, vision.intermediate_size) + attention_flops(
        1, num_patches + 1, num_patches + 1, vision.hidden_size
    )
    embed = 2.0 * num_patches * 3 * vision.patch_size**2 * vision.hidden_size
    tower = num_media * frames * (vision.num_hidden_layers * frame + embed)

    inner = config.resampler_heads * config.resampler_head_dim
    resampler = config.resampler_depth * latent_attention_flops(
        num_media, config.num_latents, frames * num_patches, vision.hidden_size, inner
    )
    inner = config.cross_attention_heads * config.cross_attention_head_dim // config.compress_ratio
    visual_tokens = num_media * config.num_visual_tokens
    block = (
        2.0 * inner * (2 * tokens * width + 2 * visual_tokens * vision.hidden_size)
        + attention_flops(rows, length, media * config.num_visual_tokens, inner)
        + 2.0 * tokens * 2 * width * (config.feed_forward_factor * width // config.compress_ratio)
    )
    inner = config.cross_attention_heads * config.cross_attention_head_dim
    pool = latent_attention_flops(rows, 1, length, width, inner) if contrastive else 0.0
    trained = 3 * (resampler + len(config.block_positions) * block + pool)
    return language + head + tower + trained


def utilisation(flops: float, seconds: float, peak: float) -> float:
    """Share of the peak, from 0 to 1, at which so many operations were done in so many seconds."""
    return flops / seconds / peak


@functools.cache
def peak_rate(device: torch.device) -> tuple[float, str]:
    """Operations a second that utilisation divides by, and where the number is from.

    Cards that are not in `PEAKS`, and processors, count by the rate of a large product measured on the spot.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    known = [card for card in PEAKS if name.startswith(card)]
    if known:
        return PEAKS[max(known, key=len)], "data sheet"
    return product_rate(device), "measured product"


def product_rate(device: torch.device, rounds: int = 5) -> float:
    """Operations a second of one large square product in bfloat16: what the libraries reach here."""
    size = CEILING_SIZE.get(device.type, 2048)
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for index in range(rounds + 2):
        _wait(device)
        started = time.perf_counter()
        left @ right
        _wait(device)
        if index >= 2:
            times.append(time.perf_counter() - started)
    return 2.0 * size**3 / sorted(times)[len(times) // 2]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
