import json
from itertools import pairwise, product

import av
import numpy as np
import pytest

from dataset_builder.toy.narration import MAX_SHIFT_S, OFF_TOPIC, narrate
from dataset_builder.toy.render import Pose, draw_look, draw_pose, render_step
from dataset_builder.toy.videos import FRAME_RATE_HZ, plan_steps, write_toy_videos
from dataset_builder.toy.world import (
    ACTIONS,
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    ORDER_ONLY_PAIRS,
    SEEN,
    SHAPES,
    Scene,
)


@pytest.fixture(scope="module")
def toy_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    counts = write_toy_videos(folder, num_videos=23, seed=5, workers=1, progress=False)
    assert counts == {"train": 19, "validation": 1, "test": 3}
    return folder


def truths(folder, split="*"):
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"{split}/*.json"))]


def frames_of(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_the_world_is_as_large_as_promised():
    assert len(SHAPES) >= 6
    assert len(COLOURS) >= 8
    assert len(ACTIONS) >= 8
    assert len(HELD_OUT) / (len(HELD_OUT) + len(SEEN)) == pytest.approx(0.15, abs=0.01)
    captions = {
        Scene(shape=s, colour=c, action=a, background=b).caption for (s, c, a), b in product(HELD_OUT, BACKGROUNDS)
    }
    assert len(captions) >= 100


def test_held_out_combinations_are_new_but_their_parts_are_not():
    for first, second in ((0, 1), (0, 2), (1, 2)):
        seen_pairs = {(c[first], c[second]) for c in SEEN}
        assert {(c[first], c[second]) for c in HELD_OUT} <= seen_pairs
    for pair in ORDER_ONLY_PAIRS:
        assert {c[2] for c in HELD_OUT} >= set(pair)


def test_every_step_is_on_its_side_of_the_split(toy_folder):
    for truth in truths(toy_folder):
        for step in truth["steps"]:
            held_out = (step["shape"], step["colour"], step["action"]) in HELD_OUT
            assert held_out == (truth["split"] == "test")


def test_video_has_as_many_frames_as_its_truth_says(toy_folder):
    for truth in truths(toy_folder):
        frames = frames_of(toy_folder / truth["split"] / f"{truth['video_id']}.mp4")
        assert frames.shape[1:] == (64, 64, 3)
        assert len(frames) == truth["duration_s"] * FRAME_RATE_HZ == truth["steps"][-1]["end_s"] * FRAME_RATE_HZ
        assert 3 <= len(truth["steps"]) <= 6
        for step in truth["steps"]:
            assert 2 <= step["end_s"] - step["start_s"] <= 4


def test_cuts_are_where_the_truth_puts_them(toy_folder):
    """The jump across a cut is larger than between any two frames well within a step that does not blink."""
    jumps, calm = [], []
    for truth in truths(toy_folder, "train"):
        frames = frames_of(toy_folder / "train" / f"{truth['video_id']}.mp4").astype(np.float64)
        change = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
        for step in truth["steps"]:
            first, last = (round(step[key] * FRAME_RATE_HZ) for key in ("start_s", "end_s"))
            if step["join"] == "cut":
                jumps.append(change[last - 1])
            if step["action"] != "blink":
                calm += change[first + 4 : last - 4].tolist()
    assert len(jumps) > 20
    assert min(jumps) > max(calm)


def test_same_seed_writes_the_same_annotations_whatever_the_workers(toy_folder, tmp_path):
    write_toy_videos(tmp_path, num_videos=23, seed=5, workers=2, progress=False)
    names = sorted(path.relative_to(toy_folder) for path in toy_folder.rglob("*.*") if path.suffix != ".mp4")
    assert names == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*") if path.suffix != ".mp4")
    for name in names:
        assert (toy_folder / name).read_bytes() == (tmp_path / name).read_bytes()


def test_another_seed_writes_other_annotations(toy_folder, tmp_path):
    write_toy_videos(tmp_path, num_videos=3, seed=6, workers=1, progress=False)
    name = "train/train-000000.json"
    assert (toy_folder / name).read_text() != (tmp_path / name).read_text()


def test_an_interrupted_run_goes_on(tmp_path):
    write_toy_videos(tmp_path, num_videos=3, seed=5, workers=1, progress=False)
    whole = {path.name: path.read_bytes() for path in tmp_path.rglob("*.*")}
    (tmp_path / "test/test-000000.json").unlink()
    (tmp_path / "test/test-000000.mp4").write_bytes(b"half")
    kept = (tmp_path / "train/train-000000.mp4").stat().st_mtime_ns
    write_toy_videos(tmp_path, num_videos=3, seed=5, workers=1, progress=False)
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*.*")} == whole
    assert (tmp_path / "train/train-000000.mp4").stat().st_mtime_ns == kept


def test_larger_videos_have_the_same_story(toy_folder, tmp_path):
    write_toy_videos(tmp_path, num_videos=3, seed=5, size_px=96, workers=1, progress=False)
    name = "train/train-000000"
    assert (tmp_path / f"{name}.json").read_bytes() == (toy_folder / f"{name}.json").read_bytes()
    large, small = (frames_of(folder / f"{name}.mp4") for folder in (tmp_path, toy_folder))
    assert large.shape[1:] == (96, 96, 3)
    assert len(large) == len(small)
    # The same picture at another size: mean colours differ by edges and compression only.
    assert np.abs(large.mean(axis=(1, 2)) - small.mean(axis=(1, 2))).max() < 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_videos": 2}, "num_videos is 2, expected at least 3"),
        ({"size_px": 65}, "size_px is 65"),
        ({"faults": 1.5}, "faults is 1.5"),
        ({"seed": 9}, "holds toy videos with other settings"),
    ],
)
def test_bad_arguments_are_named(toy_folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_toy_videos(toy_folder, **{"num_videos": 23, "seed": 5, "workers": 1, "progress": False, **arguments})


@pytest.mark.parametrize("split", ["train", "test"])
def test_joins_are_mostly_visible(split):
    rng = np.random.default_rng(3)
    plans = [plan_steps(split, rng) for _ in range(600)]
    joins = [step.join for plan in plans for step in plan[:-1]]
    assert {*joins} == {"cut", "move", "invisible"}
    assert joins.count("invisible") / len(joins) <= 0.20
    for plan in plans:
        for step, following in pairwise(plan):
            same_object = (step.scene.shape, step.scene.colour) == (following.scene.shape, following.scene.colour)
            assert same_object == (step.join == "invisible")
            assert (step.scene.background == following.scene.background) == (step.join == "invisible")


@pytest.mark.parametrize(("first", "second"), ORDER_ONLY_PAIRS)
def test_order_only_pairs_show_the_same_frames_in_reverse(first, second):
    appearance = draw_look(np.random.default_rng(1))
    poses = [draw_pose(action, appearance, 11, np.random.default_rng(2)) for action in (first, second)]
    if first.startswith("roll"):  # the turning angle starts at the object's own on either side
        poses = [Pose(**{**vars(pose), "angle": 0 * pose.angle}) for pose in poses]
    scenes = [Scene(shape="star", colour="red", action=action, background="dots") for action in (first, second)]
    forth, back = (render_step(scene, appearance, pose, 64) for scene, pose in zip(scenes, poses, strict=True))
    assert np.abs(forth.astype(int) - back[::-1].astype(int)).max() <= 1  # rounding of 1 - t in float32


def test_rolling_left_moves_the_object_left():
    appearance = draw_look(np.random.default_rng(1))
    pose = draw_pose("roll_left", appearance, 11, np.random.default_rng(2))
    scene = Scene(shape="circle", colour="red", action="roll_left", background="grid")
    reddish = render_step(scene, appearance, pose, 64).astype(int)
    columns = [np.argwhere(frame[:, :, 0] - frame[:, :, 1] > 100)[:, 1].mean() for frame in reddish]
    assert np.all(np.diff(columns) < -1)


def test_speech_is_shifted_and_sometimes_off_topic():
    rng = np.random.default_rng(4)
    scenes = [Scene(shape="star", colour="red", action="grow", background="dots")] * 5
    spans = [(3.0 * index, 3.0 * index + 3.0) for index in range(5)]
    sentences = [sentence for _ in range(400) for sentence in narrate(scenes, spans, 15.0, rng)]
    off_topic = [sentence.step_index is None for sentence in sentences]
    assert all((s.text in OFF_TOPIC) == (s.step_index is None) for s in sentences)
    assert np.mean(off_topic) == pytest.approx(0.15, abs=0.03)  # 2000 draws: deviation 0.008
    shifts = [s.start_s - spans[s.step_index][0] for s in sentences if s.step_index is not None]
    assert max(np.abs(shifts)) <= MAX_SHIFT_S + 1e-3
    assert min(shifts) < -1.4
    assert max(shifts) > 1.4
    ways = {s.text.removeprefix("so ") for s in sentences if s.step_index is not None}
    assert len(ways) >= 6


def test_planted_faults_are_recorded(tmp_path):
    write_toy_videos(tmp_path, num_videos=60, seed=1, faults=0.6, workers=1, progress=False)
    faulty = [truth for truth in truths(tmp_path) if truth["faults"]]
    assert len(faulty) / 60 == pytest.approx(0.6, abs=0.19)  # three deviations of 60 draws
    found = {truth["faults"][0]["kind"]: truth for truth in faulty}
    assert len(found) == 5
    black = found["black_clip"]
    fault = black["faults"][0]
    frames = frames_of(tmp_path / black["split"] / f"{black['video_id']}.mp4")
    middle = round((fault["start_s"] + fault["end_s"]) / 2 * FRAME_RATE_HZ)
    assert frames[middle].max() < 8
    names_of_faulty = {truth["video_id"] for truth in faulty}
    duplicates = [t for t in faulty if t["faults"][0].get("of") and t["faults"][0]["of"] not in names_of_faulty]
    assert duplicates
    for duplicate in duplicates:
        folder = tmp_path / duplicate["split"]
        original = folder / f"{duplicate['faults'][0]['of']}.mp4"
        assert (folder / f"{duplicate['video_id']}.mp4").read_bytes() == original.read_bytes()
    wrong = found["mismatched_caption"]
    step = wrong["steps"][wrong["faults"][0]["step_index"]]
    assert step["object_phrase"] not in step["caption"]
    assert step["object_phrase"] in wrong["faults"][0]["true_caption"]
    private = found["personal_data"]
    assert "@example.org" in private["speech"][private["faults"][0]["sentence_index"]]["text"]
