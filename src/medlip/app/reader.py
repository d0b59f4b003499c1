"""Reading X-rays with a trained model, one at a time or as a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray

from medlip.app.judge import Judge
from medlip.app.reading import AnatomyProbability, CalibratedOn, Look, ModelIdentity, NotRead, Reading
from medlip.concepts import Vocabulary
from medlip.data.views import ViewKind, Views, kind_of, read_alone_as, read_as, view_of
from medlip.errors import MedLIPError
from medlip.images import XRay, read_xray
from medlip.methods import Method
from medlip.methods.base import Answers, EmbedsReports, ReadsViews, views_of
from medlip.parallel import outcomes
from medlip.training import load_run
from medlip.training.load import CALIBRATION

if TYPE_CHECKING:
    from PIL.Image import Image
    from pydicom import Dataset

    from medlip.evaluation.calibration import Calibration, OperatingPoint

    Source: TypeAlias = str | Path | bytes | XRay | NDArray[Any] | Image | Dataset

ANATOMIES = 5  # of a finding, at most
PLACES_ABOVE = 0.01
"""Anatomies of a finding that are less probable than this are not given."""
BATCH = 16
"""Images that are read at a time."""
AHEAD = 2  # images that a process decodes at a time: they may be large


class Reader:
    """A trained model that reads X-rays; `medlip.load(source)` makes one.

    Attributes:
        method: the model.
        calibration: what its probabilities and thresholds rest on; None where it isn't calibrated.
    """

    def __init__(
        self, method: Method, calibration: Calibration | None = None, at: OperatingPoint | str | None = None
    ) -> None:
        """Read with a model.

        Args:
            method: the model.
            calibration: of the same weights.
            at: which thresholds are used, such as "sensitivity=0.9"; None for those that it was calibrated for.

        Raises:
            MedLIPError: thresholds are asked for and there is no calibration, or `at` can't be read.
        """
        self.method, self.calibration = method.eval(), calibration
        self._judge = Judge(method.vocabulary, calibration, at)
        self._usual = None if calibration is None else calibration.appearance

    @classmethod
    def open(
        cls,
        source: str | Path,
        device: str = "auto",
        *,
        at: OperatingPoint | str | None = None,
        text_bank: str | Path | None = None,
        text_encoder: str | None = None,
    ) -> Reader:
        """Load a model from wherever it lies, see `medlip.training.load_run`, with the calibration beside it.

        Raises:
            MedLIPError: there is no such model, it can't be read, the device can't be used, or the calibration was made with
                other weights.
        """
        method = load_run(source, device, text_bank=text_bank, text_encoder=text_encoder)
        file = None if method.folder is None else method.folder / CALIBRATION
        if file is None or not file.exists():
            return cls(method, None, at)
        from medlip.evaluation.calibration import Calibration  # brings in all of evaluation

        return cls(method, Calibration.load(file, method.fingerprint), at)

    @property
    def vocabulary(self) -> Vocabulary:
        """What the model was trained to find, and where."""
        return self.method.vocabulary

    @cached_property
    def model(self) -> ModelIdentity:
        """Which model it is: every reading says so."""
        return ModelIdentity.of(self.method)

    @property
    def calibrated_on(self) -> CalibratedOn | None:
        """What probabilities and thresholds rest on; None where the model isn't calibrated."""
        return self._judge.calibrated_on

    @property
    def thresholds(self) -> Mapping[str, float]:
        """From which probability on each finding is called present."""
        abnormal = (pathology.name for pathology in self.vocabulary.pathologies if pathology.kind == "abnormal")
        return {name: self._judge.threshold(name) for name in abnormal}

    def __repr__(self) -> str:
        known = f"{len(self.vocabulary.pathologies)} pathologies, {len(self.vocabulary.anatomies)} anatomies"
        return f"<Reader {self.model.name} ({self.method.name}): {known}>"

    def read(
        self,
        image: Source,
        ask: str | Sequence[str] = (),
        *,
        strict: bool = False,
        normal: bool = False,
        places_above: float = PLACES_ABOVE,
    ) -> Reading:
        """Read one X-ray.

        What speaks against relying on it is in `Reading.doubts`: no frontal chest X-ray, by its file or by its looks, or a
        poor one. It is answered all the same, unless `strict`.

        Args:
            image: a PNG, JPEG, TIFF or DICOM file, or the bytes of one; an array, grey (H, W) or with channels; a picture of
                Pillow; a pydicom data set; or an X-ray that `read_xray` gave.
            ask: a question or several: names or synonyms of the vocabulary, or any other text.
            strict: refuse an image that there are doubts about.
            normal: also give the statements that are no abnormality ("clear", "intact" ...) among the findings.
            places_above: anatomies of a finding that are less probable than this, in [0, 1], are left out.

        Raises:
            MedLIPError: this is no readable image, there are doubts about it and `strict` is set, or a question is empty or
                can't be answered by this model.
        """
        (reading,) = self._read([_name(image)], [_decode(image)], [_questions(ask)], normal, places_above)
        if strict and reading.doubts:
            raise MedLIPError(_refused(reading))
        return reading

    def read_study(
        self,
        images: Sequence[Source],
        ask: str | Sequence[str] = (),
        *,
        views: Sequence[str] | None = None,
        normal: bool = False,
        places_above: float = PLACES_ABOVE,
    ) -> list[Reading | NotRead]:
        """Read the views of one study together: probabilities and places are the study's, and maps each image's own.

        An image that can't be read, or shows a view that the model was not trained on, is left out, and the others' notes
        say so.

        Args:
            images: as for `read`.
            ask: as for `read`.
            views: what each of them shows, "PA", "lateral" …; None or "": what its file says, else frontal.
            normal: as for `read`.
            places_above: as for `read`.

        Returns:
            A reading of each image, in their order; of one that was left out, why.

        Raises:
            MedLIPError: the model reads image by image, no image is left, a view is no known word, there are not as many
                views as images, or as of `read`.
        """
        known = views_of(self.method)
        if not known:
            raise MedLIPError(
                f"{self.model.name}: this model reads image by image. Read each by itself, or train one that reads the "
                "views of a study together, with data.views=set."
            )
        if views is not None and len(views) != len(images):
            raise MedLIPError(f"{len(views)} views for {len(images)} images: name one for each.")
        for word in views or ():
            _kind(word)
        views = [word.strip() for word in views or [""] * len(images)]
        every = [
            _view(image, word, number, known) for number, (image, word) in enumerate(zip(images, views, strict=True), 1)
        ]
        read = [view for view in every if isinstance(view, _View)]
        notes = [f"left out of the study: {view.error}" for view in every if isinstance(view, NotRead)]
        if not read:
            raise MedLIPError(" ".join(["the study has no view that can be read: give one.", *notes]))
        notes += [note for view in read for note in view.notes]
        if len(read) > 1:
            notes.append(f"{len(read)} images read together: probabilities and places are the study's, each map its image's")
        kinds = tuple(view.kind for view in read)
        if "frontal" not in kinds:
            notes.append("the study has no frontal view: places and sides, which such views show best, are told without one")
        names, xrays, asks = [view.name for view in read], [view.xray for view in read], [_questions(ask)] * len(read)
        readings = self._read(names, xrays, asks, normal, places_above, Views((kinds,)), notes)
        return [view if isinstance(view, NotRead) else next(readings) for view in every]

    def read_together(self, xrays: Sequence[XRay], asks: Sequence[Sequence[str]]) -> list[Reading]:
        """Read X-rays at once, each with questions of its own: what `read` gives of each, in less time.

        Args:
            xrays: as `read_xray` gives them.
            asks: the questions for each of them.

        Raises:
            MedLIPError: a question is empty or can't be answered by this model.
        """
        questions = [_questions(ask) for ask in asks]
        return list(self._read([""] * len(xrays), xrays, questions, normal=False, places_above=PLACES_ABOVE))

    def read_many(
        self,
        images: Iterable[Source],
        ask: str | Sequence[str] = (),
        *,
        batch_size: int = BATCH,
        workers: int = 0,
        strict: bool = False,
        normal: bool = False,
        places_above: float = PLACES_ABOVE,
    ) -> Iterator[Reading | NotRead]:
        """Read X-rays as they come, and yield what was read in their order; one that can't be read is a `NotRead`.

        However many there are, memory holds a batch of them and what the workers are ahead.

        Args:
            images: as for `read`; read lazily.
            ask: questions for every image, as for `read`.
            batch_size: images that are encoded at a time.
            workers: processes that decode files; 0 for none beside this one.
            strict: as for `read`: what there are doubts about is a `NotRead`.
            normal: as for `read`.
            places_above: as for `read`.

        Raises:
            MedLIPError: a question is empty or can't be answered by this model, or `batch_size` is below 1.
        """
        if batch_size < 1:
            raise MedLIPError(f"batch_size={batch_size}: give the number of images that are read at a time, 1 or more.")
        read = self._stream(images, _questions(ask), batch_size, workers, normal, places_above)
        return map(_refuse_doubted, read) if strict else read

    def _stream(
        self,
        images: Iterable[Source],
        ask: Sequence[str],
        batch_size: int,
        workers: int,
        normal: bool,
        places_above: float,
    ) -> Iterator[Reading | NotRead]:
        decoded = outcomes(_decode, images, workers, AHEAD)
        while batch := list(islice(decoded, batch_size)):
            names = [_name(outcome.item) for outcome in batch]
            read = [(name, outcome.value) for name, outcome in zip(names, batch, strict=True) if outcome.value is not None]
            every = [ask] * len(read)
            readings = iter(self._read([n for n, _ in read], [x for _, x in read], every, normal, places_above))
            for name, outcome in zip(names, batch, strict=True):
                yield NotRead(name, outcome.skipped) if outcome.value is None else next(readings)

    def _read(
        self,
        names: Sequence[str],
        xrays: Sequence[XRay],
        asks: Sequence[Sequence[str]],
        normal: bool,
        places_above: float,
        views: Views | None = None,
        notes: Sequence[str] = (),
    ) -> Iterator[Reading]:
        """Read a batch: every image is encoded once, for all that is asked of it and for its maps."""
        if not xrays:
            return
        pathologies = self.vocabulary.pathologies
        prompts = tuple(dict.fromkeys(chain((pathology.name for pathology in pathologies), *asks)))
        images = self.method.preprocessing.of_images(xray.pixels for xray in xrays).to(self.method.device)
        with torch.inference_mode():
            if views is None:
                answers = self.method.answer(images, prompts, maps="later", anatomies=True)
            else:
                together = cast("ReadsViews", self.method).answer(images, prompts, maps=True, anatomies=True, views=views)
                answers = together.of_images(views.counts)
        look = Look(self.method, images, prompts, answers, views)
        kinds = (read_alone_as(views_of(self.method)),) * len(xrays) if views is None else views.studies[0]
        unsided = self._judge.notes if answers.anatomies is not None else ()
        about: dict[tuple[str, ...], Sequence[str]] = dict.fromkeys(map(tuple, asks), ())
        if isinstance(self.method, EmbedsReports):
            about = {ask: self.method.about_questions(ask) for ask in about}
        for row, (scored, places) in enumerate(
            zip(answers.scores.tolist(), self._places(answers, places_above), strict=True)
        ):
            scores = dict(zip(prompts, scored, strict=True))
            findings = [
                self._judge.finding(pathology.name, scores[pathology.name], places[column])
                for column, pathology in enumerate(pathologies)
                if normal or pathology.kind == "abnormal"
            ]
            findings.sort(key=lambda finding: -finding.probability)
            yield Reading(
                image=names[row],
                xray=xrays[row],
                read_as=kinds[row],
                findings=tuple(findings),
                asked=tuple(self._judge.question(text, scores[text]) for text in asks[row]),
                notes=(*xrays[row].notes, *notes, *about[tuple(asks[row])], *unsided),
                places_above=None if answers.anatomies is None else places_above,
                calibrated=self._judge.calibrated_on,
                model=self.model,
                _usual=self._usual,
                _look=look,
                _row=row,
            )

    def _places(self, answers: Answers, above: float) -> list[list[tuple[AnatomyProbability, ...]]]:
        """Return the likeliest anatomies of each pathology in each image; none from a method that doesn't tell places."""
        if answers.anatomies is None:
            return [[()] * len(self.vocabulary.pathologies)] * len(answers.scores)
        names = np.array([anatomy.name for anatomy in self.vocabulary.anatomies], object)
        best = answers.anatomies[:, : len(self.vocabulary.pathologies)].topk(min(ANATOMIES, len(names)))
        named, counts = names[best.indices.cpu().numpy()].tolist(), (best.values >= above).sum(-1).tolist()
        return [
            [tuple(map(AnatomyProbability, places[:count], values)) for places, values, count in zip(*image, strict=True)]
            for image in zip(named, best.values.tolist(), counts, strict=True)
        ]


def _questions(ask: str | Sequence[str]) -> tuple[str, ...]:
    questions = (ask,) if isinstance(ask, str) else tuple(ask)
    if any(not text.strip() for text in questions):
        raise MedLIPError("a question is empty: ask for a pathology by name, or describe what to look for.")
    return questions


def _refuse_doubted(read: Reading | NotRead) -> Reading | NotRead:
    return NotRead(read.image, _refused(read)) if isinstance(read, Reading) and read.doubts else read


def _refused(reading: Reading) -> str:
    return f"{reading.image or 'the image'}: refused: {'; '.join(reading.doubts)}. Read it without strict, with a warning."


@dataclass(frozen=True, slots=True)
class _View:
    """An image of a study: as what kind of view it is read, and what to know of that."""

    name: str
    xray: XRay
    kind: ViewKind
    notes: tuple[str, ...]


def _view(image: Source, word: str, number: int, known: Sequence[ViewKind]) -> _View | NotRead:
    """Decode an image of a study, to be read as the view that a word names, else its file, else as a frontal one."""
    name = _name(image)
    called = name or f"image {number}"
    try:
        xray = _decode(image)
    except MedLIPError as error:
        return NotRead(name, str(error) if name else f"{called}: {error}")
    by_file = read_as(view_of(xray.view))
    kind = _kind(word) if word else by_file
    if kind not in known:
        trained = " and ".join(known)
        return NotRead(name, f"{called}: shows another view ({kind}), and the model was trained on {trained} views alone.")
    notes = []
    if not word and not xray.view:
        notes.append(f"{called}: nothing says which view it shows, so it is read as frontal")
    elif word and xray.view and kind != by_file:
        notes.append(f"{called}: read as {word}, as was said, but its file says {xray.view}")
    return _View(name, xray, kind, tuple(notes))


def _kind(word: str) -> ViewKind:
    if not kind_of(view := view_of(word)):
        raise MedLIPError(f"the view {word!r} is not a known word. Write PA, AP, lateral or other.")
    return read_as(view)


def _name(image: Source) -> str:
    return str(image) if isinstance(image, (str, Path)) else ""


def _decode(image: Source) -> XRay:
    return image if isinstance(image, XRay) else read_xray(image)
