"""Requests to forms: within limits of size and time, in memory alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from email import message_from_bytes
from email.message import Message
from typing import Any, NamedTuple, TypeVar, get_origin

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from medlip.app.server.limits import Limits
from medlip.app.server.problems import ProblemError, bad_request, busy

Form = TypeVar("Form", bound=BaseModel)
_JSON, _MULTIPART = "application/json", "multipart/form-data"
_DRAIN_SECONDS = 10


class Gate:
    """How many requests may be inside, and with how much."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.inside, self._bytes = 0, 0

    @asynccontextmanager
    async def admit(self, request: Request) -> AsyncIterator[None]:
        """Let a request in while its work lasts.

        Raises:
            ProblemError: too large, or too many are inside.
        """
        size = _announced(request, self.limits.upload_bytes)
        if size > self.limits.upload_bytes:
            await _drain(request, self.limits.upload_bytes)
            raise _too_large(self.limits)
        if self.inside >= self.limits.waiting or self._bytes + size > self.limits.waiting_bytes:
            await _drain(request, self.limits.upload_bytes)
            raise busy("Too many requests wait to be answered. Send this one again in a second.")
        self.inside += 1
        self._bytes += size
        try:
            yield
        finally:
            self.inside -= 1
            self._bytes -= size


async def read_form(request: Request, form: type[Form], limits: Limits) -> Form:
    """Read a multipart form; nothing of it touches the disk.

    Raises:
        ProblemError: it is none, is too large or too slow, or its fields aren't the form's.
    """
    _require_type(request, _MULTIPART)
    parts = _parts(request.headers["content-type"], await _body(request, limits), 2 * limits.texts + len(form.model_fields))
    fields: dict[str, Any] = {}
    for part in parts:
        kind = form.model_fields.get(part.name)
        if kind is None:
            raise bad_request(f"The form has a field that isn't known. Give these: {', '.join(form.model_fields)}.")
        if kind.annotation is bytes and not part.is_file:
            raise bad_request(f"{part.name}: Send it as a file, with a file name.")
        value = part.content if kind.annotation is bytes else _text(part)
        if get_origin(kind.annotation) is tuple:
            fields.setdefault(part.name, []).append(value)
        elif part.name in fields:
            raise bad_request(f"{part.name}: Send it once.")
        else:
            fields[part.name] = value
    return _valid(form, fields)


async def read_json(request: Request, form: type[Form], limits: Limits) -> Form:
    """Read a JSON document.

    Raises:
        ProblemError: it is none, is too large or too slow, or its fields aren't the form's.
    """
    _require_type(request, _JSON)
    return _valid(form, await _body(request, limits))


class _Part(NamedTuple):
    """A field of a form."""

    name: str
    is_file: bool
    content: bytes


def _parts(content_type: str, body: bytes, most: int) -> Iterator[_Part]:
    """Yield the fields of a form (RFC 7578), in one piece each: files are large, and Python is slow byte by byte."""
    kind = Message()
    kind["content-type"] = content_type
    boundary = kind.get_param("boundary")
    if not isinstance(boundary, str) or not boundary.isascii():
        raise bad_request("The form can't be read: Content-Type names no boundary.")
    _, *pieces = (b"\r\n" + body).split(b"\r\n--" + boundary.encode(), most + 2)
    if not pieces or not pieces[-1].startswith(b"--"):
        raise bad_request(f"The form can't be read: it ends too early, or has more than {most} fields.")
    for piece in pieces[:-1]:
        line, _, rest = piece.partition(b"\r\n")
        head, blank, content = rest.partition(b"\r\n\r\n")
        headers = message_from_bytes(head)
        name = headers.get_param("name", header="content-disposition")
        if line.strip() or not blank or not isinstance(name, str):
            raise bad_request("The form can't be read: a field has no name, or no end.")
        yield _Part(name, headers.get_param("filename", header="content-disposition") is not None, content)


def _text(part: _Part) -> str:
    try:
        return part.content.decode()
    except UnicodeDecodeError:
        raise bad_request(f"{part.name}: Send text in UTF-8.") from None


async def _body(request: Request, limits: Limits) -> bytes:
    """Read a request's body into memory.

    Raises:
        ProblemError: it is too large or too slow, or ends too early.
    """
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.upload_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limits.upload_bytes:
                    raise _too_large(limits)
                chunks.append(chunk)
    except TimeoutError:
        raise _too_slow(limits) from None
    except ClientDisconnect:
        raise bad_request("The upload ended too early.") from None
    return b"".join(chunks)


async def _drain(request: Request, most: int) -> None:
    """Read what is still being sent, so that the sender gets to read the answer; not for ever."""
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for chunk in request.stream():
                most -= len(chunk)
                if most < 0:
                    return
    except (TimeoutError, ClientDisconnect):
        return


def _announced(request: Request, otherwise: int) -> int:
    """Return how many bytes a request says that it has."""
    size = request.headers.get("content-length", "")
    return int(size) if size.isascii() and size.isdigit() else otherwise


def _require_type(request: Request, wanted: str) -> None:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != wanted:
        raise ProblemError(415, "media-type", "The request has the wrong type", f"Send {wanted}.")


def _valid(form: type[Form], fields: dict[str, Any] | bytes) -> Form:
    try:
        return form.model_validate_json(fields) if isinstance(fields, bytes) else form.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] in ("missing", "json_invalid"):
            raise bad_request(f"{name or 'The body'}: {first['msg']}.") from None
        raise ProblemError(422, "bad-value", "A value is out of range", f"{name or 'The body'}: {first['msg']}.") from None


def _too_large(limits: Limits) -> ProblemError:
    return ProblemError(
        413,
        "too-large",
        "The upload is too large",
        f"This server takes {limits.upload_bytes >> 20} MiB at most. Compress the image, or send fewer pixels.",
    )


def _too_slow(limits: Limits) -> ProblemError:
    return ProblemError(408, "too-slow", "The upload came too slowly", f"It took over {limits.upload_seconds:g} seconds.")
