"""The demo: synthetic X-rays and reports -> a store -> a trained run -> numbers on unseen X-rays -> a page.

Every stage leaves its result in the demo's folder, so that the same command resumes an interrupted one.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medlip.app.pages.demo_page import DemoFacts, DemoResult, LogLine, ShownStudy, render
from medlip.app.pages.sample_pictures import own_pictures
from medlip.app.reader import Reader
from medlip.data.prepare import prepare
from medlip.data.store import Record, Store
from medlip.errors import MedLIPError, did_you_mean
from medlip.evaluation import evaluate
from medlip.evaluation.results import Result
from medlip.files import write_atomic
from medlip.methods import Method
from medlip.parallel import cpu_count
from medlip.training import Recipe, fit, load_recipe, load_run
from medlip.training.fit import CHECKPOINT, METRICS
from medlip.training.recipe import recipe_files

CASES = 12
PICTURED = 3  # of these, the ones with pictures of the method's own
SHARD = 256  # images that an interruption can cost
PHANTOM = "-phantom"  # how the names of recipes for phantoms end


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a demo is.

    Attributes:
        name: for people.
        phantoms: studies in all, about 70 % of them to train on.
        settings: changes to the recipe.
        recipe: which one.
    """

    name: str
    phantoms: int
    settings: tuple[str, ...] = ()
    recipe: str = "medlip-phantom"


FULL = Scale("full", 3600)
QUICK = Scale("quick", 400, ("image.size=96", "training.warmup=10", "training.batch_size=32"))


def phantom_recipe(method: str) -> str:
    """Return the name of a method's recipe for synthetic X-rays.

    Raises:
        MedLIPError: it has none; names the methods that have one.
    """
    methods = [name.removesuffix(PHANTOM) for name in recipe_files() if name.endswith(PHANTOM)]
    if method not in methods:
        raise MedLIPError(
            f"--method {method}: there is no demo of this method.{did_you_mean(method, methods)} "
            f"Choose one of: {', '.join(methods)}."
        )
    return method + PHANTOM


def run_demo(out: Path, scale: Scale, command: str, device: str = "auto") -> DemoResult:
    """Run the demo in the folder `out`, or what is left of it; return what `metrics.json` holds.

    Args:
        out: a new or empty folder, or one in which a demo of this scale was started.
        scale: how large.
        command: as the user gave it, for the page.
        device: to train and read on, see `medlip.nn.device.resolve_device`.

    Raises:
        MedLIPError: `out` holds something else, or there is no such recipe; the folder is then left as it was.
        KeyboardInterrupt: what is done is kept.
    """
    recipe = load_recipe(scale.recipe, scale.settings)
    log = _Log.open(out, scale)
    metrics_file, page_file = out / "metrics.json", out / "report.html"
    if metrics_file.exists() and page_file.exists():
        print(f"{out} already holds the finished demo. Delete it to start over.", file=sys.stderr)
        return DemoResult.load(metrics_file)
    with log.timed("prepare"):
        prepare([f"phantom:{scale.phantoms}"], out / "store", shard_size=SHARD)
    store = Store.open(out / "store")
    with log.timed("pretrain"):
        resume = (out / "run" / CHECKPOINT).exists()
        fit(recipe, store.select("train"), out / "run", validation=store.select("val"), resume=resume, device=device)
    reader = Reader(load_run(out / "run", device))
    with log.timed("evaluate"):
        result = evaluate(reader.method, store, split="test", seed=recipe.training.seed)
    chosen = _choose(store.select("test"))
    studies = [
        ShownStudy(record, reader.read(record.image), own_pictures(reader.method, record) if number < PICTURED else ())
        for number, record in enumerate(chosen)
    ]
    facts = _about(scale, recipe, reader.method, store, result, log, command)
    metrics = DemoResult.model_validate({**result.model_dump(), "seconds": round(log.total, 1), "demo": facts})
    write_atomic(page_file, render(metrics, _history(out / "run"), studies, reader.vocabulary).encode())
    metrics.save(metrics_file)
    return metrics


class _Log:
    """Which demo the folder holds, and how long each stage took, interrupted attempts included."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path, self.content = path, content

    @classmethod
    def open(cls, out: Path, scale: Scale) -> _Log:
        path, wanted = out / "demo.json", json.loads(json.dumps(asdict(scale)))
        if path.exists():
            content = _read(path)
            if content["scale"] != wanted:
                held = content["scale"]
                raise MedLIPError(
                    f"{out}: holds a {held['name']} demo of {held['recipe']} with other settings. Give another folder."
                )
            return cls(path, content)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise MedLIPError(f"{out}: the folder holds files that are not of a demo. Give a new or empty folder.")
        out.mkdir(parents=True, exist_ok=True)
        log = cls(path, {"scale": wanted, "seconds": {}})
        log._save()
        return log

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return float(sum(self.content["seconds"].values()))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            seconds = self.content["seconds"]
            seconds[stage] = round(seconds.get(stage, 0) + time.monotonic() - began, 1)
            self._save()

    def _save(self) -> None:
        write_atomic(self.path, json.dumps(self.content, indent=1).encode())


def _choose(test: Store) -> list[Record]:
    """Return the first test images that together show every finding once, but at most `CASES`."""
    chosen: list[Record] = []
    shown: set[str] = set()
    for record in test:
        names = {mask.pathology for mask in record.masks}
        if names - shown and len(chosen) < CASES:
            chosen.append(record)
            shown |= names
    return chosen


def _history(run: Path) -> list[LogLine]:
    return [LogLine.model_validate_json(line) for line in (run / METRICS).read_text().splitlines()]


def _about(scale: Scale, recipe: Recipe, made: Method, store: Store, result: Result, log: _Log, command: str) -> DemoFacts:
    """Return what made the result, for the page and for `metrics.json`."""
    method, training = recipe.method, recipe.training
    seconds = log.content["seconds"]
    return DemoFacts(
        command=command,
        images=dict(store.splits),
        method=made.summary,
        start="weights learned from photographs (ImageNet)" if method.get("weights") else "random weights",
        training={
            "Recipe": scale.recipe + "".join(f" --set {setting}" for setting in scale.settings),
            "Method": f"{method['name']}, {method['backbone']} at {recipe.image.size} px",
            "Images": ", ".join(f"{store.splits[split]:,} {split}" for split in ("train", "val", "test")),
            "Facts read from the reports": f"{store.manifest['counts']['facts']:,}",
            "Passes": f"{training.epochs} over the training images, {training.batch_size} at a time",
            "Stages": ", ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items()),
        },
        origin={
            "Seeds": f"phantoms 0, training {training.seed}, intervals {result.protocol.seed}",
            "Machine": f"{platform.machine()}, {cpu_count()} cores; computed on {made.device.type}",
            "Versions": ", ".join(f"{name} {version}" for name, version in result.versions.items()),
            "Data": f"phantom:{scale.phantoms}, store {store.hash}",
            "Protocol": f"{result.protocol.name} ({result.protocol.hash})",
        },
    )


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
