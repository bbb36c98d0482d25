"""Check and decode encoded pictures: their format by content, not by name, and their size within limits."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

from dataset_builder.errors import DamagedInput


MAX_IMAGE_BYTES = 32_000_000
MAX_IMAGE_PIXELS = 64_000_000  # 8000 x 8000; a header that promises more counts as a decompression bomb
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")  # never formats that run scripts (EPS) or other programs
SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "avif")
FAULTS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)  # what Pillow raises on bad files


def check_image(data: bytes) -> tuple[int, int]:
    """Check a picture by its header alone.

    Returns:
        Width and height in pixels.

    Raises:
        DamagedInput: for data that is not a picture of a known format, or a picture that is too large.
    """
    with _open(data) as image:
        return image.size


def decode_image(data: bytes) -> np.ndarray:
    """Decode a picture as a viewer shows it (upright; the first frame of an animation): RGB, uint8 `(3, H, W)`.

    Raises:
        DamagedInput: if it is cut off, too large or not a picture.
    """
    with _open(data) as image:
        try:
            pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except FAULTS as error:
            raise DamagedInput(f"picture cannot be decoded ({error})") from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _open(data: bytes) -> Image.Image:
    if len(data) > MAX_IMAGE_BYTES:
        raise DamagedInput(f"picture of {len(data)} bytes; at most {MAX_IMAGE_BYTES} are read")
    try:
        with warnings.catch_warnings():  # Pillow warns from its limit to twice that; our own limit is lower
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except FAULTS as error:
        raise DamagedInput(f"not a picture of a known format ({', '.join(FORMATS)})") from error
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise DamagedInput(f"picture of {image.width} x {image.height} pixels; at most {MAX_IMAGE_PIXELS} are read")
    return image
