"""A corpus built when dataset_builder had no folders: readers still read it, and a build there starts over."""

import json
import shutil
from pathlib import Path

import pytest
from datasets import load_dataset

from dataset_builder import build_corpus, decode_clip, list_splits, read_corpus
from dataset_builder.corpus.inspect_corpus import describe, inspect_corpus
from dataset_builder.corpus.inspect_page import write_page
from dataset_builder.streaming import stream_corpus
from training.data.clips import load_clips


BEFORE = Path(__file__).parent / "fixtures" / "built_before"


@pytest.fixture
def corpus(tmp_path) -> Path:
    return Path(shutil.copytree(BEFORE / "corpus", tmp_path / "corpus"))


@pytest.fixture
def videos(tmp_path) -> Path:
    """The folder that it was built from; the shards hold the videos themselves."""
    folder = Path(shutil.copytree(BEFORE / "in", tmp_path / "in"))
    for split in list_splits(BEFORE / "corpus"):
        for record in read_corpus(BEFORE / "corpus", split):
            assert record.video_bytes is not None
            (folder / split / f"{record.video_id}.mp4").write_bytes(record.video_bytes)
    return folder


def captions(corpus: Path) -> dict[str, list[tuple[float, float, str]]]:
    """Times and texts of every video's clips."""
    return {
        record.video_id: [(clip.start_s, clip.end_s, clip.caption) for clip in record.clips]
        for split in list_splits(corpus)
        for record in read_corpus(corpus, split, include_dropped=True)
    }


def outcomes(corpus: Path) -> set[str]:
    return {path.name for path in (corpus / ".build" / "results").rglob("*.json")}


def test_every_way_of_reading_it_still_works(corpus):
    assert list_splits(corpus) == ["train", "test"]
    (record,) = read_corpus(corpus, "train")
    (row,) = load_dataset(str(corpus), split="train", streaming=True)
    (streamed,) = stream_corpus(corpus, "train")
    assert row["video_id"] == streamed.video_id == record.video_id == "train-000000"
    assert [clip["caption"] for clip in row["clips"]] == [clip.caption for clip in record.clips]
    assert decode_clip(row, 0, 3).shape == (3, 3, 64, 64)


def test_training_reads_its_clips(corpus):
    clips = load_clips(corpus, "train")
    assert list(clips.captions) == [caption for _, _, caption in captions(corpus)["train-000000"]]


def test_it_is_inspected(corpus, tmp_path):
    inspection = inspect_corpus(corpus)
    assert "train" in describe(inspection)
    write_page(inspection, corpus, tmp_path / "page.html", num_records=2)
    assert "train-000000" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("left", ["all", "a half-done build"])
def test_a_build_there_does_all_of_it_again(corpus, videos, left):
    """Never half: outcomes of the older code are not mixed with those of this code."""
    before, old = captions(corpus), outcomes(corpus)
    assert len(old) == 2
    if left != "all":
        (corpus / ".build" / "state.json").unlink()
        next((corpus / ".build" / "results").rglob("*.json")).unlink()
    summary = build_corpus(videos, corpus, "toy", workers=1, progress=False)
    assert not summary.up_to_date
    assert len(outcomes(corpus)) == 2
    assert not outcomes(corpus) & old
    assert captions(corpus) == before
    assert json.loads((corpus / ".build" / "state.json").read_text())["summary"]["num_clips"] == summary.num_clips


def test_after_an_edit_of_the_assembly_alone_outcomes_are_kept(videos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    build_corpus(videos, out, "toy", workers=1, progress=False)
    results = out / ".build" / "results"
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*.json")}
    (out / "README.md").write_text("by an older card.py")
    monkeypatch.setattr("dataset_builder.build.assembly_fingerprint", lambda: "edited")
    assert not build_corpus(videos, out, "toy", workers=1, progress=False).up_to_date
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*.json")} == before
    assert "by an older card.py" not in (out / "README.md").read_text()
