"""The OpenAPI description: complete, its examples true, its models closed."""

from typing import Any

import jsonschema_rs
import pytest
from fastapi.routing import APIRoute
from pydantic import BaseModel

from chat_app import api
from chat_app.api.deps import Body
from chat_app.api.errors import FAMILIES
from chat_app.api.views import ErrorFacts, Shown
from tests.api.conftest import Person, Server
from tests.house.pages import openapi

SCHEMA = openapi()
OPERATIONS = [
    (f"{method.upper()} {path}", route)
    for path, methods in SCHEMA["paths"].items()
    for method, route in methods.items()
]


def named(value: object) -> str:
    return value if isinstance(value, str) else ""


def contents(route: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every JSON body, answer and refusal of a route that has a form."""
    asked = route.get("requestBody", {}).get("content", {}).get("application/json")
    found = [("body", asked)] if asked else []
    for status, response in route["responses"].items():
        content = response.get("content", {}).get("application/json", {})
        if content.get("schema"):
            found.append((status, content))
    return found


@pytest.mark.parametrize(("name", "route"), OPERATIONS, ids=named)
def test_examples_are_what_their_own_schemas_allow(name: str, route: dict[str, Any]) -> None:
    for where, content in contents(route):
        assert "example" in content, where
        form = {"components": SCHEMA["components"], "allOf": [content["schema"]]}
        problems = [
            f"{where} {list(error.instance_path)}: {error.message}"
            for error in jsonschema_rs.Draft202012Validator(form).iter_errors(content["example"])
        ]
        assert problems == []


@pytest.mark.parametrize(("name", "route"), OPERATIONS, ids=named)
def test_every_route_says_what_it_does_and_how_it_refuses(name: str, route: dict[str, Any]) -> None:
    assert route["summary"]
    assert not route["summary"].endswith(".")
    assert route["description"].startswith(route["summary"].split("`")[0][:20])
    assert route["tags"]
    for status in route["responses"]:
        assert int(status) in {number for number, _ in FAMILIES.values()} | {200, 201, 202, 204,
                                                                            303, 304}  # fmt: skip


def test_every_code_is_listed_with_its_status() -> None:
    codes = SCHEMA["x-error-codes"]
    assert codes["out_of_credits"]["status"] == 402
    assert len(codes) > 100


def routes(items: Any) -> list[APIRoute]:
    found: list[APIRoute] = []
    for route in items:
        if isinstance(route, APIRoute):
            found.append(route)
        elif getattr(route, "routes", None):
            found += routes(route.routes)
        elif router := getattr(route, "original_router", None):
            found += routes(router.routes)
    return found


def models(kind: Any) -> list[type[BaseModel]]:
    """The models in a type, however deep."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [model for part in getattr(kind, "__args__", ()) for model in models(part)]


def test_bodies_take_known_fields_and_answers_show_known_fields(server: Server) -> None:
    """No mass assignment in, nothing by accident out: closed models on every route."""
    live = routes(api.create(server.app).routes)
    assert len(live) > 100
    asked, shown = 0, 0
    for route in live:
        for field in route.dependant.body_params:
            for model in models(field.field_info.annotation):
                asked += 1
                assert issubclass(model, Body), (route.path, model)
                assert model.model_config["extra"] == "forbid"
        for model in models(route.response_model):
            shown += 1
            assert issubclass(model, Shown), (route.path, model)
    assert asked > 30
    assert shown > 70


def closed(kind: type[BaseModel]) -> list[type[BaseModel]]:
    return [kind, *(child for each in kind.__subclasses__() for child in closed(each))]


def test_no_model_is_opened_again() -> None:
    for model in [*closed(Body), *closed(Shown)]:
        assert model.model_config.get("extra") == "forbid", model
    assert ErrorFacts.model_config["extra"] == "allow"  # facts differ from error to error


@pytest.mark.parametrize("path", ["/api/chat/models", "/api/billing/packages", "/api/openapi.json"])
def test_etags(ann: Person, path: str) -> None:
    first = ann.client.get(path)
    assert first.status_code == 200
    tag = first.headers["etag"]
    for sent in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        again = ann.client.get(path, headers={"If-None-Match": sent})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
    assert ann.client.get(path, headers={"If-None-Match": '"other"'}).json() == first.json()
