"""A saved folder loads like any model of transformers: across devices and precisions, in shards, quantised."""

import json
from importlib.util import find_spec

import pytest
import torch
from accelerate import cpu_offload
from safetensors.torch import load_file

from modeling_cosmo import CosmoConfig, CosmoForConditionalGeneration, CosmoModel
from tests.modeling_cosmo.tiny import build, open_gates, tiny_language_model, tiny_vision
from tests.modeling_cosmo.trainer_step import samples, tiny_processor


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.fixture(scope="module")
def inputs(processor):
    rows = samples()[:2]
    return processor(text=[row["text"] for row in rows], images=[row["images"] for row in rows])


@pytest.fixture(scope="module")
def saved(processor, tmp_path_factory):
    """A model in several shards, and the model itself."""
    torch.manual_seed(5)
    model = open_gates(build("opt", processor))
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save_pretrained(folder, max_shard_size="20KB")
    return folder, model


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def test_shards_hold_every_weight_once(saved, inputs):
    folder, model = saved
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 3
    assert not [path for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]
    names = [name for shard in shards for name in load_file(shard)]
    assert len(names) == len(set(names))
    assert set(names) == set(model.state_dict()) - {"lm_head.weight"}
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(names)
    assert torch.equal(logits(CosmoForConditionalGeneration.from_pretrained(folder), inputs), logits(model, inputs))


def test_nothing_is_missing_or_left_over(saved):
    _, info = CosmoForConditionalGeneration.from_pretrained(saved[0], output_loading_info=True)
    assert not any(info.values()), info


def test_another_kind_of_model_is_refused(tmp_path):
    """transformers would load a model of default sizes with random weights."""
    tiny_language_model("opt").save_pretrained(tmp_path)
    for kind in (CosmoConfig, CosmoModel, CosmoForConditionalGeneration):
        with pytest.raises(ValueError, match=rf"^{tmp_path} holds a model of type opt, not cosmo$"):
            kind.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_load_in_the_precision_asked_for(saved, inputs, dtype, tmp_path):
    folder, model = saved
    loaded = CosmoForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    wanted = getattr(torch, dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {wanted}
    found = logits(loaded, inputs)
    assert found.dtype == wanted
    # rounding of weights and states to 8 or 11 bits, over four layers
    torch.testing.assert_close(found.float(), logits(model, inputs), rtol=0.1, atol=0.15)
    loaded.save_pretrained(tmp_path)
    assert CosmoForConditionalGeneration.from_pretrained(tmp_path, dtype="auto").dtype == wanted
    generated = loaded.generate(**inputs, max_new_tokens=3)
    assert generated.shape == (2, inputs["input_ids"].shape[1] + 3)


@pytest.mark.parametrize("where", ["cpu", "auto", {"": "cpu"}])
def test_device_maps_give_the_same_numbers(saved, inputs, where):
    loaded = CosmoForConditionalGeneration.from_pretrained(saved[0], device_map=where, low_cpu_mem_usage=True)
    assert not any(parameter.is_meta for parameter in loaded.parameters())
    assert torch.equal(logits(loaded, inputs), logits(saved[1], inputs))


# The temperature is a parameter of the model itself: accelerate wants it in a map, then warns that it is no module.
AS_IF_NO_PART = "ignore:The following device_map keys do not match any submodules"


@pytest.mark.filterwarnings(AS_IF_NO_PART)
@pytest.mark.parametrize("away", ["upper layers", "everything", "resampler and vision tower"])
def test_parts_may_stay_on_disk(saved, inputs, away, tmp_path):
    """They are fetched only for their own forward; a table shared by head and embeddings stays shared."""
    decoder = "model.language_model.decoder"
    places = dict.fromkeys(
        ["model.vision_tower", "model.resampler", "model.text_pool", "lm_head", "model.logit_scale"], "cpu"
    )
    places |= dict.fromkeys([f"model.{kind}_projection" for kind in ("text", "vision")], "cpu")
    names = ("embed_tokens", "embed_positions", "final_layer_norm", *(f"layers.{index}" for index in range(4)))
    places |= {f"{decoder}.{name}": "cpu" for name in names}
    if away == "upper layers":
        places |= {f"{decoder}.layers.{index}": "disk" for index in (2, 3)}
    elif away == "everything":
        places = {"": "disk"}
    else:
        places |= {"model.vision_tower": "disk", "model.resampler": "disk"}
    check_offloaded(saved, inputs, tmp_path, device_map=places)


@pytest.mark.filterwarnings(AS_IF_NO_PART)
@pytest.mark.parametrize("memory", ["100KB", "140KB"])
def test_a_map_by_memory_never_splits_a_layer(saved, inputs, memory, tmp_path):
    model = check_offloaded(saved, inputs, tmp_path, device_map="auto", max_memory={"cpu": memory})
    whole = [name for name, module in model.named_modules() if type(module).__name__ in model._no_split_modules]
    assert whole
    assert set(model.hf_device_map.values()) == {"cpu", "disk"}
    for name in whole:
        assert not any(place.startswith(f"{name}.") for place in model.hf_device_map), f"{name} is split"


@pytest.mark.parametrize(
    "where", [{"device_map": {"": "disk"}}, {"device_map": "auto", "max_memory": {"cpu": 60_000}}]
)
@pytest.mark.filterwarnings(AS_IF_NO_PART)
def test_trained_embeddings_of_new_tokens_may_stay_on_disk(processor, inputs, where, tmp_path):
    """A saved table already holds them; on disk there is nothing for the changes that further training would make."""
    model = open_gates(build("gpt_neox", processor, train_new_tokens=True))
    with torch.no_grad():
        model.model.new_tokens.input_change.normal_()
    model.save_pretrained(tmp_path / "model")
    check_offloaded((tmp_path / "model", model), inputs, tmp_path / "disk", **where)


def test_trained_embeddings_of_new_tokens_may_be_fetched_for_each_call(processor, inputs):
    """Such as when parts of a trained model wait in main memory for a GPU."""
    model = open_gates(build("gpt_neox", processor, train_new_tokens=True))
    with torch.no_grad():
        for change in model.model.new_tokens.parameters():
            change.normal_()
    expected = logits(model, inputs)
    offloaded = cpu_offload(model, execution_device="cpu")
    assert model.model.new_tokens.input_change.is_meta
    assert torch.equal(logits(offloaded, inputs), expected)


def check_offloaded(saved, inputs, folder, **where):
    folder_of_model, model = saved
    loaded = CosmoForConditionalGeneration.from_pretrained(folder_of_model, offload_folder=folder, **where)
    assert any(parameter.is_meta for parameter in loaded.parameters())
    torch.testing.assert_close(logits(loaded, inputs), logits(model, inputs), rtol=0, atol=1e-6)
    with torch.no_grad():
        found, wanted = (of(**inputs, labels=inputs["input_ids"]) for of in (loaded, model))
    for loss in ("lm_loss", "contrastive_loss", "loss"):
        torch.testing.assert_close(found[loss], wanted[loss], rtol=1e-6, atol=1e-6)
    expected = model.generate(**inputs, max_new_tokens=4)
    assert torch.equal(loaded.generate(**inputs, max_new_tokens=4), expected)
    return loaded


@pytest.mark.skipif(not find_spec("bitsandbytes"), reason="bitsandbytes is not installed")
@pytest.mark.filterwarnings("ignore::UserWarning:bitsandbytes")
@pytest.mark.filterwarnings("ignore::FutureWarning:bitsandbytes")
@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_towers(bits, processor, inputs, tmp_path):
    """Towers in 8 or 4 bits; the parts that CosmoModel adds to them stay unquantised, and train."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, CLIPVisionModel

    torch.manual_seed(5)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "ffn_dim": 128}  # its blocks hold 64
    vision = CLIPVisionModel(type(tiny_vision().config)(**tiny_vision().config.to_dict() | sizes))
    text = tiny_language_model("opt").config
    text = AutoModelForCausalLM.from_config(type(text)(**text.to_dict() | sizes | {"word_embed_proj_dim": 64}))
    plain = open_gates(build("opt", processor, vision=vision, text=text))
    plain.save_pretrained(tmp_path)
    quantised = BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4)
    model = CosmoForConditionalGeneration.from_pretrained(tmp_path, quantization_config=quantised)
    assert quantised.llm_int8_skip_modules is None, "the caller's own object stays as it was"
    found, expected = logits(model, inputs), logits(plain, inputs)
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    kind = "Linear8bitLt" if bits == 8 else "Linear4bit"
    assert {name.split(".")[1] for name, of in kinds.items() if of == kind} == {"vision_tower", "language_model"}
    added = ("cross_attention", "resampler", "text_pool", "text_projection", "vision_projection", "lm_head")
    assert {of for name, of in kinds.items() if any(part in name for part in added)}.isdisjoint({kind})
    similarity = torch.cosine_similarity(found.float().flatten(), expected.flatten(), dim=0)
    assert similarity > (0.999 if bits == 8 else 0.98)
    # bitsandbytes repacks weights for a CPU in the first forward without gradient, and then cannot train them.
    model = CosmoForConditionalGeneration.from_pretrained(
        tmp_path, quantization_config=quantised, freeze_towers=True, train_new_tokens=True
    )
    model.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
    grown = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert grown == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(model.get_parameter(name).grad.isfinite().all() for name in grown)
    generated = model.eval().generate(**inputs, max_new_tokens=3)
    assert generated.shape[1] == inputs["input_ids"].shape[1] + 3
