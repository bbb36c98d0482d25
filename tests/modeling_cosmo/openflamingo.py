"""Random checkpoints in the form that OpenFlamingo's training writes, with the folders of their towers."""

import torch
from transformers import CLIPConfig, CLIPModel

from tests.modeling_cosmo.tiny import tiny_language_model, tiny_tokenizer, tiny_vision


NUM_LATENTS, RESAMPLER_DEPTH, INNER_WIDTH = 5, 2, 512  # the last: of every attention in the released code
PLACES = {  # name of the base, of its layers, and what of the table and the head has "embed" in its released name
    "opt": ("model", "decoder.layers", {"embed_tokens": "lang_encoder.model.decoder.embed_tokens.weight"}),
    "mpt": ("transformer", "blocks", {"wte": "lang_encoder.transformer.wte.weight"}),
    "llama": ("model", "layers", {"embed_tokens": "lang_encoder.model.embed_tokens.weight"}),
    "gpt_neox": (
        "gpt_neox", "layers",
        {"embed_in": "lang_encoder.gpt_neox.embed_in.weight", "head": "lang_encoder.embed_out.weight"},
    ),
}  # fmt: skip


def write_towers(folder, kind, whole_clip=False, dtype=torch.float32):
    """Write the folders `text` (its tokenizer has no padding) and `vision`; return language model and tower."""
    text, vision = tiny_language_model(kind), tiny_vision()
    text.to(dtype).save_pretrained(folder / "text")
    write_tokenizer(folder / "text")
    if whole_clip:
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        clip = CLIPModel(CLIPConfig(vision_config=vision.config.to_dict(), text_config=sizes | {"vocab_size": 50}))
        clip.vision_model.load_state_dict(vision.state_dict())
        clip.to(dtype).save_pretrained(folder / "vision")
    else:
        vision.to(dtype).save_pretrained(folder / "vision")
    return text, vision


def write_tokenizer(folder):
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)


def trained_state(kind, layers=(1, 3), gate=0.8, seed=0, embeddings=True):
    """Content of a training checkpoint: resampler, blocks, and the token table with three more rows.

    Args:
        kind: of the language model.
        layers: those with a gated block before them.
        gate: of every block.
        seed: of the random weights.
        embeddings: whether the token table (and an untied head with "embed" in its name) is among them.
    """
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def put(name, *shape):
        state[name] = 0.3 * torch.randn(*shape, generator=generator)

    def put_norm(name, width):
        state[f"{name}.weight"] = 1 + 0.1 * torch.randn(width, generator=generator)
        put(f"{name}.bias", width)

    def put_attention(name, width, context):
        put(f"{name}.to_q.weight", INNER_WIDTH, width)
        put(f"{name}.to_kv.weight", 2 * INNER_WIDTH, context)
        put(f"{name}.to_out.weight", width, INNER_WIDTH)

    def put_feed_forward(name, width):
        put_norm(f"{name}.0", width)
        put(f"{name}.1.weight", 4 * width, width)
        put(f"{name}.3.weight", width, 4 * width)

    text_width, vision_width = 12, 10
    put("perceiver.latents", NUM_LATENTS, vision_width)
    put_norm("perceiver.norm", vision_width)
    for index in range(RESAMPLER_DEPTH):
        name = f"perceiver.layers.{index}"
        put_norm(f"{name}.0.norm_media", vision_width)
        put_norm(f"{name}.0.norm_latents", vision_width)
        put_attention(f"{name}.0", vision_width, vision_width)
        put_feed_forward(f"{name}.1", vision_width)
    base, stack, tables = PLACES[kind]
    for index in layers:
        name = f"lang_encoder.{base}.{stack}.{index}.gated_cross_attn_layer"
        put_norm(f"{name}.attn.norm", text_width)
        put_attention(f"{name}.attn", text_width, vision_width)
        put_feed_forward(f"{name}.ff", text_width)
        state[f"{name}.attn_gate"], state[f"{name}.ff_gate"] = torch.tensor([gate]), torch.tensor([gate])
    for name in tables.values() if embeddings else ():
        put(name, len(tiny_tokenizer()) + 3, text_width)  # <|endofchunk|>, <image>, <PAD>
    return state


def with_old_buffers(state, kind):
    """Buffers that older versions of transformers kept in state dicts."""
    base, stack, _ = PLACES[kind]
    name = f"lang_encoder.{base}.{stack}.0.decoder_layer"
    names = [f"{name}.attention.bias", f"{name}.attention.rotary_emb.inv_freq"]
    return state | dict.fromkeys(names, torch.ones(2)), names
