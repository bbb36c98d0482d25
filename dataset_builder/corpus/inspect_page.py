"""The page of `cosmo inspect`: one self-contained HTML file with clip strips, speech, captions and scores."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fsspec.core import OpenFile
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from dataset_builder.atomic import write_whole
from dataset_builder.corpus.blocks import BlockReader
from dataset_builder.corpus.files import CorpusFiles, open_corpus
from dataset_builder.corpus.histogram import histogram
from dataset_builder.corpus.inspect_corpus import Inspection, drop_table, split_table
from dataset_builder.corpus.stream_order import permutation
from dataset_builder.errors import DamagedInput
from dataset_builder.schema import Clip, InterleavedVideo
from dataset_builder.video.decode import frames_at, middle_times, video_of


FRAMES = 4  # shown of a clip
FRAME_WIDTH_PX = 208
FRAME_QUALITY = 62  # of WebP, 0 to 100: a few kB a frame
MOST_CLIPS = 16  # shown of a record, and of its matrix
MOST_LETTERS = 700  # shown of one text
MOST_TEXTS = 12  # captions of frames or regions shown of one clip


@dataclass(frozen=True)
class ClipView:
    """A clip as the page shows it."""

    clip: Clip
    number: int
    frames: list[str]
    """Data URLs of pictures, in time order."""
    ratio: float
    """Width over height of the pictures."""
    width_percent: float
    """Its share of the video."""


@dataclass(frozen=True)
class RecordView:
    """A record as the page shows it."""

    split: str
    number: int
    record: InterleavedVideo
    clips: list[ClipView]
    num_hidden: int
    """Clips beyond those shown."""
    fault: str
    """Why there are no pictures; empty if there are."""
    matrix: list[list[float | None]]
    """Clips x captions; None if there was no caption."""


def default_page(corpus: str | Path) -> Path:
    """Default path of the page: next to the corpus folder, so that it is not published with the corpus."""
    folder = Path(corpus)
    if folder.is_dir():
        folder = folder.resolve()
        return folder.with_name(f"{folder.name}-inspect.html")
    return Path(str(corpus).rstrip("/").rsplit("/", 1)[-1] + "-inspect.html")


def write_page(inspection: Inspection, corpus: str | Path, path: Path, num_records: int, seed: int = 0) -> None:
    """Write the page.

    Args:
        inspection: the inspection of the same corpus.
        corpus: as given to `inspect_corpus`.
        path: the HTML file.
        num_records: how many records to show, drawn by the seed, evenly over the splits.
        seed: of the draw.

    Raises:
        WriteError: if the file cannot be written.
    """
    files = open_corpus(corpus)
    records = [
        _view(files, split, number, record)
        for split, numbers in _draw(inspection, num_records, seed).items()
        for number, record in _read(files, inspection, split, numbers)
    ]
    spreads = [(name, histogram(values)) for name, values in inspection.values().items() if values]
    environment = Environment(
        loader=PackageLoader("dataset_builder.corpus", "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"clock": _clock, "short": _short}
    page = environment.get_template("inspect.html.jinja").render(
        title=inspection.name.rstrip("/").rsplit("/", 1)[-1],
        inspection=inspection,
        statistics=inspection.statistics,
        splits=split_table(inspection),
        drops=drop_table(inspection),
        spreads=spreads,
        records=records,
        seed=seed,
        most_texts=MOST_TEXTS,
    )
    write_whole(path, page.encode("utf-8", "replace"))


def _draw(inspection: Inspection, num_records: int, seed: int) -> dict[str, list[int]]:
    """Row numbers of each split, ascending."""
    orders = {
        split: permutation(report.statistics.num_videos, f"{seed} {split}")
        for split, report in inspection.splits.items()
    }
    drawn: dict[str, list[int]] = {split: [] for split in orders}
    while any(orders.values()) and sum(map(len, drawn.values())) < num_records:
        for split, order in orders.items():
            if order and sum(map(len, drawn.values())) < num_records:
                drawn[split].append(order.pop())
    return {split: sorted(numbers) for split, numbers in drawn.items()}


def _read(
    files: CorpusFiles, inspection: Inspection, split: str, numbers: Sequence[int]
) -> list[tuple[int, InterleavedVideo]]:
    """The rows with the given numbers, with their videos; only the blocks that hold them are read."""
    reader, found, start = BlockReader(files, None), [], 0
    for shard in inspection.splits[split].shards:
        for block, num_rows in enumerate(shard.block_rows):
            wanted = [number for number in numbers if start <= number < start + num_rows]
            if wanted:
                rows = reader.read(shard, block)
                found += [(number, rows.record(number - start)) for number in wanted]
            start += num_rows
    return found


def _view(files: CorpusFiles, split: str, number: int, record: InterleavedVideo) -> RecordView:
    shown, fault = record.clips[:MOST_CLIPS], ""
    pictures: list[list[str]] = [[] for _ in shown]
    ratio = 1.0
    try:
        video = _video(files, record)
        for found, clip in zip(pictures, shown, strict=True):
            frames = frames_at(video, middle_times(clip.start_s, clip.end_s, FRAMES))  # (FRAMES, H, W, 3)
            ratio = frames.shape[2] / frames.shape[1]
            found += [_picture(pixels) for pixels in frames]
    except (DamagedInput, ValueError, OSError) as error:
        fault = " ".join(str(error).split())
    length = record.duration_s or 1.0
    clips = [
        ClipView(clip, index + 1, frames, ratio, max(0.0, min(100.0, 100 * (clip.end_s - clip.start_s) / length)))
        for index, (clip, frames) in enumerate(zip(shown, pictures, strict=True))
    ]
    matrix = [list(row[:MOST_CLIPS]) for row in record.similarity_matrix[:MOST_CLIPS]]
    return RecordView(split, number, record, clips, len(record.clips) - len(shown), fault, matrix)


def _video(files: CorpusFiles, record: InterleavedVideo) -> Path | bytes | OpenFile:
    return video_of(record, files.root if files.is_local else files.address)


def _picture(pixels: np.ndarray) -> str:
    """A frame `(H, W, 3)` as a small picture in a data URL."""
    picture = Image.fromarray(pixels)
    height = max(1, round(picture.height * FRAME_WIDTH_PX / picture.width))
    if picture.width > FRAME_WIDTH_PX:
        picture = picture.resize((FRAME_WIDTH_PX, min(height, 3 * FRAME_WIDTH_PX)), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=FRAME_QUALITY)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _clock(seconds: float) -> str:
    """A time such as 1:02:03.5 or 2:03.5."""
    tenths = round(seconds * 10)
    hours, rest = divmod(tenths, 36_000)
    minutes, rest = divmod(rest, 600)
    text = f"{minutes}:{rest // 10:02d}.{rest % 10}"
    return f"{hours}:{text.zfill(7)}" if hours else text


def _short(text: Any) -> str:
    """A text, shortened if it is very long."""
    text = str(text)
    return text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS - 1] + "…"
