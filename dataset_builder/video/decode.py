"""Decode pixels for a record of the corpus: only the requested frames, in a forward pass."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from fsspec.core import OpenFile, url_to_fs

from dataset_builder.errors import DamagedInput
from dataset_builder.schema import InterleavedVideo, from_row
from dataset_builder.video.container import RgbConverter, decode_forward, has_times, open_video, shown_size


Record = InterleavedVideo | Mapping[str, Any]
SEEK_FROM_S = 1.0  # seeking to an earlier key frame pays only if there is something to skip


def decode_clip(record: Record, clip_index: int, num_frames: int, root: Path | str | None = None) -> np.ndarray:
    """Frames of one clip: the middle frame of each of `num_frames` equal parts.

    Args:
        record: a row of the corpus, as `datasets` returns it or as `InterleavedVideo`.
        clip_index: which of the record's clips.
        num_frames: F.
        root: the corpus folder, or its address (`hf://datasets/owner/name`); needed if the corpus does not embed its
            videos.

    Returns:
        RGB pixels, uint8, shape `(F, 3, H, W)`, in the video's own size.

    Raises:
        ValueError: for a clip index or path that the record or the corpus folder does not have.
        DamagedInput: if the video cannot be decoded.
    """
    return decode_clips(record, [clip_index], num_frames, root)[0]


def decode_clips(
    record: Record, clip_indices: Sequence[int], num_frames: int, root: Path | str | None = None
) -> np.ndarray:
    """Like `decode_clip`, for several clips of one record in one pass over its video: `(C, F, 3, H, W)`."""
    record = record if isinstance(record, InterleavedVideo) else from_row(record)
    if num_frames < 1:
        raise ValueError(f"num_frames is {num_frames}; at least 1 is needed")
    times = []
    for index in clip_indices:
        if not 0 <= index < len(record.clips):
            raise ValueError(f"{record.video_id} has {len(record.clips)} clips; there is no clip {index}")
        clip = record.clips[index]
        times.append(middle_times(clip.start_s, clip.end_s, num_frames))
    frames = frames_at(video_of(record, root), [time_s for clip_times in times for time_s in clip_times])
    pixels = frames.transpose(0, 3, 1, 2).reshape(len(times), num_frames, 3, *frames.shape[1:3])  # (C, F, 3, H, W)
    return np.ascontiguousarray(pixels)


def middle_times(start_s: float, end_s: float, num_frames: int) -> list[float]:
    """The middle of each of `num_frames` equal parts of a stretch, in seconds."""
    part_s = (end_s - start_s) / num_frames
    return [start_s + (part + 0.5) * part_s for part in range(num_frames)]


def video_of(record: InterleavedVideo, root: Path | str | None) -> Path | bytes | OpenFile:
    """The record's embedded bytes, or its file inside the corpus folder.

    Raises:
        ValueError: if there is neither, or the path is absolute or leaves the corpus folder.
    """
    if record.video_bytes is not None:
        return record.video_bytes
    if not record.video_path or root is None:
        raise ValueError(f"{record.video_id} embeds no video; give root=, the corpus folder that its path starts from")
    if "://" in str(root):
        if Path(record.video_path).is_absolute() or ".." in Path(record.video_path).parts:
            raise ValueError(f"{record.video_id}: its video path {record.video_path!r} leads out of the corpus")
        filesystem, folder = url_to_fs(str(root))  # the root alone: "::" in a path would be read as a chained address
        return OpenFile(filesystem, f"{folder.rstrip('/')}/{record.video_path}")
    local = Path(root).resolve()
    path = (local / record.video_path).resolve()
    if Path(record.video_path).is_absolute() or not path.is_relative_to(local):
        raise ValueError(f"{record.video_id}: its video path {record.video_path!r} leads out of the corpus folder")
    if not path.is_file():
        raise ValueError(f"{record.video_id}: there is no file {record.video_path!r} in the corpus folder {local}")
    return path


def frames_at(video: Path | bytes | OpenFile, times_s: Sequence[float]) -> np.ndarray:
    """The pictures that a viewer sees at the given times, in seconds from the first frame.

    The file is decoded in one pass from the key frame before the earliest time (from its start if seeking fails),
    whatever the order of the times; a time past the end gets the last frame.

    Returns:
        uint8, shape `(len(times_s), H, W, 3)`.

    Raises:
        DamagedInput: if nothing can be decoded.
    """
    if not times_s:
        raise ValueError("no times were asked for")
    order = sorted(range(len(times_s)), key=times_s.__getitem__)
    wanted = [times_s[index] for index in order]
    found = _decode_sorted(video, wanted, seek=wanted[0] >= SEEK_FROM_S) or _decode_sorted(video, wanted, seek=False)
    if not found:
        raise DamagedInput("video without frames")
    result = np.empty((len(wanted), *found[0].shape), dtype=np.uint8)
    for index, pixels in zip(order, found, strict=True):
        result[index] = pixels
    return result


def _decode_sorted(video: Path | bytes | OpenFile, wanted: list[float], *, seek: bool) -> list[np.ndarray]:
    """Pixels shown at ascending times; empty if a seek landed after the first of them or found no timestamps."""
    convert, shown = RgbConverter(), None
    found: list[np.ndarray] = []
    size: tuple[int, int] | None = None
    with open_video(video) as (container, stream):
        if seek and not has_times(container):
            return []
        if seek:
            origin = stream.start_time or 0
            with suppress(av.error.FFmpegError):  # not seekable: read from the start
                container.seek(origin + int(wanted[0] / (stream.time_base or Fraction(1, 1000))), stream=stream)
        for timed in decode_forward(stream, container, wanted):
            if seek and shown is None and (timed.frame.pts is None or timed.start_s > wanted[0]):
                return []
            pixels = None
            while shown and len(found) < len(wanted) and wanted[len(found)] < timed.start_s - 1e-6:
                size = size or shown_size(shown.frame)
                pixels = convert(shown.frame, *size) if pixels is None else pixels
                found.append(pixels)
            shown = timed
            if len(found) == len(wanted):
                return found
        if shown is None:
            return []
        last = convert(shown.frame, *(size or shown_size(shown.frame)))
    return found + [last] * (len(wanted) - len(found))
