"""Sizes of models, and models of these sizes with weights drawn on the device."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, OPTConfig, OPTForCausalLM

from modeling_cosmo import CosmoForConditionalGeneration


PADDING = 1
"""OPT's own padding id."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One kind of training data, as the released training has it."""

    media: int
    """Pictures or clips of a sample."""
    frames: int
    """Frames of each."""
    length: int
    """Tokens of a sample."""
    contrastive: bool
    """Whether it counts in the contrastive loss."""


KINDS = {
    "pairs": Batch(media=1, frames=1, length=32, contrastive=True),
    "clips": Batch(media=1, frames=3, length=32, contrastive=True),
    "interleaved": Batch(media=3, frames=1, length=128, contrastive=False),
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Everything about a size that sections need."""

    text: Mapping[str, Any]
    """Fields of `OPTConfig`."""
    vision: Mapping[str, Any]
    """Fields of `CLIPVisionConfig`."""
    variants: Mapping[str, Mapping[str, int]]
    """Depth / interval / compression of the gated blocks -> fields of `CosmoConfig`."""
    options: Mapping[str, int]
    """Further fields of `CosmoConfig`."""
    micro_batches: Mapping[str, tuple[int, ...]]
    """Kind of data -> sizes to try, ascending."""
    prompt_length: int
    """Tokens of a prompt before generation."""
    pictures: tuple[int, ...]
    """Numbers of pictures in a prompt."""
    batches: tuple[int, ...]
    """Prompts at once."""
    new_tokens: int
    """Tokens to generate."""
    rounds: int
    """Times that a measurement is repeated."""
    recipe: str
    """Of the real run."""
    videos: int
    """Rendered for it."""
    steps: int
    """It takes so many."""
    compared_steps: int
    """It takes so many on the CPU, too."""

    @property
    def visual_token_id(self) -> int:
        """The last of the vocabulary."""
        return self.text["vocab_size"] - 1


def _variant(depth: int, interval: int, ratio: int) -> dict[str, int]:
    return {"unimodal_depth": depth, "cross_attention_interval": interval, "compress_ratio": ratio}


SHAPES = {
    "cosmo-2.1b": Shape(
        text={
            "vocab_size": 50272, "hidden_size": 2048, "word_embed_proj_dim": 2048, "ffn_dim": 8192,
            "num_hidden_layers": 24, "num_attention_heads": 32, "dropout": 0.0,
        },
        vision={
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
            "image_size": 224, "patch_size": 14,
        },
        variants={"12/2/2": _variant(12, 2, 2), "12/1/1": _variant(12, 1, 1)},
        options={},
        micro_batches={
            "pairs": (16, 64, 128, 256, 512), "clips": (16, 32, 64, 128, 256), "interleaved": (8, 16, 32, 64, 128),
        },
        prompt_length=96, pictures=(1, 5, 32), batches=(1, 32), new_tokens=64, rounds=3,
        recipe="quickstart", videos=1200, steps=1000, compared_steps=20,
    ),
    "tiny": Shape(
        text={
            "vocab_size": 704, "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64,
            "num_hidden_layers": 4, "num_attention_heads": 2, "max_position_embeddings": 256, "dropout": 0.0,
        },
        vision={
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 14,
        },
        variants={"2/2/2": _variant(2, 2, 2)},
        options={"resampler_depth": 2, "num_visual_tokens": 5, "shared_dim": 8},
        micro_batches={"pairs": (2, 4), "clips": (2,), "interleaved": (2,)},
        prompt_length=20, pictures=(1, 3), batches=(1, 2), new_tokens=8, rounds=1,
        recipe="quickstart-smoke", videos=10, steps=3, compared_steps=3,
    ),
}  # fmt: skip


def plain_model(shape: Shape, device: torch.device, dtype: torch.dtype) -> Any:
    """The language model alone."""
    torch.manual_seed(0)
    with device:
        model: torch.nn.Module = OPTForCausalLM(OPTConfig(**shape.text))
    return model.to(dtype).eval()


def cosmo_model(shape: Shape, variant: str, device: torch.device, dtype: torch.dtype) -> Any:
    """CosMo with open gates, everything in one dtype."""
    torch.manual_seed(0)
    with device:
        model = CosmoForConditionalGeneration.from_towers(
            CLIPVisionModel(CLIPVisionConfig(**shape.vision)),
            OPTForCausalLM(OPTConfig(**shape.text)),
            visual_token_id=shape.visual_token_id,
            dtype=dtype,
            **shape.variants[variant],
            **shape.options,
        )
    for name, parameter in model.named_parameters():
        if name.endswith("_gate"):
            torch.nn.init.constant_(parameter, 0.5)
    return model.eval()


def hold_for_training(model: Any) -> Any:
    """Frozen towers in bfloat16, two bytes a weight; what trains in float32, which autocast reads as bfloat16."""
    model.freeze_towers()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else torch.bfloat16)
    return model.train()


def random_inputs(
    shape: Shape, device: torch.device, *, rows: int, length: int, media: int, frames: int = 1, padded: bool = False
) -> dict[str, torch.Tensor]:
    """Texts with their media spread evenly over them.

    Args:
        shape: sizes of the model.
        device: where they lie.
        rows: samples.
        length: tokens of each.
        media: of each sample; 0 for none.
        frames: of each medium.
        padded: whether every other row is a quarter shorter, padded on the left.
    """
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(10, shape.visual_token_id, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        mask[::2, : length // 4] = 0
        ids[::2, : length // 4] = PADDING
    inputs = {"input_ids": ids, "attention_mask": mask}
    if media:
        first = length // 4 if padded else 0
        ids[:, first + torch.arange(media) * ((length - first) // media)] = shape.visual_token_id
        size = shape.vision["image_size"]
        inputs["pixel_values"] = torch.randn(rows, media, frames, 3, size, size, generator=generator)
    return {name: value.to(device) for name, value in inputs.items()}


def training_inputs(shape: Shape, kind: str, rows: int, device: torch.device) -> dict[str, Any]:
    """A batch of a kind with labels; says whether the contrastive loss counts."""
    data = KINDS[kind]
    inputs: dict[str, Any] = random_inputs(
        shape, device, rows=rows, length=data.length, media=data.media, frames=data.frames
    )
    ids = inputs["input_ids"]
    labels = ids.masked_fill(ids == shape.visual_token_id, -100)
    return inputs | {"labels": labels, "compute_contrastive": data.contrastive}
