"""The REST API: thin routes over the flows, with one shape for every refusal."""

from fastapi import APIRouter, FastAPI

from chat_app import __version__
from chat_app.api import (
    account,
    admin,
    analytics,
    announcements,
    auth,
    backups,
    billing,
    books,
    branches,
    bulk,
    chat,
    composer,
    docs,
    errors,
    folders,
    fraud,
    hub,
    images,
    imports,
    invoice_links,
    invoices,
    keys,
    learn,
    mailbox,
    monitoring,
    notifications,
    openai,
    orgs,
    payments,
    performance,
    prices,
    rates,
    reports,
    revenue,
    revenue_detail,
    second_factor,
    setup,
    shares,
    shelves,
    shop,
    spending,
    tax_rates,
    telemetry,
)
from chat_app.app import App
from chat_app.flows import figures
from chat_app.monitor.health import Probe

PREFIX = "/api"
ROUTERS = (
    auth.router,
    keys.router,
    second_factor.router,
    hub.router,
    mailbox.router,
    account.router,
    chat.router,
    folders.router,
    shares.router,
    composer.router,
    images.router,
    imports.router,
    branches.router,
    billing.router,
    analytics.router,
    payments.billing,
    shop.router,
    spending.router,
    invoices.router,
    invoice_links.router,
    notifications.billing,
    orgs.billing,
    orgs.router,
    notifications.router,
    notifications.hooks,
    announcements.router,
    monitoring.router,
    notifications.monitoring,
    telemetry.router,
    performance.router,
    admin.router,
    composer.admin,
    second_factor.admin,
    bulk.router,
    prices.router,
    shelves.router,
    invoices.admin_router,
    invoice_links.admin_router,
    tax_rates.router,
    payments.router,
    notifications.admin,
    announcements.admin,
    books.router,
    backups.router,
    revenue.router,
    revenue_detail.router,
    reports.router,
    fraud.router,
    learn.router,
    setup.router,
    docs.router,
)


def create(app: App) -> FastAPI:
    """The web application that serves `app`. Starting and stopping the App is the caller's."""
    web = FastAPI(
        title="ML Chat Billing",
        version=__version__,
        description=docs.INTRODUCTION,
        openapi_url=None,  # docs.py serves it, with an ETag
        docs_url=None,  # the usual page loads its scripts from another site
        redoc_url=None,
        redirect_slashes=False,
    )
    web.state.app = app
    web.state.pages = shares.Pages(app)
    web.state.probe = Probe(app.db, app.settings.data_dir, engine=lambda: figures.engine_state(app))
    errors.install(web)
    web.add_middleware(rates.RateHeaders, app=app)
    rooms = APIRouter(prefix=PREFIX)
    for router in ROUTERS:
        rooms.include_router(router)
    # Routes are tried in their order: the few that are asked most stand first.
    web.include_router(monitoring.ops)
    web.include_router(openai.router)
    web.include_router(rooms)
    web.include_router(shares.page)
    web.openapi = lambda: docs.describe(web)  # type: ignore[method-assign]
    return web
