"""The API as an application: what each address answers."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, TypeAlias

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from medlip.about import DISCLAIMER
from medlip.app.reader import Reader
from medlip.app.server.answers import (
    AskAnswer,
    AskForm,
    Basis,
    ExamplesAnswer,
    FactsAnswer,
    FactsForm,
    LimitsEntry,
    ModelEntry,
    ModelsAnswer,
    PixelsForm,
    ReadAnswer,
    ReadForm,
    StateAnswer,
)
from medlip.app.server.batching import Batcher, Wanted
from medlip.app.server.decoding import Decoders, decode, display
from medlip.app.server.examples import Examples, NoExamples, media_type
from medlip.app.server.guard import Guard
from medlip.app.server.limits import Limits
from medlip.app.server.metrics import CONTENT_TYPE, Metrics
from medlip.app.server.problems import (
    MEDIA_TYPE,
    ProblemDocument,
    add_handlers,
    busy,
    not_found,
    unanswerable,
    unreadable_image,
)
from medlip.app.server.uploads import Gate, read_form, read_json
from medlip.app.server.viewer_files import ViewerFiles
from medlip.errors import MedLIPError, name_some
from medlip.images import XRay
from medlip.reports.extract import extractor
from medlip.reports.stream import LITTLE, LITTLE_READ

Responses: TypeAlias = dict[int | str, dict[str, object]]
Add: TypeAlias = Callable[[Callable[..., Any]], object]
_PROBLEM: dict[str, object] = {
    "description": "A problem.",
    "content": {MEDIA_TYPE: {"schema": ProblemDocument.model_json_schema()}},
}
_PROBLEMS: Responses = {
    status: {**_PROBLEM, "description": description}
    for status, description in {
        400: "The request can't be understood.",
        401: "A token is needed.",
        403: "A page of another site asked.",
        404: "There is no such model.",
        408: "The upload came too slowly.",
        413: "The upload is too large.",
        415: "The request has the wrong type.",
        421: "The server was asked for by another name.",
        422: "The image or report can't be read, a question can't be answered, or a value is out of range.",
        500: "The server made a mistake.",
        503: "The server is busy; Retry-After says in how many seconds to come again.",
    }.items()
}


def _header(description: str, type: str) -> dict[str, object]:
    return {"description": description, "schema": {"type": type}}


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_PIXELS = {
    "description": "uint16, little-endian, row by row: upright, bright where the body is dense.",
    "content": {"application/octet-stream": _BINARY},
    "headers": {
        "X-Image-Height": _header("Rows.", "integer"),
        "X-Image-Width": _header("Columns.", "integer"),
        "X-Image-Bits": _header("Numbers go from 0 to 2 ** bits - 1.", "integer"),
        "X-Window-Center": _header("A number's grey is (number - center) / width + 0.5, cut to 0 to 1.", "number"),
        "X-Window-Width": _header("See X-Window-Center.", "number"),
        "X-Image-Notes": _header("What reading the file left out, assumed or turned: a JSON array in ASCII.", "string"),
        "X-Not-Frontal": _header("What the file says that this is instead of a frontal chest X-ray.", "string"),
    },
}
_EXAMPLE = {
    "description": "The file.",
    "content": dict.fromkeys(("image/png", "image/jpeg", "image/tiff", "application/dicom"), _BINARY),
}
_METRICS = {"description": "Text for Prometheus.", "content": {"text/plain": {"schema": {"type": "string"}}}}


@dataclass(frozen=True, slots=True)
class _Served:
    """A model that is served."""

    entry: ModelEntry
    reader: Reader
    worth: Basis
    batcher: Batcher


def make_app(
    readers: Sequence[Reader],
    examples: Examples | None = None,
    *,
    token: str | None = None,
    limits: Limits | None = None,
    batch_size: int = 16,
    decoders: int = 1,
) -> FastAPI:
    """Return the application that serves models.

    Args:
        readers: the models; the first one reads where none is named.
        examples: X-rays to try them on.
        token: that requests for data must bear; None where only this machine reaches the server.
        limits: how much it takes on.
        batch_size: images that a model reads at a time, at most.
        decoders: processes that decode files.
    """
    service = _Service(readers, examples or NoExamples(), limits or Limits(), batch_size, decoders)
    app = FastAPI(
        title="MedLIP",
        version=version("medlip"),
        summary="What a model reads from chest X-rays.",
        description=DISCLAIMER,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        lifespan=service.live,
    )
    service.add_routes(app)
    add_handlers(app)
    app.add_middleware(Guard, token=token, metrics=service.metrics)
    return app


class _Service:
    """What the routes share."""

    def __init__(
        self, readers: Sequence[Reader], examples: Examples, limits: Limits, batch_size: int, decoders: int
    ) -> None:
        self.metrics, self.gate, self.limits = Metrics(), Gate(limits), limits
        self._examples, self._viewer, self._ready = examples, ViewerFiles(), False
        self._decoder_count = decoders
        self._computing = ThreadPoolExecutor(1, "model")  # models take turns: each uses all cores
        self._models = {id: self._serve(id, reader, batch_size) for id, reader in zip(_ids(readers), readers, strict=True)}

    def _serve(self, id: str, reader: Reader, batch_size: int) -> _Served:
        worth = Basis.of(reader)
        batcher = Batcher(reader, self._computing, batch_size, partial(self.metrics.observe_batch, id))
        return _Served(ModelEntry.of(id, reader, worth), reader, worth, batcher)

    @asynccontextmanager
    async def live(self, _: FastAPI) -> AsyncIterator[None]:
        """Start the processes that decode; read an image and a report for each model, which makes the next one quick."""
        self._decoders = await asyncio.to_thread(Decoders, self._decoder_count, self.limits)
        self.metrics.watch("medlip_waiting", "Requests that are read or answered now.", lambda: self.gate.inside)
        self.metrics.watch("medlip_decoder_restarts", "Decoders that ended with a file.", lambda: self._decoders.restarts)
        for served in self._models.values():
            size = served.reader.method.preprocessing.size
            noise = np.random.default_rng(0).integers(0, 255, (size, size), np.uint8)
            await served.batcher.read(Wanted(XRay(noise), (), ()))
            await asyncio.to_thread(_read_report, served.reader, "No pneumothorax.")
        self._ready = True
        try:
            yield
        finally:
            self._ready = False
            self._computing.shutdown()
            self._decoders.close()

    def add_routes(self, app: FastAPI) -> None:
        """Declare what each address answers."""

        def takes(path: str, answer: type[BaseModel] | None, body: type[BaseModel], **returned: Any) -> Add:
            media = "application/json" if body is FactsForm else "multipart/form-data"
            content = {media: {"schema": body.model_json_schema()}}
            return app.post(
                path,
                response_model=answer,
                responses={**_PROBLEMS, **({200: returned} if returned else {})},
                openapi_extra={"requestBody": {"required": True, "content": content}},
            )

        def gives(path: str, answer: type[BaseModel] | None, **returned: Any) -> Add:
            responses: Responses = {"default": _PROBLEM, **({200: returned} if returned else {})}
            return app.get(path, response_model=answer, responses=responses)

        takes("/v1/read", ReadAnswer, ReadForm)(self.read)
        takes("/v1/ask", AskAnswer, AskForm)(self.ask)
        takes("/v1/facts", FactsAnswer, FactsForm)(self.facts)
        takes("/v1/pixels", None, PixelsForm, **_PIXELS)(self.pixels)
        gives("/v1/models", ModelsAnswer)(self.models)
        gives("/v1/examples", ExamplesAnswer)(self.list_examples)
        gives("/v1/examples/{id}", None, **_EXAMPLE)(self.example)
        gives("/health", StateAnswer)(self.health)
        gives("/ready", StateAnswer)(self.ready)
        gives("/metrics", None, **_METRICS)(self.tell_metrics)
        for name in self._viewer.names:
            app.get(f"/{name}", include_in_schema=False)(partial(self._viewer.answer, name))

    async def read(self, request: Request) -> Response:
        """Read an X-ray: findings and where they are, answers to questions, maps."""
        async with self.gate.admit(request):
            form = await read_form(request, ReadForm, self.limits)
            return await self._answer(form, ReadAnswer)

    async def ask(self, request: Request) -> Response:
        """Ask an X-ray any text: probabilities, maps."""
        async with self.gate.admit(request):
            form = await read_form(request, AskForm, self.limits)
            return await self._answer(form, AskAnswer)

    async def _answer(self, form: ReadForm | AskForm, answer: type[AskAnswer]) -> Response:
        served = self._find(form.model)
        try:
            decoded = await self._decoders.run(decode, form.file, served.entry.input_size)
        except MedLIPError as error:
            raise unreadable_image(error) from None
        ask, maps = form.wanted(tuple(served.worth.thresholds) if answer is ReadAnswer else ())
        try:
            looked = await served.batcher.read(Wanted(decoded.xray, ask, maps))
        except MedLIPError as error:
            raise unanswerable(error) from None
        return _json(answer.of(looked, maps, decoded, served.reader, served.worth))

    async def facts(self, request: Request) -> Response:
        """Read a report: what it says is present, absent or uncertain, where, and which words say so."""
        async with self.gate.admit(request):
            form = await read_json(request, FactsForm, self.limits)
            served = self._find(form.model)
            try:
                return _json(await asyncio.to_thread(_read_report, served.reader, form.report))
            except MedLIPError as error:
                raise unanswerable(error) from None

    async def pixels(self, request: Request) -> Response:
        """Return an image's pixels without loss, as they are to be seen, and the window to see them through."""
        async with self.gate.admit(request):
            form = await read_form(request, PixelsForm, self.limits)
            try:
                xray = await self._decoders.run(display, form.file)
            except MedLIPError as error:
                raise unreadable_image(error) from None
        image = xray.image
        height, width = image.numbers.shape
        headers = {
            "X-Image-Height": str(height),
            "X-Image-Width": str(width),
            "X-Image-Bits": str(image.bits),
            "X-Window-Center": f"{image.centre:.6g}",
            "X-Window-Width": f"{image.width:.6g}",
            "X-Image-Notes": json.dumps(xray.notes),
            "X-Not-Frontal": xray.not_frontal.encode("ascii", "replace").decode(),
        }
        return Response(image.numbers.astype("<u2").tobytes(), headers=headers, media_type="application/octet-stream")

    async def models(self) -> Response:
        """Return the models that are served, and what they can do."""
        entries = tuple(served.entry for served in self._models.values())
        return _json(ModelsAnswer(models=entries, default=entries[0].id, limits=LimitsEntry.of(self.limits)))

    async def list_examples(self) -> Response:
        """Return X-rays to try the models on."""
        entries = await asyncio.to_thread(lambda: tuple(map(self._examples.describe, range(len(self._examples)))))
        return _json(ExamplesAnswer(examples=entries))

    async def example(self, id: str) -> Response:
        """Return the file of an example."""
        if id not in map(str, range(1, len(self._examples) + 1)):
            raise not_found("There is no such example. /v1/examples lists them.")
        content = await asyncio.to_thread(self._examples.content, int(id) - 1)
        return Response(content, media_type=media_type(content))

    async def health(self) -> Response:
        """Answer while the process lives."""
        return _json(StateAnswer(status="ok", version=version("medlip")))

    async def ready(self) -> Response:
        """Answer once models are there to read."""
        if not self._ready:
            raise busy("The models are being loaded, or the server stops.")
        return _json(StateAnswer(status="ready", version=version("medlip")))

    async def tell_metrics(self) -> Response:
        """Return what the server counts, for Prometheus."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    def _find(self, model: str) -> _Served:
        """Return a model by id or hash.

        Raises:
            ProblemError: there is no such model.
        """
        if not model:
            return next(iter(self._models.values()))
        for id, served in self._models.items():
            if model in (id, served.entry.hash):
                return served
        raise not_found(f"There is no such model. Choose one of: {name_some(list(self._models))}.")


def _json(document: BaseModel) -> Response:
    return Response(document.model_dump_json(), media_type="application/json")


def _ids(readers: Sequence[Reader]) -> list[str]:
    """Return a name for each model that fits into an address; its hash behind it where two have one name."""
    names = [re.sub(r"[^a-zA-Z0-9._-]+", "-", reader.model.name).strip("-") or "model" for reader in readers]
    ids = [
        f"{name}-{reader.model.hash[:8]}" if names.count(name) > 1 else name
        for name, reader in zip(names, readers, strict=True)
    ]
    if len(set(ids)) < len(ids):
        raise MedLIPError("two of the models are the same. Name each once.")
    return ids


def _read_report(reader: Reader, report: str) -> FactsAnswer:
    """Read the facts of a report in a model's words.

    Raises:
        MedLIPError: it is empty, or not English.
    """
    if not report.strip():
        raise MedLIPError("the report is empty. Give its text.")
    read = extractor(reader.vocabulary)
    reading = read.read(report)
    if not reading.english:
        raise MedLIPError("the report is not in English, as far as can be told. Only English reports are read.")
    notes = (f"{LITTLE_READ} ({reading.share:.0%})",) if reading.share < LITTLE else ()
    return FactsAnswer.of(read.explain(report), notes)
