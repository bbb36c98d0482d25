"""Turn the outcomes of a build into its corpus; an interrupted assembly starts over without decoding anything.

There are three steps: outcomes become drafts, with clips marked by the stages that see all videos; drafts become
shards, which replace the old ones in one move; and the folder gets its index, its list of damaged files, its card and
its checksums.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dataset_builder.atomic import put_in_place, write_whole
from dataset_builder.card import keep_common, make_card
from dataset_builder.compare.marks import CorpusStage, Drafts
from dataset_builder.corpus.output_folder import remove_leftovers, store_videos, write_checksums
from dataset_builder.corpus.shard_index import write_index
from dataset_builder.corpus.shards import ROW_BYTES, plan_shards, shard_name, write_shard
from dataset_builder.corpus.statistics import SplitStatistics, TokenCounter, total
from dataset_builder.corpus.stream_order import permutation
from dataset_builder.draft import Draft, Fault
from dataset_builder.engines.outcomes import Outcomes
from dataset_builder.engines.work import Work
from dataset_builder.inputs import SourceVideo
from dataset_builder.recipe import Recipe
from dataset_builder.schema import InterleavedVideo
from dataset_builder.stages.deduplicate import DeduplicateStage
from dataset_builder.stages.narrate import price
from dataset_builder.stages.select import SelectStage


@dataclass(frozen=True, kw_only=True)
class BuildSummary:
    """Summary of what a build wrote."""

    output_dir: str
    num_videos: Mapping[str, int]
    """Records per split."""
    num_clips: int
    num_kept_clips: int
    drop_reasons: Mapping[str, int]
    """Why clips were dropped, and how many."""
    quarantined: Sequence[Mapping[str, str]]
    """Damaged files, each `{path, reason}`, as in quarantine.jsonl."""
    up_to_date: bool = False
    """The corpus was already complete, so nothing was done."""
    exit_code: int = 0
    """0, or 3 if damaged files were found and not allowed."""
    narration: Mapping[str, float] = field(default_factory=dict)
    """What the captions took from a chat model: `requests`, `input_tokens`, `output_tokens`, and `cost` if the recipe
    has prices. Answers from the cache count like any other."""
    submitted: str = ""
    """If the build only went to a queue: what was submitted."""

    def line(self) -> str:
        """The summary in one line, with the reasons that dropped most clips."""
        if self.submitted:
            return f"{self.output_dir} {self.submitted}"
        splits = ", ".join(f"{count} {split}" for split, count in self.num_videos.items()) or "none"
        state = "up to date" if self.up_to_date else "built"
        reasons = ", ".join(f"{reason}: {count}" for reason, count in [*self.drop_reasons.items()][:3])
        return (
            f"{self.output_dir} {state}: videos {splits}; {self.num_kept_clips} of {self.num_clips} clips kept"
            + (f" (dropped: {reasons})" if reasons else "")
            + f"; {len(self.quarantined)} damaged files"
            + (" (quarantine.jsonl)" if self.quarantined else "")
            + (f"; narration {_told(self.narration)}" if self.narration else "")
        )


def assemble(work: Work, refused: Sequence[Fault], count_tokens: TokenCounter | None) -> BuildSummary:
    """Write the corpus of a build that has all its outcomes.

    Args:
        work: the build.
        refused: inputs that were refused before any stage.
        count_tokens: token counter for the card; None counts words.
    """
    remove_leftovers(work.output_dir)
    readable, drafts, faults = read_outcomes(work)
    (work.state / "state.json").unlink(missing_ok=True)  # from here on, the old corpus is being replaced
    statistics, tools = write_shards(work, readable, drafts, count_tokens)
    faults = sorted([*refused, *faults], key=lambda fault: fault.path)
    finish_folder(work.output_dir, work.recipe, statistics, tools, faults)
    whole = total(statistics.values())
    return BuildSummary(
        output_dir=str(work.output_dir),
        num_videos={split: counts.num_videos for split, counts in statistics.items()},
        num_clips=whole.num_clips,
        num_kept_clips=whole.num_kept,
        drop_reasons=dict(whole.reasons.most_common()),
        quarantined=[asdict(fault) for fault in faults],
        narration=_narration(work.recipe, whole.narration),
    )


def read_outcomes(work: Work) -> tuple[list[tuple[SourceVideo, str]], Drafts, list[Fault]]:
    """Outcomes -> drafts.

    Returns:
        The readable videos with their keys; their drafts in the same order, with the marks of the stages that see all
        videos, each read from disk on demand; and the damaged files.
    """
    readable, faults = list[tuple[SourceVideo, str]](), list[Fault]()
    for source, key in zip(work.sources, work.keys, strict=True):
        outcome = _load(work.outcomes, source, key)
        faults += outcome.faults
        readable += [] if outcome.damaged else [(source, key)]
    drafts: Drafts = SavedDrafts(work.outcomes, readable)
    for stage in corpus_stages(work.recipe):
        drafts = stage(drafts)
    return readable, drafts, faults


def corpus_stages(recipe: Recipe) -> list[CorpusStage]:
    """The stages that see all videos at once, in order."""
    stages: list[CorpusStage] = []
    if recipe.deduplicate:
        stages.append(DeduplicateStage(recipe.deduplicate, recipe.seed))
    if recipe.select:
        stages.append(SelectStage(recipe.select, recipe.seed))
    return stages


@dataclass(frozen=True)
class SavedDrafts:
    """The drafts of all readable videos, read from disk one by one as often as needed."""

    outcomes: Outcomes
    readable: Sequence[tuple[SourceVideo, str]]

    def __len__(self) -> int:
        return len(self.readable)

    def __getitem__(self, index: int, /) -> Draft:
        return _load(self.outcomes, *self.readable[index])


def _load(outcomes: Outcomes, source: SourceVideo, key: str) -> Draft:
    draft = outcomes.load(key, source)
    assert draft is not None, f"the outcome of {source.name} was there a moment ago"
    return draft


def write_shards(
    work: Work, readable: Sequence[tuple[SourceVideo, str]], drafts: Drafts, count_tokens: TokenCounter | None
) -> tuple[dict[str, SplitStatistics], dict[str, Any]]:
    """Drafts -> shards, and the videos next to them if the shards do not embed them.

    Returns:
        The statistics of each split, and the stages' facts that are the same in every record.
    """
    settings, fresh = work.recipe.shards, work.state / "data"
    statistics, tools = dict[str, SplitStatistics](), dict[str, Any]()
    shutil.rmtree(fresh, ignore_errors=True)
    for split in dict.fromkeys(source.split for source, _ in readable):
        statistics[split] = SplitStatistics()
        in_split = [index for index, (source, _) in enumerate(readable) if source.split == split]
        if settings.shuffle:
            in_split = [in_split[row] for row in permutation(len(in_split), f"{work.recipe.seed} {split}")]
        in_shards = [readable[index][0] for index in in_split] if settings.embed_videos else []
        embedded = {source.video_id: source.path for source in in_shards}
        sizes = [ROW_BYTES + readable[index][0].path.stat().st_size * settings.embed_videos for index in in_split]
        plan = plan_shards(sizes, settings.max_shard_mb, settings.multiple_of)
        for index, members in enumerate(plan):
            of_shard = (drafts[in_split[member]] for member in members)
            records = _records(of_shard, statistics[split], tools, count_tokens)
            write_shard(fresh / shard_name(split, index, len(plan), settings), records, settings, embedded)
    store_videos(work.output_dir, [] if settings.embed_videos else [source for source, _ in readable])
    fresh.mkdir(parents=True, exist_ok=True)  # if no video could be read, an empty folder replaces an older corpus
    put_in_place(fresh, work.output_dir / "data")
    return statistics, tools


def _records(
    drafts: Iterable[Draft], statistics: SplitStatistics, tools: dict[str, Any], count_tokens: TokenCounter | None
) -> Iterator[InterleavedVideo]:
    """Yield the records in order, and count them."""
    for draft in drafts:
        statistics.add(draft.record, count_tokens)
        keep_common(tools, draft.record.provenance)
        yield draft.record


def finish_folder(
    output_dir: Path,
    recipe: Recipe,
    statistics: Mapping[str, SplitStatistics],
    tools: Mapping[str, Any],
    faults: Sequence[Fault],
) -> None:
    """Folder -> index, list of damaged files, card (if there are any records) and, last, checksums of all of them."""
    write_index(output_dir)
    lines = [json.dumps(asdict(fault), ensure_ascii=False) + "\n" for fault in faults]
    write_whole(output_dir / "quarantine.jsonl", "".join(lines))
    if statistics:
        write_whole(output_dir / "README.md", make_card(recipe, statistics, tools, len(faults)))
    write_checksums(output_dir)


def _narration(recipe: Recipe, spent: Counter[str]) -> dict[str, float]:
    """Requests and tokens used for the captions, and their cost at the recipe's prices."""
    cost = price(recipe.narrate, spent) if recipe.narrate else None
    return {**spent} if cost is None else {**spent, "cost": cost}


def _told(narration: Mapping[str, float]) -> str:
    """A text such as `3 requests, 1200 input tokens, 90 output tokens, cost 0.01`."""
    counts = [f"{count:.0f} {name.replace('_', ' ')}" for name, count in narration.items() if name != "cost"]
    return ", ".join(counts + ([f"cost {narration['cost']:.4g}"] if "cost" in narration else []))
