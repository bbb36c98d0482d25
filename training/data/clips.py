"""Clips of a corpus split: captions in memory, frames decoded on request."""

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


DOCUMENTS_AHEAD = 32  # decoded together, while the previous ones are encoded


@dataclass(kw_only=True)
class ClipTable:
    """Kept clips of a corpus split that have a caption, numbered in corpus order."""

    root: Path
    """The corpus folder."""
    split: str
    captions: list[str] = field(default_factory=list)
    """One caption per clip."""
    records: list[InterleavedVideo] = field(default_factory=list)
    """Videos of the clips; embedded bytes stay in memory."""
    documents: list[Indices] = field(default_factory=list)
    """Clip numbers of each video, in time order."""
    positions: list[tuple[int, int]] = field(default_factory=list)
    """For each clip, the number of its record and its index in the record."""

    @property
    def name(self) -> str:
        """Name of folder and split, for messages."""
        return f"{self.root} ({self.split})"

    @property
    def num_clips(self) -> int:
        """Number of clips."""
        return len(self.captions)

    def add(self, record: InterleavedVideo) -> None:
        """Add the captioned clips of one record."""
        indices = [index for index, clip in enumerate(record.clips) if clip.caption]
        if not indices:
            return
        self.documents.append(np.arange(self.num_clips, self.num_clips + len(indices)))
        self.positions += [(len(self.records), index) for index in indices]
        self.captions += [record.clips[index].caption for index in indices]
        self.records.append(record)

    def decode(self, clips: Sequence[int], num_frames: int) -> list[NDArray[np.uint8]]:
        """Decode frames of the given clips of one record, each uint8 (num_frames, 3, H, W)."""
        record = self.records[self.positions[clips[0]][0]]
        return list(decode_clips(record, [self.positions[clip][1] for clip in clips], num_frames, self.root))


def load_clips(corpus: str | Path, split: str) -> ClipTable:
    """Read the captions of a split.

    Raises:
        ValueError: if the split does not exist, or none of its kept clips has a caption.
    """
    table = ClipTable(root=Path(corpus), split=split)
    for record in read_corpus(corpus, split):
        table.add(record)
    if not table.num_clips:
        raise ValueError(f"{table.name} has no kept clip with a caption")
    return table


def decode_in_order(table: ClipTable, num_frames: int, num_workers: int) -> Iterator[list[NDArray[np.uint8]]]:
    """Decode the frames of every clip, one group of videos at a time; threads decode the next group in the meantime.

    Yields:
        The frames of the clips of up to `DOCUMENTS_AHEAD` videos, in clip order: uint8 (num_frames, 3, H, W) per clip.
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
    """Return a SHA-256 over the shards of a split; of videos outside the shards, only path and size count."""
    digest = hashlib.sha256()
    for shard in list_shards(corpus, split):
        with shard.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    for record in read_corpus(corpus, split):
        if record.video_bytes is None and record.video_path:
            path = Path(corpus, record.video_path)
            digest.update(f"{record.video_path}:{path.stat().st_size if path.is_file() else None}".encode())
    return digest.hexdigest()
