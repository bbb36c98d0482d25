"""The clips of a corpus split: their captions in memory, their frames decoded when asked for."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataset_builder.corpus.reading import list_shards, read_corpus
from dataset_builder.schema import InterleavedVideo
from dataset_builder.video.decode import decode_clips
from training.data.sampling import Indices


DOCUMENTS_AHEAD = 32  # decoded in one go while the last ones are encoded


@dataclass(kw_only=True)
class ClipTable:
    """Clips that a corpus split keeps and that have a caption, numbered in corpus order."""

    root: Path
    """The corpus folder."""
    split: str
    captions: list[str] = field(default_factory=list)
    """One per clip."""
    records: list[InterleavedVideo] = field(default_factory=list)
    """The videos that own the clips; embedded bytes stay in memory."""
    documents: list[Indices] = field(default_factory=list)
    """Clip numbers of each record, in time order."""
    positions: list[tuple[int, int]] = field(default_factory=list)
    """Record number and index within the record of each clip."""

    @property
    def name(self) -> str:
        """Folder and split, for messages."""
        return f"{self.root} ({self.split})"

    @property
    def num_clips(self) -> int:
        """How many clips there are."""
        return len(self.captions)

    def add(self, record: InterleavedVideo) -> None:
        """Number the captioned clips of one more record."""
        indices = [index for index, clip in enumerate(record.clips) if clip.caption]
        if not indices:
            return
        self.documents.append(np.arange(self.num_clips, self.num_clips + len(indices)))
        self.positions += [(len(self.records), index) for index in indices]
        self.captions += [record.clips[index].caption for index in indices]
        self.records.append(record)

    def decode(self, clips: Sequence[int], num_frames: int) -> list[NDArray[np.uint8]]:
        """Frames of the given clips of one record, each uint8 (num_frames, 3, H, W)."""
        record = self.records[self.positions[clips[0]][0]]
        return list(decode_clips(record, [self.positions[clip][1] for clip in clips], num_frames, self.root))


def load_clips(corpus: str | Path, split: str) -> ClipTable:
    """Read the captions of a split.

    Raises:
        ValueError: if there is no such split, or none of its kept clips has a caption.
    """
    table = ClipTable(root=Path(corpus), split=split)
    for record in read_corpus(corpus, split):
        table.add(record)
    if not table.num_clips:
        raise ValueError(f"{table.name} has no kept clip with a caption")
    return table


def decode_in_order(table: ClipTable, num_frames: int, num_workers: int) -> Iterator[list[NDArray[np.uint8]]]:
    """The frames of every clip, a group of videos at a time; the next group is decoded meanwhile by threads.

    Yields:
        For the clips of up to `DOCUMENTS_AHEAD` videos, in clip order: uint8 (num_frames, 3, H, W) each.
    """
    groups = [
        table.documents[start : start + DOCUMENTS_AHEAD] for start in range(0, len(table.documents), DOCUMENTS_AHEAD)
    ]
    with ThreadPoolExecutor(num_workers) as pool:
        decode = lambda document: table.decode(document.tolist(), num_frames)
        pending = [pool.submit(decode, document) for document in groups[0]]
        for following in [*groups[1:], []]:
            ready, pending = pending, [pool.submit(decode, document) for document in following]
            yield [frames for job in ready for frames in job.result()]


def corpus_digest(corpus: str | Path, split: str) -> str:
    """SHA-256 over the shards of a split; videos that lie beside the shards count by path and size."""
    digest = hashlib.sha256()
    for shard in list_shards(corpus, split):
        with shard.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    for record in read_corpus(corpus, split):
        if record.video_bytes is None and record.video_path:
            path = Path(corpus, record.video_path)
            digest.update(f"{record.video_path}:{path.stat().st_size if path.is_file() else None}".encode())
    return digest.hexdigest()
