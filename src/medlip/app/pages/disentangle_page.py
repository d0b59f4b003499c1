"""The page of a disentanglement: one self-contained HTML file with its tables and both streams' maps of some images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from medlip.app.commands.disentangle import tables
from medlip.app.output import NOT_A_DEVICE
from medlip.app.pages.pictures import jpeg, paint
from medlip.app.pages.templates import fill_template
from medlip.concepts.vocabulary import is_place
from medlip.evaluation.basis import inference
from medlip.evaluation.grounding import enlarge

if TYPE_CHECKING:
    from PIL.Image import Image

    from medlip.data.store import Store

CASES = 6


@dataclass(frozen=True, slots=True)
class Pictures:
    """One present finding of an image: its names as people read them, the X-ray, and where each stream looks for it."""

    pathology: str
    anatomy: str
    image: Image
    pathology_map: Image
    anatomy_map: Image


def picture_cases(method: Any, store: Store, count: int = CASES) -> list[Pictures]:
    """Return pictures of the first images with a present finding in a place, each of a pathology that was not shown yet.

    Args:
        method: one with streams.
        store: images to choose from; none is chosen by its result.
        count: how many, at most.
    """
    from PIL import Image

    pathologies = {p.name: p.display for p in method.vocabulary.pathologies if p.kind == "abnormal"}
    anatomies = {a.name: a.display for a in method.vocabulary.anatomies if is_place(a.name)}
    shown: set[str] = set()
    cases: list[Pictures] = []
    with inference(method) as device:
        for row, facts in enumerate(store.column("facts")):
            if len(cases) == count:
                break
            fact = next(
                (
                    fact
                    for fact in facts
                    if fact.presence == "present"
                    and fact.pathology in pathologies.keys() - shown
                    and fact.anatomy in anatomies
                ),
                None,
            )
            if fact is None:
                continue
            shown.add(fact.pathology)
            pixels = store[row].image
            maps = method.stream_maps(method.preprocessing(torch.from_numpy(pixels)[None]).to(device))
            chosen = (
                maps["pathology"][0, method.vocabulary.pathology_index[fact.pathology]],
                maps["anatomy"][0, method.vocabulary.anatomy_index[fact.anatomy]],
            )
            cases.append(
                Pictures(
                    pathologies[fact.pathology],
                    anatomies[fact.anatomy],
                    Image.fromarray(pixels),
                    *(paint(pixels, _heat(cells.float().cpu().numpy(), pixels.shape)) for cells in chosen),
                )
            )
    return cases


def render_page(result: Mapping[str, Any], cases: Sequence[Pictures]) -> str:
    """Return the page of a result.

    Args:
        result: as `medlip.experiments.disentanglement.disentanglement` returns it.
        cases: images to show; they carry no name.
    """
    return fill_template(
        "disentangle.html",
        tables=list(tables(result)),
        cases=[
            {
                "title": f"{case.pathology}, {case.anatomy.lower()}",
                "figures": [
                    ("The X-ray", jpeg(case.image)),
                    (f"Pathology stream: {case.pathology.lower()}", jpeg(case.pathology_map)),
                    (f"Anatomy stream: {case.anatomy.lower()}", jpeg(case.anatomy_map)),
                ],
            }
            for case in cases
        ],
        result=result,
        disclaimer=NOT_A_DEVICE,
    )


def _heat(cells: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return a map in the image's own pixels, from 0 to 1."""
    heat = enlarge(cells, shape)
    return np.asarray((heat - heat.min()) / max(float(np.ptp(heat)), 1e-12), np.float32)
