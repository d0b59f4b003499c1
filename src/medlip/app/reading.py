"""What was read from an X-ray: findings and their places, answers to questions, and heat maps in the image's own pixels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from medlip.about import DISCLAIMER
from medlip.app.output import beside, describe_basis, describe_doubts
from medlip.app.pages.pictures import jpeg, paint, relative, with_legend
from medlip.errors import MedLIPError, did_you_mean, name_some
from medlip.images import XRay
from medlip.images.preprocessing import enlarge
from medlip.methods import Method
from medlip.methods.base import Answers
from medlip.tables import number

if TYPE_CHECKING:
    from pandas import DataFrame
    from PIL.Image import Image

    from medlip.data.views import ViewKind, Views
    from medlip.evaluation.calibration import Appearance
    from medlip.methods.base import ReadsViews

MapScale = Literal["absolute", "relative"]
"""What colours of a map stand for: probabilities, or the lowest and the highest place of this map alone."""
SHOWN = 8
"""Findings that are shown to a person at once."""


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model read an image.

    Attributes:
        name: of a model of the hub, a run's folder or a file; of the method where it was made here.
        version: the hub's revision, "released", or the version of MedLIP that trained it; "" where that is not known.
        hash: of its weights and text banks.
        method: how it was trained: "medslip", "mlip" …
    """

    name: str
    version: str
    hash: str
    method: str

    @classmethod
    def of(cls, method: Method) -> ModelIdentity:
        """Say which model a method is."""
        name, version = (method.origin.name, method.origin.version) if method.origin else (method.name, "")
        return cls(name, version, method.fingerprint, method.name)


@dataclass(frozen=True, slots=True)
class AnatomyProbability:
    """An anatomy that goes with a finding, and the probability of the pair, in [0, 1]."""

    anatomy: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Probability:
    """How probable something is.

    Attributes:
        probability: in [0, 1]; calibrated where the calibration knows the finding, else the model's score.
        score: what the model gives, in [0, 1].
        threshold: from which probability on it is called present.
        calibrated: whether probability and threshold come from a calibration.
    """

    probability: float
    score: float
    threshold: float
    calibrated: bool

    @property
    def likely(self) -> bool:
        """Whether it is called present."""
        return self.probability >= self.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding(Probability):
    """A pathology of the vocabulary, how probable it is, and where it lies: at most five places, likeliest first."""

    pathology: str
    anatomies: tuple[AnatomyProbability, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question(Probability):
    """Any text that was asked of the image, and how probable it is that it holds."""

    text: str


@dataclass(frozen=True, slots=True)
class CalibratedOn:
    """What probabilities and thresholds rest on.

    Attributes:
        data: where the data came from, such as "openi".
        hash: of the data.
        images: how many there were.
        truth: what counted as the truth: "labels" or "reports".
        at: what the thresholds are for: "specificity=0.9".
    """

    data: str
    hash: str
    images: int
    truth: str
    at: str


@dataclass(frozen=True, slots=True)
class NotRead:
    """An image that could not be read.

    Attributes:
        image: its file as it was given, "" for anything else.
        error: what is wrong with it, and what to do.
    """

    image: str
    error: str

    def to_dict(self) -> dict[str, object]:
        """Return it as plain data, as `medlip predict --json` prints it."""
        return {"image": self.image, "error": self.error}


@dataclass(frozen=True, slots=True)
class Look:
    """What a method saw of some images when it was asked, for whoever looks closer later.

    Attributes:
        method: which looked.
        images: (B, 3, S, S), as the method takes them.
        prompts: what it was asked: the vocabulary's pathologies in their order, then the questions.
        answers: what it answered, by image.
        views: which of the images are of one study; None where each was read by itself.
    """

    method: Method
    images: torch.Tensor
    prompts: tuple[str, ...]
    answers: Answers
    views: Views | None = None

    def maps(self, image: int, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return where one of the images shows each text, (n, h, w); it is seen again for texts not asked before."""
        prompts = [self._prompt(text) for text in texts]
        columns = {prompt: column for column, prompt in enumerate(self.prompts)}
        known = all(prompt in columns for prompt in prompts)
        maps = self.answers.maps_of(image, [columns[prompt] for prompt in prompts]) if known else None
        if maps is None:
            with torch.inference_mode():
                if self.views is None:
                    maps = self.method.localise(self.images[image : image + 1], prompts)[0]
                else:
                    again = cast("ReadsViews", self.method).answer(self.images, prompts, maps=True, views=self.views)
                    maps = cast("torch.Tensor", again.maps)[image]
        return np.asarray(maps.float().cpu(), np.float32)

    def _prompt(self, text: str) -> str:
        """Return by what a text was asked: a pathology by its own name, however it is called."""
        pathology = self.method.vocabulary.find_pathology(text)
        return text if text in self.prompts or pathology is None else pathology.name


@dataclass(frozen=True, repr=False)
class Reading:
    """What was read from one X-ray, alone or with others of its study.

    Attributes:
        image: its file as it was given, "" for anything else.
        xray: the image, and what its file says of it.
        read_as: the view that it was read as: by itself frontal, unless the model was trained on no frontal view.
        findings: pathologies, the most probable first; those of the study.
        asked: the questions in the order in which they were asked; answered about the study.
        notes: what reading the file left out, assumed or turned, what of the study was read, questions that are longer than
            the method reads, and findings whose side is not named.
        places_above: how probable the anatomies of the findings are at least; None from a method that doesn't tell places.
        calibrated: what probabilities and thresholds rest on; None where the model isn't calibrated: probabilities are its
            scores then, and every threshold is one half.
        model: which read it.
    """

    image: str
    xray: XRay
    read_as: ViewKind
    findings: tuple[Finding, ...]
    asked: tuple[Question, ...]
    notes: tuple[str, ...]
    places_above: float | None
    calibrated: CalibratedOn | None
    model: ModelIdentity
    _usual: Appearance | None
    _look: Look
    _row: int

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The image: uint8 (H, W), bright where the body is dense."""
        return self.xray.pixels

    @property
    def absolute_maps(self) -> bool:
        """Whether maps are on the scale of probabilities, unless asked for otherwise."""
        return self._look.method.absolute_maps

    @property
    def not_frontal(self) -> str:
        """What the file says that this is instead of a frontal chest X-ray ("the modality is CT"); "" where it doesn't."""
        return self.xray.not_frontal

    @cached_property
    def doubts(self) -> tuple[str, ...]:
        """Why what was read may mean little.

        It is no frontal chest X-ray, doesn't look like one, is a poor one, or unlike those that the model was calibrated on.
        One that was read as another view need not be frontal.
        """
        frontal = self.read_as == "frontal"
        own = self.xray.doubts if frontal else self.xray.doubts_of_another_view
        said = self.xray.not_frontal if frontal else self.xray.unfit
        far = self._usual is not None and not said and self._usual.is_far(self.xray.appearance)
        return (*own, *(("unlike the images that the model was calibrated on",) if far else ()))

    def finding(self, name: str) -> Finding:
        """Return one of the findings.

        Args:
            name: of a pathology, its display name or a synonym, in any case.

        Raises:
            MedLIPError: it is not among them.
        """
        pathology = self._look.method.vocabulary.find_pathology(name)
        for finding in self.findings:
            if pathology is not None and finding.pathology == pathology.name:
                return finding
        names = [finding.pathology for finding in self.findings]
        why = (
            f"is no abnormality, but {pathology.kind}: read the image with normal=True"
            if pathology is not None
            else f"is not in the vocabulary.{did_you_mean(name, names)} Ask for it when the image is read: ask={name!r}"
        )
        raise MedLIPError(f"{name!r} {why}. Findings of this reading: {name_some(names)}")

    def _found(self, text: str) -> Probability | None:
        """Return the finding or question of a text, if there is one."""
        pathology = self._look.method.vocabulary.find_pathology(text)
        named = (finding for finding in self.findings if pathology is not None and finding.pathology == pathology.name)
        return next(named, next((question for question in self.asked if question.text == text), None))

    def likely(self) -> tuple[Finding, ...]:
        """Return the findings that are called present, or the most probable one where none is."""
        return tuple(finding for finding in self.findings if finding.likely) or self.findings[:1]

    def maps(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return where the image shows each text: float32 (n, h, w), non-negative, of all of it.

        Of a method whose maps are on one scale, the highest place has the finding's probability; of a study, the highest
        place of all its images.
        """
        maps = self._look.maps(self._row, texts)
        if self.absolute_maps:
            maps = maps * np.array([self._factor(text) for text in texts], np.float32)[:, None, None]
        return maps

    def _factor(self, text: str) -> float:
        """Return by what calibration multiplied a score."""
        found = self._found(text)
        return found.probability / found.score if found is not None and found.score > 0 else 1.0

    def heat_map(self, text: str, scale: MapScale = "absolute") -> NDArray[np.float32]:
        """Return where the image shows `text`, in the image's own pixels: float32 (H, W), from 0 to 1.

        On the absolute scale the highest place, of a study that of all its images, has the finding's probability, so that
        an improbable finding is dark. A map of a method whose maps aren't on one scale is always scaled by its own minimum
        and maximum.

        Args:
            text: a finding by name, or any other text.
            scale: "absolute", or "relative": by its own minimum and maximum, whatever the probability.
        """
        large = enlarge(self.maps([text])[0], self.pixels.shape)
        if scale == "relative" or not self.absolute_maps:
            return relative(large)
        return large.astype(np.float32)

    def overlay(self, text: str, scale: MapScale = "absolute", *, legend: bool = False) -> Image:
        """Return the X-ray as an RGB picture with the heat map of `text` over it.

        Args:
            text: a finding by name, or any other text.
            scale: of the map, as `heat_map` has it.
            legend: put a bar beside it that says what the colours mean; without one, the picture has the X-ray's size.
        """
        heat = self.heat_map(text, scale)
        painted, found = paint(self.pixels, heat), self._found(text)
        if not legend:
            return painted
        absolute = scale == "absolute" and self.absolute_maps
        return with_legend(painted, absolute, float(heat.max()) if found is None else found.probability)

    def matrix(self) -> DataFrame:
        """Return the fact matrix read back from the image: probabilities, anatomies by pathologies, rows and columns named.

        Raises:
            MedLIPError: the method doesn't tie pathologies to anatomies.
        """
        from pandas import DataFrame

        vocabulary = self._look.method.vocabulary
        pathologies = [pathology.name for pathology in vocabulary.pathologies]
        return DataFrame(self.pairs.T, [anatomy.name for anatomy in vocabulary.anatomies], pathologies)

    @property
    def pairs(self) -> NDArray[np.float32]:
        """The numbers of the matrix: (P, A), the vocabulary's pathologies by its anatomies.

        Raises:
            MedLIPError: the method doesn't tie pathologies to anatomies.
        """
        method, places = self._look.method, self._look.answers.anatomies
        if places is None:
            raise MedLIPError(
                f"method {method.name!r} doesn't say in which anatomy a finding lies: there is no matrix to read."
            )
        known = len(method.vocabulary.pathologies)  # they are the first prompts
        return np.asarray(places[self._row, :known].float().cpu(), np.float32)

    def table(self) -> DataFrame:
        """Return findings and questions as a table, a row each.

        Columns: text, probability, threshold, calibrated, place (the likeliest) and place_probability, asked (or not).
        """
        from pandas import DataFrame

        places = [finding.anatomies[0] if finding.anatomies else None for finding in self.findings]
        rows = [
            (finding.pathology, *_judged(finding), place and place.anatomy, place and place.probability, False)
            for finding, place in zip(self.findings, places, strict=True)
        ] + [(question.text, *_judged(question), None, None, True) for question in self.asked]
        columns = ["text", "probability", "threshold", "calibrated", "place", "place_probability", "asked"]
        return DataFrame(rows, columns=columns)

    @property
    def knows_places(self) -> bool:
        """Whether the method ties pathologies to anatomies."""
        return self.places_above is not None

    def to_dict(self) -> dict[str, object]:
        """Return the reading as plain data, as `medlip predict --json` prints it."""
        return {
            "image": self.image,
            "read_as": self.read_as,
            "not_frontal": self.not_frontal,
            "doubts": list(self.doubts),
            "notes": list(self.notes),
            "places_above": self.places_above,
            "calibrated": None if self.calibrated is None else asdict(self.calibrated),
            "findings": [
                {"pathology": finding.pathology, **_plain(finding), "anatomies": list(map(asdict, finding.anatomies))}
                for finding in self.findings
            ],
            "asked": [{"text": question.text, **_plain(question)} for question in self.asked],
            "model": asdict(self.model),
            "disclaimer": DISCLAIMER,
        }

    def to_json(self) -> str:
        """Return the reading as a JSON document."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def __repr__(self) -> str:
        height, width = self.pixels.shape
        found = [f"{finding.pathology} {number(finding.probability)}" for finding in self.findings[:3]]
        asked = [f"{question.text!r} {number(question.probability)}" for question in self.asked]
        what = self.image or f"{width} x {height} pixels"
        return f"<Reading of {what} by {self.model.name}: {', '.join([*found, '…', *asked])}>"

    def _repr_html_(self) -> str:
        """Show the reading in a notebook: the overlay of the most probable finding beside the first findings."""
        texts = [finding.pathology for finding in self.findings[:1]]
        picture = "".join(
            f'<figure style="margin:0"><img src="{jpeg(_thumbnail(self.overlay(text, legend=True)))}" alt="{escape(text)}">'
            f"<figcaption>{escape(text)}</figcaption></figure>"
            for text in texts
        )
        warned = f"<p><b>{escape(describe_doubts(self.doubts))}</b></p>" if self.doubts else ""
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        rows = [_table_row(finding.pathology, finding, finding.anatomies[:1]) for finding in self.findings[:SHOWN]]
        rows += [_table_row(question.text, question, ()) for question in self.asked]
        basis = describe_basis(None if self.calibrated is None else asdict(self.calibrated))
        model = " ".join(filter(None, (self.model.name, self.model.version, self.model.hash)))
        return (
            f'{warned}{notes}<div style="display:flex;gap:1em">{picture}<table>'
            "<tr><th>finding</th><th>probability</th><th>threshold</th><th>likeliest place</th></tr>"
            f"{''.join(rows)}</table></div><p>{escape(basis)}</p><p>{escape(model)}. {escape(DISCLAIMER)}</p>"
        )


def _plain(found: Probability) -> dict[str, object]:
    return {name: getattr(found, name) for name in ("probability", "score", "threshold", "calibrated")}


def _judged(found: Probability) -> tuple[float, float, bool]:
    return found.probability, found.threshold, found.calibrated


def _table_row(text: str, found: Probability, places: Sequence[AnatomyProbability]) -> str:
    place = "".join(f"{place.anatomy} {number(place.probability)}" for place in places)
    cells = (escape(text), number(found.probability), escape(beside(found.probability, found.threshold)), escape(place))
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _thumbnail(picture: Image) -> Image:
    picture.thumbnail((384, 384))
    return picture
