"""All readers: every sample once whatever the number of nodes and workers, exact resume, one count."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

from dataset_builder.howto_interlink import HowtoInterlink, howto_interlink_shards
from dataset_builder.readers import (
    image_text_pairs,
    mmc4_documents,
    obelics_documents,
    read_summary,
    video_text_pairs,
    webvid_pairs,
)
from tests.dataset_builder.readers import make_collections as make


SIZES = (3, 5, 1, 2, 4)  # samples of the shards: no number of nodes or workers below divides 5 shards or 15 samples
READERS: dict[str, Callable[[Path, Path], IterableDataset]] = {
    "image_text": lambda folder, report: image_text_pairs(folder / "pairs", report=report),
    "video_text": lambda folder, report: video_text_pairs(folder / "video_pairs", report=report),
    "webvid": lambda folder, report: webvid_pairs(
        folder / "webvid" / "results_2M_val.csv", folder / "webvid" / "videos", num_shards=5, report=report
    ),
    "mmc4": lambda folder, report: mmc4_documents(folder / "mmc4", noise_seed=3, threshold=-1.0, report=report),
    "obelics": lambda folder, report: obelics_documents(folder / "obelics", folder / "pictures", report=report),
    "howto_interlink": lambda folder, report: HowtoInterlink(
        "all_clips", annotations=folder / "howto", videos=folder / "webvid" / "videos", num_shards=5, report=report
    ).as_streaming_dataset("train"),
    "howto_interlink_shards": lambda folder, report: howto_interlink_shards(folder / "howto_tars", 1.0, report=report),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """All collections, 15 good samples each, with some bad ones among them."""
    folder = tmp_path_factory.mktemp("collections")
    make.write_img2dataset(folder / "pairs", SIZES)
    make.write_webvid(folder / "webvid", 17, range(15))
    clip = make.video(folder, 0)
    (folder / "pictures").mkdir()
    number = 0
    rows = []
    for shard, size in enumerate(SIZES):
        pairs: list[tuple[str, bytes]] = []
        howto: list[tuple[str, bytes]] = [("bad.mp4", clip)]
        pages = []
        web_pages: list[tuple[list[str | None], list[str | None]]] = [([None], ["text alone"])]
        for _ in range(size):
            clips = make.howto_clips(("0:00:00 - 0:00:02", f"caption {number}"))
            pairs += [(f"{number:06d}.mp4", clip), (f"{number:06d}.txt", b"a clip")]
            howto += [(f"{number:06d}.mp4", clip), (f"{number:06d}.json", json.dumps({"clips": clips}).encode())]
            rows.append((f"{number // 3:06d}_{number // 3 + 50:06d}/{1000 + number}.mp4", clips))
            matrix = np.random.default_rng(number).random((2, 3))
            pages.append(make.mmc4_page(number, ["a.", "b.", "c."], matrix, [make.picture(number)] * 2))
            url = f"https://example.org/{number}.jpg"
            (folder / "pictures" / f"{make.hashed(url)}.jpg").write_bytes(make.picture(number))
            web_pages.append(([None, url], [f"page {number}", None]))
            number += 1
        make.write_tar(folder / "video_pairs" / f"{shard}.tar", [*pairs, ("lonely.txt", b"no video")])
        make.write_tar(folder / "howto_tars" / f"{shard}.tar", howto)
        make.write_mmc4_zip(folder / "mmc4" / f"docs_no_face_shard_{shard}_v2.jsonl.zip", [*pages, "{broken"])
        make.write_obelics(folder / "obelics" / f"train-{shard:05d}-of-00005.parquet", web_pages)
    make.write_howto(folder / "howto" / make.HOWTO_TRAIN, [*rows, ("missing.mp4", rows[0][1])])
    return folder


def name_of(row: dict) -> str:
    return row.get("video_id") or row["document_id"]


def names(rows) -> list[str]:
    return [name_of(row) for row in rows]


@pytest.mark.parametrize("reader", READERS)
def test_every_sample_reaches_one_node_and_one_worker(reader, folder, tmp_path):
    data = READERS[reader](folder, tmp_path)
    assert data.num_shards == 5
    whole = names(data)
    assert len(set(whole)) == len(whole) == 15
    whole_counts = read_summary(tmp_path)
    assert whole_counts.num_samples == 15
    for world_size in (2, 3, 5):
        parts = [names(split_dataset_by_node(data, rank=rank, world_size=world_size)) for rank in range(world_size)]
        assert Counter(name for part in parts for name in part) == Counter(whole)
    assert read_summary(tmp_path) == whole_counts  # shards that many nodes read count once


# One reader of each kind of dataset: processes are slow to start.
@pytest.mark.parametrize("reader", ["image_text", "howto_interlink"])
@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 2), (2, 3), (5, 2)])
def test_workers_of_nodes_share_all_samples(reader, world_size, num_workers, folder, tmp_path):
    data = READERS[reader](folder, tmp_path)
    found: Counter[str] = Counter()
    for rank in range(world_size):
        node = split_dataset_by_node(data, rank=rank, world_size=world_size)
        found.update(names(DataLoader(node, batch_size=None, num_workers=num_workers)))
    assert found == Counter(names(data))
    assert read_summary(tmp_path).num_samples == 15


@pytest.mark.parametrize("reader", READERS)
def test_resuming_in_the_middle_of_a_shard(reader, folder, tmp_path):
    whole = list(READERS[reader](folder, tmp_path))
    data = READERS[reader](folder, tmp_path)
    for consumed in (1, 4, 9, 15):  # the second shard ends after 8
        iterator = iter(data)
        begun = [next(iterator) for _ in range(consumed)]
        state = json.loads(json.dumps(data.state_dict()))  # as a checkpoint stores it
        fresh = READERS[reader](folder, tmp_path)
        fresh.load_state_dict(state)
        assert begun + list(fresh) == whole


@pytest.mark.parametrize("reader", ["mmc4", "howto_interlink"])
def test_resuming_a_node_that_gets_every_third_sample(reader, folder, tmp_path):
    node = split_dataset_by_node(READERS[reader](folder, tmp_path), rank=1, world_size=3)
    whole = list(node)
    iterator = iter(node)
    begun = [next(iterator) for _ in range(2)]
    state = node.state_dict()
    fresh = split_dataset_by_node(READERS[reader](folder, tmp_path), rank=1, world_size=3)
    fresh.load_state_dict(state)
    assert begun + list(fresh) == whole


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata 0.11 calls it in torch 2.13
@pytest.mark.parametrize("reader", ["image_text", "howto_interlink"])
def test_resuming_with_workers(reader, folder, tmp_path):
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata's StatefulDataLoader")
    data = READERS[reader](folder, tmp_path)

    def loader():
        return stateful.StatefulDataLoader(data, batch_size=None, num_workers=2)

    whole = names(loader())
    assert sorted(whole) == sorted(names(data))
    first = loader()
    iterator = iter(first)
    begun = [name_of(next(iterator)) for _ in range(7)]
    state = first.state_dict()
    second = loader()
    second.load_state_dict(state)
    assert begun + names(second) == whole


def test_rows_of_a_shuffled_epoch_are_all_there(folder, tmp_path):
    """Shards in another order and no buffer: nothing is lost."""
    data = READERS["image_text"](folder, tmp_path)
    shuffled = names(data.shuffle(seed=1, buffer_size=1))
    assert sorted(shuffled) == sorted(names(data))
    assert shuffled != names(data)
