"""Frames that nothing needs are not decoded, and nobody can tell."""

from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest

from dataset_builder.decode import frames_at
from dataset_builder.needed_frames import _tell_needed, decode_needed
from dataset_builder.probe import RgbConverter, open_video


NUM_FRAMES, SIDE = 61, 64
CODECS = {
    "h264-b-frames": ("libx264", {"bf": "3", "b_strategy": "0", "g": "23"}),
    "h264-no-b-frames": ("libx264", {"bf": "0", "g": "23"}),
    "hevc": ("libx265", {"x265-params": "bframes=3:keyint=23:log-level=none"}),
    "mpeg4": ("mpeg4", {"bf": "2", "g": "17"}),
    "vp9": ("libvpx-vp9", {"g": "23"}),
}


@pytest.fixture(scope="module", params=CODECS)
def video(request, tmp_path_factory):
    """Moving noise, shown at irregular times."""
    codec, options = CODECS[request.param]
    path = tmp_path_factory.mktemp("needed") / f"{request.param}.mkv"
    draw = np.random.default_rng(0)
    wall = draw.integers(0, 256, (SIDE, SIDE + 3 * NUM_FRAMES, 3), dtype=np.uint8)
    ticks = np.cumsum(draw.integers(1, 4, NUM_FRAMES))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width = stream.height = SIDE
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, 30)
        stream.codec_context.time_base = Fraction(1, 30)
        for index, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(wall[:, 3 * index : 3 * index + SIDE]), format="rgb24"
            )
            frame.pts, frame.time_base = int(tick), Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def every_frame(path):
    convert = RgbConverter()
    with open_video(path) as (container, stream):
        frames = [(float(frame.pts * stream.time_base), convert(frame)) for frame in container.decode(stream)]
    first_s = frames[0][0]
    return np.array([begin_s - first_s for begin_s, _ in frames]), [pixels for _, pixels in frames]


@pytest.mark.parametrize("num_times", [1, 3, 29])
def test_the_frames_are_those_of_decoding_everything(video, num_times):
    begins, pixels = every_frame(video)
    for seed in range(5):
        times = np.random.default_rng(seed).uniform(0.0, begins[-1] + 0.5, num_times)
        times[0] = begins[seed * 11]  # the very moment at which a frame begins
        shown = np.searchsorted(begins, times + 1e-6, side="right") - 1
        np.testing.assert_array_equal(frames_at(video, times.tolist()), np.stack([pixels[index] for index in shown]))


def test_b_frames_that_no_moment_shows_are_left_out(video):
    with open_video(video) as (container, stream):
        num_decoded = len([*decode_needed(stream, container, [0.7, 1.9])])
    if "b-frames" in video.stem and "no" not in video.stem:
        assert num_decoded < 0.75 * NUM_FRAMES
    else:
        assert num_decoded <= NUM_FRAMES


def packet(pts, dts, size=1):
    return SimpleNamespace(pts=pts, dts=dts, size=size)


@pytest.mark.parametrize("seed", range(20))
def test_needed_is_what_is_on_screen(seed):
    """Against the definition: for every moment the frame that began last, in any order of decoding."""
    draw = np.random.default_rng(seed)
    begins = np.cumsum(draw.integers(1, 5, 37)).tolist()
    order = sorted(range(37), key=lambda index: index + draw.uniform(0, 4))  # decoded up to four places early
    times_of_decoding = [begins[index] - 20 for index in range(37)]
    packets = [packet(begins[index], dts) for index, dts in zip(order, times_of_decoding, strict=True)]
    moments = sorted(draw.uniform(begins[0], begins[-1] + 3, 7).tolist())
    told = {of.pts: needed for of, needed in _tell_needed([*packets, packet(None, None, 0)], moments) if of.size}
    on_screen = {max(begin for begin in begins if begin <= moment) for moment in moments}
    assert told == {begin: begin in on_screen or begin == begins[-1] for begin in begins}


@pytest.mark.parametrize("broken", [packet(None, 5), packet(7, None), packet(3, 9), packet(9, 1)])
def test_after_a_broken_time_everything_is_decoded(broken):
    packets = [packet(0, 0), packet(4, 1), packet(2, 2), broken, packet(20, 20), packet(21, 21)]
    told = [*_tell_needed(packets, [0.5])]
    assert [of for of, _ in told] == packets  # in the order of the file, none lost
    assert all(needed for of, needed in told[packets.index(broken) :])
