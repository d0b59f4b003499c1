"""Pictures that are no plain 8 bit grey: deep, coloured, transparent, turned; and arrays."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dicoms import chest, stretched
from medlip.errors import MedLIPError
from medlip.images import read_xray

GREY = chest(8).astype(np.uint8)
LUMINANCE = np.array([0.299, 0.587, 0.114])


def file(picture: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def deep_png(channels: NDArray[np.uint16], interlaced: bool = False) -> bytes:
    """Write (H, W, C) as a PNG of 16 bits a channel, which Pillow can't."""
    height, width, count = channels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in channels.astype(">u2"))
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[count]
    chunks = (
        (b"IHDR", struct.pack(">2I5B", width, height, 16, kind, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    )  # fmt: skip
    body = (struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def test_deep_colour_is_stretched_with_all_its_bits() -> None:
    colour = np.stack([chest(12, seed=seed) for seed in range(3)], 2)
    expected = stretched(colour @ LUMINANCE)
    np.testing.assert_allclose(read_xray(deep_png(colour)).pixels, expected, atol=1)
    opaque = np.full((*colour.shape[:2], 1), 65_535, np.uint16)
    np.testing.assert_allclose(read_xray(deep_png(np.concatenate([colour, opaque], 2))).pixels, expected, atol=1)


@pytest.mark.parametrize("count", [1, 3])
def test_transparent_deep_pixels_are_black_and_out_of_the_stretch(count: int) -> None:
    values = np.repeat(chest(12)[:, :, None], count, 2) + 2000
    opaque = np.full((*values.shape[:2], 1), 65_535, np.uint16)
    values[:9], opaque[:9] = 60_000, 0
    pixels = read_xray(deep_png(np.concatenate([values, opaque], 2))).pixels
    assert (pixels[:9] == 0).all()
    np.testing.assert_allclose(pixels[9:], stretched(values[9:, :, 0]), atol=1)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_deep_grey_is_stretched_whatever_hot_pixels_it_has(format: str) -> None:
    deep = chest(12) + 500
    np.testing.assert_allclose(read_xray(file(Image.fromarray(deep), format)).pixels, stretched(deep), atol=1)
    spoilt = deep.copy()
    spoilt[4, 4] = 65_535
    pixels = read_xray(file(Image.fromarray(spoilt), format)).pixels
    assert pixels[4, 4] == 255
    np.testing.assert_allclose(pixels[5:], stretched(deep)[5:], atol=1)


def test_floats_of_any_range_are_stretched_and_no_numbers_black() -> None:
    values = ((chest(12) - 1000.0) / 700).astype(np.float32)
    np.testing.assert_allclose(read_xray(file(Image.fromarray(values), "TIFF")).pixels, stretched(values), atol=1)
    values[0, :5] = np.nan, np.inf, -np.inf, np.nan, np.nan
    pixels = read_xray(values).pixels
    assert (pixels[0, :5] == 0).all()
    np.testing.assert_allclose(pixels[1:], stretched(values[1:]), atol=2)


def test_single_bits_palettes_and_inks_are_read() -> None:
    mask = Image.fromarray(GREY).convert("1")
    np.testing.assert_array_equal(read_xray(file(mask)).pixels, np.asarray(mask) * 255)
    np.testing.assert_array_equal(read_xray(file(mask, "TIFF", compression="group4")).pixels, np.asarray(mask) * 255)
    palette = Image.fromarray(GREY).convert("P")
    np.testing.assert_allclose(read_xray(file(palette, "TIFF")).pixels, GREY, atol=1)
    inks = Image.fromarray(GREY).convert("RGB").convert("CMYK")
    np.testing.assert_allclose(read_xray(file(inks, "JPEG", quality=98, subsampling=0)).pixels, GREY, atol=6)
    np.testing.assert_allclose(read_xray(file(inks, "TIFF")).pixels, GREY, atol=1)


def test_every_exif_orientation_is_undone() -> None:
    turned = {
        2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 4: GREY[::-1], 5: GREY.T,
        6: np.rot90(GREY), 7: GREY[::-1, ::-1].T, 8: np.rot90(GREY, -1),
    }  # fmt: skip
    for orientation, stored in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        xray = read_xray(file(Image.fromarray(stored), exif=exif))
        np.testing.assert_array_equal(xray.pixels, GREY)
        assert xray.notes == ("turned upright, as its EXIF data say",)
        np.testing.assert_allclose(
            read_xray(file(Image.fromarray(stored.astype(np.uint16) * 9), "TIFF", exif=exif)).pixels, stretched(GREY), atol=1
        )


def test_arrays_and_pictures_are_read_as_files_are() -> None:
    np.testing.assert_array_equal(read_xray(GREY).pixels, GREY)
    np.testing.assert_array_equal(read_xray(Image.fromarray(GREY)).pixels, GREY)
    colour = np.stack([GREY] * 3, 2)
    for array in (
        GREY[:, :, None],
        GREY[None],
        colour,
        np.moveaxis(colour, 2, 0),
        np.dstack([colour, np.full_like(GREY, 255)]),
    ):
        np.testing.assert_allclose(read_xray(array).pixels, GREY, atol=1)
    deep = chest(12)
    for array in (deep, deep.astype(np.int32), deep.astype(">u2"), deep / 4095, np.stack([deep] * 3, 2)):
        np.testing.assert_allclose(read_xray(array).pixels, stretched(deep), atol=1)
    np.testing.assert_array_equal(read_xray(deep > 2000).pixels, (deep > 2000) * 255)


@pytest.mark.parametrize(
    "array", [np.zeros((3, 4, 5, 6)), np.zeros(7), np.array([["a"] * 20] * 20), np.zeros((20, 20), complex)]
)
def test_an_array_that_is_no_image_is_refused(array: NDArray[np.generic]) -> None:
    with pytest.raises(MedLIPError, match="the image: is an array of"):
        read_xray(array)


def test_the_first_of_several_pictures_is_read_and_that_is_said() -> None:
    content = file(Image.fromarray(GREY), "TIFF", save_all=True, append_images=[Image.new("L", (40, 40))])
    xray = read_xray(content)
    np.testing.assert_array_equal(xray.pixels, GREY)
    assert xray.notes == ("holds several pictures: the first was read",)


def test_errors_quote_no_bytes_of_a_picture() -> None:
    content = file(Image.fromarray(GREY))
    for cut in range(0, len(content) - 12, len(content) // 40):
        with pytest.raises(MedLIPError) as caught:
            read_xray(content[:cut])
        assert "b'" not in str(caught.value) and "\\x" not in str(caught.value)
