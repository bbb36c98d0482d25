"""Sample frames at an even rate, in one forward pass, in the size that a tower reads."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame

from dataset_builder.errors import DamagedInput
from dataset_builder.video.container import (
    RgbConverter,
    VideoFacts,
    decode_forward,
    open_video,
    promised_duration_s,
    read_facts,
    shown_size,
)
from dataset_builder.video.limits import ProbeSettings, too_long


@dataclass(frozen=True, kw_only=True)
class FrameFit:
    """How to fit a frame to the size that a tower reads: resize it, then crop its centre if it is larger."""

    height_px: int
    """Height of the result."""
    width_px: int
    """Width of the result."""
    shortest_edge_px: int | None = None
    """Shorter side after resizing at the same aspect ratio; None: resize to the result's size, with distortion."""

    def resized(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Size after resizing and before the crop, for a frame of the given size."""
        if self.shortest_edge_px is None:
            return self.height_px, self.width_px
        short, long = sorted((height_px, width_px))
        scaled = max(int(self.shortest_edge_px * long / short), 1)  # transformers rounds down, too
        return (self.shortest_edge_px, scaled) if height_px <= width_px else (scaled, self.shortest_edge_px)

    def cut(self, pixels: np.ndarray) -> np.ndarray:
        """The centre of `(H, W, 3)` pixels, padded with black if the frame is smaller than the result."""
        top, left = (pixels.shape[0] - self.height_px) // 2, (pixels.shape[1] - self.width_px) // 2
        if top < 0 or left < 0:
            margins = [(-min(gap, 0), -min(gap, 0) + 1) for gap in (top, left)]
            return self.cut(np.pad(pixels, [*margins, (0, 0)]))
        return pixels[top : top + self.height_px, left : left + self.width_px]


class FrameSampler:
    """A single pass over a video that yields batches of frames, sampled at an even rate.

    Frame k is the picture at `(k + 0.5) / frame_rate_hz` seconds: it represents the k-th interval of
    `1 / frame_rate_hz` seconds, and a border before frame k is at `k / frame_rate_hz`. A video shorter than half an
    interval gives its last frame. `facts` and `duration_s` are set after the iteration.

    Args:
        video: path of the file, or its bytes.
        frame_rate_hz: frames per second of video.
        fit: the size of the result.
        batch: frames per yielded array (the last one may hold fewer).
        limits: on length and frame size; None: no limits.
    """

    facts: VideoFacts
    duration_s: float

    def __init__(
        self,
        video: Path | bytes,
        frame_rate_hz: float,
        fit: FrameFit,
        batch: int,
        limits: ProbeSettings | None = None,
    ) -> None:
        self._video, self._rate, self._fit, self._batch, self._limits = video, frame_rate_hz, fit, batch, limits

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield uint8 arrays of shape `(N, H, W, 3)`.

        Raises:
            DamagedInput: if the video does not open, holds no frames, or ends earlier than its header says.
        """
        gathered: list[np.ndarray] = []
        for pixels in self._sampled():
            gathered.append(pixels)
            if len(gathered) == self._batch:
                yield np.stack(gathered)
                gathered = []
        if gathered:
            yield np.stack(gathered)

    def _sampled(self) -> Iterator[np.ndarray]:
        convert, shown, num_sampled = RgbConverter(), None, 0
        with open_video(self._video, self._limits.max_frame_px if self._limits else None) as (container, stream):
            self.facts = read_facts(container, stream)
            for timed in decode_forward(stream, container):
                if self._limits and timed.end_s > self._limits.max_duration_s:
                    raise DamagedInput(too_long(timed.end_s, self._limits.max_duration_s))
                while shown and (num_sampled + 0.5) / self._rate < timed.start_s - 1e-6:
                    yield self._pixels(convert, shown.frame)
                    num_sampled += 1
                shown = timed
            if shown is None:
                raise DamagedInput("video without frames")
            self.duration_s = shown.end_s
            promised = promised_duration_s(container, stream)
        if promised and self.duration_s < promised[0] - promised[1]:
            raise DamagedInput(f"truncated: promises {promised[0]:.2f} s, frames end at {self.duration_s:.2f} s")
        while num_sampled == 0 or (num_sampled + 0.5) / self._rate < self.duration_s - 1e-6:
            yield self._pixels(convert, shown.frame)
            num_sampled += 1

    def _pixels(self, convert: RgbConverter, frame: VideoFrame) -> np.ndarray:
        return self._fit.cut(convert(frame, *self._fit.resized(*shown_size(frame))))
