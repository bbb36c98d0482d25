"""Tiny clips whose every frame is known."""

from pathlib import Path

import av
import numpy as np
import pytest


WIDTH_PX, HEIGHT_PX, FRAME_RATE_HZ = 48, 32, 10


def brightness_of(index: int) -> int:
    """Frame `index` of every test clip is a single grey; steps of 7 survive the codec's rounding."""
    return 20 + 7 * index


def write_clip(path: Path, num_frames: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE_HZ, options={"crf": "1", "g": "5"})
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        for index in range(num_frames):
            grey = np.full((HEIGHT_PX, WIDTH_PX, 3), brightness_of(index), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 30 frames, 3 s."""
    return write_clip(tmp_path_factory.mktemp("clips") / "grey.mp4", 30)
