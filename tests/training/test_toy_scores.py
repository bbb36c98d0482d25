import json

import numpy as np
import pytest

from dataset_builder.toy.world import ACTIONS, Scene
from training.evaluation.toy import (
    TestClip,
    caption_scores,
    chance_scores,
    choose_distinct,
    derangement,
    load_test_clips,
    order_accuracy,
)


def clip(shape, colour, action, background="dots"):
    scene = Scene(shape=shape, colour=colour, action=action, background=background)
    return TestClip(video=None, start_s=0.0, end_s=2.0, scene=scene, caption=scene.caption)


CLIPS = [
    clip("star", "red", "roll_left"),
    clip("ring", "blue", "grow"),
    clip("cross", "white", "blink"),
    clip("star", "red", "roll_left"),
    clip("circle", "orange", "split"),
]


def test_truth_scores_full_marks():
    scores = caption_scores([one.caption for one in CLIPS], CLIPS)
    assert scores["object_accuracy"] == scores["action_accuracy"] == 1
    assert scores["num"] == 5


def test_each_part_of_a_caption_counts_by_itself():
    said = [
        "a red star rolls right in front of the dots",  # object
        "a blue cross grows in front of the dots",  # action
        "a white cross blinks in front of the waves",  # both
        "",
        "an orange circle splits",  # object: the phrase is "splits in two"
    ]
    scores = caption_scores(said, CLIPS)
    assert scores["object_accuracy"] == pytest.approx(3 / 5)
    assert scores["action_accuracy"] == pytest.approx(2 / 5)
    # Order-only are the two that roll left and the one that grows; only the one that grows is right.
    assert order_accuracy(said, CLIPS) == pytest.approx(1 / 3)


@pytest.mark.parametrize("num", [2, 3, 11, 100])
def test_blind_shuffle_leaves_no_clip_its_own(num):
    shuffled = derangement([CLIPS[0]] * num, seed=3)
    assert sorted(shuffled) == list(range(num))
    assert all(index != own for own, index in enumerate(shuffled))


def test_retrieval_clips_have_different_captions():
    chosen = choose_distinct(CLIPS, 10, seed=0)
    assert len(chosen) == 4
    assert len({CLIPS[index].caption for index in chosen}) == 4
    assert len(choose_distinct(CLIPS, 3, seed=0)) == 3


def test_chance_is_what_counting_says():
    chance = chance_scores(CLIPS * 20, num_retrieval=7, seed=0)
    assert chance["caption"]["object_accuracy"] == pytest.approx(1 / 56)
    assert chance["caption"]["action_accuracy"] == pytest.approx(1 / len(ACTIONS))
    assert chance["retrieval"]["text_to_video_r1"] == pytest.approx(1 / 7)
    assert 0 < chance["caption"]["cider"] < caption_scores([c.caption for c in CLIPS * 20], CLIPS * 20)["cider"]


def test_clips_are_the_steps_of_the_truth(tmp_path):
    step = {"start_s": 0.0, "end_s": 2.5, "shape": "ring", "colour": "blue", "action": "grow", "background": "grid"}
    (tmp_path / "a.json").write_text(json.dumps({"steps": [step | {"caption": "c"}, step | {"caption": "d"}]}))
    clips = load_test_clips(tmp_path)
    assert [one.caption for one in clips] == ["c", "d"]
    assert clips[0].video == tmp_path / "a.mp4"
    assert clips[0].scene.action_phrase == "grows"
    with pytest.raises(ValueError, match="no toy videos"):
        load_test_clips(tmp_path / "empty")


def test_shuffle_depends_on_the_seed():
    assert derangement(CLIPS * 5, 0) == derangement(CLIPS * 5, 0)
    assert not np.array_equal(derangement(CLIPS * 5, 0), derangement(CLIPS * 5, 1))
