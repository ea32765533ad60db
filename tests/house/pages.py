"""The reference pages of docs/, made from the program so that they cannot drift.

`python -m tests.house.pages` writes them anew; test_docs.py fails when they differ. Everything
else in docs/ is written by hand.
"""

import inspect
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from chat_app import settings
from chat_app.api import docs
from chat_app.errors import AppError
from tests.house import tree

NOTE = "<!-- Made by: python -m tests.house.pages. Change the code, not this page. -->"

# The codes of answers that began and could not be finished, and of what the framework refuses.
ANSWERS = {
    "engine_error": "The model failed while it was writing.",
    "engine_stalled": "No new token for `llm.stall_seconds`.",
    "engine_crashed": "The model's own process died. It is started again with the next message.",
    "engine_closed": "The engine was ended while the answer was waiting or being written.",
    "load_failed": "The model could not be loaded, or not within `llm.load_seconds`.",
    "not_enough_memory": "The model does not fit into the memory that is free.",
    "out_of_memory": "Memory ran out while the answer was being written.",
    "context_overflow": "The last message alone does not fit into the model's context.",
    "model_cannot_see": "The message has images, and what runs the model takes none.",
    "model_not_available": "The model was taken away while the answer was waiting for it.",
    "deadline": "The answer took longer than `llm.answer_seconds`.",
    "interrupted": "The server was killed; the answer was settled by its last saved progress.",
}
FRAMEWORK = {
    "method_not_allowed": (405, "The address does not accept this method."),
    "http_error": (400, "The web server refused the request before it was read."),
    "internal": (500, "A bug. The answer has a reference number that is also in the log."),
}


def settings_page() -> str:
    """Every setting with its environment name, default and sentence."""
    lines = [
        "# Settings",
        "",
        NOTE,
        "",
        "Every setting is in [settings.toml](../settings.toml) with its default. The environment",
        "wins over the file, the command line over both. A name that nobody knows, in the file or",
        "in the environment, stops the start and is named. Secrets are no settings: they are made",
        "at the first start in `secrets.json` in the data directory, readable by its owner alone.",
        "",
        "| environment | default | what it does |",
        "|---|---|---|",
    ]
    for key, (value, sentence) in settings_in_file().items():
        name = settings.PREFIX + key.upper().replace(".", "__")
        shown = "(empty)" if value == '""' else f"`{value.strip(chr(34))}`"
        lines.append(f"| `{name}` | {shown} | {sentence} |")
    lines += [
        "",
        "Two more names are read that belong to others: `HF_TOKEN`, the token of a Hugging Face",
        "account that has accepted the Gemma terms, for `models pull`; and `SPACE_ID`, which a",
        "Hugging Face Space sets, so that cookies work inside its frame.",
    ]
    return "\n".join(lines) + "\n"


def example_environment() -> str:
    """Every setting as a line for an environment file, switched off, with its sentence."""
    lines = [
        "# Made by `python -m tests.house.pages` from settings.toml. Copy it, and take the # away",
        "# before what you change; for systemd and `docker run --env-file`.",
    ]
    section = ""
    for key, (value, sentence) in settings_in_file().items():
        if key.rpartition(".")[0] != section:
            section = key.rpartition(".")[0]
            lines += ["", f"# {section}"]
        name = settings.PREFIX + key.upper().replace(".", "__")
        lines += [f"# {sentence}", f"#{name}={value.strip(chr(34))}"]
    return "\n".join(lines) + "\n"


def settings_in_file() -> dict[str, tuple[str, str]]:
    """Every key in settings.toml with its value's text and its sentence."""
    found, section = {}, ""
    for line in tree.read("settings.toml").splitlines():
        if head := re.match(r"\[([\w.]+)\]", line):
            section = f"{head[1]}."
        elif entry := re.match(r"(\w+)\s*=\s*(\".*?\"|\S+)\s*(?:#\s*(.*))?$", line):
            found[f"{section}{entry[1]}"] = (entry[2], entry[3] or "")
    return found


def errors_page() -> str:
    """Every error code with its status and meaning."""
    from chat_app.api.errors import family

    lines = [
        "# Errors",
        "",
        NOTE,
        "",
        "Every refusal of the REST API has the body",
        '`{"error": {"message", "type", "code", "param", …facts}}`. `message` is for a person and',
        "ends with the next step; `code` is for a program and does not change; facts such as",
        "`needed`, `available` or `retry_after_seconds` are beside it. 429 and 503 also say",
        "`Retry-After` in seconds. The browser shows the same sentences.",
        "",
        "| code | status | when |",
        "|---|---|---|",
    ]
    rows = {error.code: (family(error)[0], meaning(error)) for error in all_errors()}
    rows |= FRAMEWORK
    lines += [
        f"| `{code}` | {status} | {words} |" for code, (status, words) in sorted(rows.items())
    ]
    lines += [
        "",
        "## Answers that failed",
        "",
        "A message that was accepted has no status left to change, so an answer that cannot be",
        "finished ends with `finish_reason` `error` and one of these codes. An answer that failed",
        "costs nothing; one that was interrupted by a killed server costs what was delivered.",
        "",
        "| code | when |",
        "|---|---|",
    ]
    lines += [f"| `{code}` | {words} |" for code, words in sorted(ANSWERS.items())]
    return "\n".join(lines) + "\n"


def all_errors(start: type[AppError] = AppError) -> list[type[AppError]]:
    """All error classes of the program, families included."""
    if start is AppError:
        tree.import_everything()
        import chat_app.__main__  # noqa: F401
    found: list[type[AppError]] = []
    for child in start.__subclasses__():
        if child.__module__.split(".")[0] in {"chat_app", "ui"}:
            found += [child, *all_errors(child)]
    return found


def meaning(error: type[AppError]) -> str:
    """The first paragraph of the class's docstring."""
    return " ".join((inspect.getdoc(error) or "").split("\n\n")[0].split()).replace("|", "\\|")


def api_page() -> str:
    """Every route with what it does and how it can refuse."""
    lines = [
        "# REST API",
        "",
        NOTE,
        "",
        "The running program shows this with all fields at `/api/docs`; programs read",
        "`/api/openapi.json`. Sign in with `POST /api/auth/login` and send the access token as",
        "`Authorization: Bearer …`, or send an [API key](keys.md) so or as `x-api-key`; a browser",
        "uses its session cookie. Credits are decimal texts",
        'such as `"0.25"` with at most six decimals, money is minor units, times are RFC 3339 in',
        "UTC, lists are `{items, next_cursor}` and take `?limit=` and `?cursor=`.",
        "",
        "A POST that moves credits or starts an answer takes an `Idempotency-Key`: the same key",
        "and body give the same answer and act once; another body is `idempotency_conflict`; an",
        "answer that is still being written is `in_progress`. What can go wrong is in",
        "[errors.md](errors.md).",
        "",
        "Answers to a signed-in caller say what is left of the minute: `RateLimit-Limit`,",
        "`RateLimit-Remaining` and `RateLimit-Reset` (seconds), and the same as",
        "`x-ratelimit-limit-requests`, `-remaining-requests` and `-reset-requests`. A refusal with",
        "429 or 503 carries `Retry-After`: from then on it is worth asking again.",
        "",
        "A message with `stream: true` is answered with server-sent events: `start`, then `queued`",
        "with the place in line while others come first, then `delta` with a text and its index,",
        "then `done` or `error`. A connection that broke goes on with",
        "`GET /api/chat/replies/{id}/events?after=N`, also after a restart of the server.",
    ]
    rooms: dict[str, list[str]] = {}
    for path, methods in openapi()["paths"].items():
        for method, route in methods.items():
            room = (route.get("tags") or ["other"])[0]
            words = " ".join(route.get("description", "").split("\n\n")[0].split())
            refusals = ", ".join(code for code in route["responses"] if not code.startswith("2"))
            row = f"| `{method.upper()} {path}` | {words} | {refusals} |"
            rooms.setdefault(room, []).append(row)
    for room, rows in rooms.items():
        lines += ["", f"## {room.capitalize()}", "", "| route | what it does | refuses with |"]
        lines += ["|---|---|---|", *rows]
    return "\n".join(lines) + "\n"


def openapi() -> dict[str, Any]:
    """The description of the REST API, of an app that is built and never started."""
    from chat_app import api
    from chat_app.app import build

    with tempfile.TemporaryDirectory() as folder:
        chosen = settings.load(data_dir=Path(folder), llm={"engine": "script"})
        app = build(chosen)
        try:
            schema: dict[str, Any] = api.create(app).openapi()
        finally:
            app.passwords.close()
            app.db.close()
    return schema


def reference_page() -> str:
    """Every route with its fields and an example."""
    schema = openapi()
    lines = [
        "# API reference",
        "",
        NOTE,
        "",
        "Every route with its fields and an example. What they have in common, tokens, keys and",
        "refusals, is in [api.md](api.md) and [errors.md](errors.md); programs read the same from",
        "`/api/openapi.json`.",
    ]
    rooms: dict[str, list[str]] = {}
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            room = (route.get("tags") or ["other"])[0]
            rooms.setdefault(room, []).extend(_route(schema, path, method, route))
    for room, rows in rooms.items():
        lines += ["", f"## {room.capitalize()}", *rows]
    return "\n".join(lines) + "\n"


def _route(schema: dict[str, Any], path: str, method: str, route: dict[str, Any]) -> list[str]:
    lines = ["", f"### {method.upper()} {path}", ""]
    for part in route.get("description", "").split("\n\n"):
        lines += [" ".join(part.split()), ""]
    rows = [
        (item["name"], f"{docs.kind(item['schema'])}, {item['in']}", item.get("description", ""))
        for item in route.get("parameters", [])
    ]
    asked = route.get("requestBody", {}).get("content", {}).get("application/json", {})
    model = docs.resolve(schema, asked.get("schema", {}))
    for name, field in model.get("properties", {}).items():
        needed = ", required" if name in model.get("required", []) else ""
        rows.append((name, docs.kind(field) + needed, docs.words(field)))
    if rows:
        lines += ["| name | kind | |", "|---|---|---|"]
        lines += [
            f"| `{name}` | {kind} | {' '.join(words.split())} |" for name, kind, words in rows
        ]
        lines += [""]
    if "example" in asked:
        lines += ["```json", _json(asked["example"]), "```", ""]
    for status, response in route["responses"].items():
        if status.startswith("2"):
            shown = response.get("content", {}).get("application/json", {})
            lines += [f"Answers {status}" + (":" if "example" in shown else "."), ""]
            if "example" in shown:
                lines += ["```json", _json(shown["example"]), "```", ""]
    refusals = [f"`{status}`" for status in sorted(route["responses"]) if status >= "4"]
    if refusals:
        lines += ["Refuses with " + ", ".join(refusals) + ".", ""]
    return lines[:-1]


def _json(value: Any) -> str:
    """JSON as people write it: what fits into a line is on one."""
    line = json.dumps(value, ensure_ascii=False)
    return line if len(line) <= 80 else json.dumps(value, ensure_ascii=False, indent=2)


PAGES = {
    "settings.md": settings_page,
    "errors.md": errors_page,
    "api.md": api_page,
    "api-reference.md": reference_page,
    "../deploy/example.env": example_environment,
}

if __name__ == "__main__":
    for name, write in PAGES.items():
        (tree.ROOT / "docs" / name).write_text(write(), encoding="utf-8")
        print(f"docs/{name}")
