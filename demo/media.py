"""Read what a visitor drops on the page: turn a clip or picture into a few frames, or say in one line why not."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError


VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".gif")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
"""Formats that Pillow may open, whatever the file's name; others start external programs (Ghostscript)."""
Span = tuple[float, float]
"""Start and end within a video, in seconds."""
KEPT_SIDE_PX = 448
"""Longer side to which frames are shrunk; every tower sees fewer pixels than that."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on what a stranger may send."""

    max_file_bytes: int = 50 * 2**20
    """Size of an upload."""
    max_duration_s: float = 300.0
    """Length of a clip, in seconds."""
    max_side_px: int = 4096
    """Longer side of a picture or frame."""
    max_text_chars: int = 300
    """Length of a demonstration's text or of a query."""
    max_demonstrations: int = 8
    """Demonstrations before one caption."""


@dataclass(frozen=True, kw_only=True)
class Medium:
    """A clip or picture as the model gets it."""

    name: str
    """File name, followed by the time span if this is a part of the file."""
    frames: tuple[Image.Image, ...]
    """RGB frames in order of time; one for a picture."""
    span: Span | None = None
    """Which part of its file this is; `None`: all of it."""


def read_medium(path: Path, num_frames: int, limits: Limits | None) -> Medium:
    """Read a clip or a picture.

    Args:
        path: the file.
        num_frames: number of frames of a clip, each from the middle of one of that many equal parts.
        limits: limits for a visitor's file; `None` for the user's own files.

    Raises:
        ValueError: if the file is neither, is damaged, or is over a limit; the message can be shown on the page.
        OSError: if the file cannot be opened.
    """
    num_bytes = path.stat().st_size
    if limits and num_bytes > limits.max_file_bytes:
        raise ValueError(
            f"{path.name} has {num_bytes / 2**20:.0f} MB; at most {limits.max_file_bytes >> 20} MB, please"
        )
    picture = _read_picture(path, limits)
    if picture is not None:
        return Medium(name=path.name, frames=(picture,))
    [medium] = _read_spans(path, num_frames, limits, lambda duration_s: [(0.0, duration_s)])
    return medium


def read_parts(path: Path, num_frames: int, part_s: float) -> Iterator[Medium]:
    """Read one of the user's own videos in parts: the clips listed in a JSON file next to it, or equal lengths.

    Parts are yielded as they are decoded, in order of their start, so only overlapping ones are in memory at once.

    Args:
        path: a video file; `NAME.json` next to it may hold a list `clips` or `steps` of `{"start_s", "end_s"}`, as
            the toy world and the corpus write them.
        num_frames: number of frames of each clip.
        part_s: longest part, in seconds, if no JSON file lists the clips.

    Raises:
        ValueError: if the file is not a video or is damaged, or the JSON file is damaged.
    """
    spans = _spans_beside(path)

    def split(duration_s: float) -> list[Span]:
        num_parts = max(1, -int(-duration_s // part_s))
        step_s = duration_s / num_parts
        return spans or [(part * step_s, (part + 1) * step_s) for part in range(num_parts)]

    yield from _read_spans(path, num_frames, None, split)


def _spans_beside(path: Path) -> list[Span]:
    truth = path.with_suffix(".json")
    if not truth.is_file():
        return []
    try:
        content = json.loads(truth.read_text(encoding="utf-8"))
        listed = content.get("clips") or content.get("steps") or []
        return [(float(clip["start_s"]), float(clip["end_s"])) for clip in listed]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{truth.name} holds no clips with start_s and end_s") from None


def _read_spans(
    path: Path, num_frames: int, limits: Limits | None, split: Callable[[float], list[Span]]
) -> Iterator[Medium]:
    """Read the middle frames of `num_frames` equal parts of each span; `split` gets the video's length in seconds."""
    av = _import_av()
    try:
        with av.open(f"file:{path}") as container:  # so that a colon in a name is not read as a protocol
            if not container.streams.video:
                raise ValueError(f"{path.name} has sound but no picture")
            spans = sorted(split(_duration_s(container, path, limits)))
            num_read = 0
            for span, frames in _frames_of_spans(container, spans, num_frames):
                name = f"{path.name} {_clock(span[0])}-{_clock(span[1])}" if len(spans) > 1 else path.name
                yield Medium(name=name, frames=tuple(frames), span=span if len(spans) > 1 else None)
                num_read += 1
    except av.error.FFmpegError as error:
        raise ValueError(f"{path.name} cannot be read as a video or picture ({error.strerror})") from None
    if num_read == 0:
        raise ValueError(f"{path.name} holds no frames")


def _frames_of_spans(
    container: Any, spans: Sequence[Span], num_frames: int
) -> Iterator[tuple[Span, list[Image.Image]]]:
    """Yield each span with its frames, in order; the video is decoded once, forward."""
    wanted = sorted(
        (start_s + (index + 0.5) * (end_s - start_s) / num_frames, part)
        for part, (start_s, end_s) in enumerate(spans)
        for index in range(num_frames)
    )
    collected: list[list[Image.Image]] = [[] for _ in spans]
    next_part = 0
    shown = _frames_at(container, [time_s for time_s, _ in wanted])
    for (_, part), frame in zip(wanted, shown, strict=False):  # `shown` is empty if the video has no frames
        collected[part].append(frame)
        while next_part < len(spans) and len(collected[next_part]) == num_frames:
            yield spans[next_part], collected[next_part]
            collected[next_part] = []
            next_part += 1


def frame_strip(medium: Medium, height_px: int = 160, max_frames: int = 6) -> Image.Image:
    """Put the frames side by side, as the model saw them; if there are over `max_frames`, choose evenly."""
    step = max(1.0, len(medium.frames) / max_frames)
    chosen = [medium.frames[int(index * step)] for index in range(min(max_frames, len(medium.frames)))]
    small = [_fit(frame, height_px) for frame in chosen]
    gap_px = 4
    strip = Image.new("RGB", (sum(frame.width for frame in small) + gap_px * (len(small) - 1), height_px), "white")
    left = 0
    for frame in small:
        strip.paste(frame, (left, (height_px - frame.height) // 2))
        left += frame.width + gap_px
    return strip


def _fit(frame: Image.Image, height_px: int) -> Image.Image:
    """Resize to this height, or lower if over four times as wide as high, so that a JPEG can hold the width."""
    scale = min(height_px / frame.height, 4 * height_px / frame.width)
    return frame.resize((max(1, round(frame.width * scale)), max(1, round(frame.height * scale))))


def _read_picture(path: Path, limits: Limits | None) -> Image.Image | None:
    """Read the picture in a file, upright; `None` if it is not a picture, or is animated."""
    try:
        with Image.open(path, formats=PICTURE_FORMATS) as picture:
            if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:  # phones put two pictures into an MPO
                return None
            _check_size(path.name, picture.size, limits)
            return _shrink(ImageOps.exif_transpose(picture).convert("RGB"))
    except UnidentifiedImageError:
        return None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path.name} is a damaged picture ({error})") from None


def _duration_s(container: Any, path: Path, limits: Limits | None) -> float:
    """Length of the pictures in seconds, from the header if it is stated there, else from the packets."""
    stream = container.streams.video[0]
    _check_size(path.name, (stream.width, stream.height), limits)
    if stream.duration is not None:
        duration_s = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        duration_s = container.duration / 1e6
    else:
        ends = [
            float((packet.pts + (packet.duration or 0)) * packet.time_base)
            for packet in container.demux(stream)
            if packet.pts
        ]
        duration_s = max(ends, default=0.0)
        container.seek(0)
    if limits and duration_s > limits.max_duration_s:
        raise ValueError(f"{path.name} lasts {duration_s:.0f} s; at most {limits.max_duration_s:.0f} s, please")
    return duration_s


def _frames_at(container: Any, times_s: Sequence[float]) -> Iterator[Image.Image]:
    """Yield what a viewer sees at ascending times, counted from the first frame; past the end, the last frame."""
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    position = 0
    shown, origin_s = None, None
    for frame in container.decode(stream):
        frame_s = frame.time if frame.time is not None else 0.0
        origin_s = frame_s if origin_s is None else origin_s
        while shown is not None and position < len(times_s) and times_s[position] < frame_s - origin_s - 1e-6:
            yield _shrink(shown.to_image())
            position += 1
        if position == len(times_s):
            return
        shown = frame
    if shown is not None:
        last = _shrink(shown.to_image())
        yield from [last] * (len(times_s) - position)


def _check_size(name: str, size: tuple[int, int], limits: Limits | None) -> None:
    if limits and max(size) > limits.max_side_px:
        raise ValueError(f"{name} is {size[0]} x {size[1]} pixels; at most {limits.max_side_px} a side, please")


def _shrink(picture: Image.Image) -> Image.Image:
    picture.thumbnail((KEPT_SIDE_PX, KEPT_SIDE_PX))
    return picture


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"


def _import_av() -> Any:
    try:
        import av
    except ImportError:
        raise ValueError("reading clips needs PyAV: pip install av") from None
    return av
