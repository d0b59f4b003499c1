"""The command line: the commands, and one rule of exit codes for all of them.

| code | meaning |
|---|---|
| 0 | done |
| 1 | failed: the last line of stderr says why |
| 2 | wrong usage |
| 3 | done, but something was skipped or limits the result: notes on stderr say what |
| 130, 143 | interrupted by Ctrl-C or by SIGTERM, after saving what can be resumed |

Commands import what they need when they run, so that `medlip --help` answers at once.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import wraps
from inspect import Parameter
from types import FrameType
from typing import Annotated, NoReturn

import typer

from medlip.app.answer import Answer
from medlip.app.commands.ablate import ablate
from medlip.app.commands.audit import audit
from medlip.app.commands.bench import (
    bench_facts,
    bench_predict,
    bench_serve,
    bench_step,
    bench_store,
    bench_supervised,
    bench_transport,
)
from medlip.app.commands.calibrate import calibrate
from medlip.app.commands.compare import compare
from medlip.app.commands.convert import convert
from medlip.app.commands.data import check, hold_out, list_sets, overlap
from medlip.app.commands.demo import demo
from medlip.app.commands.disentangle import disentangle
from medlip.app.commands.evaluate import evaluate
from medlip.app.commands.export import export
from medlip.app.commands.facts import facts
from medlip.app.commands.plan import plan
from medlip.app.commands.predict import predict
from medlip.app.commands.prepare import prepare
from medlip.app.commands.pretrain import pretrain
from medlip.app.commands.push import card, push
from medlip.app.commands.recipes import list_recipes
from medlip.app.commands.recipes import show as show_recipe
from medlip.app.commands.reproduce import reproduce
from medlip.app.commands.retrieve import retrieve
from medlip.app.commands.serve import serve
from medlip.app.commands.show import show
from medlip.app.commands.transfer import transfer
from medlip.app.launcher import is_main
from medlip.app.options import Json, Plugin
from medlip.app.output import to_json
from medlip.errors import MedLIPError, MedLIPWarning

FAILED, NOTED, INTERRUPTED, TERMINATED = 1, 3, 130, 143
SPIN = "2000"
RESUMES = "Run the same command to resume."

app = typer.Typer(
    help="From chest X-rays and their reports to findings and where they are. Not a medical device.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help is quick, and a usage error then ends with the error itself
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data = typer.Typer(help="List, check and compare data sets.", no_args_is_help=True)
bench = typer.Typer(help="Measure speed on this machine.", no_args_is_help=True)
recipes = typer.Typer(help="List and show recipes.", no_args_is_help=True)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Args:
        arguments: as on the command line; None for those of this process.

    Raises:
        SystemExit: always, with the exit code.
    """
    # Before torch is loaded: threads that spin while they wait make a step three times slower on a machine that others use.
    # A short spin, about as long as it takes to wake a thread, costs next to nothing there and saves most waking elsewhere.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
    with _terminations() as terminated, _noted() as notes:
        try:
            app(args=arguments, prog_name="medlip")
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else FAILED
        except MedLIPError as error:
            code = _fail(str(error))
        except OSError as error:
            code = _fail(f"{error}. Check the path, its permissions and the free space.")
        except Exception as error:
            code = _fail(f"unexpected {type(error).__name__}: {error}. `medlip --debug ...` shows where; please report it.")
        if code == INTERRUPTED and terminated:
            code = TERMINATED
        raise SystemExit(NOTED if code == 0 and notes else code)


def _fail(message: str) -> int:
    if os.environ.get("MEDLIP_DEBUG"):
        import traceback

        traceback.print_exc()
    print("error:", " ".join(message.split()), file=sys.stderr)
    return FAILED


@contextmanager
def _terminations() -> Iterator[list[int]]:
    """Treat SIGTERM as Ctrl-C, which whatever saves its state understands, and list the ones that came."""
    received: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        received.append(number)
        signal.raise_signal(signal.SIGINT)

    try:
        previous = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: signals go to whoever runs there
        yield received
        return
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _noted() -> Iterator[list[str]]:
    """Print every `MedLIPWarning` once, as a note on stderr, and list them."""
    noted: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always", MedLIPWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: object) -> None:
            if not issubclass(category, MedLIPWarning):
                others(message, category, *where)  # type: ignore[arg-type]
            elif str(message) not in noted:
                noted.append(str(message))
                _note(str(message))

        warnings.showwarning = show  # type: ignore[assignment]
        yield noted


def _note(text: str) -> None:
    for line in text.splitlines():
        print(line if line.startswith("WARNING") else f"note: {line}", file=sys.stderr)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("medlip"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error.")] = False,
    plugin: Plugin = None,
) -> None:
    """Read the options of the program itself."""
    if debug:
        os.environ["MEDLIP_DEBUG"] = "1"


def _add(
    group: typer.Typer,
    function: Callable[..., Answer],
    name: str = "",
    *,
    interrupted: str = "",
    renamed: Mapping[str, str] | None = None,
) -> None:
    """Add a command.

    Args:
        group: where.
        function: takes the command's options; `--plugin` and `--json` come with every command. One that prints results as
            they come takes `as_json` itself, to know whether it may.
        name: the function's own if not given.
        interrupted: how to go on after an interruption.
        renamed: earlier names of options, still understood.
    """
    signature = inspect.signature(function, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "as_json"]
    prints_itself = len(own) < len(signature.parameters)

    @wraps(function)
    def run(*, as_json: bool, plugin: list[str] | None, **arguments: object) -> None:
        arguments |= {"as_json": as_json} if prints_itself else {}
        # Whatever a library prints on the way goes to stderr, so that stdout holds the document alone.
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            try:
                answer = function(**arguments)
            except KeyboardInterrupt:
                print(f"error: interrupted. {interrupted}".rstrip(), file=sys.stderr)
                raise
        for note in answer.notes if is_main() else ():
            if note.startswith("WARNING"):
                warnings.warn(note, MedLIPWarning, stacklevel=1)
            else:
                _note(note)
        if is_main() and (text := to_json(answer.document) if as_json else answer.text):
            print(text)
        if answer.failure:
            raise MedLIPError(answer.failure)

    shared = [
        Parameter("plugin", Parameter.KEYWORD_ONLY, default=None, annotation=Plugin),
        Parameter("as_json", Parameter.KEYWORD_ONLY, default=False, annotation=Json),
    ]
    parameters = [*own, *shared]
    run.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    names = {old.removeprefix("--"): new.removeprefix("--") for old, new in (renamed or {}).items()}
    group.command(
        name or function.__name__,
        short_help=(function.__doc__ or "").partition("\n")[0],  # given as such, it is never cut short
        context_settings={"token_normalize_func": lambda option: names.get(option, option)},
    )(run)


_add(app, demo, interrupted=RESUMES)
_add(app, prepare, interrupted=RESUMES, renamed={"--size": "--image-size"})
app.add_typer(data, name="data")
_add(data, list_sets, "list")
_add(data, check)
_add(data, overlap)
_add(data, hold_out, "hold-out")
_add(app, show)
_add(app, facts)
app.add_typer(recipes, name="recipes")
_add(recipes, list_recipes, "list")
_add(recipes, show_recipe, "show")
_add(app, pretrain, interrupted="Add --resume to the same command to resume.")
_add(app, plan)
_add(app, ablate, interrupted=RESUMES, renamed={"--jobs": "--workers"})
_add(app, evaluate, renamed={"--images": "--split-list"})
_add(app, retrieve)
_add(app, transfer, interrupted="With --out, the same command resumes after the last finished level.")
_add(app, compare)
_add(app, reproduce, interrupted=RESUMES)
_add(app, disentangle, renamed={"--images": "--probe-images"})
_add(app, audit)
_add(app, calibrate)
_add(app, predict)
_add(app, serve, interrupted="What was under way is finished.")
_add(app, convert)
_add(app, export)
_add(app, card)
_add(app, push)
app.add_typer(bench, name="bench")
_add(bench, bench_step, "step")
_add(bench, bench_predict, "predict")
_add(bench, bench_serve, "serve")
_add(bench, bench_facts, "facts")
_add(bench, bench_store, "store")
_add(bench, bench_transport, "transport")
_add(bench, bench_supervised, "supervised")
