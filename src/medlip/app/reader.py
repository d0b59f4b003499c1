"""Reading an X-ray with a trained run: findings, their places, answers to questions, and heat maps in the image's pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from medlip.app.pages.pictures import paint, relative
from medlip.concepts import Vocabulary
from medlip.errors import MedLIPError
from medlip.evaluation.grounding import enlarge
from medlip.images import read_image
from medlip.methods import Method
from medlip.training import load_run

if TYPE_CHECKING:
    from PIL.Image import Image

PLACES = 5


@runtime_checkable
class KnowsPlaces(Protocol):
    """A method that ties pathologies to anatomies."""

    def score_anatomies(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Return the probability (B, C, A) that each prompt is found in each anatomy."""

    def pair_matrix(self, images: torch.Tensor) -> torch.Tensor:
        """Return the fact matrix read back from images: probabilities (B, A, P)."""


@dataclass(frozen=True, slots=True)
class Place:
    """An anatomy that goes with a finding, and the probability of the pair, in [0, 1]."""

    anatomy: str
    probability: float


@dataclass(frozen=True, slots=True)
class Finding:
    """A pathology of the vocabulary, its probability in [0, 1], and where it lies, most likely place first."""

    pathology: str
    probability: float
    anatomies: tuple[Place, ...]


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
    def open(cls, run: str | Path) -> Reader:
        """Load the run in the folder `run`.

        Raises:
            MedLIPError: the folder is no run, or it was made with another vocabulary than it says.
        """
        return cls(load_run(Path(run)))

    @property
    def vocabulary(self) -> Vocabulary:
        """What the run was trained to find, and where."""
        return self.method.vocabulary

    def read(self, image: str | Path | NDArray[np.uint8], ask: Sequence[str] = (), *, normal: bool = False) -> Reading:
        """Read one X-ray.

        Args:
            image: a PNG, JPEG or DICOM file, or the pixels: uint8 (H, W), bright where the body is dense.
            ask: questions: names or synonyms of the vocabulary, or any other text.
            normal: also give the statements that are no abnormality ("clear", "intact" ...) among the findings.

        Raises:
            MedLIPError: the file is no readable image, or a question is empty or can't be answered by this run.
        """
        if any(not text.strip() for text in ask):
            raise MedLIPError("a question is empty: ask for a pathology by name, or describe what to look for.")
        pixels = read_image(Path(image)) if isinstance(image, (str, Path)) else image
        name = str(image) if isinstance(image, (str, Path)) else ""
        with torch.inference_mode():
            return self._read(name, pixels, ask, normal)

    def _read(self, name: str, pixels: NDArray[np.uint8], ask: Sequence[str], normal: bool) -> Reading:
        tensor = self.method.preprocessing(torch.tensor(pixels)[None])
        wanted = [pathology.name for pathology in self.vocabulary.pathologies if normal or pathology.kind == "abnormal"]
        probabilities = self.method.score(tensor, [*wanted, *ask])[0].tolist()
        places = self._places(tensor, wanted)
        findings = sorted(map(Finding, wanted, probabilities, places), key=lambda finding: -finding.probability)
        asked = tuple(map(Question, ask, probabilities[len(wanted) :]))
        return Reading(name, pixels, tuple(findings), asked, self.method, tensor)

    def _places(self, tensor: torch.Tensor, wanted: Sequence[str]) -> list[tuple[Place, ...]]:
        """Return the likeliest anatomies of each pathology; none from a method that doesn't know places."""
        if not isinstance(self.method, KnowsPlaces):
            return [()] * len(wanted)
        anatomies = [anatomy.name for anatomy in self.vocabulary.anatomies]
        best = self.method.score_anatomies(tensor, wanted)[0].topk(min(PLACES, len(anatomies)))
        return [
            tuple(Place(anatomies[i], p) for i, p in zip(rows, values, strict=True))
            for rows, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read from one X-ray.

    Attributes:
        image: its file as it was given, "" for pixels.
        pixels: uint8 (H, W), bright where the body is dense.
        findings: pathologies, the most probable first.
        asked: the questions in the order in which they were asked.
    """

    image: str
    pixels: NDArray[np.uint8]
    findings: tuple[Finding, ...]
    asked: tuple[Question, ...]
    _method: Method
    _tensor: torch.Tensor

    def heat_map(self, text: str) -> NDArray[np.float32]:
        """Return where the image shows `text`, in the image's own pixels: float32 (H, W), from 0 to 1."""
        with torch.inference_mode():
            cells = self._method.localise(self._tensor, [text])[0, 0].float().cpu().numpy()
        return relative(enlarge(cells, self.pixels.shape))

    def overlay(self, text: str) -> Image:
        """Return the X-ray as an RGB picture of its own size, with the heat map of `text` over it."""
        return paint(self.pixels, self.heat_map(text))

    def matrix(self) -> NDArray[np.float32]:
        """Return the fact matrix read back from the image: probabilities (A, P) in the order of the vocabulary.

        Raises:
            MedLIPError: the method doesn't tie pathologies to anatomies.
        """
        if not isinstance(self._method, KnowsPlaces):
            raise MedLIPError(
                f"method {self._method.name!r} doesn't say where its findings lie: there is no matrix to read."
            )
        with torch.inference_mode():
            return np.asarray(self._method.pair_matrix(self._tensor)[0], np.float32)

    @property
    def knows_places(self) -> bool:
        """Whether the method ties pathologies to anatomies."""
        return isinstance(self._method, KnowsPlaces)

    def to_dict(self) -> dict[str, Any]:
        """Return the reading as plain data, as `medlip predict --json` prints it."""
        return {
            "image": self.image,
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
