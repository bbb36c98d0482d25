"""Write small real videos for the tests."""

from pathlib import Path

import av
import numpy as np


SIDE, RATE = 64, 8


def square_frames(num_frames: int, colour: tuple[int, int, int], background: int, step: int = 1) -> np.ndarray:
    """A square that moves right over a grey background: `(F, H, W, 3)`."""
    frames = np.full((num_frames, SIDE, SIDE, 3), background, dtype=np.uint8)
    for index in range(num_frames):
        left = (5 + step * index) % (SIDE - 20)
        frames[index, 20:40, left : left + 20] = colour
    return frames


def encode(
    path: Path, frames: np.ndarray, rate: int = RATE, container_options: dict[str, str] | None = None, **options: str
) -> Path:
    """Write frames `(F, H, W, 3)` as a video file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = {".webm": "libvpx-vp9", ".gif": "gif"}.get(path.suffix, "libx264")
    with av.open(str(path), mode="w", container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options={"crf": "12", "g": "8"} | options)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.codec_context.thread_count = 1
        container.start_encoding()  # a header even if no frame follows
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


COLOURS = [(220, 30, 30), (30, 200, 40), (40, 60, 220), (230, 220, 40), (200, 40, 210)]


def story(seed: int, num_steps: int = 3, step_s: float = 2.0) -> np.ndarray:
    """A video of several scenes that differ in colour and background."""
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(COLOURS))
    backgrounds = draw.permutation([10, 130, 250])  # far apart, so that even a random tower can tell them apart
    frames = int(step_s * RATE)
    return np.concatenate(
        [square_frames(frames, COLOURS[order[step % 5]], int(backgrounds[step % 3])) for step in range(num_steps)]
    )
