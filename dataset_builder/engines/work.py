"""The work that a build gives to an engine.

An engine makes the outcomes that a build is missing (outcomes.py). All engines make the same outcomes, and the same
code assembles them, so the corpus is the same to the byte. Neither a recipe nor any key depends on the engine.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_builder.engines.outcomes import Outcomes
from dataset_builder.inputs import SourceVideo
from dataset_builder.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Work:
    """All videos of a build, and the store for their outcomes."""

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
    """Show a progress bar, if the engine has one."""
    build: Callable[..., Any]
    """`build_corpus`, which a job in a queue calls to assemble the corpus once all outcomes exist."""

    def missing(self) -> list[int]:
        """Indices of the videos that have no outcome yet."""
        pairs = zip(self.keys, self.sources, strict=True)
        return [index for index, (key, source) in enumerate(pairs) if self.outcomes.load(key, source) is None]

    @property
    def state(self) -> Path:
        """The folder `.build` of the corpus."""
        return self.outcomes.state


Engine = Callable[[Work], str]
"""Makes the missing outcomes and returns ""; or submits the work to a queue and returns a line that says so."""


def num_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
