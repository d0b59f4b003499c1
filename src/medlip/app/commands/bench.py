"""`medlip bench`: how fast this machine is at each part of the work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from medlip.app.answer import Answer
from medlip.app.options import Batch, Changes, Data, Device, ImageSize, Precision, Seed, Split
from medlip.app.output import describe_results
from medlip.tables import aligned

UntrainedRecipe = Annotated[
    str, typer.Option("--recipe", help="Recipe of the model, which stays untrained.", metavar="RECIPE")
]


def bench_step(
    method: Annotated[str, typer.Option("--method", help="Method to time.", metavar="NAME")] = "medslip",
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", help="timm model of the image encoder. Default: by method.", metavar="NAME"),
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", help="Images per step. Default: by method.", min=1, metavar="N")
    ] = None,
    image_size: ImageSize = 224,
    changes: Changes = None,
    repeats: Annotated[int, typer.Option("--repeats", help="Steps to time of each kind.", min=1, metavar="N")] = 5,
    device: Device = "auto",
    precision: Precision = "fp32",
    seed: Seed = 0,
) -> Answer:
    """Time a training step, its networks alone, and its plain form.

    Beside the times: memory, floating-point operations, and the share of the device's best matrix product.
    """
    from medlip.training.bench import bench_step as measure
    from medlip.training.recipe import parse_override

    given = (parse_override(change) for change in changes or ())
    settings = {key.removeprefix("method."): value for key, value in given}  # only those of the method matter to a step
    return _measured(
        measure(
            method,
            backbone,
            batch,
            image_size,
            settings=settings,
            precision=precision,
            repeats=repeats,
            seed=seed,
            device=device,
        )
    )


def bench_predict(
    recipe: UntrainedRecipe = "medslip-phantom",
    image_size: ImageSize = 256,
    batch: Batch = 16,
    device: Device = "auto",
    seed: Seed = 0,
) -> Answer:
    """Time reading an image with its maps, and the image encoder alone.

    Arrays of --image-size pixels are read one at a time and in batches, the maps of the findings that are shown drawn;
    beside it the backbone's forward pass, and the time from starting Python to the first reading.
    """
    from medlip.app.bench import bench_predict as measure

    return _measured(measure(recipe, image_size, batch, device=device, seed=seed))


def bench_serve(
    recipe: UntrainedRecipe = "medslip-phantom",
    image_size: ImageSize = 256,
    batch: Batch = 16,
    clients: Annotated[int, typer.Option("--clients", help="Clients that ask at once.", min=1, metavar="N")] = 32,
    requests: Annotated[int, typer.Option("--requests", help="Requests in all.", min=1, metavar="N")] = 2000,
    device: Device = "auto",
    seed: Seed = 0,
) -> Answer:
    """Time a server with many clients, and the bare model.

    Clients of this machine send PNGs of --image-size pixels to be read; in turn with them, the model answers tensors. Also
    says how much memory the server takes, and how that grows: with --requests 10000, a soak test.
    """
    from medlip.app.server.bench import bench_serve as measure

    return _measured(measure(recipe, image_size, batch, clients=clients, requests=requests, device=device, seed=seed))


def bench_facts(
    reports: Annotated[int, typer.Option("--reports", help="Reports to generate.", min=1, metavar="N")] = 20_000,
    graphs: Annotated[int, typer.Option("--graphs", help="RadGraph graphs to generate.", min=1, metavar="N")] = 5_000,
    seed: Seed = 0,
) -> Answer:
    """Time the extraction of facts from reports.

    From a file of reports, and from a file of RadGraph graphs, to a file of facts, on one core.
    """
    from medlip.reports.bench import bench_facts as measure

    return _measured(measure(reports, graphs, seed))


def bench_store(
    images: Annotated[int, typer.Option("--images", help="Images to store.", min=1, metavar="N")] = 512,
) -> Answer:
    """Time reading images from a store, and from their original files."""
    from medlip.data.bench import bench_store as measure
    from medlip.nn.cpu import keep_freed_memory

    keep_freed_memory()  # as training does
    return _measured(measure(images))


def bench_transport(
    images: Annotated[int, typer.Option("--images", help="Images to match.", min=1, metavar="N")] = 64,
    reports: Annotated[
        int, typer.Option("--reports", help="Reports to match, each with every image.", min=1, metavar="N")
    ] = 64,
    epsilon: Annotated[float, typer.Option("--epsilon", help="Weight of the entropy.", min=0, metavar="X")] = 0.05,
    seed: Seed = 0,
) -> Answer:
    """Time transport plans: all pairs at once, and one at a time with POT."""
    from medlip.nn.transport_bench import bench_transport as measure

    return _measured(measure(images, reports, epsilon=epsilon, seed=seed))


def bench_supervised(
    data: Data,
    seconds: Annotated[float, typer.Option("--seconds", help="Seconds to train.", min=1, metavar="X")] = 420,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            help="timm model to train. Default: that of medslip-openi-cpu, with its ImageNet weights.",
            metavar="NAME",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights", help="With --backbone, its initial weights: timm, or a file. Default: random.", metavar="NAME"
        ),
    ] = None,
    image_size: ImageSize = 128,
    split: Split = None,
    device: Device = "auto",
    precision: Precision = "auto",
    seed: Seed = 0,
) -> Answer:
    """Train a classifier on labels and evaluate it, as a yardstick.

    It learns from the labels of the train split, so it says what zero-shot results from reports alone are up against.
    """
    from medlip.app.input import evaluation_store
    from medlip.evaluation.results import Result
    from medlip.experiments.supervised import bench_supervised as measure

    with evaluation_store(data) as store:
        measured = measure(
            store,
            split=split,
            seed=seed,
            seconds=seconds,
            backbone=backbone,
            weights=weights,
            size=image_size,
            device=device,
            precision=precision,
        )
    result = Result.model_validate({key: value for key, value in measured.items() if key != "supervised"})
    return Answer(measured, describe_results(result), notes=result.notes)


def _measured(result: Mapping[str, object]) -> Answer:
    return Answer(result, aligned(list(result.items())))
