"""What each call does with a request that was let in."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import time
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from cir_rt.errors import GalleryError
from cir_rt.gallery.item import is_id, metadata_json
from cir_rt.pictures import StoredId, opened
from cir_rt.serve import upload
from cir_rt.serve.body import JSON, read_values
from cir_rt.serve.fields import checked
from cir_rt.serve.forms import item_fields, search_fields
from cir_rt.serve.memory import Held
from cir_rt.serve.problem import Problem
from cir_rt.serve.query import Query
from cir_rt.serve.service import Service

T = TypeVar("T")

PAGE = 50  # pictures listed unless said
_BYTES_A_PIXEL = 3
_NO_PLACE = (".", "..")  # what stands for them in a path is taken away on its way here


async def search(service: Service, request: Request) -> Response:
    """Answer one search; one whose caller hangs up leaves the queue."""
    begun_s = time.perf_counter()
    with service.memory.hold() as held:
        fields = search_fields(service.settings.limits)
        values = await _values(service, request, fields, held)
        if "id" in values and "image" in values:
            raise Problem("field", "Both image and id. Expected one reference, or none.")
        if not {"id", "image", "text"} & set(values):
            raise Problem("field", "Neither picture nor words. Give image, id or text.")
        with service.batcher.admission():
            return await _unless_gone(request, _answered(service, values, held, begun_s))


async def _answered(
    service: Service, values: Mapping[str, Any], held: Held, begun_s: float
) -> Response:
    stages: dict[str, float] = {}
    image: Any = None
    if "id" in values:
        image = StoredId(values["id"])
        await service.shelf.check(image)
    elif "image" in values:
        started = time.perf_counter()
        image = await _decoded(service, values["image"], held)
        stages["decode"] = 1000 * (time.perf_counter() - started)
    hits, stages["wait"] = await service.batcher.ask(Query.of(values, image, begun_s))
    answer = hits.to_json()
    own, inner = sum(stages.values()), dict(hits.timing)
    inner["total"] += own
    answer["timing_ms"] = {**stages, **inner}
    service.telemetry.stages(answer["timing_ms"])
    return JSONResponse(answer)


async def _decoded(service: Service, data: bytes, held: Held) -> upload.Prepared:
    picture = await _looked_at(service, data, held)
    return await service.decode(partial(upload.prepared, picture, service.geometries))


async def _looked_at(service: Service, data: bytes, held: Held) -> Any:
    """Return a picture that was not decoded yet, with room for its pixels held."""
    most = service.settings.limits.pixels
    picture = await service.decode(partial(opened, data, most))
    held.add(_BYTES_A_PIXEL * picture.width * picture.height)
    return picture


async def add(service: Service, request: Request) -> Response:
    """Store a picture; it is on disk when this answers, and the next search finds it."""
    with service.memory.hold() as held:
        fields = item_fields(service.settings.limits)
        values = await _values(service, request, fields, held)
        item_id, metadata = values["id"], values.get("metadata")
        if not is_id(item_id) or item_id in _NO_PLACE:
            raise Problem("field", "id: expected text without control characters, not . or ..")
        try:
            metadata_json(item_id, metadata or {})
        except GalleryError as error:
            raise Problem("field", str(error)) from error
        await _looked_at(service, values["image"], held)
        outcome = await service.changes.add(item_id, values["image"], metadata)
    state = await service.shelf.state()
    answer = {"id": item_id, "outcome": outcome, **state._asdict()}
    headers = {"Location": f"/v1/items/{quote(item_id, safe='')}/image"}
    return JSONResponse(answer, 201 if outcome == "added" else 200, headers=headers)


async def delete(service: Service, request: Request) -> Response:
    """Delete a picture."""
    await service.shelf.check(request.path_params["id"])  # asks nothing of a writer in vain
    await service.changes.delete(request.path_params["id"])
    return Response(status_code=204)


async def items(service: Service, request: Request) -> Response:
    """List the pictures in the order of their ids."""
    asked = request.query_params
    if unknown := sorted(set(asked) - {"cursor", "limit"}):
        raise Problem("field", f"There is no '{unknown[0][:40]}'. Known: cursor, limit.")
    most = service.settings.limits.page
    limit = asked.get("limit", str(min(PAGE, most)))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 9 and 1 <= int(limit) <= most):
        raise Problem("field", f"limit: expected integer of 1 to {most}.")
    count = int(limit)
    found = await service.shelf.page(_after(asked.get("cursor", "")), count + 1)
    shown = found[:count]
    answer = {
        "items": [{"id": item_id, "metadata": metadata} for item_id, metadata in shown],
        "next": _cursor(shown[-1][0]) if len(found) > count else None,
        **(await service.shelf.state())._asdict(),
    }
    return JSONResponse(answer)


def _cursor(item_id: str) -> str:
    return base64.urlsafe_b64encode(item_id.encode()).decode()


def _after(cursor: str) -> str:
    try:
        return base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise Problem("field", "cursor: expected `next` of the page before.") from error


async def image(service: Service, request: Request) -> Response:
    """Return the stored thumbnail, which was encoded here from pixels alone."""
    jpeg = await service.shelf.thumbnail(request.path_params["id"])
    tag = f'"{hashlib.blake2b(jpeg, digest_size=12).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(jpeg, headers=headers, media_type="image/jpeg")


async def health(service: Service, _: Request) -> Response:
    """Say what runs here."""
    return JSONResponse(await service.facts())


async def ready(service: Service, _: Request) -> Response:
    """Say whether requests may be sent."""
    if not service.ready:
        raise Problem("busy", "The server is stopping.", retry_after_s=5)
    return JSONResponse({"ready": True})


async def _values(service: Service, request: Request, fields: Any, held: Held) -> dict[str, Any]:
    """Return the checked values of a body."""
    values = await read_values(request, service.settings.limits, held)
    typed = request.headers["content-type"].lower().startswith(JSON)
    return checked(fields, values, typed=typed)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what work does; cancel it and raise ClientDisconnect where the caller hangs up."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.wait({task, gone})  # until they have let go of all that they held


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
