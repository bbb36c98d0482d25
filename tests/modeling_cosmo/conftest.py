"""Tiny towers and models, and where the parity fixtures lie."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from modeling_cosmo import CosmoForConditionalGeneration, CosmoProcessor
from tests.modeling_cosmo.tiny import tiny_language_model, tiny_tokenizer, tiny_vision


@pytest.fixture(scope="session")
def parity_dir():
    """Fixtures made by running the released code: COSMO_PARITY, or the folder `parity` beside COSMO_SAMPLES."""
    if named := os.environ.get("COSMO_PARITY"):
        return Path(named)
    beside = Path(os.environ.get("COSMO_SAMPLES", "/nowhere")).parent / "parity"
    if not beside.is_dir():
        pytest.skip("no parity fixtures: COSMO_PARITY is not set and there is no folder `parity` beside COSMO_SAMPLES")
    return beside


@pytest.fixture
def processor():
    return CosmoProcessor.from_towers(tiny_vision(), tiny_tokenizer(), num_frames=3)


@pytest.fixture
def model(processor):
    """A model whose gates are open, so that media matter."""
    torch.manual_seed(5)
    model = CosmoForConditionalGeneration.from_towers(
        tiny_vision(), tiny_language_model("opt"), processor, resampler_depth=2, num_visual_tokens=5, shared_dim=7,
        max_frames=3, resampler_heads=2, resampler_head_dim=8, cross_attention_heads=2, cross_attention_head_dim=8,
    )  # fmt: skip
    return open_gates(model).eval()


def open_gates(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("_gate"):
                parameter.fill_(0.8)
    return model


@pytest.fixture
def pictures():
    """Seven pictures of noise, of different sizes."""
    generator = torch.Generator().manual_seed(3)
    arrays = [torch.randint(0, 256, (13 + i, 17, 3), generator=generator, dtype=torch.uint8).numpy() for i in range(7)]
    return [Image.fromarray(array) for array in arrays]
