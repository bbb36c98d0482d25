"""Assign pictures and videos to samples, in order, from the many ways in which people nest them."""

from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

from PIL import Image


Check = Callable[[Any], bool]


def pair_media(images: Any, videos: Any, num_placeholders: list[int] | None) -> list[list[tuple[str, Any]]]:
    """Media of each sample in the order of their placeholders.

    Pictures of a sample come before its videos, unless the two lists are equally long and at every index exactly one
    of them is not `None`: then that one is taken.

    Args:
        images: pictures as a nested list, one list per sample. A flat list (or batched array) goes to the only sample;
            or, without media of the other kind, is dealt out by the numbers of placeholders; or gives one to each.
        videos: videos in the same way.
        num_placeholders: of each text; `None` without text.

    Returns:
        One list per sample of pairs `("image" or "video", medium)`.

    Raises:
        ValueError: if there are not as many lists as texts, or a medium has an unknown form.
    """
    alone = images is None or videos is None
    pictures = _per_sample(images, _is_picture, num_placeholders, "images", alone)
    clips = _per_sample(videos, _is_video, num_placeholders, "videos", alone)
    num_samples = max(len(pictures), len(clips)) if num_placeholders is None else len(num_placeholders)
    for name, nested in (("images", pictures), ("videos", clips)):
        if nested and len(nested) != num_samples:
            raise ValueError(f"{name} holds {len(nested)} lists for {num_samples} samples")
    pictures, clips = pictures or [[]] * num_samples, clips or [[]] * num_samples
    return [_merge(of_images, of_videos) for of_images, of_videos in zip(pictures, clips, strict=True)]


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


def _is_file(value: Any) -> bool:
    """Whether a value names or holds a file; a list of files is a list of media, never the frames of one video."""
    return isinstance(value, str | PathLike | bytes | Mapping)


def _is_pixels(value: Any, num_axes: int) -> bool:
    return (num_axes == 3 and isinstance(value, Image.Image)) or getattr(value, "ndim", 0) == num_axes


def _is_picture(value: Any) -> bool:
    return value is None or _is_file(value) or _is_pixels(value, num_axes=3)


def _is_video(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(_is_pixels(frame, num_axes=3) for frame in value)
    return value is None or _is_file(value) or _is_pixels(value, num_axes=4)


def _is_listed_video(value: Any) -> bool:
    """Like `_is_video`, for an entry of a sample's list, where a list of files can only be the frames of one video."""
    if isinstance(value, list | tuple):
        return bool(value) and all(frame is not None and _is_picture(frame) for frame in value)
    return _is_video(value)


def _per_sample(
    media: Any, is_one: Check, num_placeholders: list[int] | None, name: str, alone: bool
) -> list[list[Any]]:
    if media is None:
        return []
    if is_one(media):
        return [[media]]
    if getattr(media, "ndim", 0) == (4 if name == "images" else 5):
        media = list(media)
    if not isinstance(media, list | tuple):
        raise ValueError(f"{name} must be a list per sample, got {_describe(media)}")
    if all(is_one(medium) for medium in media):
        return _deal_out(list(media), num_placeholders, alone)
    is_listed = _is_listed_video if is_one is _is_video else is_one
    for sample, of_sample in enumerate(media):
        if not is_one(of_sample) and not (isinstance(of_sample, list | tuple) and all(map(is_listed, of_sample))):
            raise ValueError(f"sample {sample}: cannot read {name} given as {_describe(of_sample)}")
    return [[of_sample] if is_one(of_sample) else list(of_sample) for of_sample in media]


def _deal_out(media: list[Any], num_placeholders: list[int] | None, alone: bool) -> list[list[Any]]:
    if num_placeholders is not None and len(num_placeholders) == 1:
        return [media]
    if alone and num_placeholders is not None and sum(num_placeholders) == len(media):
        remaining = iter(media)
        return [[next(remaining) for _ in range(count)] for count in num_placeholders]
    return [[medium] for medium in media]


def _describe(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"a list of {', '.join(sorted({_describe(item) for item in value})) or 'nothing'}"
    shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
    return f"{type(value).__name__}{shape}"
