"""Configuration of a released checkpoint, read off its tensors and checked against what the user says about it."""

import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import CLIPVisionConfig

from .checkpoint_names_cosmo import State, without_use
from .configuration_cosmo import CosmoConfig
from .presets_cosmo import VISION_WIDTH, Format, Preset


OPEN_CLIP_SIZES = ("width", "layers", "heads", "image_size", "patch_size", "output_dim")
"""What an architecture file must say about open_clip's vision tower."""
RELEASED_HEADS, RELEASED_HEAD_DIM = 8, 64  # of every attention outside the towers, in both code bases


@dataclass(frozen=True, kw_only=True)
class InferredConfig:
    """Values read off the names and shapes of a checkpoint's tensors, each with the tensor that shows it."""

    values: dict[str, tuple[Any, str]]

    def compare(self, name: str, claim: Any, source: str) -> None:
        """Refuse a claim that the tensors contradict; `None` is no claim.

        Raises:
            ValueError: naming a tensor.
        """
        value, tensor = self.values.get(name, (None, ""))
        if None not in (claim, value) and claim != value:
            raise ValueError(f"tensor {tensor} means that {name} is {value}, but {source} says {claim}")

    def __getitem__(self, name: str) -> Any:
        return self.values[name][0]


def find_format(state: State, claim: Format | None, source: str) -> Format:
    """Find out which code base wrote a checkpoint.

    Args:
        state: tensors under plain or released names.
        claim: what the user says, or `None`.
        source: name of the claim's source, for errors.

    Raises:
        ValueError: if neither code base wrote it, or the other one did, naming a tensor.
    """
    for name in state:
        top = name.removeprefix("module.").partition(".")[0]
        if top in ("lang_model", "lang_encoder"):
            value: Format = "cosmo" if top == "lang_model" else "openflamingo"
            if claim not in (None, value):
                raise ValueError(f"tensor {name} means that the format is {value}, but {source} says {claim}")
            return value
    raise ValueError("the checkpoint has no tensor of lang_model or lang_encoder: not CosMo or OpenFlamingo")


def build_config(
    known: dict[str, Any],
    state: State,
    text_config: Any,
    vision_config: Any,
    patch_tokens: Literal["before_ln_post", "after_ln_post"],
    token_ids: dict[str, Any],
    preset: Preset | None = None,
) -> CosmoConfig:
    """Build the configuration, with the released behaviours switched on.

    Depth, interval, ratio and norms are read off the tensors' names and shapes.

    Args:
        known: content of an architecture file; may be empty.
        state: output of `plain_names`.
        text_config: of the language model.
        vision_config: of the vision tower.
        patch_tokens: see `CosmoConfig.patch_tokens`.
        token_ids: ids of the special tokens, by the names of `CosmoConfig`'s fields.
        preset: the released model that this checkpoint must be.

    Raises:
        ValueError: if one of these contradicts the tensors, naming a tensor.
    """
    found = read_off(state)
    _compare(found, known, text_config, vision_config, preset)
    head = state.get("img_to_latents.to_latents.weight")
    contrastive = head is not None or "text_latent" in state
    layers = found["cross_attention_layers"]
    interval = layers[1] - layers[0] if len(layers) > 1 else known.get("interval_layer", 1)
    is_regular = layers == list(range(layers[0], text_config.num_hidden_layers, interval))
    return CosmoConfig(
        vision_config=vision_config,
        text_config=text_config,
        unimodal_depth=layers[0],
        cross_attention_interval=interval if is_regular else 1,
        cross_attention_layers=None if is_regular else layers,
        cross_attention_heads=RELEASED_HEADS,
        cross_attention_head_dim=RELEASED_HEAD_DIM,
        compress_ratio=found["compress_ratio"],
        qk_norm=found["qk_norm"],
        only_attend_immediate_media=known.get("only_attend_immediate_media", True),
        resampler_depth=found["resampler_depth"],
        resampler_heads=RELEASED_HEADS,
        resampler_head_dim=RELEASED_HEAD_DIM,
        num_visual_tokens=len(state["perceiver.latents"]) - contrastive,
        max_frames=len(state["perceiver.frame_embs"]) if "perceiver.frame_embs" in state else 0,
        patch_tokens=patch_tokens,
        contrastive=contrastive,
        shared_dim=512 if head is None else _matrix_shape(state, "img_to_latents.to_latents.weight")[0],
        logit_scale_init=float(known.get("contrastive_temperature_init", 0.2)),
        text_embedding_depth=layers[0] - 1 if contrastive else None,
        text_pool_attends_padding=True,
        vision_mean_includes_padding=True,
        uniform_before_first_medium=True,
        scale_by_uncompressed_head=True,
        **token_ids,
    )


def read_vision_config(vision: dict[str, Any]) -> CLIPVisionConfig:
    """Config of transformers for a vision tower that is described with open_clip's names."""
    return CLIPVisionConfig(
        hidden_size=vision["width"],
        intermediate_size=int(vision["width"] * vision.get("mlp_ratio", 4.0)),
        num_hidden_layers=vision["layers"],
        num_attention_heads=vision["heads"],
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        hidden_act=vision.get("act", "quick_gelu"),
        projection_dim=vision["output_dim"],
    )


def read_off(state: State) -> InferredConfig:
    """Read the architecture off the names and shapes of the tensors.

    Args:
        state: output of `plain_names`.

    Raises:
        ValueError: if the checkpoint has no gated blocks or no resampler.
    """
    blocks = _numbered(state, r".+\.(\d+)\.gated_cross_attn_layer\.attn\.to_q\.weight")
    depths = _numbered(state, r"perceiver\.layers\.(\d+)\.0\.to_q\.weight")
    if not blocks or not depths or "perceiver.latents" not in state:
        raise ValueError(
            "the checkpoint has no gated cross-attention blocks or no perceiver: not CosMo or OpenFlamingo"
        )
    useless = set(without_use(state))
    useful = {name: tensor for name, tensor in state.items() if name not in useless}
    layers = _numbered(useful, r"lang_\w+\.(?:.+\.)?(\d+)\.decoder_layer\..+")
    last = blocks[max(blocks)]
    inner_width, text_width = _matrix_shape(state, last)
    full_width = RELEASED_HEADS * RELEASED_HEAD_DIM
    if full_width % inner_width:
        raise ValueError(
            f"tensor {last} has shape {(inner_width, text_width)}; its heads must have {full_width} channels in all, "
            "or a divisor of that"
        )
    values = {
        "cross_attention_layers": (sorted(blocks), last),
        "compress_ratio": (full_width // inner_width, last),
        "qk_norm": (last.replace("to_q", "q_norm") in state, last),
        "resampler_depth": (len(depths), depths[max(depths)]),
        "the language model's width": (text_width, last),
        "the vision tower's width": (_matrix_shape(state, "perceiver.latents")[1], "perceiver.latents"),
    }
    if layers:
        values["the number of decoder layers"] = (max(layers) + 1, layers[max(layers)])
    return InferredConfig(values=values)


def _matrix_shape(state: State, name: str) -> torch.Size:
    shape = state[name].shape
    if len(shape) != 2 or not all(shape):
        raise ValueError(f"tensor {name} has shape {tuple(shape)}; it must be a matrix")
    return shape


def _numbered(state: State, pattern: str) -> dict[int, str]:
    """Names that match, by the number in them."""
    return {int(match[1]): name for name in state if (match := re.fullmatch(pattern, name))}


def _compare(
    found: InferredConfig, known: dict[str, Any], text_config: Any, vision_config: Any, preset: Preset | None
) -> None:
    num_layers, source = text_config.num_hidden_layers, "the architecture"
    found.compare("compress_ratio", known.get("cross_attention_compress_ratio"), source)
    found.compare("qk_norm", known.get("qv_norm"), source)
    found.compare("cross_attention_layers", _claimed_layers(known, num_layers), source)
    found.compare("resampler_depth", known.get("perceiver", {}).get("depth"), source)
    if preset is not None:
        source = "the preset"
        found.compare("the number of decoder layers", preset.num_layers, source)
        found.compare("the language model's width", preset.width, source)
        found.compare("the vision tower's width", VISION_WIDTH, source)
        every = {"cross_attn_every_n_layers": preset.every}
        found.compare("cross_attention_layers", _claimed_layers(every, preset.num_layers), source)
        if text_config.model_type != preset.kind:
            raise ValueError(
                f"the preset's language model is of kind {preset.kind} ({preset.language_model}), but the one given "
                f"is of kind {text_config.model_type}"
            )
    found.compare("the number of decoder layers", num_layers, "the language model's config")
    found.compare("the language model's width", text_config.hidden_size, "the language model's config")
    found.compare("the vision tower's width", vision_config.hidden_size, "the vision tower's config")
    layers, tensor = found.values["cross_attention_layers"]
    if layers[-1] >= num_layers:
        raise ValueError(f"tensor {tensor} is at a layer that the language model lacks: it has {num_layers} layers")


def _claimed_layers(known: dict[str, Any], num_layers: int) -> list[int] | None:
    """Layers with a block before them, as the architecture states them in the terms of CosMo or OpenFlamingo."""
    if (depth := known.get("unimodal_depth")) is not None:
        return list(range(depth, num_layers, known.get("interval_layer", 1)))
    if (every := known.get("cross_attn_every_n_layers")) is not None:
        return list(range(every - 1, num_layers, every))
    return None
