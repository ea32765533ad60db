"""Errors at the REST edge: one table from family to status, one shape for every refusal.

`{"error": {"message", "type", "code", "param", …facts}}`, also for what the framework itself
refuses. A bug answers 500 with a reference number and tells the rest to the log alone.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from chat_app import errors, logs
from chat_app.errors import AppError

log = logging.getLogger(__name__)

FAMILIES: dict[type[AppError], tuple[int, str]] = {
    errors.Malformed: (400, "invalid_request_error"),
    errors.NotSignedIn: (401, "authentication_error"),
    errors.OutOfCredits: (402, "insufficient_credits"),
    errors.NotAllowed: (403, "permission_error"),
    errors.NotFound: (404, "not_found_error"),
    errors.Conflict: (409, "conflict_error"),
    errors.TooLarge: (413, "invalid_request_error"),
    errors.Invalid: (422, "invalid_request_error"),
    errors.TooMany: (429, "rate_limit_error"),
    errors.Unavailable: (503, "unavailable_error"),
}
_SERVER = (500, "server_error")
# What the framework refuses by itself, in our words.
_HTTP: dict[int, tuple[str, str]] = {
    400: ("malformed", errors.Malformed.message),
    404: ("not_found", "There is nothing at this address. The addresses are in /api/docs."),
    405: ("method_not_allowed", "This address does not accept this method. See /api/docs."),
    413: ("too_large", errors.TooLarge.message),
}
_RESERVED = {"message", "type", "code", "param"}
MAX_PROBLEMS = 10


def family(error: type[AppError]) -> tuple[int, str]:
    """Status and type of an error class: those of its nearest ancestor in the table."""
    for ancestor in error.__mro__:
        if ancestor in FAMILIES:
            return FAMILIES[ancestor]
    return _SERVER


def body(
    *, message: str, type: str, code: str, param: str | None = None, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The one shape. Facts never hide the four fixed fields."""
    extra = {name: value for name, value in facts.items() if name not in _RESERVED}
    return {"error": {"message": message, "type": type, "code": code, "param": param, **extra}}


def body_of(error: AppError) -> dict[str, Any]:
    """The shape of a refusal."""
    param = error.facts.get("param")
    return body(
        message=str(error),
        type=family(type(error))[1],
        code=error.code,
        param=str(param) if param is not None else None,
        facts=error.facts,
    )


def answer(error: AppError, shape: dict[str, Any] | None = None) -> JSONResponse:
    """The response to a refusal, with Retry-After where waiting helps."""
    status = family(type(error))[0]
    headers = {}
    wait = error.facts.get("retry_after_seconds")
    if isinstance(wait, int):
        headers["Retry-After"] = str(wait)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _json(status, shape or body_of(error), headers)


def install(web: FastAPI) -> None:
    """Make every error of the application speak in this shape."""

    @web.exception_handler(AppError)
    async def refused(_request: Request, error: AppError) -> JSONResponse:
        return answer(error)

    @web.exception_handler(RequestValidationError)
    async def not_valid(_request: Request, error: RequestValidationError) -> JSONResponse:
        return invalid(error)

    @web.exception_handler(HTTPException)
    async def http(_request: Request, error: HTTPException) -> JSONResponse:
        code, message = _HTTP.get(error.status_code, ("http_error", "The request was refused."))
        kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
        shape = body(message=message, type=kind, code=code, facts={})
        return _json(error.status_code, shape, dict(error.headers or {}))

    @web.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        return _json(_SERVER[0], crash_body(request.url.path, error), {})


def crash_body(where: str, error: BaseException) -> dict[str, Any]:
    """The answer to a bug: a number for the person, the traceback for the log."""
    reference = logs.request_id()
    log.error("%s failed, reference %s", where, reference, exc_info=error)
    message = f"Something went wrong on our side. Please try again; reference {reference}."
    return body(message=message, type=_SERVER[1], code="internal", facts={"reference": reference})


def leaves(start: type[AppError] = AppError) -> Iterator[type[AppError]]:
    """Every error class that is loaded, for the documentation and its test."""
    for child in start.__subclasses__():
        yield child
        yield from leaves(child)


def invalid(error: RequestValidationError) -> JSONResponse:
    """The response to a body or a query that is not as described, with what is wrong where."""
    problems = [
        {"param": _param(item["loc"]), "message": str(item["msg"])}
        for item in error.errors()[:MAX_PROBLEMS]
    ]
    if any(item["type"] == "json_invalid" for item in error.errors()):
        return answer(errors.Malformed())
    first = problems[0] if problems else {"param": None, "message": "not valid"}
    where = f"{first['param']}: " if first["param"] else ""
    shape = body(
        message=f"{where}{first['message']}. Correct it and send it again.",
        type=FAMILIES[errors.Invalid][1],
        code="invalid",
        param=first["param"],
        facts={"problems": problems},
    )
    return _json(422, shape, {})


def _param(location: tuple[int | str, ...]) -> str | None:
    parts = [str(part) for part in location if part not in ("body", "query", "path", "header")]
    return ".".join(parts) or None


def _json(status: int, shape: dict[str, Any], headers: dict[str, str]) -> JSONResponse:
    headers = {"Cache-Control": "no-store", **headers}
    return JSONResponse(_encodable(shape), status_code=status, headers=headers)


def _encodable(value: Any) -> Any:
    """Facts may carry anything a client sent, also what JSON or UTF-8 cannot say."""
    if isinstance(value, dict):
        return {_encodable(str(name)): _encodable(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encodable(item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if value is None or isinstance(value, (bool, int)):
        return value
    return str(value)
