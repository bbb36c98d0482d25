"""The steps that datatrove's executors run: a rank of the plan, and the assembly after the last one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from dataset_builder.engines.plan import Run, ranks_in_words
from dataset_builder.engines.rank import run_rank_apart
from dataset_builder.engines.work import Work
from dataset_builder.errors import BuildStopped


class RankStep(PipelineStep):
    """Makes the outcomes of one rank. The executor marks the rank as complete when this returns.

    Args:
        run_folder: of the plan.
    """

    name = "videos of a rank"
    type = "cosmo"

    def __init__(self, run_folder: str) -> None:
        super().__init__()
        self.run_folder = run_folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Videos do not pass through the executor: it is told when the rank is done, and nothing else."""
        run_rank_apart(Run(Path(self.run_folder)), rank)
        yield from data or ()


class AssembleStep(PipelineStep):
    """Writes the corpus when all ranks are done.

    Args:
        build: `build_corpus`.
        run_folder: of the plan.
        input_dir: the videos.
        output_dir: the corpus.
    """

    name = "assembly"
    type = "cosmo"

    def __init__(self, build: Callable[..., Any], run_folder: str, input_dir: str, output_dir: str) -> None:
        super().__init__()
        self.build, self.run_folder, self.input_dir, self.output_dir = build, run_folder, input_dir, output_dir

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Ranks that Slurm says have ended may have failed: a missing outcome ends this with their numbers."""
        run = Run(Path(self.run_folder))
        summary = self.build(
            self.input_dir, self.output_dir, run.recipe, progress=False, engine=lambda work: _refuse_missing(work, run)
        )
        self.stats["videos"].update(sum(summary.num_videos.values()))
        yield from data or ()


def _refuse_missing(work: Work, run: Run) -> str:
    if work.missing():
        raise BuildStopped(
            f"{ranks_in_words(run.incomplete()) or 'some videos'} not complete; submit again to redo them alone"
        )
    return ""
