"""Only the files under a source distribution's tests are extracted, whatever else it holds."""

import io
import tarfile

import pytest

from tests.library.fetch_suite import extract_tests


def write_archive(path, names, links=()):
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
        for name, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return path


def test_nothing_but_regular_test_files_is_written(tmp_path):
    wanted = {"x-1/tests/test_a.py", "x-1/tests/models/test_b.py"}
    others = {"x-1/setup.py", "x-1/src/x/tests/test_c.py", "x-1/tests/../../escaped.py", "/x-1/tests/absolute.py"}
    links = [("x-1/tests/link.py", "/etc/passwd"), ("x-1/tests/folder", "..")]
    archive = write_archive(tmp_path / "x-1.tar.gz", wanted | others | {"x-1/tests/folder/through.py"}, links)
    extract_tests(archive, tmp_path / "out" / "suite")
    written = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*") if not path.is_dir()}
    assert written.keys() == {
        "x-1.tar.gz", "out/suite/__init__.py", "out/suite/test_a.py", "out/suite/models/test_b.py",
        "out/suite/folder/through.py",
    }  # fmt: skip
    assert written["out/suite/models/test_b.py"].read_text() == "x-1/tests/models/test_b.py"
    assert not any(path.is_symlink() for path in written.values())


def test_a_distribution_without_tests_is_refused(tmp_path):
    archive = write_archive(tmp_path / "x-1.tar.gz", ["x-1/setup.py"])
    with pytest.raises(ValueError, match=r"x-1\.tar\.gz holds no tests"):
        extract_tests(archive, tmp_path / "out")
