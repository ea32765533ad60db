"""REST: what people are told: inbox, preferences, alerts, webhooks; for operators the outbox."""

import asyncio
from html import escape
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import HTMLResponse
from pydantic import Field, StrictBool, StrictInt
from sqlmodel import Session

from chat_app.accounts import permissions
from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps
from chat_app.api.deps import Body, Credits, Text, errors_in
from chat_app.api.views import Page, Shown
from chat_app.clock import rfc3339
from chat_app.flows import alerts, deliver, figures, notices
from chat_app.flows.alerts import AlertView
from chat_app.money import format_credits
from chat_app.monitor import faults, system
from chat_app.notify import inbox, kinds, outbox, preferences, webhooks
from chat_app.notify.alerts import Rule
from chat_app.notify.tables import InboxRow, OutboxRow
from chat_app.notify.webhooks import Endpoint

router = APIRouter(prefix="/notifications", tags=["notifications"])
hooks = APIRouter(prefix="/webhooks", tags=["notifications"])
billing = APIRouter(prefix="/billing", tags=["billing"])
admin = APIRouter(prefix="/admin", tags=["admin"])
monitoring = APIRouter(prefix="/monitoring", tags=["monitoring"])

Reading = Annotated[SignedIn, Depends(deps.allowed("messages.read"))]
Telling = Annotated[SignedIn, Depends(deps.allowed("messages.write"))]
Operating = Annotated[SignedIn, Depends(deps.allowed("machine.read"))]

Url = Annotated[Text, Field(max_length=2000)]
Events = Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=50)]
State = Annotated[Literal["", "waiting", "sent", "dead"], Query(description="Only these.")]


class NotificationOut(Shown):
    """Something to read; `read` is whether it was."""

    id: str
    kind: str
    title: str
    text: str
    created_at: str
    read: bool

    @classmethod
    def of(cls, row: InboxRow) -> "NotificationOut":
        return cls(
            id=row.public_id,
            kind=row.kind,
            title=row.title,
            text=row.body,
            created_at=rfc3339(row.created_at),
            read=row.read_at is not None,
        )


class UnreadOut(Shown):
    """How many notifications were not read."""

    unread: int


class TopicOut(Shown):
    """A topic and whether it is told by mail and in the app; a fixed one always is."""

    topic: str
    name: str
    description: str
    fixed: bool
    mail: bool
    app: bool


class Choice(Body):
    mail: StrictBool | None = None
    app: StrictBool | None = None


class Preferences(Body):
    topics: dict[Annotated[str, Field(max_length=32)], Choice]


class AlertsOut(Shown):
    """Thresholds in credits and days, null for never, and the levels that are raised now."""

    low: str | None
    critical: str | None
    runout_days: int | None
    raised: list[str]

    @classmethod
    def of(cls, view: AlertView) -> "AlertsOut":
        rule = view.rule
        return cls(
            low=None if rule.low is None else format_credits(rule.low),
            critical=None if rule.critical is None else format_credits(rule.critical),
            runout_days=rule.runout_days,
            raised=list(view.raised),
        )


class Thresholds(Body):
    low: Credits | None = None
    critical: Credits | None = None
    runout_days: StrictInt | None = None


class WebhookOut(Shown):
    """A webhook; `failures` are calls that were given up, in a row."""

    id: str
    url: str
    events: list[str]
    enabled: bool
    failures: int
    created_at: str
    former_secret_until: str | None

    @classmethod
    def of(cls, endpoint: Endpoint) -> "WebhookOut":
        until = endpoint.previous_until
        return cls(
            id=endpoint.id,
            url=endpoint.url,
            events=list(endpoint.events),
            enabled=endpoint.enabled,
            failures=endpoint.failures,
            created_at=rfc3339(endpoint.created_at),
            former_secret_until=None if until is None else rfc3339(until),
        )


class WebhookSecretOut(WebhookOut):
    """A webhook with its secret, which is shown this once."""

    secret: str

    @classmethod
    def shown(cls, endpoint: Endpoint, secret: str) -> "WebhookSecretOut":
        return cls(**WebhookOut.of(endpoint).model_dump(), secret=secret)


class DeliveryOut(Shown):
    """A call of a webhook: `waiting`, `sent` or `dead`, and what went wrong last."""

    id: str
    event: str
    state: str
    attempts: int
    error: str | None
    created_at: str
    ended_at: str | None
    next_at: str | None

    @classmethod
    def of(cls, row: OutboxRow) -> "DeliveryOut":
        return cls(
            id=row.message_id,
            event=kinds.KINDS[row.kind].event or row.kind,
            state=row.state,
            attempts=row.attempts,
            error=row.error,
            created_at=rfc3339(row.created_at),
            ended_at=None if row.ended_at is None else rfc3339(row.ended_at),
            next_at=rfc3339(row.due_at) if row.state == "waiting" else None,
        )


class MessageOut(DeliveryOut):
    """A message of the outbox as an operator sees it: `to` is an address or a webhook's id."""

    channel: str
    to: str

    @classmethod
    def seen(cls, row: OutboxRow) -> "MessageOut":
        return cls(**DeliveryOut.of(row).model_dump(), channel=row.channel, to=row.target)


class TroubleOut(Shown):
    """Something that needs a person; `bad` cannot wait.

    With a `rule` it is a fault that an alert was raised for, at `place` (empty: everywhere).
    """

    level: str
    sentence: str
    rule: str | None = None
    place: str | None = None
    since: str | None = None
    advice: str | None = None


class NewWebhook(Body):
    url: Url
    events: Events


class WebhookChange(Body):
    url: Url | None = None
    events: Events | None = None
    enabled: StrictBool | None = None


@router.get("", responses=errors_in(401, 404, 422))
def list_notifications(
    app: deps.App,
    who: deps.CurrentUser,
    unread: Annotated[bool, Query(description="Only those that were not read.")] = False,
    limit: deps.Limit = 20,
    cursor: deps.Cursor = None,
) -> Page[NotificationOut]:
    """What the caller was told, newest first."""
    with app.db.read() as session:
        rows, following = inbox.page(
            session, user_id=deps.user_id(who), unread=unread, limit=limit, cursor=cursor
        )
    return Page(items=[NotificationOut.of(row) for row in rows], next_cursor=following)


@router.get("/unread", responses=errors_in(401))
def count_unread(app: deps.App, who: deps.CurrentUser) -> UnreadOut:
    """How many the caller has not read."""
    with app.db.read() as session:
        return UnreadOut(unread=inbox.unread(session, user_id=deps.user_id(who)))


@router.post("/read", responses=errors_in(401, 403))
async def read_all(app: deps.App, who: deps.CurrentUser) -> UnreadOut:
    """Mark all as read."""
    owner, now = deps.user_id(who), app.clock.micros()
    await app.db.awrite(lambda s: inbox.mark_read(s, user_id=owner, now=now))
    return UnreadOut(unread=0)


@router.post("/{id}/read", responses=errors_in(401, 403, 404))
async def read_one(app: deps.App, who: deps.CurrentUser, id: deps.Id) -> UnreadOut:
    """Mark one as read."""
    owner, now = deps.user_id(who), app.clock.micros()

    def story(session: Session) -> int:
        inbox.mark_read(session, user_id=owner, now=now, public_id=id)
        return inbox.unread(session, user_id=owner)

    return UnreadOut(unread=await app.db.awrite(story))


@router.get("/preferences", responses=errors_in(401))
def show_preferences(app: deps.App, who: deps.CurrentUser) -> Page[TopicOut]:
    """What the caller is told about, and how."""
    with app.db.read() as session:
        chosen = preferences.of(session, user_id=deps.user_id(who))
    return Page(items=[_topic(name, chosen[name]) for name in _topics(who)])


@router.put("/preferences", responses=errors_in(401, 403, 422))
async def set_preferences(
    app: deps.App, who: deps.CurrentUser, body: Preferences
) -> Page[TopicOut]:
    """Choose by topic; what is not named stays."""
    owner, now = deps.user_id(who), app.clock.micros()
    wanted = {name: choice.model_dump(exclude_none=True) for name, choice in body.topics.items()}

    def story(session: Session) -> preferences.Choices:
        preferences.choose(session, user_id=owner, wanted=wanted, now=now)
        return preferences.of(session, user_id=owner)

    chosen = await app.db.awrite(story)
    return Page(items=[_topic(name, chosen[name]) for name in _topics(who)])


Token = Annotated[str, Query(max_length=200, description="From the mail's link.")]


@router.get("/unsubscribe", response_class=HTMLResponse, responses=errors_in(404))
def ask_unsubscribe(app: deps.App, token: Token = "") -> HTMLResponse:
    """A page with one button. Opening it changes nothing: mail programs open links unasked."""
    _, topic = preferences.read_token(app.secrets.link_key, token)
    name = kinds.TOPICS[topic].name
    return _small_page(
        f"No more mail about {name.lower()}?",
        '<form method="post"><button>Unsubscribe</button></form>',
    )


@router.post("/unsubscribe", response_class=HTMLResponse, responses=errors_in(404))
async def unsubscribe(app: deps.App, token: Token = "") -> HTMLResponse:
    """No more mail about the link's topic. Also for mail programs: one click, RFC 8058."""
    user_id, topic = preferences.read_token(app.secrets.link_key, token)
    now, wanted = app.clock.micros(), {topic: {"mail": False}}
    await app.db.awrite(lambda s: preferences.choose(s, user_id=user_id, wanted=wanted, now=now))
    name = escape(kinds.TOPICS[topic].name.lower())
    return _small_page(
        "Done", f"<p>You get no more mail about {name}. Sign in to change it back.</p>"
    )


@billing.get("/alerts", responses=errors_in(401))
def show_alerts(app: deps.App, who: deps.CurrentUser) -> AlertsOut:
    """When the caller is warned about the balance."""
    return AlertsOut.of(alerts.view(app, user_id=deps.user_id(who)))


@billing.put("/alerts", responses=errors_in(401, 403, 422))
async def set_alerts(app: deps.App, who: deps.CurrentUser, body: Thresholds) -> AlertsOut:
    """Set thresholds: credits, days, or null for never. What is not given stays."""
    now = alerts.view(app, user_id=deps.user_id(who)).rule
    given = body.model_fields_set
    rule = Rule(
        low=body.low if "low" in given else now.low,
        critical=body.critical if "critical" in given else now.critical,
        runout_days=body.runout_days if "runout_days" in given else now.runout_days,
    )
    return AlertsOut.of(await alerts.choose(app, user_id=deps.user_id(who), rule=rule))


@hooks.get("", responses=errors_in(401))
def list_webhooks(app: deps.App, who: deps.CurrentUser) -> Page[WebhookOut]:
    """The caller's webhooks."""
    with app.db.read() as session:
        found = webhooks.of(session, user_id=deps.user_id(who))
    return Page(items=[WebhookOut.of(endpoint) for endpoint in found])


@hooks.post("", status_code=201, responses=errors_in(401, 403, 409, 422))
async def add_webhook(
    app: deps.App, who: deps.CurrentUser, body: NewWebhook, response: Response
) -> WebhookSecretOut:
    """Have an address called on events. The secret that signs the calls is shown this once."""
    owner, now = deps.user_id(who), app.clock.micros()
    endpoint, secret = await app.db.awrite(
        lambda s: webhooks.add(
            s,
            user_id=owner,
            url=body.url,
            events=body.events,
            key=app.secrets.link_key,
            most=app.settings.notifications.webhooks_per_user,
            allowed=app.wire.allowed,
            now=now,
        )
    )
    response.headers["Cache-Control"] = "no-store"
    return WebhookSecretOut.shown(endpoint, secret)


@hooks.patch("/{id}", responses=errors_in(401, 403, 404, 422))
async def change_webhook(
    app: deps.App, who: deps.CurrentUser, id: deps.Id, body: WebhookChange
) -> WebhookOut:
    """Change the address or the events, or switch the webhook on or off."""
    owner = deps.user_id(who)
    changed = await app.db.awrite(
        lambda s: webhooks.change(
            s,
            user_id=owner,
            webhook_id=id,
            allowed=app.wire.allowed,
            url=body.url,
            events=body.events,
            enabled=body.enabled,
        )
    )
    return WebhookOut.of(changed)


@hooks.delete("/{id}", status_code=204, responses=errors_in(401, 403, 404))
async def remove_webhook(app: deps.App, who: deps.CurrentUser, id: deps.Id) -> None:
    """Remove a webhook. Calls that wait are not made."""
    owner, now = deps.user_id(who), app.clock.micros()
    await app.db.awrite(lambda s: webhooks.remove(s, user_id=owner, webhook_id=id, now=now))


@hooks.post("/{id}/rotate", responses=errors_in(401, 403, 404))
async def rotate_webhook(
    app: deps.App, who: deps.CurrentUser, id: deps.Id, response: Response
) -> WebhookSecretOut:
    """A new secret, shown this once. For a day the former one signs as well."""
    owner, now, key = deps.user_id(who), app.clock.micros(), app.secrets.link_key
    endpoint, secret = await app.db.awrite(
        lambda s: webhooks.rotate(s, user_id=owner, webhook_id=id, key=key, now=now)
    )
    response.headers["Cache-Control"] = "no-store"
    return WebhookSecretOut.shown(endpoint, secret)


@hooks.post("/{id}/test", responses=errors_in(401, 403, 404, 429))
async def test_webhook(app: deps.App, who: deps.CurrentUser, id: deps.Id) -> DeliveryOut:
    """Call the webhook now, with an event `test`, and tell how it went."""
    owner = deps.user_id(who)
    await app.limits.count_message(owner)
    row = await asyncio.to_thread(deliver.test_webhook, app, user_id=owner, webhook_id=id)
    return DeliveryOut.of(row)


@hooks.get("/{id}/deliveries", responses=errors_in(401, 404, 422))
def list_deliveries(
    app: deps.App,
    who: deps.CurrentUser,
    id: deps.Id,
    limit: deps.Limit = 20,
    cursor: deps.Cursor = None,
) -> Page[DeliveryOut]:
    """The webhook's calls, newest first."""
    with app.db.read() as session:
        webhooks.get(session, user_id=deps.user_id(who), webhook_id=id)
        rows, following = outbox.page(session, target=id, limit=limit, cursor=cursor)
    return Page(items=[DeliveryOut.of(row) for row in rows], next_cursor=following)


@admin.get("/messages", responses=errors_in(401, 403, 404, 422))
def list_messages(
    app: deps.App,
    who: Reading,
    state: State = "",
    limit: deps.Limit = 50,
    cursor: deps.Cursor = None,
) -> Page[MessageOut]:
    """Mails and calls of webhooks, newest first; `dead` ones were given up."""
    with app.db.read() as session:
        rows, following = outbox.page(session, state=state, limit=limit, cursor=cursor)
    return Page(items=[MessageOut.seen(row) for row in rows], next_cursor=following)


@admin.post("/messages/{id}/resend", responses=errors_in(401, 403, 404))
async def resend_message(app: deps.App, who: Telling, id: deps.Id) -> MessageOut:
    """Try a dead message again from the start, under the same id."""
    row = await notices.resend(app, admin_id=deps.user_id(who), message_id=id)
    return MessageOut.seen(row)


@monitoring.get("/alerts", responses=errors_in(401, 403))
def show_troubles(app: deps.App, who: Operating) -> Page[TroubleOut]:
    """What an operator should do something about, worst first; empty is good news."""
    found = figures.troubles(app, system.snapshot(app.settings), app.engine.stats())
    items = [TroubleOut(level=one.level, sentence=one.sentence) for one in found]
    with app.db.read() as session:
        known, rows = faults.rules_of(session), faults.open_ones(session)
    items += [
        TroubleOut(
            level=rule.level,
            sentence=rule.sentence(row.value),
            rule=rule.name,
            place=row.place,
            since=rfc3339(row.raised_at),
            advice=rule.advice,
        )
        for row in rows
        if (rule := known.get(row.rule)) is not None
    ]
    return Page(items=sorted(items, key=lambda item: item.level != "bad"))


def _topics(who: SignedIn) -> list[str]:
    return preferences.shown(lambda wanted: permissions.may(who.user.role, wanted))  # type: ignore[arg-type]


def _topic(name: str, chosen: dict[str, bool]) -> TopicOut:
    topic = kinds.TOPICS[name]
    return TopicOut(
        topic=name,
        name=topic.name,
        description=topic.sentence,
        fixed=topic.fixed,
        mail=chosen["mail"],
        app=chosen["app"],
    )


def _small_page(title: str, inner: str) -> HTMLResponse:
    """A page that works without scripts, for whoever comes from a mail."""
    return HTMLResponse(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>:root{{color-scheme:light dark}}"
        "body{font:17px/1.55 system-ui,sans-serif;max-width:26rem;margin:18vh auto;"
        "padding:0 1.2rem}h1{font-size:1.5rem;line-height:1.25}"
        "button{font:inherit;font-weight:700;padding:.65rem 1.3rem;"
        "border:0;border-radius:.6rem;background:#4338ca;color:#fff;cursor:pointer}"
        f"</style></head><body><h1>{escape(title)}</h1>{inner}</body></html>",
        headers={"Cache-Control": "no-store"},
    )
