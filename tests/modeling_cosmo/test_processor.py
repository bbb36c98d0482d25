import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_cosmo import CosmoConfig, CosmoProcessor
from modeling_cosmo.media_inputs_cosmo import pair_media
from tests.modeling_cosmo.tiny import tiny_tokenizer


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


def test_every_form_of_a_picture_gives_the_same_pixels(processor, pictures, tmp_path):
    picture = pictures[0]
    picture.save(tmp_path / "picture.png")
    last = np.asarray(picture)
    forms = [picture, last, last.transpose(2, 0, 1), torch.tensor(last), tmp_path / "picture.png",
             str(tmp_path / "picture.png")]  # fmt: skip
    expect = processor(images=[[picture]])["pixel_values"]
    for form in forms:
        assert torch.equal(processor(images=[[form]])["pixel_values"], expect)
    as_video = processor(videos=[[[picture]]])["pixel_values"]
    assert torch.equal(as_video, expect)


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: {"text": ["a", "<visual><visual>"], "images": [[], [p]]}, "sample 1 has 2 <visual> .* but 1 media"),
        (lambda p: {"text": "a<visual>"}, "sample 0 has 1 <visual> placeholders but 0 media"),
        (lambda p: {"text": "a", "images": [p]}, "sample 0 has 0 <visual> placeholders but 1 media"),
        (lambda p: {"text": ["a", "b"], "images": [[p]] * 3}, "images holds 3 lists for 2 samples"),
        (lambda p: {"videos": [[[p, p.resize((5, 5))]]]}, "sample 0: a video needs frames of one size"),
        (lambda p: {"videos": [[np.zeros((0, 3, 4, 4), np.uint8)]]}, "sample 0: a video needs frames .* no frames"),
        (lambda p: {"images": [[np.zeros((4, 4, 3))]]}, "sample 0: a picture as array must be uint8 .* float64"),
        (lambda p: {"images": [[Image.new("RGB", (0, 3))]]}, r"sample 0: a picture is empty: its size is \(0, 3\)"),
        (lambda p: {"images": [[p], [3.5]]}, "sample 1: cannot read images given as a list of float"),
        (lambda p: {"videos": [["/no/such/video.mp4"]]}, "sample 0: video /no/such/video.mp4 cannot be decoded"),
        (lambda p: {"images": [[p]], "return_tensors": "np"}, "return_tensors is 'np'"),
    ],
)
def test_bad_input_is_named(processor, pictures, call, message):
    with pytest.raises(ValueError, match=message):
        processor(**call(pictures[0]))


def test_a_picture_that_is_none_is_named(processor, tmp_path):
    (tmp_path / "no.png").write_text("no picture")
    with pytest.raises(ValueError, match="sample 0"):
        processor(images=[[tmp_path / "no.png"]])


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
    processor.save_pretrained(tmp_path)
    loaded = CosmoProcessor.from_pretrained(tmp_path)
    call = {"text": ["<visual>a red star"], "images": [[pictures[0]]]}
    first, second = processor(**call), loaded(**call)
    assert first.keys() == second.keys() == {"input_ids", "attention_mask", "pixel_values", "media_mask"}
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert loaded.num_frames == 3
    assert loaded.tokenizer.padding_side == "left"
    assert json.loads((tmp_path / "processor_config.json").read_text())["auto_map"] == {
        "AutoProcessor": "processing_cosmo.CosmoProcessor"
    }


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


def test_decoding(processor):
    ids = processor.tokenizer(["a red star"], return_tensors="pt")["input_ids"]
    assert processor.batch_decode(ids) == ["a red star"]
    assert processor.decode(ids[0]) == "a red star"


def test_a_tokenizer_without_the_tokens_is_refused(processor):
    with pytest.raises(ValueError, match=r"lacks <visual> and <\|endofchunk\|>"):
        CosmoProcessor(processor.image_processor, tiny_tokenizer())


def test_a_config_with_other_ids_is_refused(processor):
    ids = processor.token_ids()
    processor.check_config(CosmoConfig(**ids))
    with pytest.raises(
        ValueError, match=f"visual_token_id is 3 in the config but {ids['visual_token_id']} in the tok"
    ):
        processor.check_config(CosmoConfig(**ids | {"visual_token_id": 3}))
