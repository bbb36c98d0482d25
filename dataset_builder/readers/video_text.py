"""Read video-text pairs: WebVid's list with a folder of videos, or tars of `mp4` with `txt` or `json`."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from datasets import IterableDataset

from dataset_builder.errors import DamagedInput
from dataset_builder.readers.image_text import MAX_TEXT_BYTES, caption_of
from dataset_builder.readers.lines import LineRange, read_table, split_lines
from dataset_builder.readers.media_folder import MediaFolder
from dataset_builder.readers.stream import Source, find_shards, stream_shards
from dataset_builder.readers.tally import Tally
from dataset_builder.readers.tar_samples import read_tar_samples
from dataset_builder.readers.videos import MAX_VIDEO_BYTES, VIDEO_EXTENSIONS, FoundVideo, find_video, video_duration_s
from dataset_builder.schema import FEATURES, Clip, InterleavedVideo, to_row


TAR_MEMBERS = {**dict.fromkeys(VIDEO_EXTENSIONS, MAX_VIDEO_BYTES), "txt": MAX_TEXT_BYTES, "json": MAX_TEXT_BYTES}
WEBVID_COLUMNS = ("videoid", "page_dir", "name")
NUM_RANGES = 64  # of one list: divides evenly among 2, 4, ... 64 workers


def video_text_pairs(shards: Source, source: str = "", report: str | Path | None = None) -> IterableDataset:
    """Pairs from tars, as records of one clip that lasts the whole video (in the corpus schema).

    Args:
        shards: `.tar` files with a video (`VIDEO_EXTENSIONS`) and `txt`, or `json` with `caption` or `name`.
        source: name of the collection, stored in every row.
        report: folder for the counts of what is left out.

    Raises:
        ValueError: if there are no shards.
    """
    read = partial(_read_tar, source=source)
    return stream_shards(find_shards(shards, (".tar",)), read, FEATURES, report)


def webvid_pairs(
    table: str | Path, videos: str | Path, num_shards: int = NUM_RANGES, report: str | Path | None = None
) -> IterableDataset:
    """Pairs from WebVid's list, as records of one clip that lasts the whole video (in the corpus schema).

    Args:
        table: `results_*.csv` with `videoid, contentUrl, duration, page_dir, name`.
        videos: folder or address; a video is `{page_dir}/{videoid}.mp4` or `{videoid}.mp4` in it.
        num_shards: number of line ranges that the list is read in; a multiple of nodes x workers is fastest.
        report: folder for the counts of what is left out.

    Raises:
        ValueError: if there is no such list.
    """
    read = partial(_read_webvid, folder=MediaFolder(str(videos)))
    return stream_shards(split_lines(str(table), num_shards), read, FEATURES, report)


def _read_tar(url: str, tally: Tally, source: str) -> Iterator[dict[str, Any]]:
    for sample in read_tar_samples(url, TAR_MEMBERS, tally):
        extension = next((name for name in VIDEO_EXTENSIONS if name in sample.fields), None)
        caption = caption_of(sample.fields)
        if extension is None or not caption or not caption.strip():
            tally.skip("no video" if extension is None else "no caption", sample.key)
            continue
        data = sample.fields[extension]
        try:
            found = FoundVideo(f"{sample.key}.{extension}", data, video_duration_s(data))
        except DamagedInput as error:
            tally.skip("damaged video", sample.key, str(error))
            continue
        yield _pair(sample.key, found, caption, source, {"reader": "video_text_pairs"})


def _read_webvid(lines: LineRange, tally: Tally, folder: MediaFolder) -> Iterator[dict[str, Any]]:
    for _, row in read_table(lines, ",", WEBVID_COLUMNS, tally):
        name = f"{row['videoid']}.mp4"
        if not row["name"].strip():
            tally.skip("no caption", name)
            continue
        try:
            found = find_video(folder, [f"{row['page_dir']}/{name}", name] if row["page_dir"] else [name])
        except FileNotFoundError:
            tally.skip("missing video", name)
        except DamagedInput as error:
            tally.skip("damaged video", name, str(error))
        else:
            yield _pair(row["videoid"], found, row["name"], "WebVid", {"reader": "webvid_pairs"})


def _pair(key: str, video: FoundVideo, caption: str, source: str, provenance: dict[str, Any]) -> dict[str, Any]:
    return to_row(
        InterleavedVideo(
            video_id=key,
            video_path=video.name,
            video_bytes=video.data,
            duration_s=video.duration_s,
            source=source,
            clips=(Clip(start_s=0.0, end_s=video.duration_s, caption=caption.strip()),),
            provenance=provenance,
        )
    )
