"""Which language models and vision towers of transformers work, and that the others are refused with a reason."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    MambaConfig,
    MptConfig,
    SiglipConfig,
    SiglipModel,
    SiglipVisionModel,
)

from modeling_cosmo import CosmoConfig, CosmoForConditionalGeneration, CosmoProcessor, backbone_cosmo
from modeling_cosmo.backbone_cosmo import DROPS_ARGUMENTS, arguments_beside_the_call
from tests.modeling_cosmo.tiny import (
    FURTHER_LANGUAGE_MODELS,
    LANGUAGE_MODELS,
    build,
    open_gates,
    tiny_language_model,
    tiny_tokenizer,
    tiny_vision,
)


KINDS = sorted(LANGUAGE_MODELS | FURTHER_LANGUAGE_MODELS)
CLOSE = {"atol": 5e-6, "rtol": 1e-4}  # float32, sums in another order; logits of up to 10 in some kinds


@pytest.fixture
def inputs(processor, pictures):
    """Two rows; the second is shorter and padded on the left."""
    texts = ["a red star<visual>rolls left in front", "a<visual>blue"]
    return processor(text=texts, images=[pictures[:1], pictures[1:2]])


@pytest.mark.parametrize("kind", KINDS)
def test_closed_gates_leave_the_plain_language_model(kind, processor, pictures):
    model, plain = build(kind, processor), tiny_language_model(kind)
    inputs = processor(text="a red star<visual>rolls", images=pictures[:1])
    with torch.no_grad():
        plain.get_input_embeddings().weight.data = model.get_input_embeddings().weight.data
        plain.get_output_embeddings().weight.data = model.lm_head.weight.data
        assert torch.equal(model(**inputs).logits, plain(input_ids=inputs["input_ids"]).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_media_arrive_and_rows_do_not_mix(kind, inputs, processor, pictures):
    model = open_gates(build(kind, processor))
    with torch.no_grad():
        out = model(**inputs, output_hidden_states=True)
        other = model(**inputs | {"pixel_values": inputs["pixel_values"] + 1.0})
        alone = model(**processor(text="a<visual>blue", images=pictures[1:2]))
        text = model.get_text_features(inputs["input_ids"], inputs["attention_mask"])
    is_after = (inputs["input_ids"] == model.config.visual_token_id).cumsum(dim=-1).bool()
    changes = (out.logits - other.logits).abs().amax(dim=-1)
    assert (changes[is_after] > 1e-4).all()
    assert (changes[~is_after & inputs["attention_mask"].bool()] == 0).all()
    real = inputs["attention_mask"][1].bool()
    torch.testing.assert_close(out.logits[1, real], alone.logits[0], **CLOSE)
    # The same operations, but some BLAS sum in another order when memory is aligned differently (seen on an AMD EPYC).
    last_bits = {"atol": 1e-6, "rtol": 1e-6}
    torch.testing.assert_close(out.text_embeds, text.pooler_output, **last_bits)
    assert len(out.hidden_states) == 5
    torch.testing.assert_close(
        out.hidden_states[2], text.last_hidden_state, **last_bits
    )  # two unimodal layers of four


@pytest.mark.parametrize("kind", KINDS)
def test_cached_equals_uncached(kind, inputs, processor):
    model = open_gates(build(kind, processor))
    for options in ({}, {"num_beams": 3}):
        outs = [
            model.generate(
                **inputs, **options, use_cache=use_cache, max_new_tokens=5, eos_token_id=-1,
                return_dict_in_generate=True, output_logits=True,
            )
            for use_cache in (True, False)
        ]  # fmt: skip
        assert torch.equal(outs[0].sequences, outs[1].sequences)
        torch.testing.assert_close(torch.stack(outs[0].logits), torch.stack(outs[1].logits), **CLOSE)


@pytest.mark.parametrize("kind", sorted(DROPS_ARGUMENTS))
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_reaches_media_beside_the_call(kind, reentrant, inputs, processor):
    """Layers that checkpointing recomputes get the same media, even though the call has ended by then."""
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = open_gates(build(kind, processor)).train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert gradients[1].keys() == gradients[0].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, **CLOSE, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("kind", sorted(DROPS_ARGUMENTS))
def test_a_call_that_fails_leaves_nothing_beside_it(kind, inputs, processor):
    model = open_gates(build(kind, processor))
    with pytest.raises(IndexError), torch.no_grad():
        model(input_ids=inputs["input_ids"] + 1000, pixel_values=inputs["pixel_values"])
    assert arguments_beside_the_call() == {}


@pytest.mark.parametrize("compute_contrastive", [True, False])
def test_a_language_model_that_keeps_media_from_its_layers_is_refused(
    compute_contrastive, inputs, processor, monkeypatch
):
    """Tested with MPT, as if it were not known to drop arguments."""
    model = build("mpt", processor)
    monkeypatch.setattr(backbone_cosmo, "DROPS_ARGUMENTS", frozenset())
    with pytest.raises(ValueError, match="MptModel does not pass keyword arguments on to its decoder layers"):
        model(**inputs, compute_contrastive=compute_contrastive)
    with pytest.raises(ValueError, match="MptModel does not pass keyword arguments on to its decoder layers"):
        model.get_text_features(inputs["input_ids"])


def test_a_language_model_without_attention_is_refused(processor):
    config = MambaConfig(vocab_size=120, hidden_size=12, num_hidden_layers=4, state_size=4)
    language_model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ValueError, match="MambaModel has no attention"):
        CosmoForConditionalGeneration.from_towers(tiny_vision(), language_model, processor)


@pytest.mark.parametrize(
    ("kind", "field", "message"),
    [
        ("granite", "logits_scaling", "GraniteForCausalLM changes its logits after the head"),
        ("gemma3_text", "final_logit_softcapping", "Gemma3ForCausalLM changes its logits after the head"),
        ("mpt", "logit_scale", "MptForCausalLM changes its logits after the head"),
    ],
)
def test_a_language_model_with_more_behind_its_head_is_refused(kind, field, message, processor):
    language_model = tiny_language_model(kind)
    setattr(language_model.config, field, 8.0)
    with pytest.raises(ValueError, match=message):
        CosmoForConditionalGeneration.from_towers(tiny_vision(), language_model, processor)


def test_an_mpt_whose_norms_transformers_dropped_is_refused(processor):
    config = MptConfig(d_model=12, n_heads=2, n_layers=4, vocab_size=120, attn_config={"qk_ln": True})
    language_model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ValueError, match="drops the norms on queries and keys"):
        CosmoForConditionalGeneration.from_towers(tiny_vision(), language_model, processor)


def mpt_by_definition(state, config, ids):
    """Hidden states of an MPT with norms on queries and keys, token by token and head by head, in float64.

    Written from the description of MPT: no biases, ALiBi with slopes 2 ** (-8 i / heads), pre-norms, exact GELU.
    """

    def norm(name, x):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * state[name].double()

    width, heads = config.d_model, config.n_heads
    size, states = width // heads, state["wte.weight"].double()[ids]
    for index in range(config.n_layers):
        layer = f"blocks.{index}"
        query, key, value = (
            norm(f"{layer}.norm_1.weight", states) @ state[f"{layer}.attn.Wqkv.weight"].double().T
        ).split(width, dim=-1)
        query, key = norm(f"{layer}.attn.Wqkv.q_norm.weight", query), norm(f"{layer}.attn.Wqkv.k_norm.weight", key)
        attended = torch.zeros_like(states)
        for head in range(heads):
            part, slope = slice(head * size, (head + 1) * size), 2.0 ** (-8 * (head + 1) / heads)
            for i in range(len(ids)):
                scores = [query[i, part] @ key[j, part] / size**0.5 - slope * (i - j) for j in range(i + 1)]
                attended[i, part] = torch.stack(scores).softmax(0) @ value[: i + 1, part]
        states = states + attended @ state[f"{layer}.attn.out_proj.weight"].double().T
        inner = norm(f"{layer}.norm_2.weight", states) @ state[f"{layer}.ffn.up_proj.weight"].double().T
        inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
        states = states + inner @ state[f"{layer}.ffn.down_proj.weight"].double().T
    return norm("norm_f.weight", states)


def test_mpt_with_norms_on_queries_and_keys_matches_the_definition(tmp_path):
    """The language model of OpenFlamingo-3B, through a saved folder."""
    torch.manual_seed(0)
    text = MptConfig(d_model=12, n_heads=2, n_layers=3, vocab_size=41, max_seq_len=32, attn_config={"qk_ln": True})
    config = CosmoConfig(
        vision_config=tiny_vision().config, text_config=text, resampler_depth=1, num_visual_tokens=3,
        visual_token_id=40, contrastive=False, cross_attention_heads=2, cross_attention_head_dim=4,
    )  # fmt: skip
    model = CosmoForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.model.language_model.named_parameters():
            if ".cross_attention." not in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    model = CosmoForConditionalGeneration.from_pretrained(tmp_path)
    ids = torch.randint(0, 40, (1, 7))
    state = {n.replace("decoder_layer.", ""): v for n, v in model.model.language_model.state_dict().items()}
    with torch.no_grad():
        states = model.model(ids, output_hidden_states=True).last_hidden_state[0]
    expect = mpt_by_definition(state, text, ids[0])
    torch.testing.assert_close(states.double(), expect, atol=2e-5, rtol=1e-4)  # float32 against float64


def test_a_whole_siglip_serves_as_vision_tower(tmp_path, pictures):
    """From a folder with both towers of SigLIP, the vision tower is taken."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 10, "intermediate_size": 14, "num_hidden_layers": 2, "num_attention_heads": 2}
    siglip = SiglipModel(
        SiglipConfig(
            vision_config=sizes | {"image_size": 8, "patch_size": 4}, text_config=sizes | {"vocab_size": 50},
        )
    ).eval()  # fmt: skip
    siglip.save_pretrained(tmp_path / "siglip")
    processor = CosmoProcessor.from_towers(siglip.vision_model, tiny_tokenizer())
    model = build("opt", processor, vision=tmp_path / "siglip", patch_tokens="after_ln_post")
    assert isinstance(model.model.vision_tower, SiglipVisionModel)
    frames = torch.randn(1, 2, 1, 3, 8, 8)
    with torch.no_grad():
        expect = siglip.vision_model(frames[0, :, 0]).last_hidden_state
        torch.testing.assert_close(model.encode_frames(frames)[0, :, 0], expect)
    model.save_pretrained(tmp_path / "model")
    again = CosmoForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert torch.equal(again.encode_frames(frames), model.encode_frames(frames))
    inputs = processor(text="<visual>a", images=pictures[:1])
    assert torch.equal(again.generate(**inputs, max_new_tokens=3), model.generate(**inputs, max_new_tokens=3))
