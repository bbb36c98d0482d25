"""Sound decoded by PyAV, and a tiny random Whisper of the real classes with a real tokenizer and processor."""

from pathlib import Path

import av
import numpy as np
import pytest

from dataset_builder import DamagedInput, build_corpus, load_recipe, read_corpus
from dataset_builder.models.whisper import WhisperListener, without_loops
from dataset_builder.text.subtitles import Sentence
from dataset_builder.video.sound import decode_sound
from tests.dataset_builder.make_videos import RATE, encode, story
from tests.dataset_builder.tiny_whisper import write_whisper


def with_sound(path: Path, samples: np.ndarray, rate_hz: int, delay_s: float = 0.0) -> Path:
    """A silent story with a sound track that begins later."""
    with av.open(str(path), mode="w") as container:
        video = container.add_stream("libx264", rate=RATE)
        video.height, video.width, video.pix_fmt = 64, 64, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=rate_hz, layout="stereo")
        for pixels in story(0):
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode())
        both = np.repeat((samples * 32767).astype(np.int16), 2)[None]  # packed stereo, both sides alike
        frame = av.AudioFrame.from_ndarray(both, format="s16", layout="stereo")
        frame.sample_rate = rate_hz
        frame.pts = round(delay_s * rate_hz)
        container.mux(audio.encode(frame))
        container.mux(audio.encode())
    return path


def tone(seconds: float, rate_hz: int) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 100 * np.arange(int(seconds * rate_hz)) / rate_hz)


@pytest.mark.parametrize("delay_s", [0.0, 0.7])
def test_sound_is_mono_at_the_asked_rate_and_on_the_pictures_clock(tmp_path, delay_s):
    path = with_sound(tmp_path / "a.mkv", tone(3.1, 44100), 44100, delay_s)
    windows = list(decode_sound(path, 16000, window_s=1.0))
    assert [len(window) for window in windows[:-1]] == [16000] * (len(windows) - 1)
    found = np.concatenate(windows)
    expected = np.concatenate([np.zeros(round(delay_s * 16000)), tone(3.1, 16000)])
    assert abs(len(found) - len(expected)) < 40  # the resampler's own delay
    middle = slice(round((delay_s + 0.2) * 16000), round((delay_s + 2.9) * 16000))
    # 16 bits and another resampling filter than the sine itself: a few thousandths of the amplitude 0.5
    np.testing.assert_allclose(found[middle], expected[middle], atol=0.02)
    assert np.abs(found[: max(0, round(delay_s * 16000) - 50)]).max(initial=0.0) == 0.0


def test_a_video_without_sound_is_silent_and_a_broken_one_is_told(tmp_path):
    assert list(decode_sound(encode(tmp_path / "a.mp4", story(0)), 16000, 1.0)) == []
    (tmp_path / "b.mp4").write_bytes(b"no sound")
    for video in (b"no sound", tmp_path / "b.mp4"):
        with pytest.raises(DamagedInput, match=r"the sound cannot be decoded \(Invalid data found[^/]*\)$"):
            list(decode_sound(video, 16000, 1.0))


def test_sound_of_a_file_with_a_colon_in_its_name(tmp_path, monkeypatch):
    with_sound(tmp_path / "Part1: a.mkv", tone(1.0, 16000), 16000)
    monkeypatch.chdir(tmp_path)
    assert len(list(decode_sound(Path("Part1: a.mkv"), 16000, 1.0))) >= 1


def test_sound_that_begins_a_day_late_is_not_waited_for_in_memory(tmp_path):
    """Sixteen thousand zeros a second: a broken timestamp would take gigabytes."""
    path = with_sound(tmp_path / "a.mkv", tone(0.5, 16000), 16000, delay_s=95443.7)  # a transport stream's clock at 0
    with pytest.raises(DamagedInput, match=r"^broken timestamps: sound that begins 95444 s late$"):
        list(decode_sound(path, 16000, 1.0))


@pytest.fixture(scope="module")
def whisper_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whisper")
    write_whisper(folder)
    return folder


def test_sentences_have_times_within_the_sound(whisper_dir, tmp_path):
    listen = WhisperListener(str(whisper_dir), "en")
    path = with_sound(tmp_path / "a.mkv", tone(5.0, 16000), 16000)
    sentences = listen(path)
    assert sentences, "a random model says something"
    assert all(0 <= one.start_s < one.end_s <= 5.1 and one.text for one in sentences)
    assert list(sentences) == list(listen(path)), "greedy: the same every time"
    assert listen(encode(tmp_path / "silent.mp4", story(0))) == []
    assert listen.provenance()["language"] == "en"
    assert len(listen.provenance()["weights"]) == 16


def test_sound_longer_than_the_models_window_is_heard_to_its_end(whisper_dir, tmp_path):
    sentences = WhisperListener(str(whisper_dir), None)(with_sound(tmp_path / "a.mkv", tone(67.0, 8000), 8000))
    assert sentences[-1].end_s > 30
    assert [one.start_s for one in sentences] == sorted(one.start_s for one in sentences)


def test_a_build_listens_where_no_subtitles_lie_beside(whisper_dir, tower_dir, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("heard", "read"):
        with_sound(tmp_path / "in" / f"{name}.mkv", tone(5.0, 16000), 16000)
    (tmp_path / "in" / "read.vtt").write_text("WEBVTT\n\n00:00:01.000 --> 00:00:02.000\nwritten down\n")
    values = {"segment.tower": str(tower_dir), "speech.checkpoint": str(whisper_dir), "filter": None}
    build_corpus(tmp_path / "in", tmp_path / "out", load_recipe("laptop", values), workers=1, progress=False)
    records = {record.video_id: record for record in read_corpus(tmp_path / "out", "train")}
    assert records["heard"].provenance["speech"]["tool"] == "whisper"
    assert any(clip.asr for clip in records["heard"].clips)
    assert records["read"].provenance["speech"]["tool"] == "subtitles"
    assert " ".join(clip.asr for clip in records["read"].clips).split() == ["written", "down"]


def test_a_folder_that_is_no_whisper_is_told_in_one_line(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot load the Whisper model") as refusal:
        WhisperListener(str(tmp_path), None)
    assert "\n" not in str(refusal.value)


def test_loops_are_left_out():
    def said(texts: str) -> list[Sentence]:
        return [Sentence(start_s=index, end_s=index + 1, text=text) for index, text in enumerate(texts)]

    assert [one.text for one in without_loops(said("abbbacccca"))] == list("abbbaa")
