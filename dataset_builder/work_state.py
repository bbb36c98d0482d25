"""What a build remembers in `OUTPUT/.build`, so that a second run redoes nothing and an interrupted one goes on.

Every input video leaves one small JSON file, named by a key over all that its record depends on: the recipe, the
models' weights, this package's code, and name, size and modification time of the video and of the files beside it.
A file that is there is whole (written aside, then renamed); a key that changed is simply not found.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_builder.atomic import write_whole
from dataset_builder.inputs import SourceVideo
from dataset_builder.model_folders import folder_fingerprint, tower_folder
from dataset_builder.recipe import Recipe
from dataset_builder.schema import InterleavedVideo, from_row, to_row


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A damaged file: one line of quarantine.jsonl."""

    path: str
    """Path below the input folder."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one input video."""

    record: InterleavedVideo | None
    """None where the video cannot be read."""
    faults: tuple[Fault, ...]


def build_fingerprint(recipe: Recipe) -> str:
    """Changes with the recipe, with the weights it names and with this package's code.

    Raises:
        ValueError: where the recipe names a tower that is not there.
    """
    parts: list[Any] = [recipe.as_dict(), _code_fingerprint()]
    if recipe.segment.tower:
        parts.append(folder_fingerprint(tower_folder(recipe.segment.tower)))
    if recipe.caption.checkpoint and Path(recipe.caption.checkpoint).is_dir():
        parts.append(folder_fingerprint(Path(recipe.caption.checkpoint)))
    return _digest(parts)


def video_key(fingerprint: str, source: SourceVideo) -> str:
    """Name of the outcome of one video, under one build's fingerprint."""
    parts: list[Any] = [fingerprint, source.split, source.video_id, source.name]
    for path in (source.path, source.subtitles, source.truth):
        if path is not None:
            status = path.stat()
            parts.append([path.name, status.st_size, status.st_mtime_ns])
    return _digest(parts)


def save_outcome(path: Path, outcome: Outcome) -> None:
    """Write an outcome whole or not at all."""
    row = to_row(outcome.record) if outcome.record else None
    faults = [{"path": fault.path, "reason": fault.reason} for fault in outcome.faults]
    write_whole(path, json.dumps({"row": row, "faults": faults}))


def load_outcome(path: Path) -> Outcome | None:
    """An outcome; None where there is none, or a power cut left a torn one."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return Outcome(
        record=from_row(saved["row"]) if saved["row"] else None,
        faults=tuple(Fault(**fault) for fault in saved["faults"]),
    )


def inputs_key(keys: Iterable[str]) -> str:
    """Changes with any input of a build."""
    return _digest(list(keys))


def _code_fingerprint() -> str:
    """Changes with the source of this package's stages (the toy world's own code does not matter to them)."""
    return _digest(
        [[path.name, path.read_text(encoding="utf-8")] for path in sorted(Path(__file__).parent.glob("*.py"))]
    )


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
