"""Decode the frames of a video's clips a few clips at a time, so that a long video need not fit into memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dataset_builder.video.decode import frames_at, middle_times
from dataset_builder.video.frames import FrameFit


CLIPS_AT_ONCE = 8  # one 1080p frame of each is 50 MB


def clip_frames(
    video: Path, spans: Sequence[tuple[float, float]], frames_per_clip: int, fit: FrameFit | None = None
) -> Iterator[np.ndarray]:
    """Yield the middle frame of each of `frames_per_clip` equal parts of every clip.

    Args:
        video: path of the file.
        spans: `(start_s, end_s)` of the clips, in time order.
        frames_per_clip: F.
        fit: the size to resize frames to; None: the video's own.

    Yields:
        uint8, shape `(n, F, H, W, 3)`, the next n <= `CLIPS_AT_ONCE` clips.

    Raises:
        DamagedInput: if the video cannot be decoded.
    """
    for first in range(0, len(spans), CLIPS_AT_ONCE):
        part = spans[first : first + CLIPS_AT_ONCE]
        times = [time_s for span in part for time_s in middle_times(*span, frames_per_clip)]
        frames = frames_at(video, times)
        if fit is not None:
            frames = np.stack([resized(frame, fit) for frame in frames])
        yield frames.reshape(len(part), frames_per_clip, *frames.shape[1:])


def resized(frame: np.ndarray, fit: FrameFit) -> np.ndarray:
    """Resize pixels `(H, W, 3)` to the size that a tower reads."""
    from PIL import Image

    height_px, width_px = fit.resized(*frame.shape[:2])
    return fit.cut(np.asarray(Image.fromarray(frame).resize((width_px, height_px), Image.Resampling.BICUBIC)))
