"""Random checkpoints under the released names, and the outputs of the definition in reference.py for them."""

from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.modeling_cosmo import reference


VISUAL_ID, END_OF_CHUNK_ID, PAD_ID = 37, 38, 40
LANGUAGE_MODELS = {  # widths and numbers of heads differ from each other, so that no transposition can pass
    "opt": {
        "vocab_size": 41, "hidden_size": 12, "num_hidden_layers": 5, "ffn_dim": 28, "num_attention_heads": 3,
        "max_position_embeddings": 64, "word_embed_proj_dim": 12, "dropout": 0.0,
    },
    "gpt_neox": {
        "vocab_size": 41, "hidden_size": 12, "num_hidden_layers": 5, "intermediate_size": 28, "num_attention_heads": 3,
        "max_position_embeddings": 64, "tie_word_embeddings": False,
    },
    "mistral": {
        "vocab_size": 41, "hidden_size": 12, "num_hidden_layers": 5, "intermediate_size": 28, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 64, "sliding_window": None,
        "tie_word_embeddings": False,
    },
}  # fmt: skip
VISION = {"image_size": 8, "patch_size": 4, "width": 10, "layers": 2, "heads": 2, "mlp_ratio": 2.0, "output_dim": 6,
          "act": "quick_gelu"}  # fmt: skip


@dataclass(kw_only=True)
class Sizes:
    """One architecture, with the names of the released configuration."""

    kind: str = "opt"
    unimodal_depth: int = 2
    interval: int = 1
    ratio: int = 1
    qk_norm: bool = False
    only_immediate: bool = True
    num_visual_tokens: int = 3
    depth: int = 2
    max_frames: int = 0
    shared_dim: int = 7
    vision: dict = field(default_factory=lambda: dict(VISION))

    def architecture(self):
        return {
            "kind": self.kind, "language_model": LANGUAGE_MODELS[self.kind], "vision": self.vision,
            "unimodal_depth": self.unimodal_depth, "interval_layer": self.interval,
            "cross_attention_compress_ratio": self.ratio, "qv_norm": self.qk_norm,
            "only_attend_immediate_media": self.only_immediate, "perceiver": {"depth": self.depth},
            "media_token_id": VISUAL_ID, "eoc_token_id": END_OF_CHUNK_ID, "pad_token_id": PAD_ID, "bos_token_id": 2,
        }  # fmt: skip

    @property
    def block_layers(self):
        num_layers = LANGUAGE_MODELS[self.kind]["num_hidden_layers"]
        return [
            i for i in range(num_layers) if i >= self.unimodal_depth and (i - self.unimodal_depth) % self.interval == 0
        ]


def language_model(sizes, seed):
    """A stock causal language model in float64, far enough from its initial weights that every part matters."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(sizes.kind, **LANGUAGE_MODELS[sizes.kind])
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def layers_of(model):
    return model.base_model.decoder.layers if hasattr(model.base_model, "decoder") else model.base_model.layers


def released_state(sizes, model, seed):
    """A whole checkpoint under the released names, as torch tensors in float64."""
    rng = np.random.default_rng(seed)
    state = {}

    def put(name, *shape, offset=0.0):
        state[name] = offset + rng.normal(size=shape) * 0.4

    def put_norm(name, width):
        put(f"{name}.weight", width, offset=1.0)
        put(f"{name}.bias", width)

    def put_feed_forward(name, width, inner):
        put_norm(f"{name}.0", width)
        put(f"{name}.1.weight", inner, width)
        put(f"{name}.3.weight", width, inner)

    def put_attention(name, width, context, inner, qk_norm):
        put(f"{name}.to_q.weight", inner, width)
        put(f"{name}.to_kv.weight", 2 * inner, context)
        put(f"{name}.to_out.weight", width, inner)
        for norm in ("q_norm", "k_norm") if qk_norm else ():
            put_norm(f"{name}.{norm}", inner)

    vision_width, text_width = sizes.vision["width"], LANGUAGE_MODELS[sizes.kind]["hidden_size"]
    put("perceiver.latents", 1 + sizes.num_visual_tokens, vision_width)
    put_norm("perceiver.norm", vision_width)
    if sizes.max_frames:
        put("perceiver.frame_embs", sizes.max_frames, vision_width)
    places = [(f"perceiver.layers.{i}.0", f"perceiver.layers.{i}.1", vision_width, False) for i in range(sizes.depth)]
    for attention, ff, width, qk_norm in [
        *places, ("text_learn_attnetion_layer", "text_learn_ff", text_width, sizes.qk_norm)
    ]:  # fmt: skip
        put_norm(f"{attention}.norm_media", width)
        put_norm(f"{attention}.norm_latents", width)
        put_attention(attention, width, width, 512, qk_norm)
        put_feed_forward(ff, width, 4 * width)
    put("text_latent", 1, text_width)
    put("text_cls_norm.gamma", text_width, offset=1.0)
    state["text_cls_norm.beta"] = np.zeros(text_width)
    put("text_to_latents.to_latents.weight", sizes.shared_dim, text_width)
    put("img_to_latents.to_latents.weight", sizes.shared_dim, vision_width)
    state["temperature"] = np.array([0.9])
    for layer in sizes.block_layers:
        name = f"lang_model.gated_cross_attn_layers.{layer}"
        put_norm(f"{name}.attn.norm", text_width)
        put_attention(f"{name}.attn", text_width, vision_width, 512 // sizes.ratio, sizes.qk_norm)
        put_feed_forward(f"{name}.ff", text_width, 4 * text_width // sizes.ratio)
        state[f"{name}.attn_gate"], state[f"{name}.ff_gate"] = np.array([0.7]), np.array([-0.4])
    _put_vision(put, put_norm, sizes.vision)
    stack = layers_of(model)
    inside = {id(parameter) for parameter in stack.parameters()}
    for name, parameter in model.named_parameters():
        if id(parameter) not in inside:
            state[f"lang_model.{name}"] = parameter.detach().numpy()
    for index, layer in enumerate(stack):
        for name, parameter in layer.named_parameters():
            state[f"lang_model.old_decoder_blocks.{index}.{name}"] = parameter.detach().numpy()
    return {name: torch.tensor(value) for name, value in state.items()}


def _put_vision(put, put_norm, vision):
    width, inner = vision["width"], int(vision["width"] * vision["mlp_ratio"])
    prefix = "vision_encoder.visual"
    put(f"{prefix}.class_embedding", width)
    put(f"{prefix}.conv1.weight", width, 3, vision["patch_size"], vision["patch_size"])
    put(f"{prefix}.positional_embedding", 1 + (vision["image_size"] // vision["patch_size"]) ** 2, width)
    put(f"{prefix}.proj", width, vision["output_dim"])
    put_norm(f"{prefix}.ln_pre", width)
    put_norm(f"{prefix}.ln_post", width)
    for layer in range(vision["layers"]):
        name = f"{prefix}.transformer.resblocks.{layer}"
        put_norm(f"{name}.ln_1", width)
        put_norm(f"{name}.ln_2", width)
        for part, rows, columns in (("attn.in_proj_", 3 * width, width), ("attn.out_proj.", width, width),
                                    ("mlp.c_fc.", inner, width), ("mlp.c_proj.", width, inner)):  # fmt: skip
            put(f"{name}.{part}weight", rows, columns)
            put(f"{name}.{part}bias", rows)


def by_definition(
    sizes, model, state, batch, *, released_faults=False, patch_tokens="before_ln_post", true_scale=False
):
    """Outputs of the definition for a batch, one sample at a time.

    Args:
        sizes: the architecture.
        model: the stock language model, without blocks: hooks put the definition's block before its layers.
        state: its checkpoint under the released names.
        batch: `input_ids`, `attention_mask`, `pixel_values`, `media_mask`.
        released_faults: text pool and mean over media see padding, the pool reads the states one layer earlier, and,
            if all media are visible, text before the first attends to all of them equally.
        patch_tokens: as in the config.
        true_scale: attention of the blocks is scaled by the width of a head after compression.
    """
    state = {name: value.double().numpy() for name, value in state.items()}
    out = {"logits": [], "text_embeds": [], "vision_embeds": [], "visual_tokens": []}
    for ids, mask, pixels, frame_mask in zip(
        batch["input_ids"], batch["attention_mask"].bool(), batch["pixel_values"].double().numpy(),
        batch["media_mask"].numpy(), strict=True,
    ):  # fmt: skip
        latents = np.stack(
            [
                reference.resample(
                    state, np.stack([_patches(state, sizes, picture, patch_tokens) for picture in frames]), is_real
                )
                for frames, is_real in zip(pixels, frame_mask, strict=True)
            ]
        )  # (M, 1 + V, D_v)
        is_real = frame_mask.any(-1)
        seen = reference.media_seen(ids.tolist(), VISUAL_ID, is_real, sizes.only_immediate)
        options = {
            "scale": (64 / sizes.ratio if true_scale else 64) ** -0.5,
            "uniform_before_first": released_faults and not sizes.only_immediate,
        }
        hidden, logits = _run_language_model(sizes, model, state, ids, mask, latents[:, 1:], seen, options)
        text_counts = np.ones(len(ids)) if released_faults else mask.numpy()
        depth = sizes.unimodal_depth - released_faults
        out["logits"].append(logits)
        out["visual_tokens"].append(latents[:, 1:])
        out["text_embeds"].append(reference.embed_text(state, hidden[depth], text_counts, sizes.qk_norm))
        counts = [m for m in range(len(pixels)) if released_faults or is_real[m]]
        out["vision_embeds"].append(reference.embed_media(state, latents[counts, 0]))
    result = {name: np.stack(values) for name, values in out.items()}
    scale = float(np.exp(state["temperature"][0]))
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100).numpy()
    result["lm_loss"] = reference.next_token_loss(result["logits"], labels)
    result["contrastive_loss"] = reference.contrastive_loss(result["text_embeds"], result["vision_embeds"], scale)
    return result


def _patches(state, sizes, picture, patch_tokens):
    vision = sizes.vision
    return reference.clip_patches(
        state, picture, vision["patch_size"], vision["heads"], patch_tokens == "after_ln_post"
    )


def _run_language_model(sizes, model, state, ids, mask, visual_tokens, seen, options):
    """States before each layer and after the last, each `(L, D_t)`, and logits `(L, vocabulary)`."""
    hidden = []

    def before(index):
        def hook(_, args, kwargs):
            x = args[0][0].numpy()
            hidden.append(x)
            if index in sizes.block_layers:
                name = f"lang_model.gated_cross_attn_layers.{index}"
                x = reference.gated_block(state, name, x, visual_tokens, seen, qk_norm=sizes.qk_norm, **options)
            return (torch.tensor(x)[None], *args[1:]), kwargs

        return hook

    handles = [
        layer.register_forward_pre_hook(before(index), with_kwargs=True)
        for index, layer in enumerate(layers_of(model))
    ]
    with torch.no_grad():
        logits = model(input_ids=ids[None], attention_mask=mask[None].long()).logits[0].numpy()
    for handle in handles:
        handle.remove()
    return hidden, logits


def random_batch(sizes, seed, num_frames=1, all_real=False):
    """Two texts with right padding and up to three media each; the second has fewer of both unless `all_real`."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 36, (2, 11), generator=generator)
    mask = torch.ones_like(ids)
    ids[0, [2, 5, 8]] = VISUAL_ID
    ids[1, [1, 4]] = VISUAL_ID
    if all_real:
        ids[1, 6] = VISUAL_ID
    mask[1, 8:] = 0
    ids[mask == 0] = PAD_ID
    size = sizes.vision["image_size"]
    frames = torch.ones(2, 3, num_frames, dtype=torch.bool)
    if not all_real:
        frames[1, 2] = False
        frames[0, 1, 1:] = False
    pixels = torch.randn(2, 3, num_frames, 3, size, size, generator=generator) * frames[..., None, None, None]
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "media_mask": frames}
