"""The page of a disentanglement: one self-contained HTML file with its tables and both streams' maps of some images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from medlip.about import DISCLAIMER
from medlip.app.pages.pictures import jpeg, paint
from medlip.app.pages.templates import fill_template
from medlip.concepts.vocabulary import is_place
from medlip.evaluation.driver import inference
from medlip.evaluation.tables import estimate
from medlip.images.preprocessing import enlarge
from medlip.tables import Table

if TYPE_CHECKING:
    from PIL.Image import Image

    from medlip.data.store import Store
    from medlip.experiments.composition import CompositionResult
    from medlip.experiments.conditional import Asked, ConditionalProbes
    from medlip.experiments.disentanglement import Disentanglement
    from medlip.experiments.probes import FactorProbes, HeldOutProbes
    from medlip.experiments.stream_maps import MapOverlap

CASES = 6
FACTORS = {"pathology": "what: pathologies", "anatomy": "where: anatomies with a finding"}
GIVEN: dict[Asked, str] = {
    "place": "where: place, given the finding",
    "side": "where: side, given the finding",
    "finding": "what: finding, given the place",
}
REPRESENTATIONS = {
    "pathology": "pathology stream",
    "anatomy": "anatomy stream",
    "encoder": "image encoder, before the streams",
}


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


def disentanglement_tables(result: Disentanglement) -> Iterator[Table]:
    """Yield what was measured as tables of text."""
    if result.probes:
        yield _probes(result, result.probes)
    if result.held_out:
        yield _held_out(result.held_out)
    if result.given:
        yield _given(result.given)
    if result.maps:
        yield _maps(result.maps)
    if result.composition:
        yield _composition(result.composition)


def _probes(result: Disentanglement, probes: Mapping[str, FactorProbes]) -> Table:
    rows = [
        *_by_representation([probes[factor] for factor in FACTORS]),
        ["classes", *(str(len(probes[factor].per_class)) for factor in FACTORS)],
    ]
    rare = [
        f"too rare {factor} classes: {', '.join(probes[factor].left_out)}" for factor in FACTORS if probes[factor].left_out
    ]
    return Table(
        "What can be read off each stream: macro AUROC of linear probes (chance 0.5), trained on "
        f"{result.n_train:,} images, tested on {result.n_images:,} of {result.split}",
        ["representation", *FACTORS.values()],
        rows,
        "; ".join(rare),
    )


def _by_representation(parts: Sequence[FactorProbes | ConditionalProbes]) -> Iterator[list[str]]:
    for name, title in REPRESENTATIONS.items():
        yield [title, *(estimate(part.macro_auroc[name]) for part in parts)]
    yield ["own stream less the other", *(estimate(part.own_minus_other, "+") for part in parts)]


def _held_out(held_out: Mapping[str, HeldOutProbes]) -> Table:
    rows = [
        [f"{FACTORS[factor]}; {title}", estimate(values.seen), estimate(values.held_out), estimate(values.loss, "+")]
        for factor, part in held_out.items()
        for values, title in ((part.macro_auroc[name], title) for name, title in REPRESENTATIONS.items())
    ]
    rows += [
        [f"{FACTORS[factor]}; own stream less the other", "", estimate(part.own_minus_other, "+"), ""]
        for factor, part in held_out.items()
    ]
    return Table(
        "With the other factor held out: macro AUROC with partners that a probe learned from, and with others",
        ["factor; representation", "seen", "held out", "loss"],
        rows,
        "; ".join(f"{factor} classes: {', '.join(part.classes) or 'none'}" for factor, part in held_out.items()),
    )


def _given(given: Mapping[Asked, ConditionalProbes]) -> Table:
    rows = [
        *_by_representation(list(given.values())),
        ["findings or places", *(str(len(part.conditions)) for part in given.values())],
    ]
    left_out = {
        asked: sorted(part.left_out) + [f"{what} ({name})" for name, c in part.conditions.items() for what in c.too_rare]
        for asked, part in given.items()
    }
    return Table(
        "In images that are alike in one factor: macro AUROC of the other (chance 0.5)",
        ["representation", *(GIVEN[asked] for asked in given)],
        rows,
        "; ".join(f"too few images, {asked}: {', '.join(names)}" for asked, names in left_out.items() if names),
    )


def _maps(maps: MapOverlap) -> Table:
    return Table(
        f"Do the streams look at the same locations? Cosine of their maps, {maps.n:,} present findings",
        ["map of the finding and", "cosine"],
        [
            ["that of its own anatomy", estimate(maps.own)],
            ["those of other anatomies (control)", estimate(maps.control)],
            ["difference", estimate(maps.difference, "+")],
        ],
        f"{maps.left_out:,} more have a map that is the same everywhere, or no control" if maps.left_out else "",
    )


def _composition(composition: CompositionResult) -> Table:
    place = composition.place
    return Table(
        f"Pairs that training never showed together ({len(composition.pairs)}), and others of their pathologies",
        ["measure", "seen pairs", "held-out pairs", "loss"],
        [
            [name, estimate(values.seen), estimate(values.held_out), estimate(values.loss, "+")]
            for name, values in (
                (f"macro AUROC of {len(composition.classes)} pathologies (chance 0.5)", composition.auroc),
                ("right anatomy among the highest third (chance 0.333)", place),
            )
        ],
        f"{place.n_seen:,} findings in seen pairs, {place.n_held_out:,} in held-out ones"
        + (f"; too rare: {', '.join(composition.left_out)}" if composition.left_out else ""),
    )


def render_page(result: Disentanglement, cases: Sequence[Pictures]) -> str:
    """Return the page of a result.

    Args:
        result: what was measured.
        cases: images to show; they carry no name.
    """
    return fill_template(
        "disentangle.html",
        tables=list(disentanglement_tables(result)),
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
        result=result.model_dump(mode="json"),
        disclaimer=DISCLAIMER,
    )


def _heat(cells: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return a map in the image's own pixels, from 0 to 1."""
    heat = enlarge(cells, shape)
    return np.asarray((heat - heat.min()) / max(float(np.ptp(heat)), 1e-12), np.float32)
