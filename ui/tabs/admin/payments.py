"""Payments: every order with its story, refunds in two steps, and what providers said in vain."""

import asyncio
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.accounts import users
from chat_app.accounts.permissions import Permission, may
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.credits.payments import events, orders, returns
from chat_app.credits.payments.events import Event
from chat_app.credits.payments.orders import Payment
from chat_app.credits.refunds import NothingToRefund
from chat_app.errors import Invalid, NotFound
from chat_app.flows import refund
from chat_app.flows.adjust import REASON_LENGTH, ReasonMissing
from chat_app.money import Money
from ui import parts
from ui.guard import guard
from ui.shell import Shell

PAGE = 25
STATES = [("All", ""), ("Paid", "paid"), ("Open", "pending"), ("Failed", "failed")]
_KINDS = {
    "paid": "good", "succeeded": "good", "won": "good", "done": "good", "failed": "bad",
    "refused": "bad", "lost": "bad", "open": "bad", "pending": "warn", "sent": "warn",
    "inquiry": "warn", "new": "warn",
}  # fmt: skip
_CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (button) trigger('click', { act: button.dataset.act, id: button.dataset.id });
});
"""


class NoPaymentChosen(Invalid):
    """An action on a payment without a payment."""

    code = "no_payment_chosen"
    message = "Choose a payment in the table first."


class BadMoney(Invalid):
    """Not an amount of money with at most two decimals."""

    code = "bad_money"
    message = "Give an amount such as 5 or 4.93, or leave it empty to refund all that is unused."


@dataclass
class Payments:
    """The components."""

    tab: gr.Tab
    state: gr.Dropdown
    search: gr.Textbox
    table: gr.HTML
    panel: gr.Column
    chosen: gr.State
    about: gr.HTML
    form: gr.Row
    amount: gr.Textbox
    reason: gr.Textbox
    nonce: gr.Textbox
    review: gr.Button
    sure: gr.Column
    summary: gr.HTML
    confirm: gr.Button
    back: gr.Button
    close: gr.Button
    troubles: gr.HTML


def build() -> Payments:
    """The layout, without any data."""
    with gr.Tab("Payments", id="admin-payments") as tab:
        with gr.Column(elem_classes="sheet"):
            gr.HTML('<div class="sheet-head"><h2>Payments</h2></div>')
            with gr.Row(elem_classes="filters"):
                state = gr.Dropdown(STATES, value="", label="State", filterable=False, scale=0)
                search = gr.Textbox(
                    label="Order or reference",
                    placeholder="pay_… or the provider's id",
                    elem_id="admin-payments-search",
                    max_lines=1,
                )
            table = gr.HTML(parts.loading(4), elem_id="admin-payments-table", js_on_load=_CLICKS)
            chosen = gr.State(None)
            with gr.Column(visible=False, elem_id="admin-payment", elem_classes="inset") as panel:
                about = gr.HTML(elem_id="admin-payment-about")
                nonce = gr.Textbox(visible=False)
                with gr.Row(elem_classes="filters", visible=False) as form:
                    amount = gr.Textbox(
                        label="Amount to refund",
                        placeholder="empty: all that is unused",
                        elem_id="admin-refund-amount",
                        max_lines=1,
                    )
                    reason = gr.Textbox(
                        label="Reason",
                        placeholder="Stays in the books",
                        elem_id="admin-refund-reason",
                        max_lines=1,
                        scale=2,
                    )
                    review = gr.Button("Review", elem_id="admin-refund-review", scale=0)
                with gr.Column(visible=False, elem_id="admin-refund-sure") as sure:
                    summary = gr.HTML(elem_id="admin-refund-summary")
                    with gr.Row(elem_classes="filters"):
                        confirm = gr.Button(
                            "Refund", variant="stop", elem_id="admin-refund-confirm", scale=0
                        )
                        back = gr.Button("Back", scale=0)
                with gr.Row(elem_classes="filters"):
                    close = gr.Button("Close", scale=0)
        with gr.Column(elem_classes="sheet"):
            gr.HTML('<div class="sheet-head"><h2>Needs a look</h2></div>')
            troubles = gr.HTML(parts.loading(2), elem_id="admin-payment-events")
    return Payments(
        tab, state, search, table, panel, chosen, about, form, amount, reason, nonce, review, sure,
        summary, confirm, back, close, troubles,
    )  # fmt: skip


def needs(c: Payments) -> dict[Any, Permission]:
    """What is hidden from staff without the permission."""
    return {
        c.tab: "payments.read",
        c.amount: "payments.refund",
        c.reason: "payments.refund",
        c.review: "payments.refund",
    }


def bind(  # noqa: PLR0915 - one section, many small handlers
    c: Payments, app: App, _shell: Shell, _tab: gr.Tab
) -> None:
    """Wire the section; it loads when its own tab is opened."""

    def look(state: str, q: str) -> dict[Any, Any]:
        with app.db.read() as session:
            found, more = orders.search(session, status=state, q=q.strip()[:128], limit=PAGE)
            rows = [_row(one, _name(session, one.user_id)) for one in found]
            refused = events.search(session, state="refused", limit=PAGE)
        heads = ["When", "User", "Order", "Provider", "Amount>", "State", ""]
        table = parts.table(heads, rows, caption="Payments")
        note = '<p class="hint">More than these match: search for an id.</p>' if more else ""
        return {
            c.table: table + note
            if rows
            else parts.empty("No payments", "Orders appear here as soon as somebody buys."),
            c.troubles: _troubles(refused),
        }

    def details(payment_id: str, role: str) -> dict[Any, Any]:
        story = refund.story(app, payment_id=payment_id)
        with app.db.read() as session:
            name = _name(session, story.payment.user_id)
        return {
            c.about: _about(story, name),
            c.panel: gr.update(visible=True),
            c.form: gr.update(visible=_refundable(story) and may(role, "payments.refund")),
            c.sure: gr.update(visible=False),
        }

    def wanted(payment_id: str | None, amount: str, reason: str) -> tuple[str, int | None, str]:
        if not payment_id:
            raise NoPaymentChosen
        cleaned = " ".join((reason or "").split())
        if not 3 <= len(cleaned) <= REASON_LENGTH:
            raise ReasonMissing
        return payment_id, minor_of(amount or ""), cleaned

    @guard(app, "payments.read")
    async def payments_show(_admin: User, state: str, q: str) -> dict[Any, Any]:
        """The orders that match, and the events that were refused."""
        return await asyncio.to_thread(look, state or "", q or "")

    @guard(app, "payments.read")
    async def payments_open(admin: User, event: gr.EventData) -> dict[Any, Any]:
        """The story of the order whose button was pressed."""
        pressed = str((getattr(event, "_data", None) or {}).get("id", ""))[:64]
        if not pressed:
            raise NoPaymentChosen
        shown = await asyncio.to_thread(details, pressed, admin.role)
        return {**shown, c.chosen: pressed, c.amount: "", c.reason: ""}

    @guard(app, "payments.refund")
    async def payments_review(
        _admin: User, payment_id: str | None, amount: str, reason: str
    ) -> dict[Any, Any]:
        """Say what would happen."""
        number, minor, cleaned = wanted(payment_id, amount, reason)
        story = await asyncio.to_thread(refund.story, app, payment_id=number)
        if any(one.state in ("open", "lost") for one in story.disputes):
            raise returns.Disputed
        if not story.refundable_minor:
            raise NothingToRefund
        money = Money(minor or story.refundable_minor, story.payment.currency)
        what = "everything unused" if minor is None else "a part"
        return {
            c.summary: f"<p><b>Refund {parts.esc(money)}</b> ({what}) and take the credits "
            f"for it out of the wallet.<br>Reason: {parts.esc(cleaned)}</p>",
            c.sure: gr.update(visible=True),
        }

    @guard(app, "payments.refund")
    async def payments_refund(
        admin: User,
        payment_id: str | None,
        amount: str,
        reason: str,
        nonce: str,
        state: str,
        q: str,
    ) -> dict[Any, Any]:
        """Take the credits and send the money back."""
        number, minor, cleaned = wanted(payment_id, amount, reason)
        assert admin.id is not None
        made = await refund.refund(
            app, admin_id=admin.id, payment_id=number, minor=minor, reason=cleaned, key=nonce[:64]
        )
        gr.Info(f"{Money(made.amount_minor, made.currency)}: refund {made.state}.", duration=4)
        return {
            **await asyncio.to_thread(details, number, admin.role),
            **await asyncio.to_thread(look, state or "", q or ""),
            c.amount: "",
            c.reason: "",
        }

    @guard(app, "payments.read")
    async def payments_back(_admin: User) -> dict[Any, Any]:
        """Hide the confirmation."""
        return {c.sure: gr.update(visible=False)}

    @guard(app, "payments.read")
    async def payments_close(_admin: User) -> dict[Any, Any]:
        """Hide the story."""
        return {c.panel: gr.update(visible=False), c.chosen: None}

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    panel, filters, lists = (
        [c.about, c.panel, c.form, c.sure],
        [c.state, c.search],
        [c.table, c.troubles],
    )
    asked = [c.tab.select, c.state.change, c.search.change]
    gr.on(asked, payments_show, filters, lists, trigger_mode="always_last", **quiet)
    c.table.click(payments_open, None, [*panel, c.chosen, c.amount, c.reason], **quiet).then(
        None, js=parts.reveal("admin-payment"), api_visibility="private"
    )
    c.review.click(payments_review, [c.chosen, c.amount, c.reason], [c.summary, c.sure], **quiet)
    c.confirm.click(
        payments_refund,
        [c.chosen, c.amount, c.reason, c.nonce, *filters],
        [*panel, *lists, c.amount, c.reason],
        js="(a, b, d, nonce, s, q) => [a, b, d, window.chatKey('refund'), s, q]",
        **quiet,
    ).then(None, js="() => { window.chatDone('refund'); }", api_visibility="private")
    c.back.click(payments_back, None, [c.sure], **quiet)
    c.close.click(payments_close, None, [c.panel, c.chosen], **quiet)


def minor_of(text: str) -> int | None:
    """Minor units of an amount such as `4.93`; None for nothing. Raises BadMoney."""
    text = text.strip().replace(",", "")
    if not text:
        return None
    whole, _, rest = text.partition(".")
    if not (f"{whole}{rest}".isascii() and whole.isdigit() and len(whole) < 13 and len(rest) <= 2):
        raise BadMoney
    if rest and not rest.isdigit():
        raise BadMoney
    minor = int(whole) * 100 + int(rest.ljust(2, "0") or "0")
    if minor == 0:
        raise BadMoney
    return minor


def _name(session: Any, user_id: int) -> str:
    try:
        return users.get(session, user_id).username
    except NotFound:
        return f"#{user_id}"


def _badge(state: str) -> str:
    shown = {"pending": "open"}.get(state, state)
    return parts.badge(shown, _KINDS.get(state, ""))


def _row(order: Payment, name: str) -> list[str]:
    return [
        parts.when(order.created_at),
        f"<b>{parts.esc(name)}</b>",
        f"<code>{parts.esc(order.id)}</code>",
        parts.esc(order.provider),
        parts.esc(Money(order.amount_minor, order.currency)),
        _badge(order.status),
        f'<button data-act="open" data-id="{parts.esc(order.id)}" '
        f'aria-label="Open {parts.esc(order.id)}">Open</button>',
    ]


def _refundable(story: refund.Story) -> bool:
    decided = any(one.state in ("open", "lost") for one in story.disputes)
    return bool(story.refundable_minor) and not decided


def _why_not(story: refund.Story) -> str:
    if story.payment.status != "paid":
        return "Not paid, so there is nothing to refund."
    if any(one.state in ("open", "lost") for one in story.disputes):
        return "Disputed: the bank has the money, so nothing can be refunded."
    return "" if story.refundable_minor else "Nothing of it is unused, so nothing can be refunded."


def _about(story: refund.Story, name: str) -> str:
    order = story.payment
    flag = f" {parts.badge('flagged: a bank took a payment back', 'bad')}" if story.flagged else ""
    rest = Money(story.refundable_minor, order.currency)
    can = (
        f"Unused and refundable: <b>{parts.amount(story.refundable_credits)}</b>, "
        f"<b>{parts.esc(rest)}</b>."
        if _refundable(story)
        else parts.esc(_why_not(story))
    )
    head = (
        f"<h3>{parts.esc(name)} {_badge(order.status)}{flag}</h3>"
        f"<p>{parts.amount(order.credits + order.bonus_credits)} for "
        f"{parts.esc(Money(order.amount_minor, order.currency))} by {parts.esc(order.provider)}. "
        f"{can}</p>"
    )
    lines = [(order.created_at, "Ordered", order.id, "")]
    if order.paid_at is not None:
        lines.append((order.paid_at, "Paid", order.intent_ref or "", "paid"))
    lines += [
        (
            one.created_at,
            f"Refund of {Money(one.amount_minor, one.currency)}, {parts.amount(one.credits)}",
            f"{one.reason}{f' ({one.error})' if one.error else ''}",
            one.state,
        )
        for one in story.refunds
    ]
    lines += [
        (
            one.opened_at,
            f"Dispute: {parts.amount(one.credits)} taken, {parts.amount(one.owed)} owed",
            one.reason.replace("_", " "),
            one.state,
        )
        for one in story.disputes
    ]
    lines += [
        (one.received_at, f"Event {one.type}", one.reason or "", one.state) for one in story.events
    ]
    rows = [
        [parts.when(at), parts.esc(what), parts.esc(more or "–"), _badge(state) if state else "–"]
        for at, what, more, state in sorted(lines)
    ]
    return head + parts.table(["When", "What", "Details", "State"], rows, caption="Story")


def _troubles(refused: list[Event]) -> str:
    if not refused:
        return parts.empty("Nothing was refused", "What providers say fits the orders.")
    rows = [
        [
            parts.when(one.received_at),
            parts.esc(one.type),
            parts.esc((one.reason or "").replace("_", " ")),
            f"<code>{parts.esc(one.payment_id or one.event_id)}</code>",
        ]
        for one in refused
    ]
    return parts.table(["When", "Event", "Why", "Order or event"], rows, caption="Refused events")
