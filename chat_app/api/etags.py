"""Answers that say whether they have changed: an ETag, and 304 for who has it already."""

import hashlib
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel

# For its reader alone, and asked about every time.
_CACHING = "private, no-cache"
NOT_CHANGED: dict[int | str, dict[str, Any]] = {
    304: {"description": "Not changed since the answer with the ETag in `If-None-Match`."}
}


def answer(request: Request, shown: BaseModel | bytes) -> Response:
    """The answer in JSON, or 304 when the caller named it in If-None-Match."""
    body = shown if isinstance(shown, bytes) else shown.model_dump_json(by_alias=True).encode()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": _CACHING}
    known = [item.strip().removeprefix("W/") for item in _sent(request).split(",")]
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


def _sent(request: Request) -> str:
    return request.headers.get("if-none-match", "")
