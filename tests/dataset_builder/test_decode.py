"""Frames by time, against decoding the whole file and picking by hand."""

from fractions import Fraction

import av
import numpy as np
import pytest

from dataset_builder import Clip, InterleavedVideo, decode_clip, decode_clips, to_row
from dataset_builder.errors import DamagedInput
from dataset_builder.video import decode
from dataset_builder.video.container import decode_forward
from dataset_builder.video.decode import frames_at, middle_times
from dataset_builder.video.frames import FrameFit, FrameSampler
from tests.dataset_builder.make_videos import encode


RATE, NUM_FRAMES = 7, 53  # 53 frames at 7 per second: no boundary falls on a round time


def numbered_frames() -> np.ndarray:
    """Frame k is grey level 4 * k + 20, so that a frame tells its number: `(F, 48, 80, 3)`."""
    levels = (4 * np.arange(NUM_FRAMES) + 20).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (NUM_FRAMES, 48, 80, 3))


def numbers_of(frames: np.ndarray) -> list[int]:
    """Which frames these are; lossy coding moves a flat grey by at most a level or two of the four between frames."""
    return [round((float(frame.mean()) - 20) / 4) for frame in frames]


@pytest.fixture(scope="module", params=["video.mp4", "video.mkv", "video.avi"])
def video(request, tmp_path_factory):
    return encode(tmp_path_factory.mktemp("numbered") / request.param, numbered_frames(), RATE)


def number_at(time_s: float) -> int:
    return min(int(time_s * RATE + 1e-6), NUM_FRAMES - 1)


@pytest.mark.parametrize("seed", range(5))
def test_any_times_in_any_order(video, seed):
    times = np.random.default_rng(seed).uniform(0, NUM_FRAMES / RATE + 1, size=11).tolist()
    times += times[:2]  # the same frame may be wanted twice
    assert numbers_of(frames_at(video, times)) == [number_at(time_s) for time_s in times]


def test_late_times_are_reached_by_a_jump(video, monkeypatch):
    """Where the container knows times, no frame before the last key frame is decoded."""
    decoded = []

    def watch(*args):
        for timed in decode_forward(*args):
            decoded.append(timed.start_s)
            yield timed

    monkeypatch.setattr(decode, "decode_forward", watch)
    assert numbers_of(frames_at(video, [7.0])) == [49]
    if video.suffix == ".avi":  # stores no times of presentation
        assert decoded[0] == 0.0
    else:
        assert decoded[0] > 5.5  # a key frame every 8 frames


def test_decode_clip_takes_the_middle_of_equal_parts(video):
    record = InterleavedVideo(
        video_id="v",
        video_bytes=video.read_bytes(),
        duration_s=NUM_FRAMES / RATE,
        clips=(Clip(start_s=0.0, end_s=2.0), Clip(start_s=2.0, end_s=7.5)),
    )
    frames = decode_clip(record, 1, 3)
    assert frames.shape == (3, 3, 48, 80)
    assert frames.dtype == np.uint8
    expected = [number_at(2.0 + 5.5 * (2 * part + 1) / 6) for part in range(3)]
    assert numbers_of(frames) == expected
    np.testing.assert_array_equal(decode_clip(to_row(record), 1, 3), frames)
    both = decode_clips(record, [1, 0], 3)
    np.testing.assert_array_equal(both[0], frames)
    np.testing.assert_array_equal(both[1], decode_clip(record, 0, 3))


def test_middle_times():
    assert middle_times(2.0, 5.0, 3) == [2.5, 3.5, 4.5]


def test_sampling_takes_what_is_shown_in_the_middle_of_each_stretch(video):
    sampler = FrameSampler(video, 2.0, FrameFit(height_px=48, width_px=80), batch=5)
    batches = list(sampler)
    assert [len(batch) for batch in batches] == [5, 5, 5]
    # 53 / 7 = 7.57 s: the last middle, 7.25 s, still lies inside
    assert numbers_of(np.concatenate(batches)) == [number_at((k + 0.5) / 2) for k in range(15)]
    assert sampler.duration_s == pytest.approx(NUM_FRAMES / RATE, abs=0.01)
    assert (sampler.facts.width_px, sampler.facts.height_px) == (80, 48)


def test_sampling_faster_than_the_video_repeats_frames(video):
    frames = np.concatenate(list(FrameSampler(video, 14.0, FrameFit(height_px=48, width_px=80), batch=64)))
    assert numbers_of(frames[:6]) == [0, 0, 1, 1, 2, 2]


def test_a_single_frame_is_a_video(tmp_path):
    path = encode(tmp_path / "one.mp4", numbered_frames()[:1], RATE)
    assert len(np.concatenate(list(FrameSampler(path, 2.0, FrameFit(height_px=48, width_px=80), batch=4)))) == 1


def test_a_phones_rotation_is_undone(tmp_path):
    """The header of an mp4 may ask for a quarter turn; FFmpeg leaves it to the player."""
    frames = np.zeros((5, 48, 80, 3), dtype=np.uint8)
    frames[:, :, :40] = 250  # left half bright
    data = encode(tmp_path / "turned.mp4", frames, RATE).read_bytes()
    identity = b"".join(int(value).to_bytes(4, "big") for value in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
    quarter = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]  # clockwise by 90 degrees: left comes to the top
    matrix = b"".join(value.to_bytes(4, "big", signed=True) for value in quarter)
    track = data.index(b"tkhd")
    place = data.index(identity, track)
    turned = frames_at(data[:place] + matrix + data[place + 36 :], [0.1])
    assert turned.shape == (1, 80, 48, 3)
    assert turned[0, :36].min() > 200
    assert turned[0, 44:].max() < 50
    sampler = FrameSampler(data[:place] + matrix + data[place + 36 :], 2.0, FrameFit(height_px=8, width_px=8), batch=4)
    (sampled,) = sampler
    assert sampled[0, :3].min() > 200
    assert sampled[0, 5:].max() < 50


def record_at(path: str | None) -> InterleavedVideo:
    return InterleavedVideo(video_id="v", video_path=path, duration_s=1.0, clips=(Clip(start_s=0.0, end_s=1.0),))


def test_a_path_from_data_stays_in_the_corpus_folder(tmp_path):
    outside = encode(tmp_path / "secret.mp4", numbered_frames()[:9], RATE)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "link.mp4").symlink_to(outside)
    for path in ("../secret.mp4", str(outside), "link.mp4", "a/../../secret.mp4"):
        with pytest.raises(ValueError, match="leads out of the corpus folder"):
            decode_clip(record_at(path), 0, 1, root=corpus)
    with pytest.raises(ValueError, match=r"there is no file 'gone\.mp4' in the corpus folder"):
        decode_clip(record_at("gone.mp4"), 0, 1, root=corpus)
    for path in (None, "link.mp4"):
        with pytest.raises(ValueError, match="give root="):
            decode_clip(record_at(path), 0, 1)


def test_a_playlist_that_poses_as_a_video_opens_nothing(tmp_path):
    encode(tmp_path / "other.ts", numbered_frames()[:9], RATE)
    playlists = [
        "ffconcat version 1.0\nfile other.ts\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n",
    ]
    for text in playlists:
        path = tmp_path / "innocent.mp4"
        path.write_text(text)
        with pytest.raises(DamagedInput, match="not a video"):
            frames_at(path, [0.0])


def test_wrong_requests_are_named():
    with pytest.raises(ValueError, match="v has 1 clips; there is no clip 1"):
        decode_clip(record_at("x.mp4"), 1, 3)
    with pytest.raises(ValueError, match="num_frames is 0"):
        decode_clip(record_at("x.mp4"), 0, 0)


def test_recordings_joined_byte_by_byte_are_broken(tmp_path):
    """The clock begins anew: the second part would be lost without a word."""
    part = encode(tmp_path / "part.ts", numbered_frames(), RATE).read_bytes()
    fit = FrameFit(height_px=48, width_px=80)
    assert len(np.concatenate(list(FrameSampler(part, 2.0, fit, batch=4)))) == 15
    with pytest.raises(DamagedInput, match=r"^broken timestamps: from 7 s back to 0 s$"):
        list(FrameSampler(part + part, 2.0, fit, batch=4))


@pytest.mark.parametrize("seed", range(3))
def test_frames_of_a_variable_rate_are_sampled_by_their_times(tmp_path, seed):
    """As phones and screen recorders write: some frames last a moment, some for seconds."""
    draw = np.random.default_rng(seed)
    begins = np.concatenate([[0.0], np.cumsum(draw.choice([0.02, 0.1, 0.5, 2.7], NUM_FRAMES - 1))])
    path = tmp_path / "variable.mkv"
    with av.open(str(path), mode="w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = 48, 80, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for begin_s, pixels in zip(begins, numbered_frames(), strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = round(begin_s * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    sampler = FrameSampler(path, 2.0, FrameFit(height_px=48, width_px=80), batch=7)
    found = numbers_of(np.concatenate(list(sampler)))
    middles = (np.arange(len(found)) + 0.5) / 2
    assert found == (np.searchsorted(begins, middles + 1e-6, side="right") - 1).tolist()
    assert begins[-1] <= sampler.duration_s < begins[-1] + 3
    assert len(found) == round(sampler.duration_s * 2)


def test_a_gap_of_hours_between_frames_is_a_broken_timestamp(tmp_path):
    path = tmp_path / "gap.mkv"
    with av.open(str(path), mode="w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = 48, 80, "yuv420p"
        for second in (0, 1, 2, 4000):
            frame = av.VideoFrame.from_ndarray(numbered_frames()[0], format="rgb24")
            frame.pts = second * RATE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(DamagedInput, match="broken timestamps: a frame that is shown from"):
        list(FrameSampler(path, 1.0, FrameFit(height_px=48, width_px=80), batch=4))
