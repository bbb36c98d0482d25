"""Tensor names of released CosMo and OpenFlamingo checkpoints, and the names they get here.

Vision weights have open_clip's names. No code that a saved folder loads imports this module.
"""

import re
from collections.abc import Iterator

import torch


State = dict[str, torch.Tensor]

_FEED_FORWARD = {"0": "norm", "1": "up_proj", "3": "down_proj"}
_LATENT_ATTENTION = {"to_q": "q_proj", "to_out": "o_proj"}
_VISION = (
    (r"class_embedding", r"embeddings.class_embedding"),
    (r"conv1\.weight", r"embeddings.patch_embedding.weight"),
    (r"positional_embedding", r"embeddings.position_embedding.weight"),
    (r"ln_pre\.(\w+)", r"pre_layrnorm.\1"),
    (r"ln_post\.(\w+)", r"post_layernorm.\1"),
    (r"transformer\.resblocks\.(\d+)\.ln_([12])\.(\w+)", r"encoder.layers.\1.layer_norm\2.\3"),
    (r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.(\w+)", r"encoder.layers.\1.self_attn.out_proj.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(\w+)", r"encoder.layers.\1.mlp.fc1.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(\w+)", r"encoder.layers.\1.mlp.fc2.\2"),
)
_HEAD = {
    "text_latent": "text_pool.query",
    "text_cls_norm.gamma": "text_pool.norm_scale",
    "text_to_latents.to_latents.weight": "text_projection.weight",
    "img_to_latents.to_latents.weight": "vision_projection.weight",
    "temperature": "logit_scale",
}
_WITHOUT_USE = re.compile(
    r"(vision_encoder\.(?!visual\.).*|vision_encoder\.visual\.proj|text_cls_norm\.beta"
    r"|lang_\w+\..*(attention\.bias|attention\.masked_bias|rotary_emb\.inv_freq))$"
)
"""The text tower and the projection of open_clip, a buffer of zeros, and buffers that transformers computes itself."""


def plain_names(state: State, layers_path: str) -> State:
    """Give each tensor one name: no `module.` prefix, decoder layers and blocks at their place in the language model.

    Args:
        state: tensors under the names of a file.
        layers_path: where the language model keeps its decoder layers, such as `model.decoder.layers`.

    Raises:
        ValueError: if two names of one tensor hold different values.
    """
    plain: State = {}
    whole_clip = any("vision_encoder.visual." in name for name in state)
    for name, tensor in state.items():
        short = name.removeprefix("module.")
        if not whole_clip:  # OpenFlamingo keeps only the vision tower of open_clip
            short = re.sub(r"^vision_encoder\.", "vision_encoder.visual.", short)
        short = re.sub(r"^(lang_\w+)\.old_decoder_blocks\.(\d+)\.", rf"\1.{layers_path}.\2.decoder_layer.", short)
        short = re.sub(
            r"^(lang_\w+)\.gated_cross_attn_layers\.(\d+)\.", rf"\1.{layers_path}.\2.gated_cross_attn_layer.", short
        )
        if short in plain and not torch.equal(plain[short], tensor):
            raise ValueError(f"tensor {name} differs from another tensor of the checkpoint that means {short}")
        plain[short] = tensor
    return plain


def rename(state: State, base_prefix: str) -> tuple[State, list[str]]:
    """Rename tensors to the names of `CosmoForConditionalGeneration`.

    Args:
        state: output of `plain_names`.
        base_prefix: name of the base in a causal language model of this kind, such as `model` or `gpt_neox`.

    Returns:
        The renamed tensors (fused projections split), and the names without a counterpart here.
    """
    renamed: State = {}
    unknown = []
    for name, tensor in state.items():
        pieces = list(_translate(name, tensor, base_prefix))
        renamed.update(pieces)
        if not pieces and not _WITHOUT_USE.match(name):
            unknown.append(name)
    return renamed, unknown


def without_use(state: State) -> list[str]:
    """Names that are known to have no use here: buffers that transformers computes itself, CLIP's text tower."""
    return [name for name in state if _WITHOUT_USE.match(name)]


def released_name(state: State, name: str, base_prefix: str) -> str | None:
    """The tensor of a checkpoint that becomes `name` here, for errors; `None` if it comes from elsewhere."""
    names = (old for old, tensor in state.items() if name in dict(_translate(old, tensor, base_prefix)))
    return next(names, None)


def _translate(name: str, tensor: torch.Tensor, base_prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    """New names of one tensor, each with its part of the tensor; nothing if there is no counterpart."""
    if _WITHOUT_USE.match(name):
        return
    top, _, rest = name.partition(".")
    if name in _HEAD:
        yield f"model.{_HEAD[name]}", tensor
    elif name.startswith("vision_encoder.visual."):
        yield from _vision(name.removeprefix("vision_encoder.visual."), tensor)
    elif top == "perceiver":
        yield from _resampler(rest, tensor)
    elif top == "text_learn_attnetion_layer":
        yield from _attention("model.text_pool.attention", rest, tensor)
    elif top == "text_learn_ff":
        yield from _feed_forward("model.text_pool.feed_forward", rest, tensor)
    elif top in ("lang_model", "lang_encoder"):
        yield from _language_model(rest, tensor, base_prefix)


def _vision(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    if fused := re.fullmatch(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(\w+)", name):
        for part, piece in zip("qkv", _split(name, tensor, 3), strict=True):
            yield f"model.vision_tower.encoder.layers.{fused[1]}.self_attn.{part}_proj.{fused[2]}", piece
    for old, new in _VISION:
        if match := re.fullmatch(old, name):
            yield f"model.vision_tower.{match.expand(new)}", tensor


def _split(name: str, tensor: torch.Tensor, num_parts: int) -> tuple[torch.Tensor, ...]:
    """Split projections that were fused along their outputs."""
    if not tensor.ndim or len(tensor) % num_parts:
        raise ValueError(f"tensor {name} has shape {tuple(tensor.shape)}; it must hold {num_parts} projections")
    return tensor.chunk(num_parts)


def _resampler(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    if layer := re.fullmatch(r"layers\.(\d+)\.0\.(.+)", name):
        yield from _attention(f"model.resampler.layers.{layer[1]}.attention", layer[2], tensor)
    elif layer := re.fullmatch(r"layers\.(\d+)\.1\.(.+)", name):
        yield from _feed_forward(f"model.resampler.layers.{layer[1]}.feed_forward", layer[2], tensor)
    elif name in ("latents", "norm.weight", "norm.bias"):
        yield f"model.resampler.{name}", tensor
    elif name == "frame_embs":
        yield "model.resampler.frame_embeds", tensor


def _language_model(name: str, tensor: torch.Tensor, base_prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    name = name.removeprefix(f"{base_prefix}.")
    if name in ("lm_head.weight", "embed_out.weight"):  # the latter: GPT-NeoX before transformers 5
        yield "lm_head.weight", tensor
    elif block := re.fullmatch(r"(.+\.\d+|layers\.\d+)\.gated_cross_attn_layer\.(.+)", name):
        yield from _block(f"model.language_model.{block[1]}.cross_attention", block[2], tensor)
    else:
        yield f"model.language_model.{name}", tensor


def _block(target: str, name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    part, _, rest = name.partition(".")
    if part == "attn":
        yield from _attention(f"{target}.attention", rest, tensor)
    elif part == "ff":
        yield from _feed_forward(f"{target}.feed_forward", rest, tensor)
    elif part in ("attn_gate", "ff_gate"):
        yield f"{target}.{'attention' if part == 'attn_gate' else 'feed_forward'}_gate", tensor


def _attention(target: str, name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    part, _, kind = name.partition(".")
    if part == "to_kv":
        for new, piece in zip(("k_proj", "v_proj"), _split(f"{target}.{name}", tensor, 2), strict=True):
            yield f"{target}.{new}.{kind}", piece
    elif part in _LATENT_ATTENTION or part in ("norm", "norm_media", "norm_latents", "q_norm", "k_norm"):
        yield f"{target}.{_LATENT_ATTENTION.get(part, part)}.{kind}", tensor


def _feed_forward(target: str, name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    index, _, kind = name.partition(".")
    if index in _FEED_FORWARD:
        yield f"{target}.{_FEED_FORWARD[index]}.{kind}", tensor
