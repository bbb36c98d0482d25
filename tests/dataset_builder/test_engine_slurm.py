"""The engine `slurm`: what its job scripts ask for, and that they, run rank by rank, give the local engine's bytes.

Slurm itself is not here: `sbatch` is a script that keeps what it is given, and the test runs that as Slurm would.
"""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dataset_builder import BuildSummary, build_corpus
from dataset_builder.engines import ClusterSettings, make_engine
from dataset_builder.engines.slurm import run_on_slurm
from dataset_builder.errors import BuildStopped
from dataset_builder.recipe import Recipe
from tests.dataset_builder.engine_world import files_of, narrate, narrow_recipe
from tests.pause_point import PausePoint


pytest.importorskip("datatrove", reason="the extra cluster is not installed")
ROOT = Path(__file__).parents[2]
SBATCH = """#!/bin/bash
number=$(( $(ls "$QUEUE"/*.script 2>/dev/null | wc -l) + 1 ))
printf '%s\\n' "${@:1:$#-1}" > "$QUEUE/$number.options"
cp "${@: -1}" "$QUEUE/$number.script"
echo "Submitted batch job $number"
"""
SQUEUE = """#!/bin/bash
cat "$QUEUE/running" 2>/dev/null
"""
SCONTROL = """#!/bin/bash
echo "${@: -1}"
"""
CLUSTER = ClusterSettings(cpus_per_rank=3, memory_gb_per_cpu=5, gpus_per_rank=1, partition="big", account="us")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return narrate(tmp_path_factory.mktemp("slurm"), 9)


@pytest.fixture(scope="module")
def recipe(tower_dir) -> Recipe:
    return narrow_recipe(tower_dir)


@pytest.fixture
def queue(tmp_path, monkeypatch) -> Path:
    """Folder in which the stand-in for Slurm keeps scripts; its commands are on the path."""
    queue = tmp_path / "queue"
    (queue / "bin").mkdir(parents=True)
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scontrol", SCONTROL)):
        (queue / "bin" / name).write_text(text)
        (queue / "bin" / name).chmod(0o755)
    monkeypatch.setenv("QUEUE", str(queue))
    monkeypatch.setenv("PATH", f"{queue / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return queue


def submit(folder: Path, output: Path, recipe: Recipe, cluster: ClusterSettings = CLUSTER) -> BuildSummary:
    engine = lambda work: run_on_slurm(work, cluster, videos_per_rank=3)
    return build_corpus(folder, output, recipe, workers=2, progress=False, engine=engine)


def options(script: Path) -> dict[str, str]:
    """The options of sbatch in a job script and on the command line."""
    lines = script.read_text().splitlines() + script.with_suffix(".options").read_text().splitlines()
    found = [re.fullmatch(r"(?:#SBATCH )?--([\w-]+)(?:=(.*))?", line) for line in lines]
    return {match[1]: match[2] or "" for match in found if match}


def start(script: Path, task: int, python_path: str = str(ROOT)) -> subprocess.Popen:
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_NODELIST": "here", "PYTHONPATH": python_path}
    return subprocess.Popen(
        ["bash", str(script)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen) -> str:
    _, said = process.communicate(timeout=200)
    return said if process.returncode else ""


def test_the_scripts_ask_for_an_array_of_ranks_and_for_the_assembly_after_it(folder, recipe, queue, tmp_path):
    line = submit(folder, tmp_path / "out", recipe).line()
    assert re.search(r"submitted: ranks as job 1, assembly as job 3; logs in .*\.build/runs/\w+", line)
    ranks, assembly = options(queue / "1.script"), options(queue / "3.script")
    asked = {"array": "0-2%2", "cpus-per-task": "3", "mem-per-cpu": "5G", "gpus": "1", "partition": "big"}
    assert asked.items() <= ranks.items()
    assert ranks["account"] == "us"
    assert ranks["time"] == "24:00:00"
    assert ranks["output"].endswith("ranks/slurm_logs/%A_%a.out")
    assert "requeue" not in ranks, "a rank that fails is told, not tried again"
    assert assembly["dependency"] == "afterok:1"
    assert assembly["array"] == "0-0%2" or assembly["array"] == "0-0"
    assert assembly["kill-on-invalid-dep"] == "yes", "after a failed rank it would wait for ever"
    assert "gpus" not in assembly
    script = (queue / "1.script").read_text()
    assert f"export PATH={Path(sys.executable).parent}:$PATH" in script
    assert re.search(r"^launch_pickled_pipeline /.*/ranks/executor.pik$", script, re.MULTILINE)
    assert not (tmp_path / "out/data").exists()


def test_what_is_still_queued_is_not_submitted_twice(folder, recipe, queue, tmp_path):
    submit(folder, tmp_path / "out", recipe)
    (queue / "running").write_text("1 big cosmo-ranks\n")
    assert "still queued or running: jobs 1,3" in submit(folder, tmp_path / "out", recipe).line()
    assert not (queue / "5.script").exists()


def test_no_other_build_writes_beside_jobs_that_are_queued(folder, recipe, queue, tmp_path):
    """Ranks hold no lock: what they make must not be tidied up by a build of another recipe, or of this one here."""
    submit(folder, tmp_path / "out", recipe)
    (queue / "running").write_text("1 big cosmo-ranks\n")
    other = replace(recipe, seed=1)
    with pytest.raises(BuildStopped, match=r"another build is writing to .*out: jobs 1,3 of Slurm; wait") as refusal:
        submit(folder, tmp_path / "out", other)
    assert "\n" not in str(refusal.value)
    for engine in (make_engine("local"), make_engine("ray"), make_engine("ray-data")):
        with pytest.raises(BuildStopped, match="jobs 1,3 of Slurm"):
            build_corpus(folder, tmp_path / "out", recipe, progress=False, engine=engine)
    assert not (queue / "5.script").exists()
    (queue / "running").unlink()
    assert "submitted" in submit(folder, tmp_path / "out", other).line()


def test_a_machine_without_slurm_says_so(folder, recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="no sbatch on this machine"):
        submit(folder, tmp_path / "out", recipe)


@pytest.mark.slow
def test_a_killed_rank_alone_runs_again_and_the_corpus_is_that_of_one_process(folder, recipe, queue, tmp_path):
    """Slow: six processes import torch, one after the other."""
    output = tmp_path / "out"
    submit(folder, output, recipe)
    assert finish(start(queue / "1.script", 0)) == ""
    results = output / ".build" / "results"
    pause = PausePoint(tmp_path / "pause")
    pause.arm(r"/results/.*\.json$", after=1)
    middle = start(queue / "1.script", 1, pause.python_path)
    os.kill(pause.wait(middle), signal.SIGKILL)
    assert "rank 1: was killed by signal 9" in finish(middle)
    assert len(list(results.rglob("*.json"))) == 1, "killed in the middle"
    assert finish(start(queue / "1.script", 2)) == ""
    [run] = (output / ".build" / "runs").iterdir()
    marks = run / "ranks" / "completions"
    assert sorted(path.name for path in marks.iterdir()) == ["00000", "00002"]
    assert "rank 1 not complete; submit again to redo them alone" in finish(start(queue / "3.script", 0))

    packs = {path: path.stat().st_mtime_ns for path in (output / ".build/packs").iterdir()}
    assert "submitted: ranks as job 5, assembly as job 7" in submit(folder, output, recipe).line()
    assert options(queue / "5.script")["array"] == "0-0%2", "one rank is left"
    assert finish(start(queue / "5.script", 0)) == ""
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in packs.items()), "the others are left alone"
    assert finish(start(queue / "7.script", 0)) == ""
    build_corpus(folder, tmp_path / "undisturbed", recipe, workers=1, progress=False)
    assert files_of(output) == files_of(tmp_path / "undisturbed")
    assert submit(folder, output, recipe).up_to_date


def test_a_mark_without_outcomes_does_not_keep_its_rank_from_running(folder, recipe, queue, tmp_path):
    submit(folder, tmp_path / "out", recipe)
    [run] = (tmp_path / "out/.build/runs").iterdir()
    (run / "ranks/completions").mkdir()
    (run / "ranks/completions/00001").touch()
    submit(folder, tmp_path / "out", recipe)
    assert options(queue / "5.script")["array"] == "0-2%2"
