"""What is refused, as problem details for machines (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from cir_rt.errors import (
    CirRtError,
    GalleryBusy,
    PictureError,
    StorageFull,
    TextError,
    UnknownId,
    UsageError,
)

MEDIA_TYPE = "application/problem+json"
PREFIX = "urn:cir-rt:problem:"


class Kind(NamedTuple):
    """A sort of problem: its status, and its title in every answer."""

    status: int
    title: str


KINDS = {
    "unreadable": Kind(400, "The request cannot be read"),
    "unauthorized": Kind(401, "A token is needed"),
    "forbidden": Kind(403, "Not allowed"),
    "not-found": Kind(404, "There is nothing here"),
    "unknown-id": Kind(404, "The gallery holds no such picture"),
    "method": Kind(405, "Not with this method"),
    "too-slow": Kind(408, "The request took too long to arrive"),
    "too-large": Kind(413, "The request is too large"),
    "media-type": Kind(415, "Not a media type that is read here"),
    "misdirected": Kind(421, "This server answers under another name"),
    "field": Kind(422, "A field is wrong"),
    "picture": Kind(422, "The picture cannot be used"),
    "text": Kind(422, "The text cannot be used"),
    "too-often": Kind(429, "Too many requests"),
    "fault": Kind(500, "The server failed"),
    "busy": Kind(503, "Too busy to answer in time"),
    "storage-full": Kind(507, "The disk is full"),
}
_KIND_OF: tuple[tuple[type[CirRtError], str], ...] = (
    (PictureError, "picture"),
    (TextError, "text"),
    (UnknownId, "unknown-id"),
    (UsageError, "field"),
)
_CHANGE_IN_PROGRESS_S = 5


class Problem(Exception):
    """A request that is refused, and how that is said."""

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Take a key of KINDS and a sentence: what happened, what was expected."""
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(retry_after_s)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return KINDS[self.kind].status

    @classmethod
    def of(cls, error: Exception) -> Problem:
        """Return how an error is told; what went wrong inside the machine stays inside."""
        if isinstance(error, Problem):
            return error
        if isinstance(error, GalleryBusy):
            detail = "Somebody else is changing the gallery. Try again later."
            return cls("busy", detail, retry_after_s=_CHANGE_IN_PROGRESS_S)
        if isinstance(error, StorageFull):
            return cls("storage-full", "What was stored is untouched. Free some space and retry.")
        for known, kind in _KIND_OF:
            if isinstance(error, known):
                return cls(kind, str(error))
        return cls("fault", f"{type(error).__name__}; the server's log says more.")

    def to_json(self, request: str) -> dict[str, Any]:
        """Return the members of RFC 9457; `request` is the number in the log and the headers."""
        kind = KINDS[self.kind]
        return {
            "type": PREFIX + self.kind,
            "title": kind.title,
            "status": kind.status,
            "detail": self.detail,
            "instance": f"urn:cir-rt:request:{request}",
        }

    def body(self, request: str) -> bytes:
        """Return the answer's bytes."""
        return json.dumps(self.to_json(request)).encode()
