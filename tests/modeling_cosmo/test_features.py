"""Embeddings of texts, pictures and videos: what they depend on, and above all what they do not.

Tolerance: float32 and sums of a few dozen terms in another order; the entries of a unit vector are below 1.
"""

import math

import pytest
import torch

from tests.modeling_cosmo import tiny
from tests.modeling_cosmo.tiny import build, open_gates


CLOSE = {"atol": 2e-6, "rtol": 0}
KINDS = [*tiny.LANGUAGE_MODELS, "gpt2"]  # gpt2: learned positions that the stock model counts from the row's start
TEXTS = ["<visual>a red star rolls left in front of the bricks<|endofchunk|>", "<visual>a", "a blue ring<visual>"]


@pytest.fixture(autouse=True)
def gpt2_is_known(monkeypatch):
    monkeypatch.setitem(tiny.LANGUAGE_MODELS, "gpt2", {"n_inner": 20})


def tokenized(processor, texts, **options):
    return processor.tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False, **options)


def upper_parts(model):
    """Everything that a text embedding must not depend on."""
    core = model.model
    stack = next(
        stack
        for stack in core.language_model.modules()
        if isinstance(stack, torch.nn.ModuleList) and len(stack) == core.config.text_config.num_hidden_layers
    )
    wrappers = list(stack)
    blocks = [wrapper.cross_attention for wrapper in wrappers if wrapper.cross_attention is not None]
    stock = [wrapper.decoder_layer for wrapper in wrappers[core.config.unimodal_depth :]]
    return [*stock, *blocks, core.vision_tower, core.resampler, core.vision_projection]


def refuse(*_):
    raise AssertionError("this part must not run for a text embedding")


@pytest.mark.parametrize("kind", KINDS)
def test_text_features_need_nothing_above_the_unimodal_half_and_no_vision(kind, processor):
    """The parts above refuse to run, and hold only NaN."""
    model = open_gates(build(kind, processor, unimodal_depth=3))
    batch = tokenized(processor, TEXTS)
    with torch.no_grad():
        expect = model.get_text_features(**batch)
        parts = upper_parts(model)
        assert len(parts) == 1 + 1 + 3, "one stock layer, one block, three parts of the vision side"
        for part in parts:
            part.register_forward_pre_hook(refuse)
            for parameter in part.parameters():
                parameter.fill_(float("nan"))
        if model.lm_head.weight is not model.get_input_embeddings().weight:
            model.lm_head.weight.fill_(float("nan"))
        found = model.get_text_features(**batch)
    assert torch.equal(found.pooler_output, expect.pooler_output)
    assert torch.equal(found.last_hidden_state, expect.last_hidden_state)
    assert expect.last_hidden_state.shape == (*batch["input_ids"].shape, 12)
    with pytest.raises(AssertionError, match="must not run"):
        model(**batch)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_no_text_embedding(kind, side, implementation, processor):
    """In a batch or alone, on either side, in any amount, and with any ids."""
    model = build(kind, processor, attn_implementation=implementation)
    alone = [tokenized(processor, [text]) for text in TEXTS]
    batch = tokenized(processor, TEXTS, padding_side=side)
    longer = processor.tokenizer(
        TEXTS, padding="max_length", max_length=41, padding_side=side, return_tensors="pt", return_token_type_ids=False
    )
    longer["input_ids"].masked_fill_(longer["attention_mask"] == 0, 7)
    with torch.no_grad():
        expect = torch.cat([model.get_text_features(**text).pooler_output for text in alone])
        for padded in (batch, longer):
            assert (padded["attention_mask"] == 0).any()
            torch.testing.assert_close(model.get_text_features(**padded).pooler_output, expect, **CLOSE)
            torch.testing.assert_close(model(**padded).text_embeds, expect, **CLOSE)
    assert torch.pdist(expect).min() > 1e-2, "different texts differ"


def test_text_features_equal_those_of_the_forward(model, processor, pictures):
    inputs = processor(text=TEXTS, images=[[picture] for picture in pictures[:3]])
    with torch.no_grad():
        out = model(**inputs)
        text = model.get_text_features(inputs["input_ids"], inputs["attention_mask"])
        image = model.get_image_features(inputs["pixel_values"], inputs["media_mask"])
    assert torch.equal(text.pooler_output, out.text_embeds)
    assert torch.equal(image.pooler_output, out.vision_embeds)
    assert text.pooler_output.shape == image.pooler_output.shape == (3, 7)
    for features in (text, image):
        torch.testing.assert_close(features.pooler_output.norm(dim=-1), torch.ones(3), **CLOSE)


def test_several_media_of_a_sample_count_as_their_mean(model, processor, pictures):
    """Compared with a mean taken by hand over each medium's class latent; rows with fewer media have padding."""
    nested = [pictures[:3], pictures[3:5], pictures[5:6]]
    inputs = processor(images=nested)
    weight = model.model.vision_projection.weight.double()
    with torch.no_grad():
        found = model.get_image_features(**inputs)
        for row, own in enumerate(nested):
            classes = []
            for picture in own:
                pixels = processor(images=[[picture]])["pixel_values"]
                classes.append(model.model.resample(model.encode_frames(pixels))[0, 0, 0].double().tolist())
            mean = torch.tensor([math.fsum(column) / len(own) for column in zip(*classes, strict=True)])
            projected = weight @ mean.double()
            expect = projected / math.sqrt(math.fsum(value * value for value in projected.tolist()))
            torch.testing.assert_close(found.pooler_output[row], expect.float(), **CLOSE)
        turned = processor(images=[nested[0][::-1]])
        torch.testing.assert_close(
            model.get_image_features(**turned).pooler_output[0], found.pooler_output[0], **CLOSE
        )
    assert found.last_hidden_state.shape == (3, 3, 5, 10), "the visual tokens, without the class latent"


def test_a_sample_without_media_has_zeros(model, processor, pictures):
    inputs = processor(text=["<visual>a red star", "a blue ring"], images=[pictures[:1], []])
    with torch.no_grad():
        found = model(**inputs).vision_embeds
    torch.testing.assert_close(found.norm(dim=-1), torch.tensor([1.0, 0.0]), **CLOSE)


def test_video_features(model, processor, pictures):
    """A picture is a video of one frame; padding frames do not count; several videos are averaged too."""
    frames = [picture.resize((8, 8)) for picture in pictures]
    batch = processor(videos=[[frames[:3]], [frames[3:5]], [frames[5:6]]])
    assert batch["pixel_values"].shape == (3, 1, 3, 3, 8, 8)
    noise = torch.randn_like(batch["pixel_values"])
    disturbed = torch.where(batch["media_mask"][..., None, None, None], batch["pixel_values"], noise)
    with torch.no_grad():
        found = model.get_video_features(**batch).pooler_output
        alone = [
            model.get_video_features(**processor(videos=[[part]])).pooler_output[0]
            for part in (frames[:3], frames[3:5], frames[5:6])
        ]
        picture = model.get_image_features(**processor(images=[[frames[5]]])).pooler_output[0]
        torch.testing.assert_close(found, torch.stack(alone), **CLOSE)
        torch.testing.assert_close(alone[2], picture, **CLOSE)
        torch.testing.assert_close(
            model.get_video_features(disturbed, batch["media_mask"]).pooler_output, found, **CLOSE
        )
        assert torch.equal(model.model.get_video_features(**batch).pooler_output, found)
        features = model.encode_frames(batch["pixel_values"])
        cached = model.get_video_features(vision_features=features, media_mask=batch["media_mask"])
        assert torch.equal(cached.pooler_output, found)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3), **CLOSE)
    assert torch.pdist(found).min() > 1e-3, "different videos differ"


def test_embeddings_in_bfloat16_stay_near(model, processor, pictures):
    inputs = processor(text=TEXTS, images=[[picture] for picture in pictures[:3]])
    with torch.no_grad():
        text = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output
        image = model.get_image_features(inputs["pixel_values"], inputs["media_mask"]).pooler_output
        model.bfloat16()
        text_low = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output
        image_low = model.get_image_features(inputs["pixel_values"], inputs["media_mask"]).pooler_output
    for low, full in ((text_low, text), (image_low, image)):
        assert low.dtype == torch.bfloat16
        # 8 bits of mantissa through a few layers: an angle of a few hundredths
        assert torch.nn.functional.cosine_similarity(low.float(), full).min() > 0.995


def test_features_as_tuples(model, processor):
    batch = tokenized(processor, TEXTS[:1])
    with torch.no_grad():
        states, pooled = model.model.get_text_features(**batch, return_dict=False)
    assert states.shape == (1, batch["input_ids"].shape[1], 12)
    assert pooled.shape == (1, 7)


def test_a_model_without_contrastive_head_says_so(processor, pictures):
    model = build("opt", processor, contrastive=False)
    batch = tokenized(processor, TEXTS[:1])
    media = processor(images=[pictures[:1]])
    for call in (
        lambda: model.get_text_features(**batch),
        lambda: model.get_image_features(**media),
        lambda: model.get_video_features(**media),
    ):
        with pytest.raises(ValueError, match=r"no contrastive head \(contrastive is False in its config\)"):
            call()


def test_features_of_nothing_are_refused(model):
    with pytest.raises(ValueError, match="give pixel_values or vision_features"):
        model.get_image_features()
