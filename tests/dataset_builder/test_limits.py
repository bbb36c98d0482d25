"""Videos that are too long or too large are refused in one line; today's codecs are read."""

import json
import resource
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from dataset_builder import build_corpus, load_recipe, read_corpus
from dataset_builder.errors import DamagedInput
from dataset_builder.video.container import open_video
from dataset_builder.video.frames import FrameFit, FrameSampler
from dataset_builder.video.limits import ProbeSettings
from tests.dataset_builder.make_videos import encode, square_frames, story


FIT = FrameFit(height_px=16, width_px=16)


def recipe_of(tower_dir, **overrides):
    values = {"segment.tower": str(tower_dir), "filter": None}
    return load_recipe("laptop", values | {key.replace("__", "."): value for key, value in overrides.items()})


def quarantined(folder: Path, recipe) -> dict[str, str]:
    encode(folder / "good.mp4", story(0))
    summary = build_corpus(folder, folder.parent / "out", recipe, workers=1, progress=False)
    assert [record.video_id for record in read_corpus(folder.parent / "out", "train")] == ["good"]
    assert summary.exit_code == 3
    lines = (folder.parent / "out" / "quarantine.jsonl").read_text().splitlines()
    return {fault["path"]: fault["reason"] for fault in map(json.loads, lines)}


def write_frames(
    path: Path, codec: str, frames, times_s=None, rate: int = 8, container_options=None, **options
) -> Path:
    """Frames of one size, in any codec, at any times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), mode="w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        assert isinstance(stream, av.VideoStream)
        first = frames[0]
        stream.height, stream.width, stream.pix_fmt = first.shape[0], first.shape[1], "yuv420p"
        stream.codec_context.thread_count = 1
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            if times_s is not None:
                frame.pts, frame.time_base = round(times_s[index] * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_ten_hours_are_refused_by_the_header(tower_dir, tmp_path):
    write_frames(tmp_path / "in/long.mp4", "libx264", story(0)[:3], times_s=[0, 1, 36000])
    found = quarantined(tmp_path / "in", recipe_of(tower_dir))
    assert found == {"long.mp4": "36000 s long; the recipe allows 21600 s (probe.max_duration_s)"}


def test_a_video_that_goes_on_past_its_header_is_stopped(tmp_path):
    """A recording of a stream has no duration in its header."""
    path = write_frames(tmp_path / "live.mkv", "libx264", story(0), container_options={"live": "1"})
    with open_video(path) as (container, _):
        assert container.duration is None
    limits = ProbeSettings(max_duration_s=2.5)
    with pytest.raises(DamagedInput, match=r"3 s long; the recipe allows 2 s \(probe\.max_duration_s\)"):
        list(FrameSampler(path, 2.0, FIT, 4, limits))
    assert sum(map(len, FrameSampler(path, 2.0, FIT, 4, ProbeSettings(max_duration_s=7.0)))) == 12


def test_frames_beyond_the_limit_are_refused_by_the_header(tower_dir, tmp_path):
    encode(tmp_path / "in/large.mp4", np.zeros((2, 96, 128, 3), dtype=np.uint8))
    found = quarantined(tmp_path / "in", recipe_of(tower_dir, probe__max_frame_px=10_000))
    assert found == {"large.mp4": "frames of 128x96 pixels; the recipe allows 10000 (probe.max_frame_px)"}


def test_8k_is_a_video(tower_dir, tmp_path):
    frames = [np.full((4320, 7680, 3), level, dtype=np.uint8) for level in (40, 50)]
    write_frames(tmp_path / "in/8k.mp4", "libx264", frames, preset="ultrafast")
    build_corpus(tmp_path / "in", tmp_path / "out", recipe_of(tower_dir), workers=1, progress=False)
    (record,) = read_corpus(tmp_path / "out", "train")
    assert (record.provenance["probe"]["width_px"], record.provenance["probe"]["height_px"]) == (7680, 4320)


def test_a_bomb_is_refused_before_it_takes_memory(tower_dir, tmp_path):
    """A few kilobytes that promise frames of 17 GB."""
    path = encode_gif(tmp_path / "in/bomb.gif")
    data = bytearray(path.read_bytes())
    data[6:10] = b"\xff\xff\xff\xff"  # width and height of the screen
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = quarantined(tmp_path / "in", recipe_of(tower_dir))
    assert list(found) == ["bomb.gif"]
    assert "\n" not in found["bomb.gif"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000, "KiB"


def encode_gif(path: Path, num_frames: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), mode="w") as container:
        stream = container.add_stream("gif", rate=8)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "rgb8"
        for pixels in story(0)[:num_frames]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="rgb8")))
        container.mux(stream.encode())
    return path


def test_frames_that_grow_on_the_way_are_refused_by_the_decoder(tmp_path):
    """The header of a raw stream gives only the first size."""
    small = write_frames(tmp_path / "a.h264", "libx264", story(0)[:8])
    large = write_frames(tmp_path / "b.h264", "libx264", [np.zeros((512, 512, 3), dtype=np.uint8)] * 8)
    both = tmp_path / "both.h264"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(DamagedInput, match="cannot be decoded after"):
        list(FrameSampler(both, 8.0, FIT, 4, ProbeSettings(max_frame_px=10_000)))
    assert sum(map(len, FrameSampler(both, 8.0, FIT, 4, ProbeSettings()))) > 8


@pytest.mark.parametrize(
    ("name", "encoder", "codec", "options"),
    [
        ("a.mp4", "libx265", "hevc", {"x265-params": "log-level=none"}),
        ("b.mkv", "libsvtav1", "av1", {"preset": "12", "svtav1-params": "avif=0"}),
        ("c.webm", "libvpx-vp9", "vp9", {"deadline": "realtime", "cpu-used": "8"}),
    ],
)
def test_codecs_of_today_are_read(tower_dir, tmp_path, name, encoder, codec, options):
    if encoder not in av.codecs_available:
        pytest.skip(f"this build of FFmpeg has no encoder {encoder} to write the test's video with")
    frames = np.concatenate([square_frames(16, (220, 30, 30), 10), square_frames(16, (30, 200, 40), 250)])
    write_frames(tmp_path / "in" / name, encoder, frames, **options)
    recipe = recipe_of(tower_dir, segment__penalty=0.01, segment__frames_per_segment=3.0)
    build_corpus(tmp_path / "in", tmp_path / "out", recipe, workers=1, progress=False)
    (record,) = read_corpus(tmp_path / "out", "train")
    assert codec in record.provenance["probe"]["codec"] or codec == "av1"
    assert record.duration_s == pytest.approx(4.0, abs=0.15)
    assert [clip.start_s for clip in record.clips] == [0.0, 2.0]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.gif", "a.ts", "a.avi"])
def test_one_frame_is_a_video(tower_dir, tmp_path, name):
    if name == "a.gif":
        encode_gif(tmp_path / "in" / name, num_frames=1)
    else:
        encode(tmp_path / "in" / name, story(0)[:1])
    summary = build_corpus(tmp_path / "in", tmp_path / "out", recipe_of(tower_dir), workers=1, progress=False)
    assert summary.exit_code == 0
    (record,) = read_corpus(tmp_path / "out", "train")
    (clip,) = record.clips
    assert (clip.start_s, clip.end_s) == (0.0, record.duration_s)
    assert 0 < record.duration_s <= 0.2
