"""Options that several commands share: one meaning, one name, one text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from medlip.plugins import load_plugin


def _load_plugins(names: list[str] | None) -> list[str] | None:
    for name in names or ():
        load_plugin(name)
    return names


RecipeName = Annotated[
    str, typer.Argument(help="Name of a recipe (`medlip recipes list`), or a YAML file.", metavar="RECIPE")
]
Run = Annotated[
    str,
    typer.Argument(
        help="Folder of a trained run, its model.safetensors, or a model of the Hugging Face hub (hf://org/name@revision).",
        metavar="RUN",
    ),
]
Results = Annotated[
    list[Path] | None,
    typer.Option("--results", help="Result of an evaluation of this model, for its card; repeatable.", metavar="DIR"),
]
License = Annotated[
    str | None,
    typer.Option("--license", help="Licence of the weights, as the hub names it: apache-2.0, other …", metavar="NAME"),
]
TextBank = Annotated[
    Path | None,
    typer.Option("--text-bank", help="Embeddings that released weights come without, an .npz file.", metavar="FILE"),
]
TextEncoder = Annotated[
    str | None,
    typer.Option("--text-encoder", help="What embeds the texts of released weights: hub name or folder.", metavar="NAME"),
]
Data = Annotated[
    str,
    typer.Option(
        "--data", help="A prepared store, phantom:N, or NAME:DIR (`medlip data list` shows the names).", metavar="SOURCE"
    ),
]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="Change a setting of the recipe; repeatable.", metavar="KEY=VALUE")
]
Split = Annotated[
    str | None,
    typer.Option("--split", help="Split to evaluate. Default: test if present, otherwise val.", metavar="NAME"),
]
Pairs = Annotated[
    Path | None,
    typer.Option("--pairs", help="Pairs held out of training, from `medlip data hold-out`.", metavar="FILE"),
]
ImageSize = Annotated[int, typer.Option("--image-size", help="Side of the input in pixels.", min=32, metavar="PIXELS")]
Vocabulary = Annotated[
    Path | None,
    typer.Option("--vocabulary", help="YAML file with your own pathologies, anatomies and words.", metavar="FILE"),
]
Seed = Annotated[int, typer.Option("--seed", help="Random seed.", min=0, metavar="N")]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Number of processes. Default: one per core.", min=0, metavar="N")
]
Engine = Annotated[
    Literal["local", "ray"],
    typer.Option("--engine", help="What does the work: processes of this machine, or a Ray cluster."),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address", help="Ray cluster: auto, or HOST:PORT. Default: one is started on this machine.", metavar="ADDRESS"
    ),
]
Batch = Annotated[int, typer.Option("--batch", help="Images computed at a time.", min=1, metavar="N")]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    typer.Option("--device", help="Device to compute on; auto uses a GPU if available."),
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    typer.Option("--precision", help="Numerical precision; bf16 and fp16 are mixed, auto uses bf16 where it is fast."),
]
Plugin = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        help="Load an installed module or a .py file with your own methods, sources or measures first; repeatable.",
        metavar="MODULE",
        is_eager=True,
        callback=_load_plugins,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on stdout.")]
