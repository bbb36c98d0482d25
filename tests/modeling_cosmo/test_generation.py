"""Generation with caches, beams, padding and turns, each against the same text scored in one pass without a cache."""

import pytest
import torch
from transformers import DynamicCache

from tests.modeling_cosmo.tiny import LANGUAGE_MODELS, build, open_gates


CLOSE = {"atol": 2e-5, "rtol": 1e-4}  # float32; a cached step sums in another order


def scores(model, ids, **media):
    """Log-probabilities of a whole text in one pass."""
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False, **media).logits.log_softmax(-1)


def media_of(inputs):
    return {name: inputs[name] for name in ("pixel_values", "media_mask") if name in inputs}


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_cached_equals_uncached(kind, implementation, processor, pictures):
    model = open_gates(build(kind, processor, attn_implementation=implementation))
    texts = ["<visual>a red star<|endofchunk|><visual>a", "<visual>blue", "the sea"]
    inputs = processor(text=texts, images=[pictures[:2], pictures[2:3], []])
    options = {"max_new_tokens": 6, "return_dict_in_generate": True, "output_logits": True, "eos_token_id": None}
    cached, uncached = (model.generate(**inputs, use_cache=use_cache, **options) for use_cache in (True, False))
    assert torch.equal(cached.sequences, uncached.sequences)
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(uncached.logits), **CLOSE)


def test_pictures_are_encoded_once_and_projected_once(model, processor, pictures, monkeypatch):
    inputs = processor(text=["<visual>a red", "a<visual>"], images=[pictures[:1], pictures[1:2]])
    encoded, projected = [], []
    model.model.vision_tower.register_forward_pre_hook(
        lambda _, args, kwargs: encoded.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    block = model.model.language_model.decoder.layers[-1].cross_attention
    block.attention.k_proj.register_forward_pre_hook(lambda _, args: projected.append(args[0].shape))
    for options in ({"num_beams": 3}, {"do_sample": True, "num_return_sequences": 4}):
        encoded.clear()
        projected.clear()
        model.generate(**inputs, max_new_tokens=5, eos_token_id=None, **options)
        assert encoded == [2]
        assert projected == [(2, 5, 10)]


def test_beams_have_the_scores_of_their_texts(model, processor, pictures):
    """Beams of one sample share its media: the score of each returned text equals that of the text alone."""
    inputs = processor(text=["<visual>a red", "a<visual>"], images=[pictures[:1], pictures[1:2]])
    out = model.generate(
        **inputs, num_beams=3, num_return_sequences=3, max_new_tokens=5, eos_token_id=None, length_penalty=0.0,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    start = inputs["input_ids"].shape[1]
    for row, (ids, score) in enumerate(zip(out.sequences, out.sequences_scores, strict=True)):
        sample = row // 3
        real = torch.cat([inputs["attention_mask"][sample], torch.ones(5, dtype=torch.long)]).bool()
        media = {name: value[sample : sample + 1] for name, value in media_of(inputs).items()}
        log_probs = scores(model, ids[real][None], **media)[0, :-1]
        total = log_probs.gather(-1, ids[real][1:, None])[-5:].sum()
        assert total.item() == pytest.approx(score.item(), abs=1e-4)
    assert out.sequences.shape == (6, start + 5)


def test_rows_of_a_batch_are_as_alone(model, processor, pictures):
    texts = ["<visual>a red star<|endofchunk|><visual>a", "<visual>blue", "the sea"]
    images = [pictures[:2], pictures[2:3], []]
    options = {"max_new_tokens": 5, "eos_token_id": None, "num_beams": 2}
    together = model.generate(**processor(text=texts, images=images), **options)
    for row, (text, of_row) in enumerate(zip(texts, images, strict=True)):
        alone = model.generate(**processor(text=[text], images=[of_row]), **options)
        assert torch.equal(together[row, -5:], alone[0, -5:])


def test_prompts_without_media(model, processor):
    plain = processor(text=["a red star", "the"])
    assert "pixel_values" not in plain
    assert model.generate(**plain, max_new_tokens=4, eos_token_id=None).shape == (2, plain["input_ids"].shape[1] + 4)


def test_a_placeholder_is_not_generated_and_blinds_nobody(model, processor, pictures):
    visual = model.config.visual_token_id
    with torch.no_grad():  # a head that predicts nothing else
        model.lm_head.weight[visual] += 50 * model.lm_head.weight[visual].sign()
    inputs = processor(text=["<visual>a red", "a<visual>"], images=[pictures[:1], pictures[1:2]])
    start = inputs["input_ids"].shape[1]
    out = model.generate(**inputs, max_new_tokens=6, eos_token_id=None)
    assert visual not in out[:, start:]
    with torch.no_grad():
        first = model(**inputs, use_cache=True)
        mask = torch.cat([inputs["attention_mask"], torch.ones(2, 1, dtype=torch.long)], dim=1)
        row = torch.tensor([[visual], [5]])
        emitted = model(input_ids=row, attention_mask=mask, past_key_values=first.past_key_values).logits
        other = model(
            input_ids=torch.tensor([[6], [5]]), attention_mask=mask,
            past_key_values=model(**inputs, use_cache=True).past_key_values,
        ).logits  # fmt: skip
    torch.testing.assert_close(emitted[1], other[1], **CLOSE)


def test_an_emitted_placeholder_uncovers_no_medium_that_the_prompt_left_out(model, processor, pictures):
    media = media_of(processor(images=[pictures[:2]]))
    visual = model.config.visual_token_id
    logits = []
    for brightness in (0.0, 1.0):  # of the second picture, which no placeholder of the prompt stands for
        pixels = media["pixel_values"].clone()
        pixels[:, 1] += brightness
        with torch.no_grad():
            first = model(input_ids=torch.tensor([[visual, 5, 6]]), pixel_values=pixels, use_cache=True)
            emitted = torch.tensor([[visual]])
            logits.append(model(input_ids=emitted, past_key_values=first.past_key_values).logits)
    assert torch.equal(logits[0], logits[1])


@pytest.mark.parametrize("whole", [True, False])
def test_a_later_turn_brings_new_media(model, processor, pictures, whole):
    """Passed as media of the new text or of the whole text; rows have different numbers of media."""
    texts = ["<visual>a red<|endofchunk|><visual>a", "<visual>blue ring"]
    first = processor(text=texts, images=[pictures[:2], pictures[2:3]])
    cache = model.generate(
        **first, max_new_tokens=3, eos_token_id=None, return_dict_in_generate=True
    )  # leaves the last token out of the cache
    turn = processor.tokenizer(["<visual>a star", "<visual>a star"], return_tensors="pt")
    ids = torch.cat([cache.sequences, turn["input_ids"]], dim=1)
    mask = torch.cat(
        [first["attention_mask"], torch.ones(2, ids.shape[1] - first["input_ids"].shape[1]).long()], dim=1
    )
    new = [[pictures[3]], [pictures[4]]]
    everything = [[*pictures[:2], pictures[3]], [pictures[2], pictures[4]]]
    media = media_of(processor(images=everything if whole else new))
    options = {"max_new_tokens": 4, "eos_token_id": None, "return_dict_in_generate": True, "output_logits": True}
    continued = model.generate(
        input_ids=ids, attention_mask=mask, past_key_values=cache.past_key_values, **media, **options
    )
    afresh = model.generate(input_ids=ids, attention_mask=mask, **media_of(processor(images=everything)), **options)
    assert torch.equal(continued.sequences, afresh.sequences)
    torch.testing.assert_close(torch.stack(continued.logits), torch.stack(afresh.logits), **CLOSE)


def test_media_that_fit_no_turn_are_refused(model, processor, pictures):
    first = processor(text="<visual>a red", images=pictures[:1])
    cache = model.generate(**first, max_new_tokens=2, eos_token_id=None, return_dict_in_generate=True)
    ids = torch.cat([cache.sequences, torch.tensor([[model.config.visual_token_id, 5]])], dim=1)
    media = media_of(processor(images=[pictures[:3]]))
    with pytest.raises(ValueError, match="sample 0 has 1 new <visual> placeholders but 3 media"):
        model.generate(input_ids=ids, past_key_values=cache.past_key_values, max_new_tokens=2, **media)


def test_a_cache_of_text_alone_serves(model, processor, pictures):
    inputs = processor(text="<visual>a red", images=pictures[:1])
    cache = DynamicCache(config=model.config.text_config)
    with torch.no_grad():
        out = model(**inputs, past_key_values=cache)
        torch.testing.assert_close(out.logits, model(**inputs).logits, **CLOSE)


def test_generation_ends_at_the_end_of_the_chunk(model):
    assert model.config.end_of_chunk_token_id in model.generation_config.eos_token_id
    assert model.generation_config.pad_token_id == model.config.pad_token_id


@pytest.mark.parametrize("options", [{"prompt_lookup_num_tokens": 2}, {"assistant": True}])
def test_assisted_decoding_gives_the_same_text(model, processor, pictures, options):
    inputs = processor(text="<visual>a red star a red", images=pictures[:1])
    greedy = model.generate(**inputs, max_new_tokens=8, eos_token_id=None)
    if options.pop("assistant", False):
        options["assistant_model"] = build("opt", processor)
    assert torch.equal(model.generate(**inputs, max_new_tokens=8, eos_token_id=None, **options), greedy)


def test_a_static_cache_gives_the_same_text(model, processor, pictures):
    inputs = processor(text="<visual>a red star", images=pictures[:1])
    options = {"max_new_tokens": 6, "eos_token_id": None, "disable_compile": True}
    assert torch.equal(
        model.generate(**inputs, cache_implementation="static", **options), model.generate(**inputs, **options)
    )
