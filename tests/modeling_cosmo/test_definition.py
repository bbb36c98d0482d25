"""Every option of the architecture against a slow definition in float64, from checkpoint to output.

With SDPA both sides agree to the rounding of float64: 1e-9 leaves room for sums of a few thousand terms. Eager
attention, transformers' and ours, takes its softmax in float32: 2e-5.
"""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_cosmo import CosmoForConditionalGeneration
from modeling_cosmo.convert_cosmo_checkpoint import convert_checkpoint
from tests.modeling_cosmo.released import (
    Sizes,
    by_definition,
    language_model,
    random_batch,
    released_state,
)


EXACT, FLOAT32 = {"atol": 1e-9, "rtol": 0}, {"atol": 2e-5, "rtol": 0}
CASES = {
    "opt": Sizes(),
    "neox, interval 2": Sizes(kind="gpt_neox", unimodal_depth=1, interval=2),
    "mistral with grouped queries, ratio 2": Sizes(kind="mistral", unimodal_depth=3, ratio=2),
    "qk_norm": Sizes(qk_norm=True, unimodal_depth=3),
    "all media, ratio 4, qk_norm": Sizes(only_immediate=False, ratio=4, interval=2, qk_norm=True),
    "one block, deep": Sizes(kind="mistral", unimodal_depth=4, depth=3, num_visual_tokens=2),
}


def convert(folder, sizes, seed, patch_tokens="before_ln_post"):
    stock = language_model(sizes, seed)
    state = released_state(sizes, stock, seed)
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "weights.safetensors")
    (folder / "architecture.json").write_text(json.dumps(sizes.architecture()))
    done = convert_checkpoint(
        folder / "weights.safetensors", folder / "architecture.json", folder / "model", patch_tokens
    )
    assert done.unused == []
    return stock, state


def compare(out, expect, batch, tolerance):
    mask = batch["attention_mask"].bool()
    assert torch.allclose(out.logits[mask], torch.tensor(expect["logits"])[mask].to(out.logits.dtype), **tolerance)
    for name in ("text_embeds", "vision_embeds"):
        assert torch.allclose(out[name], torch.tensor(expect[name]).to(out[name].dtype), **tolerance), name
    real = batch["media_mask"].any(-1)
    visual_tokens = torch.tensor(expect["visual_tokens"])[real].to(out.visual_tokens.dtype)
    assert torch.allclose(out.visual_tokens[real], visual_tokens, **tolerance)


def labels_of(batch):
    """All tokens except padding."""
    return batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("case", CASES)
def test_right_behaviour(case, implementation, tmp_path):
    """Right behaviour on padded texts, padding media, and videos with some padding frames."""
    sizes = CASES[case]
    stock, state = convert(tmp_path, sizes, seed=len(case))
    batch = random_batch(sizes, seed=1, num_frames=2)
    model = CosmoForConditionalGeneration.from_pretrained(
        tmp_path / "model", dtype=torch.float64, attn_implementation=implementation,
        text_pool_attends_padding=False, vision_mean_includes_padding=False, uniform_before_first_medium=False,
        scale_by_uncompressed_head=True, text_embedding_depth=sizes.unimodal_depth,
    )  # fmt: skip
    with torch.no_grad():
        out = model(**batch, labels=labels_of(batch), output_visual_tokens=True)
    expect = by_definition(sizes, stock, state, batch)
    compare(out, expect, batch, EXACT if implementation == "sdpa" else FLOAT32)
    # the losses are in float32 by design
    assert out.lm_loss.item() == pytest.approx(expect["lm_loss"], abs=2e-6)
    assert out.contrastive_loss.item() == pytest.approx(expect["contrastive_loss"], abs=2e-6)


def test_compressed_attention_scaled_by_its_own_width(tmp_path):
    """The default of a new model; released weights were trained with the scale before compression."""
    sizes = Sizes(ratio=4, qk_norm=True)
    stock, state = convert(tmp_path, sizes, seed=11)
    batch = random_batch(sizes, seed=5, num_frames=2)
    options = {"text_pool_attends_padding": False, "vision_mean_includes_padding": False, "text_embedding_depth": 2}
    model = CosmoForConditionalGeneration.from_pretrained(
        tmp_path / "model", dtype=torch.float64, scale_by_uncompressed_head=False, **options
    )
    with torch.no_grad():
        out = model(**batch, output_visual_tokens=True)
    compare(out, by_definition(sizes, stock, state, batch, true_scale=True), batch, EXACT)


def rms_norm(weight, eps, x):
    return weight * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


GROUPS = {
    "resampler": ("perceiver.",),
    "gated blocks": ("lang_model.gated_cross_attn_layers.",),
    "text pool": ("text_latent", "text_learn_", "text_cls_norm.gamma"),
    "projections and temperature": ("text_to_latents.", "img_to_latents.", "temperature"),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients(case, tmp_path):
    """Slope of the definition's loss along a random direction of each part, against the model's gradient along it.

    Central differences of step 1e-5 in float64 are exact to about 1e-9; the model's losses are in float32: 2e-5.
    """
    sizes, step = CASES[case], 1e-5
    stock, state = convert(tmp_path, sizes, seed=3)
    for norm in stock.modules():
        if type(norm).__name__.endswith(
            "RMSNorm"
        ):  # the stock norm rounds to float32, which finite differences would magnify
            norm.forward = partial(rms_norm, norm.weight, norm.variance_epsilon)
    batch = random_batch(sizes, seed=7, num_frames=2)
    model = CosmoForConditionalGeneration.from_pretrained(tmp_path / "model", dtype=torch.float64)
    model(**batch, labels=labels_of(batch)).loss.backward()
    at_rest = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    generator = torch.Generator().manual_seed(9)
    for group, prefixes in GROUPS.items():
        ways = {}
        for name, value in state.items():
            if name.startswith(prefixes):
                ways[name] = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        ends = [state | {name: state[name] + side * step * way for name, way in ways.items()} for side in (1, -1)]
        losses = [by_definition(sizes, stock, end, batch, released_faults=True) for end in ends]
        up, down = (loss["lm_loss"] + loss["contrastive_loss"] for loss in losses)
        (tmp_path / group).mkdir()
        save_file(
            {name: value.contiguous() for name, value in ends[0].items()}, tmp_path / group / "moved.safetensors"
        )
        convert_checkpoint(tmp_path / group / "moved.safetensors", sizes.architecture(), tmp_path / group / "model")
        moved = CosmoForConditionalGeneration.from_pretrained(tmp_path / group / "model", dtype=torch.float64)
        slope = sum(
            (parameter.grad * (moved.get_parameter(name) - at_rest[name])).sum().item() / step
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        )
        assert abs(slope) > 1e-3, "the direction matters"
        assert slope == pytest.approx((up - down) / (2 * step), rel=2e-5, abs=2e-5), group


@pytest.mark.parametrize("only_immediate", [True, False])
@pytest.mark.parametrize("patch_tokens", ["before_ln_post", "after_ln_post"])
def test_released_behaviour(patch_tokens, only_immediate, tmp_path):
    """Set by the converter: padding counts in the text pool and in the mean over media, as in the released code."""
    sizes = Sizes(interval=2, ratio=2, only_immediate=only_immediate)
    stock, state = convert(tmp_path, sizes, seed=4, patch_tokens=patch_tokens)
    batch = random_batch(sizes, seed=2)
    model = CosmoForConditionalGeneration.from_pretrained(tmp_path / "model", dtype=torch.float64)
    with torch.no_grad():
        out = model(**batch, output_visual_tokens=True)
    expect = by_definition(sizes, stock, state, batch, released_faults=True, patch_tokens=patch_tokens)
    compare(out, expect, batch, EXACT)


def test_frame_positions(tmp_path):
    sizes = Sizes(max_frames=4)
    stock, state = convert(tmp_path, sizes, seed=6)
    batch = random_batch(sizes, seed=3, num_frames=3, all_real=True)
    model = CosmoForConditionalGeneration.from_pretrained(tmp_path / "model", dtype=torch.float64)
    with torch.no_grad():
        out = model(**batch, output_visual_tokens=True)
    expect = by_definition(sizes, stock, state, batch, released_faults=True)
    compare(out, expect, batch, EXACT)


def test_fixture_of_our_own(tmp_path):
    """Stored figures, which catch a change of the definition above together with the model.

    Made by `python -m tests.modeling_cosmo.make_fixture`; the weights are float16, the figures float64.
    """
    folder = Path(__file__).parent / "fixtures"
    figures = load_file(folder / "tiny_outputs.safetensors")
    convert_checkpoint(folder / "tiny_released.safetensors", folder / "tiny_architecture.json", tmp_path)
    model = CosmoForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    batch = {name: figures[name] for name in ("input_ids", "attention_mask", "pixel_values", "media_mask")}
    with torch.no_grad():
        out = model(**batch, labels=batch["input_ids"], output_visual_tokens=True)
    expect = {name.partition(".")[2]: value.numpy() for name, value in figures.items() if name.startswith("out.")}
    compare(out, expect, batch, FLOAT32)
    assert out.contrastive_loss.item() == pytest.approx(float(expect["contrastive_loss"]), abs=1e-5)
