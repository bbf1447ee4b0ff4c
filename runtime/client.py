"""A client of `cir-rt serve`: its calls as methods, its answers as the library's own types.

from cir_rt.client import Client

with Client("http://127.0.0.1:8080") as shop:
    for hit in shop.search(image="ref.jpg", text="the same but in red"):
        print(hit.id, hit.score)
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union
from urllib.parse import quote, urlencode, urlsplit

from cir_rt.errors import CirRtError, UsageError
from cir_rt.results import Hit, Hits, Weights

PictureFile = Union[str, "os.PathLike[str]", bytes]  # a path, or what the file holds


class Refused(CirRtError):
    """The server refused a request, or failed; `kind` is the last word of the problem's type."""

    def __init__(self, status: int, problem: Mapping[str, Any], retry_after_s: int | None) -> None:
        """Take the answer's status and its problem details (RFC 9457)."""
        title = problem.get("title", http.client.responses.get(status, "refused"))
        super().__init__(f"{status} {title}. {problem.get('detail', '')}".rstrip())
        self.status = status
        self.kind = str(problem.get("type", "")).rpartition(":")[2]
        self.request = str(problem.get("instance", "")).rpartition(":")[2]
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What became of a picture that was added, and the gallery that holds it now."""

    id: str
    outcome: str  # added, updated or unchanged
    generation: int
    pictures: int


class Client:
    """One connection to one server, kept open; owned by one thread at a time."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 30.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Take the server's URL and what it asks for; connects with the first call."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url}: expected a URL as http://127.0.0.1:8080.")
        if parts.path.strip("/"):
            raise UsageError(f"{url}: expected no path behind the port.")
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = tls or ssl.create_default_context()
            self._connection = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=timeout_s, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(
                parts.hostname, parts.port, timeout=timeout_s
            )
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def search(
        self,
        image: PictureFile | None = None,
        text: str | None = None,
        *,
        id: str | None = None,  # noqa: A002  the word callers use
        k: int | None = None,
        rerank: int | None = None,
        mode: str | None = None,
        weight: float | None = None,
        where: str | None = None,
        min_score: float | None = None,
        deadline_ms: float | None = None,
    ) -> Hits:
        """Return the best pictures for a picture, words, or both.

        `id` is a picture of the gallery in place of `image`; the rest is as in `Retriever.search`,
        the server's own where it is not said. Raises Refused, and OSError where nobody answers.
        """
        fields = {
            "id": id,
            "text": text,
            "k": k,
            "rerank": rerank,
            "mode": mode,
            "weight": weight,
            "where": where,
            "min_score": min_score,
            "deadline_ms": deadline_ms,
        }
        return _hits(self._json("POST", "/v1/search", *_form(fields, image)))

    def add(
        self,
        id: str,  # noqa: A002  the word callers use
        image: PictureFile,
        metadata: Mapping[str, Any] | None = None,
    ) -> Stored:
        """Store a picture; it is on the server's disk when this returns. Raises Refused."""
        described = None if metadata is None else json.dumps(dict(metadata))
        form = _form({"id": id, "metadata": described}, image)
        return Stored(**self._json("POST", "/v1/items", *form))

    def delete(self, id: str) -> None:  # noqa: A002  the word callers use
        """Delete a picture. Raises Refused."""
        self._call("DELETE", f"/v1/items/{quote(id, safe='')}")

    def items(self, page: int = 100) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (id, metadata) of all pictures by id, asking for `page` at a time."""
        cursor: str | None = ""
        while cursor is not None:
            asked = {"limit": page, **({"cursor": cursor} if cursor else {})}
            found = self._json("GET", f"/v1/items?{urlencode(asked)}")
            for item in found["items"]:
                yield item["id"], item["metadata"]
            cursor = found["next"]

    def image(self, id: str) -> bytes:  # noqa: A002  the word callers use
        """Return a picture's thumbnail as JPEG. Raises Refused."""
        return self._call("GET", f"/v1/items/{quote(id, safe='')}/image")

    def health(self) -> dict[str, Any]:
        """Return what runs there: device, bundle, gallery."""
        return self._json("GET", "/health")

    def ready(self) -> bool:
        """Tell whether requests may be sent."""
        try:
            return bool(self._json("GET", "/ready")["ready"])
        except Refused:
            return False

    def metrics(self) -> str:
        """Return the figures in Prometheus' text format. Raises Refused."""
        return self._call("GET", "/metrics").decode()

    def document(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        return self._json("GET", "/openapi.json")

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _json(
        self, method: str, path: str, body: bytes | None = None, media_type: str = ""
    ) -> dict[str, Any]:
        return json.loads(self._call(method, path, body, media_type))

    def _call(
        self, method: str, path: str, body: bytes | None = None, media_type: str = ""
    ) -> bytes:
        headers = self._headers | ({"Content-Type": media_type} if media_type else {})
        kept = self._connection.sock is not None
        try:
            answer, content = self._exchange(method, path, body, headers)
        except (http.client.RemoteDisconnected, ConnectionError):
            self._connection.close()
            if not kept:
                raise
            # The server closed a connection that lay idle; it never saw this request.
            answer, content = self._exchange(method, path, body, headers)
        except BaseException:
            self._connection.close()  # half an answer must not be the next one's
            raise
        if answer.status >= 400:
            raise _refused(answer, content)
        return content

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        self._connection.request(method, path, body=body, headers=dict(headers))
        answer = self._connection.getresponse()
        return answer, answer.read()


def _refused(answer: http.client.HTTPResponse, content: bytes) -> Refused:
    try:
        problem = json.loads(content)
    except ValueError:
        problem = {"detail": content[:200].decode("utf-8", "replace")}
    wait = answer.headers.get("Retry-After", "")
    return Refused(answer.status, problem, int(wait) if wait.isdigit() else None)


def _form(fields: Mapping[str, Any], image: PictureFile | None) -> tuple[bytes, str]:
    """Return a multipart form of the fields that were said, and its media type."""
    boundary = secrets.token_hex(16)
    parts = [
        (f'name="{name}"', str(value).encode())
        for name, value in fields.items()
        if value is not None
    ]
    if image is not None:
        data = image if isinstance(image, bytes) else Path(image).read_bytes()
        parts.append(('name="image"; filename="image"', data))
    lines = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + data + b"\r\n"
        for head, data in parts
    )
    return lines + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def _hits(answer: Mapping[str, Any]) -> Hits:
    """Return what `Hits.to_json` was made of."""
    weights = answer["weights"]
    return Hits(
        hits=tuple(Hit(**hit) for hit in answer["hits"]),
        weights=None if weights is None else Weights(**weights),
        timing=answer["timing_ms"],
        reranked=answer["reranked"],
        complete=answer["complete"],
        empty_because=answer.get("empty_because", ""),
    )
