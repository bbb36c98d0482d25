"""What a build asks of an engine.

An engine makes the outcomes that a build is missing (outcomes.py). All engines make the same ones, and one code puts
them together, so the corpus is the same to the byte; a recipe does not name the engine, and no key depends on it.
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
    build: Callable[..., Any]
    """`build_corpus`, which a job in a queue calls to put the corpus together when all outcomes are there."""

    def missing(self) -> list[int]:
        """Videos of which there is no outcome yet, by their position."""
        pairs = zip(self.keys, self.sources, strict=True)
        return [index for index, (key, source) in enumerate(pairs) if self.outcomes.load(key, source) is None]

    @property
    def state(self) -> Path:
        """The folder `.build` of the corpus."""
        return self.outcomes.state


Engine = Callable[[Work], str]
"""Makes the missing outcomes and returns ""; or hands the work to a queue and says so in one line."""


def num_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
