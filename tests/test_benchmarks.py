"""The operation counts that the benchmarks divide by, against torch's own counter; and other parts of benchmarks."""

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, OPTConfig, OPTForCausalLM

from benchmarks.data import gap_to_definition
from benchmarks.flops import counted_flops, needed_flops, plain_flops
from benchmarks.model import training_step
from benchmarks.table import Row
from modeling_cosmo import CosmoForConditionalGeneration


ROWS, LENGTH, PICTURES, VISUAL = 3, 22, 2, 7


@pytest.fixture
def plain():
    config = OPTConfig(
        vocab_size=97, hidden_size=24, word_embed_proj_dim=24, ffn_dim=52, num_hidden_layers=5, num_attention_heads=2
    )
    return OPTForCausalLM(config)


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    ids = torch.randint(10, 97, (ROWS, LENGTH))
    ids[:, :: LENGTH // PICTURES] = VISUAL
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def eager(model):
    model.set_attn_implementation("eager")  # so that the counter sees its products one by one
    return model


def test_operations_of_the_plain_model(plain, inputs):
    step = training_step(eager(plain).train(), inputs)
    assert plain_flops(plain.config, ROWS, LENGTH) == pytest.approx(counted_flops(step), rel=1e-12)


@pytest.mark.parametrize(("interval", "ratio"), [(1, 1), (2, 2)])
def test_a_step_does_what_is_needed_and_nothing_more(plain, inputs, interval, ratio):
    """The count leaves out the two projections into the shared space, one vector per sample: under 1 %."""
    vision = CLIPVisionConfig(
        hidden_size=20, intermediate_size=44, num_hidden_layers=3, num_attention_heads=2, image_size=12, patch_size=4
    )
    model = CosmoForConditionalGeneration.from_towers(
        CLIPVisionModel(vision), plain, visual_token_id=VISUAL, unimodal_depth=2, cross_attention_interval=interval,
        compress_ratio=ratio, resampler_depth=2, num_visual_tokens=5, shared_dim=3, cross_attention_heads=2,
        cross_attention_head_dim=8, resampler_heads=2, resampler_head_dim=8,
    )  # fmt: skip
    model.freeze_towers()
    media = {"pixel_values": torch.randn(ROWS, PICTURES, 1, 3, 12, 12)}
    counted = counted_flops(training_step(eager(model).train(), inputs | media))
    assert needed_flops(model.config, ROWS, LENGTH, PICTURES) == pytest.approx(counted, rel=0.01)


def test_the_value_of_kts_is_that_of_its_definition():
    assert gap_to_definition(seed=9) < 1e-10


def test_goals():
    assert Row(name="a", value=1.2, goal="<= 1.20").reached
    assert not Row(name="a", value=1.21, goal="<= 1.20").reached
    assert not Row(name="a", value=0.89, goal=">= 0.90").reached
    assert "**no**" in Row(name="a", value=0.89, goal=">= 0.90").line()
