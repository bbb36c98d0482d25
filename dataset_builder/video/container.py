"""Open videos with PyAV and say in one line what is wrong with those that do not open."""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from fsspec.core import OpenFile

from dataset_builder.errors import DamagedInput
from dataset_builder.video.needed_frames import decode_needed


# Playlists and scripts (HLS, concat, ...) make FFmpeg open the files or addresses they name, so data could reach
# outside the corpus: only real containers are opened, whatever the file's name says.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,mxf,h264,hevc,ivf,nut,rm,dv"
)
WITHOUT_TIMES = {"avi", "h264", "hevc", "mpegvideo"}  # these store no presentation times; frames come at a fixed rate
MAX_DURATION_S = 24 * 3600.0  # a later timestamp counts as broken,
MAX_GAP_S = 600.0  # as does one this long after the previous frame: sampling would repeat that frame for hours,
MAX_BACK_S = 5.0  # or this long before it: in recordings joined byte by byte the clock starts again


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """Facts from a video's header."""

    container: str
    codec: str
    duration_s: float | None
    width_px: int
    height_px: int
    frame_rate_hz: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for provenance."""
        return asdict(self)


class TimedFrame(NamedTuple):
    """A decoded frame and when it is shown, in seconds from the video's first frame."""

    start_s: float
    end_s: float
    frame: VideoFrame


@contextmanager
def open_video(
    video: Path | bytes | OpenFile, max_frame_px: int | None = None
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file (or its bytes) and its first moving-picture stream, single threaded.

    Args:
        video: path of the file, its bytes, or a remote file, of which only the needed parts are read.
        max_frame_px: the decoder refuses larger frames before it allocates memory for them.

    Raises:
        DamagedInput: for an empty file, one that is not a video, or one without a video stream.
    """
    with ExitStack() as stack:
        if isinstance(video, OpenFile):
            source: Any = stack.enter_context(video)
            size = source.seek(0, io.SEEK_END)
            source.seek(0)
        elif isinstance(video, bytes):
            source, size = io.BytesIO(video), len(video)
        else:
            source, size = f"file:{video}", video.stat().st_size  # else a colon in a name would mark a protocol
        if size == 0:
            raise DamagedInput("empty file (0 bytes)")
        yield stack.enter_context(_open_container(source, max_frame_px))


@contextmanager
def _open_container(source: Any, max_frame_px: int | None) -> Iterator[tuple[InputContainer, VideoStream]]:
    try:
        container = av.open(
            source,
            mode="r",
            container_options={"format_whitelist": CONTAINERS},
            metadata_errors="replace",
        )
    except (av.error.FFmpegError, ValueError) as error:
        raise DamagedInput(f"not a video, or cut off before its index ({reason_of(error)})") from error
    with container:
        streams = [stream for stream in container.streams.video if not _is_cover(stream)]
        if not streams:
            raise DamagedInput(f"no video stream (found: {[stream.type for stream in container.streams]})")
        if streams[0].codec_context is None:
            raise DamagedInput("no decoder for its codec")
        if max_frame_px is not None:
            streams[0].codec_context.options = {"max_pixels": str(max_frame_px)}
        streams[0].codec_context.thread_count = 1  # one thread per worker: the build runs a worker per core
        yield container, streams[0]


def read_facts(container: InputContainer, stream: VideoStream) -> VideoFacts:
    """Container, codec, size, rate and duration according to the header."""
    duration = promised_duration_s(container, stream)
    rate = stream.average_rate or stream.guessed_rate
    return VideoFacts(
        container=container.format.name,
        codec=stream.codec_context.name,
        duration_s=duration[0] if duration else None,
        width_px=stream.codec_context.width,
        height_px=stream.codec_context.height,
        frame_rate_hz=float(rate) if rate else None,
    )


def promised_duration_s(container: InputContainer, stream: VideoStream) -> tuple[float, float] | None:
    """The duration that the header promises, and how far the frames may fall short of it, both in seconds.

    The stream's own duration is exact; the container's also counts sound that continues after the last picture.
    """
    if stream.duration and stream.time_base:
        duration_s = float(stream.duration * stream.time_base)
        return duration_s, max(0.5, 0.02 * duration_s)
    if container.duration:
        duration_s = container.duration / av.time_base
        return duration_s, max(2.0, 0.1 * duration_s)
    return None


def has_times(container: InputContainer) -> bool:
    """Whether the frames' timestamps say when they are shown, so that seeking works."""
    return container.format.name not in WITHOUT_TIMES


def decode_forward(
    stream: VideoStream, container: InputContainer, times_s: Sequence[float] | None = None
) -> Iterator[TimedFrame]:
    """Yield frames from the current position on, with the time at which each is shown.

    Frames without a timestamp, and all frames of containers that store none, follow the previous frame at the stream's
    rate (so such containers must be read from the start).

    Args:
        stream: what to decode.
        container: the stream's container.
        times_s: moments, ascending, in seconds from the first frame: frames that none of them needs may be left out
            (the frame before then seems to last longer). None: every frame.

    Raises:
        DamagedInput: if decoding fails or a timestamp is absurd.
    """
    time_base = stream.time_base or Fraction(1, 1000)
    origin = stream.start_time or 0
    rate = stream.average_rate or stream.guessed_rate or 25
    timed = has_times(container)
    start_s = end_s = 0.0
    before_s = math.inf
    try:
        sparing = timed and times_s is not None
        for frame in decode_needed(stream, container, times_s or ()) if sparing else container.decode(stream):
            if not timed or frame.pts is None:
                start_s = end_s
            else:
                told_s = float((frame.pts - origin) * time_base)
                if told_s < start_s - MAX_BACK_S:
                    raise DamagedInput(f"broken timestamps: from {start_s:.0f} s back to {told_s:.0f} s")
                start_s = max(start_s, told_s)
            end_s = start_s + (float(frame.duration * time_base) if frame.duration else float(1 / rate))
            if end_s > MAX_DURATION_S or end_s - before_s > MAX_GAP_S:
                raise DamagedInput(f"broken timestamps: a frame that is shown from {start_s:.0f} to {end_s:.0f} s")
            before_s = end_s
            yield TimedFrame(start_s, end_s, frame)
    except av.error.FFmpegError as error:
        raise DamagedInput(f"cannot be decoded after {end_s:.2f} s ({reason_of(error)})") from error


class RgbConverter:
    """Converter of decoded frames to upright RGB pixels of any size (swscale, which reads the planes directly)."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame, height_px: int | None = None, width_px: int | None = None) -> np.ndarray:
        """Return uint8 pixels of shape `(H, W, 3)`; without a size, in the size in which the frame is shown."""
        quarter_turns = round(frame.rotation / 90) % 4
        if quarter_turns % 2:
            height_px, width_px = width_px, height_px
        try:
            rgb = self._reformatter.reformat(
                frame,
                width=width_px or frame.width,
                height=height_px or frame.height,
                format="rgb24",
                interpolation=Interpolation.BICUBIC,
                threads=1,
            ).to_ndarray()
        except (av.error.FFmpegError, ValueError) as error:
            raise DamagedInput(f"a frame cannot be turned into RGB ({reason_of(error)})") from error
        return np.rot90(rgb, quarter_turns) if quarter_turns else rgb


def shown_size(frame: VideoFrame) -> tuple[int, int]:
    """Height and width in pixels, after the rotation that the file asks for."""
    size = (frame.height, frame.width)
    return size if round(frame.rotation / 90) % 2 == 0 else size[::-1]


def _is_cover(stream: VideoStream) -> bool:
    """Whether the stream is a still picture attached to a recording."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def reason_of(error: Exception) -> str:
    """FFmpeg's reason without error number and path."""
    text = getattr(error, "strerror", None) or str(error)
    return text.splitlines()[0]
