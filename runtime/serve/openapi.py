"""The OpenAPI document: every call, its fields as they are checked, every answer that it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cir_rt import __version__
from cir_rt.serve import problem
from cir_rt.serve.body import JSON, MULTIPART
from cir_rt.serve.fields import body_schema
from cir_rt.serve.forms import A_PIXEL, item_fields, search_fields
from cir_rt.serve.settings import ServeSettings
from cir_rt.serve.telemetry import MEDIA_TYPE as METRICS

Schema = dict[str, Any]

ANY_CALL = (403, 421, 500)  # what every call may be refused with
GUARDED = (401, 429)
WITH_BODY = (400, 408, 413, 415, 422, 503)
_COUNT: Schema = {"type": "integer", "minimum": 0}
_TEXT: Schema = {"type": "string"}
_METADATA: Schema = {"type": "object", "description": "What is known of the picture."}
_SEARCHES = {
    "words": {"text": "a red dress", "k": 10},
    "a picture and words": {"image": A_PIXEL, "text": "the same but in blue", "weight": 0.5},
    "a picture of the gallery": {
        "id": "dress-val-00007",
        "text": "with longer sleeves",
        "where": "price < 50",
    },
}
_ITEMS = {"a picture": {"id": "pixel", "image": A_PIXEL, "metadata": {"price": 49.9}}}
_EXAMPLE_HITS = {
    "hits": [
        {
            "id": "dress-val-00012",
            "score": 0.71,
            "prune_score": 0.71,
            "rank": 1,
            "metadata": {"category": "dress", "price": 39.9},
        }
    ],
    "weights": {"image": 0.46, "text": 0.54},
    "reranked": 0,
    "complete": True,
    "timing_ms": {"wait": 0.2, "prune": 0.1, "total": 2.6},
}


def document(settings: ServeSettings) -> Schema:
    """Return the document of a server with these settings."""
    guarded = settings.token_file is not None
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "cir-rt",
            "version": __version__,
            "summary": "This one, but …: a picture and a sentence in, ranked pictures out.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            path: {method: _guarded(call, guarded) for method, call in calls.items()}
            for path, calls in _paths(settings).items()
        },
        "components": {
            "schemas": _schemas(settings),
            **({"securitySchemes": {"token": _token()}} if guarded else {}),
        },
    }


def _paths(settings: ServeSettings) -> Schema:
    limits = settings.limits
    search = _operation(
        "search",
        "Find pictures by a picture, words, or both.",
        {200: _json("Hits", "The best pictures, what the query listened to, and the time taken.")},
        refusals=(*GUARDED, *WITH_BODY, 404),
        scope="search",
    )
    items = _operation(
        "listItems",
        "List the pictures in the order of their ids.",
        {200: _json("Page", "A page; `next` is the cursor of the one behind it.")},
        refusals=(*GUARDED, 422, 503),
        scope="search",
        parameters=[
            _query("cursor", "`next` of the page before.", _TEXT),
            _query("limit", "Pictures at most.", {**_COUNT, "minimum": 1, "maximum": limits.page}),
        ],
    )
    add = _operation(
        "addItem",
        "Store a picture, or replace it.",
        {
            200: _json("Stored", "It was there: updated, or unchanged to the byte."),
            201: _json("Stored", "It is new."),
        },
        refusals=(*GUARDED, *WITH_BODY, 507),
        scope="gallery",
    )
    return {
        "/v1/search": {"post": search | _body("Search", _SEARCHES)},
        "/v1/items": {"get": items, "post": add | _body("Item", _ITEMS)},
        "/v1/items/{id}": {"delete": _delete()},
        "/v1/items/{id}/image": {"get": _image()},
        **_about(),
    }


def _delete() -> Schema:
    return _operation(
        "deleteItem",
        "Delete a picture.",
        {204: {"description": "It is gone."}},
        refusals=(*GUARDED, 404, 405, 503, 507),
        scope="gallery",
        parameters=[_id()],
    )


def _image() -> Schema:
    jpeg = {"image/jpeg": {"schema": {"type": "string", "contentMediaType": "image/jpeg"}}}
    return _operation(
        "image",
        "Return a picture's thumbnail, at most 256 pixels a side.",
        {
            200: {"description": "A JPEG.", "content": jpeg},
            304: {"description": "It is the one that If-None-Match names."},
        },
        refusals=(*GUARDED, 404, 405, 503),
        scope="search",
        parameters=[_id()],
    )


def _about() -> Schema:
    text = {"schema": _TEXT}
    page = {"description": "The page.", "content": {"text/html; charset=utf-8": text}}
    figures = {"description": "Prometheus' text format.", "content": {METRICS: text}}
    about = {200: {"description": "This.", "content": {JSON: {"schema": {"type": "object"}}}}}
    whole = {304: {"description": "It is the one that If-None-Match names."}}
    return {
        "/health": {
            "get": _operation(
                "health", "Say what runs here.", {200: _json("Health", "It.")}, (503,)
            )
        },
        "/ready": {
            "get": _operation(
                "ready", "Say whether to ask.", {200: _json("Ready", "It is.")}, (503,)
            )
        },
        "/metrics": {
            "get": _operation(
                "metrics", "Return figures.", {200: figures}, (*GUARDED, 503), scope="search"
            )
        },
        "/openapi.json": {"get": _operation("document", "Return this document.", about)},
        "/": {"get": _operation("page", "Return the page.", {200: page} | whole)},
    }


def _operation(
    name: str,
    summary: str,
    answers: Mapping[int, Schema],
    refusals: Sequence[int] = (),
    *,
    scope: str | None = None,
    parameters: Sequence[Schema] = (),
) -> Schema:
    refused = {status: _refusal(status) for status in sorted({*ANY_CALL, *refusals})}
    return {
        "operationId": name,
        "summary": summary,
        **({"x-scope": scope} if scope else {}),
        **({"parameters": list(parameters)} if parameters else {}),
        "responses": {str(status): said for status, said in {**answers, **refused}.items()},
    }


def _guarded(operation: Schema, guarded: bool) -> Schema:
    """Say which token a call needs, where any is asked for."""
    scope = operation.pop("x-scope", None)
    return operation | {"security": [{"token": [scope]}] if guarded and scope else []}


def _refusal(status: int) -> Schema:
    titles = [kind.title for kind in problem.KINDS.values() if kind.status == status]
    schema = {"$ref": "#/components/schemas/Problem"}
    found: Schema = {
        "description": "; ".join(titles) + ".",
        "content": {problem.MEDIA_TYPE: {"schema": schema}},
    }
    if status in (429, 503):
        found["headers"] = {
            "Retry-After": {"description": "Seconds to wait.", "schema": _COUNT, "required": True}
        }
    return found


def _json(schema: str, description: str) -> Schema:
    content = {JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}


def _body(name: str, examples: Mapping[str, Any]) -> Schema:
    form = {"schema": {"$ref": f"#/components/schemas/{name}Form"}}
    plain = {
        "schema": {"$ref": f"#/components/schemas/{name}"},
        "examples": {says: {"value": value} for says, value in examples.items()},
    }
    return {"requestBody": {"required": True, "content": {MULTIPART: form, JSON: plain}}}


def _query(name: str, says: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "description": says, "schema": schema}


def _id() -> Schema:
    says = "A picture's id, percent-encoded, its slashes too."
    schema = {"type": "string", "minLength": 1, "maxLength": 512}
    example = {"example": "dress-val-00007"}
    return {"name": "id", "in": "path", "required": True, "description": says} | {
        "schema": schema
    } | example  # fmt: skip


def _token() -> Schema:
    return {"type": "http", "scheme": "bearer", "description": "A token of --token-file."}


def _object(properties: Mapping[str, Schema], *optional: str, example: Any = None) -> Schema:
    found: Schema = {
        "type": "object",
        "properties": dict(properties),
        "required": [name for name in properties if name not in optional],
    }
    return found if example is None else found | {"examples": [example]}


def _array(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def _schemas(settings: ServeSettings) -> Schema:
    search, item = search_fields(settings.limits), item_fields(settings.limits)
    state = {"generation": _COUNT, "pictures": _COUNT}
    listed = _object({"id": _TEXT, "metadata": _METADATA})
    milliseconds = {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}}
    return {
        "Search": body_schema(search, multipart=False),
        "SearchForm": body_schema(search, multipart=True),
        "Item": body_schema(item, multipart=False),
        "ItemForm": body_schema(item, multipart=True),
        "Hits": _hits(milliseconds),
        "Page": _object(
            {"items": _array(listed), "next": {"type": ["string", "null"]}, **state},
            example={"items": [], "next": None, "generation": 3, "pictures": 144},
        ),
        "Stored": _object(
            {"id": _TEXT, "outcome": {"enum": ["added", "updated", "unchanged"]}, **state},
            example={"id": "hat", "outcome": "added", "generation": 4, "pictures": 145},
        ),
        "Health": _object(
            {
                "status": {"const": "ok"},
                "version": _TEXT,
                "device": {**_TEXT, "description": "Where the engines really run."},
                "bundle": {"type": "object"},
                "gallery": _object({"name": _TEXT, **state}),
            }
        ),
        "Ready": _object({"ready": {"const": True}}),
        "Problem": _problem(),
    }


def _hits(milliseconds: Schema) -> Schema:
    share = {"type": "number", "minimum": 0, "maximum": 1}
    hit = {
        "id": _TEXT,
        "score": {"type": "number"},
        "prune_score": {"type": "number"},
        "rank": {"type": "integer", "minimum": 1},
        "metadata": _METADATA,
    }
    weights = _object({"image": share, "text": share})
    return _object(
        {
            "hits": _array(_object(hit)),
            "weights": {"anyOf": [weights, {"type": "null"}]},
            "reranked": _COUNT,
            "complete": {"type": "boolean"},
            "timing_ms": milliseconds,
            "empty_because": _TEXT,
        },
        "empty_because",
        example=_EXAMPLE_HITS,
    )


def _problem() -> Schema:
    return _object(
        {
            "type": {"enum": [problem.PREFIX + kind for kind in problem.KINDS]},
            "title": _TEXT,
            "status": {"type": "integer"},
            "detail": {**_TEXT, "description": "What happened and what was expected."},
            "instance": {**_TEXT, "description": "This request in the log and in X-Request-Id."},
        },
        example=problem.Problem("field", "k: expected integer of 1 to 200.").to_json("0"),
    )
