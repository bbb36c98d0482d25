"""Frames that nothing needs are not decoded, with no difference in the result."""

from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace

import av
import numpy as np
import pytest

from dataset_builder.video.container import RgbConverter, open_video
from dataset_builder.video.decode import frames_at
from dataset_builder.video.needed_frames import LONGEST_RUN, _tell_needed, decode_needed
from tests.dataset_builder.field_pictures import write_fields


NUM_FRAMES, SIDE = 61, 64
CODECS = {
    "h264-b-frames.mkv": ("libx264", {"bf": "3", "b_strategy": "0", "g": "23"}),
    "h264-no-b-frames.mkv": ("libx264", {"bf": "0", "g": "23"}),
    "h264-open-gop.ts": ("libx264", {"x264-params": "open-gop=1:keyint=11:bframes=3:b-adapt=0:scenecut=0"}),
    "h264-interlaced.mp4": ("libx264", {"x264-params": "interlaced=1:keyint=11:bframes=3:b-adapt=0"}),
    "hevc.mkv": ("libx265", {"x265-params": "bframes=3:keyint=23:log-level=none"}),
    "hevc-open-gop.mp4": ("libx265", {"x265-params": "open-gop=1:bframes=4:b-adapt=0:keyint=11:log-level=none"}),
    "mpeg2.ts": ("mpeg2video", {"bf": "2", "g": "17"}),
    "mpeg4.mkv": ("mpeg4", {"bf": "2", "g": "17"}),
    "vp9-hidden-frames.mkv": ("libvpx-vp9", {"g": "23", "auto-alt-ref": "6", "lag-in-frames": "25", "b": "100k"}),
    "av1.mkv": ("libsvtav1", {"preset": "12", "g": "23"}),
}


@pytest.fixture(scope="module", params=CODECS)
def video(request, tmp_path_factory):
    """Moving noise, shown at irregular times."""
    codec, options = CODECS[request.param]
    if codec not in av.codecs_available:
        pytest.skip(f"this build of FFmpeg has no encoder {codec} to write the test's video with")
    path = tmp_path_factory.mktemp("needed") / request.param
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
    """Compare with the definition: for every moment, the frame that began last, in any decoding order."""
    draw = np.random.default_rng(seed)
    begins = np.cumsum(draw.integers(1, 5, 37)).tolist()
    order = sorted(range(37), key=lambda index: index + draw.uniform(0, 4))  # decoded up to four places early
    times_of_decoding = [begins[index] - 20 for index in range(37)]
    packets = [packet(begins[index], dts) for index, dts in zip(order, times_of_decoding, strict=True)]
    moments = sorted(draw.uniform(begins[0], begins[-1] + 3, 7).tolist())
    told = [(of.pts, needed) for of, needed in _tell_needed([*packets, packet(None, None, 0)], moments) if of.size]
    assert [begin for begin, _ in told] == [of.pts for of in packets]
    on_screen = {max(begin for begin in begins if begin <= moment) for moment in moments}
    assert on_screen <= {begin for begin, needed in told if needed}
    following = dict(pairwise(begins))
    runs = [[told[0]]]
    for before, after in pairwise(told):
        if following.get(before[0]) == after[0]:
            runs[-1].append(after)
        else:
            runs.append([after])
    for run in runs:
        if any(following.get(begin, np.inf) > times_of_decoding[-1] for begin, _ in run):
            break  # nothing is certain any more: the last packets are all decoded
        assert {needed for _, needed in run} == {bool(on_screen & {begin for begin, _ in run})}


def test_without_b_frames_nothing_waits_and_nothing_is_left_out():
    """Decoding order equals display order: a run as long as the film."""
    packets = [packet(time, time) for time in range(100)]
    read = []
    told = _tell_needed((read.append(one) or one for one in packets), [50.5])
    for count, (_, needed) in enumerate(told):
        assert needed
        assert len(read) - count <= LONGEST_RUN + 2
    assert len(read) == 100


@pytest.mark.parametrize("suffix", [".ts", ".mp4"])
def test_the_two_fields_of_a_frame_are_decoded_together(tmp_path, suffix):
    """With a packet per field, a single field would be paired with a field of another frame."""
    path = tmp_path / f"fields{suffix}"
    levels = write_fields(path)
    begins, pixels = every_frame(path)
    assert [frame.mean() for frame in pixels] == pytest.approx(
        [(level - 16) * 255 / 219 for level in levels],
        abs=1,  # the grey range of television, rounded field by field
    )
    for seed in range(20):
        times = np.random.default_rng(seed).uniform(0.0, begins[-1], 2)
        shown = np.searchsorted(begins, times + 1e-6, side="right") - 1
        np.testing.assert_array_equal(frames_at(path, times.tolist()), np.stack([pixels[index] for index in shown]))
    with open_video(path) as (container, stream):
        assert len([*decode_needed(stream, container, [0.1])]) < len(begins)


@pytest.mark.parametrize("broken", [packet(None, 5), packet(7, None), packet(3, 9), packet(9, 1)])
def test_after_a_broken_time_everything_is_decoded(broken):
    packets = [packet(0, 0), packet(4, 1), packet(2, 2), broken, packet(20, 20), packet(21, 21)]
    told = [*_tell_needed(packets, [0.5])]
    assert [of for of, _ in told] == packets  # in the order of the file, none lost
    assert all(needed for of, needed in told[packets.index(broken) :])
