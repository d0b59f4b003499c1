"""DICOM files as hospitals write them: unused bits, packed tables, broken optional elements, incomplete headers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dicoms import NAME, bare, chest, dataset, encoded, put, spoilt, stretched
from medlip.errors import MedLIPError
from medlip.images import read_xray

CASES = Path(__file__).parents[2] / "shared" / "cases" / "images"
DEEP = chest()
SHOWN = stretched(DEEP)
FULL = {"WindowCenter": "2048", "WindowWidth": "4096"}  # a window that shows it the same
SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)


def near(pixels: NDArray[np.uint8], expected: NDArray[np.generic], within: float = 0.51) -> None:
    np.testing.assert_allclose(pixels.astype(float), expected, atol=within)


def test_the_given_cases_look_as_they_should() -> None:
    if not CASES.is_dir():
        pytest.skip("../shared/cases is not there")
    for want in CASES.glob("*.want.npy"):
        (path,) = (path for path in CASES.glob(f"{want.name.removesuffix('.want.npy')}.*") if path.suffix != ".npy")
        near(read_xray(path).pixels, np.load(want), 1)
    for name in ("window-centre-with-comma", "window-outside-the-data"):
        xray = read_xray(CASES / f"{name}.dcm")
        assert any("Window" in note for note in xray.notes) and np.ptp(xray.pixels) == 255


# Bits


def with_garbage(values: NDArray[np.integer], stored: int, high: int, seed: int = 1) -> NDArray[np.uint16]:
    """Return values in 16 bits from bit high + 1 - stored on, with anything in the bits around them."""
    shift = high + 1 - stored
    used = ((1 << stored) - 1) << shift
    garbage = np.random.default_rng(seed).integers(0, 1 << 16, values.shape)
    return ((values.astype(np.int64) << shift) & used | garbage & ~used).astype(np.uint16)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("stored", "high"), [(12, 11), (12, 15), (10, 13), (15, 14), (9, 8), (8, 7), (16, 15)])
@pytest.mark.parametrize("syntax", [*SYNTAXES[:3], RLELossless, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless])
def test_bits_around_the_value_count_for_nothing(tmp_path: Path, signed: bool, stored: int, high: int, syntax: UID) -> None:
    values = chest(stored).astype(np.int64) - signed * (1 << stored - 1)
    made = dataset(with_garbage(values, stored, high), BitsStored=16)
    made.PixelRepresentation = int(signed)
    if syntax in SYNTAXES:
        put(made, "BitsStored", stored)
        put(made, "HighBit", high)
        content = encoded(made, syntax)
    else:
        content = compressed(made, syntax, tmp_path, BitsStored=stored, HighBit=high)
    xray = read_xray(content)
    near(xray.pixels, stretched(values), 1)
    assert not xray.notes


def compressed(made: Dataset, syntax: UID, folder: Path, **afterwards: object) -> bytes:
    """Compress a data set as it is, then change elements of it."""
    if syntax in (RLELossless, JPEG2000Lossless):
        encoded(made)
        made.compress(syntax, generate_instance_uid=False)
    else:
        import gdcm

        (folder / "raw.dcm").write_bytes(encoded(made))
        reader = gdcm.ImageReader()
        reader.SetFileName(str(folder / "raw.dcm"))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(folder / "compressed.dcm"))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        made = dcmread(folder / "compressed.dcm")
    for name, value in afterwards.items():
        put(made, name, value)
    return encoded(made, syntax)


@pytest.mark.parametrize("signed", [False, True])
def test_a_precise_codestream_needs_no_shift_whatever_the_high_bit_says(tmp_path: Path, signed: bool) -> None:
    values = chest(12).astype(np.int16) - signed * 2048
    made = dataset(values if signed else values.astype(np.uint16), BitsStored=12)
    near(read_xray(compressed(made, JPEG2000Lossless, tmp_path, HighBit=15)).pixels, stretched(values), 1)


def test_values_in_the_lowest_bits_are_found_though_the_high_bit_is_wrong() -> None:
    xray = read_xray(encoded(dataset(DEEP, BitsStored=12, HighBit=15)))
    near(xray.pixels, SHOWN)
    assert xray.notes == ("High Bit is wrong: the values lie in the lowest bits",)


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_depth_in_every_byte_order(bits: int, syntax: UID) -> None:
    values = chest(8).astype(f"u{bits // 8}")
    near(read_xray(encoded(dataset(values), syntax)).pixels, stretched(values), 1)


def test_floats_are_stretched_and_what_is_no_number_is_black() -> None:
    values = (DEEP / 4095).astype(np.float32)
    values[0, 0] = np.nan
    made = dataset(DEEP, PixelData=None)
    put(made, "FloatPixelData", values.tobytes(), "OF")
    xray = read_xray(encoded(made))
    assert xray.pixels[0, 0] == 0 and xray.notes == ("some pixels are no numbers: shown black",)
    near(xray.pixels[1:], stretched(DEEP)[1:], 1)


def test_single_bits_are_read() -> None:
    mask = DEEP > 2000
    made = dataset(DEEP, BitsAllocated=1, BitsStored=1, HighBit=0)
    made["PixelData"].value = np.packbits(mask, bitorder="little").tobytes()
    near(read_xray(encoded(made)).pixels, mask * 255)


# Tables


def table(first: int, entries: NDArray[np.integer], bits: int, form: str, little: bool = True) -> Sequence:
    """Return a LUT sequence: its entries as words, as bytes, or packed two to a word."""
    item = Dataset()
    descriptor = [len(entries) % (1 << 16), first, bits]
    put(item, "LUTDescriptor", [n % (1 << 16) for n in descriptor], "US")
    if form == "list":
        put(item, "LUTData", entries.astype(int).tolist(), "US")
        return Sequence([item])
    data = entries.astype(np.uint8 if form.startswith("packed") else "<u2").tobytes()
    data += b"\0" * (len(data) % 2)
    if form == "packed list":
        put(item, "LUTData", np.frombuffer(data, "<u2").astype(int).tolist(), "US")
        return Sequence([item])
    words = np.frombuffer(data, "<u2")
    put(item, "LUTData", words.astype("<u2" if little else ">u2").tobytes(), "OW")
    return Sequence([item])


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(
    ("bits", "form"), [(8, "packed"), (8, "packed list"), (8, "words"), (8, "list"), (12, "words"), (16, "list")]
)
@pytest.mark.parametrize("name", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize("length", [4096, 1001])
def test_tables_are_used_however_they_are_packed(syntax: UID, bits: int, form: str, name: str, length: int) -> None:
    entries = (np.linspace(1, 0, length) ** 2 * ((1 << bits) - 1)).round().astype(np.int64)
    lut = table(0, entries, bits, form, syntax != ExplicitVRBigEndian)
    xray = read_xray(encoded(dataset(DEEP, BitsStored=12, **{name: lut}), syntax))
    near(xray.pixels, stretched(entries[np.minimum(DEEP, length - 1)]), 1)
    assert not xray.notes


@pytest.mark.parametrize("first", [-1500, 300, -2048])
def test_the_first_value_of_a_table_may_be_negative_whatever_its_type_says(first: int) -> None:
    values = DEEP.astype(np.int16) - 2048
    entries = np.arange(3000)[::-1] // 3
    made = dataset(values, VOILUTSequence=table(first, entries, 10, "list"))
    near(read_xray(encoded(made)).pixels, entries[(values - first).clip(0, 2999)] / 999 * 255)


def test_a_table_over_all_values_has_a_length_of_nothing() -> None:
    entries = np.arange(1 << 16)[::-1]
    near(
        read_xray(encoded(dataset(chest(16), ModalityLUTSequence=table(0, entries, 16, "words")))).pixels,
        255 - stretched(chest(16)),
    )


def test_the_next_usable_table_counts() -> None:
    entries = np.arange(4096)[::-1]
    broken, sound = table(0, entries[:10], 12, "list")[0], table(0, entries, 12, "list")[0]
    put(broken, "LUTDescriptor", [4096, 0, 12], "US")
    xray = read_xray(encoded(dataset(DEEP, BitsStored=12, VOILUTSequence=Sequence([broken, sound]))))
    near(xray.pixels, 255 - SHOWN)
    assert xray.notes == ("VOI LUT Sequence is unusable: left out",)


# Optional elements that are broken

GARBAGE = (
    b"",
    b"    ",
    b"abcd",
    b"2,048 ",
    b"\xff\xfe\xfd",
    b"1e999 ",
    b"nan ",
    b"\\\\",
    b"\\--\\",
    b"Mustermann^Erika",
    b"\xff" * 64,
)
OPTIONAL = (
    "WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "VOILUTSequence", "VOILUTFunction",
    "ModalityLUTSequence", "PixelPaddingValue", "PixelPaddingRangeLimit", "PixelAspectRatio", "PixelSpacing",
    "ImagerPixelSpacing", "PresentationLUTShape", "PixelIntensityRelationshipSign", "PatientAge", "StudyDate",
    "PatientBirthDate", "SpecificCharacterSet", "PatientOrientation", "FieldOfViewRotation", "FieldOfViewHorizontalFlip",
    "ImageRotation", "ViewPosition", "BodyPartExamined", "Modality", "NumberOfFrames", "HighBit", "BitsStored",
    "PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation", "ViewCodeSequence", "SOPClassUID",
)  # fmt: skip


@pytest.mark.parametrize("name", OPTIONAL)
@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_an_element_that_makes_no_sense_is_left_out(name: str, garbage: bytes) -> None:
    made = dataset(DEEP, BitsStored=12)
    if name in ("WindowCenter", "WindowWidth"):
        put(made, "WindowWidth" if name == "WindowCenter" else "WindowCenter", "1000")
    xray = read_xray(spoilt(made, name, garbage))
    near(xray.pixels, SHOWN)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WindowCenter", b"2048,0"), ("WindowWidth", b"-5"), ("WindowCenter", b""), ("RescaleSlope", b""),
        ("RescaleSlope", b"0"), ("RescaleIntercept", b"many"), ("RescaleSlope", b"1,5"), ("PixelAspectRatio", b"1"),
        ("PixelSpacing", b"0\\0"), ("PixelSpacing", b"a\\b"), ("PatientOrientation", b"L"), ("PatientOrientation", b"L\\R"),
        ("FieldOfViewRotation", b"45"), ("VOILUTFunction", b"CUBIC"), ("VOILUTSequence", b"abc"),
        ("ModalityLUTSequence", b"abc"), ("PixelPaddingValue", b""),
    ],
)  # fmt: skip
def test_what_is_left_out_is_said(name: str, value: bytes) -> None:
    window = {"WindowCenter": "1000", "WindowWidth": "500"} if name.startswith("Window") else FULL
    xray = read_xray(spoilt(dataset(DEEP, BitsStored=12, **window), name, value))
    near(xray.pixels, SHOWN)
    assert len(xray.notes) == 1 and xray.notes[0].endswith(": left out")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(OPTIONAL), st.binary(max_size=24))
@example("SpecificCharacterSet", b"\x00\x01")
def test_no_content_of_an_optional_element_makes_a_file_unreadable(name: str, value: bytes) -> None:
    if name == "NumberOfFrames":
        value = b"x" + value  # a film is refused, rightly
    made = dataset(DEEP, BitsStored=12, **FULL)
    try:
        assert np.ptp(read_xray(spoilt(made, name, value)).pixels) > 0
    except MedLIPError as error:
        assert "samples a pixel" in str(error) or "same value" in str(error)


def test_a_sequence_without_an_end_is_left_out() -> None:
    made = dataset(DEEP, BitsStored=12, VOILUTSequence=table(0, np.arange(4096), 12, "words"))
    made["VOILUTSequence"].is_undefined_length = True
    content = encoded(made)
    end = content.index(b"\xfe\xff\xdd\xe0")
    assert read_xray(content).notes == ()
    broken = content[:end] + b"\xfe\xff\xdd\xe1" + content[end + 4 :]
    with pytest.raises(MedLIPError, match="its elements"):
        read_xray(broken)


# Windows


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(
    "write", [str.lower, lambda f: f"{f} ", lambda f: [f, f], lambda f: f.replace("_", " ")], ids=range(4)
)
def test_the_window_function_counts_however_it_is_written(function: str, write: Callable[[str], object]) -> None:
    distance = DEEP - 1500.0
    unit = {
        "LINEAR": (distance + 0.5) / 999 + 0.5,
        "LINEAR_EXACT": distance / 1000 + 0.5,
        "SIGMOID": 1 / (1 + np.exp(-4 * distance / 1000)),
    }[function]
    made = dataset(DEEP, BitsStored=12, WindowCenter="1500", WindowWidth="1000", VOILUTFunction=write(function))
    near(read_xray(encoded(made)).pixels, unit.clip(0, 1) * 255)


@pytest.mark.parametrize(
    ("centres", "widths", "note"),
    [
        (["60000", "2048"], ["100", "4096"], "Window Center shows nothing of the image: left out"),
        (["2048,0", "2048"], ["10", "4096"], "Window Center is unusable: left out"),
        (["9", "2048"], ["0", "4096"], "Window Width is unusable: left out"),
        (["-9000", "2048"], ["1e3", "4096"], "Window Center shows nothing of the image: left out"),
    ],
)
def test_the_next_usable_window_counts(centres: list[str], widths: list[str], note: str) -> None:
    made = dataset(DEEP, BitsStored=12, WindowWidth=widths)
    xray = read_xray(spoilt(made, "WindowCenter", "\\".join(centres).encode()))
    near(xray.pixels, SHOWN)
    assert xray.notes == (note,)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("centre", ["60000", "-60000", "4200"])
def test_a_window_outside_of_the_image_is_left_out(function: str, centre: str) -> None:
    made = dataset(DEEP, BitsStored=12, WindowCenter=centre, WindowWidth="100", VOILUTFunction=function)
    xray = read_xray(encoded(made))
    near(xray.pixels, SHOWN)
    assert xray.notes == ("Window Center shows nothing of the image: left out",)


def test_a_window_that_shows_nothing_of_8_bits_leaves_them_as_they_are() -> None:
    grey = chest(8).astype(np.uint8) // 2
    near(read_xray(encoded(dataset(grey, WindowCenter="900", WindowWidth="10"))).pixels, grey)


def test_hot_and_dead_pixels_do_not_blacken_the_rest() -> None:
    spoilt = DEEP.copy() + 20_000
    spoilt[3, 5], spoilt[40, 7], spoilt[50, 9] = 65_535, 0, 64_000
    pixels = read_xray(encoded(dataset(spoilt))).pixels
    near(np.delete(pixels, [3, 40, 50], 0), np.delete(SHOWN, [3, 40, 50], 0), 1)
    assert (pixels[3, 5], pixels[40, 7], pixels[50, 9]) == (255, 0, 255)


# Padding


@pytest.mark.parametrize("stored", [12, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("written", [False, True], ids=["US", "SS"])
@pytest.mark.parametrize("limited", [False, True])
def test_padding_is_seen_in_either_sign(stored: int, signed: bool, written: bool, limited: bool) -> None:
    values = chest(stored - 2).astype(np.int64) + (1 << stored - 2) - signed * (1 << stored - 1)
    seen = stretched(values)
    padding = -(1 << stored - 1) if signed else (1 << stored) - 1  # the lowest and the highest value
    values[:9] = padding
    seen[:9] = 0
    if limited:
        values[9:12] = padding + (4 if signed else -4)
        seen[9:12] = 0
    mask = (1 << 16) - 1
    made = dataset(values.astype(np.int16 if signed else np.uint16), BitsStored=stored)
    ends = [padding, padding + (5 if signed else -5)]
    written_as = [end & mask if not written else ((end & mask) ^ 0x8000) - 0x8000 for end in ends]
    put(made, "PixelPaddingValue", written_as[0], "SS" if written else "US")
    if limited:
        put(made, "PixelPaddingRangeLimit", written_as[1], "SS" if written else "US")
    near(read_xray(encoded(made)).pixels[12:], stretched(chest(stored - 2))[12:], 4)
    assert (read_xray(encoded(made)).pixels[: 12 if limited else 9] == 0).all()


def test_padding_beyond_the_stored_bits_is_seen_and_nothing_else() -> None:
    code = DEEP.copy()
    code[:9] = 0xF830  # -2000 in 16 bits; its lowest 12 are 2,096
    xray = read_xray(encoded(dataset(code, BitsStored=12, PixelPaddingValue=0xF830)))
    assert (xray.pixels[:9] == 0).all() and (xray.pixels[9:][code[9:] == 2096] > 100).all()


def test_padding_that_covers_everything_is_left_out() -> None:
    xray = read_xray(encoded(dataset(DEEP, BitsStored=12, PixelPaddingValue=0, PixelPaddingRangeLimit=4095)))
    near(xray.pixels, SHOWN)
    assert xray.notes == ("Pixel Padding Value leaves nothing of the image: left out",)


# Headers


@pytest.mark.parametrize("explicit", [False, True])
def test_a_file_without_preamble_and_file_meta_is_read(explicit: bool) -> None:
    near(read_xray(bare(dataset(DEEP, BitsStored=12), explicit=explicit)).pixels, SHOWN)
    near(read_xray(b"DICM" + bare(dataset(DEEP, BitsStored=12), explicit=explicit)).pixels, SHOWN)


def test_a_big_endian_file_without_file_meta_is_read() -> None:
    made = dataset(DEEP, BitsStored=12)
    made["PixelData"].value = DEEP.byteswap().tobytes()
    near(read_xray(bare(made, explicit=True, little=False)).pixels, SHOWN)


@pytest.mark.parametrize("syntax", [*SYNTAXES[:3], RLELossless, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless])
@pytest.mark.parametrize("wrong", [b"", ExplicitVRLittleEndian.encode(), JPEGBaseline8Bit.encode(), b"1.2.3.4"])
def test_pixel_data_decide_where_the_transfer_syntax_is_missing_or_wrong(tmp_path: Path, syntax: UID, wrong: bytes) -> None:
    made = dataset(DEEP, BitsStored=12)
    content = encoded(made, syntax) if syntax in SYNTAXES else compressed(made, syntax, tmp_path)
    start = content.index(b"\x02\x00\x10\x00UI")
    length = int.from_bytes(content[start + 6 : start + 8], "little")
    if syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian) and wrong:
        return  # these say how the header is read, too
    wrong += b"\0" * (len(wrong) % 2)
    element = b"\x02\x00\x10\x00UI" + len(wrong).to_bytes(2, "little") + wrong if wrong else b""
    broken = content[:start] + element + content[start + 8 + length :]
    near(read_xray(broken).pixels, SHOWN, 1)


DEFAULTS = ("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "HighBit", "PixelRepresentation", "BitsStored")


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_required_element_with_one_sensible_value_gets_it(name: str) -> None:
    made = dataset(DEEP, BitsStored=None if name == "BitsStored" else 12) if name != "BitsStored" else dataset(DEEP)
    del made[name]
    xray = read_xray(encoded(made)) if name != "BitsAllocated" else read_xray(bare(made, explicit=True))
    near(xray.pixels, SHOWN)
    assert len(xray.notes) == 1 and "is missing: taken to be" in xray.notes[0]


@pytest.mark.parametrize("name", ["SamplesPerPixel", "PlanarConfiguration", "BitsStored", "HighBit", "PixelRepresentation"])
def test_colour_lacking_an_element_is_read(name: str) -> None:
    colour = np.stack([chest(8, seed=seed) for seed in range(3)], 2).astype(np.uint8)
    made = dataset(colour)
    del made[name]
    near(read_xray(encoded(made)).pixels, colour @ [0.299, 0.587, 0.114])


@pytest.mark.parametrize("photometric", ["monochrome2", "MONOCHROME 2", "GRAYSCALE", "RGB", ""])
def test_a_photometric_interpretation_that_does_not_fit_is_taken_for_grey(photometric: str) -> None:
    near(read_xray(encoded(dataset(DEEP, BitsStored=12, PhotometricInterpretation=photometric))).pixels, SHOWN)


def test_native_bytes_that_look_compressed_are_read() -> None:
    for magic in (b"\xff\x4f\xff\x51", b"\xff\xd8\xff\xe0", b"\xfe\xff\x00\xe0\0\0\0\0"):
        values = chest(16)
        values.view(np.uint8)[0, : len(magic)] = np.frombuffer(magic, np.uint8)
        values.view(np.uint8)[9, : len(magic)] = np.frombuffer(magic, np.uint8)
        near(read_xray(encoded(dataset(values))).pixels, stretched(values), 1)


def test_a_missing_end_mark_of_compressed_data_is_forgiven(tmp_path: Path) -> None:
    content = compressed(dataset(DEEP, BitsStored=12), JPEG2000Lossless, tmp_path)
    assert content.endswith(b"\xfe\xff\xdd\xe0\0\0\0\0")
    xray = read_xray(content[:-8])
    near(xray.pixels, SHOWN)
    assert xray.notes == ("the end mark of the pixel data is missing",)


# Refusals


@pytest.mark.parametrize("frames", [2, 3])
@pytest.mark.parametrize("declared", [None, "1", "", "0", "x"])
@pytest.mark.parametrize("colour", [False, True])
def test_frames_that_are_not_declared_are_counted(frames: int, declared: str | None, colour: bool) -> None:
    pixels = np.stack([chest(8).astype(np.uint8)] * 3, 2) if colour else DEEP
    made = dataset(pixels)
    made["PixelData"].value *= frames
    content = encoded(made) if declared is None else spoilt(made, "NumberOfFrames", declared.encode())
    with pytest.raises(MedLIPError, match=f"holds {frames} frames"):
        read_xray(content)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLosslessSV1])
@pytest.mark.parametrize("offsets", [False, True])
def test_compressed_frames_that_are_not_declared_are_counted(tmp_path: Path, syntax: UID, offsets: bool) -> None:
    from io import BytesIO

    from pydicom.encaps import generate_frames

    made = dcmread(BytesIO(compressed(dataset(DEEP, BitsStored=12), syntax, tmp_path)))
    (frame,) = generate_frames(made.PixelData, number_of_frames=1)
    made.PixelData = encapsulate([frame, frame], has_bot=offsets)
    with pytest.raises(MedLIPError, match="holds 2 frames"):
        read_xray(encoded(made, syntax))
    made.PixelData = encapsulate([frame], fragments_per_frame=3, has_bot=offsets)
    near(read_xray(encoded(made, syntax)).pixels, SHOWN)


REFUSED: dict[str, tuple[dict[str, bytes | None], str]] = {
    "no rows": ({"Rows": None}, "how many rows and columns"),
    "no pixels": ({"PixelData": None}, r"without an image \(Digital X-Ray Image Storage"),
    "empty pixels": ({"PixelData": b""}, "without an image"),
    "short": ({"PixelData": bytes(1000)}, "1,000 bytes of 15,360"),
    "film": ({"NumberOfFrames": b"12"}, "film of 12 frames"),
    "odd bits": ({"PixelData": bytes(range(256)) * 45, "BitsAllocated": b"\x0c\0"}, "how many bits a pixel takes"),
    "four samples": ({"SamplesPerPixel": b"\4\0"}, "4 samples a pixel"),
    "one value": ({"PixelData": bytes(15360)}, "same value"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_shown_is_refused_for_the_true_reason(kind: str) -> None:
    elements, reason = REFUSED[kind]
    made = dataset(DEEP)
    content = b""
    for name, value in elements.items():
        if value is None:
            del made[name]
        elif name == "PixelData":
            made["PixelData"].value = value
        else:
            content = spoilt(made, name, value)
    with pytest.raises(MedLIPError, match=reason) as caught:
        read_xray(content or encoded(made))
    assert NAME not in str(caught.value) and "4711" not in str(caught.value)


def test_neither_notes_nor_errors_quote_the_file() -> None:
    for name in (*OPTIONAL, "Rows", "Columns", "BitsAllocated"):
        made = dataset(DEEP, BitsStored=12)
        try:
            said = " ".join(read_xray(spoilt(made, name, b"Mustermann^Erika")).notes)
        except MedLIPError as error:
            said = str(error)
        assert "Muster" not in said and "Erika" not in said and "\\x" not in said
