"""Each kind of bad input raises one clear ValueError before the model runs. The titles are the issue's own words."""

import io
import struct
import sys
import wave
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_cosmo import CosmoProcessor, frames_cosmo
from tests.modeling_cosmo.tiny import tiny_tokenizer, tiny_vision
from tests.modeling_cosmo.videos import write_video


def frames(num, height=9, width=11):
    return np.zeros((num, 3, height, width), dtype=np.uint8)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", 10, rate=5)  # 2 s


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"text": ["a", "<visual><visual>"], "images": [[], [frames(1)[0]]]}, "1 has 2 <visual> .* but 1 media"),
        ({"text": "a<visual>"}, "0 has 1 <visual> placeholders but 0 media"),
        ({"text": "a", "images": [frames(1)[0]]}, "0 has 0 <visual> placeholders but 1 media"),
        ({"text": ["<visual>", "<visual>"], "images": [[frames(1)[0]], []]}, "1 has 1 <visual> .* but 0 media"),
        ({"text": "<visual>a", "images": [frames(1)[0]], "videos": [frames(2)]}, "0 has 1 <visual> .* but 2 media"),
        (
            {"text": "a star<visual>", "images": [frames(1)[0]], "truncation": True, "max_length": 1,
             "truncation_side": "right"},
            r"0 has 0 <visual> placeholders but 1 media \(1 more were cut off by truncation\)",
        ),
    ],
)  # fmt: skip
def test_counts_of_visual_and_media_that_differ(processor, call, message):
    call = dict(call)
    processor.tokenizer.truncation_side = call.pop("truncation_side", "right")
    with pytest.raises(ValueError, match=f"sample {message}"):
        processor(**call)


def test_counts_that_differ_in_a_chat(processor, pictures):
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}]
    with pytest.raises(ValueError, match="sample 0 has 1 <visual> placeholders but 0 media"):
        processor.apply_chat_template(chat, tokenize=True)


def test_frames_of_different_sizes(processor, pictures):
    with pytest.raises(
        ValueError, match=r"sample 1: a video needs frames of one size, got \[\(17, 13\), \(17, 14\)\]"
    ):
        processor(videos=[[frames(2)], [pictures[:2]]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"images": [[Image.new("RGB", (0, 3))]]}, r"a picture is empty: its size is \(0, 3\)"),
        ({"images": [[frames(1, height=0)[0]]]}, r"a picture is empty: its shape is \(3, 0, 11\)"),
        ({"videos": [[frames(2, width=0)]]}, r"a video is empty: its shape is \(2, 3, 9, 0\)"),
        ({"videos": [[frames(0)]]}, "a video needs frames of one size, got no frames"),
        ({"images": [[b""]]}, "picture of 0 bytes cannot be read"),
    ],
)
def test_empty_pictures(processor, call, message):
    with pytest.raises(ValueError, match=f"sample 0: {message}"):
        processor(**call)


def with_huge_header(data):
    """A PNG of 3 pixels that says it has 400 megapixels."""
    header = b"IHDR" + struct.pack(">II", 20_000, 20_000) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def test_pictures_that_cannot_be_read(processor, pictures, tmp_path):
    buffer = io.BytesIO()
    pictures[0].save(buffer, "PNG")
    data = buffer.getvalue()
    (tmp_path / "no.png").write_text("no picture")
    (tmp_path / "huge.png").write_bytes(with_huge_header(data))
    (tmp_path / "torn.png").write_bytes(data[:90])
    wrong = {
        tmp_path / "no.png": r"no\.png cannot be read",
        tmp_path / "huge.png": r"huge\.png cannot be read: Image size \(400000000 pixels\) exceeds limit",
        "/no/such.png": r"/no/such\.png cannot be read: Incorrect image source",
        "x" * 5000: "x{120}[.]{3} cannot be read",
        data[:90]: "of 90 bytes cannot be read",
    }
    for value, message in wrong.items():
        with pytest.raises(ValueError, match=f"sample 1: picture .*{message}") as raised:
            processor(images=[[pictures[0]], [value]])
        assert len(str(raised.value)) < 400, "one line, however long the culprit"
    (tmp_path / "torn.qoi").write_bytes(b"qoif" + struct.pack(">IIBB", 3, 2, 3, 0))  # an IndexError to PIL
    for name in ("torn.png", "torn.qoi"):
        with (
            Image.open(tmp_path / name) as opened,  # opened by the caller, but not yet read
            pytest.raises(ValueError, match="sample 0: a picture cannot be read"),
        ):
            processor(images=[opened])
        with pytest.raises(ValueError, match=r"sample 0: picture of .* bytes cannot be read"):
            processor(images=[(tmp_path / name).read_bytes()])


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 5, 3)), "must be uint8 .* float64 .*; floats from 0 to 1 need do_rescale=False"),
        (np.zeros((5, 6, 7), np.uint8), "3 channels .* got uint8"),
        (torch.zeros(3, 4, 5, dtype=torch.int64), "got int64"),
        ({"picture": "a.png"}, r"unknown keys \(picture\); it may have image, bytes, path, url, base64"),
        ({"path": None}, "a dict for image holds no image"),
    ],
)
def test_pictures_of_the_wrong_form(processor, picture, message):
    with pytest.raises(ValueError, match=f"sample 0: .*{message}"):
        processor(images=[[picture]])


def test_floats_that_are_not_rescaled_must_lie_from_0_to_1(processor):
    with pytest.raises(ValueError, match=r"sample 0: a picture of floats must be between 0 and 1, got 0.0 to 255.0"):
        processor(images=[[np.array([0.0, 255.0] * 30).reshape(3, 4, 5)]], do_rescale=False)


def sound_alone():
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", "none"))
        sound.writeframes(bytes(1600))
    return buffer.getvalue()


def test_a_video_that_cannot_be_decoded(processor, video, tmp_path):
    data = video.read_bytes()
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"ffconcat version 1.0\nfile {video}\n")
    (tmp_path / "folder.mp4").mkdir()
    write_video(tmp_path / "none.mp4", 0, rate=5)
    write_video(tmp_path / "whole.mkv", 40, rate=5, noisy=True)
    torn = (tmp_path / "whole.mkv").read_bytes()
    wrong = {
        b"no video at all": "video of 15 bytes cannot be decoded",
        b"": "video of 0 bytes cannot be decoded",
        data[: len(data) // 2]: "cannot be decoded: not a video, or cut off before its index",
        torn[: len(torn) // 2]: "is cut off: its last frame ends at",
        sound_alone(): "has no picture stream",
        tmp_path / "missing one.mp4": "missing one.mp4 cannot be decoded: there is no such file",
        tmp_path / "folder.mp4": "there is no such file",
        tmp_path / "none.mp4": r"none\.mp4 ",
        playlist: r"list\.mp4 cannot be decoded",
        "https://127.0.0.1:9/clip.mp4": "video https://127.0.0.1:9/clip.mp4 cannot be read",
        "http://..a/clip.mp4": "video http://..a/clip.mp4 cannot be read",
    }
    for value, message in wrong.items():
        with pytest.raises(ValueError, match=f"sample 1: .*{message}"):
            processor(videos=[[frames(2)], [value]])


def test_what_stands_at_an_address_is_called_by_it(processor, tmp_path, served):
    (tmp_path / "none").write_text("neither picture nor video")
    for kind in ("picture", "video"):
        for name, message in (("none", "cannot be (read|decoded)"), ("gone", "cannot be read: .*404")):
            with pytest.raises(ValueError, match=f"sample 0: {kind} {served}/{name} {message}"):
                processor(**{"images" if kind == "picture" else "videos": [[f"{served}/{name}"]]})


@pytest.mark.parametrize(("limit", "value"), [("MAX_DOWNLOAD_BYTES", 20), ("MAX_DOWNLOAD_S", -1)])
def test_what_an_address_sends_has_limits(processor, pictures, video, tmp_path, served, monkeypatch, limit, value):
    """A server that sends forever, or only a byte now and then, would fill or block the machine."""
    pictures[0].save(tmp_path / "picture.png")
    (tmp_path / "clip.mp4").write_bytes(video.read_bytes())
    monkeypatch.setattr(frames_cosmo, limit, value)
    for call in ({"images": [[f"{served}/picture.png"]]}, {"videos": [[f"{served}/clip.mp4"]]}):
        with pytest.raises(ValueError, match=rf"sample 0: \w+ {served}/\S+ is longer than .* or takes more than"):
            processor(**call)


def test_addresses_need_no_more_than_transformers_does(processor, video, tmp_path, served, monkeypatch):
    """transformers' client is httpx2; only the demo installs httpx."""
    (tmp_path / "clip.mp4").write_bytes(video.read_bytes())
    monkeypatch.setitem(sys.modules, "httpx", None)
    assert processor(videos=[[f"{served}/clip.mp4"]])["media_mask"].all()


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ({"start_s": 2.0}, "no frame from 2.0 s to 2.0 s .its length is 2.0 s"),
        ({"start_s": 7}, "no frame from 7 s to 2.0 s"),
        ({"start_s": 1.0, "end_s": 0.5}, "no frame from 1.0 s to 0.5 s"),
        ({"start_s": -1.0}, "no frame from -1.0 s"),
        ({"start_s": "1.0"}, "start_s of a video is '1.0'; it must be a number of seconds"),
        ({"end_s": float("nan")}, "end_s of a video is nan"),
        ({"end_s": 10**400}, "end_s of a video is 10{79}; it must be a number of seconds"),
        ({"begin_s": 1.0}, r"unknown keys \(begin_s\); it may have video, bytes, path, url, start_s, end_s"),
    ],
)
def test_start_s_past_the_end(processor, video, times, message):
    with pytest.raises(ValueError, match=f"sample 1: .*{message}"):
        processor(videos=[[frames(2)], [{"path": video} | times]])
    part = {"type": "video", "path": str(video)} | times
    if "begin_s" not in times:
        with pytest.raises(ValueError, match=f"sample 0: .*{message}"):
            processor.apply_chat_template([{"role": "user", "content": [part]}], tokenize=True)


def test_times_of_frames_that_are_given(processor):
    with pytest.raises(ValueError, match="sample 0: start_s and end_s need a video file"):
        processor(videos=[[{"video": frames(3), "start_s": 1.0}]])


def test_ids_beyond_the_vocabulary(model, processor):
    inputs = processor(text=["a red", "a"])
    vocab_size = model.config.text_config.vocab_size
    inputs["input_ids"][1, -1] = vocab_size
    message = f"sample 1 has token id {vocab_size} at place .*, but the model's vocabulary has {vocab_size} tokens"
    with pytest.raises(ValueError, match=message):
        model.generate(**inputs, max_new_tokens=2)
    with pytest.raises(ValueError, match="sample 1 has token id -100"):
        model.generate(inputs["input_ids"].masked_fill(inputs["input_ids"] == vocab_size, -100), max_new_tokens=2)


def test_media_that_no_text_of_generate_would_see(model, processor, pictures):
    """If text and media are prepared separately, `generate` must not silently ignore the media."""
    plain = processor(text=["<visual>a red", "a blue"], images=[pictures[:1], []])
    media = {name: plain.pop(name) for name in ("pixel_values", "media_mask")}
    no_placeholder = plain["input_ids"].masked_fill(plain["input_ids"] == model.config.visual_token_id, 5)
    for inputs, message in (
        (dict(plain) | {"input_ids": no_placeholder} | media, "sample 0 has 0 <visual> placeholders but 1 media"),
        (dict(plain) | {"pixel_values": media["pixel_values"]}, "sample 1 has 0 <visual> placeholders but 1 media"),
        (media, "sample 0 has 0 <visual> placeholders but 1 media"),
        (
            {"input_ids": plain["input_ids"][:1], "vision_features": model.encode_frames(media["pixel_values"])},
            "1 texts cannot share the media of 2 samples",
        ),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            model.generate(**inputs, max_new_tokens=2)
    several = model.generate(**plain, **media, max_new_tokens=2, num_return_sequences=2, num_beams=2)
    assert len(several) == 4


def test_pixels_with_the_axes_of_other_models(model, processor, pictures):
    inputs = processor(text="<visual>a red", images=pictures[:1])
    pixels = inputs.pop("pixel_values")[0, 0]
    message = r"pixel_values has shape \(1, 3, 8, 8\); it must be \(B, M, F, 3, height, width\)"
    for call in (model, model.generate):
        with pytest.raises(ValueError, match=message):
            call(input_ids=inputs["input_ids"], pixel_values=pixels)
    with pytest.raises(ValueError, match=message):
        model.get_image_features(pixels)


def test_rows_that_cannot_share_their_media(model, processor, pictures):
    inputs = processor(text=["<visual>a"] * 3, images=[pictures[:1]] * 3)
    with pytest.raises(ValueError, match="3 texts cannot share the media of 2 samples"):
        model(**inputs | {name: inputs[name][:2] for name in ("pixel_values", "media_mask")})


def test_a_tokenizer_with_more_tokens_than_the_vocabulary(model, processor, tmp_path):
    num_tokens = len(processor.tokenizer)
    processor.tokenizer.add_tokens(["surplus"])
    with pytest.raises(ValueError, match=f"has {num_tokens + 1} tokens but the model's vocabulary {num_tokens}"):
        processor.check_config(model.config)


def test_a_tokenizer_whose_special_token_ids_differ_from_the_config(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    CosmoProcessor.from_pretrained(tmp_path)
    model.config.visual_token_id = 3
    model.save_pretrained(tmp_path)
    right = processor.token_ids()["visual_token_id"]
    message = f"visual_token_id is 3 in the config but {right} in the tokenizer"
    with pytest.raises(ValueError, match=message):
        processor.check_config(model.config)
    with pytest.raises(ValueError, match=message):
        CosmoProcessor.from_pretrained(tmp_path)


def test_a_tokenizer_without_the_special_tokens(processor):
    with pytest.raises(ValueError, match=r"lacks <visual> and <\|endofchunk\|>"):
        CosmoProcessor(processor.image_processor, tiny_tokenizer())


def test_more_frames_than_the_model_has_places_for(model, processor):
    inputs = processor(text="<visual>a", videos=[frames(4)])
    with pytest.raises(ValueError, match="a medium has 4 frames; max_frames of the config is 3"):
        model(**inputs)


def test_labels_of_which_none_counts(model, processor, pictures):
    """Loss and gradient are 0; a mean over no labels would be NaN, and would make all weights NaN."""
    inputs = processor(text="<visual>a", images=pictures[:1])
    out = model(**inputs, labels=torch.full_like(inputs["input_ids"], -100))
    out.lm_loss.backward()
    assert out.lm_loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "give text, images or videos"),
        ({"text": [3]}, r"text must be a string or a list of strings, got \[3\]"),
        ({"text": []}, r"text must be a string or a list of strings, got \[\]"),
        ({"text": "a", "return_tensors": "np"}, "return_tensors is 'np'.* use 'pt'"),
        ({"videos": [frames(2)], "num_frames": 0}, "num_frames is 0; it must be at least 1"),
        ({"videos": [frames(2)], "num_frames": "3"}, "num_frames is '3'; it must be at least 1, and whole"),
        ({"videos": [frames(2)], "num_frames": 1.5}, "num_frames is 1.5; it must be at least 1, and whole"),
        ({"videos": [frames(2)], "fps": 2}, "has no option fps for videos alone; it has num_frames, do_sample_frames"),
        ({"videos": [frames(2)], "videos_kwargs": {"size": 3}}, "has no option size for videos alone"),
        ({"text": ["a", "b"], "images": [[frames(1)[0]]] * 3}, "images holds 3 lists for 2 samples"),
        ({"images": [[frames(1)[0]], [3.5]]}, "sample 1: cannot read images given as a list of float"),
        ({"images": 3}, "images must be a list per sample, got int"),
    ],
)
def test_calls_that_cannot_be_meant(processor, call, message):
    with pytest.raises(ValueError, match=message):
        processor(**call)


@pytest.mark.parametrize(
    ("part", "kind"), [({"type": "audio", "path": "a.wav"}, "'audio'"), ({"text": "a"}, "None"), ("a", "'str'")]
)
def test_a_chat_with_what_is_neither_text_nor_picture_nor_video(processor, part, kind):
    chat = [{"role": "user", "content": [part]}]
    with pytest.raises(ValueError, match=f"type {kind}; CosmoProcessor reads text, image and video"):
        processor.apply_chat_template(chat, tokenize=True)


def test_a_processor_that_takes_no_frames():
    with pytest.raises(ValueError, match="num_frames is 0; it must be at least 1"):
        CosmoProcessor.from_towers(tiny_vision(), tiny_tokenizer(), num_frames=0)
