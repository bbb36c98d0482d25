"""Decoding of videos whose every frame shows its number, also against reading whole files frame by frame."""

import builtins
import contextlib
import gc
import io

import av
import numpy as np
import pytest
from PIL import Image

from modeling_cosmo.video_cosmo import decode_video, uniform_times
from tests.modeling_cosmo.videos import HEIGHT, WIDTH, shown, write_video


RATE_HZ, NUM_FRAMES = 5, 23  # 4.6 s long


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A key frame every 7 frames, B-frames between."""
    return write_video(tmp_path_factory.mktemp("video") / "ramp.mp4", NUM_FRAMES, RATE_HZ, g="7", bf="3")


@pytest.fixture
def decoded(monkeypatch):
    """Count opened files and decoded frames."""
    counts = {"files": 0, "frames": 0}
    real = av.open

    class Counting:
        def __init__(self, container):
            self.container = container

        def __getattr__(self, name):
            return getattr(self.container, name)

        def __enter__(self):
            self.container.__enter__()
            return self

        def __exit__(self, *error):
            return self.container.__exit__(*error)

        def decode(self, *streams):
            for frame in self.container.decode(*streams):
                counts["frames"] += 1
                yield frame

    def counting_open(*args, **kwargs):
        counts["files"] += 1
        return Counting(real(*args, **kwargs))

    monkeypatch.setattr(av, "open", counting_open)
    return counts


def slow_decode(path, num_frames, start_s, end_s):
    """Read from the start and keep, for each time, the last frame that began; also return how many were read."""
    times = [start_s + (end_s - start_s) * (2 * part + 1) / (2 * num_frames) for part in range(num_frames)]
    latest = [None] * num_frames
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for num_read, frame in enumerate(container.decode(stream)):  # noqa: B007
            begin_s = float((frame.pts - (stream.start_time or 0)) * stream.time_base)
            latest = [frame if begin_s <= time_s + 1e-6 else last for time_s, last in zip(times, latest, strict=True)]
            if begin_s > times[-1]:
                break
        pixels = [np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)) for frame in latest]
    return np.stack(pixels).transpose(0, 3, 1, 2), num_read + 1


@pytest.mark.parametrize(
    ("num_frames", "start_s", "end_s"), [(1, 0, None), (3, 0, None), (5, 1.3, 2.9), (2, 4.2, 9.0), (31, 0.0, None)]
)
def test_frames_are_those_shown_at_their_times(video, num_frames, start_s, end_s):
    frames = decode_video(video, num_frames, start_s, end_s)
    assert frames.shape == (num_frames, 3, HEIGHT, WIDTH)
    assert frames.dtype == np.uint8
    assert frames.flags.c_contiguous
    end_s = min(NUM_FRAMES / RATE_HZ, end_s or 99)
    times = [start_s + (end_s - start_s) * (2 * i + 1) / (2 * num_frames) for i in range(num_frames)]
    assert shown(frames) == [int(time_s * RATE_HZ) for time_s in times]


def test_bytes_are_read_as_the_file(video):
    assert np.array_equal(decode_video(video.read_bytes(), 3), decode_video(str(video), 3))


def test_times_are_middles_of_equal_parts():
    assert uniform_times(3, 1.0, 7.0) == [2.0, 4.0, 6.0]


def test_only_the_frames_needed_are_decoded(tmp_path, decoded):
    """240 s with a key frame every 10 s: reading a few frames decodes a few groups of pictures, not the whole file."""
    group, delay = 50, 4  # frames of a group; frames that a decoder holds back to put B-frames in order
    path = write_video(tmp_path / "long.mp4", 1200, RATE_HZ, g=str(group), bf="3", sc_threshold="0")
    decoded["files"] = 0
    frames = decode_video(path, 3)
    assert shown(frames) == [i % 25 for i in (200, 600, 1000)]
    assert decoded["files"] == 1
    assert decoded["frames"] <= 3 * (1 + delay), "each lies at the begin of a group"
    decoded["frames"] = 0
    frames = decode_video(path, 3, start_s=100.2, end_s=106.8)  # from frame 501, all in one group
    assert shown(frames) == [i % 25 for i in (506, 517, 528)]
    assert decoded["frames"] <= 528 - 500 + 1 + delay, "forward from the key frame, no farther than the last one"
    decoded["frames"] = 0
    decode_video(path, 40, start_s=0.0, end_s=16.0)
    assert decoded["frames"] <= 80 + delay, "neighbours are decoded in one go"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("b_frames.mp4", {"g": "11", "bf": "5"}),
        ("open_groups.mp4", {"g": "6", "bf": "2", "x264-params": "open-gop=1"}),
        ("matroska.mkv", {"g": "9", "bf": "2"}),
        ("transport.ts", {"g": "9", "bf": "2"}),
        ("fragments.mp4", {"g": "5", "container": {"movflags": "frag_keyframe+empty_moov"}}),
        ("vp9.webm", {"codec": "libvpx-vp9", "g": "8"}),
        ("hevc.mp4", {"codec": "libx265", "x265-params": "keyint=7:bframes=3:log-level=none"}),
        ("mpeg4.avi", {"codec": "mpeg4", "g": "6", "q": "1"}),
        ("b_frames.avi", {"g": "9", "bf": "3"}),
        ("gif.gif", {"codec": "gif"}),
    ],
)
def test_containers_and_codecs(tmp_path, name, options):
    if options.get("codec", "libx264") not in av.codecs_available:
        pytest.skip(f"this PyAV has no {options['codec']}")
    path = write_video(tmp_path / name, NUM_FRAMES, RATE_HZ, **options)
    for num_frames, start_s, end_s in ((4, 0.0, None), (3, 2.1, 4.1), (1, 4.3, None)):
        frames = decode_video(path, num_frames, start_s, end_s)
        length_s = (end_s or 4.6) - start_s
        expect = [int(RATE_HZ * (start_s + (part + 0.5) * length_s / num_frames)) for part in range(num_frames)]
        assert shown(frames) == expect, (start_s, end_s)


def test_a_variable_frame_rate(tmp_path):
    """The frame at a time is the last that began, however long ago."""
    times = [0, 40, 80, 1000, 1040, 2500, 2520, 2540, 4000]  # ms
    path = write_video(tmp_path / "variable.mkv", len(times), 25, times=times, g="3", bf="0")
    frames = decode_video(path, 8, 0.0, 4.0)  # at 0.25, 0.75, ... 3.75 s
    assert shown(frames) == [2, 2, 4, 4, 4, 7, 7, 7]


def test_a_phones_rotation_is_undone(video):
    """The quarter turn is in the file's matrix, which is patched here."""
    data = video.read_bytes()
    identity = b"".join(v.to_bytes(4, "big") for v in (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30))
    quarter = (0, 65536, 0, -65536, 0, 0, HEIGHT * 65536, 0, 1 << 30)
    place = data.rindex(identity)  # the track's matrix; that of the movie comes first
    turned = data[:place] + b"".join(v.to_bytes(4, "big", signed=True) for v in quarter) + data[place + 36 :]
    frames = decode_video(turned, 3, 1.0, 2.2)
    assert frames.shape == (3, 3, WIDTH, HEIGHT)
    assert shown(frames) == shown(decode_video(data, 3, 1.0, 2.2))
    with av.open(io.BytesIO(turned)) as container:
        assert next(container.decode(video=0)).rotation % 360 == 270


def test_a_stream_that_does_not_say_how_long_it_is(tmp_path):
    """Such as recordings from browsers: the length comes from reading the packets."""
    path = write_video(tmp_path / "live.webm", NUM_FRAMES, RATE_HZ, codec="libvpx-vp9", container={"live": "1"})
    with av.open(str(path)) as container:
        assert container.duration is None
        assert container.streams.video[0].duration is None
    assert shown(decode_video(path, 4)) == [2, 8, 14, 20]


def test_sound_that_goes_on_after_the_pictures(tmp_path):
    """The last picture stays, as in a player."""
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=RATE_HZ, options={"crf": "1"})
        pictures.width, pictures.height, pictures.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=8000)
        for index in range(5):
            pixels = np.full((HEIGHT, WIDTH, 3), 10 * index, np.uint8)
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(pictures.encode())
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 24_000), np.int16), format="s16", layout="mono")
        samples.rate = 8000  # 3 s
        container.mux([*sound.encode(samples), *sound.encode()])
    assert shown(decode_video(path, 2)) == [1, 3]
    data = path.read_bytes().replace(b"DURATION", b"NOTATION")  # without it, only the length with sound is known
    assert shown(decode_video(data, 3)) == [2, 4, 4]


@pytest.mark.parametrize("clock", ["9e999:00:00.000000", "nan:00:00.00000000", "00:00:00.000000000", "x"])
def test_a_length_that_is_no_length(tmp_path, clock):
    """If the file states a nonsense length, its other lengths count."""
    data = write_video(tmp_path / "clip.mkv", 10, RATE_HZ).read_bytes()
    assert data.count(b"00:00:02.000000000") == 1
    data = data.replace(b"00:00:02.000000000", clock.encode().ljust(18, b"\0"))
    assert shown(decode_video(data, 2)) == [2, 7]


def test_one_frame(tmp_path):
    path = write_video(tmp_path / "one.mp4", 1, RATE_HZ)
    assert decode_video(path, 3).shape == (3, 3, HEIGHT, WIDTH)
    still = tmp_path / "still.gif"
    Image.new("RGB", (11, 7), (200, 0, 0)).save(still)
    assert decode_video(still, 2).shape == (2, 3, 7, 11)


@pytest.mark.parametrize("name", ["my clip.mp4", "клип №1.mp4", "片段.mp4", "12:30 talk.mp4", "100%.mp4", "-y.mp4"])
def test_names_of_all_kinds(video, tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(video.read_bytes())
    assert shown(decode_video(tmp_path / name, 2)) == [5, 17]
    monkeypatch.chdir(tmp_path)
    assert shown(decode_video(name, 2)) == [5, 17]


def test_a_playlist_opens_no_other_file(video, tmp_path):
    """FFmpeg would open whatever files it names."""
    text = f"#EXTM3U\n#EXTINF:4.6,\n{video}\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(text)
    for source in (tmp_path / "list.m3u8", text.encode()):
        with pytest.raises(ValueError, match="cannot be decoded"):
            decode_video(source, 1)


def test_frames_that_an_avi_leaves_out(tmp_path):
    """The file's clock has gaps there."""
    path = write_video(tmp_path / "gaps.avi", 20, 10, codec="mpeg4", q="1", times=[200 * i for i in range(20)])
    assert shown(decode_video(path, 4, 1.0, 3.0)) == [6, 8, 11, 13]  # at 1.25, 1.75, 2.25, 2.75 s


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts"])
def test_damage_of_any_kind_gives_frames_or_a_value_error(tmp_path, name):
    whole = write_video(tmp_path / name, NUM_FRAMES, RATE_HZ, g="7").read_bytes()
    draw = np.random.default_rng(0)
    for trial in range(40):
        data = bytearray(whole[: draw.integers(1, len(whole))] if trial % 3 == 0 else whole)
        for place in draw.integers(len(data), size=trial % 9):
            data[place] = draw.integers(256)
        with contextlib.suppress(ValueError):
            assert decode_video(bytes(data), 3).shape[:2] == (3, 3)


def test_times_at_the_end_of_the_clock(tmp_path):
    """A damaged fragment may begin there; a time after it does not fit into FFmpeg's 64 bits."""
    path = write_video(
        tmp_path / "a.mp4", NUM_FRAMES, RATE_HZ, g="7", container={"movflags": "frag_keyframe+empty_moov"}
    )
    data = bytearray(path.read_bytes())
    place = 0
    while (place := data.find(b"tfdt", place + 1)) > 0:
        data[place + 8] = 0x7F  # the first of 8 bytes of a fragment's start
    with contextlib.suppress(ValueError):
        assert decode_video(bytes(data), 3).shape[:2] == (3, 3)


def test_files_are_closed(video, tmp_path):
    for source in (video, tmp_path / "none.mp4"):
        (tmp_path / "none.mp4").write_bytes(b"none")
        for _ in range(3):
            try:
                decode_video(source, 1)
            except ValueError:
                continue
    gc.collect()  # a file left open would warn here, and warnings are errors


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


def test_real_videos(samples_dir, decoded):
    """For every file of the samples: the same frames as reading from its start gives, with fewer decoded."""
    paths = sorted(path for path in (samples_dir / "videos").rglob("*.m*") if path.suffix in (".mp4", ".mkv"))
    num_read = num_slow = 0
    for path in paths:
        with av.open(str(path)) as container:
            middle_s = container.duration / 2e6
        expect, of_file = slow_decode(path, 3, middle_s, middle_s + 0.4)
        decoded["frames"] = 0
        assert np.array_equal(decode_video(path, 3, middle_s, middle_s + 0.4), expect), path
        num_read, num_slow = num_read + decoded["frames"], num_slow + of_file
    assert len(paths) > 20
    assert num_read < 0.7 * num_slow, "most samples are short, with one key frame"
