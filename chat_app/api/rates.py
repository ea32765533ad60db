"""Rate-limit headers: what is left of the caller's minute, on every answer to a signed-in caller.

`RateLimit-*` as in the IETF's draft, `x-ratelimit-*-requests` as clients of OpenAI read them.
What refuses adds its own Retry-After (`errors.py`).
"""

import math

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chat_app.accounts.limits import Rate
from chat_app.app import App

_WHO = "rate_of"


def note(request: Request, user_id: int) -> None:
    """Whose limits the answer's headers tell of."""
    setattr(request.state, _WHO, user_id)


class RateHeaders:
    """ASGI middleware; reads what `note` left."""

    def __init__(self, web: ASGIApp, app: App) -> None:
        self.web = web
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.web(scope, receive, send)
            return
        state = scope.setdefault("state", {})

        async def answer(message: Message) -> None:
            user_id = state.get(_WHO)
            if message["type"] == "http.response.start" and user_id is not None:
                rate = self.app.limits.rate(user_id)
                if rate is not None:
                    MutableHeaders(scope=message).update(headers(rate))
            await send(message)

        await self.web(scope, receive, answer)


def headers(rate: Rate) -> dict[str, str]:
    """The headers for where somebody stands."""
    seconds = math.ceil(rate.seconds)
    minutes = f"{seconds // 60}m" if seconds >= 60 else ""
    return {
        "RateLimit-Limit": str(rate.limit),
        "RateLimit-Remaining": str(rate.left),
        "RateLimit-Reset": str(seconds),
        "x-ratelimit-limit-requests": str(rate.limit),
        "x-ratelimit-remaining-requests": str(rate.left),
        "x-ratelimit-reset-requests": f"{minutes}{seconds % 60}s",
    }
