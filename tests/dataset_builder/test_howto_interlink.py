"""Howto-Interlink7M in its published forms: lists with a folder of videos, map-style and streaming, and tars."""

import json
from pathlib import Path

import fsspec
import numpy as np
import pytest
from datasets import load_dataset

from dataset_builder import Clip, decode_clip, from_row
from dataset_builder.errors import DamagedInput
from dataset_builder.howto_interlink import FILES, HowtoInterlink, howto_interlink_shards, parse_clips, parse_time
from dataset_builder.readers import read_summary, save_corpus
from dataset_builder.readers.tally import Tally
from dataset_builder.schema import FEATURES
from dataset_builder.video.decode import frames_at
from tests.dataset_builder.make_videos import RATE, encode, square_frames
from tests.dataset_builder.readers.make_collections import (
    HOWTO_TRAIN,
    HOWTO_VALIDATION,
    howto_clips,
    write_howto,
    write_tar,
)
from training.data.clips import load_clips


GOOD = howto_clips(("0:00:00 - 0:00:05", 'The video opens with a "title".'), ("0:00:05 - 0:00:10", "Then\tdough."))


def write_video(path: Path, seconds: int, speed: int = 1) -> Path:
    """A square that moves 4 px per second of the original, played `speed` times as fast."""
    frames = square_frames(seconds * RATE, (220, 30, 30), 130)[::speed]
    return encode(path, frames)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name in ("food/a.mp4", "food/b c.mp4", "ö/d.mp4", "val.mp4", "e.mp4"):
        write_video(folder / name, 10)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def lists(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lists")
    rows = [
        ("food/a.mp4", GOOD),
        ("food/gone.mp4", GOOD),
        ("food/b c.mp4", howto_clips(("0:00:07 - 0:00:04", "backwards"), ("0:00:01 - 0:00:03", "forwards"))),
        ("../secret.mp4", GOOD),
        ("broken.mp4", GOOD),
        ("food/a.mp4\tthird field", GOOD),
        ("ö/d.mp4", "{not JSON"),
        ("ö/d.webm", GOOD),  # the released videos are all mp4
        ("e.mp4", howto_clips(("0:20:00 - 0:20:05", "behind the end"), ("0:00:01", "no end"))),
    ]
    write_howto(folder / HOWTO_TRAIN, rows)
    text = (folder / HOWTO_TRAIN).read_text().replace('"food/a.mp4\tthird field"', "food/a.mp4\tthird field")
    (folder / HOWTO_TRAIN).write_text(text)
    write_howto(folder / HOWTO_VALIDATION, [("val.mp4", GOOD)])
    return folder


SKIPPED = {
    "missing video": 1,
    "damaged video or refused path": 2,
    "malformed line": 1,
    "malformed clips": 1,
    "no clip left": 1,
}


def builder(lists, videos, tmp_path, config="all_clips", **settings):
    return HowtoInterlink(config, cache_dir=str(tmp_path / "cache"), annotations=lists, videos=videos, **settings)


@pytest.mark.parametrize("num_shards", [64, 4])  # many ranges without a line, and several lines in each
def test_map_style_and_streaming_give_the_same_rows_of_the_corpus_schema(num_shards, lists, videos, tmp_path):
    made = builder(lists, videos, tmp_path, num_shards=num_shards, report=tmp_path / "report")
    made.download_and_prepare(num_proc=2)
    stored = made.as_dataset()
    streamed = made.as_streaming_dataset()
    assert set(stored) == set(streamed) == {"train", "validation"}
    assert stored["train"].features == streamed["train"].features == FEATURES
    assert stored["train"].to_list() == list(streamed["train"])
    assert [row["video_id"] for row in stored["train"]] == ["food/a", "food/b c", "ö/d"]
    assert [row["video_id"] for row in stored["validation"]] == ["val"]
    record = from_row(stored["train"][0])
    assert record.clips == (
        Clip(start_s=0.0, end_s=5.0, caption='The video opens with a "title".'),
        Clip(start_s=5.0, end_s=10.0, caption="Then\tdough."),
    )
    assert record.duration_s == pytest.approx(10.0)
    assert record.source == "Howto-Interlink7M"
    assert record.video_path == "food/a.mp4"
    assert stored["train"][2]["video"]["path"] == "ö/d.mp4"
    assert decode_clip(record, 1, 3, root=videos).shape == (3, 3, 64, 64)
    list(streamed["validation"])
    expected = {"clip: malformed": 1, "clip: behind the end of the video": 1}
    for summary in (made.summary(), read_summary(tmp_path / "report")):
        assert (summary.num_samples, summary.skipped, summary.dropped) == (4, SKIPPED, expected)
        assert summary.repaired == {"clip: start not before end": 1}
    assert "6 (2 damaged video or refused path, " in str(made.summary())


def test_a_clip_that_ends_before_it_starts_is_the_two_seconds_before_its_end(lists, videos, tmp_path):
    row = list(builder(lists, videos, tmp_path).as_streaming_dataset("train"))[1]
    assert [(clip["start_s"], clip["end_s"]) for clip in row["clips"]] == [(2.0, 4.0), (1.0, 3.0)]


def test_released_videos_are_five_times_as_fast(lists, tmp_path):
    """Frames of the sped-up file at the divided times show what the original shows at the published times."""
    write_video(tmp_path / "original" / "food" / "a.mp4", 10)
    write_video(tmp_path / "fast" / "food" / "a.mp4", 10, speed=5)
    shown = {}
    for folder, speed in (("original", 1), ("fast", 5)):
        made = builder(lists, tmp_path / folder, tmp_path, video_speed=speed)
        (row,) = made.as_streaming_dataset("train")
        assert row["provenance"] == {"howto_interlink": {"config": "all_clips", "video_speed": speed}}
        assert [(clip["start_s"], clip["end_s"]) for clip in row["clips"]] == [
            (0.0, 5.0 / speed),
            (5.0 / speed, 10.0 / speed),
        ]
        shown[folder] = decode_clip(row, 1, 2, root=tmp_path / folder).astype(int)
    # 16 frames at 8 Hz represent 80: the same moment to 5 frames, so the square is within 5 px of its position
    places = {name: [frame[0, 30].argmax() for frame in frames] for name, frames in shown.items()}
    assert np.abs(np.subtract(places["original"], places["fast"])).max() <= 5
    assert places["original"][1] > places["original"][0] + 5  # this would fail at another moment


def test_a_wrong_speed_is_noticed(lists, tmp_path):
    write_video(tmp_path / "fast" / "food" / "a.mp4", 10, speed=5)
    made = builder(lists, tmp_path / "fast", tmp_path, report=tmp_path / "report")
    (row,) = made.as_streaming_dataset("train")
    assert [clip["end_s"] for clip in row["clips"]] == [pytest.approx(2.0)]
    assert read_summary(tmp_path / "report").dropped == {"clip: behind the end of the video": 1}


def test_videos_behind_an_address(lists, videos, tmp_path):
    """The rows hold the videos; lists may also be at an address."""
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/howto/food/a.mp4", (videos / "food" / "a.mp4").read_bytes())
    memory.pipe_file(f"/lists/{HOWTO_TRAIN}", (lists / HOWTO_TRAIN).read_bytes())
    data = builder("memory://lists", "memory://howto", tmp_path).as_streaming_dataset()
    assert set(data) == {"train"}
    (row,) = data["train"]
    assert row["video"]["bytes"] == (videos / "food" / "a.mp4").read_bytes()
    assert decode_clip(row, 0, 2).shape == (2, 3, 64, 64)


def test_the_published_file_names(videos, tmp_path):
    """One file name is misspelled; the corrected name works, too."""
    assert FILES["sampled_clips"]["validation"][1] == "Howto-Interlink7M_sbset_w_sampled_clips_val.tsv"
    for name in FILES["sampled_clips"]["validation"]:
        write_howto(tmp_path / name / name, [("val.mp4", GOOD)])
        data = builder(tmp_path / name, videos, tmp_path, "sampled_clips").as_streaming_dataset()
        assert [row["video_id"] for row in data["validation"]] == ["val"]


def test_lists_quoted_or_not_read_alike(videos, tmp_path):
    write_howto(tmp_path / "quoted" / HOWTO_TRAIN, [("val.mp4", howto_clips(("0:00:01 - 0:00:02", "plain")))])
    (tmp_path / "plain").mkdir()
    text = (tmp_path / "quoted" / HOWTO_TRAIN).read_text().replace('""', "'").replace('"', "").replace("'", '"')
    (tmp_path / "plain" / HOWTO_TRAIN).write_text(text)
    rows = [
        list(builder(tmp_path / name, videos, tmp_path).as_streaming_dataset("train")) for name in ("quoted", "plain")
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 1


def test_wrong_settings_are_named(lists, videos, tmp_path):
    with pytest.raises(ValueError, match="videos= is missing"):
        HowtoInterlink("all_clips", annotations=lists)
    with pytest.raises(ValueError, match=r"video_speed is 0; it must be above 0"):
        builder(lists, videos, tmp_path, video_speed=0)
    with pytest.raises(ValueError, match=r"holds none of .*all_clips_train"):
        builder(tmp_path, videos, tmp_path).as_streaming_dataset()
    with pytest.raises(ValueError, match=r"all_clips.*sampled_clips"):
        builder(lists, videos, tmp_path, "some_clips")


@pytest.mark.parametrize(
    ("text", "seconds"), [("0:00:05", 5), ("1:02:03", 3723), ("12:34:56", 45296), ("2:03.5", 123.5), ("7", 7)]
)
def test_times(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "1:2:3:4", "-1", "0:00:0x", "1 day, 0:00:01", "nan", "0::1"])
def test_what_is_no_time(text):
    with pytest.raises(DamagedInput, match=r"is not H:MM:SS"):
        parse_time(text)


@pytest.mark.parametrize("text", ["", "null", "{}", "7", "[" * 99999, None, 3])
def test_clips_that_are_no_list(text):
    with pytest.raises(DamagedInput, match=r"not (a JSON list|JSON)"):
        parse_clips(text, 1.0, 10.0, Tally("t"), "n")


def test_malformed_clips_are_dropped_and_times_stay_inside_the_video():
    tally = Tally("t")
    entries = [
        7,
        {"clip": "0:00:01 - 0:00:02"},
        {"clip": "0:00:01 - 0:00:02", "caption": " "},
        {"clip": "one - two", "caption": "x"},
        {"clip": "0:00:00 - 0:00:00", "caption": "nothing"},
        {"clip": "0:00:01 - 0:00:01", "caption": "a second ends"},
        {"clip": "0:00:08 - 0:00:12", "caption": "rounded up"},
    ]
    clips = parse_clips(json.dumps(entries), 1.0, 9.5, tally, "n")
    assert [(clip.start_s, clip.end_s, clip.caption) for clip in clips] == [
        (0.0, 1.0, "a second ends"),
        (8.0, 9.5, "rounded up"),
    ]
    assert tally.dropped == {"clip: malformed": 4, "clip: behind the end of the video": 1}
    assert tally.repaired == {"clip: start not before end": 2}


def test_the_released_tars(tmp_path):
    """`mp4` + `json`, whose `clips` are also JSON; seconds of the original, videos five times as fast."""
    fast = write_video(tmp_path / "fast.mp4", 10, speed=5).read_bytes()
    facts = json.dumps({"video_name": "a.mp4", "clips": GOOD}).encode()
    members = [
        ("000000.mp4", fast),
        ("000000.json", facts),
        ("000001.json", facts),
        ("000001.mp4", fast),
        ("000002.mp4", fast),
        ("000003.mp4", b"broken"),
        ("000003.json", facts),
        ("000004.mp4", fast),
        ("000004.json", b'{"clips": "[]"}'),
        ("000005.mp4", fast),
        ("000005.json", b"[]"),
        ("../000006.mp4", fast),
    ]
    shard = write_tar(tmp_path / "0.tar", members)
    rows = list(howto_interlink_shards(shard, report=tmp_path / "report"))
    assert [row["video_id"] for row in rows] == ["000000", "000001"]
    assert [(clip["start_s"], clip["end_s"]) for clip in rows[0]["clips"]] == [(0.0, 1.0), (1.0, 2.0)]
    assert rows[0]["provenance"] == {"howto_interlink": {"video_speed": 5.0}}
    np.testing.assert_array_equal(
        decode_clip(rows[0], 1, 1)[0], frames_at(tmp_path / "fast.mp4", [1.5])[0].transpose(2, 0, 1)
    )
    summary = read_summary(tmp_path / "report")
    assert summary.skipped == {"no json": 1, "damaged video or json": 1, "no clip left": 1, "malformed clips": 1}
    assert summary.dropped == {"member: path leads out of the folder": 1}


@pytest.mark.parametrize("embedded", [False, True])
def test_training_reads_what_is_saved_as_a_corpus(embedded, lists, videos, tmp_path):
    if embedded:
        members = [(f"{number}.mp4", (videos / "e.mp4").read_bytes()) for number in range(3)]
        both = [
            pair
            for member in members
            for pair in (member, (member[0][:-3] + "json", json.dumps({"clips": GOOD}).encode()))
        ]
        rows = howto_interlink_shards(write_tar(tmp_path / "0.tar", both), 1.0)
        count = save_corpus(rows, tmp_path / "corpus", "train", max_shard_mb=0.03)
    else:
        rows = builder(lists, videos, tmp_path).as_streaming_dataset("train")
        count = save_corpus(rows, tmp_path / "corpus", "train", videos=videos, max_shard_mb=0.009)
        assert (tmp_path / "corpus" / "videos" / "train" / "food" / "a.mp4").samefile(videos / "food" / "a.mp4")
    assert count == 3
    assert len(list((tmp_path / "corpus" / "data").iterdir())) == 2  # two records fit below the limit
    table = load_clips(tmp_path / "corpus", "train")
    assert table.num_clips == 6
    assert table.captions[0] == 'The video opens with a "title".'
    assert [frames.shape for frames in table.decode([0, 1], 3)] == [(3, 3, 64, 64)] * 2
    streamed = load_dataset(str(tmp_path / "corpus"), split="train", streaming=True)
    assert [row["video_id"] for row in streamed] == [row["video_id"] for row in rows]
    with pytest.raises(ValueError, match="no rows to write as 'train'"):
        save_corpus([], tmp_path / "corpus", "train")
    assert load_clips(tmp_path / "corpus", "train").num_clips == 6
