"""The page of a result, or of several side by side: one self-contained HTML file with tables, curves and cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medlip.about import DISCLAIMER
from medlip.app.pages.curves import Curve, Panel, draw
from medlip.app.pages.pictures import legend
from medlip.app.pages.templates import fill_template
from medlip.evaluation.tables import comparison_tables, result_tables
from medlip.images.preprocessing import enlarge
from medlip.metrics import Array, peak, reliability, roc_curve

if TYPE_CHECKING:
    from medlip.evaluation.cases import Case
    from medlip.evaluation.compare import Comparison, Evaluated
    from medlip.evaluation.record import EvaluationRecord
    from medlip.tables import Table

Points = tuple[Array, Array]
POINTS = 200  # of a curve: more can't be seen


def render_page(comparison: Comparison, evaluated: Sequence[Evaluated]) -> str:
    """Return the page of a comparison.

    Args:
        comparison: of them.
        evaluated: what was compared; curves and cases are drawn of those that kept predictions and cases.
    """
    return _page(
        "Results side by side",
        comparison_tables(comparison),
        evaluated,
        comparison.protocol,
        [(row.name, row.run) for row in comparison.results if row.run],
    )


def result_page(evaluated: Evaluated) -> str:
    """Return the page of one result: its measures and classes, curves and cases where those were kept."""
    result = evaluated.result
    runs = [(evaluated.name, result.run)] if result.run else []
    title = f"{result.n_images:,} images of the split {result.split}, {result.n_patients:,} patients"
    return _page(title, result_tables(result), [evaluated], result.protocol, runs, result.notes)


def _page(
    title: str,
    tables: Iterable[Table],
    evaluated: Sequence[Evaluated],
    protocol: EvaluationRecord,
    runs: Sequence[tuple[str, Mapping[str, Any]]],
    notes: Sequence[str] = (),
) -> str:
    drawn = [entry for entry in evaluated if entry.predictions is not None]
    classes = _drawable(drawn[0]) if drawn else []
    plots = []
    if classes:
        roc, calibration = _panels(drawn, classes, _roc, "-"), _panels(drawn, classes, _calibration, ".")
        plots = [
            ("ROC curves", "1 - specificity and sensitivity; the diagonal is chance.", draw(roc, "roc")),
            (
                "Calibration",
                "Mean probability and share of present findings in 15 equally wide bins; the diagonal is perfect.",
                draw(calibration, "calibration"),
            ),
        ]
    return fill_template(
        "compare.html",
        title=title,
        notes=notes,
        tables=list(tables),
        plots=plots,
        findings=_findings(evaluated),
        legend=legend(absolute=False),
        without_cases=[entry.name for entry in evaluated if not entry.cases],
        protocol=protocol.model_dump(mode="json"),
        runs=runs,
        disclaimer=DISCLAIMER,
    )


def _findings(evaluated: Sequence[Evaluated]) -> list[dict[str, object]]:
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


def _panels(
    evaluated: Sequence[Evaluated], classes: Sequence[str], curve: Callable[[Array, Array], Points], style: str
) -> list[Panel]:
    """Return a panel for each class with a curve of each result."""

    def curves(name: str) -> Iterator[Curve]:
        for entry in evaluated:
            assert entry.predictions is not None
            c = list(entry.predictions.classes).index(name)
            yield Curve(entry.name, *curve(entry.predictions.scores[:, c], entry.predictions.labels[:, c]), style)

    return [Panel(name, list(curves(name)), diagonal=True) for name in classes]


def _roc(scores: Array, labels: Array) -> Points:
    across, up = roc_curve(scores, labels)
    shown = np.unique(np.linspace(0, len(across) - 1, min(POINTS, len(across))).round().astype(int))
    return across[shown], up[shown]


def _calibration(scores: Array, labels: Array) -> Points:
    if (scores < 0).any() or (scores > 1).any():
        return np.empty(0), np.empty(0)
    means, shares, _ = reliability(scores, labels)
    return means, shares
