"""The REST API: thin routes over the flows, with one shape for every refusal."""

from fastapi import APIRouter, FastAPI

from chat_app import __version__
from chat_app.api import admin, auth, billing, chat, docs, errors, monitoring, payments
from chat_app.app import App
from chat_app.monitor.health import Probe

PREFIX = "/api"


def create(app: App) -> FastAPI:
    """The web application that serves `app`. Starting and stopping the App is the caller's."""
    web = FastAPI(
        title="ML Chat Billing",
        version=__version__,
        description=docs.INTRODUCTION,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # the usual page loads its scripts from another site
        redoc_url=None,
        redirect_slashes=False,
    )
    web.state.app = app
    web.state.probe = Probe(app.db, app.settings.data_dir)
    errors.install(web)
    rooms = APIRouter(prefix=PREFIX)
    for room in (auth, chat, billing, monitoring, admin, docs):
        rooms.include_router(room.router)
    for made in (payments.billing, payments.router):
        rooms.include_router(made)
    web.include_router(rooms)
    web.include_router(monitoring.ops)
    web.openapi = lambda: docs.describe(web)  # type: ignore[method-assign]
    return web
