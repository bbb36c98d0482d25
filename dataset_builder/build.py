"""`cosmo build`: turn a folder of videos into a corpus that streams. Interrupted anywhere, a second run continues."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from dataset_builder.assemble import BuildSummary, assemble
from dataset_builder.atomic import write_whole
from dataset_builder.corpus.output_folder import refuse_others_folder
from dataset_builder.corpus.statistics import token_counter
from dataset_builder.draft import Fault
from dataset_builder.engines.fingerprint import assembly_fingerprint, build_fingerprint, inputs_key, video_key
from dataset_builder.engines.local import run_local
from dataset_builder.engines.outcomes import Outcomes
from dataset_builder.engines.work import Engine, Work
from dataset_builder.errors import BuildStopped
from dataset_builder.inputs import find_videos, refusal, shown
from dataset_builder.recipe import Recipe, load_recipe
from dataset_builder.text.collection_captions import with_captions


__all__ = ["BuildSummary", "build_corpus"]


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
    """Turn a folder of videos into a corpus (docs/corpus.md describes its files).

    Args:
        input_dir: videos with their subtitles next to them; the folders train, validation and test are the splits.
        output_dir: the corpus; an interrupted build there continues, a complete one is left alone.
        recipe: a recipe, the name of a shipped one, or a YAML file.
        workers: number of processes; None uses one per available processor.
        allow_quarantine: do not exit with code 3 because of damaged files.
        progress: show a progress bar.
        engine: runs the stages that see one video at a time (`engines.make_engine`); the corpus is always the same.

    Raises:
        ValueError: for a folder without videos (or, if damaged ones are allowed, without any readable one), an unknown
            or contradictory recipe, an output folder that holds something else, is inside the input, or has the input
            among its files.
        WriteError: if the disk is full; run again to continue.
        BuildStopped: if another build writes to the same folder, or a worker was killed.
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
            count_tokens = token_counter(tokenizer) if tokenizer else None  # before any work, as it may be missing
            submitted = engine(work)
            if submitted:
                return replace(NOTHING, output_dir=str(output_dir), submitted=submitted)
            work.outcomes.look_again()
            summary = assemble(work, refused, count_tokens)
            _remember(work, key, summary)
    if allow_quarantine and not summary.num_videos:
        raise ValueError(
            f"none of the {len(found)} videos in {input_dir} can be read; see {output_dir}/quarantine.jsonl"
        )
    return replace(summary, exit_code=3 if summary.quarantined and not allow_quarantine else 0)


NOTHING = BuildSummary(output_dir="", num_videos={}, num_clips=0, num_kept_clips=0, drop_reasons={}, quarantined=())


def _remember(work: Work, key: str, summary: BuildSummary) -> None:
    """Mark the build as complete, as its last step, and remove outcomes that no input needs."""
    output_dir = work.output_dir
    sizes = {path.name: path.stat().st_size for path in (output_dir / "data").iterdir()}
    write_whole(
        output_dir / ".build" / "state.json", json.dumps({"key": key, "sizes": sizes, "summary": asdict(summary)})
    )
    work.outcomes.forget_others(work.keys)


def _finished(output_dir: Path, key: str) -> BuildSummary | None:
    """The summary of a complete build of the same inputs with the same recipe, if its shards are still there."""
    try:
        saved = json.loads((output_dir / ".build" / "state.json").read_text(encoding="utf-8"))
        sizes = {path.name: path.stat().st_size for path in (output_dir / "data").iterdir()}
    except (FileNotFoundError, ValueError):
        return None
    if (saved["key"], saved["sizes"]) != (key, sizes):
        return None
    return BuildSummary(**{**saved["summary"], "output_dir": str(output_dir), "up_to_date": True})


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
