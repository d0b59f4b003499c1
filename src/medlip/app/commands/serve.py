"""`medlip serve`: trained models behind HTTP, with a viewer."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from medlip.about import DISCLAIMER
from medlip.app.answer import Answer
from medlip.app.options import Batch, Device, Json, TextBank, TextEncoder, Workers
from medlip.app.output import to_json
from medlip.errors import MedLIPError


def serve(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Folders of trained runs, or models as for predict; the first reads where none is named.", metavar="RUN"
        ),
    ],
    host: Annotated[str, typer.Option("--host", help="Address to listen on.", metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port; 0 takes any free one.", min=0, max=65535, metavar="N")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar="MEDLIP_TOKEN",
            show_envvar=True,
            help="What requests must bear; needed beyond this machine. Other users may see an option: use the variable.",
            metavar="TOKEN",
        ),
    ] = None,
    examples: Annotated[
        str, typer.Option("--examples", help="X-rays to try: phantom, or a folder.", metavar="phantom|DIR")
    ] = "phantom",
    batch: Batch = 16,
    workers: Workers = None,
    device: Device = "auto",
    text_bank: TextBank = None,
    text_encoder: TextEncoder = None,
    as_json: Json = False,
) -> Answer:
    """Serve models to a browser and to programs.

    There is a viewer at the printed address, and an API, which /openapi.json describes. Only this machine reaches it unless
    --host says otherwise; then it asks for a token. Uploads are read in memory and not kept. Ctrl-C or SIGTERM let it finish
    what is under way. With --json, a document with the address is printed as soon as the server is ready.
    """
    from medlip.app.server.guard import require_token

    require_token(host, token)
    try:
        from medlip.app.server.application import make_app
        from medlip.app.server.run import address_of, listen, run
    except ModuleNotFoundError as error:
        raise MedLIPError(f"{error.name} is not installed. Install the server: pip install 'medlip[server]'.") from error
    from medlip.app.reader import Reader
    from medlip.app.server.examples import open_examples
    from medlip.app.server.limits import Limits
    from medlip.parallel import cpu_count

    limits = Limits()
    with listen(host, port) as taken:
        readers = [Reader.open(run_, device, text_bank=text_bank, text_encoder=text_encoder) for run_ in runs]
        app = make_app(
            readers, open_examples(examples), token=token, limits=limits, batch_size=batch, decoders=workers or cpu_count()
        )
        address, names = address_of(taken), [reader.model.name for reader in readers]
        document = {"address": address, "models": names, "disclaimer": DISCLAIMER}

        def announce() -> None:
            text = f"Serving {', '.join(names)} at {address}\n{DISCLAIMER} Ctrl-C stops the server."
            print(to_json(document, indent=None) if as_json else text, file=sys.__stdout__, flush=True)

        run(app, taken, announce, limits)
    return Answer(document, "")
