"""Ranges of lines of a table, JSON lines in files and zips: each line once, malformed ones counted."""

import csv
import io
import json
import random
import tracemalloc
import zipfile

import pandas as pd  # type: ignore[import-untyped]
import pytest

from dataset_builder.errors import DamagedInput
from dataset_builder.readers import lines
from dataset_builder.readers.lines import parse_json, read_json_lines, read_table, split_lines
from dataset_builder.readers.tally import Tally


@pytest.mark.parametrize("num_ranges", [1, 2, 3, 7, 64, 499])
def test_every_row_lies_in_one_range(num_ranges, tmp_path, monkeypatch):
    """As pandas writes and reads the table, whatever the cuts; chunks of 11 bytes put every border inside a line."""
    monkeypatch.setattr(lines, "CHUNK_BYTES", 11)
    texts = [json.dumps([{"caption": f'say "{index}"\ttab, ü\n'}]) for index in range(13)]
    frame = pd.DataFrame({"path": [f"video {index}.mp4" for index in range(13)], "clips": texts})
    path = tmp_path / "table.tsv"
    frame.to_csv(path, sep="\t", index=False)
    tally = Tally("table")
    ranges = split_lines(str(path), num_ranges)
    assert len(ranges) == num_ranges
    rows = [row for part in ranges for _, row in read_table(part, "\t", ("path", "clips"), tally)]
    assert rows == pd.read_csv(path, sep="\t").to_dict("records")
    assert not tally.skipped


def test_malformed_lines_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_ROW_BYTES", 60)
    path = tmp_path / "table.csv"
    long_field = "x" * 61
    body = [b"1,good,1", b"2,fields", b"3,f,i,e", b"4,\xff\xfe,4", long_field.encode() + b",l,5", b"", b"6,last,6"]
    path.write_bytes("\ufeffid,word,n\r\n".encode() + b"\r\n".join(body))
    tally = Tally("table")
    found = [row for part in split_lines(str(path), 3) for _, row in read_table(part, ",", ("id",), tally)]
    assert found == [{"id": "1", "word": "good", "n": "1"}, {"id": "6", "word": "last", "n": "6"}]
    assert tally.skipped == {"malformed line": 3, "line too long": 1}
    assert tally.examples[0] == {"reason": "malformed line", "name": "byte 24", "detail": "2 fields, 3 expected"}


def test_a_field_that_goes_on_in_the_next_line_is_not_handed_out_cut(tmp_path):
    (tmp_path / "t.csv").write_text('id,word\n1,"first\nsecond"\n2,"a ""quoted"" one"\n3,5" long\n')
    tally = Tally("table")
    rows = [row for _, row in read_table(split_lines(str(tmp_path / "t.csv"), 1)[0], ",", ("id",), tally)]
    assert rows == [{"id": "2", "word": 'a "quoted" one'}, {"id": "3", "word": '5" long'}]
    assert tally.skipped == {"malformed line": 2}


def test_a_table_of_something_else_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"t\.csv has the columns \['a', 'b'\]; \['path'\] are missing"):
        list(read_table(split_lines(str(tmp_path / "t.csv"), 1)[0], ",", ("path",), Tally("t")))
    with pytest.raises(ValueError, match="no file"):
        split_lines(str(tmp_path / "u.csv"), 1)


def test_json_lines_in_a_file_and_in_a_zip(tmp_path):
    text = '{"a": 1}\n\n[2]\n{"broken"\n' + "[" * 100_000 + '\n"last"'
    plain = tmp_path / "d.jsonl"
    plain.write_text(text)
    with zipfile.ZipFile(tmp_path / "d.jsonl.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README.txt", "not this")
        archive.writestr("../d.jsonl", text)  # read in place, whatever its name
    for path in (plain, tmp_path / "d.jsonl.zip"):
        tally = Tally("d")
        assert list(read_json_lines(str(path), tally)) == [(0, {"a": 1}), (2, [2]), (5, "last")]
        assert tally.skipped == {"malformed line": 2}
    assert not (tmp_path.parent / "d.jsonl").exists()


def test_a_zip_bomb_never_fills_the_memory(tmp_path, monkeypatch):
    """A line that unpacks to 40 MB in chunks of 1 MB; no more than the limit is held in memory."""
    monkeypatch.setattr(lines, "MAX_JSON_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b.jsonl", b"0\n" + bytes(40_000_000) + b"\n1\n")
    tally = Tally("b")
    tracemalloc.start()
    try:
        assert list(read_json_lines(str(tmp_path / "b.zip"), tally)) == [(0, 0), (2, 1)]
        assert tracemalloc.get_traced_memory()[1] < 10_000_000  # a few chunks
    finally:
        tracemalloc.stop()
    assert tally.skipped == {"line too long": 1}


@pytest.mark.parametrize("fault", ["no zip", "no member", "damaged"])
def test_a_damaged_zip(fault, tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("d.txt" if fault == "no member" else "d.jsonl", "1\n" * 5000)
    data = bytearray(content.getvalue())
    if fault == "damaged":
        data[50:60] = bytes(10)
    (tmp_path / "d.zip").write_bytes(b"not a zip" if fault == "no zip" else data)
    with pytest.raises(DamagedInput, match="zip"):
        list(read_json_lines(str(tmp_path / "d.zip"), Tally("d")))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_no_damage_of_a_zip_is_an_error_of_another_kind(method, tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        archive.writestr("d\u00fc.jsonl", "".join(f"{number * number}\n" for number in range(200)))
    draw, damaged = random.Random(method), 0
    for _ in range(60):
        data = bytearray(content.getvalue())
        for _ in range(draw.choice([1, 3, 9])):
            data[draw.randrange(draw.choice([0, len(data) - 110]), len(data))] = draw.randrange(256)
        (tmp_path / "d.zip").write_bytes(data)
        try:
            list(read_json_lines(str(tmp_path / "d.zip"), Tally("d")))
        except DamagedInput:
            damaged += 1
    assert damaged > 20


def test_a_zip_that_cannot_be_reached_is_no_damage(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(read_json_lines(str(tmp_path / "d.zip"), Tally("d")))
    (tmp_path / "d.zip").mkdir()
    with pytest.raises(IsADirectoryError):
        list(read_json_lines(str(tmp_path / "d.zip"), Tally("d")))


@pytest.mark.parametrize("data", ['["a\\ud83d"]', b'["\xed\xa0\xbd"]', '{"\\uDE00": 1}'])
def test_half_of_a_surrogate_pair_is_no_text(data):
    with pytest.raises(DamagedInput, match="surrogates not allowed"):
        parse_json(data)
    assert parse_json('["\\ud83d\\ude00", "\\\\ud83d"]') == ["\U0001f600", "\\ud83d"]


def test_json_nested_beyond_measure():
    with pytest.raises(DamagedInput, match="not JSON"):
        parse_json("[" * 1_000_000)


def test_the_fields_of_a_line_may_be_large(tmp_path):
    """`csv` has its own limit on the size of a field, which malformed quoting cannot exceed either."""
    path = tmp_path / "t.tsv"
    path.write_text("path\tclips\na\t" + "x" * (csv.field_size_limit() + 1) + "\nb\tc\n")
    tally = Tally("t")
    rows = [row for _, row in read_table(split_lines(str(path), 1)[0], "\t", ("path",), tally)]
    assert rows == [{"path": "b", "clips": "c"}]
    assert tally.skipped == {"malformed line": 1}
