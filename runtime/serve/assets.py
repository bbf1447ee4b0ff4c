"""The files of the page, read once; no name that a request sends is looked up on the disk."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import PurePosixPath
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

FIRST = "index.html"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}


class Asset(NamedTuple):
    """One file of the page."""

    content: bytes
    media_type: str
    tag: str

    @classmethod
    def of(cls, content: bytes, suffix: str) -> Asset:
        """Return a file of that content; `suffix` is a key of MEDIA_TYPES."""
        tag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
        return cls(content, MEDIA_TYPES[suffix], tag)

    async def answer(self, request: Request) -> Response:
        """Return it, or that it is still the same."""
        headers = {"ETag": self.tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == self.tag:
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers=headers, media_type=self.media_type)


def assets() -> dict[str, Asset]:
    """Return every file of the page by the path that it is asked for: "/" and "/page/NAME"."""
    found = {}
    for file in (resources.files("cir_rt.serve") / "page").iterdir():
        suffix = PurePosixPath(file.name).suffix
        if suffix in MEDIA_TYPES:
            path = "/" if file.name == FIRST else f"/page/{file.name}"
            found[path] = Asset.of(file.read_bytes(), suffix)
    return found
