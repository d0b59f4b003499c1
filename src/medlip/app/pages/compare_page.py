"""The page of a comparison: one self-contained HTML file with tables, ROC curves, calibration and cases."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medlip.app.commands.compare import tables
from medlip.app.output import NOT_A_DEVICE
from medlip.app.pages.templates import fill_template
from medlip.evaluation.grounding import enlarge, peak
from medlip.metrics.classification import Array, reliability, roc_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from medlip.evaluation.cases import Case
    from medlip.evaluation.compare import Evaluated

Curve = tuple[Array, Array]
COLUMNS = 4
POINTS = 200  # of a curve: more can't be seen


def render_page(document: Mapping[str, Any], evaluated: Sequence[Evaluated]) -> str:
    """Return the page of a comparison.

    Args:
        document: as `medlip.evaluation.compare.compare` returns it.
        evaluated: what was compared; curves and cases are drawn of those that kept predictions and cases.
    """
    from markupsafe import Markup

    drawn = [entry for entry in evaluated if entry.predictions is not None]
    classes = _drawable(drawn[0]) if drawn else []
    plots = []
    if classes:
        plots = [
            ("ROC curves", "1 - specificity and sensitivity; the diagonal is chance.", _grid(drawn, classes, _roc)),
            (
                "Calibration",
                "Mean probability and share of present findings in 15 equally wide bins; the diagonal is perfect.",
                _grid(drawn, classes, _calibration),
            ),
        ]
    return fill_template(
        "compare.html",
        tables=list(tables(document)),
        plots=[(title, text, Markup(svg)) for title, text, svg in plots],  # drawn here, from numbers
        findings=_findings(evaluated),
        without_cases=[entry.name for entry in evaluated if not entry.cases],
        protocol=document["protocol"],
        runs=[(row["name"], row["run"]) for row in document["results"] if row["run"]],
        disclaimer=NOT_A_DEVICE,
    )


def _findings(evaluated: Sequence[Evaluated]) -> list[dict[str, Any]]:
    """Return the cases of all results by finding, those of the first result first."""
    names = dict.fromkeys(case.finding for entry in evaluated for case in entry.cases)
    return [
        {
            "name": name,
            "results": [
                {"name": entry.name, "cases": own}
                for entry in evaluated
                if (own := [_case(case) for case in entry.cases if case.finding == name])
            ],
        }
        for name in names
    ]


def _case(case: Case) -> dict[str, str]:
    from medlip.app.pages.pictures import jpeg, outline, paint, relative, with_cross

    heat = enlarge(case.heat, case.pixels.shape)
    painted = np.asarray(paint(case.pixels, relative(heat)))
    verdict = "a hit" if case.hit else "a miss"
    return {
        "image": jpeg(with_cross(outline(painted, case.target), peak(heat))),
        "alt": f"X-ray {case.image} with the map of {case.finding}, {verdict}",
        "text": f"{case.rank} of {case.of}: IoU {case.iou:.3f}, {verdict}. Image {case.image}",
    }


def _drawable(entry: Evaluated) -> list[str]:
    """Return the classes with a positive and a negative."""
    assert entry.predictions is not None
    labels = entry.predictions.labels
    both = (labels == 1).any(axis=0) & (labels == 0).any(axis=0)
    return [name for name, has_both in zip(entry.predictions.classes, both, strict=True) if has_both]


def _grid(evaluated: Sequence[Evaluated], classes: Sequence[str], curve: Callable[[Array, Array], Curve]) -> str:
    """Draw a panel for each class with a curve of each result; return the SVG element."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(classes))
    rows = math.ceil(len(classes) / columns)
    with rc_context({"svg.hashsalt": curve.__name__, "svg.fonttype": "none"}):
        figure = Figure(figsize=(2.6 * columns, 2.6 * rows + 0.3 + 0.2 * len(evaluated)), layout="constrained")
        panels: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).flat)
        for panel, name in zip(panels, classes, strict=False):
            panel.plot([0, 1], [0, 1], color="0.75", linewidth=0.8)
            for entry in evaluated:
                assert entry.predictions is not None
                c = list(entry.predictions.classes).index(name)
                across, up = curve(entry.predictions.scores[:, c], entry.predictions.labels[:, c])
                panel.plot(across, up, linewidth=1.3, label=entry.name, marker="." if curve is _calibration else "")
            panel.set_title(name.replace("$", r"\$"), fontsize=9)
            panel.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
            panel.tick_params(labelsize=7)
        for panel in panels[len(classes) :]:
            panel.set_axis_off()
        handles, labels = panels[0].get_legend_handles_labels()
        texts = [label.replace("$", r"\$") for label in labels]
        figure.legend(handles, texts, loc="outside lower center", fontsize=8, frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    return svg[svg.index("<svg") :]


def _roc(scores: Array, labels: Array) -> Curve:
    across, up = roc_curve(scores, labels)
    shown = np.unique(np.linspace(0, len(across) - 1, min(POINTS, len(across))).round().astype(int))
    return across[shown], up[shown]


def _calibration(scores: Array, labels: Array) -> Curve:
    if (scores < 0).any() or (scores > 1).any():
        return np.empty(0), np.empty(0)
    means, shares, _ = reliability(scores, labels)
    return means, shares
