"""Published sizes of the released models, on the meta device, against the counts of both code bases.

Sizes of the language models: the config.json of their repositories on the Hub. Counts: from running both code bases;
OpenFlamingo trains the token embeddings too. MPT's table also has rows without a token, 50,432 in all, which fits the
counts of 3B and 9B; RedPajama's was cut to the 50,280 tokens of its tokenizer with three new ones (the count of 4B).
"""

import pytest
import torch
from transformers import AutoConfig, CLIPVisionConfig

from modeling_cosmo import CosmoConfig, CosmoForConditionalGeneration
from modeling_cosmo.presets_cosmo import PRESETS, VISION_WIDTH


LANGUAGE_MODELS = {
    "facebook/opt-iml-max-1.3b": {
        "hidden_size": 2048, "num_hidden_layers": 24, "ffn_dim": 8192, "num_attention_heads": 32, "vocab_size": 50271,
        "word_embed_proj_dim": 2048,
    },
    "togethercomputer/RedPajama-INCITE-Base-3B-v1": {
        "hidden_size": 2560, "num_hidden_layers": 32, "intermediate_size": 10240, "num_attention_heads": 32,
        "vocab_size": 50280, "use_parallel_residual": False, "rotary_pct": 1.0, "tie_word_embeddings": False,
    },
    "mistralai/Mistral-7B-v0.1": {
        "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 32006, "tie_word_embeddings": False,
    },
    "mosaicml/mpt-1b-redpajama-200b": {
        "d_model": 2048, "n_layers": 24, "n_heads": 16, "vocab_size": 50432, "attn_config": {"qk_ln": True},
    },
    "mosaicml/mpt-7b": {"d_model": 4096, "n_layers": 32, "n_heads": 32, "vocab_size": 50432},
}  # fmt: skip
MILLIONS = [  # preset, unimodal depth, interval, ratio; trained parameters
    ("cosmo-2.1b", (12, 2, 2), 212.5),
    ("cosmo-2.1b", (12, 1, 2), 322.7),
    ("cosmo-2.1b", (12, 1, 1), 542.9),
    ("cosmo-8.1b", (16, 4, 4), 347.8),
    ("openflamingo-3b", None, 1047.3),
    ("openflamingo-4b", None, 1089.5),
    ("openflamingo-9b", None, 1385.4),
]


def build(preset, blocks):
    """The model of a preset, on the meta device, with CLIP ViT-L/14."""
    text = AutoConfig.for_model(preset.kind, **LANGUAGE_MODELS[preset.language_model])
    assert (text.num_hidden_layers, text.hidden_size) == (preset.num_layers, preset.width)
    vision = CLIPVisionConfig(
        hidden_size=VISION_WIDTH, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14,
        image_size=224,
    )  # fmt: skip
    if preset.every:
        layers = list(range(preset.every - 1, preset.num_layers, preset.every))
        options = {"cross_attention_layers": layers, "contrastive": False}
    else:
        options = dict(
            zip(("unimodal_depth", "cross_attention_interval", "compress_ratio"), blocks, strict=True), shared_dim=512
        )
    with torch.device("meta"):
        return CosmoForConditionalGeneration(CosmoConfig(text_config=text, vision_config=vision, **options))


@pytest.mark.parametrize(("name", "blocks", "millions"), MILLIONS)
def test_trained_parameters(name, blocks, millions):
    preset = PRESETS[name]
    model = build(preset, blocks)
    model.freeze_towers()
    trained = model.num_parameters(only_trainable=True)
    if preset.format == "openflamingo":
        trained += model.get_input_embeddings().weight.numel()
    assert trained / 1e6 == pytest.approx(millions, abs=0.05)  # published with one decimal


def test_the_last_layer_of_each_group_has_openflamingos_block():
    assert build(PRESETS["openflamingo-9b"], None).config.block_positions == [3, 7, 11, 15, 19, 23, 27, 31]


def test_mpt_1b_has_its_norms():
    """More than in the stock MPT: two norms of 2,048 in each of 24 layers."""
    model = build(PRESETS["openflamingo-3b"], None)
    norms = [p.numel() for name, p in model.named_parameters() if name.endswith(("q_norm.weight", "k_norm.weight"))]
    assert norms == [2048] * 48
