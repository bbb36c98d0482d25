"""docs/dataset.md: its code runs on a corpus, and its table names every key of the shards."""

import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from dataset_builder import build_corpus, load_recipe, read_corpus
from dataset_builder.recipe import ShardSettings
from dataset_builder.streaming import stream_corpus


PAGE = (Path(__file__).parents[2] / "docs" / "dataset.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module", params=["parquet", "webdataset"])
def corpus(request, narrated_dir, tower_dir, tmp_path_factory) -> Path:
    """A corpus with a copy of a video, of which no clip is kept."""
    videos, output = tmp_path_factory.mktemp("videos") / "in", tmp_path_factory.mktemp("page") / "CORPUS"
    shutil.copytree(narrated_dir, videos)
    for suffix in (".mp4", ".vtt", ".json"):
        shutil.copy(videos / "train" / f"video 1{suffix}", videos / "train" / f"video 1 again{suffix}")
    overrides = {"segment.tower": str(tower_dir), "segment.penalty": 0.01, "shards.format": request.param}
    build_corpus(videos, output, load_recipe("toy", overrides), workers=1, progress=False)
    return output


def test_the_code_for_datasets_prints_every_clip(corpus, monkeypatch, capsys):
    monkeypatch.chdir(corpus.parent)
    exec(compile(BLOCKS[0], "docs/dataset.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    clips = [clip for record in read_corpus(corpus, "train") for clip in record.clips]
    assert lines == [f"{clip.start_s} {clip.end_s} {clip.caption} (4, 3, 64, 64)" for clip in clips]


def test_the_code_for_training_ends_with_a_state_that_goes_on(corpus, monkeypatch):
    monkeypatch.chdir(corpus.parent)
    names: dict = {"__name__": "page"}
    exec(compile(BLOCKS[1], "docs/dataset.md", "exec"), names)
    assert names["used"] == 4
    again = stream_corpus(corpus, seed=0, batch_size=2)
    again.load_state_dict(names["state"])
    assert (list(again), again.epoch) == ([], 1), "the second epoch was used up"


def test_the_table_names_every_key_of_the_shards():
    table = PAGE.split("| key | what it does |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [item.name for item in fields(ShardSettings)]
