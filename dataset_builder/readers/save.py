"""Write the rows of a video reader as a corpus folder, which training and streaming read."""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from dataset_builder.corpus.output_folder import store_video, write_checksums
from dataset_builder.corpus.shard_index import write_index
from dataset_builder.corpus.shards import ROW_BYTES, shard_name, write_shard
from dataset_builder.readers.media_folder import MediaFolder
from dataset_builder.recipe import ShardSettings
from dataset_builder.schema import InterleavedVideo, from_row


# Records stay in the reader's order; `shuffle` only means that they are not sorted by id.
SETTINGS = ShardSettings(embed_videos=True, shuffle=True)


def save_corpus(
    rows: Iterable[Mapping[str, Any]],
    output_dir: str | Path,
    split: str,
    videos: str | Path | None = None,
    max_shard_mb: float = SETTINGS.max_shard_mb,
) -> int:
    """Write one split; shards of the same split from an earlier call are replaced once all new ones are complete.

    Videos that the rows hold go into the shards; videos that the rows name are linked from the folder `videos` into
    `output_dir/videos/SPLIT`, or copied if the disk has no links.

    Args:
        rows: rows in the corpus schema, from `HowtoInterlink`, `howto_interlink_shards`, `webvid_pairs` or
            `video_text_pairs`.
        output_dir: the corpus folder.
        split: `train`, `validation` or `test`.
        videos: local folder that the rows' paths are relative to; needed if rows name their videos.
        max_shard_mb: a shard is closed before it grows past this (1e6 bytes).

    Returns:
        Number of records written.

    Raises:
        ValueError: if there are no rows, or rows name videos and `videos` is missing.
    """
    target = Path(output_dir)
    fresh = target / f".fresh-{split}"
    shutil.rmtree(fresh, ignore_errors=True)
    records = (_stored(from_row(row), target, split, videos) for row in rows)
    paths, count = [], 0
    for index, shard in enumerate(_shards(records, max_shard_mb * 1e6)):
        paths.append(fresh / f"{index:05d}")
        counted = _Counted(shard)
        write_shard(paths[-1], counted, SETTINGS)
        count += counted.num
    if not paths:
        raise ValueError(f"no rows to write as {split!r}; ask the reader's summary what it left out")
    data = target / "data"
    data.mkdir(exist_ok=True)
    for old in data.glob(f"{split}-*-of-*"):
        old.unlink()
    for index, path in enumerate(paths):
        path.rename(data / shard_name(split, index, len(paths), SETTINGS))
    fresh.rmdir()
    write_index(target)
    write_checksums(target)
    return count


class _Counted:
    """An iterable that counts the records it yielded."""

    def __init__(self, records: Iterable[InterleavedVideo]) -> None:
        self._records, self.num = records, 0

    def __iter__(self) -> Iterator[InterleavedVideo]:
        for record in self._records:
            self.num += 1
            yield record


def _shards(records: Iterator[InterleavedVideo], max_bytes: float) -> Iterator[Iterator[InterleavedVideo]]:
    """Yield the records of one shard after the other; each must be consumed before the next."""
    waiting: list[InterleavedVideo] = []

    def fill() -> Iterator[InterleavedVideo]:
        filled = 0
        for record in chain([waiting.pop()], records):
            size = ROW_BYTES + len(record.video_bytes or b"")
            if filled and filled + size > max_bytes:
                waiting.append(record)
                return
            filled += size
            yield record

    waiting += [record for record in [next(records, None)] if record]
    while waiting:
        yield fill()


def _stored(record: InterleavedVideo, target: Path, split: str, videos: str | Path | None) -> InterleavedVideo:
    """The record with its video inside, or in the corpus folder."""
    if record.video_bytes is not None:
        return record
    if videos is None:
        raise ValueError(
            f"{record.video_id} names its video {record.video_path!r}; give videos=, the folder that holds it"
        )
    source = MediaFolder(str(videos)).local_path(record.video_path or "")
    name = f"videos/{split}/{record.video_path}"
    store_video(target / name, source)
    return replace(record, video_path=name)
