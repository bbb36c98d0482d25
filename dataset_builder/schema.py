"""The only record type of a corpus: a video with its clips, captions and speech in order (docs/corpus.md)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from datasets import Features, Json, List, Value, Video


FEATURES = Features(
    {
        "video_id": Value("string"),
        "video": Video(decode=False),  # {path, bytes}; `decode_clip` decodes it, so torchcodec is not needed
        "duration_s": Value("float64"),
        "source": Value("string"),
        "license": Value("string"),
        "clips": List(
            {
                "start_s": Value("float64"),
                "end_s": Value("float64"),
                "caption": Value("string"),
                "asr": Value("string"),
                "frame_captions": List(Value("string")),
                "regions": List(Value("string")),
                "similarity": Value("float64"),
                "keep": Value("bool"),
                "drop_reason": Value("string"),
            }
        ),
        "similarity_matrix": List(List(Value("float64"))),
        "provenance": Json(),
    }
)


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A part of a video, with its caption and its speech."""

    start_s: float
    """Start, in seconds from the first frame."""
    end_s: float
    """End (exclusive), in seconds from the first frame."""
    caption: str = ""
    """The text that a model learns to say about the clip; empty if no captioner wrote one."""
    asr: str = ""
    """Speech that belongs to the clip, sentences joined by a space."""
    frame_captions: tuple[str, ...] = ()
    """Captions of single frames, in time order."""
    regions: tuple[str, ...] = ()
    """Captions of regions of frames."""
    similarity: float | None = None
    """Cosine similarity of clip and caption under the scoring tower; None if they were not scored."""
    keep: bool = True
    """False if a filter rejected the clip or the video is a duplicate; readers skip such clips by default."""
    drop_reason: str = ""
    """Why `keep` is False."""


@dataclass(frozen=True, kw_only=True)
class InterleavedVideo:
    """A video and its clips in time order: one row of the corpus."""

    video_id: str
    """Path below the split folder, without suffix; unique in the corpus's split."""
    video_path: str | None = None
    """Path of the file, relative to the corpus folder."""
    video_bytes: bytes | None = None
    """The whole file, if the corpus embeds its videos."""
    duration_s: float
    """From the first frame to the end of the last, in seconds."""
    source: str = ""
    """Collection that the video comes from."""
    license: str = ""
    """Licence of the video."""
    clips: tuple[Clip, ...] = ()
    """In time order."""
    similarity_matrix: tuple[tuple[float | None, ...], ...] = ()
    """Cosine similarity, clips x captions, None in the column of an empty caption; empty if nothing was scored."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """stage -> the tool, version and settings that made this record."""

    def kept(self) -> "InterleavedVideo":
        """The same record with only the clips to keep (possibly none)."""
        return replace(self, clips=tuple(clip for clip in self.clips if clip.keep))


def to_row(record: InterleavedVideo) -> dict[str, Any]:
    """A record as plain Python values, as `datasets` returns it."""
    return {
        "video_id": record.video_id,
        "video": {"path": record.video_path, "bytes": record.video_bytes},
        "duration_s": record.duration_s,
        "source": record.source,
        "license": record.license,
        "clips": [_clip_to_row(clip) for clip in record.clips],
        "similarity_matrix": [list(row) for row in record.similarity_matrix],
        "provenance": dict(record.provenance),
    }


def from_row(row: Mapping[str, Any]) -> InterleavedVideo:
    """A corpus row as a record; columns that were not read keep their defaults.

    Args:
        row: as `datasets` returns it from Parquet or WebDataset shards (`json`, `mp4`); `provenance` may be a dict or
            its JSON text; `video_id` and `duration_s` are required.

    Raises:
        ValueError: naming the column or clip key that is missing or not part of the schema.
    """
    if "json" in row:
        inner = json.loads(row["json"]) if isinstance(row["json"], str | bytes) else row["json"]
        video = {"path": (inner.get("video") or {}).get("path"), "bytes": (row.get("mp4") or {}).get("bytes")}
        return from_row({**inner, "video": video})
    unknown = set(row) - set(FEATURES)
    missing = {"video_id", "duration_s"} - set(row)
    if unknown or missing:
        raise ValueError(
            f"a corpus row has the columns {sorted(FEATURES)}; unknown {sorted(unknown)}, missing {sorted(missing)}"
        )
    video = row.get("video") or {}
    provenance = row.get("provenance") or {}
    return InterleavedVideo(
        video_id=row["video_id"],
        video_path=video.get("path"),
        video_bytes=video.get("bytes"),
        duration_s=row["duration_s"],
        source=row.get("source") or "",
        license=row.get("license") or "",
        clips=tuple(_clip_from_row(clip) for clip in row.get("clips") or ()),
        similarity_matrix=tuple(tuple(line) for line in row.get("similarity_matrix") or ()),
        provenance=json.loads(provenance) if isinstance(provenance, str) else provenance,
    )


def _clip_to_row(clip: Clip) -> dict[str, Any]:
    row = {item.name: getattr(clip, item.name) for item in fields(clip)}
    return row | {"frame_captions": list(clip.frame_captions), "regions": list(clip.regions)}


def _clip_from_row(row: Mapping[str, Any]) -> Clip:
    try:
        return Clip(**{**row, "frame_captions": tuple(row["frame_captions"]), "regions": tuple(row["regions"])})
    except (TypeError, KeyError) as error:
        raise ValueError(f"a clip has the keys {[item.name for item in fields(Clip)]}; found {sorted(row)}") from error
