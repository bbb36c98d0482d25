"""The plan of a build on a cluster: which rank processes which videos, as Parquet files with paths.

A plan depends only on the inputs and the recipe, so that a second submission finds the ranks that the first one
finished. `.build/runs/KEY` holds it: `recipe.yaml`, `videos/RANK.parquet`, and the executor's logs and markers.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from dataset_builder.atomic import replacing, write_whole
from dataset_builder.engines.fingerprint import inputs_key
from dataset_builder.engines.outcomes import Outcomes
from dataset_builder.engines.work import Work
from dataset_builder.inputs import SourceVideo
from dataset_builder.recipe import Recipe, load_recipe


VIDEOS_PER_RANK = 32  # models are loaded once per rank: few enough to spread the work, enough to justify the loading
MAX_RANKS = 1000  # Slurm arrays hold 1001 tasks unless configured otherwise; larger inputs get larger ranks


@dataclass(frozen=True)
class RankPlan:
    """A plan that is stored in a folder."""

    folder: Path
    """`.build/runs/KEY`, absolute."""

    @property
    def state(self) -> Path:
        """The folder `.build`."""
        return self.folder.parent.parent

    @cached_property
    def num_ranks(self) -> int:
        """Number of ranks that share the videos."""
        return int(json.loads((self.folder / "plan.json").read_text(encoding="utf-8"))["num_ranks"])

    @property
    def recipe(self) -> Recipe:
        """The recipe at the time when the plan was made."""
        return load_recipe(self.folder / "recipe.yaml")

    def video_file(self, rank: int) -> Path:
        """The Parquet file with the videos of a rank."""
        return self.folder / "videos" / f"{rank:05d}.parquet"

    def videos(self, rank: int) -> list[tuple[str, SourceVideo]]:
        """Keys and videos of a rank, in order."""
        return [_from_row(row) for row in pq.read_table(self.video_file(rank)).to_pylist()]

    def incomplete(self) -> list[int]:
        """Ranks with videos that have no outcome yet."""
        outcomes = Outcomes(self.state)
        done = lambda rank: all(outcomes.load(key, source) for key, source in self.videos(rank))
        return [rank for rank in range(self.num_ranks) if not done(rank)]


def make_plan(work: Work, videos_per_rank: int = VIDEOS_PER_RANK) -> RankPlan:
    """Write the plan of a build, or find the existing one.

    Args:
        work: the build; its videos are split into parts of equal size, in order.
        videos_per_rank: approximate number of videos per rank; larger if there would be over `MAX_RANKS` ranks.
    """
    plan = RankPlan((work.state / "runs" / inputs_key(work.recipe, work.keys)).absolute())
    if (plan.folder / "plan.json").is_file():
        return plan
    num_videos = len(work.sources)
    num_ranks = min(MAX_RANKS, -(-num_videos // videos_per_rank))
    borders = [num_videos * rank // num_ranks for rank in range(num_ranks + 1)]
    for rank, (first, last) in enumerate(pairwise(borders)):
        rows = [_to_row(work.keys[index], work.sources[index]) for index in range(first, last)]
        with replacing(plan.video_file(rank)) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), temporary)
    write_whole(plan.folder / "recipe.yaml", yaml.safe_dump(work.recipe.as_dict(), sort_keys=False))
    write_whole(plan.folder / "plan.json", json.dumps({"num_ranks": num_ranks}))  # last: marks the plan as complete
    return plan


def ranks_in_words(ranks: Sequence[int]) -> str:
    """A text such as `rank 3` or `ranks 3, 4, 7 and 12 more`."""
    shown = ", ".join(map(str, ranks[:3])) + (f" and {len(ranks) - 3} more" if len(ranks) > 3 else "")
    return f"rank{'s' * (len(ranks) > 1)} {shown}"


_HINTS = get_type_hints(SourceVideo)
_NAMES = [item.name for item in fields(SourceVideo)]
_PATHS = [name for name in _NAMES if Path in (_HINTS[name], *get_args(_HINTS[name]))]
_SCHEMA = pa.schema([(name, pa.string()) for name in ("key", *_NAMES)])


def _to_row(key: str, source: SourceVideo) -> dict[str, str | None]:
    row: dict[str, Any] = {name: getattr(source, name) for name in _NAMES}
    return {"key": key} | row | {name: str(row[name].absolute()) for name in _PATHS if row[name] is not None}


def _from_row(row: Mapping[str, Any]) -> tuple[str, SourceVideo]:
    values = {name: row[name] for name in _NAMES}
    paths = {name: Path(values[name]) for name in _PATHS if values[name] is not None}
    return row["key"], SourceVideo(**values | paths)
