"""What a build asks of an engine."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset_builder.inputs import SourceVideo
from dataset_builder.outcomes import Outcomes
from dataset_builder.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Work:
    """All videos of a build, and where what becomes of them is kept."""

    input_dir: Path
    output_dir: Path
    recipe: Recipe
    sources: Sequence[SourceVideo]
    keys: Sequence[str]
    """Key of every video's outcome."""
    outcomes: Outcomes
    workers: int | None
    """Processes, or ranks at a time; None leaves it to the engine."""
    progress: bool
    """Show a progress bar, where the engine has one."""

    def missing(self) -> list[int]:
        """Videos of which there is no outcome yet, by their position."""
        pairs = zip(self.keys, self.sources, strict=True)
        return [index for index, (key, source) in enumerate(pairs) if self.outcomes.load(key, source) is None]

    @property
    def state(self) -> Path:
        """The folder `.build` of the corpus."""
        return self.outcomes.state


def num_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
