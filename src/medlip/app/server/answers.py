"""The documents of the API: what is asked, and what is answered."""

from __future__ import annotations

from base64 import b64encode
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from medlip.about import DISCLAIMER
from medlip.app.reader import Reader
from medlip.app.reading import Finding, ModelIdentity, Question, Reading
from medlip.app.server.batching import Looked
from medlip.app.server.decoding import Decoded
from medlip.app.server.limits import Limits
from medlip.concepts import Vocabulary
from medlip.data.views import ViewKind
from medlip.methods.base import TellsPlaces
from medlip.reports import Presence, resolve
from medlip.reports.extract import Traced

LIMITS = Limits()
ALL, NONE = "all", "none"
DIGITS = 5  # of the matrix' numbers: they are many

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LIMITS.text_characters)]
Texts = Annotated[tuple[Text, ...], Field(max_length=LIMITS.texts)]


class _Document(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True)


# --- what is asked ---


class _ImageForm(_Document):
    file: bytes
    """One image: PNG, JPEG, TIFF or DICOM, told apart by content."""
    model: str = ""
    """Id or hash of a model; the default model if left out or empty."""
    maps: Texts = ()
    """Findings that are told and questions whose maps are wanted; other texts, which are asked then; or `all`, or `none`."""


class ReadForm(_ImageForm):
    """An X-ray to be read."""

    ask: Texts = ()
    """Findings by name, or any other text."""

    def wanted(self, findings: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return what is asked, each text once, and of what maps are wanted, when these findings are told anyway."""
        named = [text for text in self.maps if text not in (ALL, NONE)]
        ask = tuple(dict.fromkeys([*self.ask, *(text for text in named if text not in findings)]))
        return ask, tuple(dict.fromkeys((*findings, *ask) if ALL in self.maps else named))


class AskForm(ReadForm):
    """An X-ray, and what is asked of it."""

    ask: Annotated[Texts, Field(min_length=1)]
    """Findings by name, or any other text."""


class PixelsForm(_Document):
    """An X-ray to be shown."""

    file: bytes
    """One image: PNG, JPEG, TIFF or DICOM, told apart by content."""


class FactsForm(_Document):
    """A report to be read."""

    report: Annotated[str, Field(max_length=LIMITS.report_characters, examples=["FINDINGS: Small left pleural effusion."])]
    """The report in English, with or without headings."""
    model: str = ""
    """Id or hash of the model whose pathologies and anatomies are meant; the default model if left out or empty."""


# --- what is answered ---


class HeatMap(_Document):
    """Where an image shows something: numbers over the whole image, to be enlarged to its size."""

    height: int
    width: int
    absolute: bool
    """Whether the numbers are on one scale from 0 to 1, the highest being the probability; else each map is on its own."""
    data: str
    """float32, little-endian, row by row, in base64."""

    @classmethod
    def of(cls, values: NDArray[np.float32], absolute: bool) -> Self:
        """Encode a map (h, w)."""
        height, width = values.shape
        data = b64encode(values.astype("<f4").tobytes()).decode()
        return cls(height=height, width=width, absolute=absolute, data=data)


class PairMatrix(_Document):
    """The probability of each pathology in each anatomy."""

    pathologies: tuple[str, ...]
    """The rows."""
    anatomies: tuple[str, ...]
    """The columns."""
    probabilities: list[list[float]]

    @classmethod
    def of(cls, reading: Reading, vocabulary: Vocabulary) -> Self:
        """Read it back from an image."""
        return cls(
            pathologies=tuple(pathology.name for pathology in vocabulary.pathologies),
            anatomies=tuple(anatomy.name for anatomy in vocabulary.anatomies),
            probabilities=reading.pairs.astype(np.float64).round(DIGITS).tolist(),
        )


class Basis(_Document):
    """What a probability is worth."""

    calibrated: bool
    """Whether probabilities are calibrated: of findings given with 0.8, eight of ten are there."""
    thresholds: dict[str, float]
    """From which probability on each finding counts as present."""
    thresholds_from: str
    """Where the thresholds are from."""

    @classmethod
    def of(cls, reader: Reader) -> Self:
        """Say what a model's probabilities are worth: the one place that knows."""
        on = reader.calibrated_on
        source = "one half for every finding: this model is not calibrated"
        if on is not None:
            source = f"{on.at} on {on.images:,} images of {on.data}, by their {on.truth}"
        return cls(calibrated=on is not None, thresholds=dict(reader.thresholds), thresholds_from=source)


class _Answer(_Document):
    image: Literal[""] = ""
    """Always empty: what a file is called stays with its sender."""
    height: int
    """Of the image as it is seen, in pixels."""
    width: int
    """Of the image as it is seen, in pixels."""
    read_as: ViewKind
    """The view that it was read as: frontal, unless the model was trained on no frontal view."""
    not_frontal: str
    """What the file says that this is instead of a frontal chest X-ray: what was read then means little."""
    doubts: tuple[str, ...]
    """Why what was read may mean little: no frontal chest X-ray, by its file or by its looks, a poor one, or one unlike
    those that the model was calibrated on."""
    notes: tuple[str, ...]
    """What reading the file left out, assumed or turned."""
    asked: tuple[Question, ...]
    """The questions in their order."""
    calibrated: bool
    """Whether probabilities are calibrated."""
    maps: dict[str, HeatMap]
    """Where the image shows what a map was wanted of."""
    model: ModelIdentity
    """Which model read it."""
    disclaimer: str = DISCLAIMER


class AskAnswer(_Answer):
    """What a model answers to questions about an X-ray."""

    @classmethod
    def of(cls, looked: Looked, texts: tuple[str, ...], decoded: Decoded, reader: Reader, worth: Basis) -> Self:
        """Tell what was read from a decoded image, with maps of those texts."""
        return cls(**cls._told(looked, texts, decoded, reader, worth))

    @staticmethod
    def _told(looked: Looked, texts: tuple[str, ...], decoded: Decoded, reader: Reader, worth: Basis) -> dict[str, object]:
        reading, absolute = looked.reading, reader.method.absolute_maps
        return {
            "height": decoded.height,
            "width": decoded.width,
            "read_as": reading.read_as,
            "not_frontal": reading.not_frontal,
            "doubts": reading.doubts,
            "notes": reading.notes,
            "asked": reading.asked,
            "calibrated": worth.calibrated,
            "maps": {text: HeatMap.of(values, absolute) for text, values in zip(texts, looked.maps, strict=True)},
            "model": reading.model,
        }


class ReadAnswer(AskAnswer):
    """What a model reads from an X-ray: as `medlip predict --json`, with what a viewer needs beside."""

    findings: tuple[Finding, ...]
    """Pathologies, the most probable first, each with its likeliest anatomies."""
    places_above: float | None
    """How probable the anatomies of findings are at least; null of a method that doesn't tell places."""
    thresholds: dict[str, float]
    """From which probability on each finding counts as present."""
    thresholds_from: str
    """Where the thresholds are from."""
    matrix: PairMatrix | None
    """Null of a method that doesn't tell places."""

    @classmethod
    def of(cls, looked: Looked, texts: tuple[str, ...], decoded: Decoded, reader: Reader, worth: Basis) -> Self:
        """Tell what was read from a decoded image, with maps of those texts."""
        reading = looked.reading
        return cls(
            **cls._told(looked, texts, decoded, reader, worth),
            findings=reading.findings,
            places_above=reading.places_above,
            thresholds=worth.thresholds,
            thresholds_from=worth.thresholds_from,
            matrix=PairMatrix.of(reading, reader.vocabulary) if reading.knows_places else None,
        )


class ReportFact(_Document):
    """A statement of a report, and where it says so: offsets are of the report as it was sent, in Unicode code points."""

    pathology: str
    anatomy: str
    presence: Presence
    start: int
    """Of the finding's words."""
    end: int
    """Behind the finding's words."""
    sentence: str
    sentence_start: int
    sentence_end: int
    clause: str
    """The words of the clause that the finding stands in."""
    cue: str
    """The words that made it absent or uncertain, empty where it is plainly stated."""
    cue_start: int
    """-1 without a cue."""
    cue_end: int
    """-1 without a cue."""
    section: str
    presence_rule: str
    place_rule: str
    settles: bool
    """Whether this mention counts for its pathology and anatomy: present wins over uncertain, uncertain over absent."""


class FactsAnswer(_Document):
    """The facts of a report: each mention, in the order of the text."""

    facts: tuple[ReportFact, ...]
    notes: tuple[str, ...]
    disclaimer: str = DISCLAIMER

    @classmethod
    def of(cls, traced: tuple[Traced, ...], notes: tuple[str, ...]) -> Self:
        """Tell facts with the way they were read."""
        kept = {id(fact) for fact in resolve(one.fact for one in traced)}
        return cls(facts=tuple(_fact(one, id(one.fact) in kept) for one in traced), notes=notes)


def _fact(one: Traced, settles: bool) -> ReportFact:
    fact, (sentence_start, sentence_end), (cue_start, cue_end) = one.fact, one.sentence_span, one.cue_span or (-1, -1)
    return ReportFact(
        pathology=fact.pathology,
        anatomy=fact.anatomy,
        presence=fact.presence,
        start=fact.start,
        end=fact.end,
        sentence=fact.sentence,
        sentence_start=sentence_start,
        sentence_end=sentence_end,
        clause=one.clause,
        cue=one.cue,
        cue_start=cue_start,
        cue_end=cue_end,
        section=one.section,
        presence_rule=one.presence_rule,
        place_rule=one.place_rule,
        settles=settles,
    )


class PathologyEntry(_Document):
    """Something that can be found."""

    name: str
    display: str
    kind: Literal["abnormal", "normal", "other"]
    """`abnormal` are the findings; others are in the matrix alone."""
    description: str


class AnatomyEntry(_Document):
    """A place where something can be found."""

    name: str
    display: str
    side: Literal["left", "right", ""]
    """The patient's."""


class Abilities(_Document):
    """What a model can do."""

    places: bool
    """It says in which anatomy a finding lies."""
    open_text: bool
    """It can be asked for any text."""
    absolute_maps: bool
    """Its maps are on one scale for all images and texts."""


class ModelEntry(_Document):
    """A model that is served."""

    id: str
    name: str
    version: str
    hash: str
    method: str
    summary: str
    """How it learned."""
    input_size: int
    """Side of the square that it sees, in pixels."""
    pathologies: tuple[PathologyEntry, ...]
    anatomies: tuple[AnatomyEntry, ...]
    can: Abilities
    calibrated: bool

    @classmethod
    def of(cls, id: str, reader: Reader, worth: Basis) -> Self:
        """Describe a model."""
        method, identity = reader.method, reader.model
        return cls(
            id=id,
            name=identity.name,
            version=identity.version,
            hash=identity.hash,
            method=identity.method,
            summary=method.summary,
            input_size=method.preprocessing.size,
            pathologies=_pathologies(method.vocabulary),
            anatomies=_anatomies(method.vocabulary),
            can=Abilities(
                places=isinstance(method, TellsPlaces), open_text=method.open_prompts, absolute_maps=method.absolute_maps
            ),
            calibrated=worth.calibrated,
        )


def _pathologies(vocabulary: Vocabulary) -> tuple[PathologyEntry, ...]:
    return tuple(
        PathologyEntry(name=one.name, display=one.display, kind=one.kind, description=one.description)
        for one in vocabulary.pathologies
    )


def _anatomies(vocabulary: Vocabulary) -> tuple[AnatomyEntry, ...]:
    return tuple(AnatomyEntry(name=one.name, display=one.display, side=one.side or "") for one in vocabulary.anatomies)


class LimitsEntry(_Document):
    """How much a request may hold."""

    upload_bytes: int
    pixels: int
    texts: int
    text_characters: int
    report_characters: int

    @classmethod
    def of(cls, limits: Limits) -> Self:
        """Tell the limits that whoever asks must know."""
        return cls(**{name: getattr(limits, name) for name in cls.model_fields})


class ModelsAnswer(_Document):
    """The models that are served."""

    models: tuple[ModelEntry, ...]
    default: str
    """Id of the model that reads where none is named."""
    limits: LimitsEntry
    disclaimer: str = DISCLAIMER


class ExampleEntry(_Document):
    """An X-ray to try the models on."""

    id: str
    title: str
    type: str
    """Its media type."""
    report: str
    """What a report says of it, "" without one."""


class ExamplesAnswer(_Document):
    """X-rays to try the models on."""

    examples: tuple[ExampleEntry, ...]
    disclaimer: str = DISCLAIMER


class StateAnswer(_Document):
    """How the server is."""

    status: Literal["ok", "ready"]
    version: str
    """Of MedLIP."""
    disclaimer: str = DISCLAIMER
