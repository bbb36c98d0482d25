"""Read what the converter needs from the towers' folders: configs, and weights that a checkpoint leaves out."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    MptConfig,
    PreTrainedConfig,
)

from .checkpoint_files_cosmo import read_state
from .checkpoint_names_cosmo import State, rename
from .towers_cosmo import load_language_model, load_vision_tower


MOSAIC_GPT = "mosaic_gpt"
"""`model_type` of MPT-1B, which has its own code and its own names for what transformers calls MPT."""
_MOSAIC_NAMES = {
    "ln_1": "norm_1", "ln_2": "norm_2", "ln_f": "norm_f", "mlp.mlp_up": "ffn.up_proj", "mlp.mlp_down": "ffn.down_proj",
    "attn.q_ln": "attn.Wqkv.q_norm", "attn.k_ln": "attn.Wqkv.k_norm",
}  # fmt: skip


class Layout(NamedTuple):
    """Where a causal language model of transformers keeps its parts."""

    base: str
    """Name of the base, such as `model`."""
    layers: str
    """Path of the decoder layers in the base, such as `decoder.layers`."""
    embedding: str
    """Path of the token embeddings in the base, such as `decoder.embed_tokens`."""


def read_layout(text_config: Any) -> Layout:
    """Find where a language model of this config keeps its parts.

    Raises:
        ValueError: if it is not a causal language model, or does not keep its layers in a list.
    """
    if type(text_config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"transformers has no causal language model of kind {text_config.model_type}")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(text_config)
    names = {module: name for name, module in model.base_model.named_modules()}
    num_layers = getattr(text_config, "num_hidden_layers", None)
    stack = next((m for m in names if isinstance(m, nn.ModuleList) and len(m) == num_layers), None)
    if stack is None:
        raise ValueError(f"{type(model).__name__} has no list of {num_layers} decoder layers")
    return Layout(model.base_model_prefix, names[stack], names[model.get_input_embeddings()])


def read_text_config(text: str) -> Any:
    """Read the config in a language model's folder or repository.

    Raises:
        ValueError: if transformers has no such model.
    """
    content, _ = PreTrainedConfig.get_config_dict(text)
    return _mpt_config(content) if content.get("model_type") == MOSAIC_GPT else AutoConfig.from_pretrained(text)


def read_tower_config(vision: str) -> Any:
    """Read the config of the vision tower in a folder or repository, which may hold a whole CLIP or SigLIP.

    Raises:
        ValueError: if it is not a vision transformer.
    """
    config = AutoConfig.from_pretrained(vision)
    config = getattr(config, "vision_config", config)
    if not all(isinstance(getattr(config, name, None), int) for name in ("hidden_size", "image_size")):
        raise ValueError(f"{vision} holds a model of kind {config.model_type}, not a CLIP or SigLIP vision tower")
    return config


def read_language_model(text: str, layout: Layout, dtype: torch.dtype) -> State:
    """Read a language model's weights and its head, under the names of `CosmoForConditionalGeneration`."""
    content, _ = PreTrainedConfig.get_config_dict(text)
    if content.get("model_type") == MOSAIC_GPT:
        state = _read_mosaic_gpt(text, dtype)
    else:
        state = load_language_model(text, dtype).state_dict()
    layer = re.compile(rf"^({re.escape(f'{layout.base}.{layout.layers}')}\.\d+)\.")
    wrapped = {"lang_encoder." + layer.sub(r"\1.decoder_layer.", name): t for name, t in state.items()}
    renamed, unknown = rename(wrapped, layout.base)
    assert not unknown
    return renamed


def _read_mosaic_gpt(text: str, dtype: torch.dtype) -> State:
    folder = text if Path(text).is_dir() else snapshot_download(text, allow_patterns=["*.bin*", "*.safetensors*"])
    parts = "|".join(map(re.escape, _MOSAIC_NAMES))
    return {
        re.sub(rf"(?<=\.)({parts})(?=\.)", lambda match: _MOSAIC_NAMES[match[1]], name): tensor.to(dtype)
        for name, tensor in read_state(Path(folder)).items()
    }


def read_vision_tower(vision: str, dtype: torch.dtype) -> State:
    """Read a vision tower's weights, under the names of `CosmoForConditionalGeneration`."""
    tower = load_vision_tower(vision, dtype)
    return {f"model.vision_tower.{name}": tensor for name, tensor in tower.state_dict().items()}


def _mpt_config(content: dict[str, Any]) -> MptConfig:
    """Translate the config of MPT-1B into transformers' `MptConfig`.

    Raises:
        ValueError: if it differs from an MPT by more than its norms on queries and keys.
    """
    needed = {"alibi": True, "alibi_bias_max": 8, "no_bias": True, "mlp_ratio": 4, "logit_scale": None}
    for name, value in needed.items():
        if content.get(name) != value:
            raise ValueError(f"{MOSAIC_GPT} with {name} {content.get(name)} is not supported: it must be {value}")
    return MptConfig(
        d_model=content["d_model"],
        n_heads=content["n_heads"],
        n_layers=content["n_layers"],
        max_seq_len=content["max_seq_len"],
        vocab_size=content["vocab_size"],
        attn_config={
            "qk_ln": content["attn_qk_ln"],
            "clip_qkv": content["attn_clip_qkv"],
            "softmax_scale": content["softmax_scale"],
        },
    )


def fit_rows(table: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Resize a token table or head: cut it, or add rows that are the mean of the known ones."""
    new_rows = table.mean(dim=0, keepdim=True).expand(max(0, num_rows - len(table)), -1)
    return torch.cat([table[:num_rows], new_rows])
