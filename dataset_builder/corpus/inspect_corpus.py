"""`cosmo inspect`: count what a corpus holds and check that it is whole."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Features, List, Value, Video
from tqdm import tqdm

from dataset_builder.corpus.blocks import BlockReader
from dataset_builder.corpus.files import CorpusFiles, open_corpus
from dataset_builder.corpus.histogram import bars, histogram
from dataset_builder.corpus.reading import splits_among
from dataset_builder.corpus.shard_index import Shard, read_index
from dataset_builder.corpus.statistics import SplitStatistics, TokenCounter, token_counter, total
from dataset_builder.corpus.tar_shards import TAR_FEATURES
from dataset_builder.schema import InterleavedVideo


TEXT_COLUMNS = ["video.path", "source", "license", "clips"]  # everything that is counted; no video is read
COUNTED = ("seconds per clip", "clips per document", "words per caption")
MOST_PROBLEMS = 20  # listed of each kind
READ_BYTES = 1 << 20


@dataclass
class SplitReport:
    """Counts of one split."""

    shards: list[Shard]
    statistics: SplitStatistics = field(default_factory=SplitStatistics)
    values: dict[str, "array[float]"] = field(default_factory=dict)
    """Values for the histograms: one number per kept clip or per document."""

    @property
    def num_bytes(self) -> int:
        """Total length of the shards."""
        return sum(shard.num_bytes for shard in self.shards)


@dataclass
class Inspection:
    """Findings about a corpus."""

    name: str
    form: str
    """"parquet" or "webdataset"."""
    schema: list[str] = field(default_factory=list)
    """Column and type, one line each."""
    splits: dict[str, SplitReport] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """Problems, one line each."""
    notes: list[str] = field(default_factory=list)
    """Checks that passed or could not be made, one line each."""

    @property
    def statistics(self) -> SplitStatistics:
        """Counts over all splits."""
        return total(report.statistics for report in self.splits.values())

    def values(self) -> dict[str, list[float]]:
        """Values for the histograms, over all splits."""
        merged: dict[str, list[float]] = {}
        for report in self.splits.values():
            for name, values in report.values.items():
                merged.setdefault(name, []).extend(values)
        return merged


def inspect_corpus(corpus: str | Path, *, tokenizer: str | None = None, progress: bool = False) -> Inspection:
    """Read a corpus once, without its videos, count its contents and check that it is whole.

    Args:
        corpus: a folder, a dataset repository on the Hub, or an address.
        tokenizer: counts tokens per document: `toy`, a folder, or an id. None counts words.
        progress: show a progress bar.

    Raises:
        ValueError: if there is no such corpus or tokenizer. Faults inside a corpus become `problems` instead.
    """
    files = open_corpus(corpus)
    names = files.sizes("data")
    count_tokens = token_counter(tokenizer) if tokenizer else None
    tars = any(name.endswith(".tar") for name in names)
    inspection = Inspection(files.name, "webdataset" if tars else "parquet")
    stored = _stored_videos(files)
    for split in splits_among(names):
        try:
            inspection.splits[split] = SplitReport(read_index(files, split))
            inspection.schema = inspection.schema or _read_schema(files, inspection.splits[split].shards)
            _read_split(files, inspection, split, stored, count_tokens, progress)
        except ValueError as error:
            inspection.problems.append(str(error))
    if not inspection.splits:
        inspection.problems.append("no split has readable shards")
    _check_sums(files, inspection, names)
    return inspection


def _read_split(
    files: CorpusFiles,
    inspection: Inspection,
    split: str,
    stored: frozenset[str],
    count_tokens: TokenCounter | None,
    progress: bool,
) -> None:
    report = inspection.splits[split]
    per_document = "tokens per document" if count_tokens else "words per document"
    report.values = {name: array("d") for name in (*COUNTED, per_document)}
    faults: dict[str, list[str]] = {}
    seen = set[str]()
    embedded = inspection.form == "webdataset" or (not stored and _embeds(files, report.shards))
    num_rows = sum(shard.num_rows for shard in report.shards)
    for record in tqdm(_records(files, report.shards), total=num_rows, desc=split, unit="video", disable=not progress):
        report.statistics.add(record, count_tokens)
        _note_values(record, report.values, count_tokens)
        for fault in _faults(record, seen, stored, embedded=embedded):
            faults.setdefault(fault, []).append(record.video_id)
        seen.add(record.video_id)
    for fault, ids in faults.items():
        shown = ", ".join(ids[:MOST_PROBLEMS]) + (", ..." if len(ids) > MOST_PROBLEMS else "")
        inspection.problems.append(f"{split}: {len(ids)} records {fault}: {shown}")


def _records(files: CorpusFiles, shards: Sequence[Shard]) -> Iterator[InterleavedVideo]:
    reader = BlockReader(files, TEXT_COLUMNS)
    for shard in shards:
        for block, num_rows in enumerate(shard.block_rows):
            rows = reader.read(shard, block)
            yield from (rows.record(row) for row in range(num_rows))


def _note_values(
    record: InterleavedVideo, values: Mapping[str, "array[float]"], count_tokens: TokenCounter | None
) -> None:
    kept = record.kept().clips
    if not kept:
        return
    words = [len(clip.caption.split()) for clip in kept]
    values["seconds per clip"].extend(clip.end_s - clip.start_s for clip in kept)
    values["words per caption"].extend(words)
    values["clips per document"].append(len(kept))
    if count_tokens:
        values["tokens per document"].append(sum(count_tokens(clip.caption) for clip in kept))
    else:
        values["words per document"].append(sum(words))


def _faults(record: InterleavedVideo, seen: set[str], stored: frozenset[str], *, embedded: bool) -> Iterator[str]:
    """Yield the faults of a record, worded to follow "3 records ..."."""
    if record.video_id in seen:
        yield "share their video_id with another"
    times = [time_s for clip in record.clips for time_s in (clip.start_s, clip.end_s)]
    if times != sorted(times) or any(clip.end_s <= clip.start_s for clip in record.clips):
        yield "have clips out of order, overlapping or of no length"
    if times and (times[0] < 0 or times[-1] > record.duration_s + 0.5):
        yield "have clips beyond the video"
    if any(bool(clip.drop_reason) == clip.keep for clip in record.clips):
        yield "have clips dropped without a reason, or kept with one"
    if not embedded and record.video_path not in stored:
        yield "name a video that is not in the corpus folder"


def _embeds(files: CorpusFiles, shards: Sequence[Shard]) -> bool:
    """Whether Parquet shards hold the videos, judged by the first record: a build embeds all or none."""
    reader = BlockReader(files, ["video"])
    filled = ((shard, block) for shard in shards for block, rows in enumerate(shard.block_rows) if rows)
    return all(reader.read(*place).record(0).video_bytes is not None for place in islice(filled, 1))


def _stored_videos(files: CorpusFiles) -> frozenset[str]:
    """Paths of the files in `videos/`, relative to the corpus."""
    if not files.exists("videos"):
        return frozenset()
    return frozenset(path[len(files.root) + 1 :] for path in files.filesystem.find(f"{files.root}/videos"))


def _check_sums(files: CorpusFiles, inspection: Inspection, shards: Mapping[str, int]) -> None:
    if not files.exists("SHA256SUMS"):
        inspection.notes.append("no SHA256SUMS: nothing to compare the files with")
        return
    lines = files.read("SHA256SUMS").decode().splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    unlisted = sorted({f"data/{name}" for name in shards} - {*sums})
    inspection.problems += [f"{name} is not in SHA256SUMS" for name in unlisted]
    if not files.is_local:
        inspection.notes.append(f"checksums of {len(sums)} files not compared: the corpus is not on this machine")
        return
    wrong = 0
    for name, digest in sums.items():
        if not files.exists(name):
            if name != "quarantine.jsonl":  # is not published with the corpus
                wrong += 1
                inspection.problems.append(f"{name} is in SHA256SUMS and is missing")
        elif _digest(files, name) != digest:
            wrong += 1
            inspection.problems.append(f"{name} differs from its checksum")
    if not wrong:
        inspection.notes.append(f"checksums of {len(sums)} files are right")


def _digest(files: CorpusFiles, name: str) -> str:
    digest = hashlib.sha256()
    with files.open(name) as file:
        while part := file.read(READ_BYTES):
            digest.update(part)
    return digest.hexdigest()


def describe(inspection: Inspection) -> str:
    """The report as text."""
    parts = [f"{inspection.name}: {inspection.form} shards"]
    parts += ["", "schema", *(f"  {line}" for line in inspection.schema)]
    parts += ["", *_table(split_table(inspection))]
    parts += ["", *(_table(drop_table(inspection)) if inspection.statistics.reasons else ["no clip was dropped"])]
    for name, values in inspection.values().items():
        parts += ["", name, *bars(histogram(values))] if values else []
    parts += ["", "checks", *(f"  ok       {note}" for note in inspection.notes)]
    parts += [f"  PROBLEM  {problem}" for problem in inspection.problems]
    return "\n".join(parts)


def split_table(inspection: Inspection) -> list[list[str]]:
    """Header and one row per split, with the card's columns and more."""
    head = [
        "split",
        "shards",
        "MB",
        "videos",
        "documents",
        "clips",
        "kept",
        "clips/document",
        "words/caption",
        "hours",
    ]
    rows = [head]
    for name, report in inspection.splits.items():
        counts = report.statistics
        rows.append(
            [
                name, str(len(report.shards)), f"{report.num_bytes / 1e6:,.2f}", f"{counts.num_videos:,}",
                f"{counts.num_documents:,}", f"{counts.num_clips:,}", f"{counts.num_kept:,}",
                f"{counts.num_kept / max(counts.num_documents, 1):.1f}",
                f"{counts.num_caption_words / max(counts.num_kept, 1):.1f}", f"{counts.duration_s / 3600:,.2f}",
            ]
        )  # fmt: skip
    return rows


def drop_table(inspection: Inspection) -> list[list[str]]:
    """Header and one row per reason, the most frequent first."""
    reasons: Counter[str] = inspection.statistics.reasons
    splits = inspection.splits
    rows = [["dropped because", *splits, "share of clips"]]
    for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
        by_split = [f"{report.statistics.reasons[reason]:,}" for report in splits.values()]
        rows.append([reason, *by_split, f"{100 * count / inspection.statistics.num_clips:.1f} %"])
    return rows


def _read_schema(files: CorpusFiles, shards: Sequence[Shard]) -> list[str]:
    """Lines `column: type`, from the first shard; for tars, the columns that the card states."""
    if shards[0].block_starts:
        return [f"{name}: {_type_name(feature)}" for name, feature in TAR_FEATURES.items()]
    with files.open(shards[0].path) as file:
        features = Features.from_arrow_schema(pq.read_schema(file))
    return [f"{name}: {_type_name(feature)}" for name, feature in features.items()]


def _type_name(feature: Any) -> str:
    if isinstance(feature, dict):
        return "{" + ", ".join(f"{name}: {_type_name(inner)}" for name, inner in feature.items()) + "}"
    if isinstance(feature, List):
        return f"list of {_type_name(feature.feature)}"
    if isinstance(feature, Video):
        return "video {path, bytes}"
    return str(feature.dtype) if isinstance(feature, Value) else type(feature).__name__.lower()


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
