"""The engine behind the page, on a tiny model with random weights."""

import time
from functools import wraps
from itertools import pairwise

import pytest
from PIL import Image

from demo.engine import MAX_NEW_TOKENS, CaptionEngine, Demonstration, check_model_name
from demo.media import Medium, read_medium


def picture(colour: str, name: str = "p") -> Medium:
    return Medium(name=name, frames=(Image.new("RGB", (24, 24), colour),))


@pytest.fixture(scope="module")
def captioner(tiny_model_folder) -> CaptionEngine:
    return CaptionEngine.load(str(tiny_model_folder))


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


def test_what_is_longer_than_the_model_reads_is_refused_in_words(captioner):
    shown = Demonstration(medium=picture("red"), text="a red star " * 20)
    fits = captioner.processor.tokenizer(captioner.processor.interleave([shown.text]))["input_ids"]
    room = captioner.max_tokens - MAX_NEW_TOKENS
    many = [shown] * (room // len(fits) + 1)
    with pytest.raises(
        ValueError, match=r"examples and a caption would take \d+ tokens; this model reads at most 512"
    ):
        captioner.caption(picture("blue"), many)
    captioner.caption(picture("blue"), many[2:])
    with pytest.raises(ValueError, match=r"the text would take \d+ tokens; this model reads at most 512"):
        captioner.embed_text("a red star " * 200)


def test_an_error_in_the_thread_reaches_the_listener(captioner, monkeypatch):
    def fail(**_):
        raise RuntimeError("no memory left")

    monkeypatch.setattr(captioner.model, "generate", fail)
    with pytest.raises(RuntimeError, match="no memory left"):
        captioner.caption(picture("red"))


def test_decoding_stops_when_nobody_listens(captioner, monkeypatch):
    num_steps, seconds_per_step = 0, 0.0
    forward = captioner.model.forward

    @wraps(forward)  # generate reads its signature
    def slow_forward(*arguments, **options):
        nonlocal num_steps
        num_steps += 1
        time.sleep(seconds_per_step)
        return forward(*arguments, **options)

    monkeypatch.setattr(captioner.model, "forward", slow_forward)
    monkeypatch.setattr(captioner.model.generation_config, "eos_token_id", None)
    list(captioner.stream_caption(picture("red")))
    assert num_steps == MAX_NEW_TOKENS

    num_steps, seconds_per_step = 0, 0.5  # slow enough for a busy machine to hang up in time
    stream = captioner.stream_caption(picture("red"))
    next(stream)
    stream.close()  # returns once the thread has ended
    assert num_steps < MAX_NEW_TOKENS / 2


def test_a_name_that_is_no_model_is_refused_before_the_hub_is_asked(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model at nowhere"):
        check_model_name("nowhere")
    check_model_name("someone/cosmo-2b")
    check_model_name(str(tmp_path))
