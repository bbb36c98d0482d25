"""Records through shards and back, by our reader and by `datasets`."""

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from dataset_builder import Clip, InterleavedVideo, from_row, list_splits, read_corpus, to_row
from dataset_builder.corpus.shards import write_shard
from dataset_builder.recipe import ShardSettings


def full_record(name: str, num_bytes: int = 11) -> InterleavedVideo:
    """A record with every field set."""
    clips = (
        Clip(start_s=0.1, end_s=1.7, caption="a red star", asr="look", frame_captions=("a", "b"), similarity=0.1),
        Clip(start_s=1.7, end_s=2.9, regions=("sky",), keep=False, drop_reason="empty caption"),
    )
    return InterleavedVideo(
        video_id=name,
        video_path=f"videos/train/{name}.mp4",
        video_bytes=bytes(range(num_bytes % 256)) * (num_bytes // max(num_bytes % 256, 1)),
        duration_s=2.9,
        source="here",
        license="cc-by-4.0",
        clips=clips,
        similarity_matrix=((0.1, 0.2), (0.3, 0.4)),
        provenance={
            "segment": {"tool": "kts", "deep": {"list": [1, None, "x"]}},
            "probe": {"tool": "av", "version": "1"},
        },
    )


def test_rows_and_records_are_the_same_thing():
    record = full_record("a")
    assert from_row(to_row(record)) == record
    assert [clip.caption for clip in record.kept().clips] == ["a red star"]


def test_rows_of_some_columns_make_records_too():
    row = to_row(full_record("a"))
    record = from_row({key: row[key] for key in ("video_id", "duration_s", "clips")})
    assert (record.video_bytes, record.license, len(record.clips)) == (None, "", 2)


def test_what_is_no_row_is_refused():
    with pytest.raises(ValueError, match=r"unknown \['colour'\], missing \['duration_s'\]"):
        from_row({"video_id": "a", "colour": 1})
    with pytest.raises(ValueError, match="a clip has the keys"):
        from_row({"video_id": "a", "duration_s": 1.0, "clips": [{"start_s": 0.0}]})


@pytest.fixture
def corpus(tmp_path):
    """Seven records in three shards, two records per row group."""
    records = [full_record(f"v{index}", num_bytes=1001) for index in range(7)]
    settings = ShardSettings(embed_videos=True, row_group_mb=0.011)
    for index, members in enumerate([records[:3], records[3:6], records[6:]]):
        write_shard(tmp_path / "data" / f"train-{index:05d}-of-00003.parquet", members, settings)
    return tmp_path


def test_records_come_back_whole_and_in_order(corpus):
    expected = [full_record(f"v{index}", num_bytes=1001) for index in range(7)]
    assert list(read_corpus(corpus, "train", include_dropped=True)) == expected
    assert list(read_corpus(corpus, "train")) == [record.kept() for record in expected]
    assert list_splits(corpus) == ["train"]


def test_datasets_reads_the_same_streaming_and_map_style(corpus, tmp_path):
    expected = [to_row(full_record(f"v{index}", num_bytes=1001)) for index in range(7)]
    files = {"train": str(corpus / "data" / "*.parquet")}
    assert list(load_dataset("parquet", data_files=files, split="train", streaming=True)) == expected
    table = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert list(table) == expected


def test_filters_are_pushed_down(corpus):
    files = {"train": str(corpus / "data" / "*.parquet")}
    options = {"columns": ["video_id"], "filters": [("video_id", "==", "v4")]}
    rows = load_dataset("parquet", data_files=files, split="train", streaming=True, **options)
    assert list(rows) == [{"video_id": "v4"}]


def test_row_groups_are_small_and_carry_no_statistics_of_the_videos(corpus):
    file = pq.ParquetFile(corpus / "data" / "train-00000-of-00003.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [2, 1]
    columns = {
        file.metadata.row_group(0).column(index).path_in_schema: index for index in range(file.metadata.num_columns)
    }
    assert file.metadata.row_group(0).column(columns["video_id"]).is_stats_set
    assert not file.metadata.row_group(0).column(columns["video.bytes"]).is_stats_set


def test_a_missing_shard_or_split_is_named(corpus):
    with pytest.raises(ValueError, match=r"no shards of the split 'test' \(found splits: \['train'\]\)"):
        list(read_corpus(corpus, "test"))
    (corpus / "data" / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(ValueError, match="2 of the 3 shards of 'train'"):
        list(read_corpus(corpus, "train"))
