from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from medlip.errors import MedLIPError
from medlip.images import read_image, resize_short_side

SHARED = Path(__file__).parents[2] / "shared" / "data" / "dicom"
RAMP = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
NAME = "Mustermann^Erika"


def dicom_file(path: Path, pixels: NDArray[np.generic], photometric: str = "MONOCHROME2", **elements: object) -> Path:
    dicom = Dataset()
    dicom.file_meta = FileMetaDataset()
    dicom.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dicom.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    dicom.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dicom.PatientName = NAME
    dicom.Rows, dicom.Columns = pixels.shape
    dicom.SamplesPerPixel = 1
    dicom.PhotometricInterpretation = photometric
    dicom.BitsAllocated = 8 * pixels.itemsize
    dicom.BitsStored = dicom.BitsAllocated
    dicom.HighBit = dicom.BitsStored - 1
    dicom.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    dicom.PixelData = pixels.tobytes()
    for name, value in elements.items():
        setattr(dicom, name, value)
    dicom.save_as(path, enforce_file_format=True)
    return path


def lut(descriptor: list[int], data: list[int]) -> list[Dataset]:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", descriptor)
    table.add_new("LUTData", "US", data)
    return [table]


def picture(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def test_content_decides_not_the_extension(tmp_path: Path) -> None:
    grey = (RAMP // 16).astype(np.uint8)
    wrong = picture(tmp_path / "a.dcm", Image.fromarray(grey), format="PNG")
    np.testing.assert_array_equal(read_image(wrong), grey)
    np.testing.assert_array_equal(read_image(dicom_file(tmp_path / "a.jpg", grey)), grey)


def test_jpeg_colour_palette_and_alpha_become_grey(tmp_path: Path) -> None:
    grey = Image.fromarray((RAMP // 16).astype(np.uint8))
    for name, image in (("rgb.png", grey.convert("RGB")), ("p.png", grey.convert("P")), ("rgba.png", grey.convert("RGBA"))):
        np.testing.assert_allclose(read_image(picture(tmp_path / name, image)), np.asarray(grey), atol=1)
    np.testing.assert_allclose(read_image(picture(tmp_path / "g.jpg", grey, quality=95)), np.asarray(grey), atol=6)
    half = grey.convert("LA")
    half.putalpha(Image.fromarray(np.tile(np.uint8([255, 0]), (64, 32))))
    pixels = read_image(picture(tmp_path / "la.png", half))
    assert (pixels[:, 1::2] == 0).all() and (pixels[1:, ::2] > 0).any()


def test_exif_rotation_is_undone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter turn
    sideways = Image.fromarray(np.tile(np.arange(96, dtype=np.uint8) * 2, (48, 1)))
    assert read_image(picture(tmp_path / "x.jpg", sideways, exif=exif)).shape == (96, 48)


@pytest.mark.parametrize("bits", [12, 16])
def test_deep_pixels_are_stretched(tmp_path: Path, bits: int) -> None:
    deep = (RAMP.astype(np.uint32) * ((1 << bits) - 1) // RAMP.max() // 2 + 100).astype(np.uint16)
    expected = np.round(RAMP / RAMP.max() * 255)
    for path in (picture(tmp_path / "x.png", Image.fromarray(deep)), dicom_file(tmp_path / "x.dcm", deep, BitsStored=bits)):
        np.testing.assert_allclose(read_image(path), expected, atol=1)


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    normal = read_image(dicom_file(tmp_path / "2.dcm", RAMP))
    for name, elements in (("1", {"photometric": "MONOCHROME1"}), ("inverse", {"PresentationLUTShape": "INVERSE"})):
        np.testing.assert_array_equal(read_image(dicom_file(tmp_path / name, RAMP, **elements)), 255 - normal)  # type: ignore[arg-type]


def test_padding_is_black_and_out_of_the_stretch(tmp_path: Path) -> None:
    padded = RAMP + 1000
    padded[:8] = 60000
    pixels = read_image(dicom_file(tmp_path / "x", padded, "MONOCHROME1", PixelPaddingValue=60000))
    assert (pixels[:8] == 0).all() and pixels[8, 0] == 255 and pixels[-1, -1] == 0


def test_a_voi_lut_comes_before_a_window(tmp_path: Path) -> None:
    table = lut([4096, 0, 16], list(range(4095, -1, -1)))
    path = dicom_file(tmp_path / "x", RAMP, VOILUTSequence=table, WindowCenter=100, WindowWidth=10)
    np.testing.assert_array_equal(read_image(path), 255 - read_image(dicom_file(tmp_path / "y", RAMP)))


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("slope", [1, -2])
def test_windows_match_pydicom(tmp_path: Path, function: str, slope: int) -> None:
    elements = {"RescaleSlope": slope, "RescaleIntercept": -7, "VOILUTFunction": function}
    path = dicom_file(tmp_path / "x", RAMP, **elements, WindowCenter=[slope * 2000, 1], WindowWidth=[1500, 1])  # type: ignore[arg-type]
    assert_as_pydicom(path)


@pytest.mark.parametrize(
    "name",
    ["693_J2KI.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "examples_overlay.dcm", "MR_small_bigendian.dcm"],
)
def test_pydicoms_own_files_match_its_reference_pipeline(name: str) -> None:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"this pydicom does not ship {name}")
    assert_as_pydicom(Path(str(path)))


def assert_as_pydicom(path: Path) -> None:
    dicom = dcmread(path)
    shown = apply_voi_lut(apply_modality_lut(dicom.pixel_array, dicom), dicom)
    low, high = apply_voi_lut(np.array([-1e9, 1e9]), dicom)
    expected = (shown - low) / (high - low) * 255
    padding = dicom.get("PixelPaddingValue")
    seen = np.full(expected.shape, True) if padding is None else dicom.pixel_array != padding
    np.testing.assert_allclose(read_image(path)[seen], expected[seen], atol=0.51)


@pytest.mark.parametrize("name", ["SC_rgb_jpeg_gdcm.dcm", "examples_palette.dcm", "SC_rgb_rle_16bit.dcm", "image_dfl.dcm"])
def test_compressions_and_colour_spaces_are_read(name: str) -> None:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"this pydicom does not ship {name}")
    pixels = read_image(str(path))
    assert pixels.dtype == np.uint8 and pixels.ndim == 2 and np.ptp(pixels) > 200


def test_real_dicoms_show_a_chest() -> None:
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not there")
    for path in SHARED.glob("*.dcm"):
        pixels = read_image(path)
        assert pixels.shape == (1024, 1024) and 60 < pixels.mean() < 190
    raw = dcmread(SHARED / "Fake_MONOHR1.dcm").pixel_array
    np.testing.assert_array_equal(read_image(SHARED / "Fake_MONOHR1.dcm"), 255 - raw)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "holds no data"),
    "zeros": (lambda: bytes(5000), "holds no data"),
    "page": (lambda: b"<!DOCTYPE html><html>404</html>", "web page"),
    "text": (lambda: b"no image", "neither PNG, JPEG nor DICOM"),
    "one value": (lambda: png(Image.fromarray(np.full((64, 64), 700, np.uint16))), "same value"),
    "tiny": (lambda: png(Image.new("L", (3, 400))), "too few"),
    "bomb": (lambda: png(Image.new("1", (12_000, 12_000))), "limit|exceeds"),
    "half": (lambda: png(Image.effect_noise((64, 64), 50))[:900], "broken or truncated"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_named(tmp_path: Path, kind: str) -> None:
    content, reason = BROKEN[kind]
    path = tmp_path / "x.jpg"
    path.write_bytes(content())
    with pytest.raises(MedLIPError, match=reason) as caught:
        read_image(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MedLIPError, match=r"none\.png: cannot be read"):
        read_image(tmp_path / "none.png")


def test_dicoms_without_one_image_are_named(tmp_path: Path) -> None:
    report = get_testdata_file("reportsi.dcm", download=False)
    with pytest.raises(MedLIPError, match="without an image"):
        read_image(str(report))
    with pytest.raises(MedLIPError, match="film of 3 frames"):
        read_image(dicom_file(tmp_path / "x", RAMP, NumberOfFrames=3))


def test_a_dicom_cut_anywhere_is_an_error_without_the_patients_name(tmp_path: Path) -> None:
    content = dicom_file(tmp_path / "whole.dcm", RAMP).read_bytes()
    cut = tmp_path / "cut.dcm"
    for tenth in range(10):
        cut.write_bytes(content[: len(content) * tenth // 10])
        with pytest.raises(MedLIPError) as caught:
            read_image(cut)
        assert str(cut) in str(caught.value) and NAME not in str(caught.value)


def test_short_side_is_reached_and_aspect_kept() -> None:
    assert resize_short_side(np.zeros((400, 300), np.uint8), 150).shape == (200, 150)
    small = np.zeros((40, 30), np.uint8)
    assert resize_short_side(small, 150) is small


def test_resizing_does_not_alias() -> None:
    stripes = np.tile(np.uint8([0, 255]), (512, 256))
    assert np.abs(resize_short_side(stripes, 128)[:, 4:-4].astype(float) - 127.5).max() < 8


def test_a_damaged_jpeg2000_size_is_an_error_at_once(tmp_path: Path) -> None:
    whole = get_testdata_file("693_J2KI.dcm", download=False)
    if whole is None:
        pytest.skip("this pydicom does not ship 693_J2KI.dcm")
    content = bytearray(Path(str(whole)).read_bytes())
    start = content.index(b"\xff\x4f\xff\x51")
    content[start + 13] = 0x6C  # the height becomes 7,078,400
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(MedLIPError, match="of another size"):
        read_image(tmp_path / "x")
