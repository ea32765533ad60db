"""The page's own calls go to Gradio at once, not past each of our REST routes first.

A request is held against the routes in their order, about 2 µs each; Gradio, mounted at `/`, comes
last, and sending one message takes four calls.
"""

from typing import TYPE_CHECKING

from starlette.routing import BaseRoute, Match, Mount

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send

PREFIX = "/gradio_api/"


class Straight(BaseRoute):
    """Stands before all routes and takes what only Gradio answers."""

    def __init__(self, mount: Mount) -> None:
        self.mount = mount

    def matches(self, scope: "Scope") -> tuple[Match, "Scope"]:
        """As Gradio's own place says, for its own paths; nothing else."""
        if scope["type"] == "http" and scope["path"].startswith(PREFIX):
            return self.mount.matches(scope)
        return Match.NONE, {}

    async def handle(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Let Gradio answer."""
        await self.mount.handle(scope, receive, send)


def install(web: "FastAPI") -> None:
    """Put it first. Gradio is mounted last, as `gr.mount_gradio_app` leaves it."""
    mount = web.router.routes[-1]
    if not isinstance(mount, Mount):
        raise TypeError("Gradio is not where it was mounted.")
    web.router.routes.insert(0, Straight(mount))
