"""Untrusted tars: what is read, what is refused; nothing in them ever runs or is written to disk."""

import io
import pickle
import tarfile
from pathlib import Path

import pytest

from dataset_builder.errors import DamagedInput
from dataset_builder.readers.tally import Tally
from dataset_builder.readers.tar_samples import PICKLES, read_tar_samples
from tests.dataset_builder.readers.make_collections import write_tar


LIMITS = {"jpg": 100, "txt": 20}


def read(path: Path) -> tuple[list[tuple[str, dict[str, bytes]]], Tally]:
    tally = Tally("shard")
    return [(sample.key, sample.fields) for sample in read_tar_samples(str(path), LIMITS, tally)], tally


def test_neighbours_with_one_stem_are_a_sample(tmp_path):
    members = [("x/1.jpg", b"a"), ("x/1.txt", b"b"), ("x/1.unasked", b"c"), ("2.TXT", b"d"), ("a.b/3.seg.jpg", b"e")]
    samples, tally = read(write_tar(tmp_path / "s.tar", [*members, ("3.jpg", b""), ("2.txt", b"again")]))
    assert samples == [
        ("x/1", {"jpg": b"a", "txt": b"b"}),
        ("2", {"txt": b"d"}),
        ("3", {"jpg": b""}),
        ("2", {"txt": b"again"}),
    ]
    assert not tally.dropped


def strange(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_members_that_are_no_plain_small_files_with_good_names_are_left_out(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    names = [
        "../secret.txt",
        "/etc/passwd.txt",
        "a/../../b.txt",
        "c:\\x.txt",
        "c:/x.txt",
        "http://x/y.txt",
        "\x01.txt",
    ]
    members: list[tuple[str | tarfile.TarInfo, bytes]] = [(name, b"bad") for name in names]
    members += [
        (strange("1.txt", tarfile.SYMTYPE, "secret.txt"), b""),
        (strange("2.txt", tarfile.LNKTYPE, "../secret.txt"), b""),
        (strange("3.txt", tarfile.CHRTYPE), b""),
        (strange("4.txt", tarfile.FIFOTYPE), b""),
        (strange("folder.txt", tarfile.DIRTYPE), b""),
        ("5.txt", b"x" * 21),
        ("6.txt", b"good"),
        ("6.txt", b"repeated"),
    ]
    before = sorted(tmp_path.parent.rglob("*"))
    samples, tally = read(write_tar(tmp_path / "s.tar", members))
    assert samples == [("6", {"txt": b"good"})]
    assert tally.dropped == {
        "member: path leads out of the folder": 7,
        "member: not a regular file": 4,
        "member: txt larger than 20 bytes": 1,
        "member: repeated": 1,
    }
    assert sorted(tmp_path.parent.rglob("*")) == sorted([*before, tmp_path / "s.tar"])


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_no_pickle_is_ever_read(tmp_path, monkeypatch):
    mark = tmp_path / "executed"
    bait = pickle.dumps(Trap(mark))
    pickle.loads(bait)
    assert mark.exists()  # the trap works
    mark.unlink()
    members = [(f"1.{name}", bait) for name in PICKLES] + [("1.meta.pkl", bait), ("1.txt", b"good")]
    shard = write_tar(tmp_path / "s.tar", members)
    monkeypatch.setattr(pickle, "loads", None)
    monkeypatch.setattr(pickle, "load", None)
    samples, tally = read(shard)
    assert samples == [("1", {"txt": b"good"})]
    assert not mark.exists()
    assert tally.dropped == {"member: pickle, never read": len(PICKLES) + 1}


def test_a_sparse_member_is_not_inflated(tmp_path):
    """A few bytes of an old GNU header can represent terabytes of zeros."""
    info = tarfile.TarInfo("1.txt")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386 : 386 + 24] = b"%011o\0%011o\0" % (0, 10)  # a block of ten bytes at 0
    header[483 : 483 + 12] = b"%011o\0" % 7_000_000_000  # the size that it represents
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path / "s.tar"
    path.write_bytes(bytes(header) + bytes(512) + write_tar(tmp_path / "rest.tar", [("2.txt", b"good")]).read_bytes())
    samples, tally = read(path)
    assert samples == [("2", {"txt": b"good"})]
    assert tally.dropped == {"member: not a regular file": 1}


def test_a_header_that_asks_for_gigabytes_is_refused(tmp_path):
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 3_000_000_000
    path = tmp_path / "s.tar"
    path.write_bytes(write_tar(tmp_path / "good.tar", [("1.txt", b"good")]).read_bytes()[:1024] + info.tobuf())
    found = []
    with pytest.raises(DamagedInput, match="asks for 3000000000 bytes at once"):
        found.extend(read_tar_samples(str(path), LIMITS, Tally("s")))
    assert [sample.key for sample in found] == ["1"]


@pytest.mark.parametrize("fault", ["cut in content", "cut in header", "header", "text", "compressed", "empty"])
def test_a_damaged_tar_gives_what_lies_before_the_damage(fault, tmp_path):
    whole = write_tar(
        tmp_path / "w.tar", [("1.txt", b"first"), ("2.jpg", b"x" * 90), ("3.txt", b"third")]
    ).read_bytes()
    data, expected = {
        "cut in content": (whole[: 3 * 512 + 9], ["1"]),
        "cut in header": (whole[: 4 * 512 + 100], ["1", "2"]),
        "header": (whole[: 2 * 512] + b"\xff" * 512 + whole[3 * 512 :], ["1"]),
        "text": (b"no tar at all" * 99, []),
        "compressed": (gzipped(whole), []),
        "empty": (b"", []),
    }[fault]
    (tmp_path / "s.tar").write_bytes(data)
    found = []
    with pytest.raises(DamagedInput, match=r"not a plain tar, or damaged or cut off|cut off inside 2\.jpg"):
        found.extend(read_tar_samples(str(tmp_path / "s.tar"), LIMITS, Tally("s")))
    assert [sample.key for sample in found] == expected


def gzipped(data: bytes) -> bytes:
    import gzip

    return gzip.compress(data)


@pytest.mark.timeout(20)
def test_sizes_below_zero_do_not_loop(tmp_path):
    """Base-256 numbers in a GNU header may be negative: with -512, the next header is this one again."""
    header = bytearray(tarfile.TarInfo("2.txt").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (-512).to_bytes(12, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    good = write_tar(tmp_path / "good.tar", [("1.txt", b"good")]).read_bytes()[:1024]
    (tmp_path / "s.tar").write_bytes(good + bytes(header) + bytes(1024))
    found = []
    with pytest.raises(DamagedInput):
        found.extend(read_tar_samples(str(tmp_path / "s.tar"), LIMITS, Tally("s")))
    assert [sample.key for sample in found] == ["1"]


def test_members_nobody_asked_for_are_jumped_over(tmp_path):
    shard = write_tar(tmp_path / "s.tar", [("1.mp4", bytes(5_000_000)), ("1.txt", b"good")])

    class Watched(io.FileIO):
        num_bytes = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            Watched.num_bytes += len(data)
            return data

    from dataset_builder.readers import tar_samples

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tar_samples.fsspec, "open", lambda url, mode: Watched(url))
        samples, _ = read(shard)
    assert samples == [("1", {"txt": b"good"})]
    assert Watched.num_bytes < 10_000
