"""What must hold for any CosMo, whatever its weights."""

import copy

import pytest
import torch

from modeling_cosmo import CosmoForConditionalGeneration, CosmoModel, CosmoProcessor
from tests.modeling_cosmo.tiny import (
    LANGUAGE_MODELS,
    build,
    open_gates,
    tiny_language_model,
    tiny_tokenizer,
    tiny_vision,
)


CLOSE = {"atol": 2e-6, "rtol": 1e-5}  # float32, sums in another order


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_closed_gates_leave_the_plain_language_model_bit_for_bit(kind, processor, pictures):
    plain = tiny_language_model(kind)
    model = build(kind, processor)
    inputs = processor(text=["a red star<visual>", "a<visual>blue ring grows"], images=[pictures[:1], pictures[1:2]])
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with torch.no_grad():
        plain.get_input_embeddings().weight.data = model.get_input_embeddings().weight.data
        plain.get_output_embeddings().weight.data = model.lm_head.weight.data
        assert torch.equal(model(**inputs).logits, plain(input_ids=ids, attention_mask=mask).logits)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("only_immediate", [True, False])
def test_text_before_the_first_medium_ignores_pixels(processor, pictures, implementation, only_immediate):
    model = open_gates(
        build("opt", processor, attn_implementation=implementation, only_attend_immediate_media=only_immediate)
    )
    inputs = processor(text="a red star<visual>a blue", images=pictures[:1])
    other = inputs | {"pixel_values": inputs["pixel_values"] + 1.0}
    with torch.no_grad():
        first, second = model(**inputs).logits[0], model(**other).logits[0]
    place = inputs["input_ids"][0].tolist().index(model.config.visual_token_id)
    assert torch.equal(first[:place], second[:place])
    assert not torch.allclose(first[place:], second[place:], atol=1e-3)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_batching_and_padding_change_nothing(processor, pictures, implementation):
    """Left or right, text or media: every row gives the same when it is alone."""
    model = open_gates(build("opt", processor, attn_implementation=implementation))
    texts = ["<visual>a red star<|endofchunk|><visual>a blue ring grows", "a<visual>star", "the sea"]
    images = [pictures[:2], pictures[2:3], []]
    for side in ("left", "right"):
        batch = processor(text=texts, images=images, padding_side=side)
        with torch.no_grad():
            together = model(**batch)
        for row in range(3):
            single = processor(text=[texts[row]], images=[images[row]])
            with torch.no_grad():
                alone = model(**single)
            real = batch["attention_mask"][row].bool()
            torch.testing.assert_close(together.logits[row, real], alone.logits[0], **CLOSE)
            torch.testing.assert_close(together.text_embeds[row], alone.text_embeds[0], **CLOSE)
            if images[row]:
                torch.testing.assert_close(together.vision_embeds[row], alone.vision_embeds[0], **CLOSE)


@pytest.mark.parametrize("kind", ["gpt_neox", "mistral"])
def test_padding_changes_nothing_for_rotary_positions(processor, pictures, kind):
    model = open_gates(build(kind, processor))
    batch = processor(text=["<visual>a red star rolls left", "a<visual>"], images=[pictures[:1], pictures[1:2]])
    single = processor(text="a<visual>", images=pictures[1:2])
    with torch.no_grad():
        together, alone = model(**batch), model(**single)
    torch.testing.assert_close(together.logits[1, -2:], alone.logits[0], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(together.text_embeds[1], alone.text_embeds[0], atol=2e-5, rtol=1e-4)


def test_order_of_frames_shows_only_with_frame_positions(processor):
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (3, 3, 8, 8), generator=generator, dtype=torch.uint8)
    forward = processor(videos=[[frames]])
    backward = forward | {"pixel_values": forward["pixel_values"].flip(2)}
    for max_frames, sees_order in ((0, False), (3, True)):
        model = build("opt", processor, max_frames=max_frames)
        with torch.no_grad():
            first = model.get_video_features(**forward).pooler_output
            second = model.get_video_features(**backward).pooler_output
        assert (first - second).abs().max() < 1e-6 or sees_order
        assert (first - second).abs().max() > 1e-3 or not sees_order


def test_more_frames_than_positions_are_refused(model, processor):
    with pytest.raises(ValueError, match="4 frames; max_frames of the config is 3"):
        model.get_video_features(pixel_values=torch.zeros(1, 1, 4, 3, 8, 8))


def test_cached_features_stand_in_for_pixels(model, processor, pictures):
    inputs = processor(text=["<visual>a", "<visual>a red"], images=[pictures[:1], pictures[1:2]])
    with torch.no_grad():
        expect = model(**inputs)
        features = model.encode_frames(inputs.pop("pixel_values"))
        assert features.shape == (2, 1, 1, 4, 10)
        out = model(**inputs, vision_features=features)
        generated = model.generate(**inputs, vision_features=features, max_new_tokens=3)
    assert torch.equal(out.logits, expect.logits)
    assert torch.equal(out.vision_embeds, expect.vision_embeds)
    assert generated.shape[1] > inputs["input_ids"].shape[1]


def test_text_features_run_the_unimodal_half_alone(model, processor, pictures):
    texts = ["<visual>a red star", "<visual>a"]
    inputs = processor(text=texts, images=[pictures[:1], pictures[1:2]])
    ran = []
    for index, layer in enumerate(model.model.language_model.decoder.layers):
        layer.decoder_layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    model.model.vision_tower.register_forward_hook(lambda *_: ran.append("vision"))
    with torch.no_grad():
        features = model.get_text_features(inputs["input_ids"], inputs["attention_mask"])
        assert ran == [0, 1]
        assert torch.equal(features.pooler_output, model(**inputs).text_embeds)
    torch.testing.assert_close(features.pooler_output.norm(dim=-1), torch.ones(2))


def test_only_new_parts_train_and_frozen_parts_stay_in_eval_mode(processor, pictures):
    model = build("opt", processor)
    model.freeze_towers()
    model.train()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    prefixes = ("model.resampler.", "model.text_pool.", "model.text_projection.", "model.vision_projection.")
    assert all(
        name.startswith(prefixes) or ".cross_attention." in name or name == "model.logit_scale" for name in trained
    )
    count = sum(model.get_parameter(name).numel() for name in trained)
    assert model.num_parameters(only_trainable=True) == count < model.num_parameters()
    assert not any(m.training for m in model.model.vision_tower.modules())
    assert not any(layer.decoder_layer.training for layer in model.model.language_model.decoder.layers)
    inputs = processor(text=["<visual>a red star", "<visual>a"], images=[pictures[:1], pictures[1:2]])
    labels = processor.build_labels(inputs["input_ids"], inputs["attention_mask"])
    open_gates(model)(**inputs, labels=labels).loss.backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == trained
    with torch.no_grad():  # no dropout: the same twice
        assert torch.equal(model(**inputs).logits, model(**inputs).logits)
    assert not model.eval().training


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # reentrant, below the first trained layer
def test_checkpointing_changes_no_gradient(processor, pictures, reentrant, frozen):
    inputs = processor(text=["<visual>a red star", "<visual>a"], images=[pictures[:1], pictures[1:2]])
    labels = processor.build_labels(inputs["input_ids"], inputs["attention_mask"])
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(3)
        model = open_gates(build("mistral", processor))
        if frozen:
            model.freeze_towers()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        model.train()
        model(**inputs, labels=labels).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, **CLOSE, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_computes_each_layer_twice_and_no_more(processor, pictures, reentrant):
    model = build("mistral", processor)
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    runs = []
    for index, layer in enumerate(model.model.language_model.layers):
        layer.decoder_layer.self_attn.register_forward_hook(lambda *_, index=index: runs.append(index))
    inputs = processor(text="<visual>a red star", images=pictures[:1])
    model.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert sorted(runs) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_nothing_below_the_first_block_is_kept_for_the_backward_pass(model, processor, pictures):
    model.freeze_towers()
    inputs = processor(text="<visual>a red star", images=pictures[:1])
    states = model.train()(**inputs, output_hidden_states=True).hidden_states
    assert [state.requires_grad for state in states] == [False, False, False, True, True]


def test_contrastive_part_can_be_left_out(model, processor, pictures):
    inputs = processor(text=["<visual>a red star", "<visual>a"], images=[pictures[:1], pictures[1:2]])
    labels = processor.build_labels(inputs["input_ids"], inputs["attention_mask"])
    with torch.no_grad():
        both = model(**inputs, labels=labels)
        one = model(**inputs, labels=labels, compute_contrastive=False)
    assert one.contrastive_loss is None
    assert one.text_embeds is None
    assert torch.equal(one.loss, both.lm_loss)
    torch.testing.assert_close(both.loss, both.lm_loss + both.contrastive_loss)


def test_temperature_comes_with_the_embeddings(model, processor, pictures):
    inputs = processor(text="<visual>a red star", images=pictures[:1])
    with torch.no_grad():
        found = model.model(**inputs)
        without = model.model(**inputs, compute_embeds=False)
    assert list(found)[-1] == "logit_scale"
    assert found.logit_scale.tolist() == pytest.approx([1 / 0.07])  # CLIP's start
    assert without.logit_scale is None


def test_a_surplus_placeholder_blinds_nobody(model, processor, pictures):
    """More placeholders than media: the surplus one still looks at the last medium, and other rows do not change."""
    inputs = processor(text=["<visual>a red star", "<visual>a"], images=[pictures[:1], pictures[1:2]])
    surplus = inputs["input_ids"].clone()
    surplus[0, -1] = model.config.visual_token_id
    other_pixels = inputs["pixel_values"].clone()
    other_pixels[0] += 1.0
    with torch.no_grad():
        out = model(**inputs | {"input_ids": surplus})
        assert torch.equal(out.logits[1], model(**inputs).logits[1])
        changed = model(**inputs | {"input_ids": surplus, "pixel_values": other_pixels})
    assert (changed.logits[0, -1] - out.logits[0, -1]).abs().max() > 1e-4


def test_states_and_attentions_on_request(processor, pictures):
    model = open_gates(build("opt", processor, attn_implementation="eager"))
    inputs = processor(text=["<visual>a red star", "<visual>a<visual>"], images=[pictures[:1], pictures[1:3]])
    with torch.no_grad():
        out = model(**inputs, output_hidden_states=True, output_attentions=True, output_visual_tokens=True)
    batch, length = inputs["input_ids"].shape
    assert [tuple(states.shape) for states in out.hidden_states] == [(batch, length, 12)] * 5
    assert len(out.attentions) == 4
    assert [tuple(weights.shape) for weights in out.cross_attentions] == [(batch, 2, length, 2 * 5)] * 2
    assert out.visual_tokens.shape == (batch, 2, 5, 10)
    assert model(**inputs).cross_attentions is None


def test_embeddings_can_be_given_in_place_of_ids(model, processor, pictures):
    inputs = processor(text="<visual>a red star", images=pictures[:1])
    with torch.no_grad():
        expect = model(**inputs).logits
        embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
        assert torch.equal(model(**inputs, inputs_embeds=embeds).logits, expect)


@pytest.mark.parametrize("kind", ["opt", "gpt_neox"])
def test_saving_and_loading_keeps_everything(kind, processor, pictures, tmp_path):
    model = open_gates(build(kind, processor, qk_norm=True, compress_ratio=2, max_frames=2))
    model.save_pretrained(tmp_path)
    loaded = CosmoForConditionalGeneration.from_pretrained(tmp_path)
    expect = {name: value.clone() for name, value in model.state_dict().items()}
    assert expect.keys() == loaded.state_dict().keys()
    assert all(torch.equal(value, expect[name]) for name, value in loaded.state_dict().items())
    for name in ("unimodal_depth", "compress_ratio", "qk_norm", "max_frames", "visual_token_id", "block_positions"):
        assert getattr(loaded.config, name) == getattr(model.config, name)
    assert loaded.generation_config.suppress_tokens == [model.config.visual_token_id]
    base = CosmoModel.from_pretrained(tmp_path)
    inputs = processor(text="<visual>a red star", images=pictures[:1])
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
        assert torch.equal(base(**inputs).last_hidden_state, model.model(**inputs).last_hidden_state)


def test_parts_missing_from_a_file_are_initialised(processor, tmp_path):
    """For example frame positions that a folder lacks: gates are closed, and no memory is left uninitialised."""
    torch.manual_seed(0)
    model = open_gates(build("opt", processor))
    kept = {name: value for name, value in model.state_dict().items() if ".cross_attention." not in name}
    model.save_pretrained(tmp_path, state_dict=kept)
    loaded = CosmoForConditionalGeneration.from_pretrained(tmp_path)
    blocks = {name: value for name, value in loaded.named_parameters() if ".cross_attention." in name}
    for name, value in blocks.items():
        if name.endswith("_gate"):
            assert value.item() == 0.0
        elif name.endswith("q_proj.weight"):  # torch's default for a linear layer: variance 1 / (3 x inputs)
            assert value.std().item() == pytest.approx((1 / (3 * value.shape[1])) ** 0.5, rel=0.2)


def test_new_tokens_get_embeddings_of_their_own(processor):
    """A frozen head could not tell identical ones apart."""
    model = build("opt", processor)
    table = model.get_input_embeddings().weight
    assert len(table) == len(processor.tokenizer)
    new = table[-6:]
    apart = torch.pdist(new).min() / torch.pdist(table[:-6]).mean()
    assert apart > 0.3
    assert model.lm_head.weight is table


def test_towers_come_by_path_too(processor, tmp_path):
    tiny_vision().save_pretrained(tmp_path / "vision")
    tiny_language_model("opt").save_pretrained(tmp_path / "text")
    tiny_tokenizer().save_pretrained(tmp_path / "text")
    processor.image_processor.save_pretrained(tmp_path / "vision")
    by_path = CosmoProcessor.from_towers(tmp_path / "vision", str(tmp_path / "text"))
    assert by_path.token_ids() == processor.token_ids()
    model = CosmoForConditionalGeneration.from_towers(tmp_path / "vision", tmp_path / "text", by_path)
    own = model.model.vision_tower.state_dict()
    assert all(torch.equal(own[name], value) for name, value in tiny_vision().state_dict().items())


def test_options_of_from_towers(processor):
    """A misspelt option must not end up as an attribute of the config that nothing reads."""
    for options, message in (
        ({"resampler_dept": 1, "torch_dtype": torch.float16}, "CosmoConfig has no field resampler_dept, torch_dtype"),
        ({"dtype": "auto"}, "dtype is 'auto'; it must be a torch dtype or its name"),
    ):
        with pytest.raises(ValueError, match=message):
            build("opt", processor, **options)
    assert build("opt", processor, dtype="bfloat16").dtype == torch.bfloat16


def test_a_copy_is_independent(model):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.model.resampler.latents.zero_()
    assert model.model.resampler.latents.abs().min() > 0
