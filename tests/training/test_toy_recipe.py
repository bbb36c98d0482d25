"""The recipe `toy` needs nothing but this package: it renders and builds its corpus if missing."""

from pathlib import Path

import pytest

from dataset_builder.corpus.reading import read_corpus
from training.config import load_config
from training.setup import prepare_corpus, tower_path


def test_toy_corpus_is_rendered_and_built_once(tmp_path):
    if not (Path(tower_path("toy", "clip")) / "config.json").is_file():
        pytest.skip("the toy towers are not there: `cosmo toy towers` trains them")
    config = load_config("toy", ["toy_videos=4", "preprocessing_num_workers=1"])
    folder = prepare_corpus(config, tmp_path)
    captions = [clip.caption for record in read_corpus(folder, "train") for clip in record.clips]
    assert captions
    assert all(caption.startswith("a ") for caption in captions)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert prepare_corpus(config, tmp_path) == folder
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before
