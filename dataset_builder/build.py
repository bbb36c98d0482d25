"""`cosmo build`: a folder of videos becomes a corpus that streams. Interrupted anywhere, a second run goes on."""

import fcntl
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dataset_builder.atomic import write_whole
from dataset_builder.card import keep_common, make_card
from dataset_builder.compare.marks import Drafts
from dataset_builder.corpus.output_folder import (
    refuse_others_folder,
    remove_leftovers,
    replace_folder,
    store_videos,
    write_checksums,
)
from dataset_builder.corpus.shard_index import write_index
from dataset_builder.corpus.shards import ROW_BYTES, plan_shards, shard_name, write_shard
from dataset_builder.corpus.statistics import SplitStatistics, TokenCounter, token_counter, total
from dataset_builder.corpus.stream_order import permutation
from dataset_builder.draft import Draft, Fault
from dataset_builder.engines.fingerprint import assembly_fingerprint, build_fingerprint, inputs_key, video_key
from dataset_builder.engines.local import run_local
from dataset_builder.engines.outcomes import Outcomes
from dataset_builder.engines.work import Engine, Work
from dataset_builder.errors import BuildStopped
from dataset_builder.inputs import SourceVideo, find_videos, refusal, shown
from dataset_builder.pipeline import make_corpus_stages
from dataset_builder.recipe import Recipe, load_recipe
from dataset_builder.schema import InterleavedVideo
from dataset_builder.stages.narrate import price
from dataset_builder.text.collection_captions import with_captions


@dataclass(frozen=True, kw_only=True)
class BuildSummary:
    """What a build wrote."""

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
    """The corpus was there already and nothing had to be done."""
    exit_code: int = 0
    """0, or 3 where damaged files were found and not allowed."""
    narration: Mapping[str, float] = field(default_factory=dict)
    """What a chat model took for the captions: `requests`, `input_tokens`, `output_tokens`, and `cost` where the
    recipe names prices. Answers from the cache count like any other."""
    submitted: str = ""
    """Not built yet: what was handed to a queue."""

    def line(self) -> str:
        """The summary in one line, with what cost most clips."""
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


def build_corpus(
    input_dir: Path | str,
    output_dir: Path | str,
    recipe: Recipe | str | Path,
    *,
    workers: int | None = None,
    allow_quarantine: bool = False,
    progress: bool = True,
    engine: Engine = run_local,
) -> BuildSummary:
    """Turn a folder of videos into a corpus (docs/corpus.md says what lies where).

    Args:
        input_dir: videos with their subtitles beside them; folders train, validation and test make the splits.
        output_dir: the corpus; a build that was interrupted there goes on, one that is complete is left alone.
        recipe: a recipe, its shipped name, or a YAML file.
        workers: processes; None takes one per available processor.
        allow_quarantine: damaged files are no reason for exit code 3.
        progress: show a progress bar.
        engine: who runs the stages that see one video at a time (`engines.make_engine`); the corpus is the same.

    Raises:
        ValueError: for a folder without videos (or, where that is allowed, with damaged ones alone), an unknown or
            contradicting recipe, an output folder that holds something else, lies inside the input, or has the input
            among its files.
        WriteError: where the disk is full; run again to go on.
        BuildStopped: where another build writes to the same folder, or a worker was killed.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    input_dir, output_dir = Path(input_dir), Path(output_dir)
    found = find_videos(input_dir)
    sources = [source for source in found if not refusal(source)]
    refused = [Fault(path=shown(source.name), reason=refusal(source)) for source in found if refusal(source)]
    refuse_others_folder(output_dir, input_dir)
    state = output_dir / ".build"
    fingerprint = build_fingerprint(recipe)
    with _locked(state):
        if recipe.speech and recipe.speech.captions:
            sources = with_captions(sources, Path(recipe.speech.captions), state / "captions")
        keys = [video_key(fingerprint, source) for source in sources]
        faults = sorted(f"{fault.path}: {fault.reason}" for fault in refused)
        key = inputs_key(recipe, [assembly_fingerprint(), *keys, *faults])
        summary = _finished(output_dir, key)
        if summary is None:
            work = Work(
                input_dir=input_dir,
                output_dir=output_dir,
                recipe=recipe,
                sources=sources,
                keys=keys,
                outcomes=Outcomes(state),
                workers=workers,
                progress=progress,
                build=build_corpus,
            )
            tokenizer = recipe.shards.tokenizer
            count_tokens = token_counter(tokenizer) if tokenizer else None  # before any work: it may be missing
            submitted = engine(work)
            if submitted:
                return replace(NOTHING, output_dir=str(output_dir), submitted=submitted)
            work.outcomes.look_again()
            summary = _assemble(work, refused, count_tokens)
            _remember(work, key, summary)
    if allow_quarantine and not summary.num_videos:
        raise ValueError(
            f"none of the {len(found)} videos in {input_dir} can be read; see {output_dir}/quarantine.jsonl"
        )
    return replace(summary, exit_code=3 if summary.quarantined and not allow_quarantine else 0)


def _assemble(work: Work, faults: Sequence[Fault], count_tokens: TokenCounter | None) -> BuildSummary:
    """Write shards, videos, card and lists from the outcomes; the new shards replace the old ones in one move."""
    output_dir, recipe = work.output_dir, work.recipe
    faults, readable = [*faults], list[tuple[SourceVideo, str]]()
    remove_leftovers(output_dir)
    for source, key in zip(work.sources, work.keys, strict=True):
        outcome = _load(work.outcomes, source, key)
        faults += outcome.faults
        readable += [] if outcome.damaged else [(source, key)]
    drafts: Drafts = SavedDrafts(work.outcomes, readable)
    for stage in make_corpus_stages(recipe):
        drafts = stage(drafts)
    (output_dir / ".build" / "state.json").unlink(missing_ok=True)  # from here on the old corpus is being replaced
    fresh, statistics, tools = output_dir / ".build" / "data", dict[str, SplitStatistics](), dict[str, Any]()
    shutil.rmtree(fresh, ignore_errors=True)
    for split in dict.fromkeys(source.split for source, _ in readable):
        statistics[split] = SplitStatistics()
        in_split = [index for index, (source, _) in enumerate(readable) if source.split == split]
        if recipe.shards.shuffle:
            in_split = [in_split[row] for row in permutation(len(in_split), f"{recipe.seed} {split}")]
        in_shards = [readable[index][0] for index in in_split] if recipe.shards.embed_videos else []
        embedded = {source.video_id: source.path for source in in_shards}
        sizes = [ROW_BYTES + readable[index][0].path.stat().st_size * recipe.shards.embed_videos for index in in_split]
        plan = plan_shards(sizes, recipe.shards.max_shard_mb, recipe.shards.multiple_of)
        for index, members in enumerate(plan):
            of_shard = (drafts[in_split[member]] for member in members)
            records = _records(of_shard, statistics[split], tools, count_tokens)
            write_shard(fresh / shard_name(split, index, len(plan), recipe.shards), records, recipe.shards, embedded)
    stored = [] if recipe.shards.embed_videos else [source for source, _ in readable]
    store_videos(output_dir, stored)
    replace_folder(output_dir / "data", fresh)
    write_index(output_dir)
    faults = sorted(faults, key=lambda fault: fault.path)
    lines = [json.dumps(asdict(fault), ensure_ascii=False) + "\n" for fault in faults]
    write_whole(output_dir / "quarantine.jsonl", "".join(lines))
    if readable:
        write_whole(output_dir / "README.md", make_card(recipe, statistics, tools, len(faults)))
    write_checksums(output_dir)
    whole = total(statistics.values())
    reasons = whole.reasons
    return BuildSummary(
        output_dir=str(output_dir),
        num_videos={split: counts.num_videos for split, counts in statistics.items()},
        num_clips=sum(counts.num_clips for counts in statistics.values()),
        num_kept_clips=sum(counts.num_kept for counts in statistics.values()),
        drop_reasons=dict(reasons.most_common()),
        quarantined=[asdict(fault) for fault in faults],
        narration=_narration(recipe, whole.narration),
    )


def _narration(recipe: Recipe, spent: Counter[str]) -> dict[str, float]:
    """What the captions took, and what that costs by the recipe's prices."""
    cost = price(recipe.narrate, spent) if recipe.narrate else None
    return {**spent} if cost is None else {**spent, "cost": cost}


def _told(narration: Mapping[str, float]) -> str:
    """`3 requests, 1200 input tokens, 90 output tokens, cost 0.01`."""
    counts = [f"{count:.0f} {name.replace('_', ' ')}" for name, count in narration.items() if name != "cost"]
    return ", ".join(counts + ([f"cost {narration['cost']:.4g}"] if "cost" in narration else []))


NOTHING = BuildSummary(output_dir="", num_videos={}, num_clips=0, num_kept_clips=0, drop_reasons={}, quarantined=())


@dataclass(frozen=True)
class SavedDrafts:
    """What became of every readable video, read from disk one by one as often as wanted."""

    outcomes: Outcomes
    readable: Sequence[tuple[SourceVideo, str]]

    def __len__(self) -> int:
        return len(self.readable)

    def __getitem__(self, index: int, /) -> Draft:
        return _load(self.outcomes, *self.readable[index])


def _records(
    drafts: Iterable[Draft], statistics: SplitStatistics, tools: dict[str, Any], count_tokens: TokenCounter | None
) -> Iterator[InterleavedVideo]:
    """Records in order, counted on the way."""
    for draft in drafts:
        statistics.add(draft.record, count_tokens)
        keep_common(tools, draft.record.provenance)
        yield draft.record


def _remember(work: Work, key: str, summary: BuildSummary) -> None:
    """Leave the mark of a complete build, last of all, and forget outcomes that no input needs."""
    output_dir = work.output_dir
    sizes = {path.name: path.stat().st_size for path in (output_dir / "data").iterdir()}
    write_whole(
        output_dir / ".build" / "state.json", json.dumps({"key": key, "sizes": sizes, "summary": asdict(summary)})
    )
    work.outcomes.forget_others(work.keys)


def _finished(output_dir: Path, key: str) -> BuildSummary | None:
    """The summary of a complete build of the same inputs by the same recipe, if its shards are still there."""
    try:
        saved = json.loads((output_dir / ".build" / "state.json").read_text(encoding="utf-8"))
        sizes = {path.name: path.stat().st_size for path in (output_dir / "data").iterdir()}
    except (FileNotFoundError, ValueError):
        return None
    if (saved["key"], saved["sizes"]) != (key, sizes):
        return None
    return BuildSummary(**{**saved["summary"], "output_dir": str(output_dir), "up_to_date": True})


def _load(outcomes: Outcomes, source: SourceVideo, key: str) -> Draft:
    draft = outcomes.load(key, source)
    assert draft is not None, f"the outcome of {source.name} was there a moment ago"
    return draft


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    """Refuse a second build in the same folder while one runs; a killed build leaves no lock."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BuildStopped(f"another build is writing to {state.parent}") from error
        yield
