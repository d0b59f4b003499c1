"""What every request passes first, and every response last: token, origin, security headers, metrics, log."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import MutableMapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medlip.about import DISCLAIMER
from medlip.app.server.metrics import Metrics
from medlip.app.server.problems import ProblemError, unexpected
from medlip.errors import MedLIPError

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "font-src 'self'",
        "worker-src 'self' blob:",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "X-Disclaimer": DISCLAIMER,
}
PRIVATE = ("/v1/", "/metrics", "/openapi.json")
SHORTEST_TOKEN = 16
log = logging.getLogger("medlip.server")


def require_token(host: str, token: str | None) -> None:
    """Check that a server may listen on a host.

    Raises:
        MedLIPError: others could reach it and it asks for no token, or the token is easily guessed.
    """
    if not token and not is_loopback(host):
        raise MedLIPError(
            f"--host {host}: other machines could read with your models. Set a token in the environment variable "
            "MEDLIP_TOKEN, or listen on 127.0.0.1."
        )
    if token and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token):
        raise MedLIPError(
            f"the token is too easily guessed, or can't be sent: give {SHORTEST_TOKEN} or more ASCII letters and digits, "
            'such as `python -c "import secrets; print(secrets.token_urlsafe())"` prints.'
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """Lets requests through to an application.

    Args:
        app: the application.
        token: that requests for data must bear; None for none: then only pages of this server itself are let through, on
            this machine.
        metrics: told of each request.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._token = token.encode() if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                _add_headers(message)
            await send(message)

        try:
            refused = self._refusal(scope)
            if refused is None:
                await self._app(scope, receive, send_with_headers)
            else:
                await refused.response(scope, receive, send_with_headers)
        except Exception as error:
            problem = unexpected(error)
            if not started:
                await problem.response(scope, receive, send_with_headers)
        path = getattr(scope.get("route"), "path", "other")  # as it was declared, never as it was asked for
        seconds = time.perf_counter() - began
        self._metrics.observe_request(path, status, seconds)
        log.info("%s %s %d %.0f ms", scope["method"] if scope["method"] in _METHODS else "?", path, status, 1000 * seconds)

    def _refusal(self, scope: Scope) -> ProblemError | None:
        headers = Headers(scope=scope)
        if self._token is None:
            return _foreign(scope, headers)
        if not scope["path"].startswith(PRIVATE):
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token):
            return None
        return ProblemError(
            401,
            "token",
            "A token is needed",
            "Send the server's token: `Authorization: Bearer TOKEN`.",
            {"WWW-Authenticate": 'Bearer realm="medlip"'},
        )


_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


def _foreign(scope: Scope, headers: Headers) -> ProblemError | None:
    """Refuse what a page of another site makes a browser on this machine send."""
    host = headers.get("host", "")
    if not is_loopback(_name(host)):  # a name of their own that leads here
        return ProblemError(421, "host", "This server goes by another name", "Ask for 127.0.0.1 or localhost.")
    if scope["method"] in ("GET", "HEAD"):
        return None
    origin = headers.get("origin")
    if headers.get("sec-fetch-site") == "cross-site" or (origin is not None and urlsplit(origin).netloc != host):
        return ProblemError(403, "cross-site", "A page of another site asked", "This server answers its own pages alone.")
    return None


def _name(host: str) -> str:
    """Return a Host header without its port: "[::1]:8000" -> "::1"."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _add_headers(message: MutableMapping[str, object]) -> None:
    headers = MutableHeaders(raw=message["headers"])  # type: ignore[arg-type]
    for name, value in HEADERS.items():
        headers[name] = value
    headers.setdefault("Cache-Control", "no-store")
