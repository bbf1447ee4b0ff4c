"""The OpenAPI document tells the truth: held against routes, answers, made-up requests."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from serving import Live, Shop
from starlette.testclient import TestClient

from cir_rt.client import Client
from cir_rt.serve.app import _calls
from cir_rt.serve.openapi import document
from cir_rt.serve.problem import KINDS
from cir_rt.serve.settings import ServeSettings

schemathesis = pytest.importorskip("schemathesis")
jsonschema_rs = pytest.importorskip("jsonschema_rs")  # comes with it

METHODS = {  # of the client, by operationId
    "search": Client.search,
    "listItems": Client.items,
    "addItem": Client.add,
    "deleteItem": Client.delete,
    "image": Client.image,
    "health": Client.health,
    "ready": Client.ready,
    "metrics": Client.metrics,
    "document": Client.document,
}


@pytest.fixture(scope="module")
def described(standing: Shop) -> dict[str, Any]:
    return standing[0].get("/openapi.json").json()


def valid(described: dict[str, Any], schema: str, value: Any) -> None:
    """Check a value against a schema of the document."""
    root = {"$ref": f"#/components/schemas/{schema}", "components": described["components"]}
    jsonschema_rs.validator_for(root).validate(value)


def operations(described: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        operation["operationId"]: operation
        for calls in described["paths"].values()
        for operation in calls.values()
    }


def test_every_call_is_described_and_no_other(standing: Shop, described: dict[str, Any]) -> None:
    calls = {
        (path.replace("{id:path}", "{id}"), method.lower())
        for path, found in _calls(standing[1]).items()
        for method in found
    }
    told = {(path, method) for path, found in described["paths"].items() for method in found}
    assert told == {*calls, ("/", "get")}


def test_every_kind_of_problem_is_told_somewhere(described: dict[str, Any]) -> None:
    told = {int(s) for operation in operations(described).values() for s in operation["responses"]}
    beside = {404, 405}  # what a path or a method that is not described is answered with
    assert {kind.status for kind in KINDS.values()} - beside <= told


def test_examples_fit_their_schemas_and_can_be_sent(
    ask: TestClient, described: dict[str, Any]
) -> None:
    checked = 0
    for schema, body in described["components"]["schemas"].items():
        for example in body.get("examples", []):
            valid(described, schema, example)
            checked += 1
    for path, schema in (("/v1/search", "Search"), ("/v1/items", "Item")):
        content = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        for example in content["examples"].values():
            valid(described, schema, example["value"])
            answer = ask.post(path, json=example["value"])
            assert answer.status_code in (200, 201), answer.text
            checked += 1
    ask.delete("/v1/items/pixel")
    assert checked >= 8


def test_answers_fit_their_schemas(
    ask: TestClient, described: dict[str, Any], photo: bytes
) -> None:
    for fields in ({"text": "red"}, {"text": "red", "where": "article = 'boat'"}):
        valid(described, "Hits", ask.post("/v1/search", json=fields).json())
    valid(described, "Page", ask.get("/v1/items").json())
    stored = ask.post("/v1/items", data={"id": "one"}, files={"image": ("x", photo)})
    valid(described, "Stored", stored.json())
    ask.delete("/v1/items/one")
    valid(described, "Health", ask.get("/health").json())
    valid(described, "Ready", ask.get("/ready").json())
    valid(described, "Problem", ask.get("/none").json())


def test_the_client_has_a_method_for_each_call_with_its_fields(described: dict[str, Any]) -> None:
    found = operations(described)
    assert set(METHODS) == set(found) - {"page"}
    for name, schema in (("search", "Search"), ("addItem", "Item")):
        parameters = set(inspect.signature(METHODS[name]).parameters) - {"self"}
        assert parameters == set(described["components"]["schemas"][schema]["properties"])


def test_tokens_are_described_where_they_are_asked_for(tmp_path: Path) -> None:
    settings = ServeSettings(bundle=tmp_path, gallery=tmp_path, token_file=tmp_path)
    described = document(settings)
    assert described["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    found = operations(described)
    assert found["search"]["security"] == [{"token": ["search"]}]
    assert found["addItem"]["security"] == [{"token": ["gallery"]}]
    assert found["health"]["security"] == []


@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_made_up_requests_find_no_failure_and_nothing_untold(live: Live, mode: str) -> None:
    """Let schemathesis make up requests, right or wrong, and hold each answer to the document."""
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis import GenerationMode, checks

    schema = schemathesis.openapi.from_url(f"{live.url}/openapi.json")
    held = (
        checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
        checks.response_headers_conformance,
        checks.negative_data_rejection,
        checks.unsupported_method,
    )
    made = 0
    for operation in (result.ok() for result in schema.get_all_operations()):
        if mode == "NEGATIVE" and not (operation.body or operation.query):
            continue  # nothing to be wrong about

        @given(case=operation.as_strategy(generation_mode=GenerationMode[mode]))
        @settings(
            max_examples=20,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def hold(case: Any) -> None:
            nonlocal made
            made += 1
            case.call_and_validate(checks=list(held))

        hold()
    assert made >= 60
