"""Told: what goes wrong in a handler becomes a sentence on the page, never a traceback."""

import logging
from collections.abc import AsyncIterator, Callable
from functools import wraps
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import Any

import gradio as gr

from chat_app import logs
from chat_app.errors import AppError, NotAllowed, NotSignedIn, OutOfCredits, TooMany, Unavailable

log = logging.getLogger(__name__)

_TITLES: tuple[tuple[type[AppError], str], ...] = (
    (NotSignedIn, "Signed out"),
    (OutOfCredits, "Not enough credits"),
    (NotAllowed, "Not allowed"),
    (TooMany, "One moment"),
    (Unavailable, "Not available now"),
)
Handler = Callable[..., Any]


def told(handler: Handler) -> Handler:
    """The handler, with AppErrors as toasts and anything else logged under a reference number."""
    if isasyncgenfunction(handler):

        @wraps(handler)
        async def streaming(*args: Any) -> AsyncIterator[Any]:
            try:
                async for update in handler(*args):
                    yield update
            except Exception as error:
                raise toast(error) from None

        return streaming
    if iscoroutinefunction(handler):

        @wraps(handler)
        async def waiting(*args: Any) -> Any:
            try:
                return await handler(*args)
            except Exception as error:
                raise toast(error) from None

        return waiting

    @wraps(handler)
    def plain(*args: Any) -> Any:
        try:
            return handler(*args)
        except Exception as error:
            raise toast(error) from None

    return plain


def toast(error: Exception) -> gr.Error:
    """What the person reads. Only sentences that were written for people get there."""
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, AppError):
        title = next((title for kind, title in _TITLES if isinstance(error, kind)), "Please note")
        return gr.Error(str(error), duration=8, title=title, print_exception=False)
    reference = logs.request_id()
    log.error("handler failed, reference %s", reference, exc_info=error)
    return gr.Error(
        f"Something went wrong on our side. Try again; if it stays, give the operator the "
        f"reference {reference}.",
        duration=10,
        title="Unexpected error",
        print_exception=False,
    )
