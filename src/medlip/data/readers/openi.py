"""Open-i, the Indiana University chest X-rays: images, reports, and MeSH codes written by people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as resources
from pathlib import Path
from xml.etree import ElementTree

from medlip.data.sources import Source, files_by_stem, read_table
from medlip.data.study import Study, View
from medlip.errors import MedLIPError
from medlip.reports import Presence

SECTIONS = ("indication", "comparison", "findings", "impression")


def openi(folder: str | Path) -> Source:
    """Read one of three layouts; a study is a patient.

    - `studies.csv`: one row an image, with uid, split, image, the report's sections, mesh, license;
    - `indiana_reports.csv` and `indiana_projections.csv`, which names the lateral views;
    - XML reports anywhere below, as published. Their views are unknown, unless `indiana_projections.csv` is there too.

    Labels are the 18 classes that ship with the package, or those of the folder's own `classes.json`; a study without codes
    has none.

    Raises:
        MedLIPError: none of the layouts is there, a table lacks a column, or `classes.json` or an XML file is broken.
    """
    folder = Path(folder)
    classes = _classes(folder)
    if (folder / "studies.csv").exists():
        return _listed(folder, classes)
    files = {stem.partition(".")[0]: path for stem, path in files_by_stem(folder).items()}  # some end with .dcm.png
    table = folder / "indiana_projections.csv"
    views: dict[str, dict[str, str]] = {}
    for row in read_table(table, ("uid", "filename", "projection")) if table.exists() else ():
        position = "lateral" if row["projection"] == "Lateral" else ""
        views.setdefault(row["uid"], {})[row["filename"].partition(".")[0]] = position
    if (folder / "indiana_reports.csv").exists():
        rows = read_table(folder / "indiana_reports.csv", ("uid", "MeSH", "findings", "impression"))
        reports = [_Report(row["uid"], row, row["MeSH"].replace(";", "|"), list(views.get(row["uid"], ()))) for row in rows]
    else:
        reports = [_parse(path) for path in sorted(folder.rglob("*.xml"))]
    if not reports:
        raise MedLIPError(
            f"{folder}: neither studies.csv, indiana_reports.csv nor XML reports are there. Complete the download."
        )
    return Source("openi", {report.uid: report.study(folder, files, views, classes) for report in reports})


def _listed(folder: Path, classes: Mapping[str, Sequence[str]]) -> Source:
    rows: dict[str, list[dict[str, str]]] = {}
    for row in read_table(folder / "studies.csv", ("uid", "image", "findings", "impression", "mesh")):
        rows.setdefault(row["uid"], []).append(row)
    studies = {}
    for uid, images in rows.items():
        first = images[0]
        studies[uid] = Study(
            id=uid,
            patient=f"openi:{uid}",
            views=tuple(View(folder / row["image"]) for row in images),
            report=compose_report({name: first.get(name, "") for name in SECTIONS}),
            labels=mesh_labels(first["mesh"], classes),
            split=first.get("split", ""),
            attributes={"licence": first["license"]} if first.get("license") else {},
        )
    return Source("openi", studies)


@dataclass(frozen=True, slots=True)
class _Report:
    uid: str
    sections: Mapping[str, str]
    mesh: str
    images: Sequence[str]

    def study(
        self,
        folder: Path,
        files: Mapping[str, Path],
        views: Mapping[str, Mapping[str, str]],
        classes: Mapping[str, Sequence[str]],
    ) -> Study:
        positions = views.get(self.uid, {})
        return Study(
            id=self.uid,
            patient=f"openi:{self.uid}",
            views=tuple(
                # Published image ids read CXR1_1_IM-0001-3001; some copies drop the leading CXR1_.
                View(files.get(name) or files.get(name.partition("_")[2]) or folder / f"{name}.png", positions.get(name, ""))
                for name in self.images
            ),
            report=compose_report({name: self.sections.get(name, "") for name in SECTIONS}),
            labels=mesh_labels(self.mesh, classes),
        )


def _parse(path: Path) -> _Report:
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise MedLIPError(f"{path}: not readable XML ({error}). Get the file again.") from error
    uid = root.find("uId")
    if uid is None:
        raise MedLIPError(f"{path}: no Open-i report (it has no uId). Leave the file out.")
    sections = {(text.get("Label") or "").lower(): (text.text or "").strip() for text in root.iter("AbstractText")}
    mesh = "|".join((code.text or "").strip() for code in root.iterfind("MeSH/major"))
    return _Report(
        (uid.get("id") or "").removeprefix("CXR"),
        sections,
        mesh,
        [image.get("id") or "" for image in root.iter("parentImage")],
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
        shipped: dict[str, list[str]] = json.loads((resources("medlip.data.readers") / "openi_classes.json").read_text())
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
