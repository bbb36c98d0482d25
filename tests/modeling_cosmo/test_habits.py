"""What users of transformers do with any such model, without thinking about it."""

import copy
import pickle

import pytest
import torch
from transformers import AutoModel, AutoModelForImageTextToText

from modeling_cosmo import CosmoForConditionalGeneration, CosmoModel
from tests.modeling_cosmo.tiny import build, open_gates


@pytest.fixture
def inputs(processor, pictures):
    return processor(text=["<visual>a red star", "<visual>a"], images=[pictures[:1], pictures[1:2]])


def test_parts_are_found_where_they_are_looked_for(model):
    base = model.base_model
    assert base is model.model
    assert model.get_decoder() is base.get_decoder() is base.language_model
    assert model.get_encoder("image") is model.get_encoder("video") is base.vision_tower
    assert model.get_output_embeddings() is model.lm_head
    assert model.get_input_embeddings() is base.language_model.get_input_embeddings()
    assert model.config.get_text_config() is model.config.text_config
    assert model.config.image_token_id == model.config.video_token_id == model.config.visual_token_id
    assert model.can_generate()
    assert not base.can_generate()


@pytest.mark.parametrize("kind", ["opt", "gpt_neox"])
def test_resizing_the_vocabulary_moves_no_token(kind, processor, inputs, tmp_path):
    """With a tied head (OPT) and a separate one (GPT-NeoX), `<visual>` and the logits of old tokens do not change."""
    model = open_gates(build(kind, processor))
    num_tokens = model.config.text_config.vocab_size
    with torch.no_grad():
        expect = model(**inputs).logits
    model.resize_token_embeddings(num_tokens + 7)
    assert len(model.get_input_embeddings().weight) == len(model.lm_head.weight) == num_tokens + 7
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == (kind == "opt")
    model.save_pretrained(tmp_path)
    loaded = CosmoForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.config.visual_token_id == model.config.visual_token_id == processor.token_ids()["visual_token_id"]
    for resized in (model, loaded):
        with torch.no_grad():
            assert torch.equal(resized(**inputs).logits[..., :num_tokens], expect)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype, model, inputs):
    other = copy.deepcopy(model).to(dtype)
    assert {parameter.dtype for parameter in other.parameters()} == {dtype}
    with torch.no_grad():
        out, expect = other(**inputs, labels=inputs["input_ids"]), model(**inputs, labels=inputs["input_ids"])
    assert {out.logits.dtype, out.text_embeds.dtype, out.vision_embeds.dtype} == {dtype}
    # 8, 11 and 53 bits of mantissa, through 4 layers and 2 blocks of activations of order 1
    tolerance = {torch.bfloat16: 0.2, torch.float16: 0.02, torch.float64: 1e-4}[dtype]
    torch.testing.assert_close(out.logits.float(), expect.logits, atol=tolerance, rtol=tolerance)
    assert other.generate(**inputs, max_new_tokens=3, eos_token_id=None).shape[1] == inputs["input_ids"].shape[1] + 3


def test_a_folder_is_loaded_in_its_own_dtype_or_the_one_that_is_named(model, tmp_path):
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    for asked, expect in (("auto", torch.bfloat16), (torch.float32, torch.float32), ("float16", torch.float16)):
        assert CosmoForConditionalGeneration.from_pretrained(tmp_path, dtype=asked).dtype == expect


def test_auto_classes_build_from_a_config(model):
    fresh = AutoModelForImageTextToText.from_config(model.config)
    assert type(fresh) is CosmoForConditionalGeneration
    assert fresh.state_dict().keys() == model.state_dict().keys()
    assert fresh.generation_config.suppress_tokens == [model.config.visual_token_id]
    assert type(AutoModel.from_config(model.config)) is CosmoModel


def test_attention_is_chosen_for_all_parts_or_for_each(model, tmp_path):
    def chosen(config):
        return config._attn_implementation, *(
            part._attn_implementation for part in (config.vision_config, config.text_config)
        )

    model.set_attn_implementation("eager")
    assert chosen(model.config) == ("eager", "eager", "eager")
    model.set_attn_implementation({"vision_config": "sdpa"})
    assert chosen(model.config) == ("eager", "sdpa", "eager")
    assert model.model.vision_tower.config._attn_implementation == "sdpa"
    model.save_pretrained(tmp_path)
    each = {"": "sdpa", "vision_config": "eager", "text_config": "sdpa"}
    loaded = CosmoForConditionalGeneration.from_pretrained(tmp_path, attn_implementation=each)
    assert chosen(loaded.config) == ("sdpa", "eager", "sdpa")


def test_pickles_and_copies_say_the_same(model, inputs):
    with torch.no_grad():
        expect = model(**inputs)
        for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            assert torch.equal(twin(**inputs).logits, expect.logits)
        output = pickle.loads(pickle.dumps(expect))
    assert torch.equal(output.logits, expect.logits)
    assert pickle.loads(pickle.dumps(model.config)).to_dict() == model.config.to_dict()


def test_outputs_as_tuples(model, inputs):
    with torch.inference_mode():
        out = model(**inputs, labels=inputs["input_ids"])
        as_tuple = model(**inputs, labels=inputs["input_ids"], return_dict=False)
        assert torch.equal(as_tuple[0], out.loss)
        assert len(as_tuple) == len(out.to_tuple())
        features = model.get_image_features(inputs["pixel_values"], return_dict=False)
        assert torch.equal(features[1], out.vision_embeds)


def test_features_give_states_and_attentions_on_request(processor, inputs):
    """The unimodal half and the vision tower give one per layer; the last states are those that are pooled."""
    model = build("opt", processor, attn_implementation="eager", unimodal_depth=3)
    asked = {"output_hidden_states": True, "output_attentions": True}
    texts = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        text, whole = model.get_text_features(**texts, **asked), model(**inputs, **asked)
        media = model.get_image_features(inputs["pixel_values"], **asked)
    for mine, full in zip(text.hidden_states, whole.hidden_states, strict=False):
        assert torch.equal(mine, full)
    assert (len(text.hidden_states), len(text.attentions)) == (4, 3)
    assert torch.equal(text.hidden_states[-1], text.last_hidden_state)
    assert [tuple(states.shape) for states in media.hidden_states] == [(2, 5, 10)] * 3
    assert [tuple(weights.shape) for weights in media.attentions] == [(2, 2, 5, 5)] * 2


def test_every_second_layer_is_checkpointed_on_request(processor, inputs):
    model = build("mistral", processor)
    model.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=2)
    runs = []
    for index, layer in enumerate(model.model.language_model.layers):
        layer.decoder_layer.self_attn.register_forward_hook(lambda *_, index=index: runs.append(index))
    model.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
    counts = [runs.count(index) for index in range(4)]
    assert sorted(counts) == [1, 1, 2, 2]
    assert counts[0] != counts[1]
