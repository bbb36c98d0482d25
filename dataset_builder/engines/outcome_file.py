"""Write the outcome of one video to a file, and read it back.

Every input video gets one small JSON file, named by a key over everything that its record depends on (fingerprint.py).
A file that exists is whole (written aside, then renamed); after a relevant change, its key no longer matches.
"""

import base64
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dataset_builder.atomic import write_whole
from dataset_builder.draft import Draft, Fault
from dataset_builder.inputs import SourceVideo
from dataset_builder.schema import InterleavedVideo, from_row, to_row


def save_outcome(path: Path, draft: Draft) -> None:
    """Write the outcome of a video, whole or not at all."""
    outcome = {
        "row": None if draft.damaged else to_row(draft.record),
        "faults": [asdict(fault) for fault in draft.faults],
        "clip_embeddings": None if draft.damaged else _pack(draft.clip_embeddings, np.float16),
        "frame_hashes": None if draft.damaged else _pack(draft.frame_hashes, np.uint64),
    }
    write_whole(path, json.dumps(outcome))


def load_outcome(path: Path, source: SourceVideo) -> Draft | None:
    """The outcome of a video; None if there is none yet, or a power cut left a torn file."""
    try:
        return parse_outcome(path.read_text(encoding="utf-8"), source)
    except (FileNotFoundError, ValueError):
        return None


def parse_outcome(text: str, source: SourceVideo) -> Draft:
    """The outcome of a video, from the text that `save_outcome` wrote.

    Raises:
        ValueError: if the text is torn.
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
    """An array as compact JSON."""
    if array is None:
        return None
    data = np.ascontiguousarray(array, dtype=np.dtype(kind).newbyteorder("<")).tobytes()
    return {"shape": list(array.shape), "base64": base64.b64encode(data).decode("ascii")}


def _unpack(packed: dict[str, Any] | None, kind: type[np.generic]) -> np.ndarray | None:
    if packed is None:
        return None
    data = base64.b64decode(packed["base64"])
    return np.frombuffer(data, dtype=np.dtype(kind).newbyteorder("<")).reshape(packed["shape"])
