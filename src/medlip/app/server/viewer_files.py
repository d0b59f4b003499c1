"""The viewer's files, and nothing else."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from medlip.app.server.problems import not_found

FOLDER = Path(__file__).parent.parent / "viewer"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}
INDEX = "index.html"


class ViewerFiles:
    """Files below a folder, by the path that each has there: what was not listed at the start isn't served."""

    def __init__(self, folder: Path = FOLDER) -> None:
        files = (path for path in sorted(folder.rglob("*")) if path.suffix in TYPES and path.is_file())
        names = {path.relative_to(folder).as_posix(): path for path in files}
        self._files = {name: path for name, path in names.items() if not any(p.startswith(".") for p in name.split("/"))}

    @property
    def names(self) -> tuple[str, ...]:
        """The paths; "" is the first page."""
        return "", *self._files

    def answer(self, name: str, request: Request) -> Response:
        """Return a file; "" is the first page.

        Raises:
            ProblemError: there is no such file.
        """
        path = self._files.get(name or INDEX)
        if path is None:
            raise not_found("The viewer's page is not part of this installation. The API is: see /openapi.json.")
        content, tag = _load(path, path.stat().st_mtime_ns)
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=TYPES[path.suffix])


@lru_cache(maxsize=64)
def _load(path: Path, changed: int) -> tuple[bytes, str]:
    """Return a file as it was when it `changed`, and a tag for that."""
    content = path.read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'
