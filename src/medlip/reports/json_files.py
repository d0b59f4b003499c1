"""JSON of any size, a value at a time: lines, arrays, objects by key; an error stands in the place of what is broken."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain

from medlip.errors import MedLIPError

NOT_UTF8 = "not UTF-8: read as Windows-1252"


def json_lines(chunks: Iterable[str]) -> Iterator[object]:
    """Yield the value of each line, or the error that stands in its place."""
    rest = ""
    for chunk in chain(chunks, ["\n"]):
        *lines, rest = (rest + chunk).split("\n")
        for line in lines:
            if line.strip():
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield MedLIPError(f"broken row (not JSON: {error})")


def members(chunks: Iterable[str], name: str) -> Iterator[tuple[str, object]]:
    """Yield the members of one big JSON object or array without loading it whole: (key or number, value).

    Args:
        chunks: the text.
        name: of the file, for the error that stands for the rest of a file that is cut off.
    """
    chunks = iter(chunks)
    decoder = json.JSONDecoder()
    buffer, at, number, step = next(chunks, ""), 0, 0, 1
    at = buffer.index(opening := buffer.lstrip()[:1]) + 1
    while True:
        try:
            at = _end(_SPACE_OR_COMMA.match(buffer, at))
            if buffer[at] in "]}":
                return
            key, value_at = str(number), at
            if opening == "{":
                found = _KEY.match(buffer, at)
                if found is None:
                    raise IndexError
                key, value_at = json.loads(f'"{found[1]}"'), found.end()
            value, at = decoder.raw_decode(buffer, value_at)
            if at == len(buffer) and isinstance(value, (int, float)):  # the number may go on in the next chunk
                raise IndexError
        except (IndexError, ValueError) as error:
            more = "".join(chunk for _, chunk in zip(range(step), chunks, strict=False))
            if not more or len(buffer) - at > _LONGEST_MEMBER:
                yield f"(rest of {name})", MedLIPError(f"the file is cut off or damaged here ({error})")
                return
            buffer, at, step = buffer[at:] + more, 0, step * 2  # doubled, so that a huge member is not scanned too often
        else:
            yield key, value
            number, step = number + 1, 1


def mended(text: str) -> tuple[str, str]:
    """Return text with its undecodable bytes (as `surrogateescape` keeps them) read as Windows-1252, and a note if any."""
    if text.isascii() or _STRAY.search(text) is None:
        return text, ""
    return _STRAY.sub(_as_windows, text), NOT_UTF8


_SPACE_OR_COMMA = re.compile(r"[\s,]*")
_LONGEST_MEMBER = 1 << 27
_KEY = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:\s*')
_STRAY = re.compile("[\ud800-\udfff]")


def _end(match: re.Match[str] | None) -> int:
    return match.end() if match else 0


def _as_windows(match: re.Match[str]) -> str:
    code = ord(match[0]) - 0xDC00
    return bytes([code]).decode("cp1252", errors="replace") if 0x80 <= code <= 0xFF else "\ufffd"
