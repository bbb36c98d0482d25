import json
from collections import Counter

import pytest

from dataset_builder.errors import DamagedInput
from dataset_builder.inputs import SourceVideo
from dataset_builder.stages.caption import SpeechCaptioner, TruthCaptioner


def source_with(tmp_path, content: str | None, name: str = "v") -> SourceVideo:
    truth = tmp_path / f"{name}.json"
    if content is not None:
        truth.write_text(content)
    return SourceVideo(
        split="train",
        video_id=name,
        path=tmp_path / f"{name}.mp4",
        name=f"train/{name}.mp4",
        subtitles=None,
        truth=truth if content is not None else None,
    )


STEPS = [{"start_s": 2.0 * k, "end_s": 2.0 * k + 2, "caption": f"step {k}", "shape": "star"} for k in range(5)]
TRUTH = json.dumps({"video_id": "v", "steps": STEPS, "speech": []})


def test_truth_of_the_step_that_is_shown_longest(tmp_path):
    captioner = TruthCaptioner(noise=0.0, seed=0)
    clips = [(0.0, 1.9), (1.9, 4.5), (4.5, 7.0), (7.0, 10.3), (3.0, 5.0)]
    captions = [said.caption for said in captioner(source_with(tmp_path, TRUTH), clips, [""] * 5)]
    assert captions == ["step 0", "step 1", "step 2", "step 4", "step 1"]


def test_noise_replaces_its_share_by_other_steps_whatever_the_order(tmp_path):
    captioner = TruthCaptioner(noise=0.3, seed=11)
    clips = [(step["start_s"], step["end_s"]) for step in STEPS]
    wrong = Counter[str]()
    for index in range(400):
        source = source_with(tmp_path, TRUTH, f"v{index}")
        captions = [said.caption for said in captioner(source, clips, [""] * 5)]
        assert captions == [said.caption for said in TruthCaptioner(noise=0.3, seed=11)(source, clips, [""] * 5)]
        wrong.update(caption for caption, step in zip(captions, STEPS, strict=True) if caption != step["caption"])
    # 2000 draws of 0.3: five standard deviations are 0.051
    assert sum(wrong.values()) / 2000 == pytest.approx(0.3, abs=0.052)
    assert set(wrong) == {step["caption"] for step in STEPS}


def test_a_video_of_one_step_has_no_other_caption(tmp_path):
    source = source_with(tmp_path, json.dumps({"steps": STEPS[:1]}))
    assert [said.caption for said in TruthCaptioner(noise=1.0, seed=0)(source, [(0.0, 2.0)], [""])] == ["step 0"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no ground truth next to it"),
        ("{", "not the toy world's"),
        ('{"steps": [{"start_s": 0}]}', "'end_s'"),
        ('{"steps": 3}', "not the toy world's"),
        ('{"steps": []}', "has no steps"),
    ],
)
def test_missing_or_broken_truth_is_a_damaged_input(tmp_path, content, reason):
    with pytest.raises(DamagedInput, match=reason):
        TruthCaptioner(noise=0.0, seed=0)(source_with(tmp_path, content), [(0.0, 1.0)], [""])


def test_speech_is_the_caption(tmp_path):
    said = SpeechCaptioner()(source_with(tmp_path, None), [(0.0, 1.0), (1.0, 2.0)], ["take the star", ""])
    assert [caption.caption for caption in said] == ["take the star", ""]
