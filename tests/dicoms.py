"""DICOM files as tests need them: sound, broken on purpose, or written as no library would."""

from __future__ import annotations

import struct
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import dcmwrite, write_dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

DX = UID("1.2.840.10008.5.1.4.1.1.1.1")
NAME = "Mustermann^Erika"


def chest(bits: int = 12, shape: tuple[int, int] = (96, 80), seed: int = 0) -> NDArray[np.uint16]:
    """Return something smooth and asymmetric (H, W) that uses all values of so many bits, without outliers."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]] / np.array(shape)[:, None, None]
    field = np.sin(5 * y + 1) + np.cos(7 * x) * y + 0.3 * x + 0.02 * draw.random(shape)
    unit = (field - field.min()) / np.ptp(field)
    return np.asarray((unit * (2**bits - 1)).round().astype(np.uint16))


def stretched(values: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return values from the smallest to the largest as 0 to 255."""
    values = values.astype(np.float64)
    return (values - values.min()) / np.ptp(values) * 255


def dataset(pixels: NDArray[np.generic], **elements: object) -> Dataset:
    """Return a data set of grey (H, W) or colour (H, W, 3) pixels; an element of None is left out of it."""
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = DX, "1.2.3"
    made.PatientName, made.PatientID, made.PatientBirthDate = NAME, "4711-0815", "19560707"
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    made.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        made.PlanarConfiguration = 0
    made.BitsAllocated = 8 * pixels.itemsize
    made.BitsStored = elements.get("BitsStored") or made.BitsAllocated
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    data = pixels.tobytes()
    made.add_new("PixelData", "OW" if pixels.itemsize > 1 else "OB", data + b"\0" * (len(data) % 2))
    for name, value in elements.items():
        if value is None:
            del made[name]
        else:
            put(made, name, value)
    return made


def put(made: Dataset, name: str, value: object, kind: str = "") -> None:
    """Set an element to any value that pydicom can write."""
    tag = tag_for_keyword(name)
    assert tag is not None
    made.add(DataElement(tag, kind or dictionary_VR(tag).split(" ")[0], value, validation_mode=IGNORE))


def encoded(made: Dataset, syntax: UID = ExplicitVRLittleEndian, **meta: object) -> bytes:
    """Return a data set as a file's bytes. Pixels are taken to be of the machine's byte order."""
    if syntax == ExplicitVRBigEndian and made.BitsAllocated > 8:
        made["PixelData"].value = np.frombuffer(made.PixelData, f"u{made.BitsAllocated // 8}").byteswap().tobytes()
    buffer = BytesIO()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = DX
    made.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dcmwrite(buffer, made, enforce_file_format=True)
    return buffer.getvalue()


def spoilt(made: Dataset, name: str, value: bytes) -> bytes:
    """Return a data set as a file's bytes with one element of any bytes: types are not written, so all gets through."""
    tag = tag_for_keyword(name)
    assert tag is not None
    value += b"\0" * (len(value) % 2)
    element = struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value
    before, after = (Dataset({e.tag: e for e in made if where(e.tag)}) for where in (tag.__gt__, tag.__lt__))
    head = encoded(Dataset({e.tag: e for e in made if e.tag < 0x00090000}), ImplicitVRLittleEndian)
    start = head.index(bare(Dataset({e.tag: e for e in made if e.tag < 0x00090000}), explicit=False))
    return head[:start] + bare(before, explicit=False) + element + bare(after, explicit=False)


def bare(made: Dataset, *, explicit: bool, little: bool = True) -> bytes:
    """Return the data set alone: no preamble, no file meta information."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = not explicit, little
    write_dataset(buffer, made)
    return buffer.getvalue()
