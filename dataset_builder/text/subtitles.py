"""Subtitle files: WebVTT, SRT, ASS, SSA, TTML, and the JSON lists of HowTo100M; rolling captions are kept once.

pysubs2 parses ASS, SSA and TTML. WebVTT and SRT are parsed here, so that broken cues are reported
(docs/decisions/0009-libraries.md).
"""

import html
import json
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dataset_builder.errors import DamagedInput
from dataset_builder.inputs import SourceVideo
from dataset_builder.text.text_encoding import decode_text


ROLLING_GAP_S = 0.5  # a sentence this soon after the one before may be its continuation
ROLLING_WORDS = 3  # fewer words are repeated in ordinary speech
STYLED_SUFFIXES = (".ass", ".ssa", ".ttml")
LATEST_S = 1e9  # thirty years: later times are broken
_TIME = r"(?:(\d{1,5}):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,3}))?"  # some tools write whole seconds
_CUE = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?$")
_TAG = re.compile(  # of WebVTT, of HTML and of SSA; any other < and > is what someone said
    r"</?(?:[bicusp]|rt|ruby|em|strong|br|font|span)(?:\.[^\s<>]*)?(?:\s+[\w-]+\s*=[^<>]*)?\s*/?>"
    r"|</?(?:v|lang)(?:[.\s][^<>]*)?>|<\d+:[\d:.]+>|\{\\[^}]*\}",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A subtitle cue."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Subtitles:
    """What a subtitle file says, and what is wrong with it."""

    sentences: tuple[Sentence, ...] = ()
    """Cues with valid times, in time order."""
    fault: str = ""
    """One line naming the first broken cue and how many there are; empty for a sound file."""
    encoding: str = ""
    """The file's encoding if it was guessed: accents may be wrong. Empty for Unicode files."""


def read_subtitles(path: Path) -> Subtitles:
    """Parse a subtitle file; cues with broken times are left out and reported.

    Markup is removed, and so is what the cue before already showed (rolling captions show each line twice, or grow
    word by word).

    Raises:
        DamagedInput: if the file cannot be read, is not text, or holds no cue at all, or other JSON.
    """
    try:
        text, encoding = decode_text(path.read_bytes())
    except PermissionError as error:
        raise DamagedInput("no permission to read the subtitles") from error
    try:
        found = _parse(text, path.suffix.lower())
    except DamagedInput as error:
        if not encoding:
            raise
        raise DamagedInput(f"subtitles are not UTF-8 text; read as {encoding}: {error}") from error
    ordered = sorted(found.sentences, key=lambda cue: cue.start_s)
    return replace(found, sentences=tuple(without_rolling(ordered)), encoding=encoding)


def _parse(text: str, suffix: str) -> Subtitles:
    if suffix == ".json":
        return _read_lists(text)
    if suffix in STYLED_SUFFIXES:
        return _read_styled(text, suffix.removeprefix("."))
    return _read_cues(text.splitlines())


def without_rolling(sentences: Sequence[Sentence]) -> list[Sentence]:
    """Cut from the begin of each sentence the words that the one right before it ended with.

    Captions made while someone speaks grow, or scroll. Cut is what repeats the whole sentence before, or at least
    `ROLLING_WORDS` words of its end; a sentence that says nothing new is left out.
    """
    kept: list[Sentence] = []
    before: list[str] = []
    before_s = -math.inf
    for sentence in sentences:
        words = sentence.text.split()
        repeated = 0
        if sentence.start_s - before_s <= ROLLING_GAP_S:
            lengths = range(min(len(before), len(words)), 0, -1)
            repeated = next((n for n in lengths if before[-n:] == words[:n]), 0)
            if repeated < min(ROLLING_WORDS, len(before)):
                repeated = 0
        if words[repeated:]:
            kept.append(replace(sentence, text=" ".join(words[repeated:])))
        before, before_s = words, sentence.end_s
    return kept


def _read_lists(text: str) -> Subtitles:
    """`{"start": [...], "end": [...], "text": [...]}`, times in seconds."""
    try:
        lists = json.loads(text)
        rows = list(zip(lists["start"], lists["end"], lists["text"], strict=True))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedInput("captions are not the lists start, end and text, of one length") from error
    sentences, broken = [], []
    for row, (start_s, end_s, said) in enumerate(rows):
        timed = all(type(time_s) in (int, float) and abs(time_s) <= LATEST_S for time_s in (start_s, end_s))
        if not timed or start_s >= end_s:
            broken.append(f"caption {row} has broken times {start_s!r:.40} and {end_s!r:.40}")
        elif isinstance(said, str) and said.strip():  # the published file has empty and missing ones
            storable = said.encode("utf-8", "replace").decode()  # half of a surrogate pair is not
            sentences.append(Sentence(start_s=float(start_s), end_s=float(end_s), text=" ".join(storable.split())))
    return Subtitles(sentences=tuple(sentences), fault=_fault(broken))


def _read_cues(lines: Sequence[str]) -> Subtitles:
    """The cues of a WebVTT or SRT file, without lines that the cue right before shows."""
    sentences, broken, shown, shown_to_s = [], [], list[str](), -math.inf
    for number, line in enumerate(lines, start=1):
        if "-->" not in line:
            continue
        times = _cue_times(line)
        if times is None:
            broken.append(f"line {number} has broken times {line.strip()!r:.100}")
            continue
        texts = _cue_texts(lines[number:])
        rolls = times[0] - shown_to_s <= ROLLING_GAP_S  # after a pause the same words are said again
        fresh = [text for text in texts if not (rolls and text in shown)]
        if texts:
            shown, shown_to_s = texts, times[1]
        if fresh:
            sentences.append(Sentence(start_s=times[0], end_s=times[1], text=" ".join(fresh)))
    if not sentences and not broken and any(line.strip() and line.strip() != "WEBVTT" for line in lines):
        raise DamagedInput("subtitles without a single cue")
    return Subtitles(sentences=tuple(sentences), fault=_fault(broken))


def _fault(broken: Sequence[str]) -> str:
    return f"{broken[0]} ({len(broken)} such cues left out)" if broken else ""


def _cue_times(line: str) -> tuple[float, float] | None:
    """Start and end in seconds; None where they cannot be read or the cue ends before it starts."""
    match = _CUE.match(line)
    if not match:
        return None
    start_s, end_s = (_seconds(match.groups()[first : first + 4]) for first in (0, 4))
    return (start_s, end_s) if start_s < end_s else None


def _seconds(parts: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = parts
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0) + float(f"0.{fraction or 0}")


def _cue_texts(lines: Sequence[str]) -> list[str]:
    """The lines of a cue, without markup, up to a blank line or to the next cue with its number."""
    texts = list[str]()
    for line in lines:
        if "-->" in line and texts and texts[-1].isdecimal():
            texts.pop()
        if not line.strip() or "-->" in line:
            break
        texts.append(" ".join(html.unescape(_TAG.sub("", line)).split()))
    return [text for text in texts if text]


def _read_styled(text: str, suffix: str) -> Subtitles:
    """The dialogue of an ASS, SSA or TTML file, without comments and drawings."""
    from pysubs2 import Pysubs2Error, SSAFile  # 0.06 s to import, needed by few files

    try:
        with warnings.catch_warnings(action="ignore"):  # about styles
            events = SSAFile.from_string(text, format_=suffix).get_text_events()
    except (Pysubs2Error, ValueError, TypeError, LookupError, SyntaxError, RuntimeError, OverflowError) as error:
        raise DamagedInput(f"subtitles cannot be read as {suffix.upper()} ({error!s:.100})") from error
    if not events:
        raise DamagedInput("subtitles without a single cue")
    sentences, broken = [], []
    for number, event in enumerate(events, start=1):
        start_s, end_s = event.start / 1000, event.end / 1000
        if not 0 <= start_s < end_s <= LATEST_S:
            broken.append(f"cue {number} has broken times {start_s} and {end_s}")
        elif said := " ".join(event.plaintext.split()):
            sentences.append(Sentence(start_s=start_s, end_s=end_s, text=said))
    return Subtitles(sentences=tuple(sentences), fault=_fault(broken))


def lists_beside(source: SourceVideo) -> Path | None:
    """`NAME.json` where it holds speech (the toy world's holds its truth)."""
    if source.truth is None:
        return None
    try:
        found = json.loads(source.truth.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, PermissionError):  # whoever needs the file will say so
        return None
    return source.truth if isinstance(found, dict) and {"start", "end", "text"} <= found.keys() else None
