"""Reads frames from video files with PyAV: one open file, decoded forward, only as far as needed.

Shape letters: F frames.
"""

import io
from collections.abc import Iterator
from os import PathLike, fspath
from typing import Any

import numpy as np


def uniform_times(num_frames: int, start_s: float, end_s: float) -> list[float]:
    """Middles of `num_frames` equal parts of the span, in seconds, ascending."""
    return [start_s + (index + 0.5) * (end_s - start_s) / num_frames for index in range(num_frames)]


def decode_video(
    video: str | PathLike | bytes, num_frames: int, start_s: float = 0.0, end_s: float | None = None
) -> np.ndarray:
    """Uniformly spaced frames of a video, each the one that is shown at its time.

    Args:
        video: path of a file, or the file's bytes.
        num_frames: frames to return; a video with fewer repeats some.
        start_s: begin of the span, in seconds from the begin of the video.
        end_s: end of the span; default, and if later: the end of the video.

    Returns:
        uint8 array of shape `(F, 3, height, width)`.

    Raises:
        ValueError: if the file cannot be decoded, has no frames, or the span holds none of it.
        ImportError: if PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError("decoding a video needs PyAV: pip install av (or give the frames)") from error
    name = f"video of {len(video)} bytes" if isinstance(video, bytes) else f"video {fspath(video)}"
    try:
        with av.open(io.BytesIO(video) if isinstance(video, bytes) else fspath(video)) as container:
            frames = list(_frames_of(container, name, num_frames, start_s, end_s))
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(f"{name} cannot be decoded: {error}") from error
    return np.stack([frame.transpose(2, 0, 1) for frame in frames])


def _frames_of(
    container: Any, name: str, num_frames: int, start_s: float, end_s: float | None
) -> Iterator[np.ndarray]:
    """Frames as `(height, width, 3)` arrays."""
    if not container.streams.video:
        raise ValueError(f"{name} has no picture stream")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    duration_s = _duration_s(container, stream)
    end_s = duration_s if end_s is None or (duration_s is not None and end_s > duration_s) else end_s
    if end_s is None:
        raise ValueError(f"{name} does not say how long it is: give end_s")
    if not 0 <= start_s < end_s:
        raise ValueError(f"{name}: no frame from {start_s} s to {end_s} s (its length is {duration_s} s)")
    if start_s > 0:
        container.seek(int((start_s + _begin_s(stream)) / stream.time_base), stream=stream)
    times = uniform_times(num_frames, start_s, end_s)
    decoded = ((frame.time - _begin_s(stream), frame) for frame in container.decode(stream) if frame.time is not None)
    shown = _shown_at(decoded, times)
    picture, previous = np.empty(0), None
    for frame in shown:
        if frame is not previous:
            picture, previous = frame.to_ndarray(format="rgb24"), frame
        yield picture
    if previous is None:
        raise ValueError(f"{name} has no frames from {start_s} s to {end_s} s")


def _shown_at(decoded: Iterator[tuple[float, Any]], times: list[float]) -> Iterator[Any]:
    """For each time the last frame that begins at or before it, else the first frame; reads no further than needed."""
    current = following = next(decoded, None)
    if current is None:
        return
    for time_s in times:
        while following is not None and following[0] <= time_s:
            current, following = following, next(decoded, None)
        yield current[1]


def _begin_s(stream: Any) -> float:
    return 0.0 if stream.start_time is None else float(stream.start_time * stream.time_base)


def _duration_s(container: Any, stream: Any) -> float | None:
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / 1e6  # FFmpeg counts in microseconds
