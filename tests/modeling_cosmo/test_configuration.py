import math

import pytest

from modeling_cosmo import CosmoConfig


TEXT = {"model_type": "opt", "hidden_size": 12, "num_hidden_layers": 6, "vocab_size": 50, "num_attention_heads": 2}


def config(**options):
    return CosmoConfig(text_config=TEXT, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unimodal_depth": 6}, "unimodal_depth is 6; the language model has 6 layers"),
        ({"unimodal_depth": -1}, "unimodal_depth is -1"),
        ({"cross_attention_interval": 0}, "cross_attention_interval is 0; it must be at least 1"),
        ({"cross_attention_layers": [3, 2]}, r"cross_attention_layers is \[3, 2\]; it must hold ascending"),
        ({"cross_attention_layers": [2, 6]}, r"cross_attention_layers is \[2, 6\].* from 0 to 5"),
        ({"cross_attention_layers": []}, r"cross_attention_layers is \[\]"),
        ({"cross_attention_layers": [1, 3], "unimodal_depth": 2}, "begins at 1, below unimodal_depth 2"),
        ({"compress_ratio": 3}, "compress_ratio 3 does not divide cross_attention_head_dim 64"),
        ({"compress_ratio": 64}, "compress_ratio 64 does not divide the feed-forward's inner width 48"),
        ({"compress_ratio": 0}, "compress_ratio is 0; it must be at least 1"),
        ({"num_visual_tokens": 0}, "num_visual_tokens is 0"),
        ({"max_frames": -1}, "max_frames is -1"),
        ({"text_embedding_depth": 4}, "text_embedding_depth is 4; .* before layer 3"),
    ],
)
def test_contradictions_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        config(**options)


@pytest.mark.parametrize("options", [{"unimodal_depth": "2"}, {"qk_norm": 1}, {"patch_tokens": "both"}])
def test_wrong_types_are_refused_by_name(options):
    with pytest.raises(Exception, match=next(iter(options))):
        config(**options)


@pytest.mark.parametrize(
    ("options", "positions"),
    [
        ({}, [3, 4, 5]),
        ({"unimodal_depth": 2, "cross_attention_interval": 2}, [2, 4]),
        ({"unimodal_depth": 1, "cross_attention_interval": 2}, [1, 3, 5]),
        ({"cross_attention_layers": [1, 4]}, [1, 4]),
    ],
)
def test_block_positions(options, positions):
    made = config(**options)
    assert made.block_positions == positions
    assert made.text_embedding_depth == made.unimodal_depth == positions[0]


def test_a_saved_config_comes_back(tmp_path):
    made = config(unimodal_depth=2, logit_scale_init=0.2, cross_attention_layers=[2, 5], visual_token_id=7)
    made.save_pretrained(tmp_path)
    loaded = CosmoConfig.from_pretrained(tmp_path)
    assert loaded.block_positions == [2, 5]
    assert loaded.auto_map == made.auto_map
    assert loaded.logit_scale_init == 0.2
    assert loaded.text_config.num_hidden_layers == 6


def test_the_temperature_starts_as_in_clip():
    assert config().logit_scale_init == pytest.approx(math.log(1 / 0.07))


def test_released_sizes_have_the_released_numbers_of_trained_parameters():
    """Counted from both code bases: 212.5M for CosMo-2.1B at 12/2/2, 542.9M at 12/1/1, 347.8M for 8.1B at 16/4/4."""
    import torch

    from modeling_cosmo import CosmoForConditionalGeneration

    opt = {"model_type": "opt", "hidden_size": 2048, "num_hidden_layers": 24, "ffn_dim": 8192,
           "num_attention_heads": 32, "vocab_size": 100, "word_embed_proj_dim": 2048}  # fmt: skip
    mistral = {"model_type": "mistral", "vocab_size": 100}
    vision = {"model_type": "clip_vision_model", "hidden_size": 1024, "num_hidden_layers": 1, "intermediate_size": 64,
              "num_attention_heads": 16, "patch_size": 14}  # fmt: skip
    for text, depth, interval, ratio, millions in (
        (opt, 12, 2, 2, 212.5), (opt, 12, 1, 1, 542.9), (mistral, 16, 4, 4, 347.8),
    ):  # fmt: skip
        made = CosmoConfig(
            text_config=text, vision_config=vision, unimodal_depth=depth, cross_attention_interval=interval,
            compress_ratio=ratio,
        )  # fmt: skip
        with torch.device("meta"):
            model = CosmoForConditionalGeneration(made)
        model.freeze_towers()
        assert model.num_parameters(only_trainable=True) / 1e6 == pytest.approx(millions, abs=0.05)
