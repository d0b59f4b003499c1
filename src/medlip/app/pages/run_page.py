"""The page of a run: how its losses went, what it was warned of, where it looked over time, and what it was made with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medlip.about import DISCLAIMER
from medlip.app.pages.curves import Curve, Panel, draw, smooth
from medlip.app.pages.pictures import jpeg, picture, relative
from medlip.app.pages.templates import fill_template
from medlip.errors import MedLIPError
from medlip.tables import Table, number
from medlip.training.fit import CHECKPOINT, MANIFEST, METRICS, MODEL
from medlip.training.watch import SAMPLES

LAST = 12  # lines of the log that are shown
SHOWN = 8  # maps of an image, from the first to the last
CELL = 24  # pixels at which a location of a map is drawn, at least


def run_page(run: Path) -> str:
    """Return the page of a run's folder as HTML.

    Raises:
        MedLIPError: the folder has neither manifest nor log, or the manifest is broken.
    """
    manifest, log = _manifest(run / MANIFEST), list(_lines(run / METRICS))
    if not manifest and not log:
        raise MedLIPError(f"{run}: holds neither {MANIFEST} nor {METRICS}: nothing is known of how it was made.")
    panels = [Panel(title, curves) for title, curves in _panels(log) if any(len(curve.across) for curve in curves)]
    recipe, machine = manifest.get("recipe", {}), manifest.get("machine", {})
    settings = [[f"{part}.{name}", json.dumps(value)] for part in recipe for name, value in _items(recipe[part])]
    return fill_template(
        "run.html",
        title=f"The run {run.resolve().name}",
        warnings=[f"Step {line['step']:,}: {line['warning']}." for line in log if "warning" in line],
        lead=_lead(run, log),
        curves=draw(panels, "run") if panels else "",
        samples=list(_samples(run / SAMPLES)),
        tables=[_last(log), Table("Recipe", ["setting", "value"], settings)],
        made_by=[
            "Trained with " + ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items()),
            "on " + ", ".join(f"{name} {value}" for name, value in machine.items()),
        ],
        manifest={name: value for name, value in manifest.items() if name != "recipe"},
        disclaimer=DISCLAIMER,
    )


def _lead(run: Path, log: Sequence[Mapping[str, Any]]) -> list[str]:
    done = "It is done." if (run / MODEL).exists() else ""
    if not done and (run / CHECKPOINT).exists():
        done = "It is not done: --resume goes on."
    steps = [line for line in log if "loss" in line]
    if not steps:
        return [done] if done else []
    last = steps[-1]
    rate = [line["images_per_second"] for line in steps if line.get("images_per_second")]
    waited = [line["data_wait_share"] for line in steps if line.get("data_wait_share") is not None]
    speed = f" {np.median(rate):.3g} images/s," if rate else ""
    waiting = f" {np.mean(waited):.0%} of the time waiting for images." if waited else ""
    reached = f"{last['step']:,} steps, {last['epoch']:.3g} epochs; loss {number(last['loss'])}."
    return [f"{reached}{speed}{waiting} {done}".strip()]


def _panels(log: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Curve]]]:
    """Yield what is drawn: every loss term, with its validation, then the rate, the speed, and gradient norms by term."""
    steps = [line for line in log if "losses" in line]
    checks = [line for line in log if "validation" in line]
    at = [line["step"] for line in steps]
    for term in steps[0]["losses"] if steps else ():
        values = [_value(line["losses"].get(term)) for line in steps]
        validated = [_value(line["validation"].get(term)) for line in checks]
        curves = [Curve("", at, values, "faint"), Curve("running mean", at, smooth(values))]
        if validated:
            curves.append(Curve("validation", [line["step"] for line in checks], validated, "o"))
        yield term.replace("_", " "), curves
    for name in ("lr", "images_per_second"):
        yield name.replace("_", " "), [Curve("", at, [_value(line.get(name)) for line in steps])]
    norms = [line for line in log if "gradient_norm" in line]
    for term in norms[0]["gradient_norm"] if norms else ():
        values = [_value(line["gradient_norm"].get(term)) for line in norms]
        yield f"gradient of {term.replace('_', ' ')}", [Curve("", [line["step"] for line in norms], values, ".")]


def _last(log: Sequence[Mapping[str, Any]]) -> Table:
    steps = [line for line in log if "losses" in line]
    names = ("epoch", "loss", "lr", "images_per_second")
    rows = [[f"{line['step']:,}", *(number(_value(line.get(name))) for name in names)] for line in steps[-LAST:]]
    return Table("Last lines of its log", ["step", "epoch", "loss", "learning rate", "images/s"], rows)


def _samples(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Yield every image whose maps were kept, with some of them from the first epoch to the last."""
    files = sorted(folder.glob("*.npz"))
    if not files:
        return
    chosen = [files[round(i)] for i in np.linspace(0, len(files) - 1, min(SHOWN, len(files)))]
    kept = []
    for file in chosen:
        with np.load(file, allow_pickle=False) as content:
            kept.append((f"step {int(file.stem):,}", content["maps"], content["findings"].tolist()))
    for case, finding in enumerate(kept[0][2]):
        figures = [(step, _drawn(maps[case])) for step, maps, _ in kept if case < len(maps)]
        yield {"title": f"Image {case + 1}: {finding.replace('_', ' ')}", "figures": figures}


def _drawn(heat: np.ndarray[Any, np.dtype[np.float32]]) -> str:
    from matplotlib import colormaps

    colours = colormaps["inferno"](relative(heat))[..., :3]
    cells = (255 * colours).astype(np.uint8).repeat(CELL, 0).repeat(CELL, 1)
    return jpeg(picture(cells))


def _value(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _items(part: Any) -> list[tuple[str, Any]]:
    return list(part.items()) if isinstance(part, Mapping) else []


def _manifest(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    try:
        content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MedLIPError(f"{path}: not readable ({error}). Copy the run again.") from error
    return content


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the lines of a log; one that was cut off while it was written is left out."""
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            yield json.loads(text)
        except ValueError:
            continue
