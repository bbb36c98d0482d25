"""Plans, ranks and packs, the parts of the cluster engines. Their corpus equals that of the local engine."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dataset_builder import build_corpus
from dataset_builder.engines import ClusterSettings, make_engine, workers
from dataset_builder.engines import rank as rank_module
from dataset_builder.engines.cluster import load_cluster
from dataset_builder.engines.outcomes import Outcomes
from dataset_builder.engines.plan import MAX_RANKS, make_plan, ranks_in_words
from dataset_builder.engines.rank import run_rank, run_rank_apart
from dataset_builder.engines.ray_data import Group, group_stages, last_words
from dataset_builder.errors import BuildStopped
from dataset_builder.pipeline import video_stages
from dataset_builder.recipe import Recipe
from dataset_builder.stages.score import ScoreSettings
from tests.dataset_builder.engine_world import files_of, narrate, narrow_recipe, planned
from tests.pause_point import PausePoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return narrate(tmp_path_factory.mktemp("engines"), 9)


@pytest.fixture(scope="module")
def recipe(tower_dir) -> Recipe:
    return narrow_recipe(tower_dir)


@pytest.fixture(scope="module")
def undisturbed(folder, recipe, tmp_path_factory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("undisturbed")
    build_corpus(folder, output, recipe, workers=1, progress=False)
    return files_of(output)


def test_ranks_share_all_videos_in_order_and_even_parts(folder, recipe, tmp_path):
    work = planned(folder, tmp_path, recipe)
    run = make_plan(work, videos_per_rank=2)
    parts = [run.videos(rank) for rank in range(run.num_ranks)]
    assert [len(part) for part in parts] == [1, 2, 2, 2, 2]
    assert [pair for part in parts for pair in part] == [
        (key, replace(source, path=source.path.absolute(), subtitles=source.subtitles.absolute()))
        for key, source in zip(work.keys, work.sources, strict=True)
    ]
    assert run.recipe == recipe
    stamp = run.video_file(0).stat().st_mtime_ns
    assert make_plan(work, videos_per_rank=2) == run
    assert run.video_file(0).stat().st_mtime_ns == stamp, "the plan that is there is kept"


def test_a_plan_holds_paths_and_no_video(folder, recipe, tmp_path):
    run = make_plan(planned(folder, tmp_path, recipe), videos_per_rank=9)
    row = pq.read_table(run.video_file(0)).to_pylist()[0]
    assert row["path"] == str(folder / "test" / "v03.mp4") or row["path"] == str(folder / "train" / "v00.mp4")
    assert run.video_file(0).stat().st_size < Path(row["path"]).stat().st_size


def test_no_plan_has_more_ranks_than_an_array_job_may_have(folder, recipe, tmp_path):
    work = planned(folder, tmp_path, recipe)
    many = replace(work, sources=[*work.sources] * 1000, keys=[f"{index:032d}" for index in range(9000)])
    run = make_plan(many, videos_per_rank=1)
    assert run.num_ranks == MAX_RANKS
    assert sum(pq.read_metadata(run.video_file(rank)).num_rows for rank in range(MAX_RANKS)) == 9000


def test_ranks_in_any_order_then_assembly_give_the_bytes_of_one_process(folder, recipe, undisturbed, tmp_path):
    run = make_plan(planned(folder, tmp_path, recipe), videos_per_rank=4)
    for rank in (2, 0, 1):
        run_rank(run, rank)
    packs = sorted((tmp_path / ".build/packs").iterdir())
    assert [path.name.rsplit("-", 1)[1] for path in packs] == ["00000.parquet", "00001.parquet", "00002.parquet"]
    assert not list((tmp_path / ".build/results").rglob("*.json")), "packed outcomes lie in one file per rank"

    def refuse(work):
        assert not work.missing(), "nothing is left to do"
        return ""

    build_corpus(folder, tmp_path, recipe, progress=False, engine=refuse)
    assert files_of(tmp_path) == undisturbed


@pytest.mark.slow
def test_a_rank_that_was_killed_goes_on_alone(folder, recipe, undisturbed, tmp_path):
    """kill -9 at the rank's second video: its next run keeps the first video; the other rank is not touched."""
    run = make_plan(planned(folder, tmp_path, recipe), videos_per_rank=5)
    run_rank(run, 1)
    other = {path: path.stat().st_mtime_ns for path in (tmp_path / ".build/packs").iterdir()}
    command = [sys.executable, "-m", "dataset_builder.engines.rank", str(run.folder), "0"]
    pause = PausePoint(tmp_path.with_name(f"{tmp_path.name}-pause"))
    pause.arm(r"/results/.*\.json$", after=1)
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": pause.python_path}) as process:
        assert pause.wait(process) == process.pid
        process.send_signal(signal.SIGKILL)
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / ".build" / "results").rglob("*.json")}
    assert len(done) == 1 < len(run.videos(0)), "killed in the middle"
    assert run.incomplete() == [0]
    made = []
    with pytest.MonkeyPatch.context() as patch:
        save = workers.save_outcome
        patch.setattr(workers, "save_outcome", lambda path, draft: (made.append(path), save(path, draft)))
        run_rank(run, 0)
    assert len(made) == len(run.videos(0)) - len(done)
    assert not {*made} & {*done}, "what was done is not done again"
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in other.items())
    build_corpus(folder, tmp_path, recipe, progress=False, workers=1)
    assert files_of(tmp_path) == undisturbed


def test_a_rank_that_fails_says_so_with_its_number(folder, recipe, tmp_path):
    run = make_plan(planned(folder, tmp_path, recipe), videos_per_rank=5)
    (run.folder / "recipe.yaml").write_text("source: nowhere\n")
    with pytest.raises(BuildStopped, match=r"^rank 1: recipe recipe: the key 'name' is missing|rank 1: .*missing"):
        run_rank_apart(run, 1)


def test_outcomes_are_found_wherever_they_lie(folder, recipe, undisturbed, tmp_path):
    """With two videos in a pack and the others as files, the local engine continues from both."""
    work = planned(folder, tmp_path / "out", recipe)
    run = make_plan(work, videos_per_rank=2)
    run_rank(run, 1)
    outcomes = Outcomes(work.state)
    found = [index for index in range(9) if outcomes.load(work.keys[index], work.sources[index])]
    assert found == [1, 2]
    build_corpus(folder, tmp_path / "out", recipe, progress=False, workers=1)
    assert files_of(tmp_path / "out") == undisturbed
    assert len(list((work.state / "packs").iterdir())) == 1
    assert len(list((work.state / "results").rglob("*.json"))) == 7
    outcomes.forget_others(work.keys[3:])
    assert not list((work.state / "packs").iterdir()), "no video of the pack is needed any more"
    assert len(list((work.state / "results").rglob("*.json"))) == 6


def test_stages_with_models_are_grouped_for_the_gpu(recipe, tower_dir):
    names = ["probe", "segment", "speech", "caption", "score", "filter"]
    assert list(video_stages(recipe)) == ["probe", "segment", "speech", "caption", "filter"]
    toy = replace(recipe, segment=replace(recipe.segment, tower="toy"))
    assert group_stages(list(video_stages(toy)), toy) == [Group(tuple(video_stages(toy)), False)]
    scored = replace(toy, score=ScoreSettings(tower=str(tower_dir)))
    assert group_stages(names, scored) == [
        Group(("probe", "segment", "speech", "caption"), False),
        Group(("score",), True),
        Group(("filter",), False),
    ]
    shared = replace(recipe, score=ScoreSettings())
    assert group_stages(names, shared)[1] == Group(("segment", "speech", "caption", "score"), True)


@pytest.mark.slow
def test_jobs_are_handed_out_a_few_at_a_time(folder, recipe, tmp_path, monkeypatch):
    """A million futures would fill the memory: only as many wait as keep the workers busy."""
    work = planned(folder, tmp_path, recipe)
    jobs = [(source, work.outcomes.path(key)) for source, key in zip(work.sources, work.keys, strict=True)]
    taken = []

    class Counted(list):
        def __iter__(self):
            for index in range(len(jobs)):
                taken.append(index)
                yield jobs[index]

    steps = workers.run_jobs(Counted(jobs), recipe, workers=2)
    next(steps)
    assert len(taken) <= 2 * workers.WAITING_PER_WORKER + 2
    assert len(list(steps)) == len(jobs) - 1
    assert not work.missing()


@pytest.mark.parametrize("damage", ["cut", "footer", "rows"])
def test_a_damaged_pack_is_made_again(folder, recipe, undisturbed, tmp_path, damage):
    """If the disk loses a pack, its videos are redone once, and no build is stuck forever."""
    run = make_plan(planned(folder, tmp_path, recipe), videos_per_rank=5)
    for rank in (0, 1):
        run_rank(run, rank)
    pack = min((tmp_path / ".build/packs").iterdir())
    data = bytearray(pack.read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "footer":
        first = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
        data[first : first + 30] = b"\xff" * 30
    else:
        outcomes = pq.ParquetFile(pack).metadata.row_group(0).column(4)
        first, length = outcomes.dictionary_page_offset, outcomes.total_compressed_size
        data[first : first + length] = b"\xff" * length
    pack.write_bytes(data)
    build_corpus(folder, tmp_path, recipe, progress=False, workers=1)
    assert files_of(tmp_path) == undisturbed


@pytest.mark.slow
def test_a_killed_worker_is_told_with_the_videos_that_were_under_way(folder, recipe, tmp_path, monkeypatch):
    """A video that always runs out of memory must be named, so that it can be removed. Two processes import torch."""
    pause = PausePoint(tmp_path.with_name(f"{tmp_path.name}-pause"))
    pause.arm(r"/results/.*\.json$", after=1)
    monkeypatch.setenv("PYTHONPATH", pause.python_path)
    work = planned(folder, tmp_path, recipe)
    jobs = [(source, work.outcomes.path(key)) for source, key in zip(work.sources, work.keys, strict=True)]
    steps = workers.run_jobs(jobs, recipe, workers=2)
    for _ in jobs[1:]:  # the other worker makes all but the one that waits
        next(steps)
    os.kill(pause.wait(), signal.SIGKILL)
    [left] = work.missing()
    with pytest.raises(BuildStopped, match=rf"at one of {work.sources[left].name}; run again"):
        list(steps)


def test_a_worker_that_cannot_load_its_models_says_why(recipe, tmp_path, monkeypatch):
    """A full GPU is a RuntimeError of torch; of workers that fail at their start, a pool says "killed"."""

    def fail(recipe):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(workers, "_loaded", [])
    monkeypatch.setattr(workers, "_end_with_parent", lambda: None)
    monkeypatch.setattr(workers, "VideoPipeline", fail)
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "")  # set by the worker, and put back
    with workers._one_thread():  # puts back what a worker sets
        workers._start_worker(recipe)
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        workers._run_in_worker((None, tmp_path / "outcome.json"))


@pytest.mark.parametrize("kind", [KeyError, RuntimeError])
def test_a_bug_in_a_rank_is_told_in_the_last_line_with_its_kind_and_video(kind, monkeypatch, capsys):
    def fail(run, rank):
        error = kind("lost")
        error.add_note("(at the video a.mp4)")
        raise error

    monkeypatch.setattr(rank_module, "run_rank", fail)
    monkeypatch.setattr(sys, "argv", ["rank", "folder", "3"])
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "")  # set by main, and put back
    with pytest.raises(SystemExit, match=rf"^{kind.__name__}: '?lost'? \(at the video a\.mp4\)$"):
        rank_module.main()
    assert "Traceback" in capsys.readouterr().err


def test_the_last_words_of_a_traceback_name_error_and_video():
    trace = "Traceback\n  File x\nValueError: no"
    assert last_words(trace) == "ValueError: no"
    assert last_words(f"{trace}\n(at the video a.mp4)\n") == "ValueError: no (at the video a.mp4)"
    assert last_words(" ") == ""


def test_engines_and_clusters_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="no engine 'spark'; expected one of local, slurm, ray, ray-data"):
        make_engine("spark")
    file = tmp_path / "cluster.yaml"
    file.write_text("gpus_per_rank: 1\npartition: big\n")
    assert load_cluster(file) == ClusterSettings(gpus_per_rank=1, partition="big")
    file.write_text("gpu_per_rank: 1\n")
    with pytest.raises(ValueError, match="unknown key 'gpu_per_rank'; did you mean 'gpus_per_rank'"):
        load_cluster(file)
    with pytest.raises(ValueError, match="gpus_per_rank is 8; expected 0 or 1"):
        ClusterSettings(gpus_per_rank=8)
    assert ranks_in_words([4]) == "rank 4"
    assert ranks_in_words([*range(15)]) == "ranks 0, 1, 2 and 12 more"
