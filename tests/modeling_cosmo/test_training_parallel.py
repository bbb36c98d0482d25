"""Plans that spread a model over devices: what they name, and that two processes compute what one does."""

import pytest
import torch

from modeling_cosmo import CosmoForConditionalGeneration
from tests.modeling_cosmo.parallel_forward import RATE, step
from tests.modeling_cosmo.tiny import LANGUAGE_MODELS, build, open_gates, tiny_language_model
from tests.modeling_cosmo.trainer_step import run_processes, tiny_processor


def modules_of(model, rule):
    """Names of the modules that match a rule with `*` for a number."""
    pattern = rule.split(".")
    fits = lambda name: (
        len(name) == len(pattern)
        and all(word == part or (part == "*" and word.isdigit()) for word, part in zip(name, pattern, strict=True))
    )
    return [name for name, _ in model.named_modules() if fits(name.split("."))]


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_every_rule_names_a_module(kind):
    """The backbone's rules have the names of its layers inside the wrappers, and none is lost."""
    model = build(kind, tiny_processor())
    for plan in (model.tp_plan, model.fsdp_plan):
        assert all(modules_of(model, rule) for rule in plan)
    stock = tiny_language_model(kind)
    own = [rule for rule in stock.tp_plan if modules_of(stock, rule) and rule != "lm_head"]
    there = [name for name in model.tp_plan if name.startswith("model.language_model.") and "cross_" not in name]
    assert len(there) == len(own)
    assert sum(len(modules_of(model, name)) for name in there) == sum(len(modules_of(stock, rule)) for rule in own)


def test_units_cover_every_layer_once():
    model = build("llama", tiny_processor())
    units = [name for rule in model.fsdp_plan for name in modules_of(model, rule)]
    assert len(units) == len(set(units))
    kinds = [type(model.get_submodule(name)).__name__ for name in units]
    ours = {kind: kinds.count(kind) for kind in kinds if kind.startswith("Cosmo")}
    assert ours == {"CosmoDecoderLayer": 4, "CosmoResamplerLayer": 2, "CosmoTextPool": 1}
    assert set(ours) <= set(model._no_split_modules)
    inside = [(one, other) for one in units for other in units if one.startswith(f"{other}.")]
    assert not inside, "a layer gathers its block with it"


def test_norms_over_all_heads_keep_attention_whole():
    plan = build("opt", tiny_processor(), qk_norm=True).tp_plan
    split = {name for name in plan if ".attention." in name}
    assert split
    assert all("resampler" in name for name in split)


def save_tiny(folder, kind):
    torch.manual_seed(5)
    text = tiny_language_model(kind)
    if kind == "llama":  # as many key heads as query heads: a single one could not be split
        text = type(text)(type(text.config)(**text.config.to_dict() | {"num_key_value_heads": 2}))
    processor = tiny_processor()
    open_gates(build(kind, processor, text=text, train_new_tokens=True)).save_pretrained(folder / kind)
    return folder / kind


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["llama", pytest.param("gpt_neox", marks=pytest.mark.slow), "opt"])
def test_two_processes_equal_one(kind, tmp_path):
    """Tensor parallelism on the same batch, FSDP on halves of it: logits, gradients and one step of each."""
    folder = save_tiny(tmp_path, kind)
    styles = ("weights", "tensors")
    run_processes("tests.modeling_cosmo.parallel_forward", tmp_path, kind, *styles)
    expected = step(folder, "alone")
    assert not expected["split"]
    for style in styles:
        found = torch.load(tmp_path / f"{kind}-{style}.pt", weights_only=True)
        blocks = {name for name in found["split"] if ".cross_attention." in name and "proj" in name}
        assert len(blocks) == 2 * 6, "two blocks with six matrices"
        rows = len(found["logits"])
        # float32; sums over heads and inner widths are split in two
        torch.testing.assert_close(found["logits"], expected["logits"][:rows], rtol=1e-4, atol=1e-5)
        assert found["gradients"].keys() == expected["gradients"].keys()
        for part in ("gradients", "weights"):
            for name, value in expected[part].items():
                close = {"rtol": 1e-3, "atol": 1e-5 * float(expected["gradients"][name].abs().max()) + 1e-8}
                close["atol"] += RATE * 1e-6 if part == "weights" else 0.0
                torch.testing.assert_close(found[part][name], value, **close, msg=lambda text, n=name: f"{n}: {text}")
        check_saved(tmp_path / style, folder, expected["weights"])


def check_saved(folder, begun_from, weights):
    """Both write a plain folder with CosMo's own code, whose table holds the trained rows."""
    assert (folder / "modeling_cosmo.py").is_file()
    assert not list(folder.glob("*fsdp*"))
    model = CosmoForConditionalGeneration.from_pretrained(folder, train_new_tokens=False)
    named = dict(model.named_parameters())
    for name, value in weights.items():
        if "new_tokens" not in name:
            torch.testing.assert_close(named[name], value, rtol=1e-3, atol=1e-5)
    before = CosmoForConditionalGeneration.from_pretrained(begun_from)
    moved = model.get_input_embeddings().weight - before.get_input_embeddings().weight
    rows = moved.abs().amax(dim=-1).nonzero().flatten().tolist()
    assert rows == sorted(model.config.new_token_ids)
    change = weights["model.new_tokens.input_change"]
    torch.testing.assert_close(moved[model.config.new_token_ids], change, rtol=1e-3, atol=1e-6)
