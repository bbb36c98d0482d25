"""The released code's own outputs, gradients and generated ids, reproduced after conversion and `from_pretrained`.

Tolerances: float32 on a CPU, sums of a few hundred terms in another order; the fixtures' README names 1e-5 for a
faithful model.
"""

import json

import pytest
import torch
from safetensors.torch import load_file

from modeling_cosmo import CosmoForConditionalGeneration
from modeling_cosmo.checkpoint_names_cosmo import plain_names, rename
from modeling_cosmo.convert_cosmo_checkpoint import convert_checkpoint


VARIANTS = {"out": "before_ln_post", "out_lnpost": "after_ln_post"}


@pytest.fixture(scope="module", params=["opt", "opt_attend_all", "of_opt"])
def fixture(request, parity_dir):
    folder = parity_dir / request.param
    if not folder.is_dir():
        pytest.skip(f"the parity folder holds no fixture {request.param}")
    return folder, load_file(folder / "io.safetensors"), json.loads((folder / "config.json").read_text())


@pytest.fixture(scope="module")
def converted(fixture, tmp_path_factory):
    """Model folders by variant."""
    folders = {}
    for variant, patch_tokens in VARIANTS.items():
        folders[variant] = tmp_path_factory.mktemp(variant)
        done = convert_checkpoint(
            fixture[0] / "weights.safetensors", fixture[0] / "config.json", folders[variant], patch_tokens
        )
        assert done.unused == []
    return folders


def load(folder, implementation="eager"):
    return CosmoForConditionalGeneration.from_pretrained(folder, attn_implementation=implementation)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_forward(fixture, converted, variant, implementation):
    _, io, _ = fixture
    model = load(converted[variant], implementation)
    expect = {name.partition(".")[2]: value for name, value in io.items() if name.startswith(f"{variant}.")}
    mask = io["attention_mask"].bool()
    with torch.no_grad():
        out = model(
            input_ids=io["input_ids"], attention_mask=io["attention_mask"], pixel_values=io["pixel_values"],
            labels=io["labels"], output_hidden_states=True,
        )  # fmt: skip
        features = model.encode_frames(io["pixel_values"])
        torch.testing.assert_close(features, expect["vision_tokens"], atol=1e-5, rtol=0)
        torch.testing.assert_close(model.model.resample(features), expect["perceiver"], atol=1e-5, rtol=0)
    torch.testing.assert_close(out.logits[mask], expect["logits"][mask], atol=3e-5, rtol=0)
    hidden = torch.stack(out.hidden_states)[:, mask]  # before the last norm they are larger than logits
    torch.testing.assert_close(hidden, expect["hidden_states"][:, mask], atol=1e-4, rtol=0)
    assert out.lm_loss.item() == pytest.approx(expect["lm_loss"].item(), abs=2e-6)
    if "contrastive_loss" in expect:
        assert out.contrastive_loss.item() == pytest.approx(expect["contrastive_loss"].item(), abs=2e-6)
        torch.testing.assert_close(out.text_embeds, expect["text_latents"], atol=1e-6, rtol=0)
        torch.testing.assert_close(out.vision_embeds, expect["vision_latents"], atol=1e-6, rtol=0)
        text = model.get_text_features(io["input_ids"], io["attention_mask"]).pooler_output
        torch.testing.assert_close(text, expect["text_latents"], atol=1e-6, rtol=0)


def test_gradients(fixture, converted):
    """All norms, and small gradients element by element; released names are mapped like those of the weights."""
    _, io, config = fixture
    model = load(converted["out"])
    out = model(
        input_ids=io["input_ids"], attention_mask=io["attention_mask"], pixel_values=io["pixel_values"],
        labels=io["labels"],
    )  # fmt: skip
    out.loss.backward()
    own = {name: parameter.grad for name, parameter in model.named_parameters()}
    named = {name.partition(".")[2]: value for name, value in io.items() if name.startswith("grad.")}
    assert len(named) > 20
    expect, unknown = rename(plain_names(named, "model.decoder.layers"), "model")
    assert not unknown
    for name, gradient in expect.items():
        torch.testing.assert_close(own[name], gradient, atol=2e-5, rtol=2e-4, msg=lambda text, n=name: f"{n}: {text}")
    for name, norm in config["grad_norms"].items():
        placeholder = {name: torch.zeros(2)}  # two rows, so that a fused projection splits into both its parts
        parts, _ = rename(plain_names(placeholder, "model.decoder.layers"), "model")
        total = sum(own[part].norm() ** 2 for part in parts) ** 0.5
        assert total.item() == pytest.approx(norm, rel=2e-4, abs=1e-6), name


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize(("variant", "prefix"), [("out", "gen"), ("out_lnpost", "gen_lnpost")])
def test_generation(fixture, converted, variant, prefix, use_cache, implementation):
    _, io, _ = fixture
    if f"{prefix}.greedy_ids" not in io:
        pytest.skip(f"the fixture stores no {prefix} variant")
    model = load(converted[variant], implementation)
    prompt = {
        "input_ids": io["gen.prompt_ids"], "attention_mask": io["gen.prompt_mask"],
        "pixel_values": io["gen.pixel_values"], "use_cache": use_cache, "max_new_tokens": 8,
    }  # fmt: skip
    out = model.generate(**prompt, return_dict_in_generate=True, output_logits=True)
    assert torch.equal(out.sequences, io[f"{prefix}.greedy_ids"])
    torch.testing.assert_close(torch.stack(out.logits), io[f"{prefix}.greedy_step_logits"], atol=3e-5, rtol=0)
    if f"{prefix}.beam3_ids" in io:
        assert torch.equal(model.generate(**prompt, num_beams=3), io[f"{prefix}.beam3_ids"])


def test_generation_sees_its_own_pictures_and_no_padding(fixture, converted):
    """Pictures swapped between the rows; one row alone without padding; stopping at a given token."""
    folder, io, _ = fixture
    model = load(converted["out"])
    prompt = {"input_ids": io["gen.prompt_ids"], "attention_mask": io["gen.prompt_mask"], "max_new_tokens": 8}
    if folder.name != "of_opt":  # for of_opt, the released code emits media tokens and blinds the rows
        swapped = model.generate(**prompt, pixel_values=io["gen.pixel_values"].flip(0))
        assert torch.equal(swapped, io["gen.greedy_ids_pictures_swapped"])
    real = io["gen.prompt_mask"][0].bool()
    single = model.generate(io["gen.prompt_ids"][:1, real], pixel_values=io["gen.pixel_values"][:1], max_new_tokens=8)
    assert torch.equal(single, io["gen.single_unpadded_greedy_ids"])
    if "gen.stop_token" in io:
        stopped = model.generate(
            **prompt, pixel_values=io["gen.pixel_values"], eos_token_id=io["gen.stop_token"].tolist()
        )
        assert torch.equal(stopped, io["gen.stop_greedy_ids"])


def test_a_text_goes_on_from_its_cache(fixture, converted):
    """Media and context in a cache, then four more tokens."""
    _, io, _ = fixture
    if "cached.suffix_ids" not in io:
        pytest.skip("the fixture stores no cached continuation")
    model = load(converted["out"])
    mask = io["gen.prompt_mask"]
    with torch.no_grad():
        first = model(
            input_ids=io["gen.prompt_ids"], attention_mask=mask, pixel_values=io["gen.pixel_values"], use_cache=True
        )
        rest = model(
            input_ids=io["cached.suffix_ids"],
            attention_mask=torch.cat([mask, torch.ones_like(io["cached.suffix_ids"])], dim=1),
            past_key_values=first.past_key_values,
        )
    torch.testing.assert_close(first.logits[mask.bool()], io["cached.context_logits"][mask.bool()], atol=3e-5, rtol=0)
    torch.testing.assert_close(rest.logits, io["cached.suffix_logits"], atol=3e-5, rtol=0)
