"""Examples in the OpenAPI description, made from its schemas so that they cannot drift.

What a field is called says what it looks like; a value is only taken where the schema allows its
kind. Tests hold every example against its own schema.
"""

from typing import Any

from chat_app.api import errors

MAX_DEPTH = 8
# Not required, but an example without them would mean nothing.
_TELLING = ("content",)
_TIME = "2026-01-31T12:00:00Z"
_TEXT = "text"
# By the name of the field.
_NAMED: dict[str, Any] = {
    "access_token": "eyJhbGciOi…",
    "action": "update",
    "actor": "user:1",
    "agent": "Mozilla/5.0",
    "amount": 1900,
    "available": "87.5",
    "balance_after": "87.5",
    "charged": "12.5",
    "checkout_url": "https://checkout.example.org/pay/1",
    "code": "GIFT-7K2M-9QXA",
    "cached_tokens": 0,
    "completion_tokens": 212,
    "content": "Because short waves are scattered most.",
    "context_tokens": 8192,
    "conversation_id": "con_5f0k8m1x2c3v4b5n6q7w8e9r",
    "country": "EE",
    "created": 1769860800,
    "credits": "25",
    "credits_per_month": "1000",
    "currency": "USD",
    "current": "the password of today",
    "day": "2026-01-31",
    "debt": "0",
    "description": "Why is the sky blue?",
    "due_on": "2026-02-14",
    "dropped_messages": 0,
    "email": "ada@example.org",
    "error": None,
    "error_code": None,
    "error_message": None,
    "events": "balance.low",
    "failures": 0,
    "expires_in": 900,
    "finish_reason": "stop",
    "held": "12.5",
    "hosted_url": "https://chat.example.org/api/billing/hosted/1",
    "id": "5f0k8m1x2c3v4b5n6q7w8e9r",
    "index": 0,
    "ip": "192.0.2.7",
    "jurisdiction": "DE",
    "kind": "per_message",
    "leaf_id": "msg_5f0k8m1x2c3v4b5n6q7w8e9r",
    "login": "ada",
    "max_tokens": 512,
    "maximum": "25",
    "message": "Why is the sky blue?",
    "message_id": "msg_5f0k8m1x2c3v4b5n6q7w8e9r",
    "model": "gemma-3-4b-it",
    "monthly_limit": "500",
    "name": "Example",
    "needed": "25",
    "new": "correct horse battery staple",
    "next_cursor": None,
    "object": "list",
    "package_id": "starter",
    "param": None,
    "parent_id": "msg_4e9j7l0w1b2u3a4m5p6v7d8q",
    "password": "correct horse battery staple",
    "payer": "org:7",
    "per_answer": "25",
    "per_conversation": "200",
    "per_day": "500",
    "per_message": "25",
    "per_month": "5000",
    "plan_id": "basic",
    "prompt_tokens": 14,
    "rate_bp": 2200,
    "reason": "A gift to a new customer.",
    "receipt_id": "1042",
    "refresh_token": "s3cret…",
    "reply_id": "rep_5f0k8m1x2c3v4b5n6q7w8e9r",
    "revoked_at": None,
    "role": "user",
    "secret": "whsec_…",
    "seed": 7,
    "sibling_index": 0,
    "snippet": "…because short waves are scattered most…",
    "spent_this_month": "212.5",
    "spent_today": "12.5",
    "state": "done",
    "status": "active",
    "system": "Answer in one sentence.",
    "temperature": 0.7,
    "text": "We are away on Monday at noon.",
    "title": "Why the sky is blue",
    "to_username": "grace",
    "token": "5f0k8m1x2c3v4b5n6q7w8e9r",
    "token_type": "Bearer",
    "top_p": 0.95,
    "topics": {"news": {"mail": False}},
    "total": "100",
    "total_tokens": 226,
    "type": "message",
    "uptime_seconds": 3600,
    "used": "12.5",
    "url": "https://hooks.example.org/in",
    "user_id": "7",
    "username": "ada",
    "vat_id": "EE100931558",
    "version": 3,
}
_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def add(schema: dict[str, Any]) -> None:
    """Give every body, answer and refusal of a description an example."""
    for methods in schema["paths"].values():
        for route in methods.values():
            asked = route.get("requestBody", {}).get("content", {}).get("application/json")
            if asked is not None:
                asked.setdefault("example", request(schema, asked["schema"]))
            for status, response in route["responses"].items():
                content = response.get("content", {}).get("application/json")
                if content is None or not content.get("schema"):
                    continue
                refused = content["schema"].get("$ref", "").endswith("/ErrorBody")
                made = refusal(int(status)) if refused else of(schema, content["schema"])
                content.setdefault("example", made)


def refusal(status: int) -> dict[str, Any]:
    """The refusal that a status usually is."""
    for kind, (number, _) in errors.FAMILIES.items():
        if number == status:
            return errors.body_of(kind())
    return errors.body(message="The request was refused.", type="error", code="error", facts={})


def request(schema: dict[str, Any], form: dict[str, Any]) -> Any:
    """A small body: what has to be there, or else the first thing that can be."""
    model = _resolve(schema, form)
    fields = model.get("properties")
    if not fields:
        return of(schema, form)
    wanted = model.get("required") or list(fields)[:1]
    return {name: of(schema, fields[name], name, small=True) for name in wanted}


def of(
    schema: dict[str, Any],
    form: dict[str, Any],
    name: str = "",
    *,
    small: bool = False,
    depth: int = 0,
) -> Any:
    """A value that the schema `form` allows, with the looks of a field of that name."""
    model = _resolve(schema, form)
    for known in ("const", "example"):
        if known in model:
            return model[known]
    if model.get("enum"):
        liked = _NAMED.get(name)
        return liked if liked in model["enum"] else model["enum"][0]
    if options := model.get("anyOf") or model.get("oneOf"):
        return _option(schema, options, name, small=small, depth=depth)
    kind = model.get("type")
    if kind in ("object", "array") and depth < MAX_DEPTH:
        return _whole(schema, model, name, small=small, depth=depth)
    return _plain(model, kind, name)


def _option(
    schema: dict[str, Any], options: list[dict[str, Any]], name: str, *, small: bool, depth: int
) -> Any:
    if name in _NAMED:
        for option in options:
            if isinstance(_NAMED[name], _KINDS.get(_resolve(schema, option).get("type", ""), ())):
                return of(schema, option, name, small=small, depth=depth + 1)
    filled = [option for option in options if option.get("type") != "null"] or options
    return of(schema, filled[0], name, small=small, depth=depth + 1)


def _whole(
    schema: dict[str, Any], model: dict[str, Any], name: str, *, small: bool, depth: int
) -> Any:
    if model["type"] == "array":
        if fixed := model.get("prefixItems"):
            return [of(schema, item, name, small=small, depth=depth + 1) for item in fixed]
        if model.get("maxItems") == 0 or not model.get("items"):
            return []
        return [of(schema, model["items"], name, small=small, depth=depth + 1)]
    fields = model.get("properties", {})
    needed = [*model.get("required", []), *_TELLING]
    wanted = [field for field in fields if field in needed] if small else fields
    if not fields and isinstance(_NAMED.get(name), dict):
        return _NAMED[name]
    if not fields and isinstance(more := model.get("additionalProperties"), dict):
        return {"name": of(schema, more, small=small, depth=depth + 1)}
    return {
        field: of(schema, fields[field], field, small=small, depth=depth + 1) for field in wanted
    }


def _plain(model: dict[str, Any], kind: str | None, name: str) -> Any:
    liked = _NAMED.get(name)
    allowed = _KINDS.get(kind or "", (object,))
    if name in _NAMED and isinstance(liked, allowed) and not isinstance(liked, bool):
        return liked
    if kind == "string":
        return _word(model, name)
    if kind in ("integer", "number"):
        return max(model.get("minimum", 1), 1) if "maximum" not in model else model["maximum"]
    if kind == "boolean":
        return bool(model.get("default", False))
    return {"object": {}, "array": [], "null": None}.get(kind or "null")


def _word(model: dict[str, Any], name: str) -> str:
    if name.endswith(("_at", "_until", "since")) or name in ("at", "period_start", "period_end"):
        return _TIME
    if name.endswith("_id"):
        return str(_NAMED["id"])
    return str(model.get("default") or _TEXT)


def _resolve(schema: dict[str, Any], form: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in form:
        return form
    found: dict[str, Any] = schema["components"]["schemas"][form["$ref"].rpartition("/")[2]]
    return found
