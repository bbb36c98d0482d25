"""Image-text pairs in the layouts of img2dataset and of the Hub."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_builder.readers import decode_image, from_document_row, image_text_pairs, read_summary
from tests.dataset_builder.readers.make_collections import picture, write_img2dataset, write_tar


def test_a_folder_of_img2dataset(tmp_path):
    """The tars are read; the Parquet and JSON files of metadata next to them are not."""
    keys = write_img2dataset(tmp_path, [3, 2])
    rows = list(image_text_pairs(tmp_path, source="CC3M"))
    documents = [from_document_row(row) for row in rows]
    assert [document.document_id for document in documents] == keys
    assert documents[4].chunks() == ("", [(picture(5), f"picture {keys[4]}")])
    assert documents[4].source == "CC3M"
    assert decode_image(documents[4].images[0] or b"").shape == (3, 7, 13)


def test_other_members_and_what_is_left_out(tmp_path):
    shard = write_tar(
        tmp_path / "0.tar",
        [
            ("1.png", picture(1, "PNG")),
            ("1.json", json.dumps({"caption": "from json"}).encode()),
            ("2.webp", picture(2, "WEBP")),
            ("2.txt", b"  from txt  "),
            ("2.json", json.dumps({"caption": "not this"}).encode()),
            ("3.jpg", picture(3)),
            ("4.txt", b"alone"),
            ("5.jpg", b"GIF89a broken"),
            ("5.txt", b"broken"),
            ("6.jpg", picture(6)),
            ("6.txt", b" \n"),
            ("7.jpg", picture(7)),
            ("7.json", b"{broken"),
            ("8.jpg", picture(8)),
            ("8.json", b"[1]"),
        ],
    )
    rows = list(image_text_pairs(shard, report=tmp_path / "report"))
    assert [from_document_row(row).chunks()[1][0][1] for row in rows] == ["from json", "from txt"]
    summary = read_summary(tmp_path / "report")
    assert summary.num_samples == 2
    assert summary.skipped == {"no caption": 4, "no image": 1, "damaged image": 1}
    assert str(summary).startswith("1 shards: 2 samples; skipped 6 (4 no caption, 1 ")


@pytest.mark.parametrize("layout", ["img2dataset", "hub", "uid"])
def test_parquet(layout, tmp_path):
    pictures = [picture(number) for number in range(5)]
    captions = [f"caption {number}" for number in range(5)]
    table = {
        "img2dataset": {
            "key": ["00000000", "00000001", "00000002", "00000003", "00000004"],
            "url": ["u"] * 5,
            "status": ["success"] * 2 + ["failed_to_download"] + ["success"] * 2,
            "txt": [*captions[:2], None, *captions[3:]],
            "jpg": [*pictures[:2], None, *pictures[3:]],
        },
        "hub": {
            "image": [{"bytes": data, "path": None} for data in pictures[:2]]
            + [None]
            + [{"bytes": data, "path": "x"} for data in pictures[3:]],
            "caption": captions,
        },
        "uid": {"image": [*pictures[:2], b"", *pictures[3:]], "text": captions, "uid": list("abcde")},
    }[layout]
    pq.write_table(pa.table(table), tmp_path / "part.parquet", row_group_size=2)
    rows = list(image_text_pairs(str(tmp_path / "*.parquet"), report=tmp_path / "report"))
    expected_ids = {
        "img2dataset": ["00000000", "00000001", "00000003", "00000004"],
        "hub": ["part/0", "part/1", "part/3", "part/4"],
        "uid": ["a", "b", "d", "e"],
    }[layout]
    assert [row["document_id"] for row in rows] == expected_ids
    assert [from_document_row(row).chunks()[1] for row in rows] == [
        [(pictures[number], captions[number])] for number in (0, 1, 3, 4)
    ]
    assert read_summary(tmp_path / "report").skipped == {"no image": 1}


def test_a_table_of_addresses_is_refused_with_what_to_do(tmp_path):
    pq.write_table(pa.table({"URL": ["u"], "TEXT": ["t"], "image": ["u"]}), tmp_path / "laion.parquet")
    with pytest.raises(ValueError, match=r"laion\.parquet has the columns .*download the pictures first"):
        list(image_text_pairs(tmp_path))


def test_captions_that_are_no_texts_are_refused(tmp_path):
    pq.write_table(pa.table({"jpg": [picture(1)], "text": [["one", "two"]]}), tmp_path / "coco.parquet")
    with pytest.raises(ValueError, match=r"coco\.parquet has the columns .* texts in one of"):
        list(image_text_pairs(tmp_path))
    words = pa.array(["one"]).dictionary_encode()  # as pandas stores categories
    pq.write_table(pa.table({"jpg": [picture(1)], "text": words}), tmp_path / "coco.parquet")
    assert len(list(image_text_pairs(tmp_path))) == 1


def test_a_text_that_is_no_utf8_is_damage(tmp_path):
    wrong = pa.array([b"ok", b"\xff\xfe"]).view(pa.string())
    pq.write_table(pa.table({"jpg": [picture(1)] * 2, "txt": wrong}), tmp_path / "0.parquet")
    assert list(image_text_pairs(tmp_path, report=tmp_path / "report")) == []
    assert read_summary(tmp_path / "report").skipped == {"rest of a damaged shard": 1}


@pytest.mark.parametrize("cut", [100, 3000])
def test_a_damaged_parquet_file_is_counted(cut, tmp_path):
    pq.write_table(pa.table({"jpg": [picture(1)] * 9, "txt": ["t"] * 9}), tmp_path / "0.parquet", compression="none")
    data = bytearray((tmp_path / "0.parquet").read_bytes())
    if cut == 100:
        data = data[:cut]
    else:
        data[4:60] = b"\xff" * 56  # the first page's header
    (tmp_path / "0.parquet").write_bytes(data)
    assert list(image_text_pairs(tmp_path, report=tmp_path / "report")) == []
    assert read_summary(tmp_path / "report").skipped == {"rest of a damaged shard": 1}


def test_no_shards_are_refused(tmp_path):
    for source in (tmp_path, tmp_path / "none.tar", [tmp_path], str(tmp_path / "*.tar")):
        with pytest.raises(ValueError, match=r"no shards in|no file or folder"):
            image_text_pairs(source)


def test_a_shard_that_vanishes_is_an_error_and_no_damage(tmp_path):
    """A shard that can be fetched again is not counted as read."""
    write_img2dataset(tmp_path, [2])
    data = image_text_pairs(tmp_path, report=tmp_path / "report")
    (tmp_path / "00000.tar").unlink()
    with pytest.raises(FileNotFoundError):
        list(data)
    assert not (tmp_path / "report").exists()


def test_shards_behind_an_address(tmp_path):
    import fsspec

    write_img2dataset(tmp_path, [3])
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/laion/00000.tar", (tmp_path / "00000.tar").read_bytes())
    memory.pipe_file("/laion/00000.parquet", (tmp_path / "00000.parquet").read_bytes())
    local = list(image_text_pairs(tmp_path))
    for source in ("memory://laion", "memory://laion/*.tar", ["memory://laion/00000.tar"]):
        assert list(image_text_pairs(source)) == local
