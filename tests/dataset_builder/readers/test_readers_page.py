"""The examples of docs/readers.md run unchanged, and its table names all readers."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from dataset_builder import howto_interlink, readers
from tests.dataset_builder.make_videos import encode, story
from tests.dataset_builder.readers import make_collections as make


PAGE = (Path(__file__).parents[3] / "docs" / "readers.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folders that the examples use."""
    folder = tmp_path_factory.mktemp("page")
    encode(folder / "howto100m" / "a.mp4", story(0))
    clips = make.howto_clips(("0:00:00 - 0:00:03", "first"), ("0:00:03 - 0:00:06", "second"))
    make.write_howto(folder / "annotations" / make.HOWTO_TRAIN, [("a.mp4", clips), ("gone.mp4", clips)])
    clip = make.video(folder / "made", 1)
    facts = json.dumps({"clips": clips}).encode()
    make.write_tar(folder / "howto_tars" / "0.tar", [("0.mp4", clip), ("0.json", facts)])
    make.write_img2dataset(folder / "laion400m", [2])
    make.write_webvid(folder / "webvid", 2, [0])
    make.write_tar(folder / "webvid_tars" / "0.tar", [("0.mp4", clip), ("0.txt", b"a clip")])
    page = make.mmc4_page(0, ["One.", "Two."], np.array([[0.3, 0.2]]), [None])
    make.write_mmc4_zip(folder / "mmc4" / "docs_no_face_shard_0_v2.jsonl.zip", [page])
    (folder / "mmc4_images").mkdir()
    (folder / "mmc4_images" / page["image_info"][0]["image_name"]).write_bytes(make.picture(1))
    make.write_obelics(
        folder / "obelics" / "train-00000-of-00001.parquet", [(["https://example.org/x", None], [None, "Text."])]
    )
    (folder / "obelics_images").mkdir()
    (folder / "obelics_images" / make.hashed("https://example.org/x")).write_bytes(make.picture(2))
    return folder


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(number, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
    names: dict[str, object] = {}
    exec(compile(EXAMPLES[number], f"docs/readers.md, example {number}", "exec"), names)
    printed = capsys.readouterr().out
    assert names.get("row") or names.get("rows"), "the example read nothing"
    if "builder" in names:
        assert "1 64 shards: 1 samples; skipped 1 (1 missing video)" in printed


def test_the_table_names_every_reader():
    named = set(re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE))
    made = {name for name in readers.__all__ if name.endswith(("_pairs", "_documents"))}
    assert named == made | {"HowtoInterlink", "howto_interlink_shards"}
    assert all(hasattr(readers, name) or hasattr(howto_interlink, name) for name in named)
    assert len(EXAMPLES) >= 4
