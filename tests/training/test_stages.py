import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from training.quickstart import run as quickstart
from training.quickstart.stages import PeakMemory, Stages, digest_sources, sole_user


ROOT = Path(__file__).parents[2]


class Log:
    """A pipeline of two stages that write files and note that they ran."""

    def __init__(self, folder):
        self.folder, self.ran = folder, []

    def run(self, first=1, second=1):
        stages = Stages(self.folder, lambda line: None)
        for name, setting in (("first", first), ("second", second)):
            stages.run(name, setting, [self.folder / name], lambda name=name: self.work(name))
        return stages

    def work(self, name):
        self.ran.append(name)
        (self.folder / name).write_text(name)


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path)


def test_a_finished_stage_is_skipped(log):
    log.run()
    log.run()
    assert log.ran == ["first", "second"]


@pytest.mark.parametrize(
    ("settings", "again"), [({"first": 2}, ["first", "second"]), ({"second": 2}, ["second"])], ids=["early", "late"]
)
def test_what_depends_on_a_change_runs_again(log, settings, again):
    log.run()
    log.run(**settings)
    assert log.ran[2:] == again


def test_a_lost_output_is_made_again(log):
    log.run()
    (log.folder / "second").unlink()
    log.run()
    assert log.ran[2:] == ["second"]


def test_a_stage_that_failed_runs_again(log):
    log.run()
    failing = Stages(log.folder, lambda line: None)
    failing.run("first", 1, [], lambda: None)
    with pytest.raises(OSError, match="full"):
        failing.run("second", "new", [], lambda: (_ for _ in ()).throw(OSError("disk full")))
    assert "second" not in json.loads((log.folder / "stages.json").read_text())
    log.run()
    assert log.ran[2:] == ["second"]


def test_follow_knows_what_was_made_after_what(log):
    stages = log.run()
    after_first = stages.done["first"]["key"]
    assert stages.follow("", ["first", "second"])
    assert stages.follow(after_first, ["second"])
    assert not stages.follow(after_first, ["first"])
    assert not stages.follow(stages.chain, ["third"])
    assert log.run(first=2).follow("", ["first", "second"])
    assert set(stages.seconds(["first", "second"])) == {"first", "second"}


def test_a_second_process_is_kept_out_until_the_first_ends(tmp_path):
    script = "import sys; from pathlib import Path; from training.quickstart.stages import sole_user\n"
    script += "with sole_user(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "in\n"
        with pytest.raises(ValueError, match="is in use by another process"), sole_user(tmp_path):
            pass
        first.kill()
    with sole_user(tmp_path):
        pass


def test_peak_memory_counts_children():
    script = "import sys; block = bytearray(300 * 2**20); print('full', flush=True); sys.stdin.read()"
    with PeakMemory() as alone:
        pass
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "full\n"
        with PeakMemory() as together:
            pass  # it looks once before it can be stopped
        child.stdin.close()
    assert together.peak_gib - alone.peak_gib > 0.28  # the child's block alone is 0.293 GiB


def test_digest_changes_with_a_source_only(tmp_path):
    (tmp_path / "code.py").write_text("a = 1")
    (tmp_path / "notes.txt").write_text("x")
    before = digest_sources(tmp_path)
    (tmp_path / "notes.txt").write_text("y")
    assert digest_sources(tmp_path) == before
    (tmp_path / "code.py").write_text("a = 2")
    assert digest_sources(tmp_path) != before


def test_a_model_depends_on_the_code_that_makes_it_and_its_scores(tmp_path, monkeypatch):
    """But not on the report or on publishing: an edit there does not train again."""
    for folder in ("training", "modeling_cosmo"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(quickstart, "ROOT", tmp_path)
    before = quickstart.model_sources()
    for name in ("quickstart/report.py", "publishing/checks.py"):
        (tmp_path / "training" / name).write_text("a = 1")
        assert quickstart.model_sources() == before, name
    for name in (
        "training/loop.py",
        "training/data/samples.py",
        "training/evaluation/cider.py",
        "modeling_cosmo/x.py",
    ):
        (tmp_path / name).write_text("a = 1")
        assert quickstart.model_sources() != before, name
        before = quickstart.model_sources()
