"""Draw maps of several runs side by side: `python map_sheet.py STORE OUT.jpg RUN [RUN ...] [--finding NAME ...]`.

Of each finding, the validation images whose masks show it are ranked by the share of the LAST run's map that lies inside its
masks. The one in the middle is shown, and the last one. Colours are on the absolute scale; the mask is outlined.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

import medlip
from medlip.data.store import Store
from medlip.evaluation.regions import paint_finding

FINDINGS = ("effusion", "pneumothorax", "cardiomegaly", "nodule")
CASES = ("typical", "worst")


def share_inside(heat: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Return which share of a map, (H, W), lies inside a mask."""
    return float(heat[mask].sum() / max(heat.sum(), 1e-9))


def draw(store: Store, runs: list[Path], findings: list[str], most: int) -> plt.Figure:
    """Return the sheet: a row for each finding; the film and a map of each run for its typical and its worst image."""
    readers = [medlip.load(run) for run in runs]
    columns = len(CASES) * (1 + len(runs))
    figure, axes = plt.subplots(len(findings), columns, figsize=(1.7 * columns, 1.9 * len(findings)), squeeze=False)
    for row, finding in zip(axes, findings, strict=True):
        masks = ((one, paint_finding((), one.masks, finding, one.image.shape)) for one in store)
        having = list(islice(((one, mask) for one, mask in masks if mask is not None), most))
        if not having:
            raise SystemExit(f"no validation image has a mask of {finding}. Name another with --finding.")
        shares = [share_inside(readers[-1].read(one.image).heat_map(finding), mask) for one, mask in having]
        ranked = np.argsort(shares)
        for number, chosen in enumerate((ranked[len(ranked) // 2], ranked[0])):
            record, mask = having[chosen]
            films = [record.image]
            captions = [f"{finding}, {CASES[number]} of {len(having)}"]
            for run, reader in zip(runs, readers, strict=True):
                reading = reader.read(record.image)
                films.append(np.asarray(reading.overlay(finding)))
                captions.append(f"{run.name}: {reading.finding(finding).probability:.2f}")
            start = number * (1 + len(runs))
            for axis, film, caption in zip(row[start:], films, captions, strict=False):
                axis.imshow(film, cmap="gray", vmin=0, vmax=255)
                axis.contour(mask, [0.5], colors="white", linewidths=0.7)
                axis.set_title(caption, fontsize=7)
    for axis in axes.flat:
        axis.axis("off")
    figure.tight_layout(pad=0.3)
    return figure


def main() -> None:
    """Draw the sheet that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="prepared images with masks")
    parser.add_argument("out", type=Path, help="picture to write")
    parser.add_argument("runs", type=Path, nargs="+", help="trained runs")
    parser.add_argument("--finding", action="append", help=f"to show; repeatable. Default: {', '.join(FINDINGS)}")
    parser.add_argument("--most", type=int, default=21, help="images looked at of each finding")
    given = parser.parse_args()
    store = Store.open(given.store).select("val")
    draw(store, given.runs, given.finding or list(FINDINGS), given.most).savefig(given.out, dpi=110)


if __name__ == "__main__":
    main()
