"""Files that can't be read, and files that were damaged on the way."""

from __future__ import annotations

import io
import random
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file


def encoded(format: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).normal(128, 40, (96, 80)).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def dicom(name: str) -> bytes:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"this pydicom does not ship {name}")
    return Path(str(path)).read_bytes()


def bomb() -> bytes:
    """Return a PNG that claims 30,000 x 30,000 pixels."""
    buffer = io.BytesIO()
    Image.new("1", (64, 64)).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[16:24] = (30_000).to_bytes(4) * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    return bytes(content)


def one_value() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((64, 64), 4000, np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def corpus() -> Iterator[tuple[str, bytes]]:
    """Yield broken files by name."""
    whole = {"png": encoded("PNG"), "jpg": encoded("JPEG"), "dcm": dicom("CT_small.dcm"), "rle": dicom("MR_small_RLE.dcm")}
    for kind, content in whole.items():
        for tenth in range(10):
            yield f"cut-{tenth}.{kind}", content[: len(content) * tenth // 10]
    yield "zeros.png", bytes(4000)
    yield "page.jpg", b"<!DOCTYPE html><html><body>Sign in</body></html>"
    yield "text.png", b"to follow"
    yield "one-value.png", one_value()
    yield "bomb.png", bomb()
    yield "report.dcm", dicom("reportsi.dcm")
    yield "plan.dcm", dicom("rtplan.dcm")
    yield "directory.dcm", dicom("DICOMDIR")
    length = whole["dcm"].index((0x7FE00010).to_bytes(4, "big")[1::-1] + (0x10).to_bytes(2, "little")) + 8
    for claimed in (2**32 - 2, 10, 2**31):
        yield f"length-{claimed}.dcm", whole["dcm"][:length] + claimed.to_bytes(4, "little") + whole["dcm"][length + 4 :]


@cache
def _wholes() -> list[bytes]:
    names = ("CT_small", "MR_small_RLE", "SC_rgb_rle_16bit", "693_J2KI", "SC_rgb_jpeg_dcmtk", "image_dfl")
    return [dicom(f"{name}.dcm") for name in names] + [encoded("PNG"), encoded("JPEG")]


def damaged(draw: random.Random) -> bytes:
    """Return a sound file with random damage."""
    content = bytearray(draw.choice(_wholes()))
    for _ in range(draw.choice((1, 2, 8, 32))):
        position = draw.randrange(len(content))
        if draw.random() < 0.7:
            content[position] = draw.randrange(256)
        else:
            del content[position : position + draw.randrange(1, 40)]
    return bytes(content)
