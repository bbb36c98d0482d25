import pytest

from dataset_builder.errors import DamagedInput
from dataset_builder.speech import attach_speech
from dataset_builder.subtitles import Sentence, read_subtitles


VTT = """WEBVTT - made by hand

STYLE
::cue { color: red }

NOTE a comment

intro
00:01.000 --> 00:02.500 align:start position:0%
<v Ann>Take the <b>red</b> star &amp; hold it</v>

01:02:03.250 --> 01:02:04.000
second
line
"""
SRT = (
    "\ufeff1\r\n00:00:01,000 --> 00:00:02,500\r\n{\\an8}first\r\n\r\n2\r\n00:00:03,000 --> 00:00:04,000\r\nsecond\r\n"
)


def cues(path):
    return [(cue.start_s, cue.end_s, cue.text) for cue in read_subtitles(path).sentences]


def test_webvtt(tmp_path):
    path = tmp_path / "a.vtt"
    path.write_text(VTT)
    assert cues(path) == [(1.0, 2.5, "Take the red star & hold it"), (3723.25, 3724.0, "second line")]
    assert read_subtitles(path).fault == ""


def test_srt(tmp_path):
    path = tmp_path / "a.srt"
    path.write_bytes(SRT.encode())
    assert cues(path) == [(1.0, 2.5, "first"), (3.0, 4.0, "second")]


def test_rolling_captions_say_each_line_once(tmp_path):
    path = tmp_path / "a.vtt"
    path.write_text(
        "WEBVTT\n\n00:00.000 --> 00:01.000\none<00:00.500><c> and</c>\n\n00:01.000 --> 00:02.000\none and\ntwo\n\n"
        "00:02.000 --> 00:03.000\ntwo\nthree\n"
    )
    assert cues(path) == [(0.0, 1.0, "one and"), (1.0, 2.0, "two"), (2.0, 3.0, "three")]


@pytest.mark.parametrize(
    "times", ["00:00:05.000 --> 00:00:04.000", "00:00:aa.000 --> 00:00:04.000", "5 --> 7", "00:00:01.000 -->"]
)
def test_broken_times_are_left_out_and_named(tmp_path, times):
    path = tmp_path / "a.vtt"
    path.write_text(f"WEBVTT\n\n{times}\nlost\n\n00:00:06.000 --> 00:00:07.000\nheard\n")
    assert cues(path) == [(6.0, 7.0, "heard")]
    assert read_subtitles(path).fault == f"line 3 has broken times {times!r} (1 such cues left out)"


@pytest.mark.parametrize(
    ("content", "reason"), [(b"\xff\xfe\x00", "not UTF-8"), (b"just prose\n", "without a single cue")]
)
def test_what_is_no_subtitle_is_damaged(tmp_path, content, reason):
    path = tmp_path / "a.vtt"
    path.write_bytes(content)
    with pytest.raises(DamagedInput, match=reason):
        read_subtitles(path)


def test_an_empty_subtitle_says_nothing(tmp_path):
    path = tmp_path / "a.vtt"
    path.write_text("WEBVTT\n")
    assert cues(path) == []
    assert read_subtitles(path).fault == ""


def test_each_sentence_belongs_to_one_clip():
    said = [
        (0.5, 1.5, "in 0"),
        (1.5, 2.9, "more in 1"),
        (1.0, 3.0, "tie"),
        (4.9, 5.9, "late"),
        (6.9, 8.0, "later"),
        (99, 100, "never"),
    ]
    sentences = [Sentence(start_s=a, end_s=b, text=text) for a, b, text in said]
    assert attach_speech(sentences, [(0.0, 2.0), (2.0, 3.5), (3.5, 5.0)]) == ["in 0 tie", "more in 1", "late later"]
