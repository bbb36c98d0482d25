"""OBELICS: published Parquet with downloaded pictures in three places, and the shards of the released training."""

import base64
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_builder.readers import from_document_row, obelics_documents, read_summary, url_hash
from tests.dataset_builder.readers.make_collections import hashed, picture, write_obelics, write_tar


URLS = [f"https://example.org/{number}.jpg?x=ü" for number in range(4)]
PAGES = [
    (["Before.", None, "Between.", None], [None, URLS[0], None, URLS[1]]),
    ([None, None, "After."], [URLS[2], URLS[3], None]),
    (["Text."], [None]),
]
NAME = "train-00003-of-01439"


@pytest.fixture
def shard(tmp_path):
    return write_obelics(tmp_path / "data" / f"{NAME}.parquet", [(images, texts) for texts, images in PAGES])


def read(source, report=None, images=None):
    return [from_document_row(row) for row in obelics_documents(source, images, report)]


def place(kind, tmp_path):
    """Pictures of URLS[0], [1] and [3] in one of the places where the reader looks."""
    folder = tmp_path / "images"
    folder.mkdir()
    if kind == "files":
        for number, suffix in ((0, ".jpg"), (1, ""), (3, ".webp")):
            (folder / f"{hashed(URLS[number])}{suffix}").write_bytes(picture(number))
    elif kind == "tar by hash":
        write_tar(folder / f"{NAME}.tar", [(f"{hashed(URLS[number])}.jpg", picture(number)) for number in (0, 1, 3)])
    else:
        members = []
        for number in (0, 1, 3):
            key = f"00003{number:04d}"
            members += [(f"{key}.jpg", picture(number)), (f"{key}.json", json.dumps({"url": URLS[number]}).encode())]
        write_tar(folder / f"{NAME}.tar", members)
    return folder


@pytest.mark.parametrize("kind", ["files", "tar by hash", "tar of img2dataset"])
def test_downloaded_pictures(kind, shard, tmp_path):
    first, second = read(shard, tmp_path / "report", place(kind, tmp_path))
    assert first.document_id == f"{NAME}/0"
    assert first.texts == ("Before.", None, "Between.", None)
    assert first.chunks() == ("Before.", [(picture(0), "Between."), (picture(1), "")])
    assert first.provenance["url"] == "https://example.org/0"
    assert second.chunks() == ("", [(picture(3), "After.")])
    summary = read_summary(tmp_path / "report")
    assert summary.skipped == {"no image left": 1}
    assert summary.dropped == {"image: missing": 1}


def test_the_name_of_a_downloaded_picture():
    assert url_hash("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1


@pytest.mark.parametrize("kind", ["bytes", "struct"])
def test_embedded_pictures(kind, tmp_path):
    images = [None, picture(5) if kind == "bytes" else {"bytes": picture(5), "path": None}]
    table = pa.table({"images": [images], "texts": [["Text.", None]]})
    pq.write_table(table, tmp_path / "a.parquet")
    (document,) = read(tmp_path)
    assert document.chunks() == ("Text.", [(picture(5), "")])


def test_the_shards_of_the_released_training(tmp_path):
    page = {
        "dataset": "obelics",
        "texts": [None, "Text.", None],
        "image_info": [base64.b64encode(picture(1)).decode(), None, base64.b64encode(b"broken").decode()],
    }
    failed = page | {"image_info": [None, None, None]}  # a picture that was not downloaded: neither of the two
    bad = [failed, page | {"texts": 7}, page | {"texts": None}, page | {"image_info": [7, None, None]}]
    facts = [page | {"general_metadata": fact} for fact in ({"url": "https://example.org"}, 7, "{", [1])]
    members = [(f"{index}.json", json.dumps(value).encode()) for index, value in enumerate([page, *bad, *facts])]
    documents = read(write_tar(tmp_path / "0.tar", [*members, ("x.json", b"{")]), tmp_path / "report")
    assert [document.document_id for document in documents] == ["0", "5", "6", "7", "8"]
    assert [document.provenance["url"] for document in documents] == [None, "https://example.org", None, None, None]
    assert {document.chunks() == ("", [(picture(1), "Text.")]) for document in documents} == {True}
    summary = read_summary(tmp_path / "report")
    assert summary.skipped == {"malformed document": 5}
    assert summary.dropped == {"image: damaged": 5}


@pytest.mark.parametrize(
    ("images", "texts"),
    [([URLS[0]], ["both"]), ([None], [None]), ([URLS[0], None], [None]), (None, ["x"])],
    ids=["both", "neither", "lengths", "null"],
)
def test_lists_that_are_not_parallel(images, texts, tmp_path):
    strings = pa.list_(pa.string())
    table = pa.Table.from_pylist(
        [{"images": images, "texts": texts}], schema=pa.schema({"images": strings, "texts": strings})
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path, tmp_path / "report") == []
    assert read_summary(tmp_path / "report").skipped == {"malformed document": 1}


def test_another_table_is_refused(tmp_path):
    pq.write_table(pa.table({"texts": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet has the columns \['texts'\]; expected images and texts"):
        read(tmp_path)


def test_a_damaged_tar_of_pictures_costs_only_what_lies_behind(shard, tmp_path):
    folder = place("tar by hash", tmp_path)
    tar = folder / f"{NAME}.tar"
    data = bytearray(tar.read_bytes())
    second = data.index(hashed(URLS[1]).encode())
    data[second : second + 512] = b"\xff" * 512
    tar.write_bytes(data)
    (document,) = read(shard, tmp_path / "report", folder)
    assert [image for image, _ in document.chunks()[1]] == [picture(0)]
    assert read_summary(tmp_path / "report").dropped == {"image: missing": 3, "tar of pictures: rest of it damaged": 1}
