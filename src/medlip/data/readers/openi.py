"""Open-i, the Indiana University chest X-rays: images, reports, and MeSH codes written by people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files as resources
from pathlib import Path

from medlip.data.image_files import ImageFiles
from medlip.data.sources import Source
from medlip.data.study import Study, View
from medlip.data.views import view_of
from medlip.delimited import read_table
from medlip.errors import MedLIPError
from medlip.reports import Presence
from medlip.reports.compose import SECTIONS, OpeniReport, compose_report, parse_openi


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
    files = ImageFiles(folder, lambda name: name.partition(".")[0])  # some end with .dcm.png
    table = folder / "indiana_projections.csv"
    views: dict[str, dict[str, str]] = {}
    for row in read_table(table, ("uid", "filename", "projection")) if table.exists() else ():
        position = view_of(row["projection"])
        views.setdefault(row["uid"], {})[row["filename"].partition(".")[0]] = position
    if (folder / "indiana_reports.csv").exists():
        rows = read_table(folder / "indiana_reports.csv", ("uid", "MeSH", "findings", "impression"))
        reports = [
            OpeniReport(row["uid"], _sections(row), tuple(row["MeSH"].split(";")), tuple(views.get(row["uid"], ())))
            for row in rows
        ]
    else:
        reports = [_parse(path) for path in sorted(folder.rglob("*.xml"))]
    if not reports:
        raise MedLIPError(
            f"{folder}: neither studies.csv, indiana_reports.csv nor XML reports are there. Complete the download."
        )
    studies = {report.uid: _study(report, folder, files, views, classes) for report in reports}
    return Source("openi", studies, stand_ins=len(studies))


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
            report=compose_report(_sections(first)),
            labels=mesh_labels(first["mesh"], classes),
            split=first.get("split", ""),
            attributes={"licence": first["license"]} if first.get("license") else {},
        )
    return Source("openi", studies, stand_ins=len(studies))


def _study(
    report: OpeniReport,
    folder: Path,
    files: ImageFiles,
    views: Mapping[str, Mapping[str, str]],
    classes: Mapping[str, Sequence[str]],
) -> Study:
    positions = views.get(report.uid, {})
    return Study(
        id=report.uid,
        patient=f"openi:{report.uid}",
        views=tuple(_view(name, folder, files, positions.get(name, "")) for name in report.images),
        report=report.text,
        labels=mesh_labels("|".join(report.codes), classes),
    )


def _view(name: str, folder: Path, files: ImageFiles, position: str) -> View:
    short = name.partition("_")[2]  # published identifiers read CXR1_1_IM-0001-3001; some copies drop the leading CXR1_
    file = files.find(short if name not in files and short in files else name, folder / f"{name}.png")
    return View(file.path, position, problem=file.problem)


def _parse(path: Path) -> OpeniReport:
    try:
        report = parse_openi(path.read_bytes())
    except (OSError, MedLIPError) as error:
        raise MedLIPError(f"{path}: not readable XML ({error}). Get the file again.") from error
    if not report.uid:
        raise MedLIPError(f"{path}: no Open-i report (it has no uId). Leave the file out.")
    return report


def _sections(row: Mapping[str, str]) -> dict[str, str]:
    return {name: row.get(name, "") for name in SECTIONS}


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
