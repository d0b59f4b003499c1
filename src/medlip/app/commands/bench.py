"""`medlip bench`: how fast this machine is at each part of the work."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from medlip.app.output import Answer, Data, Json, answers, describe_results, table

bench = typer.Typer(help="Measure speed on this machine.", no_args_is_help=True)


@bench.command()
@answers
def step(
    method: Annotated[str, typer.Option(help="Name of the method.")] = "medslip",
    backbone: Annotated[str | None, typer.Option(help="timm model of the image encoder.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step.", min=1)] = None,
    image_size: Annotated[int, typer.Option(help="Side of the input in pixels.", min=32)] = 224,
    as_json: Json = False,
) -> Answer:
    """Time a training step. Beside it stand its networks alone."""
    from medlip.training.bench import bench_step

    return _measured(bench_step(method, backbone, batch, image_size))


@bench.command()
@answers
def facts(
    reports: Annotated[int, typer.Option(help="Generated reports.", min=1)] = 20_000,
    graphs: Annotated[int, typer.Option(help="Generated RadGraph graphs.", min=1)] = 5_000,
    seed: int = 0,
    as_json: Json = False,
) -> Answer:
    """Time reports to facts. From a file of reports, and of RadGraph graphs, to a file of facts, on one core."""
    from medlip.reports.bench import bench_facts

    return _measured(bench_facts(reports, graphs, seed))


@bench.command()
@answers
def supervised(
    data: Data,
    seconds: Annotated[float, typer.Option(help="Time to train.", min=1)] = 420,
    backbone: Annotated[str, typer.Option(help="timm model.")] = "resnet18",
    weights: Annotated[str | None, typer.Option(help="Initial weights: timm, or a file; none for random.")] = None,
    image_size: Annotated[int, typer.Option(help="Side of the input in pixels.", min=32)] = 128,
    split: Annotated[str | None, typer.Option(help="Split to evaluate.", metavar="NAME")] = None,
    seed: int = 0,
    as_json: Json = False,
) -> Answer:
    """Train on labels instead. A classifier of the train split's labels: the yardstick for what reports alone give."""
    from medlip.app.input import evaluation_store
    from medlip.experiments.supervised import bench_supervised

    with evaluation_store(data) as store:
        result = bench_supervised(
            store, split=split, seed=seed, seconds=seconds, backbone=backbone, weights=weights, size=image_size
        )
    return Answer(result, describe_results(result))


@bench.command()
@answers
def transport(
    images: Annotated[int, typer.Option(help="Images.", min=1)] = 64,
    reports: Annotated[int, typer.Option(help="Reports; every image is matched with every report.", min=1)] = 64,
    epsilon: Annotated[float, typer.Option(help="Weight of the entropy.", min=0)] = 0.05,
    seed: int = 0,
    as_json: Json = False,
) -> Answer:
    """Time transport plans. All pairs of images and reports at once, beside POT one by one."""
    from medlip.nn.transport_bench import bench_transport

    return _measured(bench_transport(images, reports, epsilon=epsilon, seed=seed))


def _measured(result: dict[str, Any]) -> Answer:
    return Answer(result, table(list(result.items())))
