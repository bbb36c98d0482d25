"""Publish, then load from the loopback Hub in a process that cannot import the project."""

import json
from dataclasses import replace

import pytest
import torch

from dataset_builder.build import build_corpus
from dataset_builder.corpus.reading import read_corpus
from dataset_builder.recipe import load_recipe
from dataset_builder.toy.videos import write_toy_videos
from modeling_cosmo import CosmoForConditionalGeneration, CosmoProcessor
from tests.hub.test_publish import PUSH
from tests.tiny_model import save_tiny_tower


LOAD = """
import json
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name in {"modeling_cosmo", "dataset_builder", "training", "demo", "cosmo_cli"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled())
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained("tester/cosmo", trust_remote_code=True)
model = AutoModelForImageTextToText.from_pretrained("tester/cosmo", trust_remote_code=True).eval()
frames = [Image.new("RGB", (24, 24), colour) for colour in ("red", "lime", "blue")]
inputs = processor(text=["<visual>"], videos=[[frames]], return_tensors="pt")
ids = model.generate(**inputs, do_sample=False, max_new_tokens=11)
logits = model(**inputs).logits[0, -1]
print(json.dumps({"module": type(model).__module__, "ids": ids[0].tolist(), "logits": logits.tolist()}))
"""


@pytest.fixture
def expected(tiny_model_folder) -> dict:
    """The model's output here, with the project's own classes."""
    from PIL import Image

    processor = CosmoProcessor.from_pretrained(tiny_model_folder)
    model = CosmoForConditionalGeneration.from_pretrained(tiny_model_folder).eval()
    frames = [Image.new("RGB", (24, 24), colour) for colour in ("red", "lime", "blue")]
    inputs = processor(text=["<visual>"], videos=[[frames]], return_tensors="pt")
    with torch.inference_mode():
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=11)
        return {"ids": ids[0].tolist(), "logits": model(**inputs).logits[0, -1].tolist()}


def test_a_published_model_loads_back_and_says_the_same(hub, in_hub_process, tiny_model_folder, expected):
    in_hub_process(PUSH, "model", str(tiny_model_folder), "tester/cosmo", "main", project=True)
    loaded = json.loads(in_hub_process(LOAD, token=None).splitlines()[-1])
    assert loaded["module"].startswith("transformers_modules."), "the code came from the repository"
    assert loaded["ids"] == expected["ids"]
    # the same weights and code in another process: only the threads' order of summation may differ
    assert loaded["logits"] == pytest.approx(expected["logits"], abs=1e-5)
    assert any("/resolve/" in line and "model.safetensors" in line for line in hub.requests)


COMMAND = """
import sys
import cosmo_cli
sys.argv = ["cosmo", "publish", "dataset", sys.argv[1], "--repo-id", "tester/corpus"]
cosmo_cli.main()
"""
STREAM = """
import json
from datasets import load_dataset
splits = load_dataset("tester/corpus", streaming=True)
rows = {name: list(rows) for name, rows in splits.items()}
print(json.dumps({
    name: [[row["video_id"], len(row["video"]["bytes"]), [clip["caption"] for clip in row["clips"]]] for row in split]
    for name, split in rows.items()
}))
"""


def test_a_built_corpus_streams_from_the_hub(hub, in_hub_process, tmp_path):
    videos, corpus = tmp_path / "videos", tmp_path / "corpus"
    write_toy_videos(videos, 4, seed=5, workers=1, progress=False)
    recipe = load_recipe("toy")
    recipe = replace(recipe, segment=replace(recipe.segment, tower=str(save_tiny_tower(tmp_path / "tower"))))
    build_corpus(videos, corpus, recipe, workers=1, progress=False)

    printed = in_hub_process(COMMAND, str(corpus), project=True)
    assert f"uploaded to {hub.url}/datasets/tester/corpus" in printed
    assert not [path for path in hub.files("dataset", "tester/corpus") if path.startswith(".build")]

    streamed = json.loads(in_hub_process(STREAM, token=None))
    for split in ("train", "validation", "test"):
        expected = [
            [record.video_id, len(record.video_bytes), [clip.caption for clip in record.clips]]
            for record in read_corpus(corpus, split, include_dropped=True)
        ]
        assert streamed[split] == expected
        assert expected, f"a record in {split}"
