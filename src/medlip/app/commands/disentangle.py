"""`medlip disentangle`: whether each stream of a run holds its own factor, as tables and as a page with maps."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medlip.app.commands.compare import Table, as_text
from medlip.app.output import NOT_A_DEVICE, Answer, Data, Json, answers, to_json
from medlip.errors import MedLIPError

if TYPE_CHECKING:
    from medlip.data.store import Store
    from medlip.methods import Method

RESULT, PAGE = "result.json", "disentanglement.html"
FACTORS = {"pathology": "what: pathologies", "anatomy": "where: anatomies with a finding"}
REPRESENTATIONS = {
    "pathology": "pathology stream",
    "anatomy": "anatomy stream",
    "encoder": "image encoder, before the streams",
}


@answers
def disentangle(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run.", metavar="RUN")],
    data: Data,
    pairs: Annotated[
        Path | None, typer.Option(help="Pairs held out of training, from `medlip data hold-out`.", metavar="FILE")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="What to test on: test where there is one, else val.", metavar="NAME")
    ] = None,
    images: Annotated[int, typer.Option(help="Training images that probes learn from, at most.", min=1)] = 2000,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for result.json and a page.", metavar="DIR")] = None,
    as_json: Json = False,
) -> Answer:
    """Measure whether each stream holds its own factor. Probes, maps, and pairs that training never showed together."""
    from medlip.app.input import evaluation_store
    from medlip.data.prepare import SHARES
    from medlip.experiments.composition import read_pairs
    from medlip.experiments.disentanglement import disentanglement
    from medlip.training import load_run

    if out is not None and (out / RESULT).exists():
        raise MedLIPError(f"{out}: holds a {RESULT} already. Give another folder.")
    method = load_run(run)
    with evaluation_store(data, SHARES) as store:
        held_out = read_pairs(pairs, store.vocabulary) if pairs else None
        result = disentanglement(method, store, pairs=held_out, split=split, images=images)
        if out is not None:
            _save(out, result, method, store)
    for note in result["notes"]:
        print(note if note.startswith("WARNING") else f"note: {note}", file=sys.stderr)
    text = "\n\n".join([*map(as_text, tables(result)), NOT_A_DEVICE])
    return Answer(result, f"{text}\n\nThe page: {out / PAGE}" if out else text)


def _save(out: Path, result: Mapping[str, Any], method: Method, store: Store) -> None:
    from medlip.app.pages.disentangle_page import picture_cases, render_page
    from medlip.files import write_atomic

    cases = picture_cases(method, store.select(result["split"])) if result["maps"] else []
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / PAGE, render_page(result, cases).encode())
    write_atomic(out / RESULT, to_json(result).encode())


def tables(result: Mapping[str, Any]) -> Iterator[Table]:
    """Yield what `disentanglement` measured as tables of text."""
    if result["probes"]:
        yield _probes(result)
        yield _held_out(result["held_out"])
        yield _maps(result["maps"])
    if result["composition"]:
        yield _composition(result["composition"])


def _probes(result: Mapping[str, Any]) -> Table:
    probes = result["probes"]
    rows = [
        [title, *(_value(probes[factor]["macro_auroc"][name]) for factor in FACTORS)]
        for name, title in REPRESENTATIONS.items()
    ]
    rows.append(["own stream less the other", *(_signed(probes[factor]["own_minus_other"]) for factor in FACTORS)])
    rows.append(["classes", *(str(len(probes[factor]["per_class"])) for factor in FACTORS)])
    left_out = "; ".join(
        f"too rare {factor} classes: {', '.join(probes[factor]['left_out'])}"
        for factor in FACTORS
        if probes[factor]["left_out"]
    )
    return Table(
        "What can be read off each stream: macro AUROC of linear probes (chance 0.5), trained on "
        f"{result['n_train']:,} images, tested on {result['n_images']:,} of {result['split']}",
        ["representation", *FACTORS.values()],
        rows,
        left_out,
    )


def _held_out(held_out: Mapping[str, Any]) -> Table:
    rows = [
        [f"{FACTORS[factor]}; {title}", *(_value(values[name]) for name in ("seen", "held_out")), _signed(values["loss"])]
        for factor, part in held_out.items()
        for values, title in ((part["macro_auroc"][name], title) for name, title in REPRESENTATIONS.items())
    ]
    rows += [
        [f"{FACTORS[factor]}; own stream less the other", "", _signed(part["own_minus_other"]), ""]
        for factor, part in held_out.items()
    ]
    classes = "; ".join(f"{factor} classes: {', '.join(part['classes']) or 'none'}" for factor, part in held_out.items())
    return Table(
        "With the other factor held out: macro AUROC with partners that a probe learned from, and with others",
        ["factor; representation", "seen", "held out", "loss"],
        rows,
        classes,
    )


def _maps(maps: Mapping[str, Any]) -> Table:
    left_out = f"{maps['left_out']:,} more have a map that is the same everywhere, or no control" if maps["left_out"] else ""
    return Table(
        f"Do the streams look at the same locations? Cosine of their maps, {maps['n']:,} present findings",
        ["map of the finding and", "cosine"],
        [
            ["that of its own place", _value(maps["own"])],
            ["those of other places (control)", _value(maps["control"])],
            ["difference", _signed(maps["difference"])],
        ],
        left_out,
    )


def _composition(composition: Mapping[str, Any]) -> Table:
    place = composition["place"]
    return Table(
        f"Pairs that training never showed together ({len(composition['pairs'])}), and others of their pathologies",
        ["measure", "seen pairs", "held-out pairs", "loss"],
        [
            [name, _value(values["seen"]), _value(values["held_out"]), _signed(values["loss"])]
            for name, values in (
                (f"macro AUROC of {len(composition['classes'])} pathologies (chance 0.5)", composition["auroc"]),
                ("right place among the highest third (chance 0.333)", place),
            )
        ],
        f"{place['n_seen']:,} findings in seen pairs, {place['n_held_out']:,} in held-out ones"
        + (f"; too rare: {', '.join(composition['left_out'])}" if composition["left_out"] else ""),
    )


def _value(entry: Mapping[str, Any], form: str = ".3f") -> str:
    if entry["value"] is None:
        return "-"
    ends = entry["interval"]
    return f"{entry['value']:{form}}" + (f" ({ends[0]:{form}} to {ends[1]:{form}})" if ends else "")


def _signed(entry: Mapping[str, Any]) -> str:
    return _value(entry, "+.3f")
