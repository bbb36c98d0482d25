import json

import numpy as np
import pytest

from dataset_builder import build_corpus, load_recipe, read_corpus
from dataset_builder.errors import DamagedInput
from dataset_builder.text.attach import attach_by_content, attach_by_overlap, phrases_of
from dataset_builder.text.collection_captions import read_items
from dataset_builder.text.subtitles import Sentence, read_subtitles
from tests.dataset_builder.make_videos import encode, story


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


def test_what_is_said_again_after_a_pause_is_said_again(tmp_path):
    path = tmp_path / "a.srt"
    times = ("00:00:01,000 --> 00:00:02,000", "00:00:02,400 --> 00:00:03,000", "00:00:09,000 --> 00:00:10,000")
    path.write_text("\n".join(f"{number}\n{span}\nstir well\n" for number, span in enumerate(times, 1)))
    assert cues(path) == [(1.0, 2.0, "stir well"), (9.0, 10.0, "stir well")]


@pytest.mark.parametrize(
    "times",
    [
        "00:00:05.000 --> 00:00:04.000",
        "00:00:aa.000 --> 00:00:04.000",
        "5 --> 7",
        "00:00:01.000 -->",
        "00:00:01.000 --> 999999:00:00.000",
    ],
)
def test_broken_times_are_left_out_and_named(tmp_path, times):
    path = tmp_path / "a.vtt"
    path.write_text(f"WEBVTT\n\n{times}\nlost\n\n00:00:06.000 --> 00:00:07.000\nheard\n")
    assert cues(path) == [(6.0, 7.0, "heard")]
    assert read_subtitles(path).fault == f"line 3 has broken times {times!r} (1 such cues left out)"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe\x00", "not UTF-16 text"),
        (b"just prose\n", "without a single cue"),
        (b"just a caf\xe9\n", "not UTF-8 text; read as cp1252: subtitles without a single cue"),
        (
            "WEBVTT\n\n00:01.000 --> 00:02.000\ncaf\xe9 d\xe9j\xe0 o\xf9".encode() + b"\xff",
            "not UTF-8 text .invalid start byte",
        ),
    ],
)
def test_what_is_no_subtitle_is_damaged(tmp_path, content, reason):
    path = tmp_path / "a.vtt"
    path.write_bytes(content)
    with pytest.raises(DamagedInput, match=reason):
        read_subtitles(path)


def test_cues_without_blank_lines_and_times_without_milliseconds(tmp_path):
    path = tmp_path / "a.srt"
    path.write_text(
        "1\n00:00:01 --> 00:00:02\nat 12\n7\n2\n00:00:03,5 --> 00:00:04\n3\n00:00:05 --> 00:00:06\n10\n\n4\n"
    )
    assert cues(path) == [(1.0, 2.0, "at 12 7"), (5.0, 6.0, "10")]
    assert read_subtitles(path).fault == ""


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("if a < b and c > d: List<String> -> x <y>", "if a < b and c > d: List<String> -> x <y>"),
        ("<font color=red>a</font> <I>b</I><br/><c.yellow.bg>c</c> <lang en>d</lang>", "a bc d"),
        ("<00:00:01.500><v.loud Ann B>hi</v>{\\an8} {not markup} &lt;b&gt;", "hi {not markup} <b>"),
    ],
)
def test_markup_goes_and_what_was_said_stays(tmp_path, said, kept):
    (tmp_path / "a.vtt").write_text(f"WEBVTT\n\n00:01.000 --> 00:02.000\n{said}\n")
    assert cues(tmp_path / "a.vtt") == [(1.0, 2.0, kept)]


RUSSIAN = "Теперь режем лук и кладём его на сковороду, пока он не станет золотистым."  # noqa: RUF001
CHINESE = "现在把洋葱切碎，然后放进锅里"  # noqa: RUF001
FRENCH = "Là, on coupe les légumes très fins à côté du bœuf"


@pytest.mark.parametrize(
    ("said", "encoding", "guess"),
    [
        (FRENCH, "utf-8-sig", ""),
        (FRENCH, "utf-16", ""),
        (FRENCH, "utf-32", ""),
        ("erster café", "latin-1", "cp1252"),
        ("a chef\u2019s café \u2013 why not", "cp1252", "cp1252"),
        (RUSSIAN, "cp1251", "cp1251"),
        (CHINESE, "gbk", "gb18030"),
    ],
)
def test_encodings(tmp_path, said, encoding, guess):
    """What is not Unicode is guessed, and the guess is part of the result."""
    path = tmp_path / "a.srt"
    path.write_bytes(f"1\r\n00:00:01,000 --> 00:00:02,000\r\n{said}\r\n".encode(encoding))
    assert cues(path) == [(1.0, 2.0, said)]
    assert read_subtitles(path).encoding == guess


ASS = """[Script Info]
ScriptType: v4.00+

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: 0,0:00:03.50,0:00:05.50,Default,,0,0,0,,second, if a < b
Dialogue: 0,0:00:00.50,0:00:02.50,Default,,0,0,0,,{\\i1}first{\\i0}\\Nline
Comment: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,not said
Dialogue: 0,0:00:06.00,0:00:07.00,Default,,0,0,0,,{\\p1}m 0 0 l 10 10{\\p0}
"""
TTML = """<tt xmlns="http://www.w3.org/ns/ttml"><body><div>
<p begin="00:00:00.500" end="00:00:02.500">first<br/><span>line</span></p>
<p begin="3.5s" end="5500ms">second, if a &lt; b</p>
</div></body></tt>
"""


@pytest.mark.parametrize(("name", "content"), [("a.ass", ASS), ("a.SSA", ASS), ("a.ttml", TTML)])
def test_ass_ssa_and_ttml(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    assert cues(path) == [(0.5, 2.5, "first line"), (3.5, 5.5, "second, if a < b")]
    assert read_subtitles(path).fault == ""
    path.write_text(content.replace("0:00:05.50", "0:00:01.50").replace("5500ms", "1.5s"))
    assert cues(path) == [(0.5, 2.5, "first line")]
    assert "has broken times 3.5 and 1.5 (1 such cues left out)" in read_subtitles(path).fault


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.ass", "just prose", "without a single cue"),
        ("a.ass", ASS.replace("0:00:03.50", "soon"), r"cannot be read as ASS \(Failed to parse timestamp: 'soon'\)"),
        ("a.ttml", TTML[:-20], "cannot be read as TTML"),
        ("a.ttml", TTML.replace("3.5s", "100f"), "cannot be read as TTML .Unsupported time expression: 100f"),
        ("a.ttml", TTML.replace("<span>", "<span>" * 20_000).replace("</span>", "</span>" * 20_000), "as TTML"),
    ],
)
def test_what_pysubs2_cannot_read_is_damaged(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DamagedInput, match=reason) as refusal:
        read_subtitles(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "expected", "encoding"),
    [
        (
            "no_blank_lines.srt",
            [(0.5, 2.5, "first line"), (3.5, 5.5, "second line"), (7.0, 9.0, "if a < b and c > d then stop")],
            "",
        ),
        ("whole_seconds.srt", [(0.0, 2.0, "first line"), (3.0, 5.0, "second line")], ""),
        ("utf16.srt", [(0.5, 2.5, "erster café"), (3.5, 5.5, "zweite Zeile")], ""),
        ("latin1.srt", [(0.5, 2.5, "erster café"), (3.5, 5.5, "zweite Zeile")], "cp1252"),
    ],
)
def test_real_subtitles(samples_dir, name, expected, encoding):
    path = samples_dir.parent / "cases" / name
    if not path.is_file():
        pytest.skip(f"no {path.name} in the folder cases beside COSMO_SAMPLES")
    assert cues(path) == expected
    found = read_subtitles(path)
    assert (found.fault, found.encoding) == ("", encoding)


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
    attached = attach_by_overlap(sentences, [(0.0, 2.0), (2.0, 3.5), (3.5, 5.0)])
    assert attached.texts == ["in 0 tie", "more in 1", "late later"]


def test_captions_that_grow_or_scroll_say_each_word_once(tmp_path):
    """Full repetitions and those of three words or more are cut; shorter or later ones are ordinary speech."""
    lists = {
        "start": [0.0, 1.0, 2.0, 3.0, 4.0, 9.0],
        "end": [1.2, 2.0, 3.1, 4.0, 4.5, 9.5],
        "text": [
            "now take",
            "now take the red star",
            "the red star and turn",
            "and turn it round",
            "it round",
            "it round",
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(lists))
    said = [text for _, _, text in cues(tmp_path / "a.json")]
    assert said == ["now take", "the red star", "and turn", "and turn it round", "it round", "it round"]


def test_lists_with_broken_times_and_empty_texts(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"start": [5, 1.5, NaN, 3], "end": [6, 1.0, 9, 4], "text": ["b  c", "x", "y", null]}')
    assert cues(path) == [(5.0, 6.0, "b c")]
    assert read_subtitles(path).fault == "caption 1 has broken times 1.5 and 1.0 (2 such cues left out)"
    path.write_text('{"start": [1, 2], "end": [1%s, 3], "text": ["x", "half a pair \\ud83d"]}' % ("0" * 400))
    assert cues(path) == [(2.0, 3.0, "half a pair ?")], "the corpus is UTF-8"
    assert len(read_subtitles(path).fault) < 120
    for content in ('{"start": [1], "end": [], "text": ["a"]}', "[]", "{", "[" * 100_000):
        path.write_text(content)
        with pytest.raises(DamagedInput, match="not the lists start, end and text"):
            read_subtitles(path)


def test_phrases_are_runs_of_words():
    assert phrases_of("now take the star", 3) == ["now take the", "take the star"]
    assert phrases_of("take it", 3) == ["take it"]
    assert phrases_of(" ", 3) == []


def one_hot(names):
    """Texts that name a thing point to it; others point nowhere in particular."""

    def embed(texts):
        rows = np.array([[float(name in text) for name in names] + [0.1] for text in texts])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return embed


def test_speech_finds_the_clip_that_it_speaks_of():
    clips = [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0), (6.0, 8.0)]
    shown = np.eye(4)[[0, 1, 2, 2]]  # star, ring, cross, cross again
    said = [
        (1.8, 3.4, "now we take the ring early"),
        (2.5, 3.0, "still the star of before"),
        (3.0, 3.8, "it rains in the garden"),
        (5.9, 7.0, "and the cross at last"),
        (0.1, 0.6, "the cross comes much later"),
        (7.0, 7.2, ""),
    ]
    sentences = [Sentence(start_s=a, end_s=b, text=text) for a, b, text in said]
    attached = attach_by_content(
        sentences,
        clips,
        shown,
        one_hot(["star", "ring", "cross"]),
        phrase_words=3,
        reach_s=1.0,
        off_topic_below=0.5,
    )
    assert attached.texts == [
        "still the star of before",
        "now we take the ring early",
        "",
        "and the cross at last",
    ]
    assert [sentence.text for sentence in attached.off_topic] == [said[2][2], said[4][2]]
    assert attach_by_overlap(sentences, clips).texts[1] == "now we take the ring early still the star of before " + (
        "it rains in the garden"
    ), "the released way believes the clock"


def test_nothing_said_is_nothing_attached():
    attached = attach_by_content(
        [], [(0.0, 1.0)], np.eye(2)[:1], one_hot(["x"]), phrase_words=3, reach_s=1.0, off_topic_below=None
    )
    assert (attached.texts, attached.off_topic) == ([""], [])


def collection(tmp_path, text: str):
    path = tmp_path / "caption.json"
    path.write_text(text)
    return path


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_a_collections_captions_are_read_in_pieces(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("dataset_builder.text.collection_captions.CHUNK_CHARS", chunk)
    values = {"a": {"start": [1, 2.25], "text": ["},{", "ü\\n"]}, "b": 12, "ü": [], "d": {}, "e": -3.5}
    assert dict(read_items(collection(tmp_path, json.dumps(values, indent=2)))) == values
    assert dict(read_items(collection(tmp_path, json.dumps(values, separators=(",", ":"))))) == values
    assert dict(read_items(collection(tmp_path, " {} "))) == {}
    unusual = '{"a": {"start": [NaN, %s], "text": ["\\ud83d", null]}}' % ("1" * 400)  # Python writes them, ijson fails
    ((_, lists),) = read_items(collection(tmp_path, unusual))
    assert np.isnan(lists["start"][0])
    assert lists["text"] == ["\ud83d", None]


@pytest.mark.parametrize("text", ["", "[1]", '{"a": [1', '{"a" 1}', '{"a": 1 "b": 2}', "{'a': 1}", '{"a": }'])
def test_what_is_no_object_is_refused_in_one_line(tmp_path, text):
    path = collection(tmp_path, text)
    with pytest.raises(ValueError, match=r"no JSON|not one JSON object") as refusal:
        list(read_items(path))
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_a_build_takes_speech_from_howto100ms_captions(tower_dir, tmp_path):
    """Videos are identified by the last part of their id; subtitles or lists next to a video come first."""
    for name in ("aa/v1", "v2", "v3", "v4"):
        encode(tmp_path / "in" / f"{name}.mp4", story(0))
    (tmp_path / "in" / "v2.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nits own\n")
    (tmp_path / "in" / "v3.json").write_text('{"start": [1], "end": [2], "text": ["beside it"]}')
    names = ("v1", "v2", "v3", "elsewhere")
    lists = {name: {"start": [0.5], "end": [1.5], "text": [f"of {name}"]} for name in names}
    captions = collection(tmp_path, json.dumps(lists))
    values = {"segment.tower": str(tower_dir), "speech.captions": str(captions), "filter": None}
    recipe = load_recipe("laptop", values)
    options = {"workers": 1, "progress": False}
    build_corpus(tmp_path / "in", tmp_path / "out", recipe, **options)
    assert speech_of(tmp_path / "out") == {"aa/v1": "of v1", "v2": "its own", "v3": "beside it", "v4": ""}
    assert build_corpus(tmp_path / "in", tmp_path / "out", recipe, **options).up_to_date
    captions.write_text(json.dumps(lists | {"v4": {"start": [1], "end": [3], "text": ["late"]}}))
    assert not build_corpus(tmp_path / "in", tmp_path / "out", recipe, **options).up_to_date
    assert speech_of(tmp_path / "out")["v4"] == "late"
    captions.write_text(json.dumps({name: lists[name] for name in ("v2", "v3")}))
    build_corpus(tmp_path / "in", tmp_path / "out", recipe, **options)
    assert speech_of(tmp_path / "out") == {"aa/v1": "", "v2": "its own", "v3": "beside it", "v4": ""}
    with pytest.raises(ValueError, match=r"no captions gone\.json \(speech\.captions\)"):
        build_corpus(
            tmp_path / "in", tmp_path / "new", load_recipe("laptop", values | {"speech.captions": "gone.json"})
        )


def speech_of(corpus) -> dict[str, str]:
    return {
        record.video_id: " ".join(clip.asr for clip in record.clips).strip()
        for record in read_corpus(corpus, "train", include_dropped=True)
    }
