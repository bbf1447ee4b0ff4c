"""A request's body: read within its limits, and taken apart into named values."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncGenerator
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from cir_rt.serve.fields import no_number
from cir_rt.serve.memory import Held
from cir_rt.serve.problem import Problem
from cir_rt.serve.settings import Limits

JSON, MULTIPART = "application/json", "multipart/form-data"
MOST_PARTS = 32
MOST_MARKS = 50_000  # commas and opening brackets of a JSON body: each costs many times its byte
FILES = ("image",)  # fields that hold bytes: a part of their own, or base64 in JSON


async def read_values(request: Request, limits: Limits, held: Held) -> dict[str, Any]:
    """Return the values of a body by name: text, bytes for a file, or what JSON holds.

    Multipart values are text as sent. Raises Problem for a body that is too large, too slow, of
    another media type, or cannot be read.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in (JSON, MULTIPART):
        raise Problem("media-type", f"Expected {MULTIPART} or {JSON}, got {media_type or 'none'}.")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise Problem("media-type", f"Content-Encoding {encoding!r}: send the body as it is.")
    try:
        body = await asyncio.wait_for(_read(request, limits.body_bytes, held), limits.body_s)
    except asyncio.TimeoutError:
        raise Problem(
            "too-slow", f"The body was not complete after {limits.body_s:g} seconds."
        ) from None
    if media_type == JSON:
        return _json_values(body)
    return await _multipart_values(request, body)


async def _read(request: Request, most: int, held: Held) -> bytes:
    announced = request.headers.get("content-length", "0")
    too_large = Problem("too-large", f"Expected a body of at most {most} bytes.")
    if int(announced) > most:  # the server took it for a number
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise too_large
        held.add(len(part))
        parts.append(part)
    return b"".join(parts)


def _json_values(body: bytes) -> dict[str, Any]:
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > MOST_MARKS:
        raise Problem("unreadable", f"The JSON holds more than {MOST_MARKS} values.")
    try:
        values = json.loads(body, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise Problem("unreadable", f"The body is no JSON ({_said(error)}).") from error
    if not isinstance(values, dict):
        raise Problem("unreadable", "Expected a JSON object.")
    for name in FILES:
        if isinstance(values.get(name), str):
            try:
                values[name] = base64.b64decode(values[name], validate=True)
            except (binascii.Error, ValueError) as error:
                raise Problem("field", f"{name}: expected base64 ({error}).") from error
    return values


def _said(error: Exception) -> str:
    return "too deep" if isinstance(error, RecursionError) else str(error)


class _InMemory(MultiPartParser):
    """Parts stay in memory: an upload never reaches the disk, not even a temporary file's."""

    spool_max_size = 0  # of a SpooledTemporaryFile: no limit; the body's own limit holds


async def _multipart_values(request: Request, body: bytes) -> dict[str, Any]:
    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    parser = _InMemory(
        request.headers,
        whole(),
        max_files=len(FILES),
        max_fields=MOST_PARTS,
        max_part_size=len(body),
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Problem("unreadable", f"The body is no multipart form: {error.message}") from error
    values: dict[str, Any] = {}
    for name, value in form.multi_items():
        if name in values:
            raise Problem("field", f"{name[:40]}: given twice. Expected each field once.")
        if isinstance(value, UploadFile):
            if name not in FILES:
                raise Problem("field", f"{name[:40]}: is a file. Expected text, without filename=.")
            values[name] = await value.read()
        elif name in FILES:
            raise Problem("field", f"{name}: expected a file, with filename= in its part.")
        else:
            values[name] = value
    return values
