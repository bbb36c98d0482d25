"""Borders that move to hard cuts, and clips that are joined again."""

import sys

import numpy as np
import pytest

from dataset_builder import build_corpus, load_recipe, read_corpus
from dataset_builder.draft import Sampled
from dataset_builder.stages.segment import embed_clips, frames_of, snap_to_cuts, stitch
from dataset_builder.video.cuts import find_cuts
from tests.dataset_builder.make_videos import encode, story


def sampled(embeddings: np.ndarray, rate_hz: float) -> Sampled:
    nothing = np.zeros(len(embeddings))
    return Sampled(
        rate_hz=rate_hz, embeddings=embeddings, brightness=nothing, changes=nothing, hashes=nothing.astype(np.uint64)
    )


def test_borders_move_to_the_nearest_cut_within_reach():
    spans = [(0.0, 2.5), (2.5, 5.0), (5.0, 9.0)]
    assert snap_to_cuts(spans, [2.2, 2.8, 5.9], 0.5, 1.0) == [(0.0, 2.2), (2.2, 5.0), (5.0, 9.0)]
    assert snap_to_cuts(spans, [2.7, 5.9], 1.0, 1.0) == [(0.0, 2.7), (2.7, 5.9), (5.9, 9.0)]
    assert snap_to_cuts(spans, [], 1.0, 1.0) == spans


def test_no_clip_gets_too_short_by_moving():
    spans = [(0.0, 1.5), (1.5, 3.0)]
    assert snap_to_cuts(spans, [0.8], 1.0, 1.0) == spans
    assert snap_to_cuts(spans, [2.2], 1.0, 1.0) == spans
    assert snap_to_cuts(spans, [1.0], 1.0, 1.0) == [(0.0, 1.0), (1.0, 3.0)]


def test_neighbours_that_look_alike_are_one_clip_again():
    embeddings = np.array([[1, 0, 0], [1, 0.1, 0], [0, 1, 0], [0, 0, 1], [0, 0.2, 1], [0, 0.1, 1]], dtype=np.float32)
    spans = [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 4.0), (4.0, 6.0)]
    video = sampled(embeddings, rate_hz=1.0)
    assert stitch(spans, video, 0.9, None) == [(0.0, 2.0), (2.0, 3.0), (3.0, 6.0)]
    assert stitch(spans, video, 0.9, 2.5) == [(0.0, 2.0), (2.0, 3.0), (3.0, 4.0), (4.0, 6.0)]
    assert stitch(spans, video, -1.0, None) == [(0.0, 6.0)]
    assert stitch(spans, video, 1.0, None) == spans


def test_a_clips_embedding_is_the_mean_direction_of_its_own_frames():
    embeddings = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    found = embed_clips(sampled(embeddings, rate_hz=2.0), [(0.0, 1.5), (1.5, 3.5), (3.5, 3.6)])
    for row, frames in zip(found, [[0, 1, 2], [3, 4, 5, 6], [6]], strict=True):
        mean = sum(embeddings[index] / np.sqrt((embeddings[index] ** 2).sum()) for index in frames)
        np.testing.assert_allclose(row, mean / np.sqrt((mean**2).sum()), rtol=1e-5)  # float32
    assert frames_of((9.0, 9.1), 7, 2.0) == slice(6, 7)


def test_cuts_are_found_and_borders_stand_on_them(tower_dir, tmp_path):
    """Two frames a second cannot place a cut more exactly than half a second; all frames together can."""
    pytest.importorskip("scenedetect", reason="the extra `scenes` is not installed")
    path = encode(tmp_path / "in" / "a.mp4", story(0)[2:])  # cuts at 1.75 and 3.75 s
    assert find_cuts(path) == pytest.approx([1.75, 3.75], abs=0.001)
    values = {"segment.tower": str(tower_dir), "segment.penalty": 0.01, "segment.frames_per_segment": 3.0}
    borders = {}
    for snap_s in (0.0, 0.5):
        recipe = load_recipe("laptop", values | {"segment.snap_to_cuts_s": snap_s, "segment.min_clip_s": 1.0})
        build_corpus(tmp_path / "in", tmp_path / f"out{snap_s}", recipe, workers=1, progress=False)
        (record,) = read_corpus(tmp_path / f"out{snap_s}", "train", include_dropped=True)
        borders[snap_s] = [clip.start_s for clip in record.clips[1:]]
        assert ("cuts" in record.provenance["segment"]) == bool(snap_s)
    assert borders == {0.0: [1.5, 3.5], 0.5: [1.75, 3.75]}


def test_without_scenedetect_the_recipe_is_refused_with_what_to_install(tower_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    encode(tmp_path / "in" / "a.mp4", story(0))
    recipe = load_recipe("laptop", {"segment.tower": str(tower_dir), "segment.snap_to_cuts_s": 0.5})
    with pytest.raises(
        ValueError, match=r"segment\.snap_to_cuts_s needs scenedetect: pip install 'cosmo-vlm\[scenes\]'"
    ):
        build_corpus(tmp_path / "in", tmp_path / "out", recipe, workers=1, progress=False)
