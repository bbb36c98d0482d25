"""Read text files by lines of limited size: byte ranges of a large table as shards, and JSON lines, also in a zip."""

import csv
import errno
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import IO, Any, NamedTuple

import fsspec

from dataset_builder.errors import DamagedInput
from dataset_builder.readers.tally import Tally


MAX_ROW_BYTES = 4_000_000  # largest row of a table; a document of captions has a few thousand
MAX_JSON_BYTES = 64_000_000  # largest JSON line: a web page with all its pictures in base64
CHUNK_BYTES = 1 << 20
TOO_LONG = "line too long"
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")  # escaped or raw; most are halves of a pair


class LineRange(NamedTuple):
    """A shard: the lines of a file that begin at a byte within `[start, end)`."""

    url: str
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.url}:{self.start}-{self.end}"


def split_lines(url: str, num_ranges: int) -> list[LineRange]:
    """Cut a file into ranges of equal size; a line belongs to the range of its first byte.

    Raises:
        ValueError: if there is no such file.
    """
    system, path = fsspec.core.url_to_fs(url)
    if not system.isfile(path):
        raise ValueError(f"no file {url}")
    size = system.size(path)
    borders = [size * index // num_ranges for index in range(num_ranges + 1)]
    return [LineRange(url, start, end) for start, end in pairwise(borders)]


def read_table(
    lines: LineRange, delimiter: str, columns: Sequence[str], tally: Tally
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a delimited table with a header line, quoted as spreadsheets and pandas do.

    Each line is a row: a quoted field must not hold a line break. Malformed lines are skipped and counted.

    Yields:
        The row's first byte in the file, and its fields by column.

    Raises:
        ValueError: if the header lacks one of `columns`.
    """
    with fsspec.open(lines.url, "rb") as file:
        first = next(_lines(file, 0, MAX_ROW_BYTES), (0, b""))[1] or b""
        header = _fields(first.removeprefix("\ufeff".encode()), delimiter)
        missing = [name for name in columns if name not in header]
        if missing:
            raise ValueError(f"{lines.url} has the columns {header}; {missing} are missing")
        begin = max(lines.start, 1)  # not the header; reads one byte earlier, to see whether a line begins here
        file.seek(begin - 1)
        for index, (offset, line) in enumerate(_lines(file, begin - 1, MAX_ROW_BYTES)):
            if index == 0:
                continue  # the end of a line from the previous range
            if offset >= lines.end:
                return
            if line is None:
                tally.skip(TOO_LONG, f"byte {offset}")
                continue
            if not line:
                continue
            try:
                fields = _fields(line, delimiter)
            except (csv.Error, UnicodeDecodeError) as error:
                tally.skip("malformed line", f"byte {offset}", str(error))
                continue
            if len(fields) != len(header):
                tally.skip("malformed line", f"byte {offset}", f"{len(fields)} fields, {len(header)} expected")
                continue
            yield offset, dict(zip(header, fields, strict=True))


def read_json_lines(url: str, tally: Tally) -> Iterator[tuple[int, Any]]:
    """Yield the values of a `.jsonl` file, or of the one inside a `.zip`, which is read in place.

    Yields:
        The index of the line, from 0, and its value.

    Raises:
        DamagedInput: for a damaged zip or one without such a file, after the lines before that place.
    """
    with fsspec.open(url, "rb") as raw, _unzipped(raw, url) as file:
        for number, (_, line) in enumerate(_lines(file, 0, MAX_JSON_BYTES)):
            if line is None:
                tally.skip(TOO_LONG, f"line {number}")
            elif line.strip():
                try:
                    yield number, parse_json(line)
                except DamagedInput as error:
                    tally.skip("malformed line", f"line {number}", str(error))


def parse_json(data: str | bytes) -> Any:
    """Parse a JSON value.

    Raises:
        DamagedInput: for text that is not JSON, is nested too deeply, or holds half a surrogate pair, which no
            tokenizer and no table accepts.
    """
    try:
        value = json.loads(data)
        if SURROGATE.search(data.encode() if isinstance(data, str) else data):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        raise DamagedInput(f"not JSON ({error})") from error


@contextmanager
def _unzipped(raw: IO[bytes], url: str) -> Iterator[IO[bytes]]:
    if not url.endswith(".zip"):
        yield raw
        return
    try:
        with zipfile.ZipFile(raw) as archive:
            names = [name for name in archive.namelist() if name.endswith((".jsonl", ".json"))]
            if not names:
                raise DamagedInput("a zip without a .jsonl file")
            with archive.open(names[0]) as file:
                yield file
    except DamagedInput:
        raise
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError, OSError) as error:
        # RuntimeError: encryption or an unknown compression. ValueError: a name that is not UTF-8, or an offset before
        # the file's start, for which a local file raises EINVAL. Damaged bzip2: an OSError without a number. Other
        # OSErrors are not damage.
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno not in (None, errno.EINVAL)):
            raise
        raise DamagedInput(f"damaged zip ({error})") from error


def _lines(file: IO[bytes], offset: int, limit: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield the first byte and content of each line from a position on; None for a line longer than `limit` bytes.

    fsspec's own `readline` has no limit.
    """
    held, discarded = b"", 0
    while chunk := file.read(CHUNK_BYTES):
        *whole, held = (held + chunk).split(b"\n")
        for line in whole:
            size = discarded + len(line)
            yield offset, None if size > limit else line.removesuffix(b"\r")
            offset += size + 1
            discarded = 0
        if discarded + len(held) > limit:
            discarded += len(held)
            held = b""
    if discarded or held:
        yield offset, None if discarded + len(held) > limit else held.removesuffix(b"\r")


def _fields(line: bytes, delimiter: str) -> list[str]:
    reader = csv.reader([line.decode(), ""], delimiter=delimiter)
    fields = next(reader, [])
    if reader.line_num > 1:
        raise csv.Error("a quote that is not closed on its line")
    return fields
