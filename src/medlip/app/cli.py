"""The command line. Commands import what they need when they run, so that `medlip --help` answers at once."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from medlip.app.commands.bench import bench
from medlip.app.commands.compare import compare
from medlip.app.commands.data import bench_store
from medlip.app.commands.data import data as data_sets
from medlip.app.commands.disentangle import disentangle
from medlip.app.commands.facts import facts
from medlip.app.commands.prepare import prepare
from medlip.app.commands.transfer import transfer
from medlip.app.output import (
    NOT_A_DEVICE,
    Answer,
    Data,
    Json,
    answers,
    describe_reading,
    describe_results,
    describe_retrieval,
)
from medlip.errors import MedLIPError

app = typer.Typer(
    help="From chest X-rays and their reports to findings and their places. Not a medical device.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help is quick, and a usage error then ends with the error itself
    pretty_exceptions_enable=False,
    add_completion=False,
)

RecipeName = Annotated[str, typer.Argument(help="Name of a recipe, or a YAML file.", metavar="RECIPE")]
Run = Annotated[Path, typer.Argument(help="Folder of a trained run.", metavar="RUN")]


def main() -> None:
    """Run the command line: the last line of stderr says an error plainly; exit code 1, and 2 for wrong usage."""
    # Before torch is loaded: threads that spin while they wait make a step three times slower on a machine that others use.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        app()
    except SystemExit as end:
        if end.code == 130:
            print("error: interrupted. The same command goes on where it stopped (pretrain with --resume).", file=sys.stderr)
        raise
    except MedLIPError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error}. Check the path, its permissions and the free space.")
    except Exception as error:
        _fail(f"unexpected {type(error).__name__}: {error}. `medlip --debug ...` shows where; please report it.")


def _fail(message: str) -> None:
    if os.environ.get("MEDLIP_DEBUG"):
        import traceback

        traceback.print_exc()
    print("error:", " ".join(message.split()), file=sys.stderr)
    raise SystemExit(1)


def _show_version(wanted: bool) -> None:
    if wanted:
        from medlip import __version__

        print(__version__)
        raise typer.Exit


def _show_protocols(wanted: bool) -> None:
    if wanted:
        from medlip.evaluation.protocols import named_protocols

        width = max(map(len, named_protocols()))
        print("\n".join(f"{name.ljust(width)}  {entry.title}" for name, entry in named_protocols().items()))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
) -> None:
    """Read the options of the program itself."""
    if debug:
        os.environ["MEDLIP_DEBUG"] = "1"


@app.command()
@answers
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder of the demo; the same command goes on in it.", metavar="DIR")],
    method: Annotated[str, typer.Option(help="Which method; it needs a recipe NAME-phantom.", metavar="NAME")] = "medslip",
    quick: Annotated[bool, typer.Option("--quick", help="The same path, smaller: about a minute.")] = False,
    as_json: Json = False,
) -> Answer:
    """Show it all on phantoms. A model is pre-trained on generated X-rays and reports, evaluated on unseen ones, shown."""
    from medlip.app.demo import FULL, QUICK, phantom_recipe, run_demo

    scale = replace(QUICK if quick else FULL, recipe=phantom_recipe(method))
    asked = "" if method == "medslip" else f" --method {method}"
    metrics = run_demo(out, scale, f"medlip demo --out {out}{asked}" + (" --quick" if quick else ""))
    files = {"report": out / "report.html", "run": out / "run"}
    return Answer(
        {**metrics, **files}, f"{describe_results(metrics)}\n\nThe page: {files['report']}\nThe run:  {files['run']}"
    )


app.command(short_help="Read data sets into a store.")(prepare)
app.add_typer(data_sets, name="data", short_help="List, check and compare data sets.")
app.command(short_help="Read the facts of reports.")(facts)


@app.command()
@answers
def pretrain(
    recipe: RecipeName,
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Folder of the run.", metavar="RUN")],
    changes: Annotated[list[str] | None, typer.Option("--set", help="Change a setting.", metavar="KEY=VALUE")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    without: Annotated[
        Path | None, typer.Option("--without", help="Leave out images with these pairs (data hold-out).", metavar="FILE")
    ] = None,
    as_json: Json = False,
) -> Answer:
    """Pre-train on images and reports. Learns from the train split of SOURCE; losses on its val split are logged."""
    from medlip.app.input import training_store
    from medlip.training import fit, load_recipe

    settings = load_recipe(recipe, changes or ())
    store = training_store(data, out)
    validation = store.select("val") if "val" in store.splits else None
    train = store.select("train")
    if without:
        from medlip.experiments.composition import read_pairs, without_pairs

        if settings.make_augment().mirror:
            raise MedLIPError("a mirrored image may show a held-out pair: with --without, give --set augment.mirror=0.")
        train = without_pairs(train, read_pairs(without, store.vocabulary))
    summary = fit(settings, train, out, validation=validation, resume=resume)
    speed = f", {summary['images_per_second']:.0f} images/s" if summary["images_per_second"] else ""
    return Answer(summary, f"{out}: {summary['steps']:,} steps in {summary['seconds']:.0f} s{speed}.")


@app.command()
@answers
def ablate(
    recipe: RecipeName,
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Folder of all runs; the same command goes on in it.", metavar="DIR")],
    grid: Annotated[list[str], typer.Option("--grid", help="A factor and its values.", metavar="KEY=VALUE,VALUE")],
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting in all runs.", metavar="KEY=VALUE")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of every variant.", min=1)] = 3,
    full: Annotated[bool, typer.Option("--full", help="Every combination, not one factor at a time.")] = False,
    split: Annotated[str, typer.Option(help="Split to evaluate.", metavar="NAME")] = "test",
    jobs: Annotated[int, typer.Option(help="Runs at the same time.", min=1)] = 1,
    as_json: Json = False,
) -> Answer:
    """Measure what each setting is worth. Trains and evaluates a recipe's variants, and tabulates them."""
    from medlip.app.input import training_store
    from medlip.experiments.ablation import ablate as run
    from medlip.experiments.ablation import as_markdown

    store = training_store(data, out)
    result = run(recipe, store, out, grid, settings=changes or (), seeds=seeds, split=split, full=full, jobs=jobs)
    failed = "; ".join(f"{entry['run']}: {entry['reason']}" for entry in result["failed"])
    problem = f"{len(result['failed'])} runs failed: {failed}" if failed else ""
    return Answer(result, f"{as_markdown(result)}\n{NOT_A_DEVICE}", problem)


@app.command()
@answers
def evaluate(
    run: Run,
    data: Data,
    split: Annotated[
        str | None, typer.Option(help="test where there is one, else val; never train unasked.", metavar="NAME")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="A named protocol, or a YAML file of your own.", metavar="NAME")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="A split list: evaluate only the images it names.", metavar="FILE")
    ] = None,
    list_protocols: Annotated[
        bool, typer.Option("--list-protocols", callback=_show_protocols, is_eager=True, help="List the named protocols.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the result and every image's scores.", metavar="DIR")
    ] = None,
    as_json: Json = False,
) -> Answer:
    """Measure a run on X-rays. What is there, and where; every number with its interval, beside chance."""
    from medlip import evaluation
    from medlip.app.input import evaluation_store
    from medlip.evaluation.protocols import load_protocol, read_split_list
    from medlip.training import load_run

    named = load_protocol(protocol) if protocol else None
    listed = read_split_list(images) if images else None
    method = load_run(run)
    with evaluation_store(data) as store:
        result = evaluation.evaluate(method, store, split=split, protocol=named, images=listed, out=out)
    for note in result["notes"]:
        print(note if note.startswith("WARNING") else f"note: {note}", file=sys.stderr)
    return Answer(result, describe_results(result))


@app.command()
@answers
def retrieve(
    run: Run,
    data: Data,
    split: Annotated[
        str | None, typer.Option(help="test where there is one, else val; never train unasked.", metavar="NAME")
    ] = None,
    pool: Annotated[
        int | None, typer.Option(help="Tell so many reports apart, drawn by the seed 0; all if not given.", min=2)
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the result.", metavar="DIR")] = None,
    as_json: Json = False,
) -> Answer:
    """Find reports by X-rays and X-rays by reports. Recall and precision, every number with its interval, beside chance."""
    from medlip import evaluation
    from medlip.app.input import evaluation_store
    from medlip.training import load_run

    method = load_run(run)
    with evaluation_store(data) as store:
        result = evaluation.retrieve(method, store, split=split, pool=pool, out=out)
    for note in result["notes"]:
        print(note if note.startswith("WARNING") else f"note: {note}", file=sys.stderr)
    return Answer(result, describe_retrieval(result))


app.command(short_help="Learn from labels on a run's encoder.")(transfer)
app.command(short_help="Put results side by side.")(compare)
app.command(short_help="Measure whether each stream holds its own factor.")(disentangle)


@app.command()
@answers
def predict(
    run: Run,
    images: Annotated[list[Path], typer.Argument(help="PNG, JPEG or DICOM files.", metavar="X")],
    ask: Annotated[
        list[str] | None, typer.Option("--ask", help="A name, or any text; may be repeated.", metavar="TEXT")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for heat maps over the images.", metavar="DIR")] = None,
    as_json: Json = False,
) -> Answer:
    """Read X-rays with a run. Findings, their anatomies, answers to questions, and overlays in the image's own pixels."""
    from medlip.app.predict import predict_all
    from medlip.app.reader import Reader
    from medlip.parallel import track

    entries = list(track(predict_all(Reader.open(run), images, ask or (), out), "reading", len(images)))
    bad = [entry for entry in entries if "error" in entry]
    for entry in bad:
        print("note: skipped:", entry["error"], file=sys.stderr)
    problem = f"{len(bad)} of {len(entries)} images could not be read; the first: {bad[0]['error']}" if bad else ""
    return Answer(entries[0] if len(entries) == 1 else entries, "\n\n".join(map(describe_reading, entries)), problem)


bench.command("store")(bench_store)
app.add_typer(bench, name="bench")
