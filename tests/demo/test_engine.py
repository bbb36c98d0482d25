"""The engine behind the page, on a tiny model with random weights."""

import time
from functools import wraps
from itertools import pairwise

import pytest
import torch
from PIL import Image

from demo.engine import MAX_NEW_TOKENS, Captioner, ClipIndex, Demonstration, check_model_name
from demo.media import Medium, read_medium


def picture(colour: str, name: str = "p") -> Medium:
    return Medium(name=name, frames=(Image.new("RGB", (24, 24), colour),))


@pytest.fixture(scope="module")
def captioner(tiny_model_folder) -> Captioner:
    return Captioner.load(str(tiny_model_folder))


def test_the_stream_grows_to_what_generate_gives(captioner, clip):
    medium = read_medium(clip, captioner.num_frames, None)
    pieces = list(captioner.stream_caption(medium))
    assert len(pieces) > 3
    assert all(later.startswith(earlier) for earlier, later in pairwise(pieces))
    inputs = captioner.processor(text=["<visual>"], videos=[[list(medium.frames)]], return_tensors="pt")
    ids = captioner.model.generate(**inputs, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
    expected = captioner.processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert captioner.caption(medium) == pieces[-1] == expected.strip()


def test_demonstrations_stand_before_the_query_in_order(captioner, monkeypatch):
    seen = {}

    def record(**arguments):
        seen.update(arguments)
        arguments["streamer"].end()

    monkeypatch.setattr(captioner.model, "generate", record)
    shown = [Demonstration(medium=picture("red"), text="one"), Demonstration(medium=picture("lime"), text="two")]
    assert captioner.caption(picture("blue"), shown) == ""
    text = captioner.processor.tokenizer.decode(seen["input_ids"][0])
    assert text.endswith("<visual>one<|endofchunk|><visual>two<|endofchunk|><visual>")
    assert seen["pixel_values"].shape[:3] == (1, 3, 1)
    brightest = seen["pixel_values"][0, :, 0].mean(dim=(-1, -2)).argmax(dim=-1)
    assert brightest.tolist() == [0, 1, 2], "red, green, blue"


def test_an_error_in_the_thread_reaches_the_listener(captioner, monkeypatch):
    def fail(**_):
        raise RuntimeError("no memory left")

    monkeypatch.setattr(captioner.model, "generate", fail)
    with pytest.raises(RuntimeError, match="no memory left"):
        captioner.caption(picture("red"))


def test_decoding_stops_when_nobody_listens(captioner, monkeypatch):
    num_steps = 0
    forward = captioner.model.forward

    @wraps(forward)  # generate reads its signature
    def slow_forward(*arguments, **options):
        nonlocal num_steps
        num_steps += 1
        time.sleep(0.02)
        return forward(*arguments, **options)

    monkeypatch.setattr(captioner.model, "forward", slow_forward)
    monkeypatch.setattr(captioner.model.generation_config, "eos_token_id", None)
    list(captioner.stream_caption(picture("red")))
    assert num_steps == MAX_NEW_TOKENS

    num_steps = 0
    stream = captioner.stream_caption(picture("red"))
    next(stream)
    stream.close()  # returns once the thread has ended
    assert num_steps < MAX_NEW_TOKENS / 2


def test_search_ranks_by_cosine_and_batches_change_nothing(captioner, monkeypatch):
    colours = ["red", "lime", "blue", "white", "black", "yellow", "gray"]
    media = [picture(colour, colour) for colour in colours]
    monkeypatch.setattr("demo.engine.EMBED_BATCH", 3)
    index = ClipIndex(captioner, iter(media))
    one_by_one = torch.cat([captioner.embed_media([medium]) for medium in media])
    # float32 rounding differs between batch sizes
    torch.testing.assert_close(index.embeddings, one_by_one, rtol=1e-4, atol=1e-5)
    text = captioner.embed_text("a red star").tolist()
    cosines = {
        name: sum(a * b for a, b in zip(row, text, strict=True))
        for name, row in zip(colours, one_by_one.tolist(), strict=True)
    }
    expected = sorted(colours, key=cosines.__getitem__, reverse=True)
    found = index.search("a red star", 5)
    assert [name for _, name, _ in found] == expected[:5]
    assert [value for *_, value in found] == pytest.approx([cosines[name] for name in expected[:5]], abs=1e-4)
    assert len(index.search("a red star", 99)) == 7


def test_a_name_that_is_no_model_is_refused_before_the_hub_is_asked(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model at nowhere"):
        check_model_name("nowhere")
    check_model_name("someone/cosmo-2b")
    check_model_name(str(tmp_path))
