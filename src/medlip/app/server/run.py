"""Listening: an address, and a server on it until it is told to stop."""

from __future__ import annotations

import gc
import logging
import socket
import sys
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from medlip.app.server.limits import Limits
from medlip.errors import MedLIPError

BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """Take an address.

    Args:
        host: name or number of a network address of this machine.
        port: 0 for any that is free.

    Raises:
        MedLIPError: it is taken, not this machine's, or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind, protocol)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        taken.listen(BACKLOG)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise MedLIPError(f"can't listen on {host}, port {port} ({why}). Give another --port, or another --host.") from error
    return taken


def address_of(taken: socket.socket) -> str:
    """Return the address of a server as a browser takes it."""
    host, port = taken.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(app: FastAPI, taken: socket.socket, announce: Callable[[], None], limits: Limits) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what is under way.

    Args:
        app: what answers.
        taken: where it listens.
        announce: called when it is ready.
        limits: how long what is under way may take.

    Raises:
        KeyboardInterrupt: it was stopped, after all was finished.
        MedLIPError: it did not start.
    """
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("medlip.server").setLevel(logging.INFO)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # it would name addresses as they were asked for
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=limits.stop_seconds,
    )
    server = _Server(config, announce)
    server.run(sockets=[taken])
    if not server.started:
        raise MedLIPError("the server did not start; the lines above say why.")


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.freeze()  # what the models are made of stays; looking through it at every other request takes long
        if self.started:
            self._announce()
