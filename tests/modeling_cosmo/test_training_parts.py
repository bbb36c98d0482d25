"""What trains and what does not: by method, by config, with adapters."""

import pytest
import torch

from modeling_cosmo import CosmoForConditionalGeneration
from tests.modeling_cosmo.tiny import build, open_gates
from tests.modeling_cosmo.trainer_step import samples, tiny_processor


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_method_and_config_freeze_alike(tmp_path):
    processor = tiny_processor()
    by_method = build("opt", processor)
    assert trained(by_method) == {name for name, _ in by_method.named_parameters()}
    by_method.freeze_towers()
    by_option = build("opt", processor, freeze_towers=True)
    by_method.save_pretrained(tmp_path)
    loaded = CosmoForConditionalGeneration.from_pretrained(tmp_path)
    loaded, info = CosmoForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert trained(by_method) == trained(by_option) == trained(loaded)
    free = CosmoForConditionalGeneration.from_pretrained(tmp_path, freeze_towers=False)
    assert trained(free) == {name for name, _ in free.named_parameters()}
    for model in (by_method, by_option, loaded):
        assert not model.train().model.vision_tower.training
        assert not any(layer.decoder_layer.training for layer in model.model.language_model.decoder.layers)
        assert model.model.resampler.training
    assert free.train().model.vision_tower.training


def test_the_parts_are_counted_once():
    model = build("opt", tiny_processor(), freeze_towers=True, train_new_tokens=True)
    parts = model.trainable_parts()
    assert {name for name, (count, _) in parts.items() if count} == {
        "resampler", "gated_blocks", "new_tokens", "contrastive_head"
    }  # fmt: skip
    assert all(count in (0, total) for count, total in parts.values()), "no part is half frozen"
    assert sum(total for _, total in parts.values()) == model.num_parameters()
    assert sum(count for count, _ in parts.values()) == model.num_parameters(only_trainable=True)
    width = model.config.text_config.hidden_size
    assert parts["new_tokens"] == (2 * width, 2 * width)
    assert "lm_head" not in parts, "it is tied: the language model's"
    *lines, total = str(parts).splitlines()
    assert [line.split()[0] for line in lines] == list(parts)
    assert total.split() == ["all", f"{model.num_parameters(only_trainable=True):,}", "of",
                             f"{model.num_parameters():,}", "train"]  # fmt: skip
    assert "lm_head" in build("gpt_neox", tiny_processor()).trainable_parts()


@pytest.mark.parametrize("new_tokens", [False, True])
def test_states_below_the_first_trained_layer_are_not_kept(new_tokens):
    """Without trained embeddings, nothing is kept below the first block; with them, all layers get a gradient."""
    processor = tiny_processor()
    model = open_gates(build("opt", processor, freeze_towers=True, train_new_tokens=new_tokens))
    inputs = processor(text=[samples()[0]["text"]], images=[samples()[0]["images"]])
    states = model.train()(**inputs, output_hidden_states=True).hidden_states
    assert [state.requires_grad for state in states] == [new_tokens] * 3 + [True, True]


def test_a_frozen_model_repeats_itself_in_training_mode():
    """Frozen parts have no dropout; OPT's would be 0.1."""
    processor = tiny_processor()
    inputs = processor(text=[samples()[0]["text"]], images=[samples()[0]["images"]])
    frozen = open_gates(build("opt", processor, freeze_towers=True)).train()
    free = open_gates(build("opt", processor)).train()
    with torch.no_grad():
        assert torch.equal(frozen(**inputs).logits, frozen(**inputs).logits)
        assert not torch.equal(free(**inputs).logits, free(**inputs).logits)
