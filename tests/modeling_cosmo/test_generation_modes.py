"""Every way to call `generate` gives what greedy search over the whole text gives, or is refused with a reason."""

from threading import Thread

import pytest
import torch
from transformers import Cache, DynamicCache, TextIteratorStreamer, TextStreamer
from transformers.cache_utils import QuantizedLayer

from tests.modeling_cosmo.tiny import build, open_gates


TEXTS = ["<visual>a red star<|endofchunk|><visual>a", "<visual>blue", "the sea"]
OPTIONS = {"max_new_tokens": 5, "eos_token_id": None}
CLOSE = {"atol": 2e-5, "rtol": 1e-4}  # float32; a cached step sums in another order


@pytest.fixture
def inputs(processor, pictures):
    """A left-padded batch with two, one and no media."""
    return processor(text=TEXTS, images=[pictures[:2], pictures[2:3], []])


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 2}, {"cache_implementation": "static", "disable_compile": True}]
)
def test_embeddings_in_place_of_ids(model, inputs, options):
    expect = model.generate(**inputs, **OPTIONS, **options)
    length = inputs["input_ids"].shape[1]
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    rest = {name: value for name, value in inputs.items() if name != "input_ids"}
    assert torch.equal(model.generate(inputs_embeds=embeds, **rest, **OPTIONS, **options), expect[:, length:])
    assert torch.equal(model.generate(**inputs, inputs_embeds=embeds, **OPTIONS, **options), expect)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}])
def test_features_in_place_of_pixels(model, inputs, options):
    rest = {name: value for name, value in inputs.items() if name != "pixel_values"}
    features = model.encode_frames(inputs["pixel_values"])
    out = model.generate(vision_features=features, **rest, **OPTIONS, **options)
    assert torch.equal(out, model.generate(**inputs, **OPTIONS, **options))


def test_everything_that_generate_returns_on_request(processor, pictures):
    model = open_gates(build("opt", processor, attn_implementation="eager"))
    inputs = processor(text=TEXTS[:2], images=[pictures[:2], pictures[2:3]])
    length = inputs["input_ids"].shape[1]
    for beams in (1, 3):
        out = model.generate(
            **inputs, **OPTIONS, num_beams=beams, return_dict_in_generate=True, output_attentions=True,
            output_hidden_states=True, output_scores=True, output_logits=True,
        )  # fmt: skip
        rows = 2 * beams
        for step, (attentions, states) in enumerate(zip(out.attentions, out.hidden_states, strict=True)):
            num_new, num_all = (length, length) if step == 0 else (1, length + step)
            assert [tuple(weights.shape) for weights in attentions] == [(rows, 2, num_new, num_all)] * 4
            assert [tuple(state.shape) for state in states] == [(rows, num_new, 12)] * 5
        assert len(out.scores) == len(out.logits) == OPTIONS["max_new_tokens"]


def test_streamed_text_is_the_generated_text(model, processor, inputs, pictures, capsys):
    single = processor(text=TEXTS[0], images=pictures[:2])
    ids = model.generate(**single, **OPTIONS)[0, single["input_ids"].shape[1] :]
    expect = processor.tokenizer.decode(ids)
    model.generate(**single, **OPTIONS, streamer=TextStreamer(processor.tokenizer, skip_prompt=True))
    assert capsys.readouterr().out == expect + "\n"
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, timeout=60)
    thread = Thread(target=model.generate, kwargs={**single, **OPTIONS, "streamer": streamer})
    thread.start()
    assert "".join(streamer) == expect
    thread.join()


def test_sampling_repeats_with_its_seed_and_differs_between_sequences(model, inputs):
    options = OPTIONS | {"do_sample": True, "num_return_sequences": 4, "temperature": 3.0}
    draws = []
    for _ in range(2):
        torch.manual_seed(7)
        draws.append(model.generate(**inputs, **options))
    assert torch.equal(*draws)
    assert len({tuple(row.tolist()) for row in draws[0][:4]}) > 1
    assert torch.equal(draws[0][0, :7], draws[0][3, :7])  # rows of one sample are neighbours


def test_prefill_computes_the_logits_of_the_last_token_alone(model, inputs):
    shapes = []
    model.lm_head.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    model.generate(**inputs, **OPTIONS)
    assert shapes == [(3, 1, 12)] * 5


@pytest.mark.parametrize("num_beams", [1, 3])
def test_three_turns_on_one_cache(model, processor, pictures, num_beams):
    """The second turn brings a picture to each row, the third to none; the last turn uses beams."""
    turns = [(TEXTS[:2], [pictures[:2], pictures[2:3]]), (["<visual>a star"] * 2, [pictures[3:4], pictures[4:5]])]
    turns.append((["the sea", "the sea"], None))
    cache, ids, mask, everything = None, torch.zeros(2, 0).long(), torch.zeros(2, 0).long(), [[], []]
    options = OPTIONS | {"return_dict_in_generate": True}
    for turn, (texts, images) in enumerate(turns):
        new = processor(text=texts, images=images)
        ids, mask = (
            torch.cat([old, new[name]], dim=1) for old, name in ((ids, "input_ids"), (mask, "attention_mask"))
        )
        everything = [old + (images[row] if images else []) for row, old in enumerate(everything)]
        media = {name: new[name] for name in ("pixel_values", "media_mask") if name in new}
        beams = num_beams if turn == 2 else 1
        if cache is not None and beams > 1:
            cache.batch_repeat_interleave(beams)
        out = model.generate(
            input_ids=ids, attention_mask=mask, past_key_values=cache, **media, **options, num_beams=beams
        )
        whole = processor(images=everything)
        afresh = model.generate(
            input_ids=ids, attention_mask=mask, pixel_values=whole["pixel_values"], media_mask=whole.get("media_mask"),
            **options, num_beams=beams,
        )  # fmt: skip
        assert torch.equal(out.sequences, afresh.sequences)
        cache, ids = out.past_key_values, out.sequences
        mask = torch.cat([mask, mask.new_ones(2, ids.shape[1] - mask.shape[1])], dim=1)


class Unquantised(QuantizedLayer):
    """A layer of a quantised cache whose quantisation is exact, so that testing this path needs no extra package."""

    def _quantize(self, tensor, axis):
        return tensor.clone()

    def _dequantize(self, q_tensor):
        return q_tensor


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}])
def test_a_quantised_cache_serves_the_text_beside_the_media(model, inputs, options):
    layers = [Unquantised(residual_length=3) for _ in range(model.config.text_config.num_hidden_layers)]
    out = model.generate(**inputs, **OPTIONS, **options, past_key_values=Cache(layers=layers))
    assert torch.equal(out, model.generate(**inputs, **OPTIONS, **options))


def test_a_cached_beginning_serves_several_continuations(model, processor, pictures):
    beginning = processor(text="a red star", return_tensors="pt")
    cache = DynamicCache(config=model.config.text_config)
    with torch.no_grad():
        model(**beginning, past_key_values=cache)
    whole = processor(text="a red star<visual>a", images=pictures[:1])
    out = model.generate(**whole, **OPTIONS, past_key_values=cache)
    assert torch.equal(out, model.generate(**whole, **OPTIONS))


def test_a_cache_gives_up_generated_tokens_but_no_media(model, processor, pictures):
    inputs = processor(text="a<visual>a red", images=pictures[:1])
    length = inputs["input_ids"].shape[1]
    out = model.generate(**inputs, **OPTIONS, return_dict_in_generate=True)
    cache = out.past_key_values
    cache.crop(length - cache.get_seq_length())  # back to the prompt, for another answer
    again = model.generate(
        input_ids=torch.cat([inputs["input_ids"], torch.tensor([[5]])], dim=1), past_key_values=cache, **OPTIONS
    )
    afresh = model.generate(input_ids=again[:, : length + 1], pixel_values=inputs["pixel_values"], **OPTIONS)
    assert torch.equal(again, afresh)
    cache.crop(2 - cache.get_seq_length())  # to the placeholder
    with pytest.raises(ValueError, match="cannot remove 1 of 2 cached tokens: token 1 stands for a medium"):
        cache.crop(-1)


def test_a_prompt_with_media_is_not_read_in_chunks(model, inputs):
    rest = {name: value for name, value in inputs.items() if name != "pixel_values"}
    features = model.encode_frames(inputs["pixel_values"])
    for media in ({"pixel_values": inputs["pixel_values"]}, {"vision_features": features}):
        with pytest.raises(ValueError, match="prefill"):
            model.generate(**rest, **media, **OPTIONS, prefill_chunk_size=3)
    text = {"input_ids": rest["input_ids"], "attention_mask": rest["attention_mask"]}
    out = model.generate(**text, **OPTIONS, prefill_chunk_size=3)
    assert torch.equal(out, model.generate(**text, **OPTIONS))


def test_an_assistant_may_be_of_another_kind(processor, pictures):
    """Sampling with an assistant follows the model's own distribution: it never leaves what top-k allows."""
    model, assistant = (open_gates(build(kind, processor)) for kind in ("mistral", "opt"))
    inputs = processor(text="<visual>a red star", images=pictures[:1])
    greedy = model.generate(**inputs, max_new_tokens=8, eos_token_id=None)
    assert torch.equal(
        model.generate(**inputs, max_new_tokens=8, eos_token_id=None, assistant_model=assistant), greedy
    )
    sampled = model.generate(
        **inputs, max_new_tokens=8, eos_token_id=None, assistant_model=assistant, do_sample=True, top_k=1
    )
    assert torch.equal(sampled, greedy)


def test_prompt_lookup_stops_where_greedy_search_stops(model, processor, pictures):
    inputs = processor(text="<visual>a red star a red", images=pictures[:1])
    free = model.generate(**inputs, max_new_tokens=8, eos_token_id=None)
    end = int(free[0, -4])
    greedy = model.generate(**inputs, max_new_tokens=8, eos_token_id=end)
    assert torch.equal(
        model.generate(**inputs, max_new_tokens=8, eos_token_id=end, prompt_lookup_num_tokens=3), greedy
    )
