"""The engines `ray` and `ray-data` on a real cluster of two nodes on this machine: the bytes of the local engine."""

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from dataset_builder import build_corpus
from dataset_builder.engines import ClusterSettings
from dataset_builder.engines.plan import make_plan
from dataset_builder.engines.rank import run_rank
from dataset_builder.errors import BuildStopped
from dataset_builder.models.model_folders import TOWERS
from dataset_builder.recipe import Recipe
from dataset_builder.stages.score import ScoreSettings
from tests.dataset_builder.engine_world import command_of, files_of, narrate, narrow_recipe, planned
from tests.pause_point import PausePoint


pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    # Ray's own warnings: sockets closed late, an accelerator variable whose handling will change, moved names.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
ray = pytest.importorskip("ray", reason="the extra ray is not installed (make ray)")
CLUSTER = ClusterSettings(memory_gb_per_cpu=1)
SHIPPED = TOWERS / "clip"  # named by its folder, so that it counts as a model and gets its own operator


@pytest.fixture(scope="module")
def pause(tmp_path_factory) -> PausePoint:
    """A point at which processes of the cluster wait to be killed, once a test arms it."""
    return PausePoint(tmp_path_factory.mktemp("pause") / "point")


@pytest.fixture(scope="module")
def cluster(pause):
    """Two nodes with a worker each; nothing waits for a GPU."""
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = pause.python_path
    small = {"num_cpus": 1, "memory": 2 * 1024**3, "object_store_memory": 80 * 1024**2}
    nodes = Cluster(initialize_head=True, head_node_args=small | {"include_dashboard": False})
    nodes.add_node(**small)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="warning")
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return narrate(tmp_path_factory.mktemp("ray"), 9)


@pytest.fixture(scope="module")
def recipe(tower_dir) -> Recipe:
    return narrow_recipe(tower_dir)


def test_ranks_on_ray_give_the_bytes_of_one_process_though_one_was_killed(cluster, pause, folder, recipe, tmp_path):
    from dataset_builder.engines.ray_ranks import run_on_ray

    output, killed = tmp_path / "out", list[str]()

    def kill_one() -> None:
        child = pause.wait()
        pause.disarm()
        assert "engines.rank" in command_of(child)
        killed.append(command_of(child).split()[-1])
        os.kill(child, signal.SIGKILL)

    pause.arm(r"/results/.*\.json$", after=1)
    threading.Thread(target=kill_one, daemon=True).start()
    engine = lambda work: run_on_ray(work, CLUSTER, videos_per_rank=3)
    with pytest.raises(BuildStopped, match=r"^ranks? .* of 3 failed \(logs in .*\); run again to redo them alone$"):
        build_corpus(folder, output, recipe, workers=2, progress=False, engine=engine)
    [run] = (output / ".build" / "runs").iterdir()
    marks = sorted(path.name for path in (run / "ranks/completions").iterdir())
    assert marks == [f"{rank:05d}" for rank in range(3) if str(rank) not in killed]
    assert len(marks) == 2
    build_corpus(folder, output, recipe, workers=2, progress=False, engine=engine)
    build_corpus(folder, tmp_path / "undisturbed", recipe, workers=1, progress=False)
    assert files_of(output) == files_of(tmp_path / "undisturbed")


@pytest.mark.skipif(not (SHIPPED / "config.json").is_file(), reason="this checkout holds no toy towers")
def test_overlapping_stages_give_the_bytes_of_one_process(cluster, folder, recipe, tmp_path):
    """A stage with a model between stages without: three operators, each with its own workers."""
    from dataset_builder.engines.ray_data import run_on_ray_data

    scored = replace(recipe, segment=replace(recipe.segment, tower="toy"), score=ScoreSettings(tower=str(SHIPPED)))
    engine = lambda work: run_on_ray_data(work, CLUSTER, videos_per_rank=4)
    run_rank(make_plan(planned(folder, tmp_path / "out", scored), videos_per_rank=4), 1)  # nothing is left of this one
    build_corpus(folder, tmp_path / "out", scored, workers=1, progress=False, engine=engine)
    build_corpus(folder, tmp_path / "undisturbed", scored, workers=1, progress=False)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "undisturbed")
    assert build_corpus(folder, tmp_path / "out", scored, progress=False, engine=engine).up_to_date


def test_a_stage_that_cannot_be_loaded_is_told_in_one_line(cluster, folder, recipe, tmp_path):
    from dataset_builder.engines.ray_data import run_on_ray_data

    scored = replace(recipe, score=ScoreSettings())  # the tiny tower has no tokenizer
    engine = lambda work: run_on_ray_data(work, CLUSTER)
    with pytest.raises(BuildStopped, match=r"Ray Data: ValueError: the tower .* has no tokenizer") as refusal:
        build_corpus(folder, tmp_path / "out", scored, workers=1, progress=False, engine=engine)
    assert "\n" not in str(refusal.value)


def test_a_rank_larger_than_every_node_is_refused(cluster, folder, recipe, tmp_path):
    """Ray would wait forever for such a node."""
    from dataset_builder.engines.ray_ranks import run_on_ray

    large = ClusterSettings(gpus_per_rank=1)
    with pytest.raises(ValueError, match=r"no node of the Ray cluster has what a rank asks for .*1 GPUs"):
        build_corpus(folder, tmp_path / "out", recipe, progress=False, engine=lambda work: run_on_ray(work, large))
