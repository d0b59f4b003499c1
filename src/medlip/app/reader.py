"""Reading an X-ray with a trained run: findings, their anatomies, answers to questions, heat maps in the image's pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from medlip.app.pages.pictures import paint, relative
from medlip.concepts import Vocabulary
from medlip.errors import MedLIPError
from medlip.evaluation.regions import enlarge
from medlip.images import XRay, read_xray
from medlip.methods import Method
from medlip.methods.base import Answers, EmbedsReports
from medlip.training import load_run

if TYPE_CHECKING:
    from PIL.Image import Image

ANATOMIES = 5  # of a finding, at most
PLACES_ABOVE = 0.01
"""Anatomies of a finding that are less probable than this are not given."""


@dataclass(frozen=True, slots=True)
class AnatomyProbability:
    """An anatomy that goes with a finding, and the probability of the pair, in [0, 1]."""

    anatomy: str
    probability: float


@dataclass(frozen=True, slots=True)
class Finding:
    """A pathology of the vocabulary, its probability in [0, 1], and where it lies: at most five places, likeliest first."""

    pathology: str
    probability: float
    anatomies: tuple[AnatomyProbability, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """Any text that was asked of the image, and the probability that it holds, in [0, 1]."""

    text: str
    probability: float


class Reader:
    """A trained run that reads X-rays; `medlip.load(run)` makes one."""

    def __init__(self, method: Method) -> None:
        self.method = method.eval()

    @classmethod
    def open(
        cls,
        source: str | Path,
        device: str = "auto",
        *,
        text_bank: str | Path | None = None,
        text_encoder: str | None = None,
    ) -> Reader:
        """Load a model from wherever it lies, see `medlip.training.load_run`.

        Raises:
            MedLIPError: there is no such model, it can't be read, or the device can't be used.
        """
        return cls(load_run(source, device, text_bank=text_bank, text_encoder=text_encoder))

    @property
    def vocabulary(self) -> Vocabulary:
        """What the run was trained to find, and where."""
        return self.method.vocabulary

    def read(
        self,
        image: str | Path | XRay | NDArray[np.uint8],
        ask: Sequence[str] = (),
        *,
        normal: bool = False,
        places_above: float = PLACES_ABOVE,
    ) -> Reading:
        """Read one X-ray.

        What a file says of itself is passed on: `Reading.not_frontal` where it is no frontal chest X-ray (it is answered all
        the same), and `Reading.notes`.

        Args:
            image: a PNG, JPEG or DICOM file; an X-ray that `read_xray` gave; or the pixels: uint8 (H, W), bright where the
                body is dense.
            ask: questions: names or synonyms of the vocabulary, or any other text.
            normal: also give the statements that are no abnormality ("clear", "intact" ...) among the findings.
            places_above: anatomies of a finding that are less probable than this, in [0, 1], are left out.

        Raises:
            MedLIPError: the file is no readable image, or a question is empty or can't be answered by this run.
        """
        if any(not text.strip() for text in ask):
            raise MedLIPError("a question is empty: ask for a pathology by name, or describe what to look for.")
        name = str(image) if isinstance(image, (str, Path)) else ""
        if isinstance(image, (str, Path)):
            image = read_xray(Path(image))
        xray = image if isinstance(image, XRay) else XRay(image)
        pixels = xray.pixels
        prompts = tuple(dict.fromkeys([*(pathology.name for pathology in self.vocabulary.pathologies), *ask]))
        tensor = self.method.preprocessing(torch.tensor(pixels)[None]).to(self.method.device)
        with torch.inference_mode():
            answers = self.method.answer(tensor, prompts, maps="later", anatomies=True)
        scores = dict(zip(prompts, answers.scores[0].tolist(), strict=True))
        places = self._places(prompts, answers, places_above)
        findings = [
            Finding(pathology.name, scores[pathology.name], places.get(pathology.name, ()))
            for pathology in self.vocabulary.pathologies
            if normal or pathology.kind == "abnormal"
        ]
        findings.sort(key=lambda finding: -finding.probability)
        asked = tuple(Question(text, scores[text]) for text in ask)
        return Reading(
            image=name,
            pixels=pixels,
            findings=tuple(findings),
            asked=asked,
            not_frontal=xray.not_frontal,
            notes=(*xray.notes, *self._lost(ask)),
            places_above=None if answers.anatomies is None else places_above,
            _method=self.method,
            _tensor=tensor,
            _prompts=prompts,
            _answers=answers,
        )

    def _lost(self, ask: Sequence[str]) -> Iterator[str]:
        """Say how many questions are not read to their end."""
        cut = self.method.cut([text] for text in ask) if isinstance(self.method, EmbedsReports) else None
        if cut and cut.lost:
            yield cut.describe("questions")

    def _places(self, prompts: Sequence[str], answers: Answers, above: float) -> dict[str, tuple[AnatomyProbability, ...]]:
        """Return the likeliest anatomies of each prompt; none from a method that doesn't tell places."""
        if answers.anatomies is None:
            return {}
        names = [anatomy.name for anatomy in self.vocabulary.anatomies]
        best = answers.anatomies[0].topk(min(ANATOMIES, len(names)))
        return {
            prompt: tuple(AnatomyProbability(names[i], p) for i, p in zip(rows, values, strict=True) if p >= above)
            for prompt, rows, values in zip(prompts, best.indices.tolist(), best.values.tolist(), strict=True)
        }


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read from one X-ray.

    Attributes:
        image: its file as it was given, "" for pixels.
        pixels: uint8 (H, W), bright where the body is dense.
        findings: pathologies, the most probable first.
        asked: the questions in the order in which they were asked.
        not_frontal: what the file says that this is instead of a frontal chest X-ray ("the modality is CT"), "" where it
            says no such thing; what was read then means little.
        notes: what reading the file left out, assumed or turned, and questions that are longer than the method reads.
        places_above: how probable the anatomies of the findings are at least; None from a method that doesn't tell places.
    """

    image: str
    pixels: NDArray[np.uint8]
    findings: tuple[Finding, ...]
    asked: tuple[Question, ...]
    not_frontal: str
    notes: tuple[str, ...]
    places_above: float | None
    _method: Method
    _tensor: torch.Tensor
    _prompts: tuple[str, ...]
    _answers: Answers

    def heat_map(self, text: str) -> NDArray[np.float32]:
        """Return where the image shows `text`, in the image's own pixels: float32 (H, W), from 0 to 1.

        Where the method's maps are on one scale the highest place has the finding's probability, so that an improbable
        finding is dark; any other map is scaled by its own minimum and maximum.
        """
        if text in self._prompts and self._answers.maps is not None:
            cells = self._answers.maps[0, self._prompts.index(text)]
        else:
            with torch.inference_mode():
                cells = self._method.localise(self._tensor, [text])[0, 0]
        large = enlarge(cells.float().cpu().numpy(), self.pixels.shape)
        return large.astype(np.float32) if self._method.absolute_maps else relative(large)

    def overlay(self, text: str) -> Image:
        """Return the X-ray as an RGB picture of its own size, with the heat map of `text` over it."""
        return paint(self.pixels, self.heat_map(text))

    def matrix(self) -> NDArray[np.float32]:
        """Return the fact matrix read back from the image: probabilities (A, P) in the order of the vocabulary.

        Raises:
            MedLIPError: the method doesn't tie pathologies to anatomies.
        """
        if self._answers.anatomies is None:
            raise MedLIPError(
                f"method {self._method.name!r} doesn't say in which anatomy a finding lies: there is no matrix to read."
            )
        pathologies = len(self._method.vocabulary.pathologies)  # the first prompts
        return np.asarray(self._answers.anatomies[0, :pathologies].T.float().cpu(), np.float32)

    @property
    def knows_places(self) -> bool:
        """Whether the method ties pathologies to anatomies."""
        return self.places_above is not None

    def to_dict(self) -> dict[str, Any]:
        """Return the reading as plain data, as `medlip predict --json` prints it."""
        return {
            "image": self.image,
            "not_frontal": self.not_frontal,
            "notes": list(self.notes),
            "places_above": self.places_above,
            "findings": [
                {
                    "pathology": finding.pathology,
                    "probability": finding.probability,
                    "anatomies": [{"anatomy": p.anatomy, "probability": p.probability} for p in finding.anatomies],
                }
                for finding in self.findings
            ],
            "asked": [{"text": question.text, "probability": question.probability} for question in self.asked],
        }
