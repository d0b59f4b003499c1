"""The page of an audit: its measures, and pictures of what was done to images and what the model then said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medlip.about import DISCLAIMER
from medlip.app.pages.pictures import jpeg, legend, outline, paint, picture, relative
from medlip.app.pages.templates import fill_template
from medlip.evaluation.driver import inference
from medlip.evaluation.tables import result_tables
from medlip.evaluation.tasks.dependence import shuffled
from medlip.evaluation.tasks.faithfulness import removals
from medlip.images.preprocessing import enlarge

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medlip.data.store import Store
    from medlip.evaluation.results import Result
    from medlip.methods import Method

CASES = 12
SIDE = 224


@dataclass(frozen=True, slots=True)
class AuditPicture:
    """One picture of a case, as the address of an <img>, with its caption."""

    image: str
    caption: str


@dataclass(frozen=True, slots=True)
class AuditCase:
    """What was done to one image, finding by finding."""

    title: str
    pictures: Sequence[AuditPicture]


def audit_page(result: Result, cases: Sequence[AuditCase], absolute: bool) -> str:
    """Return the page as HTML.

    Args:
        result: what was measured.
        cases: shown with pictures.
        absolute: maps are on the scale of probabilities.
    """
    return fill_template(
        "audit.html",
        notes=result.notes,
        tables=list(result_tables(result)),
        cases=cases,
        legend=legend(absolute),
        run=result.run,
        protocol=result.protocol.model_dump(mode="json"),
        disclaimer=DISCLAIMER,
    )


def audit_cases(method: Method, store: Store, seed: int = 0) -> list[AuditCase]:
    """Return cases with pictures: the first images that show a finding which no case shows yet, `CASES` at most.

    Args:
        method: the model.
        store: the images.
        seed: of the audit.
    """
    cases: list[AuditCase] = []
    shown: set[str] = set()
    wanted = {pathology.name for pathology in method.vocabulary.pathologies if pathology.kind == "abnormal"}
    with inference(method):
        for row, (boxes, masks) in enumerate(zip(store.column("boxes"), store.masked_findings(), strict=True)):
            fresh = ({box.pathology for box in boxes} | masks) & wanted - shown
            if not fresh or len(cases) == CASES:
                continue
            record = store[row]
            for removal in removals(record, sorted(fresh)[:1], seed):
                shown.add(removal.finding)
                changed = {"without it": removal.after}
                if removal.elsewhere is not None:
                    changed["something else filled in"] = removal.elsewhere
                changed["mirrored"] = np.ascontiguousarray(removal.before[:, ::-1])
                changed["shuffled"] = shuffled(removal.before, seed)
                how = "drawn anew" if removal.rendered else "filled in"
                pictures = list(_pictures(method, removal.finding, removal.before, removal.region, changed))
                cases.append(AuditCase(f"{removal.finding} in {record.id}, removed ({how})", pictures))
    return cases


def _pictures(
    method: Method,
    finding: str,
    before: NDArray[np.uint8],
    region: NDArray[np.bool_],
    changed: dict[str, NDArray[np.uint8]],
) -> Iterator[AuditPicture]:
    images = [before, *changed.values()]
    answers = method.answer(method.preprocessing.of_images(images).to(method.device), [finding], maps=True)
    scores = answers.scores[:, 0].tolist()
    yield AuditPicture(_small(np.asarray(outline(before, region))), f"as it is: {scores[0]:.3f}")
    for row, (name, image) in enumerate([("its map", before), *changed.items()]):
        painted = image if answers.maps is None else _painted(method, image, answers.maps[row, 0])
        yield AuditPicture(_small(np.asarray(painted)), f"{name}: {scores[row]:.3f}")


def _painted(method: Method, image: NDArray[np.uint8], cells: torch.Tensor) -> Any:
    heat = enlarge(cells.float().cpu().numpy(), image.shape)
    return paint(image, heat.clip(0, 1).astype(np.float32) if method.absolute_maps else relative(heat))


def _small(pixels: NDArray[np.uint8]) -> str:
    shown = picture(pixels)
    shown.thumbnail((SIDE, SIDE))
    return jpeg(shown)
