"""What a build remembers in `OUTPUT/.build`, so that a second run redoes nothing and an interrupted one goes on.

Every input video leaves one small JSON file, named by a key over all that its record depends on: the recipe, the
models' weights, this package's code, and name, size, modification time of the video and of the files beside it, and
whether they may be read. A file that is there is whole (written aside, then renamed); a key that changed is simply not
found.
"""

import base64
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dataset_builder.atomic import write_whole
from dataset_builder.draft import Draft, Fault
from dataset_builder.inputs import SourceVideo
from dataset_builder.model_folders import find_model
from dataset_builder.narrate import prompt_hash
from dataset_builder.recipe import Recipe
from dataset_builder.schema import InterleavedVideo, from_row, to_row


def build_fingerprint(recipe: Recipe) -> str:
    """Changes with what a single video's record depends on.

    That is: the stages of the recipe that see one video, the weights that they name, and this package's code.

    Raises:
        ValueError: where the recipe names a model that is not there.
    """
    parts: list[Any] = [recipe.for_one_video(), _code_fingerprint()]
    parts += [find_model(model).fingerprint() for model in recipe.models()]
    if recipe.narrate:
        parts.append(prompt_hash(recipe.narrate.prompt_file))
    parts += [Path(file).read_text(encoding="utf-8") for file in recipe.word_files()]
    return _digest(parts)


def video_key(fingerprint: str, source: SourceVideo) -> str:
    """Name of the outcome of one video, under one build's fingerprint."""
    parts: list[Any] = [fingerprint, source.split, source.video_id, source.name]
    for path in (source.path, source.subtitles, source.truth):
        if path is not None:
            status = path.stat()
            parts.append([path.name, status.st_size, status.st_mtime_ns, os.access(path, os.R_OK)])
    return _digest(parts)


def save_outcome(path: Path, draft: Draft) -> None:
    """Write what became of a video, whole or not at all."""
    outcome = {
        "row": None if draft.damaged else to_row(draft.record),
        "faults": [asdict(fault) for fault in draft.faults],
        "clip_embeddings": None if draft.damaged else _pack(draft.clip_embeddings, np.float16),
        "frame_hashes": None if draft.damaged else _pack(draft.frame_hashes, np.uint64),
    }
    write_whole(path, json.dumps(outcome))


def load_outcome(path: Path, source: SourceVideo) -> Draft | None:
    """What became of a video; None where nothing did yet, or a power cut left a torn file."""
    try:
        return parse_outcome(path.read_text(encoding="utf-8"), source)
    except (FileNotFoundError, ValueError):
        return None


def parse_outcome(text: str, source: SourceVideo) -> Draft:
    """What became of a video, from what `save_outcome` wrote.

    Raises:
        ValueError: where the text is torn.
    """
    saved = json.loads(text)
    row = saved["row"]
    return Draft(
        source=source,
        record=from_row(row) if row else InterleavedVideo(video_id=source.video_id, duration_s=0.0),
        damaged=row is None,
        faults=tuple(Fault(**fault) for fault in saved["faults"]),
        clip_embeddings=_unpack(saved["clip_embeddings"], np.float16),
        frame_hashes=_unpack(saved["frame_hashes"], np.uint64),
    )


def _pack(array: np.ndarray | None, kind: type[np.generic]) -> dict[str, Any] | None:
    """An array as JSON, in few bytes."""
    if array is None:
        return None
    data = np.ascontiguousarray(array, dtype=np.dtype(kind).newbyteorder("<")).tobytes()
    return {"shape": list(array.shape), "base64": base64.b64encode(data).decode("ascii")}


def _unpack(packed: dict[str, Any] | None, kind: type[np.generic]) -> np.ndarray | None:
    if packed is None:
        return None
    data = base64.b64decode(packed["base64"])
    return np.frombuffer(data, dtype=np.dtype(kind).newbyteorder("<")).reshape(packed["shape"])


def inputs_key(recipe: Recipe, keys: Iterable[str]) -> str:
    """Changes with any input of a build and with any key of its recipe."""
    return _digest([recipe.as_dict(), *keys])


def _code_fingerprint() -> str:
    """Changes with the source of this package's stages (the toy world's own code does not matter to them)."""
    return _digest(
        [[path.name, path.read_text(encoding="utf-8")] for path in sorted(Path(__file__).parent.glob("*.py"))]
    )


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
