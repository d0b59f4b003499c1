"""Every file that pydicom (and pydicom-data, where it is installed) tests itself with: shown as it is to be, or refused."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file, get_testdata_files
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.uid import ImplicitVRLittleEndian

from medlip.errors import MedLIPError
from medlip.images import read_xray

TRUE_REASONS = (
    "without an image", r"of \d+ frames", r"only \d+ x \d+ pixels", "its pixel data claim", "no installed decoder",
    "neither PNG, JPEG nor DICOM", "how many rows", "of another size",
)  # fmt: skip
EXTERNAL = "vlut_04.dcm"  # of pydicom-data


def files() -> list[Path]:
    shipped = [path for path in map(Path, map(str, get_testdata_files("*"))) if path.is_file()]
    external = get_testdata_file(EXTERNAL, download=False)
    return sorted({*shipped, *(Path(str(external)).parent.glob("*.dcm") if external else ())})


def rendered(dicom: Dataset) -> NDArray[np.float64]:
    """Return its greys, from 0 to 255, by pydicom's own functions alone."""
    if "TransferSyntaxUID" not in dicom.file_meta:
        dicom.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    stored = dicom.pixel_array
    if dicom.PhotometricInterpretation == "PALETTE COLOR":
        colour = apply_color_lut(stored, dicom)
        return np.asarray(colour @ [0.299, 0.587, 0.114] / np.iinfo(colour.dtype).max * 255)
    if stored.ndim == 3:
        return np.asarray(stored @ [0.299, 0.587, 0.114] / (2**dicom.BitsStored - 1) * 255)
    values = apply_modality_lut(stored, dicom)
    if "VOILUTSequence" in dicom or "WindowWidth" in dicom:
        ends = np.arange(-65_536, 65_536) if "VOILUTSequence" in dicom else np.array([-1e9, 1e9])
        every = apply_voi_lut(ends, dicom)
        values, low, high = apply_voi_lut(values, dicom), every.min(), every.max()
    elif dicom.BitsAllocated <= 8:
        low, high = 0, 2**dicom.BitsStored - 1
    else:
        low, high = values.min(), values.max()
    grey = ((values.astype(float) - low) / (high - low) * 255).clip(0, 255)
    grey = 255 - grey if dicom.PhotometricInterpretation == "MONOCHROME1" else grey
    return np.asarray(grey[:, ::-1] if dicom.get("PatientOrientation") == ["R", "F"] else grey)


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_it_agrees_with_an_independent_rendering_or_is_refused_for_the_true_reason(path: Path) -> None:
    try:
        xray = read_xray(path)
    except MedLIPError as error:
        assert any(re.search(reason, str(error)) for reason in TRUE_REASONS)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = rendered(dcmread(path, force=True))
    if any("square" in note for note in xray.notes):
        assert np.prod(xray.pixels.shape) > expected.size
    elif not any("shows nothing" in note for note in xray.notes):
        np.testing.assert_allclose(xray.pixels, expected, atol=1)
