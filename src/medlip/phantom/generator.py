"""The phantom chest's public face: studies by index, with image, report, masks, boxes and labels."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from medlip.data.study import Box, Mask, Study, View
from medlip.errors import MedLIPError
from medlip.phantom.anatomy import draw_chest, expose
from medlip.phantom.cases import PhantomCase, draw_case
from medlip.phantom.film import Chest, FrontalFilm, Region
from medlip.phantom.findings import PATHOLOGIES, PhantomFinding, paint, reshape
from medlip.phantom.lateral import expose_lateral
from medlip.phantom.lateral_findings import Shown, paint_lateral
from medlip.phantom.reporting import write_report
from medlip.phantom.settings import PhantomSettings, read_study_id, study_id
from medlip.reports import Fact

SMALLEST = 64

Picture = tuple[NDArray[np.uint8], tuple[Region | None, ...]]
"""The pixels (size, size) of a view, and for each finding its mask, None where the view doesn't show it."""

# Every part of a study has a stream of its own, so that leaving one finding out changes nothing else.
_CASE, _FILM, _REPORT, _FINDING = range(4)
_INDEPENDENT = 2**32  # added to the seed, beyond those that people give
_LATERAL = 2**16  # beside the part; no number stands there for the frontal view


def phantom(index: int, seed: int = 0, size: int = 256, *, independent: bool = False, lateral: bool = False) -> Study:
    """Return one phantom study: a frontal chest radiograph, or a lateral one too, with its report and exact ground truth.

    The same (index, seed, size) gives the same study anywhere; another size gives the same chest at another resolution, but
    for its noise.

    Args:
        index: 0 or more; also decides the split (70 % train, 15 % val, 15 % test).
        seed: 0 or more: another world.
        size: width and height in pixels, at least 64.
        independent: draw place independently of the pathology, and findings of one another.
        lateral: add the same chest from the side as a second view; all else stays as it is.

    Returns:
        A study with one view or two (pixels uint8 (size, size), bright = dense, a mask and a box for each true finding; the
        lateral one has those that it shows), a report, labels (present or absent) for all of `PATHOLOGIES`, and
        `facts=None`: the report is there to be read. `truth` gives the true facts.

    Raises:
        MedLIPError: an argument is out of its range.
    """
    _check(index, seed, size)
    world = _world(seed, independent)
    case = draw_case(_stream(world, index, _CASE), independent)
    positions = (case.position, "lateral")[: 1 + lateral]
    present = {finding.pathology for finding in case.findings}
    settings = PhantomSettings(independent, lateral)
    return Study(
        id=study_id(index, seed, settings),
        patient=study_id(index, seed, replace(settings, lateral=False)),
        views=tuple(
            _view(picture, position, case)
            for picture, position in zip(render(case, index, world, size, lateral=lateral), positions, strict=True)
        ),
        report=write_report(case, _stream(world, index, _REPORT), independent),
        labels={pathology: "present" if pathology in present else "absent" for pathology in PATHOLOGIES},
        split=_split(index),
        attributes={"sex": case.sex, "age": str(case.age)},
    )


def phantoms(
    count: int, seed: int = 0, size: int = 256, *, independent: bool = False, lateral: bool = False
) -> Iterator[Study]:
    """Yield the phantoms 0 to `count` - 1 in order."""
    yield from map(partial(phantom, seed=seed, size=size, independent=independent, lateral=lateral), range(count))


def truth(study: Study) -> tuple[Fact, ...]:
    """Return the findings that a phantom truly has, whatever its report says."""
    return tuple(Fact(mask.pathology, mask.anatomy, "present") for mask in study.views[0].masks)  # the frontal one shows all


def render(
    case: PhantomCase, index: int, seed: int, size: int, without: Collection[int] = (), lateral: bool = False
) -> tuple[Picture, ...]:
    """Render a case's frontal view, and its lateral one if asked for; `without` leaves findings out and nothing else."""
    rng = _stream(seed, index, _FILM)
    kept = [(k, finding) for k, finding in enumerate(case.findings) if k not in without]
    chest, film = _exposed(case, [finding for _, finding in kept], size, rng)
    regions = tuple(paint(film, finding, _stream(seed, index, _FINDING + k)) for k, finding in kept)
    frontal = film.develop(rng), regions
    if not lateral:
        return (frontal,)
    rng = _stream(seed, index, _FILM, _LATERAL)
    other = expose_lateral(chest, case.sex, case.age, size, rng)
    seen = tuple(
        paint_lateral(other, finding, Shown(film, region), _stream(seed, index, _FINDING + k, _LATERAL))
        for (k, finding), region in zip(kept, regions, strict=True)
    )
    return frontal, (other.develop(rng), seen)


def _exposed(
    case: PhantomCase, findings: Iterable[PhantomFinding], size: int, rng: np.random.Generator
) -> tuple[Chest, FrontalFilm]:
    """Return a person's chest, in the shape that findings give it, and its frontal film before they are painted."""
    chest = draw_chest(rng, case.sex, case.age, case.position)
    for finding in findings:
        reshape(chest, finding)
    return chest, expose(chest, size, rng)


def lungs_of_phantom(study: str, size: int = 256) -> dict[str, NDArray[np.bool_]] | None:
    """Return where a phantom's lungs are in its frontal view, (size, size) by side; None of another study's id.

    Args:
        study: the phantom's id.
        size: width and height in pixels.
    """
    if (found := _found(study, size)) is None:
        return None
    case, index, world = found
    _, film = _exposed(case, case.findings, size, _stream(world, index, _FILM))
    return {name: (film.lung > 0.5) & (film.u * side > 0) for name, side in (("left", 1), ("right", -1))}


def drawn_without(
    study: str, pathology: str, size: int = 256, *, lateral: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """Return the pixels (size, size) of a phantom, and of the same patient without a finding; None where it has no such one.

    One that has it in several places is drawn without all of them.

    Args:
        study: the phantom's id; None is returned of another study's.
        pathology: the finding's name.
        size: width and height in pixels.
        lateral: draw the lateral view, not the frontal one.
    """
    if (found := _found(study, size)) is None:
        return None
    case, index, world = found
    left_out = [k for k, finding in enumerate(case.findings) if finding.pathology == pathology]
    if not left_out:
        return None
    before, after = (render(case, index, world, size, out, lateral)[-1] for out in ((), left_out))
    return before[0], after[0]


def _found(study: str, size: int) -> tuple[PhantomCase, int, int] | None:
    """Return the case, the index and the world of the phantom with this id; None of another study's."""
    if (which := read_study_id(study)) is None:
        return None
    index, seed, settings = which
    _check(index, seed, size)
    world = _world(seed, settings.independent)
    return draw_case(_stream(world, index, _CASE), settings.independent), index, world


def _check(index: int, seed: int, size: int) -> None:
    for name, value, least in (("index", index, 0), ("seed", seed, 0), ("size", size, SMALLEST)):
        if value < least:
            raise MedLIPError(f"phantom: {name}={value} is too small: give a whole number of at least {least}.")


def _world(seed: int, independent: bool) -> int:
    """Return the seed that phantoms are drawn by: independent ones are other people, those without a finding as well."""
    return seed + _INDEPENDENT if independent else seed


def _stream(seed: int, index: int, *part: int) -> np.random.Generator:
    return np.random.default_rng([seed, index, *part])


def _split(index: int) -> str:
    share = int.from_bytes(hashlib.sha256(str(index).encode()).digest()[:4], "big") / 2**32
    return "train" if share < 0.7 else "val" if share < 0.85 else "test"


def _view(picture: Picture, position: str, case: PhantomCase) -> View:
    pixels, regions = picture
    masks = tuple(
        Mask(finding.pathology, region, finding.anatomy)
        for finding, region in zip(case.findings, regions, strict=True)
        if region is not None
    )
    return View(pixels, position, tuple(_box(mask) for mask in masks), masks)


def _box(mask: Mask) -> Box:
    rows, columns = np.flatnonzero(mask.pixels.any(1)), np.flatnonzero(mask.pixels.any(0))
    x, y = int(columns[0]), int(rows[0])
    return Box(mask.pathology, x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y, mask.anatomy)
