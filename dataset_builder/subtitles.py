"""Subtitle files: WebVTT and SRT."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset_builder.errors import DamagedInput


_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_CUE = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?$")
_TAG = re.compile(r"<[^>]*>|\{\\[^}]*\}")


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


def read_subtitles(path: Path) -> Subtitles:
    """Parse a WebVTT or SRT file; cues with broken times are left out and reported.

    Markup is removed, and so are lines that the cue before already showed (rolling captions show each line twice).

    Raises:
        DamagedInput: where the file is not UTF-8 text or holds no cue at all.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DamagedInput(f"subtitles are not UTF-8 text ({error.reason} at byte {error.start})") from error
    sentences, broken, shown = [], [], list[str]()
    for number, line in enumerate(lines, start=1):
        if "-->" not in line:
            continue
        texts = _cue_texts(lines[number:])
        fresh = [text for text in texts if text not in shown]
        shown = texts or shown
        times = _cue_times(line)
        if times is None:
            broken.append(f"line {number} has broken times {line.strip()!r}")
        elif fresh:
            sentences.append(Sentence(start_s=times[0], end_s=times[1], text=" ".join(fresh)))
    if not sentences and not broken and any(line.strip() and line.strip() != "WEBVTT" for line in lines):
        raise DamagedInput("subtitles without a single cue")
    fault = f"{broken[0]} ({len(broken)} such cues left out)" if broken else ""
    return Subtitles(sentences=tuple(sorted(sentences, key=lambda cue: cue.start_s)), fault=fault)


def _cue_times(line: str) -> tuple[float, float] | None:
    """Start and end in seconds; None where they cannot be read or the cue ends before it starts."""
    match = _CUE.match(line)
    if not match:
        return None
    start_s, end_s = (_seconds(match.groups()[first : first + 4]) for first in (0, 4))
    return (start_s, end_s) if start_s < end_s else None


def _seconds(parts: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = parts
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0) + float(f"0.{fraction}")


def _cue_texts(lines: Sequence[str]) -> list[str]:
    """The lines of a cue up to the blank line that ends it, without markup."""
    texts = []
    for line in lines:
        if not line.strip() or "-->" in line:
            break
        texts.append(" ".join(html.unescape(_TAG.sub("", line)).split()))
    return [text for text in texts if text]
