"""Whatever happens to the bytes of a video, the result is frames or one clear reason."""

import numpy as np
import pytest

from dataset_builder.errors import DamagedInput
from dataset_builder.video.decode import frames_at
from dataset_builder.video.frames import FrameFit, FrameSampler
from tests.dataset_builder.make_videos import encode, story


FIT = FrameFit(height_px=16, width_px=16)


def spoil(data: bytes, draw: np.random.Generator) -> bytes:
    """Overwrite, cut out, or cut off, at random places (the first bytes, the header, more often)."""
    spoiled = np.frombuffer(data, dtype=np.uint8).copy()
    limit = len(spoiled) if draw.random() < 0.5 else min(600, len(spoiled))
    places = draw.integers(0, limit, size=draw.integers(1, 30))
    spoiled[places] = draw.integers(0, 256, size=len(places))
    kind = draw.integers(3)
    if kind == 1:
        start = draw.integers(0, len(spoiled) - 1)
        return np.delete(spoiled, np.s_[start : start + int(draw.integers(1, 500))]).tobytes()
    return spoiled[: draw.integers(1, len(spoiled))].tobytes() if kind == 2 else spoiled.tobytes()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".webm", ".ts", ".flv"])
def test_spoiled_bytes_give_frames_or_a_reason(tmp_path, suffix):
    data = encode(tmp_path / f"video{suffix}", story(0, num_steps=2)[::2]).read_bytes()
    draw = np.random.default_rng(5)
    reasons = []
    for _ in range(60):
        video = spoil(data, draw)
        try:
            for batch in FrameSampler(video, 2.0, FIT, batch=8):
                assert batch.shape[1:] == (16, 16, 3)
            assert len(frames_at(video, [0.1, 1.2])) == 2
        except DamagedInput as error:
            reasons.append(str(error))
    assert len(reasons) > 5, "the damage is real"
    assert not any("\n" in reason for reason in reasons)
