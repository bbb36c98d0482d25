"""The steps that datatrove's executors run: a rank of the plan, and the assembly after the last rank."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from dataset_builder.engines.plan import RankPlan, ranks_in_words
from dataset_builder.engines.rank import run_rank_apart
from dataset_builder.engines.work import Work
from dataset_builder.errors import BuildStopped


class RankStep(PipelineStep):
    """Makes the outcomes of one rank. The executor marks the rank as complete when `run` returns.

    Args:
        run_folder: folder of the plan.
    """

    name = "videos of a rank"
    type = "cosmo"

    def __init__(self, run_folder: str) -> None:
        super().__init__()
        self.run_folder = run_folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Run the rank. Videos do not pass through the executor, which only learns that the rank is done."""
        run_rank_apart(RankPlan(Path(self.run_folder)), rank)
        yield from data or ()


class AssembleStep(PipelineStep):
    """Writes the corpus once all ranks are done.

    Args:
        build: `build_corpus`.
        run_folder: folder of the plan.
        input_dir: the videos.
        output_dir: the corpus.
    """

    name = "assembly"
    type = "cosmo"

    def __init__(self, build: Callable[..., Any], run_folder: str, input_dir: str, output_dir: str) -> None:
        super().__init__()
        self.build, self.run_folder, self.input_dir, self.output_dir = build, run_folder, input_dir, output_dir

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Assemble the corpus. Ranks that ended may have failed: missing outcomes raise an error that names them."""
        plan = RankPlan(Path(self.run_folder))
        summary = self.build(
            self.input_dir,
            self.output_dir,
            plan.recipe,
            progress=False,
            engine=lambda work: _refuse_missing(work, plan),
        )
        self.stats["videos"].update(sum(summary.num_videos.values()))
        yield from data or ()


def _refuse_missing(work: Work, plan: RankPlan) -> str:
    if work.missing():
        raise BuildStopped(
            f"{ranks_in_words(plan.incomplete()) or 'some videos'} not complete; submit again to redo them alone"
        )
    return ""
