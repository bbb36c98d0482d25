"""Brings the many forms in which people give media into one: per sample, per medium, a list of frames."""

from os import PathLike
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_utils import load_image

from .video_cosmo import decode_video


Frames = list[Image.Image]


def pair_media(images: Any, videos: Any, num_samples: int | None) -> list[list[tuple[str, Any]]]:
    """Media of each sample in the order of their placeholders.

    Pictures of a sample come before its videos, unless the two lists are equally long and at every index exactly one
    of them is not `None`: then that one stands there.

    Args:
        images: pictures as a nested list, one list per sample; a flat list or one picture where that is unambiguous.
        videos: videos in the same way.
        num_samples: number of texts; `None` without text.

    Returns:
        One list per sample of pairs `("image" or "video", medium)`.

    Raises:
        ValueError: if there are not as many lists as texts.
    """
    pictures = _per_sample(images, _is_picture, num_samples, "images")
    clips = _per_sample(videos, _is_video, num_samples, "videos")
    num_samples = num_samples if num_samples is not None else max(len(pictures), len(clips))
    for name, nested in (("images", pictures), ("videos", clips)):
        if nested and len(nested) != num_samples:
            raise ValueError(f"{name} holds {len(nested)} lists for {num_samples} samples")
    pictures, clips = pictures or [[]] * num_samples, clips or [[]] * num_samples
    return [_merge(of_images, of_videos) for of_images, of_videos in zip(pictures, clips, strict=True)]


def load_frames(kind: str, medium: Any, num_frames: int, sample: int) -> Frames:
    """Frames of one medium as RGB pictures.

    Args:
        kind: `image` or `video`.
        medium: what the caller gave.
        num_frames: frames to take from a video file; frames that are given are taken as they are.
        sample: named in errors.

    Raises:
        ValueError: if it is empty, of the wrong type, or its frames differ in size.
    """
    try:
        if kind == "image":
            return [_picture(medium)]
        if isinstance(medium, str | PathLike | bytes):
            medium = decode_video(medium, num_frames)
        frames = [_picture(frame) for frame in medium]
    except (ValueError, OSError) as error:  # OSError: a file that is missing, or holds no picture
        raise ValueError(f"sample {sample}: {error}") from error
    sizes = {frame.size for frame in frames}
    if len(sizes) != 1:
        raise ValueError(f"sample {sample}: a video needs frames of one size, got {sorted(sizes) or 'no frames'}")
    return frames


def _merge(images: list[Any], videos: list[Any]) -> list[tuple[str, Any]]:
    if len(images) == len(videos) and all(
        (image is None) != (video is None) for image, video in zip(images, videos, strict=True)
    ):
        return [
            ("video", video) if image is None else ("image", image)
            for image, video in zip(images, videos, strict=True)
        ]
    media = [("image", image) for image in images] + [("video", video) for video in videos]
    return [(kind, medium) for kind, medium in media if medium is not None]


def _is_picture(value: Any) -> bool:
    return value is None or isinstance(value, str | PathLike | Image.Image) or getattr(value, "ndim", 0) == 3


def _is_video(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(_is_picture(frame) and not isinstance(frame, str | None) for frame in value)
    return value is None or isinstance(value, str | PathLike | bytes) or getattr(value, "ndim", 0) == 4


def _per_sample(media: Any, is_one: Any, num_samples: int | None, name: str) -> list[list[Any]]:
    """Nested lists; without text or with as many texts as media, a flat list gives one medium to each sample."""
    if media is None:
        return []
    if is_one(media):
        return [[media]]
    if not isinstance(media, list | tuple):
        raise ValueError(f"{name} must be a list per sample, got {type(media).__name__}")
    if all(is_one(medium) for medium in media):
        return [list(media)] if num_samples == 1 else [[medium] for medium in media]
    for sample, of_sample in enumerate(media):
        if not is_one(of_sample) and not (isinstance(of_sample, list | tuple) and all(map(is_one, of_sample))):
            raise ValueError(f"sample {sample}: cannot read {name} given as {_describe(of_sample)}")
    return [[of_sample] if is_one(of_sample) else list(of_sample) for of_sample in media]


def _describe(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"a list of {', '.join(sorted({_describe(item) for item in value})) or 'nothing'}"
    shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
    return f"{type(value).__name__}{shape}"


def _picture(value: Any) -> Image.Image:
    """An RGB picture from PIL, path, URL, or a uint8 array or tensor, channels first or last."""
    if isinstance(value, str | PathLike):
        value = load_image(str(value))
    if isinstance(value, torch.Tensor):
        value = value.cpu().numpy()
    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8 or value.ndim != 3 or 3 not in (value.shape[0], value.shape[-1]):
            raise ValueError(f"a picture as array must be uint8 with 3 channels, got {value.dtype} {value.shape}")
        value = Image.fromarray(np.ascontiguousarray(value if value.shape[-1] == 3 else value.transpose(1, 2, 0)))
    if not isinstance(value, Image.Image):
        raise ValueError(f"cannot read a picture given as {type(value).__name__}")
    if not all(value.size):
        raise ValueError(f"a picture is empty: its size is {value.size}")
    return value.convert("RGB")
