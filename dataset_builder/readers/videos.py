"""Find videos that a list names or a shard holds, and open them far enough to know their duration."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dataset_builder.errors import DamagedInput
from dataset_builder.readers.media_folder import MediaFolder
from dataset_builder.video.container import MAX_DURATION_S, decode_forward, open_video, promised_duration_s


MAX_VIDEO_BYTES = 1_000_000_000  # largest video that is held in memory: from a tar, or from an address
VIDEO_EXTENSIONS = ("mp4", "webm", "mkv", "mov", "avi")  # of videos in shards


class FoundVideo(NamedTuple):
    """A video that opens."""

    name: str
    """Its path below the folder."""
    data: bytes | None
    """The whole file if it comes from an address; None in a local folder, where decoding opens it by its path."""
    duration_s: float


def find_video(folder: MediaFolder, names: Sequence[str]) -> FoundVideo:
    """The first of several possible files that exists.

    Raises:
        FileNotFoundError: if none exists.
        DamagedInput: if a name leads out of the folder, or the file does not open.
    """
    for name in names:
        try:
            if folder.is_local:
                return FoundVideo(name, None, video_duration_s(folder.local_path(name)))
            data = folder.read(name, MAX_VIDEO_BYTES)
            return FoundVideo(name, data, video_duration_s(data))
        except FileNotFoundError:
            continue
    raise FileNotFoundError(names[0])


def video_duration_s(video: Path | bytes) -> float:
    """The duration that the header promises, in seconds; if it promises none, all frames are decoded.

    Raises:
        DamagedInput: if it does not open, has no frame, or claims to last longer than a day.
    """
    with open_video(video) as (container, stream):
        promised = promised_duration_s(container, stream)
        duration_s = promised[0] if promised else 0.0
        if not promised:
            for timed in decode_forward(stream, container):
                duration_s = timed.end_s
    if not 0 < duration_s <= MAX_DURATION_S:
        raise DamagedInput(f"video of {duration_s:.0f} s")
    return duration_s
