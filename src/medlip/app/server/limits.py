"""How much a server takes on."""

from __future__ import annotations

from dataclasses import dataclass

from medlip.images.size import MAX_PIXELS
from medlip.memory import MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a server takes on; beyond it a request is refused with a problem.

    Attributes:
        upload_bytes: of a request's body.
        upload_seconds: until it has come.
        pixels: of an image, by its header.
        decode_seconds: to decode one.
        decode_bytes: of memory to decode one.
        texts: questions of a request, and maps.
        text_characters: of a question.
        report_characters: of a report.
        waiting: requests that are read or answered at a time; more are told to come back.
        waiting_bytes: of their bodies in all.
        stop_seconds: for what is under way when the server is told to stop.
    """

    upload_bytes: int = 64 * MIB
    upload_seconds: float = 60
    pixels: int = MAX_PIXELS
    decode_seconds: float = 30
    decode_bytes: int = 4096 * MIB
    texts: int = 32
    text_characters: int = 1000
    report_characters: int = 50_000
    waiting: int = 64
    waiting_bytes: int = 1024 * MIB
    stop_seconds: int = 60
