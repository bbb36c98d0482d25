"""Decoding against videos whose every frame says which one it is."""

import builtins
import io

import av
import numpy as np
import pytest

from modeling_cosmo.video_cosmo import decode_video, uniform_times


RATE_HZ, NUM_FRAMES, STEP = 5, 23, 10  # brightness of frame i: 10 x i; 4.6 s long


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "ramp.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE_HZ, options={"g": "7", "crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for index in range(NUM_FRAMES):
            picture = np.full((16, 32, 3), STEP * index, dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def shown(frames):
    """Which frames these are; compression changes brightness by a few steps of 255."""
    return [round(float(frame.mean()) / STEP) for frame in frames]


@pytest.mark.parametrize(
    ("num_frames", "start_s", "end_s"), [(1, 0, None), (3, 0, None), (5, 1.3, 2.9), (2, 4.2, 9.0), (31, 0.0, None)]
)
def test_frames_are_those_shown_at_their_times(video, num_frames, start_s, end_s):
    frames = decode_video(video, num_frames, start_s, end_s)
    assert frames.shape == (num_frames, 3, 16, 32)
    assert frames.dtype == np.uint8
    end_s = min(NUM_FRAMES / RATE_HZ, end_s or 99)
    times = [start_s + (end_s - start_s) * (2 * i + 1) / (2 * num_frames) for i in range(num_frames)]
    assert shown(frames) == [int(time_s * RATE_HZ) for time_s in times]


def test_bytes_are_read_as_the_file(video):
    assert np.array_equal(decode_video(video.read_bytes(), 3), decode_video(str(video), 3))


def test_times_are_middles_of_equal_parts():
    assert uniform_times(3, 1.0, 7.0) == [2.0, 4.0, 6.0]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (None, {"start_s": 4.7}, "no frame from 4.7 s to 4.6 s"),
        (None, {"start_s": 3.0, "end_s": 2.0}, "no frame from 3.0 s to 2.0 s"),
        (lambda data: b"no video", {}, "video of 8 bytes cannot be decoded"),
        (lambda data: data[: len(data) // 2], {}, "cannot be decoded"),
    ],
)
def test_bad_videos_are_named(video, change, options, message):
    source = video if change is None else change(video.read_bytes())
    with pytest.raises(ValueError, match=message):
        decode_video(source, 2, **options)


def test_sound_alone_is_no_video():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.rate = 8000
        for packet in [*stream.encode(sound), *stream.encode()]:
            container.mux(packet)
    with pytest.raises(ValueError, match="has no picture stream"):
        decode_video(buffer.getvalue(), 2)


def test_given_frames_need_no_decoder_and_files_say_what_does(video, processor, monkeypatch):
    real = builtins.__import__

    def without_av(name, *args, **kwargs):
        if name == "av":
            raise ImportError("no av here")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_av)
    assert processor(videos=[[np.zeros((2, 3, 8, 8), np.uint8)]])["pixel_values"].shape == (1, 1, 2, 3, 8, 8)
    with pytest.raises(ImportError, match="pip install av"):
        processor(videos=[[str(video)]])


def test_real_videos(samples_dir, processor):
    """Every container and codec of the samples gives its frames."""
    for path in sorted((samples_dir / "videos").rglob("*.m*")):
        if path.suffix in (".mp4", ".mkv") and "damaged" not in str(path):
            assert decode_video(path, 2).shape[:2] == (2, 3), path
