import base64
import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from modeling_cosmo import CosmoProcessor
from modeling_cosmo.media_inputs_cosmo import pair_media
from modeling_cosmo.video_cosmo import decode_video
from tests.modeling_cosmo.tiny import tiny_tokenizer, tiny_vision
from tests.modeling_cosmo.videos import write_video


def frames(num, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, 3, 9, 11), dtype=np.uint8)


def test_pictures_and_videos_mix_and_pad(processor, pictures):
    out = processor(
        text=["<visual>a<visual>red<visual>", "the<visual>sea", "a"],
        images=[[pictures[0], None, pictures[1]], [], []],
        videos=[[None, frames(2), None], [frames(3, 1)], []],
    )
    assert out["pixel_values"].shape == (3, 3, 3, 3, 8, 8)
    assert out["media_mask"].tolist() == [
        [[True, False, False], [True, True, False], [True, False, False]],
        [[True, True, True], [False] * 3, [False] * 3],
        [[False] * 3] * 3,
    ]
    assert out["input_ids"].dtype == torch.int64
    alone = processor(videos=[[frames(3, 1)]])
    assert torch.equal(out["pixel_values"][1, 0], alone["pixel_values"][0, 0])
    assert not out["pixel_values"][~out["media_mask"]].any()


def test_every_form_of_a_picture_gives_the_same_pixels(processor, pictures, tmp_path, served):
    picture = pictures[0]
    picture.save(tmp_path / "picture.png")
    data = (tmp_path / "picture.png").read_bytes()
    last, text = np.asarray(picture), base64.b64encode(data).decode()
    forms = [
        last, last.transpose(2, 0, 1), torch.tensor(last), torch.tensor(last).permute(2, 0, 1).requires_grad_(False),
        tmp_path / "picture.png", str(tmp_path / "picture.png"), f"{served}/picture.png", data, text,
        f"data:image/png;base64,{text}", {"path": tmp_path / "picture.png", "bytes": None},
        {"bytes": data, "path": "no"},
        {"url": f"{served}/picture.png"}, {"image": picture}, np.concatenate([last, last[:, :, :1]], axis=-1),
        picture.convert("RGBA"),
    ]  # fmt: skip
    expect = processor(images=[[picture]])["pixel_values"]
    for form in forms:
        assert torch.equal(processor(images=[[form]])["pixel_values"], expect), form
    assert torch.equal(processor(images=[forms])["pixel_values"], expect.expand(-1, len(forms), -1, -1, -1, -1))
    as_video = processor(videos=[[[picture]]])["pixel_values"]
    assert torch.equal(as_video, expect)
    grey = processor(images=[[picture.convert("L")]])["pixel_values"]
    assert torch.equal(processor(images=[[np.asarray(picture.convert("L"))[None]]])["pixel_values"], grey)


def test_floats_from_0_to_1_are_those_of_the_library(processor, pictures):
    """The library resizes through 8 bits, and this is its result."""
    floats = torch.tensor(np.asarray(pictures[0])).permute(2, 0, 1) / 255
    expect = processor.image_processor(floats, do_rescale=False, return_tensors="pt")["pixel_values"]
    assert torch.equal(processor(images=[[floats]], do_rescale=False)["pixel_values"][0, 0], expect)
    full = processor(images=[[pictures[0]]])["pixel_values"]
    # one 8-bit step, divided by CLIP's smallest standard deviation
    torch.testing.assert_close(expect, full[0, 0], rtol=0, atol=1 / 255 / 0.26)


def test_channels_that_stand_at_either_end(processor):
    """The library's rule: 3 x W x 3 is read as channels first unless the call says otherwise."""
    array = np.random.default_rng(1).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    first = processor(images=[array])["pixel_values"]
    last = processor(images=[array], input_data_format="channels_last")["pixel_values"]
    assert torch.equal(first, processor(images=[Image.fromarray(array.transpose(1, 2, 0))])["pixel_values"])
    assert torch.equal(last, processor(images=[Image.fromarray(array)])["pixel_values"])


def test_a_picture_is_upright(processor, tmp_path):
    array = np.random.default_rng(1).integers(0, 256, (9, 17, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees, as phones store it
    Image.fromarray(array).save(tmp_path / "turned.png", exif=exif)
    upright = Image.fromarray(np.ascontiguousarray(np.rot90(array, -1)))
    expect = processor(images=[[upright]])["pixel_values"]
    for form in (tmp_path / "turned.png", (tmp_path / "turned.png").read_bytes()):
        assert torch.equal(processor(images=[[form]])["pixel_values"], expect)


def test_every_form_of_a_video_gives_the_same_pixels(processor, tmp_path, served):
    path = write_video(tmp_path / "clip.mp4", 12, rate=4)  # 3 s
    whole = decode_video(path, 3)
    pictures = [Image.fromarray(frame.transpose(1, 2, 0)) for frame in whole]
    for index, picture in enumerate(pictures):
        picture.save(tmp_path / f"{index}.png")
    forms = [
        path, str(path), path.read_bytes(), f"{served}/clip.mp4", {"path": path}, {"video": str(path)},
        {"bytes": path.read_bytes(), "path": "no"}, {"url": f"{served}/clip.mp4"}, {"path": path, "end_s": 3.0},
        whole, whole.transpose(0, 2, 3, 1), torch.tensor(whole), pictures, list(whole), list(torch.tensor(whole)),
        [str(tmp_path / f"{index}.png") for index in range(3)], {"video": pictures},
    ]  # fmt: skip
    expect = processor(videos=[[path]])["pixel_values"]
    for form in forms:
        assert torch.equal(processor(videos=[[form]])["pixel_values"], expect), form
    part = processor(videos=[[{"path": path, "start_s": 1.0, "end_s": 2.0}]], num_frames=2)["pixel_values"]
    assert torch.equal(part, processor(videos=[[decode_video(path, 2, 1.0, 2.0)]])["pixel_values"])


def test_how_many_frames(processor, tmp_path):
    path = write_video(tmp_path / "clip.mp4", 12, rate=4)

    def count(videos, **options):
        return processor(videos=[videos], **options)["media_mask"].sum(-1).tolist()[0]

    assert count([path, frames(5)]) == [3, 5]
    assert count([path, frames(5)], num_frames=2) == [2, 5]
    assert count([path, frames(5)], videos_kwargs={"num_frames": 2, "do_sample_frames": True}) == [2, 2]
    sampled = processor(videos=[[frames(7)]], do_sample_frames=True)["pixel_values"]
    assert torch.equal(sampled, processor(videos=[[frames(7)[[1, 3, 5]]]])["pixel_values"])
    processor.num_frames = 4
    assert count([path]) == [4]


def test_no_work_is_done_twice(processor, pictures, tmp_path, monkeypatch):
    """One pass of the image processor over all frames, each file opened once, and no copy if nothing is padded."""
    path = write_video(tmp_path / "clip.mp4", 12, rate=4)
    calls, prepared = [], []
    real = type(processor.image_processor).__call__

    def record(self, images, **options):
        calls.append(len(images))
        prepared.append(real(self, images, **options)["pixel_values"])
        return {"pixel_values": prepared[-1]}

    opened = []
    monkeypatch.setattr(type(processor.image_processor), "__call__", record)
    monkeypatch.setattr(av, "open", lambda *a, real=av.open, **options: opened.append(a) or real(*a, **options))
    processor(text=["<visual>a<visual>", "<visual>"], images=[[pictures[0]], []], videos=[[path], [path]])
    assert calls == [1 + 3 + 3]
    assert len(opened) == 2
    whole = processor(images=[[pictures[0]], [pictures[1]]])["pixel_values"]
    assert whole.data_ptr() == prepared[-1].data_ptr()


def test_nesting_is_read_as_meant(pictures):
    one, two, clip = pictures[0], pictures[1], frames(2)
    picture, other, video = ("image", one), ("image", two), ("video", clip)
    assert pair_media([one, two], None, [2]) == [[picture, other]]
    assert pair_media([one, two], None, [1, 1]) == [[picture], [other]]
    assert pair_media([one, two], None, [2, 0]) == [[picture, other], []], "dealt out by placeholders, as Llava does"
    assert pair_media([one, two], None, None) == [[picture], [other]]
    assert pair_media([[one], [two]], None, [1, 1]) == [[picture], [other]]
    assert pair_media([[], two], None, [0, 1]) == [[], [other]]
    assert pair_media(one, None, [1]) == [[picture]]
    assert pair_media([[one]], [[clip, clip]], [3]) == [[picture, video, video]]
    assert pair_media([one, two], [clip, clip], [2, 2]) == [[picture, video], [other, video]]
    assert pair_media([[None, one]], [["a.mp4", None]], [2]) == [[("video", "a.mp4"), picture]]
    assert pair_media(None, [[one, two]], [1]) == [[("video", [one, two])]]
    assert pair_media(None, [Path("a.mp4"), Path("b.mp4")], [1, 1]) == [
        [("video", Path("a.mp4"))],
        [("video", Path("b.mp4"))],
    ], "files are videos, not frames"
    assert pair_media(None, [[["1.png", "2.png"]]], [1]) == [[("video", ["1.png", "2.png"])]]
    assert pair_media(None, None, [0, 0]) == [[], []]
    batch = frames(2)
    dealt = pair_media(batch, None, [1, 1])
    assert [np.array_equal(dealt[row][0][1], batch[row]) for row in range(2)] == [True, True]


def test_interleave_and_labels(processor):
    text = processor.interleave(["a red star", "a"])
    assert text == "<visual>a red star<|endofchunk|><visual>a<|endofchunk|>"
    assert processor.interleave([], "") == "<visual>"
    assert processor.interleave(["a"], "the") == "<visual>a<|endofchunk|><visual>the"
    tokenizer = processor.tokenizer
    rows = [f"</s>{text}", "</s>the</s>"]
    batch = tokenizer(rows, padding=True, return_tensors="pt")
    labels = processor.build_labels(batch["input_ids"], batch["attention_mask"])
    kept = [tokenizer.convert_ids_to_tokens(row[row != -100].tolist()) for row in labels]
    assert tokenizer.convert_tokens_to_string(kept[0][:-1]).startswith("a red star")
    assert kept[0].count("<|endofchunk|>") == 2
    assert kept[1] == ["the", "</s>"]  # the token that begins a row also ends texts, and there it counts
    assert ((labels == batch["input_ids"]) | (labels == -100)).all()


def test_saving_and_loading(processor, pictures, tmp_path):
    processor.num_frames = 5
    processor.save_pretrained(tmp_path)
    loaded = CosmoProcessor.from_pretrained(tmp_path)
    call = {"text": ["<visual>a red star"], "images": [[pictures[0]]]}
    first, second = processor(**call), loaded(**call)
    assert first.keys() == second.keys() == {"input_ids", "attention_mask", "pixel_values", "media_mask"}
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert loaded.num_frames == 5
    assert loaded.tokenizer.padding_side == "left"
    assert loaded.chat_template == processor.chat_template
    assert json.loads((tmp_path / "processor_config.json").read_text())["auto_map"] == {
        "AutoProcessor": "processing_cosmo.CosmoProcessor"
    }


def test_the_length_of_the_last_call_is_not_saved(processor, tmp_path):
    """The tokenizer remembers it; a folder saved after training would warn whoever loads it at every call."""
    text, cut = ["a red star before the bricks"], {"truncation": True, "max_length": 3}
    assert processor(text=text, **cut)["input_ids"].shape == (1, 3)
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    assert (saved["truncation"], saved["padding"]) == (None, None)
    loaded = CosmoProcessor.from_pretrained(tmp_path)
    assert torch.equal(loaded(text=text)["input_ids"], processor(text=text)["input_ids"])


def test_chat_template_keeps_the_order_of_media(processor, pictures):
    chat = [
        {"role": "user", "content": [{"type": "video", "video": frames(2)}, {"type": "image", "image": pictures[0]}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a red star"}]},
        {"role": "user", "content": [{"type": "image", "image": pictures[1]}, {"type": "text", "text": "the"}]},
    ]
    assert processor.apply_chat_template(chat) == "<visual><visual>a red star<|endofchunk|><visual>the"
    out = processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
    assert out["media_mask"][0].sum(-1).tolist() == [2, 1, 1]
    assert torch.equal(out["pixel_values"][0, 1, 0], processor(images=pictures[:1])["pixel_values"][0, 0, 0])


def test_a_batch_of_chats_is_the_batch_of_its_texts(processor, pictures, tmp_path):
    path = write_video(tmp_path / "clip.mp4", 12, rate=4)
    pictures[0].save(tmp_path / "picture.png")
    text = base64.b64encode((tmp_path / "picture.png").read_bytes()).decode()
    chats = [
        [
            {"role": "system", "content": [{"type": "text", "text": "a sea "}]},
            {"role": "user", "content": [{"type": "image", "base64": text}, {"type": "text", "text": "a"}]},
        ],
        [{"role": "user", "content": "the sea"}],
        [
            {"role": "user", "content": [{"type": "video", "path": str(path), "start_s": 1.0, "end_s": 2.0}]},
            {"role": "assistant", "content": None, "tool_calls": []},
            {"role": "assistant", "content": "a ring"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": str(tmp_path / "picture.png")}}]},
        ],
    ]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    found = processor.apply_chat_template(chats, **options, processor_kwargs={"num_frames": 2, "padding": True})
    expect = processor(
        text=["a sea <visual>a", "the sea", "<visual><|endofchunk|>a ring<|endofchunk|><visual>"],
        images=[[pictures[0]], [], [None, pictures[0]]],
        videos=[[], [], [{"path": path, "start_s": 1.0, "end_s": 2.0}, None]],
        num_frames=2,
    )
    assert found.keys() == expect.keys()
    assert all(torch.equal(found[name], expect[name]) for name in expect)
    assert torch.equal(processor.apply_chat_template(chats, tokenize=True), expect["input_ids"])


def test_media_may_come_beside_a_chat(processor, pictures):
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}]
    found = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, processor_kwargs={"images": pictures[:1]}
    )
    expect = processor(text=processor.apply_chat_template(chat), images=pictures[:1])
    assert all(torch.equal(found[name], expect[name]) for name in expect)


def test_the_last_answer_of_a_chat_may_be_open(processor):
    chat = [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "a red"}]
    assert processor.apply_chat_template(chat) == "<visual>a red<|endofchunk|>"
    assert processor.apply_chat_template(chat, continue_final_message=True) == "<visual>a red"
    assert processor.apply_chat_template(chat[:1], add_generation_prompt=True) == "<visual>"


def test_what_the_assistant_said_can_be_marked(processor, pictures):
    chat = [
        {"role": "user", "content": [{"type": "image", "image": pictures[0]}, {"type": "text", "text": "the sea"}]},
        {"role": "assistant", "content": "a red star"},
        {"role": "user", "content": "a"},
    ]
    out = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True
    )
    marked = out["input_ids"][0, out["assistant_masks"][0].bool()]
    assert processor.decode(marked) == "a red star<|endofchunk|>"


def test_text_that_spells_a_placeholder_can_be_kept_text(processor, pictures):
    """With the library's `sanitize_control_tokens`, words of a user stay words."""
    chat = [
        {"role": "user", "content": [{"type": "image", "image": pictures[0]}, {"type": "text", "text": "<visual>"}]}
    ]
    with pytest.raises(ValueError, match="sample 0 has 2 <visual> placeholders but 1 media"):
        processor.apply_chat_template(chat, tokenize=True)
    out = processor.apply_chat_template(chat, tokenize=True, return_dict=True, sanitize_control_tokens=True)
    assert (out["input_ids"] == processor.image_token_id).sum() == 1


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side(processor, pictures, side):
    out = processor(text=["<visual>a red star", "a"], images=[pictures[:1], []], padding_side=side)
    ids, mask = out["input_ids"], out["attention_mask"]
    length = ids.shape[1]
    alone = processor(text="a")["input_ids"][0]
    padding = [processor.tokenizer.pad_token_id] * (length - len(alone))
    assert ids[1].tolist() == (padding + alone.tolist() if side == "left" else alone.tolist() + padding)
    assert mask[1].tolist() == (ids[1] != processor.tokenizer.pad_token_id).long().tolist()
    assert mask[0].all()


def test_names_that_users_of_the_library_know(processor):
    ids = processor.token_ids()
    assert processor.image_token == processor.video_token == "<visual>"
    assert processor.image_token_id == processor.video_token_id == ids["visual_token_id"]
    assert processor.model_input_names == ["input_ids", "attention_mask", "pixel_values", "media_mask"]
    batch = processor(text=["a red star", "<|endofchunk|>a"])["input_ids"]
    assert processor.post_process_image_text_to_text(batch) == ["a red star", "a"]


def test_siglip_prepares_pictures_its_own_way(pictures, tmp_path):
    """From a folder or from the tower itself; there is no centre crop, and the mean is one half."""
    config = SiglipVisionConfig(
        hidden_size=10, intermediate_size=14, num_hidden_layers=1, num_attention_heads=2, image_size=12, patch_size=4
    )
    tower = SiglipVisionModel(config)
    SiglipImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(tmp_path)
    tower.save_pretrained(tmp_path)
    by_folder = CosmoProcessor.from_towers(tmp_path, tiny_tokenizer())
    by_tower = CosmoProcessor.from_towers(tower, tiny_tokenizer())
    found = by_folder(images=pictures[:1])["pixel_values"]
    resized = np.asarray(pictures[0].resize((12, 12), Image.Resampling.BICUBIC)).transpose(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(found[0, 0, 0], torch.tensor(resized).float(), rtol=0, atol=1e-6)  # float32 rounding
    assert torch.equal(by_tower(images=pictures[:1])["pixel_values"], found)


def test_a_backend_on_tensors_gets_tensors(pictures, tmp_path):
    """Stand-in for the backend that needs torchvision: it records its input, then works like the other backend."""
    given = []

    class OnTensors(CLIPImageProcessorPil):
        backend = "torchvision"

        def fetch_images(self, images):
            return torch.tensor(np.asarray(super().fetch_images(images))).permute(2, 0, 1)

        def __call__(self, images, **options):
            given.extend(images)
            return super().__call__(images, **options)

        def _prepare_images_structure(self, images, **options):
            return images

    size = {"height": 8, "width": 8}
    processor = CosmoProcessor.from_towers(OnTensors(size=size, crop_size=size), tiny_tokenizer())
    pictures[0].save(tmp_path / "picture.png")
    array = np.asarray(pictures[0])
    tensor = torch.tensor(array).permute(2, 0, 1)
    path = write_video(tmp_path / "clip.mp4", 12, rate=4)
    processor(images=[[str(tmp_path / "picture.png"), tensor, array]], videos=[[path]])
    assert [type(pixels) for pixels in given] == [torch.Tensor] * 6
    assert given[1].data_ptr() == tensor.data_ptr(), "no copy"
    assert all(torch.equal(pixels, tensor) for pixels in given[:3])


def test_tensors_stay_tensors_with_torchvision(pictures):
    """Only visible with torchvision: the same call gives the backend for tensors, and paths become tensors too."""
    pytest.importorskip("torchvision", reason="its wheels for this torch are CUDA builds, so it is not installed here")
    processor = CosmoProcessor.from_towers(tiny_vision(), tiny_tokenizer())
    assert processor.image_processor.backend == "torchvision"
    array = np.asarray(pictures[0])
    forms = [pictures[0], array, torch.tensor(array), torch.tensor(array).permute(2, 0, 1)]
    pixels = [processor(images=[form])["pixel_values"] for form in forms]
    assert all(torch.equal(pixels[0], other) for other in pixels[1:])


def test_decoding(processor):
    ids = processor.tokenizer(["a red star"], return_tensors="pt")["input_ids"]
    assert processor.batch_decode(ids) == ["a red star"]
    assert processor.decode(ids[0]) == "a red star"
