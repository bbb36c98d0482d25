"""Read Howto-Interlink7M as published: lists of captioned clips for videos that users have, or shards with both.

Source: https://huggingface.co/datasets/Awiny/Howto-Interlink7M. The lists give times in the original video; the
released training read videos that were shrunk to 256 px and played five times as fast, so it divided seconds by 5.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import fsspec

from dataset_builder.errors import DamagedInput
from dataset_builder.readers.lines import LineRange, parse_json, read_table, split_lines
from dataset_builder.readers.media_folder import MediaFolder
from dataset_builder.readers.stream import Source, find_shards, rows_of_shard, stream_shards
from dataset_builder.readers.tally import ReadSummary, Tally, read_summary
from dataset_builder.readers.tar_samples import read_tar_samples
from dataset_builder.readers.videos import MAX_VIDEO_BYTES, VIDEO_EXTENSIONS, FoundVideo, find_video, video_duration_s
from dataset_builder.schema import FEATURES, Clip, InterleavedVideo, to_row


RELEASED_SPEED = 5.0
PUBLISHED = "hf://datasets/Awiny/Howto-Interlink7M"
FILES = {  # the repository spells the last name like this
    "all_clips": {
        "train": ["Howto-Interlink7M_subset_w_all_clips_train.tsv"],
        "validation": ["Howto-Interlink7M_subset_w_all_clips_val.tsv"],
    },
    "sampled_clips": {
        "train": ["Howto-Interlink7M_subset_w_sampled_clips_train.tsv"],
        "validation": [
            "Howto-Interlink7M_subset_w_sampled_clips_val.tsv",
            "Howto-Interlink7M_sbset_w_sampled_clips_val.tsv",
        ],
    },
}
TAR_MEMBERS = {**dict.fromkeys(VIDEO_EXTENSIONS, MAX_VIDEO_BYTES), "json": 4_000_000}
REVERSED_CLIP_S = 2.0  # the released reader takes the last two seconds of a clip whose start is not before its end
REPORT = "read_report"


@dataclass
class HowtoInterlinkConfig(datasets.BuilderConfig):
    """Location of lists and videos. `name` is `all_clips` or `sampled_clips`."""

    annotations: str = PUBLISHED
    """Folder or address with the published `.tsv` files."""
    videos: str = ""
    """Folder or address with the videos; the column `path` of a list is relative to it."""
    video_speed: float = 1.0
    """How many times as fast as the originals the videos play; 5 for the released ones."""
    num_shards: int = 64
    """Number of line ranges that a list is read in; a multiple of nodes x workers is fastest."""
    report: str | None = None
    """Folder for the counts of what streaming leaves out (`read_summary`); `download_and_prepare` has its own."""


class HowtoInterlink(datasets.GeneratorBasedBuilder):
    """Rows in the corpus schema, one per document whose video exists and opens.

    Use `HowtoInterlink("all_clips", videos=FOLDER).as_streaming_dataset("train")`, or
    `download_and_prepare(num_proc=N)` and `as_dataset("train")`. With a local folder, a row names its video, and
    `decode_clip(row, index, num_frames, root=FOLDER)` decodes it; with an address, rows hold the videos' bytes. Times
    refer to the file that is read.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = HowtoInterlinkConfig
    BUILDER_CONFIGS = [HowtoInterlinkConfig(name=name) for name in FILES]  # noqa: RUF012  # as `datasets` declares it
    DEFAULT_WRITER_BATCH_SIZE = 16  # rows may hold whole videos

    def __init__(self, config_name: str = "all_clips", cache_dir: str | None = None, **settings: Any) -> None:
        for key in ("annotations", "videos", "report"):
            if settings.get(key) is not None:
                settings[key] = str(settings[key])
        super().__init__(cache_dir=cache_dir, config_name=config_name, **settings)
        if not self.config.videos:
            raise ValueError("videos= is missing: the folder or address of the videos that the lists speak of")
        if not self.config.video_speed > 0:
            raise ValueError(f"video_speed is {self.config.video_speed}; it must be above 0 (released videos: 5)")

    def summary(self) -> ReadSummary:
        """What `download_and_prepare` left out, and why.

        Raises:
            ValueError: if it has not run yet.
        """
        return read_summary(Path(self._output_dir, REPORT))

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            features=FEATURES, homepage="https://huggingface.co/datasets/Awiny/Howto-Interlink7M"
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        streaming = dl_manager.is_streaming
        generators = []
        for split, names in FILES[self.config.name].items():
            if url := _first_file(self.config.annotations, names):
                shards = split_lines(dl_manager.download(url), self.config.num_shards)
                settings = {"shards": shards, "prepared": not streaming, "file": PurePosixPath(url).name}
                generators.append(datasets.SplitGenerator(name=split, gen_kwargs=settings))
        if not generators:
            names = [name for split in FILES[self.config.name].values() for name in split]
            raise ValueError(f"{self.config.annotations} holds none of {names}")
        return generators

    def _generate_examples(
        self, shards: list[LineRange], prepared: bool, file: str
    ) -> Iterator[tuple[datasets.builder.Key, dict[str, Any]]]:
        report = Path(self._output_dir, REPORT) if prepared else self.config.report
        read = partial(
            _read_lines, folder=MediaFolder(self.config.videos), speed=self.config.video_speed, config=self.config.name
        )
        for number, shard in enumerate(shards):
            for index, row in enumerate(rows_of_shard(shard, read, report)):
                yield datasets.builder.Key(number, index), row


def howto_interlink_shards(
    shards: Source, video_speed: float = RELEASED_SPEED, report: str | Path | None = None
) -> datasets.IterableDataset:
    """Read the released WebDataset form: tars of `mp4` with `json`, whose `clips` are also JSON; rows hold the videos.

    Args:
        shards: `.tar` files.
        video_speed: how many times as fast as the originals the videos play.
        report: folder for the counts of what is left out.

    Raises:
        ValueError: if there are no shards.
    """
    if not video_speed > 0:
        raise ValueError(f"video_speed is {video_speed}; it must be above 0 (released videos: 5)")
    read = partial(_read_tar, speed=video_speed)
    return stream_shards(find_shards(shards, (".tar",)), read, FEATURES, report)


def parse_time(text: str) -> float:
    """Seconds of `H:MM:SS`, `MM:SS` or `SS`, optionally with a fraction.

    Raises:
        DamagedInput: for anything else.
    """
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d+)?", text):
        raise DamagedInput(f"time {text!r} is not H:MM:SS")
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def parse_clips(text: Any, speed: float, duration_s: float, tally: Tally, name: str) -> tuple[Clip, ...]:
    """The clips of a document, in its order and in times of the file that is read.

    A clip whose start is not before its end becomes the two seconds before its end, as in the released reader. Clips
    that begin after the end of the video or are malformed are left out and counted.

    Args:
        text: JSON list of `{"clip": "H:MM:SS - H:MM:SS", "caption": ...}`.
        speed: how many times as fast as the original the video plays.
        duration_s: duration of the video as it plays.
        tally: counts clips.
        name: name of the document, for the counts.

    Raises:
        DamagedInput: if the text is not such a list.
    """
    entries = parse_json(text) if isinstance(text, str) else text
    if not isinstance(entries, list):
        raise DamagedInput("clips is not a JSON list")
    clips = []
    for entry in entries:
        try:
            start_s, end_s, caption = _parse_clip(entry)
        except DamagedInput as error:
            tally.drop("clip: malformed", name, str(error))
            continue
        if start_s >= end_s:
            tally.repair("clip: start not before end", name, str(entry["clip"]))
            start_s = max(0.0, end_s - REVERSED_CLIP_S)
        start_s, end_s = start_s / speed, min(end_s / speed, duration_s)
        if start_s >= end_s:
            tally.drop("clip: behind the end of the video", name, f"{start_s:.1f} s of {duration_s:.1f} s")
        else:
            clips.append(Clip(start_s=start_s, end_s=end_s, caption=caption))
    return tuple(clips)


def _parse_clip(entry: Any) -> tuple[float, float, str]:
    if not isinstance(entry, dict) or not isinstance(entry.get("clip"), str):
        raise DamagedInput("no object with clip and caption")
    caption = entry.get("caption")
    if not isinstance(caption, str) or not caption.strip():
        raise DamagedInput("no caption")
    start, _, end = entry["clip"].partition(" - ")
    return parse_time(start.strip()), parse_time(end.strip()), caption.strip()


def _first_file(folder: str, names: list[str]) -> str | None:
    for name in names:
        url = f"{folder.rstrip('/')}/{name}"
        system, path = fsspec.core.url_to_fs(url)
        if system.isfile(path):
            return url
    return None


def _read_lines(
    lines: LineRange, tally: Tally, folder: MediaFolder, speed: float, config: str
) -> Iterator[dict[str, Any]]:
    for _, row in read_table(lines, "\t", ("path", "clips"), tally):
        path = row["path"]
        names = [path, path.removesuffix(".webm") + ".mp4"] if path.endswith(".webm") else [path]  # released as mp4
        try:
            found = find_video(folder, names)
        except FileNotFoundError:
            tally.skip("missing video", path)
        except DamagedInput as error:
            tally.skip("damaged video or refused path", path, str(error))
        else:
            yield from _record(path, found, row["clips"], speed, {"config": config}, tally)


def _read_tar(url: str, tally: Tally, speed: float) -> Iterator[dict[str, Any]]:
    for sample in read_tar_samples(url, TAR_MEMBERS, tally):
        extension = next((name for name in VIDEO_EXTENSIONS if name in sample.fields), None)
        if extension is None or "json" not in sample.fields:
            tally.skip("no video" if extension is None else "no json", sample.key)
            continue
        data = sample.fields[extension]
        try:
            facts = parse_json(sample.fields["json"])
            found = FoundVideo(f"{sample.key}.{extension}", data, video_duration_s(data))
        except DamagedInput as error:
            tally.skip("damaged video or json", sample.key, str(error))
            continue
        clips = facts.get("clips") if isinstance(facts, dict) else None
        yield from _record(found.name, found, clips, speed, {}, tally)


def _record(
    path: str, video: FoundVideo, clips: Any, speed: float, facts: dict[str, Any], tally: Tally
) -> Iterator[dict[str, Any]]:
    """Yield the row of a document, or nothing if no clip is left."""
    try:
        parsed = parse_clips(clips, speed, video.duration_s, tally, path)
    except DamagedInput as error:
        tally.skip("malformed clips", path, str(error))
        return
    if not parsed:
        tally.skip("no clip left", path)
        return
    yield to_row(
        InterleavedVideo(
            video_id=PurePosixPath(path).with_suffix("").as_posix(),
            video_path=video.name,
            video_bytes=video.data,
            duration_s=video.duration_s,
            source="Howto-Interlink7M",
            clips=parsed,
            provenance={"howto_interlink": {**facts, "video_speed": speed}},
        )
    )
