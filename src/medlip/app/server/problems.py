"""What goes wrong, said so that a person understands it: application/problem+json (RFC 9457)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from traceback import extract_tb

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from medlip.about import DISCLAIMER
from medlip.errors import MedLIPError

MEDIA_TYPE = "application/problem+json"
log = logging.getLogger("medlip.server")


class ProblemDocument(BaseModel):
    """What went wrong, and what to do."""

    model_config = ConfigDict(title="Problem")

    type: str = Field(description="Which kind of problem: urn:medlip:problem:…")
    title: str = Field(description="The kind in a few words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What is wrong and what to do, in sentences.")
    disclaimer: str = DISCLAIMER


class ProblemError(Exception):
    """A request that isn't answered.

    Args:
        status: of HTTP.
        kind: as in the problem's type: "too-large".
        title: the kind in a few words.
        detail: what is wrong and what to do; never what was uploaded.
        headers: of the response.
    """

    def __init__(self, status: int, kind: str, title: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.document = ProblemDocument(type=f"urn:medlip:problem:{kind}", title=title, status=status, detail=detail)
        self.headers = headers

    @property
    def response(self) -> Response:
        """The response that says so."""
        return Response(self.document.model_dump_json(), self.document.status, self.headers, MEDIA_TYPE)


def unreadable_image(error: MedLIPError) -> ProblemError:
    """Return the problem of a file that can't be read."""
    return ProblemError(422, "unreadable-image", "The image can't be read", _sentence(error))


def unanswerable(error: MedLIPError) -> ProblemError:
    """Return the problem of a question or text that can't be answered."""
    return ProblemError(422, "unanswerable", "This can't be answered", _sentence(error))


def bad_request(detail: str) -> ProblemError:
    """Return the problem of a request that isn't what its path takes."""
    return ProblemError(400, "bad-request", "The request can't be understood", detail)


def not_found(detail: str) -> ProblemError:
    """Return the problem of something that isn't there."""
    return ProblemError(404, "not-found", "There is no such thing here", detail)


def busy(detail: str) -> ProblemError:
    """Return the problem of a server that has too much to do."""
    return ProblemError(503, "busy", "The server is busy", detail, {"Retry-After": "1"})


def unexpected(error: Exception) -> ProblemError:
    """Return the problem of a fault of the server, and log where it is; not its message, which may quote an upload."""
    place = extract_tb(error.__traceback__)[-1:]
    where = f"{place[0].filename}:{place[0].lineno}" if place else "nowhere"
    log.error("unexpected %s at %s", type(error).__name__, where)
    return ProblemError(
        500,
        "fault",
        "The server made a mistake",
        f"An unexpected {type(error).__name__}. The log says where; please report it.",
    )


def add_handlers(app: FastAPI) -> None:
    """Answer with a problem whatever a route raises."""

    @app.exception_handler(ProblemError)
    def _say(_: Request, problem: ProblemError) -> Response:
        return problem.response

    @app.exception_handler(HTTPException)
    def _translate(_: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return not_found("There is nothing at this address. /openapi.json says what there is.").response
        title = detail = HTTPStatus(error.status_code).phrase
        if error.status_code == 405:
            detail = "This address doesn't take that method. /openapi.json says what it takes."
        return ProblemError(error.status_code, title.lower().replace(" ", "-"), title, detail, error.headers).response


def _sentence(error: MedLIPError) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]
