"""Read frames from video files with PyAV: open once, read forward in time, and skip what no requested time needs.

Shape letters: F frames.
"""

import io
import re
from collections.abc import Iterator
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


# FFmpeg's playlists and scripts (HLS, concat, ...) open whatever files and addresses they name.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif,mxf,ivf,nut,rm,dv,wav,mp3,flac,aac"
CLOCK = re.compile(r"(\d{1,6}):(\d\d):(\d\d(?:\.\d+)?)", re.ASCII)
"""How Matroska writes a length: 00:00:02.600000000."""
TIME_TOLERANCE_S = 1e-6
MISSING_TOLERANCE_S = 0.5
"""A file may end this much earlier than its header says before it counts as cut off."""
SEEK_FROM_S = 1.0
"""Without an index, a jump pays only if there is this much to jump over."""


class Span(NamedTuple):
    """Part of a video that is sampled, in seconds from its first frame."""

    start_s: float
    end_s: float
    is_exact: bool
    """Whether the length of the video is that of its pictures; otherwise the sound may last longer."""


class TimedFrame(NamedTuple):
    """A decoded frame and when it is shown, in seconds from the first frame."""

    start_s: float
    end_s: float
    frame: Any


class _JumpedTooFar(Exception):
    """A jump ended after the time that it was meant for."""


def uniform_times(num_frames: int, start_s: float, end_s: float) -> list[float]:
    """Middles of `num_frames` equal parts of the span, in seconds, ascending."""
    return [start_s + (index + 0.5) * (end_s - start_s) / num_frames for index in range(num_frames)]


def decode_video(
    video: str | PathLike | bytes,
    num_frames: int,
    start_s: float = 0.0,
    end_s: float | None = None,
    name: str | None = None,
) -> np.ndarray:
    """Read uniformly spaced frames of a video, each the one that is shown at its time.

    Args:
        video: path of a file, or the file's bytes.
        num_frames: frames to return; a video with fewer repeats some.
        start_s: start of the span, in seconds from the start of the video.
        end_s: end of the span; the end of the video by default, and at the latest.
        name: name of the video in errors; default: its path or length.

    Returns:
        uint8 array of shape `(F, 3, height, width)`, upright as the file says.

    Raises:
        ValueError: if the file cannot be decoded, has no frames, or the span is outside the video.
        ImportError: if PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError("decoding a video needs PyAV: pip install av (or give the frames)") from error
    if name is None:
        name = f"video of {len(video)} bytes" if isinstance(video, bytes) else f"video {fspath(video)}"
    if num_frames < 1:
        raise ValueError(f"{name}: num_frames is {num_frames}; it must be at least 1")
    if not isinstance(video, bytes) and not Path(video).is_file():
        raise ValueError(f"{name} cannot be decoded: there is no such file")
    source = (
        io.BytesIO(video) if isinstance(video, bytes) else f"file:{fspath(video)}"
    )  # so that a colon names no protocol
    try:
        container = av.open(source, container_options={"format_whitelist": CONTAINERS}, metadata_errors="replace")
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(
            f"{name} cannot be decoded: not a video, or cut off before its index ({_reason(error)})"
        ) from error
    try:
        with container:
            return _read_frames(container, name, num_frames, start_s, end_s)
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(f"{name} cannot be decoded: {_reason(error)}") from error


def _read_frames(container: Any, name: str, num_frames: int, start_s: float, end_s: float | None) -> np.ndarray:
    stream = next((stream for stream in container.streams.video if not _is_cover(stream)), None)
    if stream is None:
        raise ValueError(f"{name} has no picture stream")
    if stream.codec_context is None:
        raise ValueError(f"{name} cannot be decoded: no decoder for its codec")
    span = _find_span(container, stream, name, start_s, end_s)
    times = uniform_times(num_frames, span.start_s, span.end_s)
    try:
        shown = list(_shown_at(container, stream, times, may_jump=_has_times(container)))
    except _JumpedTooFar:
        container.seek(stream.start_time or 0, stream=stream)
        shown = list(_shown_at(container, stream, times, may_jump=False))
    if not shown:
        raise ValueError(f"{name} has no frames from {span.start_s} s to {span.end_s} s")
    if span.is_exact and times[-1] - shown[-1].end_s > MISSING_TOLERANCE_S:
        raise ValueError(
            f"{name} is cut off: its last frame ends at {shown[-1].end_s:.2f} s, but the file claims at least "
            f"{times[-1]:.2f} s"
        )
    return _stack_pixels([timed.frame for timed in shown], name)


def _find_span(container: Any, stream: Any, name: str, start_s: float, end_s: float | None) -> Span:
    """The part to sample, cut to the length of the video.

    Raises:
        ValueError: if it is outside the video.
    """
    duration_s, is_exact = _duration_s(container, stream)
    end_s = duration_s if end_s is None else min(end_s, duration_s)
    if not 0 <= start_s < end_s:
        raise ValueError(f"{name}: no frame from {start_s} s to {end_s} s (its length is {duration_s} s)")
    return Span(start_s, end_s, is_exact)


def _duration_s(container: Any, stream: Any) -> tuple[float, bool]:
    """Length in seconds, and whether it is that of the pictures; from the header, or by reading all packets."""
    if stream.duration:
        return float(stream.duration * stream.time_base), _has_times(container)
    clock = CLOCK.fullmatch(stream.metadata.get("DURATION", ""))
    if clock and (length_s := 3600 * int(clock[1]) + 60 * int(clock[2]) + float(clock[3])):
        return length_s, True
    if container.duration:
        return container.duration / 1e6, False  # FFmpeg counts in microseconds
    ends = [packet.pts + (packet.duration or 0) for packet in container.demux(stream) if packet.pts is not None]
    begin = stream.start_time or 0
    container.seek(begin, stream=stream)
    return max(float((max(ends, default=begin) - begin) * stream.time_base), _frame_s(stream)), True


def _shown_at(container: Any, stream: Any, times: list[float], may_jump: bool) -> Iterator[TimedFrame]:
    """For each time the last frame that begins at or before it, else the first frame; reads no further than needed.

    Raises:
        _JumpedTooFar: if a jump missed its time, so that only reading from the start helps.
    """
    decoded = _timed(container, stream)
    current: TimedFrame | None = None
    following: TimedFrame | None = None
    for time_s in times:
        if may_jump and _jump(container, stream, following, time_s):
            decoded = _timed(container, stream)
            current = following = next(decoded, None)
            if current is None or current.frame.pts is None or current.start_s > time_s + TIME_TOLERANCE_S:
                raise _JumpedTooFar
        elif current is None:
            current = following = next(decoded, None)
        while following is not None and following.start_s <= time_s + TIME_TOLERANCE_S:
            current, following = following, next(decoded, None)
        if current is None:
            return
        yield current if following is None else current._replace(end_s=following.start_s)


def _jump(container: Any, stream: Any, following: TimedFrame | None, time_s: float) -> bool:
    """Jump to the key frame before a time if it is beyond what has been decoded; return whether it jumped."""
    begin = stream.start_time or 0
    target = begin + int(time_s / stream.time_base)
    index = stream.index_entries
    try:
        if len(index) > 1:
            delay = max(0, begin - index[0].timestamp)  # the index holds decoding times, which precede display times
            found = index.search_timestamp(target - delay)
            target = index[found].timestamp + delay if found >= 0 else begin
            if target <= (begin if following is None else following.frame.pts or begin):
                return False
        elif following is not None or time_s < SEEK_FROM_S:
            return False
        container.seek(target, stream=stream)
    except (OSError, OverflowError):  # not seekable, or damaged with times beyond FFmpeg's clock: just read on
        return False
    return True


def _timed(container: Any, stream: Any) -> Iterator[TimedFrame]:
    """Frames from here on; those without a time follow the one before at the stream's rate."""
    begin = (stream.start_time or 0) if _has_times(container) else None
    next_s = 0.0
    for frame in container.decode(stream):
        begin = frame.pts if begin is None else begin
        start_s = next_s if frame.pts is None else float((frame.pts - begin) * stream.time_base)
        next_s = start_s + (float(frame.duration * stream.time_base) if frame.duration else _frame_s(stream))
        yield TimedFrame(start_s, next_s, frame)


def _has_times(container: Any) -> bool:
    """Whether times count from the stream's start; AVI has decoding times, late by an amount it does not state."""
    return container.format.name != "avi"


def _frame_s(stream: Any) -> float:
    rate = stream.average_rate or stream.guessed_rate
    return float(1 / rate) if rate else 0.04


def _stack_pixels(frames: list[Any], name: str) -> np.ndarray:
    """Upright pixels, uint8 `(F, 3, height, width)`; a frame shown several times is converted once."""
    pictures: list[np.ndarray] = []
    for index, frame in enumerate(frames):
        if index and frame is frames[index - 1]:
            pictures.append(pictures[-1])
            continue
        turns = round(frame.rotation / 90) % 4
        pictures.append(np.rot90(frame.to_ndarray(format="rgb24"), turns))
    sizes = {(picture.shape[1], picture.shape[0]) for picture in pictures}
    if len(sizes) > 1:
        raise ValueError(f"{name} changes its size: a video needs frames of one size, got {sorted(sizes)}")
    return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]


def _is_cover(stream: Any) -> bool:
    """Whether the stream is a still picture attached to a recording."""
    return bool(stream.disposition & type(stream.disposition).attached_pic)
