"""Turn one picture or video, in any form that users pass, into a list of RGB frames for an image processor.

Shape letters: F frames.
"""

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any, TypeGuard

import numpy as np
import torch
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # re-exported for other libraries
from PIL import Image
from transformers.image_utils import load_image

from .video_cosmo import decode_video


Frame = Image.Image | np.ndarray | torch.Tensor
"""An RGB picture, or pixels of shape `(3, height, width)`."""
DICT_KEYS = {
    "image": ("image", "bytes", "path", "url", "base64"),
    "video": ("video", "bytes", "path", "url", "start_s", "end_s"),
}
"""Keys of a medium given as a dict; if several keys hold one, the first counts."""
TIMES = ("start_s", "end_s")
MAX_TIME_S = 1e12
MAX_NAME_LENGTH = 120
MAX_DOWNLOAD_BYTES = 512 * 2**20
"""Limit for a picture or video from an address, which is held in memory."""
MAX_DOWNLOAD_S = 300.0


@dataclass(frozen=True, kw_only=True)
class FrameReader:
    """Reads media for one call of the processor."""

    image_processor: Any
    """Loads pictures from paths, URLs and base64, as tensors if it works on tensors, else as PIL pictures."""
    num_frames: int
    """Frames to take from each video file."""
    sample_given_frames: bool = False
    """Whether to take this many also from videos that are given as frames."""
    is_rescaled: bool = False
    """Whether arrays hold values from 0 to 1 as floats (the image processor does not rescale)."""
    channels_last: bool | None = None
    """Whether the channels of arrays come last; `None`: on whichever side there are 3 (first, if both fit)."""

    def read(self, kind: str, medium: Any) -> list[Frame]:
        """Frames of one medium.

        Args:
            kind: `image` or `video`.
            medium: what the caller gave.

        Raises:
            ValueError: if it cannot be read, is empty, or its frames differ in size.
        """
        return [self._picture(medium)] if kind == "image" else self._video(medium)

    def _picture(self, value: Any) -> Frame:
        if isinstance(value, Mapping):
            value, _, _ = open_dict(value, "image")
        if isinstance(value, str | PathLike | bytes):
            value = self._load(value)
        if not isinstance(value, Image.Image):
            return self._pixels(value, num_axes=3)
        if not all(value.size):
            raise ValueError(f"a picture is empty: its size is {value.size}")
        try:
            return value.convert("RGB")
        except Exception as error:  # from a file that PIL has opened but not yet read; see `_load`
            raise ValueError(f"a picture cannot be read: {_shorten(str(error) or repr(error))}") from error

    def _load(self, value: str | PathLike | bytes) -> Frame:
        """Load a file with the image processor's loader; download addresses here, since that loader has no limits."""
        name = f"of {len(value)} bytes" if isinstance(value, bytes) else _shorten(fspath(value))
        data = _download("picture", value) if _is_address(value) else value
        load = getattr(self.image_processor, "fetch_images", load_image)
        try:
            if isinstance(data, bytes):
                return load_image(Image.open(io.BytesIO(data)))
            return load(fspath(data))
        except Exception as error:  # for a damaged file, PIL's decoders raise even AttributeError and IndexError
            raise ValueError(f"picture {name} cannot be read: {_shorten(str(error) or repr(error))}") from error

    def _video(self, value: Any) -> list[Frame]:
        start_s, end_s = 0.0, None
        if isinstance(value, Mapping):
            value, start_s, end_s = open_dict(value, "video")
        name = None
        if _is_address(value):
            name, value = f"video {_shorten(value)}", _download("video", value)
        if isinstance(value, str | PathLike | bytes):
            return list(self._in_working_form(decode_video(value, self.num_frames, start_s, end_s, name)))
        if start_s or end_s is not None:
            raise ValueError("start_s and end_s need a video file; this one is given as frames")
        if isinstance(value, list | tuple):
            frames = [self._picture(frame) for frame in value]
        else:
            frames = list(self._pixels(value, num_axes=4))
        sizes = {_size(frame) for frame in frames}
        if len(sizes) != 1:
            raise ValueError(f"a video needs frames of one size, got {sorted(sizes) or 'no frames'}")
        if self.sample_given_frames:
            return [frames[int((part + 0.5) * len(frames) / self.num_frames)] for part in range(self.num_frames)]
        return frames

    def _pixels(self, value: Any, num_axes: int) -> Any:
        """Pixels with three channels, channels first, as the array or tensor that the image processor works on."""
        thing = "a picture" if num_axes == 3 else "a video"
        if not isinstance(value, np.ndarray | torch.Tensor):
            raise ValueError(f"cannot read {thing} given as {type(value).__name__}")
        shape, dtype = tuple(value.shape), str(value.dtype).removeprefix("torch.")
        if len(shape) != num_axes:
            raise ValueError(f"{thing} as an array must have {num_axes} axes, got shape {shape}")
        axis = self._channel_axis(shape)
        if axis is None or not (dtype == "uint8" or (self.is_rescaled and dtype.startswith("float"))):
            raise ValueError(
                f"{thing} as an array must be uint8 with 3 channels (or 1, or 4), got {dtype} {shape}; floats from 0 "
                "to 1 need do_rescale=False"
            )
        if num_axes == 4 and not shape[0]:
            return []
        if not all(shape):
            raise ValueError(f"{thing} is empty: its shape is {shape}")
        if dtype != "uint8" and not (float(value.min()) >= 0 and float(value.max()) <= 1):
            raise ValueError(f"{thing} of floats must be between 0 and 1, got {value.min()} to {value.max()}")
        return self._in_working_form(_three_channels(value, axis))

    def _channel_axis(self, shape: tuple[int, ...]) -> int | None:
        axes = (-3, -1) if self.channels_last is None else (-1,) if self.channels_last else (-3,)
        return next((axis for counts in ((3,), (1, 4)) for axis in axes if shape[axis] in counts), None)

    def _in_working_form(self, pixels: Any) -> Any:
        if getattr(self.image_processor, "backend", None) == "torchvision":
            return pixels if isinstance(pixels, torch.Tensor) else torch.tensor(pixels)
        return pixels.detach().cpu().numpy() if isinstance(pixels, torch.Tensor) else pixels


def open_dict(medium: Mapping[str, Any], kind: str) -> tuple[Any, float, float | None]:
    """Read a medium given as a dict, the form of undecoded files in `datasets` and of the parts of a chat.

    Args:
        medium: holds it under `path`, `url`, `bytes`, `base64` or the kind itself (`bytes` wins over `path`); a video
            may have `start_s` and `end_s`, in seconds.
        kind: `image` or `video`.

    Returns:
        The medium, its start and its end.

    Raises:
        ValueError: if there is no medium, a key is unknown, or a time is not a number.
    """
    known = DICT_KEYS[kind]
    unknown = [str(key) for key in medium if key not in known]
    found = [medium[key] for key in known if key not in TIMES and medium.get(key) is not None]
    if unknown or not found:
        problem = f"has unknown keys ({', '.join(unknown)})" if unknown else f"holds no {kind}"
        raise ValueError(f"a dict for {kind} {problem}; it may have {', '.join(known)}")
    start_s, end_s = (medium.get(name) for name in TIMES)
    for name, time_s in zip(TIMES, (start_s, end_s), strict=True):
        if time_s is not None and not (isinstance(time_s, int | float) and abs(time_s) < MAX_TIME_S):
            raise ValueError(f"{name} of a video is {time_s!r:.80}; it must be a number of seconds")
    return found[0], start_s or 0.0, end_s


def _three_channels(value: Any, axis: int) -> Any:
    """Channels first; one channel is repeated and a fourth (opacity) dropped, as PIL does."""
    if axis == -1:
        value = np.moveaxis(value, -1, -3) if isinstance(value, np.ndarray) else value.movedim(-1, -3)
    if value.shape[-3] == 1:
        shape = (*value.shape[:-3], 3, *value.shape[-2:])
        return np.broadcast_to(value, shape) if isinstance(value, np.ndarray) else value.expand(shape)
    return value[..., :3, :, :]


def _size(frame: Frame) -> tuple[int, int]:
    """Width and height in pixels."""
    return frame.size if isinstance(frame, Image.Image) else (frame.shape[-1], frame.shape[-2])


def _is_address(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and value.startswith(("http://", "https://"))


def _download(kind: str, url: str) -> bytes:
    """Download the bytes of a picture or video, with the client that transformers uses for pictures."""
    name = f"{kind} {_shorten(url)}"
    deadline_s = time.monotonic() + MAX_DOWNLOAD_S
    data = io.BytesIO()
    headers = {"Accept-Encoding": "identity"}  # so that the bytes counted are the bytes sent
    try:
        with httpx.stream("GET", url, headers=headers, follow_redirects=True) as response:
            response.raise_for_status()
            for part in response.iter_raw():
                data.write(part)
                if data.tell() > MAX_DOWNLOAD_BYTES or time.monotonic() > deadline_s:
                    raise ValueError(
                        f"{name} is longer than {MAX_DOWNLOAD_BYTES >> 20} MB or takes more than "
                        f"{MAX_DOWNLOAD_S:g} s: download it yourself and give its path"
                    )
    except (
        httpx.HTTPError,
        httpx.InvalidURL,
        UnicodeError,
    ) as error:  # the last: from host names that cannot be encoded
        raise ValueError(f"{name} cannot be read: {_shorten(str(error) or type(error).__name__)}") from error
    return data.getvalue()


def _shorten(text: str) -> str:
    """Keep the first line, cut to length: base64 and pages of errors help nobody."""
    line = text.splitlines()[0] if text else ""
    return line if len(line) <= MAX_NAME_LENGTH else f"{line[:MAX_NAME_LENGTH]}..."
