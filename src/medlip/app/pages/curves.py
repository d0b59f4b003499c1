"""Curves as SVG, drawn by matplotlib: panels of one size that share a legend, and fit into a self-contained page."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

    from medlip.metrics import Array

COLUMNS = 4


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of a panel.

    Attributes:
        name: in the legend, "" to leave it out.
        across: (N,).
        up: (N,).
        style: of matplotlib: "-" for a line, "o" for dots, "faint" for a thin, pale line.
    """

    name: str
    across: Array | Sequence[float]
    up: Array | Sequence[float]
    style: str = "-"


@dataclass(frozen=True, slots=True)
class Panel:
    """A title with its curves; `diagonal` adds the line of chance to a unit square."""

    title: str
    curves: Sequence[Curve] = field(default=())
    diagonal: bool = False


def draw(panels: Sequence[Panel], salt: str) -> Markup:
    """Return the panels as one SVG element.

    Args:
        panels: at least one.
        salt: makes the identifiers inside the SVG differ from those of another one in the same page, and repeatable.
    """
    from markupsafe import Markup
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    names = dict.fromkeys(curve.name for panel in panels for curve in panel.curves if curve.name)
    with rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        figure = Figure(figsize=(2.6 * columns, 2.6 * rows + 0.3 + 0.2 * len(names)), layout="constrained")
        axes: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).flat)
        for panel, ax in zip(panels, axes, strict=False):
            _draw_panel(ax, panel)
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
        if handles:
            figure.legend(handles.values(), list(handles), loc="outside lower center", fontsize=8, frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    return Markup(svg[svg.index("<svg") :])  # drawn here, from numbers; text in it is escaped by matplotlib


def _draw_panel(ax: Axes, panel: Panel) -> None:
    if panel.diagonal:
        ax.plot([0, 1], [0, 1], color="0.75", linewidth=0.8)
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    for curve in panel.curves:
        name = _plain(curve.name) or "_hidden"
        if curve.style == "faint":
            ax.plot(curve.across, curve.up, color="C0", linewidth=0.8, alpha=0.35, label=name)
        elif curve.style == "o":
            ax.plot(curve.across, curve.up, "o", color="C1", markersize=4, label=name)
        else:
            ax.plot(curve.across, curve.up, linewidth=1.3, label=name, marker="." if curve.style == "." else "")
    ax.set_title(_plain(panel.title), fontsize=9)
    ax.tick_params(labelsize=7)


def smooth(values: Sequence[float]) -> list[float]:
    """Return running means over a twentieth of the series on either side."""
    reach = len(values) // 20
    return [float(np.mean(values[max(0, i - reach) : i + reach + 1])) for i in range(len(values))]


def _plain(text: str) -> str:
    """Keep matplotlib from reading a formula into a name."""
    return text.replace("$", r"\$")
