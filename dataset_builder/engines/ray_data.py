"""The engine `ray-data`: the same stages as Ray Data operators, so that stages with models overlap with those without.

While GPU workers caption one batch of videos, CPU workers decode the next. What lies between two operators is a draft
(paths, times, texts, small arrays), never a video. Where no stage names a model of its own there is one operator.
"""

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from dataset_builder.draft import AT_VIDEO, Draft
from dataset_builder.engines.cluster import ClusterSettings
from dataset_builder.engines.outcome_file import save_outcome
from dataset_builder.engines.outcomes import Outcomes
from dataset_builder.engines.plan import VIDEOS_PER_RANK, RankPlan, make_plan
from dataset_builder.engines.queued import refuse_beside_jobs
from dataset_builder.engines.ray_ranks import connect_to_ray
from dataset_builder.engines.work import Work, num_processors
from dataset_builder.errors import BuildStopped
from dataset_builder.pipeline import VideoPipeline, begin, video_stages
from dataset_builder.recipe import MODEL_KEYS, Recipe


DRAFTS_PER_BATCH = 4  # few: a batch is what one worker holds while others wait for it
CPUS_BESIDE = {True: 0.5, False: 0.25}  # of a worker that decodes nothing: one that drives a GPU, one that does little
BETWEEN = pa.schema([("key", pa.string()), ("draft", pa.binary())])


@dataclass(frozen=True)
class Group:
    """Stages that run in the same worker, one after the other."""

    names: tuple[str, ...]
    on_gpu: bool


def group_stages(names: Sequence[str], recipe: Recipe) -> list[Group]:
    """The stages before the first one with a model, those up to the last one with a model, and those after it.

    The shipped toy tower does not count as a model: it is small enough for a CPU.
    """
    settings = recipe.as_dict()
    towers = lambda name: [settings[name].get(key) for key in MODEL_KEYS]
    shared = {"score": [recipe.segment.tower]} if recipe.score and recipe.score.tower is None else {}
    heavy = [
        index
        for index, name in enumerate(names)
        if any(model not in (None, "toy") for model in [*towers(name), *shared.get(name, [])])
    ]
    if not heavy:
        return [Group(tuple(names), on_gpu=False)]
    first, last = heavy[0], heavy[-1] + 1
    parts = ((names[:first], False), (names[first:last], True), (names[last:], False))
    return [Group(tuple(part), on_gpu) for part, on_gpu in parts if part]


def run_on_ray_data(work: Work, cluster: ClusterSettings, videos_per_rank: int = VIDEOS_PER_RANK) -> str:
    """Make the missing outcomes on the cluster that `RAY_ADDRESS` names, else on one that is started here.

    Raises:
        ValueError: where Ray is not installed, or no node has what a worker asks for.
        BuildStopped: where a stage failed; what is done is kept, and the next run goes on.
    """
    refuse_beside_jobs(work)
    missing = work.missing()
    if not missing:
        return ""
    connect_to_ray(cluster)
    try:
        import ray.data
    except ImportError as error:
        raise ValueError("engine ray-data needs Ray: pip install 'cosmo-vlm[ray]'") from error
    run = make_plan(work, videos_per_rank)
    groups = group_stages(list(video_stages(work.recipe)), work.recipe)
    ray.data.DataContext.get_current().enable_progress_bars = False
    cpus = [CPUS_BESIDE[group.on_gpu] if index else cluster.cpus_per_rank for index, group in enumerate(groups)]
    if sum(cpus) > ray.cluster_resources().get("CPU", 0):
        raise ValueError(f"engine ray-data needs {sum(cpus):g} CPUs for its {len(groups)} operators; use engine ray")
    stream = ray.data.from_items([{"rank": rank} for rank in range(run.num_ranks)], override_num_blocks=run.num_ranks)
    for index, group in enumerate(groups):
        position = (index == 0, index == len(groups) - 1)
        many = position[0] or group.on_gpu
        stream = stream.map_batches(
            _GroupWorker,
            fn_constructor_args=(str(run.folder), group.names, *position),
            batch_size=1 if position[0] else DRAFTS_PER_BATCH,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=(work.workers or num_processors()) if many else 1),
            num_cpus=cpus[index],
            num_gpus=cluster.gpus_per_rank if group.on_gpu else 0,
        )
    try:
        bar = tqdm(total=len(missing), desc="videos", unit="video", disable=not work.progress)
        for batch in stream.iter_batches(batch_size=None, batch_format="pyarrow"):
            bar.update(batch.num_rows)
    except ray.exceptions.RayError as error:
        said = last_words(str(error)) or type(error).__name__
        raise BuildStopped(f"Ray Data: {said}; what is done is kept, run again to go on") from error
    for rank in range(run.num_ranks):
        work.outcomes.pack(f"{run.folder.name}-{rank:05d}", run.videos(rank))
    return ""


def last_words(trace: str) -> str:
    """The error at the end of a traceback, in one line, with the video that it is about."""
    lines = trace.strip().splitlines()
    return " ".join(lines[-2:] if lines and lines[-1].startswith(AT_VIDEO) else lines[-1:])


class _GroupWorker:
    """One operator's worker: loads its stages once, then takes batch after batch.

    Args:
        run_folder: of the plan.
        names: its stages.
        is_first: its input are ranks of the plan, else drafts.
        is_last: it writes the outcomes, else it hands drafts on.
    """

    def __init__(self, run_folder: str, names: Sequence[str], is_first: bool, is_last: bool) -> None:
        from dataset_builder.engines.workers import forget_batch_shapes, quiet_loading

        forget_batch_shapes()
        import torch

        self.run = RankPlan(Path(run_folder))
        self.outcomes = Outcomes(self.run.state)
        self.is_first, self.is_last = is_first, is_last
        torch.set_num_threads(1)  # as in every worker, so that their number does not change a single bit
        with quiet_loading():
            self.pipeline = VideoPipeline(self.run.recipe, names)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """A batch, one group further on; a rank's videos leave one by one."""
        for key, draft in self._drafts(batch):
            for done in self.pipeline.go_on([draft]):  # one by one, as everywhere
                if self.is_last:
                    save_outcome(self.outcomes.path(key), done)
                row = {"key": key, "draft": b"" if self.is_last else pickle.dumps(done)}
                yield pa.Table.from_pylist([row], schema=BETWEEN)

    def _drafts(self, batch: pa.Table) -> Iterator[tuple[str, Draft]]:
        """The plan's videos that have no outcome yet, or what the worker before hands on through Ray's own memory."""
        for row in batch.to_pylist():
            if not self.is_first:
                yield row["key"], pickle.loads(row["draft"])
                continue
            for key, source in self.run.videos(row["rank"]):
                if self.outcomes.load(key, source) is None:
                    yield key, begin(source, self.run.recipe)
