"""Shards on disk: sizes, order, the index of their blocks, and WebDataset tars."""

import hashlib
import io
import json
import os
import tarfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset

from dataset_builder import build_corpus, decode_clip, from_row, load_recipe, read_corpus
from dataset_builder.corpus.files import open_corpus
from dataset_builder.corpus.shard_index import read_index, scan_shards, write_index
from dataset_builder.corpus.shards import plan_shards, shard_name, write_shard
from dataset_builder.corpus.statistics import token_counter
from dataset_builder.corpus.tar_shards import read_tar, scan_tar, tar_key, write_tar
from dataset_builder.errors import DamagedInput
from dataset_builder.recipe import ShardSettings
from tests.dataset_builder.test_corpus import full_record


TAR = ShardSettings(embed_videos=True, format="webdataset")


def test_shards_close_before_the_limit():
    sizes = [400_000, 500_000, 200_000, 2_000_000, 100_000, 900_000, 1]
    assert plan_shards(sizes, 1.0) == [range(0, 2), range(2, 3), range(3, 4), range(4, 6), range(6, 7)]
    assert plan_shards([], 1.0) == [range(0, 0)]


@pytest.mark.parametrize("seed", range(20))
def test_the_number_of_shards_is_a_multiple_and_each_record_is_in_one(seed):
    draw = np.random.default_rng(seed)
    sizes = [int(size) for size in draw.integers(1, 900_000, size=int(draw.integers(8, 60)))]
    multiple = int(draw.integers(2, 9))
    plan = plan_shards(sizes, 1.0, multiple)
    assert [row for shard in plan for row in shard] == list(range(len(sizes)))
    assert all(len(shard) for shard in plan)
    assert len(plan) % multiple == 0
    if len(plan) >= len(plan_shards(sizes, 1.0)):
        assert all(sum(sizes[row] for row in shard) <= 1e6 for shard in plan), "still within the limit"


def test_too_few_records_get_one_shard_each_or_larger_shards():
    assert plan_shards([5, 5, 5], 1.0, 8) == [range(0, 1), range(1, 2), range(2, 3)]
    full = [900_000] * 7  # each fills a shard: 8 would be needed
    assert [len(shard) for shard in plan_shards(full, 1.0, 4)] in ([2, 2, 2, 1], [1, 2, 2, 2])


def test_row_groups_hold_few_rows_where_no_video_fills_them(tmp_path):
    records = [replace(full_record(f"v{index:04d}"), video_bytes=None) for index in range(601)]
    write_shard(tmp_path / "a.parquet", records, ShardSettings(embed_videos=False))
    file = pq.ParquetFile(tmp_path / "a.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(3)] == [256, 256, 89]
    assert file.metadata.row_group(0).sorting_columns[0].column_index == 0  # video_id, ascending
    write_shard(tmp_path / "b.parquet", records, ShardSettings(embed_videos=False, shuffle=True))
    assert not pq.ParquetFile(tmp_path / "b.parquet").metadata.row_group(0).sorting_columns


NAMES = ["plain", "with space", "a/b.c", "a_b_c", "тест 视频", "x" * 300, "../../etc/passwd", "plain.mp4"]


def test_tars_hold_records_whole_under_safe_and_unique_names(tmp_path):
    records = [full_record(name, num_bytes=1001 * (index + 1)) for index, name in enumerate(NAMES)]
    write_tar(tmp_path / "a.tar", records, {})
    with (tmp_path / "a.tar").open("rb") as file:
        assert list(read_tar(file)) == records
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
    assert len({member.name for member in members}) == 2 * len(NAMES)
    assert members[0].name == "plain.json"
    for member in members:
        assert member.name.isascii()
        assert member.name.count(".") == 1
        assert "/" not in member.name
        assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (0, 0, 0, "", 0o644)
    lookalike = "plain-" + hashlib.sha256(b"plain.mp4").hexdigest()[:12]
    assert tar_key(lookalike) != tar_key("plain.mp4")


def test_large_videos_are_copied_in_pieces(tmp_path):
    """A sparse file of 300 MB goes into a tar without being in memory."""
    with (tmp_path / "large.mp4").open("wb") as file:
        file.truncate(300_000_000)
    record = replace(full_record("large"), video_bytes=None)
    tracemalloc.start()
    write_tar(tmp_path / "a.tar", [record], {"large": tmp_path / "large.mp4"})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "a.tar").stat().st_size > 300_000_000
    assert peak < 20_000_000
    with pytest.raises(ValueError, match="large holds no video and none was given"):
        write_tar(tmp_path / "b.tar", [record], {})
    assert not (tmp_path / "b.tar").exists()


def test_records_of_a_tar_are_found_by_their_headers(tmp_path):
    records = [full_record(f"v{index}", num_bytes=1001 * (index + 1)) for index in range(5)]
    write_tar(tmp_path / "a.tar", records, {})
    content = (tmp_path / "a.tar").read_bytes()
    places = list(scan_tar(io.BytesIO(content)))
    assert [start for start, _ in places[1:]] == [end for _, end in places[:-1]]
    for (start, end), record in zip(places, records, strict=True):
        assert list(read_tar(io.BytesIO(content[start:end]))) == [record]
    names = [record.video_id for record in read_tar(io.BytesIO(content), with_video=False)]
    assert names == [record.video_id for record in records]


def test_damaged_and_hostile_tars(tmp_path):
    write_tar(tmp_path / "a.tar", [full_record("v0", num_bytes=5001)], {})
    whole = (tmp_path / "a.tar").read_bytes()
    end = next(iter(scan_tar(io.BytesIO(whole))))[1]
    with pytest.raises(DamagedInput, match=r"cut off inside v0.mp4, which has \d+ bytes"):
        list(read_tar(io.BytesIO(whole[: end - 900])))
    with pytest.raises(DamagedInput, match="not a plain tar"):
        list(read_tar(io.BytesIO(b"not a tar" * 100)))
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        link = tarfile.TarInfo("../escape.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        text = b"[1, 2]"
        member = tarfile.TarInfo("/abs/v.json")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text))
    with (tmp_path / "b.tar").open("rb") as file, pytest.raises(DamagedInput, match="holds list; expected the keys"):
        list(read_tar(file))
    assert not (tmp_path.parent / "escape.json").exists()


def header(name: str, size: int, change: Callable[[bytearray], None]) -> bytes:
    """A header that was tampered with, with a corrected checksum."""
    member = tarfile.TarInfo(name)
    member.size = size
    data = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    change(data)
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("reader", [lambda file: list(read_tar(file)), lambda file: list(scan_tar(file))])
def test_headers_that_lie(reader, tmp_path):
    """A corpus can come from anyone, so its tars are read as carefully as those of other collections."""
    write_tar(tmp_path / "a.tar", [full_record("v0", num_bytes=5001), full_record("v1", num_bytes=5001)], {})
    whole = (tmp_path / "a.tar").read_bytes()
    first, second = scan_tar(io.BytesIO(whole))
    for lie in (
        b"\xff" * 512,  # `tarfile` alone mistakes it for the end: the second record would be lost silently
        header("x.mp4", 0, lambda data: data.__setitem__(slice(124, 136), (-512).to_bytes(12, "big", signed=True))),
        header("././@LongLink", 3_000_000_000, lambda data: data.__setitem__(156, ord("L"))),
        header("x.mp4", 800_000_000_000, lambda data: None),
    ):
        with pytest.raises(DamagedInput, match=r"damaged or cut off|cut off inside"):
            reader(io.BytesIO(whole[: first[1]] + lie + whole[second[0] :]))

    def sparse(data: bytearray) -> None:  # ten bytes that represent terabytes of zeros
        data[156], data[386:410], data[483:495] = ord("S"), b"%011o\0%011o\0" % (0, 10), b"%011o\0" % 7_000_000_000

    hole = header("x.mp4", 512, sparse) + bytes(512)
    assert len(reader(io.BytesIO(whole[: first[1]] + hole + whole[second[0] :]))) == 2


@pytest.mark.parametrize("wrong", [{"video": 7}, {"clips": 7}, {"clips": [7]}, {"provenance": "x"}, {"colour": 1}])
def test_a_tar_of_something_else_names_the_record(wrong):
    text = json.dumps({"video_id": "v7", "duration_s": 1.0} | wrong).encode()
    content = header("v7.json", len(text), lambda data: None) + text.ljust(512, b"\0")
    with pytest.raises(DamagedInput, match=r"'v7' is not a record: "):
        list(read_tar(io.BytesIO(content)))


@pytest.fixture(scope="module")
def webdataset(narrated_dir, tower_dir, tmp_path_factory) -> Path:
    """The narrated videos as WebDataset, one record a shard, rows drawn by seed."""
    output = tmp_path_factory.mktemp("webdataset")
    overrides = {"shards.format": "webdataset", "shards.multiple_of": 3, "shards.shuffle": True, "seed": 1}
    overrides["shards.tokenizer"] = "toy"
    recipe = load_recipe("toy", {"segment.tower": str(tower_dir), "segment.penalty": 0.01, **overrides})
    build_corpus(narrated_dir, output, recipe, workers=1, progress=False)
    build_corpus(narrated_dir, output.parent / "webdataset-again", recipe, workers=1, progress=False)
    return output


def test_webdataset_builds_are_byte_identical(webdataset):
    again = webdataset.parent / "webdataset-again"
    names = [path.relative_to(webdataset) for path in webdataset.rglob("*") if path.is_file()]
    names = [name for name in names if ".build" not in name.parts]
    assert len(names) == 3 + 1 + 1 + 4
    assert all((webdataset / name).read_bytes() == (again / name).read_bytes() for name in names)
    sums = (webdataset / "SHA256SUMS").read_text().splitlines()
    assert {line.split("  ")[1] for line in sums} == {str(name) for name in names} - {"SHA256SUMS"}


def test_webdataset_streams_without_a_script_and_its_rows_are_records(webdataset):
    rows = list(load_dataset(str(webdataset), split="train", streaming=True))
    records = [from_row(row) for row in rows]
    assert records == list(read_corpus(webdataset, "train", include_dropped=True))
    assert sorted(record.video_id for record in records) == ["video 0", "video 1", "video 2"]
    assert records[0].provenance["segment"]["tool"] == "kts"
    assert decode_clip(rows[2], 1, 5).shape == (5, 3, 64, 64)
    mapped = load_dataset(str(webdataset), split="train", cache_dir=str(webdataset.parent / "cache"))
    assert [from_row(row) for row in mapped] == records


def test_rows_come_in_the_order_of_the_seed(webdataset):
    names = [record.video_id for record in read_corpus(webdataset, "train")]
    assert names != sorted(names)  # of seed 1; one in six seeds sorts three names


def test_videos_beside_the_shards_and_tars_contradict_each_other():
    with pytest.raises(ValueError, match="webdataset embeds the videos"):
        load_recipe("laptop", {"shards.format": "webdataset"})
    with pytest.raises(ValueError, match="format is 'zip'; expected parquet or webdataset"):
        ShardSettings(embed_videos=True, format="zip")


@pytest.mark.parametrize("settings", [TAR, ShardSettings(embed_videos=True, row_group_mb=0.011)])
def test_the_index_is_what_the_shards_hold(settings, tmp_path):
    records = [full_record(f"v{index}", num_bytes=1001) for index in range(7)]
    for index, members in enumerate([records[:3], records[3:]]):
        write_shard(tmp_path / "data" / shard_name("train", index, 2, settings), members, settings)
    files = open_corpus(tmp_path)
    scanned = scan_shards(files, "train")
    assert [shard.num_rows for shard in scanned] == [3, 4]
    assert read_index(files, "train") == scanned  # without the file
    write_index(tmp_path)
    assert read_index(files, "train") == scanned
    index = json.loads((tmp_path / "shards.json").read_text())
    index["splits"]["train"][0]["num_bytes"] += 1  # from an older corpus
    for other in (json.dumps(index), "", "[]", "{}", '{"splits": 7}', '{"splits": {"train": [7]}}'):
        (tmp_path / "shards.json").write_text(other)
        assert read_index(files, "train") == scanned, "the shards are right, not a list that does not fit them"
    os.truncate(tmp_path / scanned[1].path, 700)
    with pytest.raises(ValueError, match=r"the shard data/train-00001-of-00002.* is damaged"):
        read_index(files, "train")


def test_what_is_no_corpus_is_refused(tmp_path):
    with pytest.raises(ValueError, match="neither a folder, nor an address"):
        open_corpus("nowhere")
    with pytest.raises(ValueError, match="there is no folder data/ with shards"):
        open_corpus(tmp_path)


def test_features_of_the_card_are_those_of_the_rows(webdataset):
    front = yaml.safe_load((webdataset / "README.md").read_text().split("---\n")[1])
    names = [feature["name"] for feature in front["dataset_info"]["features"]]
    assert names == ["json", "mp4", "__key__", "__url__"]


def test_the_card_of_a_build_counts_the_tokens_of_its_recipes_tokenizer(webdataset):
    count = token_counter("toy")
    clips = [clip for record in read_corpus(webdataset, "train") for clip in record.clips]
    per_document = sum(count(clip.caption) for clip in clips) / 3
    card = (webdataset / "README.md").read_text()
    assert "words per caption | tokens per document |" in card
    assert f"| train | 3 | 3.0 | 4.0 | {per_document:.1f} |" in card
