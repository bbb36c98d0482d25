"""A corpus in a repository of the Hub is streamed by workers in exact order and inspected without a full download."""

import json

import pytest

from dataset_builder import build_corpus, load_recipe
from dataset_builder.streaming import stream_corpus
from dataset_builder.toy.videos import write_toy_videos
from tests.tiny_model import save_tiny_tower


PUBLISH = """
import sys
from pathlib import Path
from training.publishing.publish import publish
publish("dataset", Path(sys.argv[1]), "tester/corpus")
"""
CODE = """
import json
from datasets import load_dataset
from torch.utils.data import DataLoader
from dataset_builder import decode_clip, from_row
from dataset_builder.corpus.inspect_corpus import inspect_corpus
from dataset_builder.streaming import stream_corpus

collate = lambda records: [record.video_id for record in records]
stream = stream_corpus("tester/corpus", seed=3, columns=["clips"], batch_size=2)
names = [name for batch in DataLoader(stream, batch_size=2, num_workers=2, collate_fn=collate) for name in batch]
record = next(iter(stream_corpus("tester/corpus", seed=3)))
rows = list(load_dataset("tester/corpus", split="train", streaming=True))
print(json.dumps({
    "names": names,
    "frames": list(decode_clip(record, 0, 2, root="hf://datasets/tester/corpus").shape),
    "rows": sorted(from_row(row).video_id for row in rows),
    "problems": inspect_corpus("tester/corpus").problems,
}))
"""


@pytest.mark.parametrize("changes", [{"shards.format": "webdataset"}, {"shards.embed_videos": False}])
def test_a_published_corpus_streams_in_its_order(hub, in_hub_process, tmp_path, changes):
    write_toy_videos(tmp_path / "videos", num_videos=7, seed=1)
    tower = save_tiny_tower(tmp_path / "tower")
    recipe = load_recipe("toy", {"segment.tower": str(tower), **changes})
    build_corpus(tmp_path / "videos", tmp_path / "corpus", recipe, workers=1, progress=False)
    in_hub_process(PUBLISH, str(tmp_path / "corpus"), project=True)
    found = json.loads(in_hub_process(CODE, project=True))
    expected = [record.video_id for record in stream_corpus(tmp_path / "corpus", seed=3, batch_size=2)]
    assert found["names"] == expected
    assert found["rows"] == sorted(expected)
    assert found["frames"] == [2, 3, 64, 64]
    assert found["problems"] == []
