"""Refusals of `/v1` as OpenAI's clients know them: their codes and statuses, our facts.

The shape is that of every refusal. What other programs look for by name is named so: no credits
are `insufficient_quota` (402), no such model is `model_not_found`, a wrong field is a 400. Our
own code stays beside it as `reason`.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from chat_app import logs
from chat_app.api import errors, sse
from chat_app.credits.operations import IdempotencyConflict
from chat_app.credits.pricing import NotOffered, Unpriced
from chat_app.errors import AppError, Invalid, NotSignedIn, OutOfCredits
from chat_app.flows.reply import ReplyView
from chat_app.llm.engine import ContextOverflow, UnknownModel

INVALID_STATUS = 400
# Their name for our class: type and code.
_NO_MODEL = (UnknownModel, Unpriced, NotOffered)
_NAMES: dict[type[AppError], tuple[str, str]] = {
    OutOfCredits: ("insufficient_quota", "insufficient_quota"),
    **dict.fromkeys(_NO_MODEL, ("invalid_request_error", "model_not_found")),
    ContextOverflow: ("invalid_request_error", "context_length_exceeded"),
    NotSignedIn: ("authentication_error", "invalid_api_key"),
}
REQUEST_ID = "x-request-id"


class Route(APIRoute):
    """A route whose refusals speak OpenAI's dialect; every answer has a request id."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                response = await inner(request)
            except AppError as error:
                response = refusal(error)
            except RequestValidationError as error:
                response = errors.invalid(error)
                response.status_code = INVALID_STATUS
            response.headers.setdefault(REQUEST_ID, logs.request_id())
            return response

        return handle


def refusal(error: AppError) -> JSONResponse:
    """The answer to a refusal."""
    response = errors.answer(error, body_of(error))
    if isinstance(error, Invalid):
        response.status_code = INVALID_STATUS
    if isinstance(error, IdempotencyConflict):
        response.headers["x-should-retry"] = "false"  # their clients repeat other conflicts
    return response


def failure(view: ReplyView) -> dict[str, Any]:
    """The body of an answer that broke off, with what was charged."""
    shape = sse.failure(view)
    if view.error_code == ContextOverflow.code:
        shape["error"] |= {"reason": view.error_code, "code": _NAMES[ContextOverflow][1]}
    return shape


def body_of(error: AppError) -> dict[str, Any]:
    """The body of a refusal, also as an event of a stream."""
    shape = errors.body_of(error)
    for kind, (type_, code) in _NAMES.items():
        if isinstance(error, kind):
            facts = shape["error"]
            facts.setdefault("reason", facts["code"])
            facts |= {"type": type_, "code": code}
            if kind in _NO_MODEL:
                facts["param"] = "model"
    return shape
