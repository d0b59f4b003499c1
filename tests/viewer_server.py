"""A server with the API of `medlip serve` whose models know the truth of the phantoms, and which fails when it is told to.

The viewer is tested against it where the answers must be known or the server must be in trouble; that it works with the real
one is tested beside.
"""

from __future__ import annotations

import json
import re
import threading
import zlib
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from email import message_from_bytes
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medlip.about import DISCLAIMER
from medlip.concepts import default_vocabulary
from medlip.data.study import Study
from medlip.errors import MedLIPError
from medlip.images import read_xray
from medlip.phantom import phantom
from medlip.reports import resolve
from medlip.reports.extract import extractor

VIEWER = Path(__file__).parents[1] / "src" / "medlip" / "app" / "viewer"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "font-src 'self'; worker-src 'self' blob:; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
EXAMPLES, KNOWN, SEED, SIZE, GRID = 3, 6, 1, 512, 16
LIMITS = {"upload_bytes": 4 << 20, "pixels": 10**8, "texts": 3, "text_characters": 1000, "report_characters": 50_000}


@dataclass
class Trouble:
    """What is wrong with a server.

    Attributes:
        busy: how often in a row it is.
        broken_off: what it is asked, by address: the next answer ends in its middle, once for each time it stands here.
        slow: seconds that answers take, by address; half of each comes at once.
        token: that it wants.
    """

    busy: int = 0
    broken_off: list[str] = field(default_factory=list)
    slow: dict[str, float] = field(default_factory=dict)
    token: str = ""


@dataclass(frozen=True)
class KnownModel:
    """A model that knows the phantoms: it says their findings with probability `sure`."""

    id: str
    hash: str
    sure: float
    absolute: bool = True
    places: bool = True
    open_text: bool = True


MODELS = (
    KnownModel("oracle", "0123456789abcdef", 0.92),
    KnownModel("doubter", "fedcba9876543210", 0.61),
    KnownModel("plain", "00112233445566aa", 0.8, absolute=False, places=False, open_text=False),
)


@cache
def study(index: int) -> Study:
    return phantom(index, SEED, SIZE)


def png(index: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(study(index).views[0].image).save(buffer, "PNG")
    return buffer.getvalue()


def _thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    small = np.asarray(Image.fromarray(pixels).resize((GRID, GRID)), float)
    return (small - small.mean()) / max(small.std(), 1e-6)


def _recognize(pixels: NDArray[np.uint8]) -> Study:
    """Return the phantom that a film shows, or looks most alike."""
    seen = _thumbnail(pixels)
    return min(map(study, range(KNOWN)), key=lambda one: float(((_thumbnail(one.views[0].image) - seen) ** 2).sum()))


def _by_chance(*words: str) -> float:
    """Return a number in [0, 1) that is the same for the same words."""
    return zlib.crc32(" ".join(words).encode()) / 2**32


def _map(masks: list[NDArray[np.bool_]], highest: float) -> NDArray[np.float32]:
    union = np.any(masks, axis=0) if masks else np.zeros((SIZE, SIZE), bool)
    soft = Image.fromarray(union.astype(np.uint8) * 255).resize((GRID, GRID), Image.Resampling.BOX)
    heat = np.asarray(soft, np.float32) + 1
    return heat * np.float32(highest / heat.max())


def _told(model: KnownModel, film: Study, ask: list[str], maps: bool) -> dict[str, Any]:
    """Return what read and ask have in common."""
    heat = {}
    asked = [{"text": text, "probability": round(0.2 + 0.6 * _by_chance(text), 3)} for text in ask]
    if maps:
        for question in asked:
            heat[question["text"]] = _map([mask.pixels for mask in film.views[0].masks[:1]], question["probability"])
    return {
        "image": "", "height": SIZE, "width": SIZE, "read_as": "frontal", "not_frontal": "", "doubts": [],
        "notes": [], "asked": asked, "calibrated": False,
        "maps": {name: _encoded(values, model.absolute) for name, values in heat.items()},
        "model": {"name": model.id, "version": "1", "hash": model.hash, "method": "medslip"}, "disclaimer": DISCLAIMER,
    }  # fmt: skip


def _encoded(values: NDArray[np.float32], absolute: bool) -> dict[str, Any]:
    data = b64encode(values.astype("<f4").tobytes()).decode()
    return {"height": GRID, "width": GRID, "absolute": absolute, "data": data}


def read(model: KnownModel, film: Study, ask: list[str], maps: bool) -> dict[str, Any]:
    """Answer as /v1/read does."""
    vocabulary, masks = default_vocabulary(), film.views[0].masks
    names = [one.name for one in vocabulary.pathologies if one.kind == "abnormal"]
    there = {mask.pathology for mask in masks}
    chance = {name: (0.02 + 0.33 * _by_chance(film.id, model.id, name) ** 3) for name in names}
    probability = {name: model.sure - 0.06 * _by_chance(name) if name in there else chance[name] for name in names}
    pairs = {
        (pathology.name, anatomy.name): 0.04 * _by_chance(film.id, pathology.name, anatomy.name)
        for pathology in vocabulary.pathologies
        for anatomy in vocabulary.anatomies
    }
    pairs |= {(mask.pathology, mask.anatomy): 0.9 * probability[mask.pathology] for mask in masks}
    anatomies = [one.name for one in vocabulary.anatomies]
    findings = []
    for name in sorted(names, key=lambda name: -probability[name]):
        places = sorted(((pairs[name, anatomy], anatomy) for anatomy in anatomies), reverse=True)
        listed = [{"anatomy": anatomy, "probability": p} for p, anatomy in places[:5] if p >= 0.01 and model.places]
        findings.append({"pathology": name, "probability": probability[name], "anatomies": listed})
    told = _told(model, film, ask, maps)
    if maps:
        for name in names:
            heat = _map([mask.pixels for mask in masks if mask.pathology == name], probability[name])
            told["maps"][name] = _encoded(heat, model.absolute)
    pathologies = [one.name for one in vocabulary.pathologies]
    matrix = [[pairs[pathology, anatomy] for anatomy in anatomies] for pathology in pathologies]
    return told | {
        "findings": findings, "places_above": 0.01 if model.places else None, "thresholds": dict.fromkeys(names, 0.5),
        "thresholds_from": "one half for all: the model is not calibrated",
        "matrix": {"pathologies": pathologies, "anatomies": anatomies, "probabilities": matrix} if model.places else None,
    }  # fmt: skip


def facts(report: str) -> dict[str, Any]:
    """Answer as /v1/facts does."""
    traced = extractor(default_vocabulary()).explain(report)
    kept = {id(fact) for fact in resolve(one.fact for one in traced)}
    found = []
    for one in traced:
        fact = one.fact
        start = report.rfind(fact.sentence, 0, fact.start + len(fact.sentence))
        end = start + len(fact.sentence) if start >= 0 else -1
        found.append(asdict(fact) | {"sentence_start": start, "sentence_end": end, "settles": id(fact) in kept})
    return {"facts": found, "notes": [], "disclaimer": DISCLAIMER}


def models() -> dict[str, Any]:
    """Answer as /v1/models does."""
    vocabulary = default_vocabulary()
    pathologies = [
        {"name": one.name, "display": one.display, "kind": one.kind, "description": one.description}
        for one in vocabulary.pathologies
    ]
    anatomies = [{"name": one.name, "display": one.display, "side": one.side or ""} for one in vocabulary.anatomies]
    entries = [
        {
            "id": one.id, "name": one.id, "version": "1", "hash": one.hash, "method": "medslip", "input_size": 128,
            "summary": "It knows the truth of the phantoms.", "pathologies": pathologies, "anatomies": anatomies,
            "can": {"places": one.places, "open_text": one.open_text, "absolute_maps": one.absolute}, "calibrated": False,
        }
        for one in MODELS
    ]  # fmt: skip
    return {"models": entries, "default": "oracle", "limits": LIMITS, "disclaimer": DISCLAIMER}


@dataclass
class ViewerServer:
    """The server, on a port of its own; `stop` and `start` again are what a viewer sees when a server is restarted."""

    trouble: Trouble = field(default_factory=Trouble)
    port: int = 0
    asked: list[str] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)
    _server: ThreadingHTTPServer | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> ViewerServer:
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class _Handler(BaseHTTPRequestHandler):
    owner: ViewerServer

    def log_message(self, *_: object) -> None:
        """Nothing: the tests' output stays readable."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        answers: dict[str, Callable[[], object]] = {
            "/v1/models": models,
            "/v1/examples": lambda: {
                "examples": [
                    {"id": str(k), "title": f"Synthetic X-ray {k}", "type": "image/png", "report": study(k - 1).report}
                    for k in range(1, EXAMPLES + 1)
                ]
            },
            "/health": lambda: {"status": "ok"},
        }
        if path.startswith("/v1/") and not self._may():
            return
        if example := re.fullmatch(r"/v1/examples/(\d+)", path):
            self._send(200, png(int(example[1]) - 1), "image/png")
        elif path in answers:
            self._json(200, answers[path]())
        else:
            file = VIEWER / (path.lstrip("/") or "index.html")
            if file.suffix in TYPES and file.is_file():
                self._send(200, file.read_bytes(), TYPES[file.suffix])
            else:
                self._problem(404, "There is no such file", path)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.owner.asked.append(self.path)
        self.owner.received.append(body)
        trouble = self.owner.trouble
        if not self._may():
            return
        if trouble.busy:
            trouble.busy -= 1
            self._problem(
                503, "The server is busy", "Too many films are read at once. Try again in a moment.", ("Retry-After", "1")
            )
            return
        if self.path == "/v1/facts":
            report = json.loads(body)["report"]
            if "Befund" in report:
                self._problem(422, "The report can't be read", "It is not in English. Only English reports are read.")
            else:
                self._json(200, facts(report))
            return
        fields = self._form(body)
        (content,) = fields["file"]
        try:
            xray = read_xray(content)
        except MedLIPError as error:
            self._problem(422, "The image can't be read", f"{error}"[0].upper() + f"{error}"[1:])
            return
        if self.path == "/v1/pixels":
            self._pixels(content, xray)
            return
        model = next(one for one in MODELS if fields["model"][0].decode() in (one.id, one.hash))
        ask = [text.decode() for text in fields.get("ask", [])]
        film, maps = _recognize(xray.pixels), fields.get("maps") == [b"all"]
        if "unanswerable" in ask:
            self._problem(422, "The question can't be answered", "The model has no words for it. Ask in other words.")
            return
        answer = read(model, film, ask, maps) if self.path == "/v1/read" else _told(model, film, ask, maps)
        self._json(200, answer | {"not_frontal": xray.not_frontal, "doubts": list(xray.doubts), "notes": list(xray.notes)})

    def _pixels(self, content: bytes, xray: Any) -> None:
        pixels, bits, window = xray.pixels.astype("<u2"), 8, (127.5, 255.0)
        if content[128:132] == b"DICM":  # as it is stored: the tests' own are upright and unsigned
            from pydicom import dcmread

            made = dcmread(BytesIO(content))
            pixels, bits = made.pixel_array.astype("<u2"), made.BitsStored
            window = (float(made.get("WindowCenter", 2 ** (bits - 1))), float(made.get("WindowWidth", 2**bits)))
        headers = {
            "X-Image-Height": pixels.shape[0], "X-Image-Width": pixels.shape[1], "X-Image-Bits": bits,
            "X-Window-Center": window[0], "X-Window-Width": window[1], "X-Image-Notes": json.dumps(list(xray.notes)),
            "X-Not-Frontal": xray.not_frontal,
        }  # fmt: skip
        self._send(
            200, pixels.tobytes(), "application/octet-stream", *((name, str(value)) for name, value in headers.items())
        )

    def _form(self, body: bytes) -> dict[str, list[bytes]]:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        fields: dict[str, list[bytes]] = {}
        for part in message_from_bytes(head + body).get_payload():
            name = part.get_param("name", header="content-disposition")
            fields.setdefault(name, []).append(part.get_payload(decode=True))
        return fields

    def _may(self) -> bool:
        token = self.owner.trouble.token
        if token and self.headers["Authorization"] != f"Bearer {token}":
            self._problem(401, "A token is needed", "This server answers to those who have its token.")
            return False
        return True

    def _problem(self, status: int, title: str, detail: str, *headers: tuple[str, str]) -> None:
        content = {"title": title, "detail": detail, "status": status, "disclaimer": DISCLAIMER}
        self._send(status, json.dumps(content).encode(), "application/problem+json", *headers)

    def _json(self, status: int, content: object) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

    def _send(self, status: int, content: bytes, type: str, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", type),
            ("Content-Length", str(len(content))),
            ("Content-Security-Policy", POLICY),
        ):
            self.send_header(name, value)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        trouble, half = self.owner.trouble, len(content) // 2
        with suppress(ConnectionError):  # whoever asked is gone
            self.wfile.write(content[:half])
            if self.path in trouble.broken_off:
                trouble.broken_off.remove(self.path)
                return
            sleep(trouble.slow.get(self.path, 0))
            self.wfile.write(content[half:])
