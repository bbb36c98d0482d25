"""The whole pipeline: a folder of narrated videos becomes a corpus that streams."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import load_dataset

from dataset_builder import FEATURES, build_corpus, decode_clip, load_recipe, read_corpus
from dataset_builder.inputs import find_videos
from dataset_builder.models.embed import TowerEmbedder
from dataset_builder.models.model_folders import TOWERS
from dataset_builder.recipe import CaptionSettings, Recipe
from dataset_builder.toy.videos import write_toy_videos
from dataset_builder.video.frames import FrameSampler


@pytest.fixture(scope="module")
def recipe(tower_dir) -> Recipe:
    # A random tower's embeddings are close together; the small penalty compensates for this.
    return load_recipe("toy", {"segment.tower": str(tower_dir), "segment.penalty": 0.01})


@pytest.fixture(scope="module")
def corpus(narrated_dir, recipe, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("corpus")
    summary = build_corpus(narrated_dir, output, recipe, workers=1, progress=False)
    assert summary.exit_code == 0
    assert summary.num_videos == {"train": 3, "validation": 1, "test": 1}
    return output


def test_records_hold_what_the_videos_show(corpus):
    records = list(read_corpus(corpus, "train"))
    assert [record.video_id for record in records] == ["video 0", "video 1", "video 2"]
    for index, record in enumerate(records):
        assert record.duration_s == pytest.approx(6.0)
        assert [(clip.start_s, clip.end_s) for clip in record.clips] == [(0, 2), (2, 4), (4, 6)]
        assert [clip.caption for clip in record.clips] == [f"step {step} of {index}" for step in range(3)]
        assert [clip.asr for clip in record.clips] == [f"sentence {step} of {index}" for step in range(3)]
        assert record.source == "toy"
        assert record.video_bytes


def test_it_streams_without_a_script(corpus):
    rows = list(load_dataset(str(corpus), split="train", streaming=True))
    assert rows[0].keys() == FEATURES.keys()
    assert rows[0]["clips"][1]["caption"] == "step 1 of 0"
    assert rows[0]["provenance"]["segment"]["tool"] == "kts"
    assert decode_clip(rows[2], 1, 5).shape == (5, 3, 64, 64)


def test_columns_are_pushed_down(corpus):
    rows = load_dataset(str(corpus), split="test", streaming=True, columns=["video_id", "clips"])
    assert [set(row) for row in rows] == [{"video_id", "clips"}]


def test_two_builds_are_byte_identical(corpus, narrated_dir, recipe, tmp_path):
    build_corpus(narrated_dir, tmp_path / "again", recipe, workers=1, progress=False)
    names = [path.relative_to(corpus) for path in corpus.rglob("*") if path.is_file() and ".build" not in path.parts]
    assert len(names) == 7  # three shards and their index, card, checksums, quarantine list
    for name in names:
        assert (corpus / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=corpus, check=True)


def test_a_second_run_does_nothing(corpus, narrated_dir, recipe):
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*") if path.name != "lock"}
    summary = build_corpus(narrated_dir, corpus, recipe, workers=1, progress=False)
    assert summary.up_to_date
    assert summary.num_videos == {"train": 3, "validation": 1, "test": 1}
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*") if path.name != "lock"} == before


def test_the_card_names_splits_and_licence(corpus):
    front = yaml.safe_load((corpus / "README.md").read_text().split("---")[1])
    assert front["license"] == "apache-2.0"
    assert [item["split"] for item in front["configs"][0]["data_files"]] == ["train", "validation", "test"]
    assert (corpus / "quarantine.jsonl").read_text() == ""


def test_clips_decode_from_files_beside_the_shards(narrated_dir, recipe, corpus, tmp_path):
    linked = replace(recipe, shards=replace(recipe.shards, embed_videos=False))
    build_corpus(narrated_dir, tmp_path, linked, workers=1, progress=False)
    record = next(read_corpus(tmp_path, "test"))
    assert record.video_bytes is None
    assert (tmp_path / "videos/test/video 4.mp4").is_file()
    embedded = next(read_corpus(corpus, "test"))
    assert record.clips == embedded.clips
    np.testing.assert_array_equal(decode_clip(record, 0, 3, root=tmp_path), decode_clip(embedded, 0, 3))


def test_embeddings_made_elsewhere_take_the_towers_place(narrated_dir, recipe, corpus, tmp_path):
    """The tower's own embeddings through files cut the videos at the same places."""
    embedder = TowerEmbedder(str(recipe.segment.tower))
    for source in find_videos(narrated_dir):
        frames = FrameSampler(source.path, recipe.segment.frame_rate_hz, embedder.fit, batch=64)
        np.save(tmp_path / f"{source.video_id}.npy", np.concatenate([embedder(batch) for batch in frames]))
    by_files = replace(recipe, segment=replace(recipe.segment, tower=None, embeddings=str(tmp_path)))
    build_corpus(narrated_dir, tmp_path / "out", by_files, workers=1, progress=False)
    for split in ("train", "test"):
        pairs = zip(read_corpus(tmp_path / "out", split), read_corpus(corpus, split), strict=True)
        assert all(found.clips == expected.clips for found, expected in pairs)


def test_models_that_do_not_load_are_told_in_one_line_by_the_workers(narrated_dir, recipe, tmp_path):
    (tmp_path / "captioner").mkdir()
    (tmp_path / "captioner" / "config.json").write_text("{}")
    broken = CaptionSettings(captioner="checkpoint", checkpoint=str(tmp_path / "captioner"))
    with pytest.raises(ValueError, match="cannot load the captioner") as refusal:
        build_corpus(narrated_dir, tmp_path / "out", replace(recipe, caption=broken), workers=2, progress=False)
    assert "\n" not in str(refusal.value)


def test_the_summary_fits_in_a_line(narrated_dir, corpus, recipe):
    line = build_corpus(narrated_dir, corpus, recipe, workers=1, progress=False).line()
    assert "up to date: videos 3 train, 1 validation, 1 test; 15 of 15 clips kept; 0 damaged files" in line


def test_the_toy_worlds_videos_get_the_captions_of_their_truth(recipe, tmp_path):
    write_toy_videos(tmp_path / "in", num_videos=7, seed=3)
    summary = build_corpus(tmp_path / "in", tmp_path / "out", recipe, workers=1, progress=False)
    assert summary.exit_code == 0
    assert sum(summary.num_videos.values()) == 7
    for split in summary.num_videos:
        for record in read_corpus(tmp_path / "out", split, include_dropped=True):
            truth = json.loads((tmp_path / "in" / split / f"{record.video_id}.json").read_text())
            assert record.duration_s == pytest.approx(truth["duration_s"], abs=0.01)
            for clip in record.clips:
                shown = [
                    min(clip.end_s, step["end_s"]) - max(clip.start_s, step["start_s"]) for step in truth["steps"]
                ]
                assert clip.caption == truth["steps"][int(np.argmax(shown))]["caption"]
            said = " ".join(clip.asr for clip in record.clips).split()
            assert sorted(said) == sorted(" ".join(cue["text"] for cue in truth["speech"]).split())


@pytest.mark.skipif(not (TOWERS / "clip" / "config.json").is_file(), reason="this checkout holds no toy towers")
@pytest.mark.parametrize("name", ["toy", "laptop"])
def test_the_shipped_recipes_run_as_they_are(narrated_dir, tmp_path, name):
    summary = build_corpus(narrated_dir, tmp_path, name, workers=1, progress=False)
    assert summary.exit_code == 0
    assert len(list(load_dataset(str(tmp_path), split="train", streaming=True))) == 3


def test_state_of_a_finished_build_is_json(corpus):
    assert json.loads((corpus / ".build/state.json").read_text())["summary"]["num_clips"] == 15
