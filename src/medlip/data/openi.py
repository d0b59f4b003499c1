"""Open-i, the Indiana University chest X-rays: images, reports, and MeSH codes written by people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from medlip.data.sources import Source, read_table
from medlip.data.study import Study, View
from medlip.errors import MedLIPError
from medlip.reports import Presence

SECTIONS = ("indication", "comparison", "findings", "impression")


def openi(folder: str | Path) -> Source:
    """Read `studies.csv` (one row an image: uid, split, image, the report's sections, mesh, license) and its images.

    Labels are the 18 classes that ship with the package, or those of the folder's own `classes.json`; a study without codes
    has none. A study is a patient.

    Raises:
        MedLIPError: `studies.csv` is missing or lacks a column, or `classes.json` is broken.
    """
    folder = Path(folder)
    classes = _classes(folder)
    rows: dict[str, list[dict[str, str]]] = {}
    for row in read_table(folder / "studies.csv", ("uid", "image", "findings", "impression", "mesh")):
        rows.setdefault(row["uid"], []).append(row)
    return Source("openi", {uid: _study(folder, uid, images, classes) for uid, images in rows.items()})


def _study(folder: Path, uid: str, rows: Sequence[Mapping[str, str]], classes: Mapping[str, Sequence[str]]) -> Study:
    first = rows[0]
    return Study(
        id=uid,
        patient=f"openi:{uid}",
        views=tuple(View(folder / row["image"]) for row in rows),
        report=compose_report({name: first.get(name, "") for name in SECTIONS}),
        labels=mesh_labels(first["mesh"], classes),
        split=first.get("split", ""),
        attributes={"licence": first["license"]} if first.get("license") else {},
    )


def compose_report(sections: Mapping[str, str]) -> str:
    """Join sections to one text, "INDICATION: … FINDINGS: …"; "" unless findings or impression say something."""
    if not (sections.get("findings") or sections.get("impression")):
        return ""
    return "\n".join(f"{name.upper()}: {text}" for name, text in sections.items() if text)


def mesh_labels(mesh: str, classes: Mapping[str, Sequence[str]]) -> dict[str, Presence]:
    """Label each class present if a code equals one of its terms or begins with it and a "/", else absent.

    Args:
        mesh: codes such as "Opacity/lung/base/left|Cardiomegaly"; "" leaves every class unknown.
        classes: MeSH terms by class.
    """
    codes = [f"{code.strip().lower()}/" for code in mesh.split("|") if code.strip()]
    return {
        name: "present" if any(code.startswith(f"{term.lower()}/") for code in codes for term in terms) else "absent"
        for name, terms in classes.items()
        if codes
    }


def _classes(folder: Path) -> Mapping[str, Sequence[str]]:
    own = folder / "classes.json"
    if not own.exists():
        shipped: dict[str, list[str]] = json.loads((files("medlip.data") / "openi_classes.json").read_text())
        return shipped
    try:
        classes = json.loads(own.read_text())
    except (OSError, ValueError) as error:
        raise MedLIPError(
            f"{own}: not readable JSON ({error}). Correct it, or remove it to use the 18 shipped classes."
        ) from error
    if not isinstance(classes, dict) or not all(isinstance(terms, list) for terms in classes.values()):
        raise MedLIPError(f'{own}: give MeSH terms by class, such as {{"effusion": ["Pleural Effusion"]}}.')
    return classes
