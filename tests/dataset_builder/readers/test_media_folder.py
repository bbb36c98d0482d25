"""Names from data stay in their folder, on disk and at an address."""

import fsspec
import pytest

from dataset_builder.errors import DamagedInput
from dataset_builder.readers.media_folder import MediaFolder, check_name


OUT = [
    "../x.mp4",
    "a/../../x.mp4",
    "/etc/passwd",
    "C:/x",
    "c:x",
    "a\\..\\x",
    "s3://b/x",
    "zip::x",
    "~/x",
    "a\0b",
]
OUT += ["", ".", "a/..", "..", "a\nb"]


@pytest.mark.parametrize("name", OUT)
def test_names_that_lead_out_are_refused(name, tmp_path):
    with pytest.raises(DamagedInput, match="path leads out of the folder"):
        check_name(name)
    for folder in (MediaFolder(str(tmp_path)), MediaFolder("memory://out")):
        with pytest.raises(DamagedInput, match="path leads out of the folder"):
            folder.read(name, 10)


@pytest.mark.parametrize("name", ["a.mp4", "b c/d.webm", "日本/ö.mp4", "a..b/...c", "./a.mp4"])
def test_other_names_are_kept(name):
    assert check_name(name) == name.removeprefix("./")


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "link.mp4").symlink_to(tmp_path / "secret")
    (tmp_path / "videos" / "inside.mp4").write_bytes(b"inside")
    (tmp_path / "videos" / "alias.mp4").symlink_to("inside.mp4")
    folder = MediaFolder(str(tmp_path / "videos"))
    with pytest.raises(DamagedInput, match="leads out"):
        folder.read("link.mp4", 99)
    assert folder.read("alias.mp4", 99) == b"inside"


def test_names_that_no_file_can_have_are_missing_or_refused(tmp_path):
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "file").write_bytes(b"")
    folder = MediaFolder(str(tmp_path))
    for name in ("x" * 300, "loop.mp4", "file/x.mp4", "x/" * 3000 + "x"):
        with pytest.raises(FileNotFoundError):
            folder.read(name, 9)
    for name in ("\ud800.mp4", "\udcff.mp4"):  # from JSON; from a tar whose names are not UTF-8
        with pytest.raises(DamagedInput, match="not UTF-8"):
            folder.read(name, 9)


def test_both_kinds_of_folder_read_alike(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.mp4").write_bytes(b"12345")
    remote = fsspec.filesystem("memory")
    remote.pipe_file("/media/a/b.mp4", b"12345")
    for folder, local in ((MediaFolder(str(tmp_path)), True), (MediaFolder("memory://media/"), False)):
        assert folder.is_local == local
        assert folder.read("a/b.mp4", 5) == b"12345"
        with pytest.raises(DamagedInput, match="file larger than 4 bytes"):
            folder.read("a/b.mp4", 4)
        with pytest.raises(FileNotFoundError):
            folder.read("a/c.mp4", 5)
