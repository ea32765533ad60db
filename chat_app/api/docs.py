"""The API reference: one page made from the OpenAPI description, with no script in it."""

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from pydantic.json_schema import models_json_schema

from chat_app.api import errors, etags, examples
from chat_app.api.bulk import BulkIn

router = APIRouter(tags=["reference"])

INTRODUCTION = (
    "Paid chat by REST. Sign in with POST /api/auth/login and send the access token as "
    "Authorization: Bearer, or an API key so or as x-api-key, or use the browser's cookie. "
    "Credits are decimal texts such as "
    '"0.25", money is minor units, times are RFC 3339 in UTC. An Idempotency-Key makes a POST '
    "act once however often it is sent. Every refusal is {error: {message, type, code, param}}."
)
# Bodies that a route reads itself, because they come in several kinds.
READ_BY_HAND = (BulkIn,)
_METHODS = ("get", "post", "put", "patch", "delete")
_STYLE = """
:root { color-scheme: light dark; --line: #8883; --soft: #8881; --get: #0b7a4b; --post: #2757d6;
  --patch: #9a5b00; --put: #9a5b00; --delete: #c02638; }
@media (prefers-color-scheme: dark) { :root { --get: #4cc38a; --post: #8ea9ff; --patch: #f0b35a;
  --put: #f0b35a; --delete: #ff8b95; } }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; margin: 0 auto; max-width: 60rem;
  padding: 2rem 1rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; }
h2 { margin: 2.4rem 0 .6rem; text-transform: capitalize; }
nav { display: flex; flex-wrap: wrap; gap: .2rem .9rem; } a { color: var(--post); }
details { border: 1px solid var(--line); border-radius: .6rem; margin: .45rem 0; }
summary { cursor: pointer; display: flex; gap: .8rem; align-items: baseline; padding: .55rem .8rem;
  flex-wrap: wrap; }
summary:focus-visible { outline: 2px solid var(--post); outline-offset: 2px; border-radius: .6rem; }
details > div { padding: .2rem .9rem .9rem; border-top: 1px solid var(--line); }
.method { font-weight: 700; font-size: .8rem; min-width: 3.6rem; }
.get { color: var(--get); } .post { color: var(--post); } .patch { color: var(--patch); }
.put { color: var(--put); } .delete { color: var(--delete); }
code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere; }
td:first-child code { white-space: nowrap; }
table { border-collapse: collapse; width: 100%; margin: .3rem 0 .8rem; display: block;
  overflow-x: auto; }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; } th { font-size: .8rem; }
h3 { font-size: .95rem; margin: .9rem 0 .1rem; } p { margin: .5rem 0; }
"""


@router.get(
    "/openapi.json",
    response_class=Response,
    responses={200: {"content": {"application/json": {}}}, **etags.NOT_CHANGED},
)
def description(request: Request) -> Response:
    """The OpenAPI description, for programs. With an ETag for `If-None-Match`."""
    return etags.answer(request, json.dumps(request.app.openapi()).encode())


@router.get("/docs", response_class=HTMLResponse)
def reference(request: Request) -> HTMLResponse:
    """The API reference for people. Programs read /api/openapi.json."""
    return HTMLResponse(page(request.app.openapi()))


def describe(web: FastAPI) -> dict[str, Any]:
    """The OpenAPI description, with the refusals as they really are and all their codes."""
    if web.openapi_schema is None:
        schema = get_openapi(
            title=web.title,
            version=web.version,
            description=web.description,
            routes=web.routes,
        )
        schema["paths"] = dict(sorted(schema["paths"].items(), key=_chapter))
        for path, methods in schema["paths"].items():
            for route in methods.values():
                _correct(path, route)
        _, made = models_json_schema(
            [(kind, "validation") for kind in READ_BY_HAND],
            ref_template="#/components/schemas/{model}",
        )
        schema["components"]["schemas"] |= made["$defs"]
        for name in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(name, None)
        schema["x-error-codes"] = {
            leaf.code: {"status": errors.family(leaf)[0], "message": leaf.message}
            for leaf in errors.leaves()
            if errors.family(leaf)[0] != 500
        }
        examples.add(schema)
        web.openapi_schema = schema
    return web.openapi_schema


def _chapter(item: tuple[str, object]) -> int:
    """Ours first, probes last: readers want another order than the routes are tried in."""
    return [item[0].startswith(start) for start in ("/api/", "/share/", "/v1/", "/")].index(True)


def _correct(path: str, route: dict[str, Any]) -> None:
    """Say what the framework cannot know: what a route is for, and how it really refuses."""
    route["summary"] = route.get("description", route["summary"]).split("\n")[0].split(". ")[0]
    route["summary"] = route["summary"].rstrip(".").replace("`", "")
    shape = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    wrong = route["responses"].pop("422", None)
    if wrong is not None and not path.startswith("/v1/"):  # there such a body is a 400
        route["responses"]["422"] = {"description": "Not acceptable", "content": shape}
    for status, response in route["responses"].items():
        if status >= "400" and "content" in response:
            response["content"] = shape  # also where the answer itself is a page


def page(schema: dict[str, Any]) -> str:
    """The reference as HTML."""
    rooms: dict[str, list[str]] = {}
    for path, methods in schema["paths"].items():
        for method in _METHODS:
            if method in methods:
                route = methods[method]
                room = (route.get("tags") or ["other"])[0]
                rooms.setdefault(room, []).append(_route(schema, path, method, route))
    links = "".join(f'<a href="#{escape(room)}">{escape(room)}</a>' for room in [*rooms, "errors"])
    sections = "".join(
        f'<section><h2 id="{escape(room)}">{escape(room)}</h2>{"".join(routes)}</section>'
        for room, routes in rooms.items()
    )
    title = escape(f"{schema['info']['title']} API")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><header><h1>{title}</h1>"
        f"<p>Version {escape(schema['info']['version'])} · "
        '<a href="openapi.json">openapi.json</a></p>'
        f"<p>{escape(schema['info'].get('description', ''))}</p><nav>{links}</nav></header>"
        f"<main>{sections}{_errors(schema)}</main></body></html>"
    )


def _route(schema: dict[str, Any], path: str, method: str, route: dict[str, Any]) -> str:
    paragraphs = "".join(
        f"<p>{_prose(part)}</p>" for part in route.get("description", "").split("\n\n")[1:]
    )
    short = escape(route.get("description", "").split("\n")[0])
    return (
        f'<details><summary><span class="method {method}">{method.upper()}</span>'
        f"<code>{escape(path)}</code><span>{short.replace('`', '')}</span></summary><div>"
        f"{paragraphs}{_parameters(route)}{_body(schema, route)}{_responses(schema, route)}"
        "</div></details>"
    )


def _parameters(route: dict[str, Any]) -> str:
    rows = [
        (
            f"<code>{escape(item['name'])}</code>",
            escape(item["in"]),
            escape(kind(item.get("schema", {}))),
            escape(item.get("description", "")),
        )
        for item in route.get("parameters", [])
    ]
    return _table("Parameters", ("name", "in", "type", ""), rows)


def _body(schema: dict[str, Any], route: dict[str, Any]) -> str:
    content = route.get("requestBody", {}).get("content", {})
    return _fields(schema, "Body", content.get("application/json", {}).get("schema", {}))


def _responses(schema: dict[str, Any], route: dict[str, Any]) -> str:
    parts, refusals = [], []
    for status, response in route.get("responses", {}).items():
        if status.startswith("2"):
            content = response.get("content", {}).get("application/json", {})
            form = content.get("schema", {})
            parts.append(_fields(schema, f"Answer {status}", form))
            items = resolve(schema, form).get("properties", {}).get("items", {}).get("items")
            if items:
                parts.append(_fields(schema, "Each item", items))
            if not content:
                parts.append(f"<h3>Answer {escape(status)}</h3>")
        else:
            refusals.append(f"<code>{escape(status)}</code>")
    if refusals:
        parts.append(f"<h3>Refusals</h3><p>{' '.join(refusals)}</p>")
    return "".join(parts)


def _fields(schema: dict[str, Any], title: str, form: dict[str, Any]) -> str:
    model = resolve(schema, form)
    needed = model.get("required", [])
    rows = [
        (
            f"<code>{escape(name)}</code>",
            escape(kind(field)),
            "required" if name in needed and title == "Body" else "",
            escape(words(field)),
        )
        for name, field in model.get("properties", {}).items()
    ]
    return _table(title, ("field", "type", "", ""), rows)


def resolve(schema: dict[str, Any], form: dict[str, Any]) -> dict[str, Any]:
    """The model that a schema refers to, or the schema itself."""
    for option in [form, *form.get("anyOf", [])]:
        if "$ref" in option:
            name = option["$ref"].rpartition("/")[2]
            found: dict[str, Any] = schema["components"]["schemas"][name]
            return found
    return form


def words(field: dict[str, Any]) -> str:
    """What a field's description says, also where only one of its kinds has one."""
    told = [field, *field.get("anyOf", [])]
    return str(next((item["description"] for item in told if "description" in item), ""))


def kind(field: dict[str, Any]) -> str:
    """What kind of value a field takes, in words."""
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2].removesuffix("Out")
    if "anyOf" in field:
        return " or ".join(kind(option) for option in field["anyOf"])
    if "enum" in field:
        return " or ".join(str(value) for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {kind(field.get('items', {}))}"
    return str(field.get("type", "any"))


def _errors(schema: dict[str, Any]) -> str:
    rows = sorted(
        (str(known["status"]), f"<code>{escape(code)}</code>", escape(known["message"]))
        for code, known in schema["x-error-codes"].items()
    )
    table = _table("", ("status", "code", "meaning"), rows)
    return f'<section id="errors"><h2>Errors</h2>{table}</section>'


def _table(title: str, heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (f"<h3>{escape(title)}</h3>" if title else "") + (
        f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
    )


def _prose(text: str) -> str:
    """Text with `code` marked as such."""
    parts = escape(" ".join(text.split())).split("`")
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))
