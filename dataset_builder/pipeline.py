"""Chain the stages of a recipe. Tools are loaded once; videos come out one by one and in order.

A stage is a callable from drafts to drafts (draft.py). To add one, say `look`:

1. In `stages/look.py`, write `LookSettings` (frozen, keyword-only, a docstring under each field) and
   `LookStage(settings)`, with `__call__(self, drafts) -> Iterator[Draft]`. Most stages are `each(drafts, self._work)`,
   where `_work` takes one draft and returns a changed copy with
   `draft.noted("look", {"tool": ..., "version": ..., ...})`; a stage that batches over videos iterates itself and
   skips drafts that are `damaged`. `DamagedInput` quarantines a video; any other error ends the build. Give its tool a
   small interface, and import what takes seconds to import (torch, transformers) inside `__init__`, because reading a
   recipe imports every stage file.
2. In `Recipe` (recipe.py), add the field `look: LookSettings | None = None` at its position in the order. The YAML can
   then name it. Keys called `tower` or `checkpoint` count as models, whose weights a rebuild depends on; add other
   paths to PATH_KEYS, so that the card shows only their last part.
3. In `video_stages` below, add its line. A stage that has to see all videos goes into `corpus_stages` (assemble.py):
   it may read its input several times, and returns a view that marks clips (compare/marks.py), so that a corpus need
   not fit into memory.
4. If a later corpus-level stage needs arrays, put them into `Draft` and save them with the record
   (engines/outcome_file.py).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from dataset_builder.draft import Draft
from dataset_builder.inputs import SourceVideo
from dataset_builder.recipe import Recipe
from dataset_builder.schema import InterleavedVideo
from dataset_builder.stages.caption import CaptionStage
from dataset_builder.stages.filter import FilterStage
from dataset_builder.stages.look import LookStage
from dataset_builder.stages.narrate import NarrateStage
from dataset_builder.stages.probe import ProbeStage
from dataset_builder.stages.score import ScoreStage
from dataset_builder.stages.segment import SegmentStage
from dataset_builder.stages.speech import SpeechStage


def video_stages(recipe: Recipe) -> dict[str, partial[Any]]:
    """Factories of the stages that see one video at a time, by their names in the recipe, in order.

    Calling a value makes the `Stage` and loads its models, so an engine can make some stages in one process and others
    elsewhere; it raises `ValueError` if a tool that the recipe names is missing or cannot be loaded. Its class tells
    which file the stage is in (fingerprint.py).
    """
    stages: dict[str, partial[Any]] = {
        "probe": partial(ProbeStage, recipe.probe),
        "segment": partial(SegmentStage, recipe.segment, recipe.probe),
    }
    if recipe.speech:
        stages["speech"] = partial(SpeechStage, recipe.speech, recipe.segment.tower)
    if recipe.look:
        stages["look"] = partial(LookStage, recipe.look)
    if recipe.caption:
        stages["caption"] = partial(CaptionStage, recipe.caption, recipe.seed)
    if recipe.narrate:
        stages["narrate"] = partial(NarrateStage, recipe.narrate)
    if recipe.score:
        stages["score"] = partial(ScoreStage, recipe.score, recipe.segment)
    if recipe.filter:
        stages["filter"] = partial(FilterStage, recipe.filter)
    return stages


class VideoPipeline:
    """Turns input videos into records by one recipe; loads the models.

    Args:
        recipe: the stages and their settings.
        names: stages to run; None runs all of them.

    Raises:
        ValueError: if a tool that the recipe names is missing or cannot be loaded.
    """

    def __init__(self, recipe: Recipe, names: Sequence[str] | None = None) -> None:
        self.recipe = recipe
        self.stages = [make() for name, make in video_stages(recipe).items() if names is None or name in names]

    def __call__(self, sources: Iterable[SourceVideo]) -> Iterator[Draft]:
        """One draft per video, in order: either `damaged`, or with a record that lacks only the video's bytes."""
        for draft in self.go_on(begin(source, self.recipe) for source in sources):
            yield replace(draft, sampled=None)

    def go_on(self, drafts: Iterable[Draft]) -> Iterator[Draft]:
        """The same videos after these stages."""
        for stage in self.stages:
            drafts = stage(drafts)
        yield from drafts


def begin(source: SourceVideo, recipe: Recipe) -> Draft:
    """The draft of a video before its first stage."""
    record = InterleavedVideo(
        video_id=source.video_id,
        video_path=source.stored_path,
        duration_s=0.0,
        source=recipe.source,
        license=recipe.license,
    )
    return Draft(source=source, record=record)
