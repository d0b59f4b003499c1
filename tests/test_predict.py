"""Reading X-rays with a run: findings, places, questions, and heat maps in the image's own pixels."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import medlip
from dicoms import chest, dataset, encoded
from fakes import FakeMethod
from medlip.app.reader import Reader
from medlip.app.reading import NotRead, Reading
from medlip.concepts import default_vocabulary
from medlip.errors import MedLIPError
from medlip.images.preprocessing import Preprocessing
from medlip.methods import build_method
from medlip.methods.base import Answers, TellsPlaces
from medlip.phantom import phantom

ASKED = ["pneumonia", "a rounded opacity at the right base"]


@pytest.fixture(scope="module")
def reader(tiny_run: Path) -> Reader:
    return medlip.load(tiny_run)


@pytest.fixture(scope="module")
def reading(reader: Reader, xray: Path) -> Reading:
    return reader.read(xray, ask=ASKED)


def test_findings_are_the_abnormal_pathologies_most_probable_first(reading: Reading) -> None:
    probabilities = [finding.probability for finding in reading.findings]
    assert probabilities == sorted(probabilities, reverse=True)
    assert all(0 <= p <= 1 for p in probabilities)
    abnormal = {p.name for p in default_vocabulary().pathologies if p.kind == "abnormal"}
    assert {finding.pathology for finding in reading.findings} == abnormal


def test_normal_statements_are_given_on_request(reader: Reader, xray: Path) -> None:
    assert {"clear", "normal"} <= {finding.pathology for finding in reader.read(xray, normal=True).findings}


def test_every_finding_has_its_likeliest_anatomies(reader: Reader, xray: Path) -> None:
    for finding in reader.read(xray, places_above=0).findings:
        probabilities = [place.probability for place in finding.anatomies]
        assert len(probabilities) == 5
        assert probabilities == sorted(probabilities, reverse=True)
        assert all(place.anatomy in default_vocabulary().anatomy_index for place in finding.anatomies)


def test_less_probable_anatomies_are_left_out(reader: Reader, xray: Path) -> None:
    everywhere = {finding.pathology: finding.anatomies for finding in reader.read(xray, places_above=0).findings}
    for above in (0.005, 0.01, 1.0):
        reading = reader.read(xray, places_above=above)
        assert reading.places_above == above and reading.knows_places
        for finding in reading.findings:
            assert finding.anatomies == tuple(p for p in everywhere[finding.pathology] if p.probability >= above)
    assert not any(finding.anatomies for finding in reading.findings)


def test_a_name_and_any_text_can_be_asked(reading: Reading) -> None:
    assert [question.text for question in reading.asked] == ASKED
    pneumonia = next(finding for finding in reading.findings if finding.pathology == "pneumonia")
    assert reading.asked[0].probability == pytest.approx(pneumonia.probability)
    assert 0 <= reading.asked[1].probability <= 1


def test_pixels_read_as_their_file_does(reader: Reader, xray: Path, reading: Reading) -> None:
    from_pixels = reader.read(np.asarray(Image.open(xray)), ask=ASKED)
    assert from_pixels.to_dict() | {"image": str(xray)} == reading.to_dict()


def test_heat_map_and_overlay_have_the_pixels_of_the_image(reading: Reading) -> None:
    for question in reading.asked:
        text = question.text
        heat = reading.heat_map(text)
        assert (heat.shape, heat.dtype) == ((120, 150), np.float32)
        assert heat.min() >= 0
        assert heat.max() <= question.probability + 1e-6  # an improbable finding is dark
        overlay = reading.overlay(text)
        assert (overlay.size, overlay.mode) == ((150, 120), "RGB")


class Pointer(torch.nn.Module):
    """A method that looks at the brightest pixel of its square input, whatever it is asked, and counts its looks."""

    name = "pointer"
    absolute_maps = False
    vocabulary = default_vocabulary()
    preprocessing = Preprocessing(size=32)
    device = torch.device("cpu")
    looks = 0
    origin, fingerprint = None, ""

    def answer(self, images: Tensor, prompts: Sequence[str], **_: bool) -> Answers:
        return Answers(torch.full((len(images), len(prompts)), 0.5), self.localise(images, prompts))

    def localise(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.looks += 1
        grey = images[:, :1]
        return (grey - grey.amin()).expand(-1, len(prompts), -1, -1)


def test_an_improbable_finding_is_faint_unless_maps_are_relative(reading: Reading) -> None:
    least = min(reading.findings, key=lambda finding: finding.probability).pathology
    assert reading.heat_map(least).max() < 0.5
    assert reading.heat_map(least, "relative").max() == pytest.approx(1, abs=1e-3)
    plain, strong = (np.asarray(reading.overlay(least, scale), int) for scale in ("absolute", "relative"))
    grey = np.repeat(reading.pixels[..., None].astype(int), 3, 2)
    assert np.abs(plain - grey).mean() < np.abs(strong - grey).mean()
    assert reading.overlay(least, legend=True).size[0] > reading.overlay(least).size[0]


def test_heat_map_undoes_the_resizing_of_a_wide_image() -> None:
    pixels = np.zeros((100, 300), np.uint8)
    pixels[18:26, 236:250] = 255
    reading = Reader(Pointer()).read(pixels)  # type: ignore[arg-type]
    row, column = np.unravel_index(reading.heat_map("anything").argmax(), pixels.shape)
    assert (18 <= row < 26, 236 <= column < 250) == (True, True)


def test_a_method_without_places_reads_all_the_same() -> None:
    reading = Reader(Pointer()).read(np.eye(64, dtype=np.uint8))  # type: ignore[arg-type]
    assert all(finding.anatomies == () for finding in reading.findings)
    assert (reading.knows_places, reading.to_dict()["places_above"]) == (False, None)
    with pytest.raises(MedLIPError, match="pointer"):
        reading.matrix()


def test_an_image_is_looked_at_once_for_all_that_was_asked() -> None:
    pointer = Pointer()
    reading = Reader(pointer).read(np.eye(64, dtype=np.uint8), ask=["anything"])  # type: ignore[arg-type]
    for text in ("anything", *(finding.pathology for finding in reading.findings)):
        reading.heat_map(text)
    assert pointer.looks == 1
    reading.heat_map("an afterthought")
    assert pointer.looks == 2


def test_a_run_reads_on_the_device_that_is_asked_for(tiny_run: Path, xray: Path) -> None:
    assert medlip.load(tiny_run, device="cpu").method.device == torch.device("cpu")
    with pytest.raises(MedLIPError, match="'tpu'"):
        medlip.load(tiny_run, device="tpu")


def test_the_matrix_read_back_is_anatomies_by_pathologies(reading: Reading) -> None:
    vocabulary = default_vocabulary()
    matrix = reading.matrix()
    assert list(matrix.index) == [anatomy.name for anatomy in vocabulary.anatomies]
    assert list(matrix.columns) == [pathology.name for pathology in vocabulary.pathologies]
    top = reading.findings[0]
    assert top.anatomies
    for place in top.anatomies:
        assert matrix.loc[place.anatomy, top.pathology] == pytest.approx(place.probability, rel=1e-4)
    assert matrix[top.pathology].max() == pytest.approx(top.anatomies[0].probability, rel=1e-4)


def test_a_question_that_is_longer_than_the_encoder_reads_is_noted() -> None:
    small = {"backbone": "resnet10t", "text_width": 32, "text_layers": 1, "width": 32, "max_tokens": 12}
    method = build_method({"name": "gloria", **small}, default_vocabulary(), Preprocessing(64), lambda: ["No effusion."])
    pixels = np.eye(64, dtype=np.uint8)
    (note,) = Reader(method).read(pixels, ask=["effusion " * 40, "effusion"]).notes
    assert "1 of 2 questions are longer than the 10 tokens" in note
    assert Reader(method).read(pixels, ask=["effusion"]).notes == ()


def test_questions_are_read_whole_by_a_method_that_reads_reports_less_far(xray: Path) -> None:
    small = {"backbone": "resnet10t", "weights": None, "text_width": 32, "text_layers": 1, "width": 32, "layers": 1}
    settings = {"name": "medlip", **small, "report_tokens": 12}
    method = build_method(settings, default_vocabulary(), Preprocessing(64), lambda: ["No effusion."])
    assert Reader(method).read(xray, ask=["a rounded shadow at the base " * 20]).notes == Reader(method).read(xray).notes


def test_a_denial_and_what_has_no_word_are_noted(reader: Reader, xray: Path) -> None:
    *_, note = reader.read(xray, ask=["There is no effusion.", "effusion?", "a nodule"]).notes
    assert note == ("asked for what isn't there, and answered by how likely what is named is there: 'There is no effusion.'")
    asked = reader.read(xray, ask=["effusion?", "effusion"]).asked
    assert asked[0].probability == asked[1].probability
    *_, note = reader.read(xray, ask=["?!", "胸腔积液", "a nodule"]).notes
    assert note.startswith("asked for by no word that the text encoder reads") and note.endswith("'?!', '胸腔积液'")


def test_one_question_is_no_list_of_letters(reader: Reader, xray: Path, reading: Reading) -> None:
    alone = reader.read(xray, ask="pneumonia")
    assert [question.text for question in alone.asked] == ["pneumonia"]
    assert alone.asked[0].probability == pytest.approx(reading.asked[0].probability)


def test_an_image_reads_the_same_in_whatever_form_it_comes(reader: Reader, tmp_path: Path) -> None:
    grey = chest(8).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "x.png")
    forms = {
        "path": tmp_path / "x.png",
        "text": str(tmp_path / "x.png"),
        "bytes": (tmp_path / "x.png").read_bytes(),
        "grey": grey,
        "colour": np.repeat(grey[..., None], 3, 2),
        "channels first": np.repeat(grey[None], 3, 0),
        "picture": Image.fromarray(grey).convert("RGBA"),
        "dicom": dataset(grey, ViewPosition="PA"),
    }
    expected = reader.read(grey).findings
    for form, image in forms.items():
        reading = reader.read(image)
        assert reading.image == (str(image) if isinstance(image, (str, Path)) else ""), form
        for ours, theirs in zip(reading.findings, expected, strict=True):
            assert ours.probability == pytest.approx(theirs.probability, abs=0.02), form
    assert {finding.pathology for finding in expected} == {finding.pathology for finding in reading.findings}


@pytest.mark.parametrize("image", [np.zeros((64, 64), np.uint8), np.zeros((3, 3), np.uint8), np.zeros(64, np.uint8), b"no"])
def test_what_is_no_image_is_an_error(reader: Reader, image: Any) -> None:
    with pytest.raises(MedLIPError, match="the image: "):
        reader.read(image)


def test_a_finding_is_found_by_any_of_its_names(reading: Reading) -> None:
    assert reading.finding("Pneumonia") == reading.finding("pneumonia") in reading.findings
    for name, advice in (("clear", "normal=True"), ("pneumonja", "Did you mean 'pneumonia'")):
        with pytest.raises(MedLIPError, match=advice):
            reading.finding(name)


def test_a_reading_is_a_table_and_a_document(reading: Reading) -> None:
    table = reading.table()
    assert list(table.columns) == [
        "text", "probability", "threshold", "calibrated", "place", "place_probability", "asked",
    ]  # fmt: skip
    assert list(table[table.asked].text) == ASKED
    top = table.iloc[0]
    assert (top.text, top.place) == (reading.findings[0].pathology, reading.findings[0].anatomies[0].anatomy)
    assert json.loads(reading.to_json()) == reading.to_dict()


def test_a_reading_is_short_in_a_terminal_and_a_picture_in_a_notebook(reading: Reading) -> None:
    assert len(repr(reading)) < 400
    assert reading.findings[0].pathology in repr(reading)
    page = reading._repr_html_()
    assert "data:image/jpeg" in page and reading.findings[0].pathology in page
    assert "Not a medical device" in page


def test_a_reading_says_which_model_read(reading: Reading, reader: Reader, tiny_run: Path) -> None:
    assert reading.model.name == tiny_run.name
    assert reading.model.version == medlip.__version__
    assert (reading.model.hash, reading.model.method) == (reader.method.fingerprint, "medslip")


def test_places_come_from_every_method_that_declares_them(xray: Path) -> None:
    class Placing(FakeMethod, TellsPlaces):
        def score_anatomies(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
            return torch.linspace(0, 1, len(self.vocabulary.anatomies)).expand(len(images), len(prompts), -1)

    reading = Reader(Placing()).read(xray)
    last = default_vocabulary().anatomies[-1].name
    assert all(finding.anatomies[0].anatomy == last for finding in reading.findings)
    assert reading.matrix().loc[last].eq(1).all()


@pytest.mark.long
def test_many_images_read_as_one_does_in_their_order(reader: Reader, xray: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(xray.read_bytes()[:200])
    turned = np.asarray(Image.open(xray).rotate(180))
    images = [xray, bad, turned, chest(8).astype(np.uint8), tmp_path / "nowhere.png"]
    by_itself = {index: reader.read(images[index], ask=ASKED) for index in (0, 2, 3)}
    for batch_size, workers in ((1, 0), (2, 0), (16, 1)):
        read = list(reader.read_many(images, ask=ASKED, batch_size=batch_size, workers=workers))
        assert [type(entry) for entry in read] == [Reading, NotRead, Reading, Reading, NotRead]
        assert [entry.image for entry in read] == [str(xray), str(bad), "", "", str(tmp_path / "nowhere.png")]
        assert "bad.png" in read[1].error
        for index, alone in by_itself.items():
            ours, theirs = read[index].table(), alone.table()
            assert list(ours.text[:3]) == list(theirs.text[:3])
            np.testing.assert_allclose(ours.probability, theirs.probability, atol=1e-4)
            np.testing.assert_allclose(read[index].maps(ASKED), alone.maps(ASKED), atol=1e-4)


def test_a_stream_is_read_lazily_and_each_image_encoded_once(reader: Reader) -> None:
    taken, encoded = [], []

    def images() -> Any:
        for number in range(100):
            taken.append(number)
            yield np.random.default_rng(number).integers(0, 255, (64, 64), np.uint8)

    hook = reader.method.encoder.register_forward_hook(lambda _, inputs, __: encoded.append(len(inputs[0])))
    stream = reader.read_many(images(), batch_size=4)
    for reading, _ in zip(stream, range(6), strict=False):
        reading.heat_map(reading.findings[0].pathology)
    hook.remove()
    assert len(taken) == 8
    assert encoded == [4, 4]


def test_a_stream_says_at_once_what_is_wrong_with_how_it_is_asked(reader: Reader) -> None:
    with pytest.raises(MedLIPError, match="empty"):
        reader.read_many([], ask=[""])
    with pytest.raises(MedLIPError, match="batch_size=0"):
        reader.read_many([], batch_size=0)


def test_an_empty_question_is_an_error(reader: Reader, xray: Path) -> None:
    with pytest.raises(MedLIPError, match="empty"):
        reader.read(xray, ask=[" "])


@pytest.fixture
def predict(medlip: Callable[..., Any]) -> Callable[..., tuple[int, Any, str]]:
    def run(*arguments: object) -> tuple[int, Any, str]:
        outcome = medlip("predict", *arguments, "--json")
        return outcome.code, outcome.document, outcome.err

    return run


Predict = Callable[..., tuple[int, Any, str]]
KEYS = {
    "image", "read_as", "not_frontal", "doubts", "notes", "places_above", "calibrated", "findings", "asked", "model",
    "disclaimer",
}  # fmt: skip
JUDGED = {"probability", "score", "threshold", "calibrated"}


def test_one_image_gives_a_list_of_one(predict: Predict, tiny_run: Path, xray: Path) -> None:
    code, (document,), _ = predict(tiny_run, xray, "--ask", ASKED[0], "--ask", ASKED[1], "--places-above", 0.01)
    assert code == 0
    assert document.keys() == KEYS
    assert (document["not_frontal"], document["notes"], document["places_above"]) == ("", [], 0.01)
    assert document["read_as"] == "frontal"
    assert document["image"] == str(xray)
    assert document["findings"][0].keys() == {"pathology", "anatomies", *JUDGED}
    assert document["findings"][0]["anatomies"][0].keys() == {"anatomy", "probability"}
    assert [question["text"] for question in document["asked"]] == ASKED
    assert document["asked"][0].keys() == {"text", *JUDGED}


def test_a_bad_image_is_named_and_the_others_are_read(predict: Predict, tiny_run: Path, xray: Path, tmp_path: Path) -> None:
    truncated = tmp_path / "truncated.png"
    truncated.write_bytes(xray.read_bytes()[:300])
    code, document, errors = predict(tiny_run, truncated, tmp_path / "nowhere.png", xray)
    assert code == 3
    assert [set(entry) for entry in document] == [{"image", "error"}, {"image", "error"}, KEYS]
    counted, first, second = errors.strip().splitlines()
    assert "2 images were skipped" in counted
    assert "truncated.png" in first
    assert "nowhere.png" in second


def test_no_readable_image_is_a_failure(predict: Predict, tiny_run: Path, tmp_path: Path) -> None:
    code, document, errors = predict(tiny_run, tmp_path / "nowhere.png")
    assert (code, document[0].keys()) == (1, {"image", "error"})
    assert "no image could be read; the first: " in errors.strip().splitlines()[-1]


def test_overlays_are_saved_under_names_of_their_own(predict: Predict, tiny_run: Path, xray: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, document, _ = predict(tiny_run, xray, xray, "--ask", "Effusion?", "--out", out)
    assert code == 0
    named = [file for entry in document for file in entry["overlays"].values()]
    assert sorted(named) == sorted(map(str, out.iterdir()))
    assert len(set(named)) == len(named) >= 4
    assert all(width > 150 and height == 120 for width, height in (Image.open(file).size for file in named))  # a legend


def overlays(document: Any) -> list[Path]:
    return [Path(file) for entry in document for file in entry["overlays"].values()]


def test_overlays_of_earlier_runs_stay(predict: Predict, tiny_run: Path, xray: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    contents: dict[Path, bytes] = {}
    for folder, name in (("a", "x.png"), ("b", "x.png"), ("a", "x.jpg"), ("a", "X.png"), ("c", "x"), ("c", "x-2.png")):
        image = tmp_path / folder / name
        image.parent.mkdir(exist_ok=True)
        Image.open(xray).rotate(len(contents)).save(image, format="PNG")
        _, document, _ = predict(tiny_run, image, "--ask", "a/b", "--ask", "a b", "--ask", "?!", "--out", out)
        files = overlays(document)
        assert len(files) >= 4 and not set(files) & set(contents)
        contents |= {file: file.read_bytes() for file in files}
    assert {file: file.read_bytes() for file in out.iterdir()} == contents
    assert len({file.name.casefold() for file in contents}) == len(contents)


def test_the_files_of_an_image_share_its_name(predict: Predict, tiny_run: Path, xray: Path, tmp_path: Path) -> None:
    images = []
    for name in ("1.2.840.113", "1.2.840.114", "film.DCM"):
        images.append(tmp_path / name)
        images[-1].write_bytes(xray.read_bytes())
    _, document, _ = predict(tiny_run, *images, images[0], "--out", tmp_path / "out")
    starts = ("1.2.840.113-", "1.2.840.114-", "film-", "1.2.840.113-2-")
    for entry, start in zip(document, starts, strict=True):
        assert all(Path(file).name == f"{start}{text.replace('_', '-')}.png" for text, file in entry["overlays"].items())


def test_long_names_are_cut(predict: Predict, tiny_run: Path, xray: Path, tmp_path: Path) -> None:
    long = tmp_path / ("é" * 120 + ".png")
    long.write_bytes(xray.read_bytes())
    code, document, _ = predict(tiny_run, long, "--ask", "is there " * 40, "--out", tmp_path / "out")
    assert code == 0 and all(file.exists() for file in overlays(document))


def test_the_terminal_says_whose_each_overlay_is(medlip: Callable[..., Any], tiny_run: Path, tmp_path: Path) -> None:
    images = [tmp_path / "a" / "x.png", tmp_path / "b" / "x.png"]
    for number, image in enumerate(images):
        image.parent.mkdir()
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (64, 64), np.uint8)).save(image)
    outcome = medlip("predict", tiny_run, *images, "--ask", "pneumonia", "--out", tmp_path / "out")
    blocks = outcome.out.split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == [str(image) for image in images]
    listed = [line.split(": ")[1] for block in blocks for line in block.splitlines() if line.startswith("overlay of ")]
    assert sorted(listed) == sorted(map(str, (tmp_path / "out").iterdir()))
    for block, start in zip(blocks, ("x-", "x-2-"), strict=True):
        assert f"overlay of pneumonia: {tmp_path / 'out' / start}pneumonia.png" in block.splitlines()


def test_the_terminal_shows_places_with_their_probability_or_says_that_there_is_none(
    medlip: Callable[..., Any], predict: Predict, tiny_run: Path, xray: Path
) -> None:
    _, (document,), _ = predict(tiny_run, xray)
    shown = medlip("predict", tiny_run, xray).out
    for finding in document["findings"][:8]:
        (line,) = [line for line in shown.splitlines() if line.startswith(f"{finding['pathology']} ")]
        places = [f"{place['anatomy']} {place['probability']:.3f}" for place in finding["anatomies"]]
        assert line.endswith(", ".join(places) or "no place at 0.01 or above")
    assert medlip("predict", tiny_run, xray, "--places-above", 0.9).out.count("no place at 0.9 or above") == 8


def frontal() -> np.ndarray:
    image = phantom(8, seed=3).views[0].image
    assert isinstance(image, np.ndarray)
    return image


def films(tmp_path: Path) -> dict[str, Path]:
    grey = frontal()
    made = {
        "knee": dataset(grey, BodyPartExamined="KNEE"),
        "ct": dataset(grey, Modality="CT"),
        "lateral": dataset(grey, ViewPosition="LL"),
        "mirrored": dataset(grey[:, ::-1], PatientOrientation=["R", "F"], ViewPosition="PA"),
    }
    for name, film in made.items():
        (tmp_path / f"{name}.dcm").write_bytes(encoded(film))
    return {name: tmp_path / f"{name}.dcm" for name in made}


def test_what_is_no_frontal_chest_x_ray_is_answered_with_a_warning(
    predict: Predict, medlip: Callable[..., Any], tiny_run: Path, tmp_path: Path
) -> None:
    images = films(tmp_path)
    code, document, errors = predict(tiny_run, *images.values())
    assert code == 3
    assert [entry["not_frontal"] for entry in document] == [
        "the body part is KNEE",
        "the modality is CT",
        "the view is lateral",
        "",
    ]
    assert all(entry["findings"] for entry in document)
    counted, *named = errors.strip().splitlines()
    assert "3 images may be no sound frontal chest X-rays" in counted
    assert [line.split(":   ")[-1].strip() for line in named] == [
        f"{entry['image']}: {entry['not_frontal']}" for entry in document[:3]
    ]
    shown = medlip("predict", tiny_run, images["knee"])
    assert shown.code == 3 and "WARNING: what is read here may mean little: the body part is KNEE" in shown.out


def test_how_an_image_was_turned_is_told(predict: Predict, reader: Reader, tiny_run: Path, tmp_path: Path) -> None:
    image = films(tmp_path)["mirrored"]
    note = "mirrored left to right, as Patient Orientation says"
    code, (document,), _ = predict(tiny_run, image)
    assert (code, document["notes"]) == (0, [note])
    reading = reader.read(image)
    assert (reading.notes, reading.not_frontal) == ((note,), "")
    np.testing.assert_array_equal(reading.pixels, frontal())


def test_the_notes_of_an_image_stand_beneath_it(medlip: Callable[..., Any], tiny_run: Path, tmp_path: Path) -> None:
    shown = medlip("predict", tiny_run, films(tmp_path)["mirrored"]).out.splitlines()
    assert shown[1] == "note: mirrored left to right, as Patient Orientation says"


def test_dicom_is_read_and_no_identifier_gets_out(predict: Predict, tiny_run: Path, xray: Path, tmp_path: Path) -> None:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid()
    pixels = np.asarray(Image.open(xray)).astype(np.uint16) * 16
    file = tmp_path / "x.dcm"
    dicom = FileDataset(str(file), {}, file_meta=meta, preamble=b"\0" * 128)
    dicom.PatientName, dicom.PatientID, dicom.AccessionNumber = "Doe^Jane", "ID-4711", "ACC-0815"
    dicom.SOPClassUID, dicom.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dicom.Rows, dicom.Columns, dicom.SamplesPerPixel = *pixels.shape, 1
    dicom.BitsAllocated, dicom.BitsStored, dicom.HighBit, dicom.PixelRepresentation = 16, 12, 11, 0
    dicom.PhotometricInterpretation, dicom.Modality = "MONOCHROME2", "DX"
    dicom.PixelData = pixels.tobytes()
    dicom.save_as(file, enforce_file_format=True)

    code, document, errors = predict(tiny_run, file, "--out", tmp_path / "out")
    assert code == 0
    assert document[0]["findings"]
    written = json.dumps(document) + errors + "".join(p.read_bytes().decode("latin1") for p in (tmp_path / "out").iterdir())
    assert not [secret for secret in ("Doe", "Jane", "ID-4711", "ACC-0815") if secret in written]


@pytest.fixture
def folder(xray: Path, tmp_path: Path) -> Path:
    """Three X-rays, one without a suffix, a broken one, and a file that is no image."""
    folder = tmp_path / "films"
    (folder / "below").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(xray.read_bytes())
    (folder / "below" / "1.2.840").write_bytes(encoded(dataset(chest(8).astype(np.uint8))))
    (folder / "broken.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_a_folder_is_read_with_all_below_and_what_is_broken_is_named(predict: Predict, tiny_run: Path, folder: Path) -> None:
    code, document, errors = predict(tiny_run, folder)
    assert code == 3
    assert [Path(entry["image"]).name for entry in document] == ["a.png", "b.png", "1.2.840", "broken.png"]
    assert [entry["image"] for entry in document if "error" in entry] == [str(folder / "broken.png")]
    assert "1 images were skipped" in errors and "broken.png" in errors
    assert "1 other files in the folders are no images" in errors


def test_patterns_and_lists_on_stdin_name_images_too(
    predict: Predict, tiny_run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    _, by_pattern, _ = predict(tiny_run, f"{folder}/[ab].png")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{folder / 'a.png'}\n\n{folder / 'b.png'}\n"))
    _, by_list, _ = predict(tiny_run, "-")
    assert [entry["image"] for entry in by_pattern] == [str(folder / "a.png"), str(folder / "b.png")]
    assert by_pattern == by_list


@pytest.mark.parametrize(
    ("name", "says"), [("*.bmp", "nothing fits this pattern"), ("empty", "no PNG, JPEG, TIFF or DICOM")]
)
def test_where_there_is_no_image_it_is_said(predict: Predict, tiny_run: Path, folder: Path, name: str, says: str) -> None:
    (folder / "empty").mkdir()
    code, _, errors = predict(tiny_run, folder / "a.png", folder / name)
    assert code == 3 and says in errors
    code, _, errors = predict(tiny_run, folder / name)
    assert code == 1 and says in errors.strip().splitlines()[-1]


def test_lines_of_json_come_one_by_one_with_the_model_in_each(
    medlip: Callable[..., Any], reader: Reader, tiny_run: Path, folder: Path
) -> None:
    outcome = medlip("predict", tiny_run, folder, "--jsonl", "--batch", 2)
    entries = [json.loads(line) for line in outcome.out.splitlines()]
    assert len(entries) == 4 and outcome.code == 3
    for entry in entries:
        if "error" not in entry:
            assert entry["model"]["hash"] == reader.method.fingerprint
            assert "Not a medical device" in entry["disclaimer"]
    assert medlip("predict", tiny_run, folder, "--jsonl", "--json").code == 2


def test_a_table_has_a_row_for_each_image(medlip: Callable[..., Any], reader: Reader, tiny_run: Path, folder: Path) -> None:
    import pandas as pd

    file = folder.parent / "scores.csv"
    medlip("predict", tiny_run, folder, "--table", file, "--ask", ASKED[1])
    table = pd.read_csv(file)
    assert list(table.image.map(lambda name: Path(name).name)) == ["a.png", "b.png", "1.2.840", "broken.png"]
    assert list(table.error.notna()) == [False, False, False, True]
    assert set(table.hash) == {reader.method.fingerprint}
    reading = reader.read(folder / "a.png", ask=ASKED[1])
    assert table.effusion[0] == pytest.approx(reading.finding("effusion").probability, abs=1e-4)
    assert table[ASKED[1]][0] == pytest.approx(reading.asked[0].probability, abs=1e-4)


def test_maps_are_kept_as_numbers(predict: Predict, reader: Reader, tiny_run: Path, xray: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    _, document, _ = predict(tiny_run, xray, xray, "--out", out, "--maps", "npz", "--ask", ASKED[1])
    assert [Path(entry["maps"]).name for entry in document] == ["x.npz", "x-2.npz"]
    with np.load(document[0]["maps"]) as kept:
        names, maps, size = list(kept["names"]), kept["maps"], tuple(kept["size"])
    reading = reader.read(xray, ask=ASKED[1])
    assert size == reading.pixels.shape
    assert set(names) == {*(finding.pathology for finding in reading.findings), ASKED[1]}
    np.testing.assert_allclose(maps, reading.maps(names), atol=1e-4)
    _, document, _ = predict(tiny_run, xray, "--out", out, "--maps", "none")
    assert document[0].keys() == KEYS and len(list(out.iterdir())) == 2


def test_maps_as_numbers_need_a_folder(medlip: Callable[..., Any], tiny_run: Path, xray: Path) -> None:
    assert medlip("predict", tiny_run, xray, "--maps", "npz").code == 2


@pytest.mark.slow
def test_memory_stays_flat_over_500_files_of_20_megabytes(reader: Reader, tmp_path: Path) -> None:
    import os

    film = np.asarray(Image.fromarray(frontal()).resize((3240, 3240)), np.uint16) * 200
    (tmp_path / "film.dcm").write_bytes(encoded(dataset(film)))
    assert (tmp_path / "film.dcm").stat().st_size > 20e6
    films = [tmp_path / f"{number}.dcm" for number in range(500)]
    for path in films:
        os.link(tmp_path / "film.dcm", path)

    def held() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    after = {}
    for number, reading in enumerate(reader.read_many(films, ask=ASKED)):
        assert isinstance(reading, Reading) and reading.doubts is not None
        reading.heat_map(reading.findings[0].pathology)
        after[number] = held()
    assert max(after.values()) < after[63] + 150e6
