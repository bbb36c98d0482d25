"""A kill never loses both the old and the new folder, and leftovers of kills are cleaned up."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dataset_builder import atomic
from dataset_builder.atomic import put_in_place, recover, replacing, replacing_folder, write_whole


KILLED_AT_EACH_STEP = """
import importlib.util, os, signal, sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("atomic", sys.argv[1])
atomic = importlib.util.module_from_spec(spec)
spec.loader.exec_module(atomic)
ON_DISK = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "shutil.rmtree"}

def replace(folder, last_step):
    \"\"\"Kills this process as it is about to touch the disk for the time `last_step`, counted from 0.\"\"\"
    steps = 0

    def watch(event, arguments):
        nonlocal steps
        if event in ON_DISK:
            if steps == last_step:
                os.kill(os.getpid(), signal.SIGKILL)
            steps += 1

    sys.addaudithook(watch)
    with atomic.replacing_folder(folder) as fresh:
        for name in ("a", "b", "deep"):
            (fresh / name).mkdir()
            (fresh / name / "file").write_text("new")

for step, killed in enumerate(iter(lambda: True, False)):
    folder = Path(sys.argv[2], str(step), "model")
    for name in ("a", "b", "c"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text("old")
    child = os.fork()
    if not child:
        replace(folder, step)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
"""
OLD, NEW = dict.fromkeys(("a", "b", "c"), "old"), dict.fromkeys(("a", "b", "deep"), "new")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def state_of(folder: Path) -> dict[str, str]:
    """Content of a folder made by the script: the text of the file in each of its folders."""
    return {path.parent.name: path.read_text() for path in folder.rglob("file")}


def test_a_folder_is_whole_wherever_its_replacement_was_killed(tmp_path):
    """Kill at each access to the disk in turn: the folder is whole under its name, or after `recover`."""
    subprocess.run([sys.executable, "-c", KILLED_AT_EACH_STEP, atomic.__file__, tmp_path], check=True, timeout=120)
    *killed, finished = sorted(tmp_path.iterdir(), key=lambda path: int(path.name))
    assert len(killed) > 25
    assert (names_in(finished), state_of(finished / "model")) == (["model"], NEW)
    before, after = [], []
    for folder in killed:
        before.append(state_of(folder / "model"))
        recover(folder)
        after.append(state_of(folder / "model"))
        assert names_in(folder) == ["model"], f"step {folder.name} leaves something"
    assert [state for state in before if state not in (OLD, NEW)] == [{}], "nothing has the name at one step alone"
    assert all(state in (OLD, NEW) for state in after)
    assert after == sorted(after, key=lambda state: state == NEW), "the old one, and from one step on the new one"
    assert OLD in after
    assert NEW in after


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "runs" / "model"
    with replacing_folder(folder) as fresh:
        (fresh / "weights").write_text("first")
        assert not folder.exists()
    with pytest.raises(RuntimeError), replacing_folder(folder) as fresh:  # noqa: PT012 - the write before the fault
        (fresh / "weights").write_text("half")
        raise RuntimeError("a fault")
    assert (folder / "weights").read_text() == "first"
    with replacing_folder(folder) as fresh:
        (fresh / "others").write_text("second")
    assert names_in(folder) == ["others"]
    assert names_in(folder.parent) == ["model"]


def test_a_folder_whose_replacement_fails_is_back_at_its_place(tmp_path, monkeypatch):
    """Ctrl-C or a disk error between the two renames; Ctrl-C is not an `Exception`."""
    folder = tmp_path / "model"
    write_whole(folder / "weights", "old")
    rename = Path.rename
    for error in (KeyboardInterrupt(), OSError("disk")):

        def fail(path: Path, target: Path, error: BaseException = error) -> Path:
            if target == folder and path.name.endswith(".tmp"):
                raise error
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", fail)
        with pytest.raises(type(error)), replacing_folder(folder) as fresh:
            (fresh / "weights").write_text("new")
        assert (folder / "weights").read_text() == "old"
        assert names_in(tmp_path) == ["model"]


def test_a_link_or_a_file_in_the_way_is_replaced_and_its_target_kept(tmp_path):
    write_whole(tmp_path / "elsewhere" / "weights", "old")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "elsewhere")
    write_whole(tmp_path / "runs" / "file", "in the way")
    for name in ("link", "file"):
        fresh = tmp_path / f"fresh-{name}"
        fresh.mkdir()
        put_in_place(fresh, tmp_path / "runs" / name)
        assert not (tmp_path / "runs" / name).is_symlink()
        assert names_in(tmp_path / "runs" / name) == []
    assert (tmp_path / "elsewhere" / "weights").read_text() == "old"
    assert names_in(tmp_path / "runs") == ["file", "link"]


def test_what_is_half_deleted_is_never_put_back(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    for name in ("a", "b"):
        write_whole(folder / name / "file", "old")
    with monkeypatch.context() as patched:
        remove = lambda path, **_: next(path.rglob("file")).unlink()
        patched.setattr(shutil, "rmtree", remove)  # as if killed at the second file
        with replacing_folder(folder) as fresh:
            (fresh / "only").mkdir()
    shutil.rmtree(folder)  # deleted by hand, to redo it
    recover(tmp_path)
    assert names_in(tmp_path) == []


def test_recover_touches_what_it_made_and_what_is_asked_for_alone(tmp_path):
    token = "0123456789abcdef"
    others = ["mine.tmp", f"x.{token}.old", ".git.old", f"model.{token}0.tmp", "model", f".file.{token}.old"]
    for name in others:
        write_whole(tmp_path / name, "mine")
    write_whole(tmp_path / f"features-a.npy.{token}.tmp", "half")
    write_whole(tmp_path / f"config.yaml.{token}.tmp", "half")
    write_whole(tmp_path / f".step-4.{token}.tmp" / "weights", "half")
    write_whole(tmp_path / f".step-6.{token}.old" / "step-6" / "weights", "whole")
    recover(tmp_path, "features-*")
    assert not list(tmp_path.glob("features-*"))
    assert (tmp_path / f"config.yaml.{token}.tmp").is_file()
    recover(tmp_path)
    assert names_in(tmp_path) == sorted([*others, "step-6"])
    recover(tmp_path / "missing")


def test_a_folder_s_name_may_be_as_long_as_the_disk_takes_it(tmp_path):
    folder = tmp_path / ("\N{CJK UNIFIED IDEOGRAPH-6599}" * 85)  # 255 bytes
    for text in ("old", "new"):
        with replacing_folder(folder) as fresh:
            (fresh / "weights").write_text(text)
    folder.rename(tmp_path / "aside")
    (tmp_path / f".{folder.name[:40]}.0123456789abcdef.old").mkdir()
    (tmp_path / "aside").rename(tmp_path / f".{folder.name[:40]}.0123456789abcdef.old" / folder.name)
    recover(tmp_path)
    assert names_in(tmp_path) == [folder.name]
    assert (folder / "weights").read_text() == "new"


def test_writers_of_one_folder_at_once_do_not_meet(tmp_path):
    with replacing_folder(tmp_path / "model") as first, replacing_folder(tmp_path / "model") as second:
        (first / "weights").write_text("first")
        (second / "weights").write_text("second")
    assert (tmp_path / "model" / "weights").read_text() == "first"  # the outermost ends last
    assert names_in(tmp_path) == ["model"]


def test_what_is_durable_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced: list[str] = []
    rename = Path.rename

    def note(opened: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{opened}").readlink()))

    def check(path: Path, target: Path) -> Path:
        if target == tmp_path / "model":
            assert {Path(name).relative_to(path).as_posix() for name in synced} == {".", "deep", "deep/weights"}
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Path, "rename", check)
    with replacing_folder(tmp_path / "model") as fresh:
        write_whole(fresh / "deep" / "weights", "x")
    with replacing(tmp_path / "shard", durable=True) as temporary:
        temporary.write_text("x")
    assert synced[-1] == str(temporary)
