"""Converts released CosMo and OpenFlamingo checkpoints: `python -m modeling_cosmo.convert_cosmo_checkpoint --help`.

Weights are read as safetensors or with `weights_only=True`, never unpickled.
"""

import argparse
import json
import pickle
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, CLIPVisionConfig

from .checkpoint_names_cosmo import State, plain_names, rename
from .configuration_cosmo import CosmoConfig
from .modeling_cosmo import CosmoForConditionalGeneration
from .processing_cosmo import CosmoProcessor


RELEASED_HEADS, RELEASED_HEAD_DIM = 8, 64  # of every attention of ours in both code bases


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What a conversion did."""

    num_tensors: int
    """Tensors of the model that were filled."""
    unused: list[str]
    """Tensors of the checkpoint that correspond to nothing here."""


def convert_checkpoint(
    checkpoint: str | Path,
    architecture: str | Path | dict[str, Any],
    output: str | Path,
    patch_tokens: Literal["before_ln_post", "after_ln_post"] = "before_ln_post",
    tokenizer: str | None = None,
) -> Conversion:
    """Write a model folder that `from_pretrained` loads.

    Args:
        checkpoint: safetensors file, folder of such files, or torch file.
        architecture: JSON file, or its content: `kind` and values of the language model's config (`language_model`),
            of open_clip's vision tower (`vision`), token ids, and depth, interval, ratio, where these are known.
        output: folder to write.
        patch_tokens: which patch tokens the weights were trained on; see `CosmoConfig.patch_tokens`.
        tokenizer: path or id of the language model's tokenizer, to write a processor too.

    Raises:
        ValueError: if the checkpoint cannot be read, lacks a tensor, or contradicts the architecture, naming a tensor.
    """
    known = architecture if isinstance(architecture, dict) else json.loads(Path(architecture).read_text())
    state = read_state(Path(checkpoint))
    text_config = _text_config(known, state)
    base_prefix, layers_path = _layout(text_config)
    state = plain_names(state, f"{base_prefix}.{layers_path}")
    config = build_config(known, state, text_config, patch_tokens)
    renamed, unused = rename(state, base_prefix)
    model, processor = load_model(config, renamed), None
    if tokenizer is not None:
        processor = CosmoProcessor.from_towers(model.model.vision_tower, tokenizer)
        processor.check_config(config)
    model.save_pretrained(output)
    if processor is not None:
        processor.save_pretrained(output)
    return Conversion(num_tensors=len(renamed), unused=unused)


def read_state(path: Path) -> State:
    """Tensors of a checkpoint under their names in the file, whatever it is wrapped in.

    Raises:
        ValueError: if it is not a file of tensors alone.
    """
    if path.is_dir() or path.suffix == ".safetensors":
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"{path} holds no .safetensors file")
        return {name: tensor for file in files for name, tensor in load_file(file).items()}
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is no torch file that can be read with weights_only=True: {error}") from error
    for wrapper in ("model_state_dict", "state_dict", "module", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict")
    return state


def build_config(
    architecture: dict[str, Any],
    state: State,
    text_config: Any,
    patch_tokens: Literal["before_ln_post", "after_ln_post"],
) -> CosmoConfig:
    """Configuration with the released behaviours switched on.

    Depth, interval, ratio and norms are read off the tensors' names and shapes.

    Raises:
        ValueError: if the architecture says otherwise, naming a tensor.
    """
    found = _read_off(state)
    is_cosmo = "text_latent" in state
    claims = {
        "compress_ratio": architecture.get("cross_attention_compress_ratio"),
        "qk_norm": architecture.get("qv_norm"),
        "cross_attention_layers": _claimed_layers(architecture, text_config.num_hidden_layers),
        "resampler_depth": architecture.get("perceiver", {}).get("depth"),
    }
    for name, claim in claims.items():
        value, tensor = found[name]
        if claim is not None and claim != value:
            raise ValueError(f"tensor {tensor} means that {name} is {value}, but the architecture says {claim}")
    layers, latents = found["cross_attention_layers"][0], state["perceiver.latents"]
    interval = layers[1] - layers[0] if len(layers) > 1 else architecture.get("interval_layer", 1)
    is_regular = layers == list(range(layers[0], text_config.num_hidden_layers, interval))
    return CosmoConfig(
        vision_config=_vision_config(architecture["vision"]),
        text_config=text_config,
        unimodal_depth=layers[0],
        cross_attention_interval=interval if is_regular else 1,
        cross_attention_layers=None if is_regular else layers,
        cross_attention_heads=RELEASED_HEADS,
        cross_attention_head_dim=RELEASED_HEAD_DIM,
        compress_ratio=found["compress_ratio"][0],
        qk_norm=found["qk_norm"][0],
        only_attend_immediate_media=architecture.get("only_attend_immediate_media", True),
        resampler_depth=found["resampler_depth"][0],
        resampler_heads=RELEASED_HEADS,
        resampler_head_dim=RELEASED_HEAD_DIM,
        num_visual_tokens=len(latents) - is_cosmo,
        max_frames=len(state["perceiver.frame_embs"]) if "perceiver.frame_embs" in state else 0,
        patch_tokens=patch_tokens,
        contrastive=is_cosmo,
        shared_dim=len(state["img_to_latents.to_latents.weight"]) if is_cosmo else 512,
        logit_scale_init=architecture.get("contrastive_temperature_init", 0.2),
        text_embedding_depth=layers[0] - 1 if is_cosmo else None,
        text_pool_attends_padding=True,
        vision_mean_includes_padding=True,
        uniform_before_first_medium=True,
        scale_by_uncompressed_head=True,
        visual_token_id=architecture["media_token_id"],
        end_of_chunk_token_id=architecture["eoc_token_id"],
        pad_token_id=architecture.get("pad_token_id"),
        bos_token_id=architecture.get("bos_token_id"),
    )


def load_model(config: CosmoConfig, state: State) -> CosmoForConditionalGeneration:
    """A model that holds these tensors, to be saved.

    Raises:
        ValueError: if a tensor is missing, is left over, or has another shape than the architecture gives it.
    """
    with torch.device("meta"):
        model = CosmoForConditionalGeneration(config)
    expected = model.state_dict()
    if config.tie_word_embeddings:
        expected.pop("lm_head.weight")
        state.pop("lm_head.weight", None)
    for name, tensor in state.items():
        if name not in expected:
            raise ValueError(f"the checkpoint has {name}, which the architecture has not")
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"tensor for {name} has shape {tuple(tensor.shape)}, the architecture gives it "
                f"{tuple(expected[name].shape)}"
            )
    if missing := sorted(expected.keys() - state.keys()):
        raise ValueError(f"the checkpoint lacks {len(missing)} tensors of the architecture, among them {missing[0]}")
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    return model


def _text_config(architecture: dict[str, Any], state: State) -> Any:
    """The language model's config, with as many tokens as the checkpoint has embeddings for."""
    config = AutoConfig.for_model(architecture["kind"], **architecture["language_model"])
    tables = [tensor for name, tensor in state.items() if re.search(r"\.(embed_tokens|embed_in|wte)\.weight$", name)]
    if tables:
        config.vocab_size = len(tables[0])
    return config


def _layout(text_config: Any) -> tuple[str, str]:
    """What a causal language model calls its base, and where that keeps its layers: `model`, `decoder.layers`."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(text_config)
    stacks = ((name, stack) for name, stack in model.base_model.named_modules() if isinstance(stack, nn.ModuleList))
    path = next(name for name, stack in stacks if len(stack) == text_config.num_hidden_layers)
    return model.base_model_prefix, path


def _vision_config(vision: dict[str, Any]) -> CLIPVisionConfig:
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


def _read_off(state: State) -> dict[str, tuple[Any, str]]:
    """What the names and shapes of the tensors say, each with a tensor that says it.

    Raises:
        ValueError: if the checkpoint has no gated blocks or no resampler.
    """
    blocks = {
        int(match[1]): name
        for name in state
        if (match := re.search(r"\.(\d+)\.gated_cross_attn_layer\.attn\.to_q\.weight$", name))
    }
    depths = {
        int(match[1]): name
        for name in state
        if (match := re.match(r"perceiver\.layers\.(\d+)\.0\.to_q\.weight$", name))
    }
    if not blocks or not depths or "perceiver.latents" not in state:
        raise ValueError(
            "the checkpoint has no gated cross-attention blocks or no perceiver: not CosMo or OpenFlamingo"
        )
    last = blocks[max(blocks)]
    inner_width = RELEASED_HEADS * RELEASED_HEAD_DIM
    return {
        "cross_attention_layers": (sorted(blocks), last),
        "compress_ratio": (inner_width // len(state[last]), last),
        "qk_norm": (last.replace("to_q", "q_norm") in state, last),
        "resampler_depth": (len(depths), depths[max(depths)]),
    }


def _claimed_layers(architecture: dict[str, Any], num_layers: int) -> list[int] | None:
    """Layers with a block before them, as the architecture says in CosMo's or in OpenFlamingo's way."""
    if (depth := architecture.get("unimodal_depth")) is not None:
        return list(range(depth, num_layers, architecture.get("interval_layer", 1)))
    if (every := architecture.get("cross_attn_every_n_layers")) is not None:
        return list(range(every - 1, num_layers, every))
    return None


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="convert_cosmo_checkpoint", description=__doc__)
    parser.add_argument("--checkpoint", required=True, help="safetensors file or folder, or torch file")
    parser.add_argument("--architecture", required=True, help="JSON file with the sizes of both towers")
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--patch-tokens", choices=("before_ln_post", "after_ln_post"), default="before_ln_post")
    parser.add_argument("--tokenizer", help="path or id of the language model's tokenizer: writes a processor too")
    options = parser.parse_args(arguments)
    try:
        done = convert_checkpoint(**vars(options))
    except (ValueError, OSError, KeyError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{done.num_tensors} tensors written to {options.output}\n")
    for name in done.unused:
        sys.stdout.write(f"unused: {name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
