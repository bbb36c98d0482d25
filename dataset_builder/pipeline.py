"""The stages of a recipe, put together. Tools are loaded once, videos come out one by one and in order.

A stage is a callable from drafts to drafts (draft.py). To add one, say `look`:

1. `stages/look.py` holds `LookSettings` (frozen, keyword-only, a docstring under each field) and
   `LookStage(settings)`, with `__call__(self, drafts) -> Iterator[Draft]`. Most stages are `each(drafts, self._work)`,
   where `_work` takes one draft and gives a changed copy with
   `draft.noted("look", {"tool": ..., "version": ..., ...})`; one that batches over videos iterates itself and passes
   over drafts that are `damaged`. `DamagedInput` puts a video into quarantine, any other error ends the build. Its
   tool has a small interface, and what takes seconds to import (torch, transformers) is imported inside `__init__`,
   because reading a recipe imports every stage file.
2. `Recipe` (recipe.py) gets the field `look: LookSettings | None = None` at its place in the order. From then on the
   YAML may name it; keys called `tower` or `checkpoint` count as models, whose weights a rebuild depends on; other
   paths are named in PATH_KEYS, so that the card shows only their last part.
3. `video_stages` below gets its line. A stage that has to see all videos goes into `corpus_stages` (assemble.py):
   it may read what it is given several times, and returns a view that marks clips (compare/marks.py), so that no
   corpus has to fit into memory.
4. Arrays that a later corpus-level stage needs travel in `Draft` and are kept beside the record
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
    """How to make the stages that see one video at a time, by their names in the recipe, in order.

    Calling a value gives the `Stage` and loads its models, so an engine may make some stages here and others
    elsewhere; it raises `ValueError` where a tool that the recipe names is missing or cannot be loaded. The class in
    it tells which file the stage is in (fingerprint.py).
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
    """Turns input videos into records by one recipe; its models are loaded here.

    Args:
        recipe: what to do.
        names: stages to run; None runs all of them.

    Raises:
        ValueError: if a tool that the recipe names is missing or cannot be loaded.
    """

    def __init__(self, recipe: Recipe, names: Sequence[str] | None = None) -> None:
        self.recipe = recipe
        self.stages = [make() for name, make in video_stages(recipe).items() if names is None or name in names]

    def __call__(self, sources: Iterable[SourceVideo]) -> Iterator[Draft]:
        """One draft per video, in order, its record complete but for the video's bytes, or `damaged`."""
        for draft in self.go_on(begin(source, self.recipe) for source in sources):
            yield replace(draft, sampled=None)

    def go_on(self, drafts: Iterable[Draft]) -> Iterator[Draft]:
        """The same videos after these stages."""
        for stage in self.stages:
            drafts = stage(drafts)
        yield from drafts


def begin(source: SourceVideo, recipe: Recipe) -> Draft:
    """A video before its first stage."""
    record = InterleavedVideo(
        video_id=source.video_id,
        video_path=source.stored_path,
        duration_s=0.0,
        source=recipe.source,
        license=recipe.license,
    )
    return Draft(source=source, record=record)
