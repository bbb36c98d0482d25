"""Decode the sound of a video with PyAV, in the form that speech models read."""

import io
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from dataset_builder.errors import DamagedInput
from dataset_builder.video.container import CONTAINERS, MAX_GAP_S, reason_of


def decode_sound(video: Path | bytes, rate_hz: int, window_s: float) -> Iterator[np.ndarray]:
    """Yield the first sound stream, mixed to one channel, in consecutive windows from the first picture on.

    Args:
        video: path of the file, or its bytes.
        rate_hz: samples per second of the result.
        window_s: length of a window; the last one may be shorter. One window at a time is in memory.

    Yields:
        float32 samples from -1 to 1, shape `(n,)`; nothing for a video without sound.

    Raises:
        DamagedInput: if the sound cannot be decoded, or begins absurdly late.
    """
    size, gathered, filled = int(window_s * rate_hz), list[np.ndarray](), 0
    for samples in _samples(video, rate_hz):
        gathered.append(samples)
        filled += len(samples)
        while filled >= size:
            joined = np.concatenate(gathered)
            yield joined[:size]
            gathered, filled = [joined[size:]], len(joined) - size
    if filled:
        yield np.concatenate(gathered)


def _samples(video: Path | bytes, rate_hz: int) -> Iterator[np.ndarray]:
    """Yield pieces of sound, with silence in front if the stream begins after the first picture, cut if before it."""
    source = io.BytesIO(video) if isinstance(video, bytes) else f"file:{video}"
    try:
        with av.open(
            source, mode="r", container_options={"format_whitelist": CONTAINERS}, metadata_errors="replace"
        ) as container:
            if not container.streams.audio:
                return
            stream = container.streams.audio[0]
            resampler = av.AudioResampler(format="fltp", rate=rate_hz)  # keeps the channels: its own mono is too loud
            skip = None
            for frame in container.decode(stream):
                if skip is None:
                    skip = round((_first_picture_s(container) - (frame.time or 0.0)) * rate_hz)
                    if skip < -MAX_GAP_S * rate_hz:  # silence of that length would fill the memory
                        raise DamagedInput(f"broken timestamps: sound that begins {-skip / rate_hz:.0f} s late")
                    if skip < 0:
                        yield np.zeros(-skip, dtype=np.float32)
                for resampled in resampler.resample(frame):
                    samples = resampled.to_ndarray().mean(axis=0)
                    yield samples[max(skip, 0) :]
                    skip = max(skip - len(samples), 0) if skip > 0 else 0
            for resampled in resampler.resample(None):
                yield resampled.to_ndarray().mean(axis=0)
    except DamagedInput:
        raise
    except (av.error.FFmpegError, ValueError) as error:
        raise DamagedInput(f"the sound cannot be decoded ({reason_of(error)})") from error


def _first_picture_s(container: av.container.InputContainer) -> float:
    """Time at which the first picture is shown, in seconds on the container's clock."""
    for stream in container.streams.video:
        if stream.start_time is not None and stream.time_base:
            return float(stream.start_time * stream.time_base)
    return 0.0
