"""Pictures by content: limits and damage, and pixels as a viewer shows them."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dataset_builder.errors import DamagedInput
from dataset_builder.readers.images import FORMATS, MAX_IMAGE_BYTES, check_image, decode_image
from tests.dataset_builder.readers.make_collections import picture


@pytest.mark.parametrize("kind", FORMATS)
def test_known_formats(kind):
    data = picture(100, kind, (13, 7))
    assert check_image(data) == (13, 7)
    pixels = decode_image(data)
    assert pixels.shape == (3, 7, 13)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - 100).max() <= 3  # lossy formats


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize(("width", "height"), [(8001, 8001), (12_000, 10_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_by_its_header(width, height):
    """A hundred bytes can promise gigabytes; Pillow itself warns at 89 and refuses at 178 million pixels."""
    with pytest.raises(DamagedInput, match=r"pixels|not a picture"):
        check_image(png_header(width, height) + picture(0, "PNG")[33:])


@pytest.mark.parametrize("data", [b"", b"text", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", picture(1)[:9]])
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(DamagedInput, match="not a picture of a known format"):
        check_image(data)


def test_formats_outside_the_list_are_refused():
    """Pillow knows 40 formats, some by calling other programs."""
    with pytest.raises(DamagedInput, match="not a picture of a known format"):
        check_image(picture(1, "PPM"))


def test_a_huge_file_is_refused():
    with pytest.raises(DamagedInput, match="picture of 32000001 bytes"):
        check_image(bytes(MAX_IMAGE_BYTES + 1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_cut_off_after_its_header(kind):
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(256, size=(70, 130, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole, kind)
    data = whole.getvalue()[: len(whole.getvalue()) // 2]
    assert check_image(data) == (130, 70)
    with pytest.raises(DamagedInput, match="picture cannot be decoded"):
        decode_image(data)


def test_a_phones_rotation_is_undone():
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by a quarter
    Image.new("RGB", (13, 7)).save(file, "JPEG", exif=exif)
    assert decode_image(file.getvalue()).shape == (3, 13, 7)
