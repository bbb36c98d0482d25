"""Video-text pairs: WebVid's list with a folder, and tars."""

import json

import fsspec
import pytest

from dataset_builder import decode_clip, from_row
from dataset_builder.readers import read_summary, video_text_pairs, webvid_pairs
from tests.dataset_builder.make_videos import encode, story
from tests.dataset_builder.readers.make_collections import video, write_tar, write_webvid


def test_webvid(tmp_path):
    """Rows whose video exists become a clip each; the folder may also be flat, as after the released conversion."""
    table = write_webvid(tmp_path, 11, [0, 1, 4, 7])
    encode(tmp_path / "videos" / "1005.mp4", story(5))
    (tmp_path / "videos" / "000002_000052" / "1008.mp4").write_bytes(b"cut off")
    data = webvid_pairs(table, tmp_path / "videos", report=tmp_path / "report")
    assert data.num_shards == 64
    records = [from_row(row) for row in data]
    assert [record.video_id for record in records] == ["1000", "1001", "1004", "1005", "1007"]
    first = records[0]
    assert first.video_path == "000000_000050/1000.mp4"
    assert first.video_bytes is None
    assert [(clip.start_s, clip.end_s, clip.caption) for clip in first.clips] == [
        (0.0, 6.0, 'Scene, with comma and "quotes" 0')
    ]
    assert decode_clip(first, 0, 3, root=tmp_path / "videos").shape == (3, 3, 64, 64)
    assert read_summary(tmp_path / "report").skipped == {"missing video": 5, "damaged video": 1}


def test_webvid_behind_an_address(tmp_path):
    """Paths at an address cannot be decoded later, so the rows hold the videos."""
    table = write_webvid(tmp_path, 3, [1])
    memory = fsspec.filesystem("memory")
    memory.pipe_file(
        "/webvid/000000_000050/1001.mp4", (tmp_path / "videos" / "000000_000050" / "1001.mp4").read_bytes()
    )
    (row,) = webvid_pairs(table, "memory://webvid", num_shards=2)
    assert decode_clip(row, 0, 2).shape == (2, 3, 64, 64)


def test_a_list_that_leads_out_of_the_folder(tmp_path):
    encode(tmp_path / "secret.mp4", story(0))
    (tmp_path / "videos").mkdir()
    (tmp_path / "t.csv").write_text("videoid,contentUrl,duration,page_dir,name\nsecret,u,PT00H00M01S,..,a secret\n")
    assert list(webvid_pairs(tmp_path / "t.csv", tmp_path / "videos", report=tmp_path / "report")) == []
    assert read_summary(tmp_path / "report").skipped == {"damaged video": 1}


def test_tars(tmp_path):
    clip = video(tmp_path, 1)
    shard = write_tar(
        tmp_path / "0.tar",
        [
            ("sample000000.json", json.dumps({"videoid": 1, "name": "as CosMo converted it"}).encode()),
            ("sample000000.mp4", clip),
            ("000010.mp4", clip),
            ("000010.txt", b"as video2dataset writes it"),
            ("000010.json", b'{"caption": "not this"}'),
            ("2.mp4", b"no video"),
            ("2.txt", b"x"),
            ("3.txt", b"x"),
            ("4.mp4", clip),
        ],
    )
    records = [from_row(row) for row in video_text_pairs(shard, source="WebVid", report=tmp_path / "report")]
    assert [(record.video_id, record.clips[0].caption) for record in records] == [
        ("sample000000", "as CosMo converted it"),
        ("000010", "as video2dataset writes it"),
    ]
    assert records[0].duration_s == pytest.approx(6.0)
    assert decode_clip(records[0], 0, 2).shape == (2, 3, 64, 64)
    assert read_summary(tmp_path / "report").skipped == {"damaged video": 1, "no video": 1, "no caption": 1}
