"""Alerts: when to be warned, what to be told and how, and webhooks for one's own programs."""

import asyncio
from dataclasses import dataclass
from typing import Any

import gradio as gr
from sqlmodel import Session

from chat_app.accounts import permissions
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.flows import alerts, deliver
from chat_app.money import format_credits, parse_credits
from chat_app.notify import kinds, outbox, preferences, webhooks
from chat_app.notify.alerts import BadThreshold, Rule
from chat_app.notify.tables import OutboxRow
from chat_app.notify.webhooks import Endpoint
from ui import parts
from ui.guard import guard
from ui.shell import Shell

HIDDEN = "hidden"
CALLS = 8
_CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (button) trigger('click', { act: button.dataset.act, id: button.dataset.id });
});
"""
_TOPICS = [
    (topic.name, name)
    for name, topic in kinds.TOPICS.items()
    if not topic.fixed and not topic.permission
]
_EVENTS = {
    "balance.low": "Low balance",
    "balance.critical": "Critical balance",
    "balance.runout": "Running out",
    "payment.paid": "Payment arrived",
    "payment.disputed": "Payment taken back",
    "payment.refunded": "Refund",
    "price.notice": "Price change",
    "usage.monthly": "Monthly usage",
    "usage.weekly": "Weekly usage",
}
_STATES = {"sent": "good", "waiting": "warn", "dead": "bad"}
_WORDS = {"sent": "delivered", "waiting": "will be tried again", "dead": "given up"}


@dataclass
class Alerts:
    """The section's components."""

    tab: gr.Tab
    low: gr.Textbox
    critical: gr.Textbox
    days: gr.Textbox
    mail: gr.CheckboxGroup
    app: gr.CheckboxGroup
    save: gr.Button
    hooks: gr.HTML
    url: gr.Textbox
    events: gr.CheckboxGroup
    add: gr.Button
    secret: gr.HTML
    calls: gr.HTML


def build() -> Alerts:
    """The layout, without any data."""
    with gr.Tab("Alerts", id="credits-alerts") as tab:
        with gr.Column(elem_classes="sheet"):
            gr.HTML(
                '<div class="sheet-head"><h2>Balance alerts</h2><span class="hint">You are warned '
                "once when your balance falls this low. An empty field is no warning.</span></div>"
            )
            with gr.Row(elem_classes="filters"):
                low = _field("Low, in credits", "credits-alert-low")
                critical = _field("Critical, in credits", "credits-alert-critical")
                days = _field("Running out within days", "credits-alert-days")
            gr.HTML(
                '<div class="sheet-head"><h2>What you are told</h2><span class="hint">Messages '
                "about the safety of your account always arrive.</span></div>"
            )
            mail = gr.CheckboxGroup(_TOPICS, label="By mail", elem_id="credits-alert-mail")
            told = gr.CheckboxGroup(_TOPICS, label="In the app", elem_id="credits-alert-app")
            save = gr.Button("Save", variant="primary", elem_id="credits-alert-save", scale=0)
        with gr.Column(elem_classes="sheet"):
            gr.HTML(
                '<div class="sheet-head"><h2>Webhooks</h2><span class="hint">Your own program is '
                "called when something happens, with a signature by Standard Webhooks."
                "</span></div>"
            )
            hooks = gr.HTML(parts.loading(2), elem_id="credits-webhooks", js_on_load=_CLICKS)
            calls = gr.HTML(visible=HIDDEN, elem_id="credits-webhook-calls", elem_classes="inset")
            with gr.Row(elem_classes="filters"):
                url = gr.Textbox(
                    label="Address",
                    placeholder="https://example.org/hooks/credits",
                    elem_id="credits-webhook-url",
                    max_lines=1,
                )
                add = gr.Button("Add webhook", elem_id="credits-webhook-add", scale=0)
            events = gr.CheckboxGroup(
                [(_event(name), name) for name in kinds.EVENTS],
                value=list(kinds.EVENTS),
                label="Events",
                elem_id="credits-webhook-events",
            )
            secret = gr.HTML(visible=HIDDEN, elem_id="credits-webhook-secret")
    return Alerts(
        tab, low, critical, days, mail, told, save, hooks, url, events, add, secret, calls
    )


def bind(c: Alerts, app: App, _shell: Shell, _tab: gr.Tab) -> None:
    """Wire the section."""

    def look(user: User) -> dict[Any, Any]:
        rule = alerts.view(app, user_id=_id(user)).rule
        with app.db.read() as session:
            chosen = preferences.of(session, user_id=_id(user))
        topics = _topics(user)
        wanted = {
            channel: gr.update(
                choices=topics, value=[name for _, name in topics if chosen[name][channel]]
            )
            for channel in kinds.CHANNELS
        }
        return {
            c.low: "" if rule.low is None else format_credits(rule.low),
            c.critical: "" if rule.critical is None else format_credits(rule.critical),
            c.days: "" if rule.runout_days is None else str(rule.runout_days),
            c.mail: wanted["mail"],
            c.app: wanted["app"],
        }

    def listed(user: User) -> str:
        with app.db.read() as session:
            return _hooks(webhooks.of(session, user_id=_id(user)))

    def calls_of(user: User, webhook_id: str) -> str:
        with app.db.read() as session:
            endpoint = webhooks.get(session, user_id=_id(user), webhook_id=webhook_id)
            return _calls(endpoint, outbox.page(session, target=webhook_id, limit=CALLS)[0])

    @guard(app, "user")
    async def alerts_open(user: User) -> dict[Any, Any]:
        """Everything as it is stored."""
        return {
            **await asyncio.to_thread(look, user),
            c.hooks: await asyncio.to_thread(listed, user),
            c.secret: gr.update(value="", visible=HIDDEN),
            c.calls: gr.update(value="", visible=HIDDEN),
        }

    @guard(app, "user")
    async def alerts_save(
        user: User,
        low: str,
        critical: str,
        days: str,
        mail: list[str],
        told: list[str],
    ) -> dict[Any, Any]:
        """Store thresholds and topics."""
        if (days or "").strip() and not (days.strip().isascii() and days.strip().isdigit()):
            raise BadThreshold(param="runout_days")
        rule = Rule(_micro(low), _micro(critical), int(days) if (days or "").strip() else None)
        await alerts.choose(app, user_id=_id(user), rule=rule)
        wanted = {
            name: {"mail": name in (mail or []), "app": name in (told or [])}
            for _, name in _topics(user)
        }
        now = app.clock.micros()
        await app.db.awrite(
            lambda s: preferences.choose(s, user_id=_id(user), wanted=wanted, now=now)
        )
        gr.Info("Saved.", duration=3)
        return await asyncio.to_thread(look, user)

    @guard(app, "user")
    async def hooks_add(user: User, url: str, events: list[str]) -> dict[Any, Any]:
        """A new webhook; its secret is shown this once."""
        endpoint, secret = await app.db.awrite(
            lambda s: webhooks.add(
                s,
                user_id=_id(user),
                url=url or "",
                events=events or [],
                key=app.secrets.link_key,
                most=app.settings.notifications.webhooks_per_user,
                allowed=app.wire.allowed,
                now=app.clock.micros(),
            )
        )
        return {
            c.hooks: await asyncio.to_thread(listed, user),
            c.secret: gr.update(value=_secret(endpoint, secret), visible=True),
            c.url: "",
            c.calls: gr.update(),
        }

    @guard(app, "user")
    async def hooks_act(user: User, event: gr.EventData) -> dict[Any, Any]:
        """Test, look at the calls, rotate the secret, switch, remove."""
        pressed = getattr(event, "_data", None) or {}
        act, webhook_id = str(pressed.get("act", "")), str(pressed.get("id", ""))
        shown: dict[Any, Any] = {
            c.secret: gr.update(),
            c.calls: gr.update(value="", visible=HIDDEN),
        }
        if act == "test":
            await app.limits.count_message(_id(user))
            await asyncio.to_thread(
                deliver.test_webhook, app, user_id=_id(user), webhook_id=webhook_id
            )
        if act in ("test", "calls"):
            found = await asyncio.to_thread(calls_of, user, webhook_id)
            shown[c.calls] = gr.update(value=found, visible=True)
        else:
            secret = await app.db.awrite(
                lambda s: _change(app, s, user_id=_id(user), webhook_id=webhook_id, act=act)
            )
            shown[c.secret] = gr.update(value=secret, visible=True if secret else HIDDEN)
        return {**shown, c.hooks: await asyncio.to_thread(listed, user)}

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    fields = [c.low, c.critical, c.days, c.mail, c.app]
    c.tab.select(alerts_open, None, [*fields, c.hooks, c.secret, c.calls], **quiet)
    c.save.click(alerts_save, fields, fields, **quiet)
    c.add.click(hooks_add, [c.url, c.events], [c.hooks, c.secret, c.url, c.calls], **quiet)
    c.hooks.click(hooks_act, None, [c.hooks, c.secret, c.calls], **quiet)


def _change(app: App, session: Session, *, user_id: int, webhook_id: str, act: str) -> str:
    """Do what a button says; returns a new secret to show, or nothing."""
    now = app.clock.micros()
    if act == "rotate":
        endpoint, secret = webhooks.rotate(
            session, user_id=user_id, webhook_id=webhook_id, key=app.secrets.link_key, now=now
        )
        return _secret(endpoint, secret)
    if act == "remove":
        webhooks.remove(session, user_id=user_id, webhook_id=webhook_id, now=now)
        return ""
    endpoint = webhooks.get(session, user_id=user_id, webhook_id=webhook_id)
    if act == "switch":
        webhooks.change(
            session,
            user_id=user_id,
            webhook_id=webhook_id,
            allowed=app.wire.allowed,
            enabled=not endpoint.enabled,
        )
    return ""


def _field(label: str, elem_id: str) -> gr.Textbox:
    return gr.Textbox(label=label, elem_id=elem_id, placeholder="never", max_lines=1)


def _event(name: str) -> str:
    return _EVENTS.get(name, name.replace(".", " ").capitalize())


def _micro(text: str) -> int | None:
    cleaned = (text or "").replace(",", "").strip()
    return parse_credits(cleaned) if cleaned else None


def _hooks(endpoints: list[Endpoint]) -> str:
    if not endpoints:
        return parts.empty("No webhooks", "Add the address of your program below.")
    return "".join(_hook(endpoint) for endpoint in endpoints)


def _hook(one: Endpoint) -> str:
    state = parts.badge("on", "good") if one.enabled else parts.badge("off", "bad")
    key, url = parts.esc(one.id), parts.esc(one.url)

    def button(act: str, words: str) -> str:
        return (
            f'<button data-act="{act}" data-id="{key}" aria-label="{words} {url}">{words}</button>'
        )

    return (
        f'<article class="hit" data-row><div><h3>{url}</h3><p class="meta">{state} '
        f"{parts.esc(', '.join(_event(name) for name in one.events))}</p></div>"
        f'<div class="actions">{button("test", "Test")}{button("calls", "Calls")}'
        f"{button('rotate', 'New secret')}"
        f"{button('switch', 'Switch off' if one.enabled else 'Switch on')}"
        f'<button data-ask data-sure aria-label="Remove {url}">Remove</button>'
        '<span data-sure hidden class="sure">Remove it? '
        f'<button class="danger" data-act="remove" data-id="{key}">Yes, remove</button> '
        "<button data-ask>Keep</button></span></div></article>"
    )


def _secret(endpoint: Endpoint, secret: str) -> str:
    former = " For a day the former one signs as well." if endpoint.previous_until else ""
    return (
        '<div class="verdict good">This secret signs the calls of '
        f"<b>{parts.esc(endpoint.url)}</b>. Copy it now, it is not shown again.{former}"
        f'<p class="code"><code>{parts.esc(secret)}</code></p></div>'
    )


def _calls(endpoint: Endpoint, rows: list[OutboxRow]) -> str:
    head = f"<h3>Calls of {parts.esc(endpoint.url)}</h3>"
    if not rows:
        return head + '<p class="hint">None yet. Press Test to make one.</p>'
    cells = [
        [
            parts.when(row.created_at),
            parts.esc(_event(kinds.KINDS[row.kind].event or row.kind)),
            parts.badge(_WORDS[row.state], _STATES[row.state]),
            str(row.attempts),
            parts.esc(row.error or "") if row.state != "sent" else "",
        ]
        for row in rows
    ]  # fmt: skip
    return head + parts.table(
        ["When", "Event", "State", "Tries>", "What went wrong"], cells, caption="Calls"
    )


def _id(user: User) -> int:
    assert user.id is not None
    return user.id


def _topics(user: User) -> list[tuple[str, str]]:
    """What this person can choose about, by name."""
    names = preferences.shown(lambda wanted: permissions.may(user.role, wanted))  # type: ignore[arg-type]
    return [(kinds.TOPICS[name].name, name) for name in names if not kinds.TOPICS[name].fixed]
