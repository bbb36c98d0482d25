"""Compare the borders of the shipped recipe and tower with the toy world's true borders."""

import json

import pytest

from dataset_builder import build_corpus, read_corpus
from dataset_builder.models.model_folders import TOWERS
from dataset_builder.toy.videos import write_toy_videos
from training.evaluation.borders import count_matches


@pytest.mark.skipif(not (TOWERS / "clip" / "config.json").is_file(), reason="this checkout holds no toy towers")
def test_borders_are_found_within_half_a_second(tmp_path):
    """At least 0.90 on cuts and moves, 0.75 with the borders that only a change of action marks."""
    write_toy_videos(tmp_path / "in", num_videos=41, seed=23)
    summary = build_corpus(tmp_path / "in", tmp_path / "out", "toy", workers=1, progress=False)
    num_found = num_true = num_visible = num_hit = num_hit_visible = 0
    for split in summary.num_videos:
        for record in read_corpus(tmp_path / "out", split, include_dropped=True):
            steps = json.loads((tmp_path / "in" / split / f"{record.video_id}.json").read_text())["steps"]
            found = [clip.start_s for clip in record.clips[1:]]
            true = [step["end_s"] for step in steps[:-1]]
            visible = [step["end_s"] for step in steps[:-1] if step["join"] != "invisible"]
            num_found, num_true, num_visible = num_found + len(found), num_true + len(true), num_visible + len(visible)
            num_hit += count_matches(found, true, 0.5)
            num_hit_visible += count_matches(found, visible, 0.5)
    # a border found at an invisible one is right, too: it counts neither for nor against the visible ones
    num_found_visible = num_found - (num_hit - num_hit_visible)
    assert 2 * num_hit / (num_found + num_true) >= 0.75
    assert 2 * num_hit_visible / (num_found_visible + num_visible) >= 0.90
