"""One JSON file with the captions of a whole collection, as HowTo100M's caption.json: gigabytes, read in pieces."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from dataset_builder.atomic import write_whole
from dataset_builder.inputs import SourceVideo
from dataset_builder.text.subtitles import lists_beside


CHUNK_CHARS = 1 << 20
DELIMITERS = tuple(",:}] \t\r\n")


def with_captions(sources: Sequence[SourceVideo], captions: Path, folder: Path) -> list[SourceVideo]:
    """Give every video without speech of its own beside it the file `FOLDER/NAME.json` with its part of the captions.

    Args:
        sources: the videos; the last part of their id is what the collection knows them by.
        captions: `{ID: {"start": [...], "end": [...], "text": [...]}}`.
        folder: where the parts go; parts that are there already and equal are left alone, and others removed.

    Raises:
        ValueError: where the file is missing or is no such JSON.
    """
    if not captions.is_file():
        raise ValueError(f"no captions {captions} (speech.captions)")
    has_own = [source.subtitles is not None or lists_beside(source) is not None for source in sources]
    known_by = [PurePath(source.video_id).name for source in sources]
    wanted = {name for name, own in zip(known_by, has_own, strict=True) if not own}
    status = captions.stat()
    stamp = json.dumps([status.st_size, status.st_mtime_ns, sorted(wanted)])
    done = folder / "done.json"
    if not done.is_file() or done.read_text(encoding="utf-8") != stamp:
        others = {*(folder / "parts").glob("*.json")}
        for video_id, lists in read_items(captions):
            if video_id in wanted:
                part = folder / "parts" / f"{video_id}.json"
                _write_new(part, json.dumps(lists))
                others.discard(part)
        for part in others:  # taken out of the captions since
            part.unlink()
        write_whole(done, stamp)
    parts = {path.stem: path for path in (folder / "parts").glob("*.json")}
    return [
        source if own else replace(source, subtitles=parts.get(name))
        for source, name, own in zip(sources, known_by, has_own, strict=True)
    ]


def read_items(path: Path) -> Iterator[tuple[str, Any]]:
    """Keys and values of the one object that a JSON file holds; only one value at a time is in memory.

    Raises:
        ValueError: where the file holds something else or is cut off.
    """
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8") as file:
        text, at, ended = "", 0, False  # read so far, from `at` on not yet used

        def more() -> None:
            nonlocal text, at, ended
            try:
                chunk = file.read(CHUNK_CHARS)
            except UnicodeDecodeError as error:
                raise ValueError(f"{path} is not UTF-8 text") from error
            text, at, ended = text[at:] + chunk, 0, not chunk

        def peek() -> str:
            """The next character that is not white space; "" at the end."""
            nonlocal at
            while True:
                while text[at : at + 1].isspace():
                    at += 1
                if at < len(text) or ended:
                    return text[at : at + 1]
                more()

        def take(wanted: str) -> str:
            nonlocal at
            if (found := peek()) == "" or found not in wanted:
                raise ValueError(f"{path} is not one JSON object (found {found!r}, expected one of {wanted!r})")
            at += 1
            return found

        def value() -> Any:
            nonlocal at
            while True:
                peek()
                try:
                    found, end = decoder.raw_decode(text, at)
                    if text[end : end + 1] in DELIMITERS or ended:  # a number at a chunk's end may go on
                        at = end
                        return found
                except ValueError as error:
                    if ended:
                        raise ValueError(f"{path} is no JSON, or cut off") from error
                except RecursionError as error:
                    raise ValueError(f"{path} is nested too deep for captions") from error
                more()

        take("{")
        separator = "" if peek() == "}" else ","
        while separator == ",":
            key = value()
            take(":")
            yield str(key), value()
            separator = take(",}")


def _write_new(path: Path, text: str) -> None:
    """Write where it would change something, so that the time of an unchanged file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_whole(path, text)
