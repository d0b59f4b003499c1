"""Requests to forms: within limits of size and time, in memory alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
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
    try:
        async with asyncio.timeout(limits.upload_seconds):
            parser = _InMemory(request.headers, _limited(request, limits), max_files=1, max_fields=2 * limits.texts + 8)
            parsed = await parser.parse()
    except TimeoutError:
        raise _too_slow(limits) from None
    except MultiPartException as error:
        raise bad_request(f"The form can't be read: {error.message}") from None
    except (UnicodeError, ValueError, LookupError):
        raise bad_request("The form can't be read: its parts are not what multipart/form-data says.") from None
    fields: dict[str, Any] = {}
    for name, kind in form.model_fields.items():
        values = [await value.read() if isinstance(value, UploadFile) else value for value in parsed.getlist(name)]
        if kind.annotation is bytes and any(isinstance(value, str) for value in values):
            raise bad_request(f"{name}: Send it as a file, with a file name.")
        if values:
            fields[name] = values if get_origin(kind.annotation) is tuple else values[0]
    await parsed.close()
    if set(parsed) - set(form.model_fields):
        raise bad_request(f"The form has a field that isn't known. Give these: {', '.join(form.model_fields)}.")
    return _valid(form, fields)


async def read_json(request: Request, form: type[Form], limits: Limits) -> Form:
    """Read a JSON document.

    Raises:
        ProblemError: it is none, is too large or too slow, or its fields aren't the form's.
    """
    _require_type(request, _JSON)
    try:
        async with asyncio.timeout(limits.upload_seconds):
            body = b"".join([chunk async for chunk in _limited(request, limits)])
    except TimeoutError:
        raise _too_slow(limits) from None
    return _valid(form, body)


class _InMemory(MultiPartParser):
    spool_max_size = 0  # a part is never written to disk, however large: `_limited` sees to its size


async def _limited(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limits.upload_bytes:
                raise _too_large(limits)
            yield chunk
    except ClientDisconnect:
        raise bad_request("The upload ended too early.") from None


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
