"""The stages of a recipe, put together. Tools are loaded once, videos come out one by one and in order.

A stage is a callable from drafts to drafts (draft.py). To add one, say `look`:

1. `look.py` holds `LookSettings` (frozen, keyword-only, a docstring under each field) and `LookStage(settings)`, with
   `__call__(self, drafts) -> Iterator[Draft]`. Most stages are `each(drafts, self._work)`, where `_work` takes one
   draft and gives a changed copy with `draft.noted("look", {"tool": ..., "version": ..., ...})`; one that batches over
   videos iterates itself and passes over drafts that are `damaged`. `DamagedInput` puts a video into quarantine, any
   other error ends the build. Its tool stands behind a small interface, and what takes seconds to import (torch,
   transformers) is imported inside `__init__`: reading a recipe imports every stage file.
2. `Recipe` (recipe.py) gets the field `look: LookSettings | None = None` at its place in the order. From then on the
   YAML may name it; keys called `tower` or `checkpoint` count as models, whose weights a rebuild depends on; other
   paths are named in PATH_KEYS, so that the card shows only their last part.
3. `make_video_stages` below gets its line. A stage that has to see all videos goes into `make_corpus_stages`: it may
   read what it is given several times, and returns a view that marks clips (marks.py), so that no corpus has to fit
   into memory.
4. Arrays that a later corpus-level stage needs travel in `Draft` and are kept beside the record (work_state.py).
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from dataset_builder.caption import CaptionStage
from dataset_builder.deduplicate import DeduplicateStage
from dataset_builder.draft import Draft, Stage
from dataset_builder.filter import FilterStage
from dataset_builder.inputs import SourceVideo
from dataset_builder.limits import ProbeStage
from dataset_builder.marks import CorpusStage
from dataset_builder.recipe import Recipe
from dataset_builder.schema import InterleavedVideo
from dataset_builder.score import ScoreStage
from dataset_builder.segment import SegmentStage
from dataset_builder.select import SelectStage
from dataset_builder.speech import SpeechStage


def make_video_stages(recipe: Recipe) -> list[Stage]:
    """The stages that see one video at a time, in order; their models are loaded here.

    Raises:
        ValueError: where a tool that the recipe names is missing or cannot be loaded.
    """
    stages: list[Stage] = [ProbeStage(recipe.probe), SegmentStage(recipe.segment, recipe.probe)]
    if recipe.speech:
        stages.append(SpeechStage(recipe.speech, recipe.segment.tower))
    if recipe.caption:
        stages.append(CaptionStage(recipe.caption, recipe.seed))
    if recipe.score:
        stages.append(ScoreStage(recipe.score, recipe.segment))
    if recipe.filter:
        stages.append(FilterStage(recipe.filter))
    return stages


def make_corpus_stages(recipe: Recipe) -> list[CorpusStage]:
    """The stages that see all videos at once, in order."""
    stages: list[CorpusStage] = []
    if recipe.deduplicate:
        stages.append(DeduplicateStage(recipe.deduplicate, recipe.seed))
    if recipe.select:
        stages.append(SelectStage(recipe.select, recipe.seed))
    return stages


class VideoPipeline:
    """Turns input videos into records by one recipe."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.stages = make_video_stages(recipe)

    def __call__(self, sources: Iterable[SourceVideo]) -> Iterator[Draft]:
        """One draft per video, in order, its record complete but for the video's bytes, or `damaged`."""
        drafts: Iterable[Draft] = map(self._begin, sources)
        for stage in self.stages:
            drafts = stage(drafts)
        for draft in drafts:
            yield replace(draft, sampled=None)

    def _begin(self, source: SourceVideo) -> Draft:
        record = InterleavedVideo(
            video_id=source.video_id,
            video_path=source.stored_path,
            duration_s=0.0,
            source=self.recipe.source,
            license=self.recipe.license,
        )
        return Draft(source=source, record=record)
