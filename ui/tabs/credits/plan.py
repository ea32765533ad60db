"""Plan: the monthly plan that somebody has, and those on offer."""

import asyncio
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.clock import from_micros
from chat_app.credits import ledger, plans
from chat_app.credits.payments.orders import Payment
from chat_app.credits.payments.provider import Card, ProviderRefused, ProviderUnreachable
from chat_app.credits.plans import Plan as Offer
from chat_app.credits.plans import Subscription
from chat_app.flows import collect
from chat_app.flows import plans as flow
from chat_app.money import Money, show_credits
from ui import parts
from ui.guard import guard
from ui.shell import Shell

# The key makes a double click one request; it is new when the request has ended.
_CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (button) trigger('click', { act: button.dataset.act, id: button.dataset.id || '',
    origin: location.origin, key: window.chatKey('plan') });
});
"""
_DONE = """() => {
  window.chatDone('plan');
  const link = document.querySelector('#credits-plan-body a[data-go]');
  if (link) setTimeout(() => location.assign(link.href), 150);
}"""
_STATES = {
    "active": ("active", "good"),
    "pending": ("waits for its payment", "warn"),
    "past_due": ("payment due", "bad"),
    "paused": ("paused", "warn"),
}
_ENDING = {"cancel": flow.cancel, "pause": flow.pause}
_SURE = {
    "cancel": ("End the plan with this period? Its credits stay until their end.", "Yes, end it"),
    "pause": ("Pause the plan? No new credits come until you resume it.", "Yes, pause it"),
}


@dataclass
class Plan:
    """The section's components."""

    tab: gr.Tab
    body: gr.HTML


def build() -> Plan:
    """The layout, without any data."""
    with gr.Tab("Plan", id="credits-plan") as tab, gr.Column(elem_classes="sheet"):
        body = gr.HTML(parts.loading(), elem_id="credits-plan-body", js_on_load=_CLICKS)
    return Plan(tab, body)


def bind(c: Plan, app: App, shell: Shell, _tab: gr.Tab) -> None:
    """Wire the section."""

    def look(user: User, ask: str = "", id: str = "", link: str = "") -> dict[Any, Any]:
        with app.db.read() as session:
            held = plans.current(session, user_id=_id(user), zone=app.settings.business.zone)
            offers = plans.list_plans(session)
            balance = ledger.balance(session, user_id=_id(user))
        order = flow.waiting(app, user_id=_id(user)) if app.payments.hosted else None
        head = (
            f'<div class="sheet-head"><h2>Monthly plan</h2>{parts.seller(app.payments.name)}</div>'
        )
        page = _page(held, offers, ask, id, order, link)
        return {c.body: head + page, shell.pill: parts.pill(balance)}

    async def cards(user: User) -> str:
        """The line about the kept card."""
        try:
            found = await collect.cards(app, user_id=_id(user))
        except (ProviderUnreachable, ProviderRefused):
            return '<p class="hint">The kept card cannot be shown right now.</p>'
        return _kept_card(found[0]) if found else ""

    @guard(app, "user")
    async def plan_show(user: User) -> dict[Any, Any]:
        """The plan and the offers."""
        shown = await asyncio.to_thread(look, user)
        if app.payments.hosted:
            shown[c.body] += await cards(user)
        return shown

    @guard(app, "user")
    async def plan_act(user: User, event: gr.EventData) -> dict[Any, Any]:
        """Do what the pressed button says; what costs or ends something is asked for first."""
        pressed = getattr(event, "_data", None) or {}
        act, id = str(pressed.get("act", "")), str(pressed.get("id", ""))[:64]
        key, link = str(pressed.get("key", ""))[:64], ""
        if act in ("ask-choose", "ask-cancel", "ask-pause"):
            return await asyncio.to_thread(look, user, act.removeprefix("ask-"), id)
        if act == "choose":
            held = await flow.choose(app, user_id=_id(user), plan_code=id, key=key)
            link = await page_of(user, pressed)
            if not link:
                gr.Info(_done(held), duration=5)
        elif act == "resume":
            await flow.resume(app, user_id=_id(user), key=key)
        elif act in _ENDING:
            await _ENDING[act](app, user_id=_id(user), key=key)
        elif act == "forget":
            await collect.forget(app, user_id=_id(user))
        if act in ("pay", "resume"):
            link = await page_of(user, pressed)
        return await asyncio.to_thread(look, user, link=link)

    async def page_of(user: User, pressed: dict[str, Any]) -> str:
        """Where the order that waits is paid; empty when there is none, or no page for it."""
        order = await asyncio.to_thread(flow.waiting, app, user_id=_id(user))
        if order is None or not app.payments.hosted:
            return ""
        opened = await collect.checkout(
            app,
            user_id=_id(user),
            payment_id=order.id,
            base=parts.base(str(pressed.get("origin", ""))),
        )
        return opened.checkout_url or ""

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    shown = [c.body, shell.pill]
    c.tab.select(plan_show, None, shown, **quiet)
    c.body.click(plan_act, None, shown, **quiet).then(None, js=_DONE, api_visibility="private")


def _page(
    held: Subscription | None,
    offers: list[Offer],
    ask: str,
    id: str,
    order: Payment | None,
    link: str,
) -> str:
    """What somebody has, the question that is open, and what is on offer."""
    top = "" if held is None else _held(held, ask) + ("" if order is None else _due(order, link))
    if not offers and held is None:
        return parts.empty("No plans yet", "Nothing is on offer right now. Buy credits instead.")
    cells = "".join(_offer(offer, held, ask == "choose" and id == offer.code) for offer in offers)
    return f'{top}<div class="offers">{cells}</div>' if cells else top


def _held(held: Subscription, ask: str) -> str:
    period = held.period
    name, kind = _STATES.get(held.status, (held.status, ""))
    if held.cancel_at_end:
        name, kind = "ends with this period", "warn"
    if held.renews_at is not None:
        when = f"The next {_amount(period.credits)} come on {_day(held.renews_at)}"
        when += f" with {parts.esc(held.next_plan)}." if held.next_plan else "."
    elif held.status == "past_due":
        when = f"The payment is tried again on {_day(held.due_at)}. Until then no credits come."
    else:
        when = f"The paid period ends on {_day(period.ends_at)}."
    if ask in _SURE:
        question, yes = _SURE[ask]
        buttons = (
            f'<span class="sure">{question}</span> {_button(ask, yes, kind="danger")}'
            f"{_button('back', 'No, keep it')}"
        )
    elif held.status == "paused" or held.cancel_at_end:
        buttons = _button("resume", "Resume plan")
    else:
        pause = _button("ask-pause", "Pause") if held.status == "active" else ""
        buttons = pause + _button("ask-cancel", "End plan")
    return (
        f'<div class="hit"><div><h3>{parts.esc(period.plan_name)} {parts.badge(name, kind)}</h3>'
        f"<p>{_amount(period.credits)} a month for {parts.esc(period.price)}. {when}</p></div>"
        f'<div class="actions">{buttons}</div></div>'
    )


def _due(order: Payment, link: str) -> str:
    """What is to be paid, and where."""
    price = parts.esc(Money(order.amount_minor, order.currency))
    action = _button("pay", f"Pay {price}", kind="primary")
    if link:
        action = (
            f'<a class="go" data-go href="{parts.esc(link)}">Pay {price} on the payment page</a>'
        )
    return (
        f'<div class="hit"><p>{price} is to be paid. The card is kept for the next months, until '
        f'you say otherwise here.</p><div class="actions">{action}</div></div>'
    )


def _kept_card(card: Card) -> str:
    return (
        f'<p class="hint">{parts.esc(card.brand.capitalize())} ending in {parts.esc(card.last4)} '
        f"is kept, good until {card.month:02d}/{card.year}. "
        f"{_button('forget', 'Stop keeping it')}</p>"
    )


def _offer(offer: Offer, held: Subscription | None, sure: bool) -> str:
    live = held is not None and held.status != "pending"
    mine = held is not None and held.period.plan_code == offer.code
    if mine and held is not None and held.status != "pending":
        foot = parts.badge("your plan", "good")
        if held.next_plan:
            foot = _button("choose", "Keep this plan", offer.code)
    elif live and held is not None and held.next_plan == offer.code:
        foot = parts.badge("from the next period", "good")
    elif live and held is not None and held.status != "active":
        foot = ""
    elif sure:
        at_once = not live or (held is not None and offer.price.amount > held.period.price.amount)
        says = (
            f"Pay {parts.esc(offer.price)} now and every month?"
            if at_once
            else "Change with the next period?"
        )
        if live and at_once:
            says += " Credits of your plan stay until their end."
        foot = (
            f'<span class="sure">{says}</span> {_button("choose", "Yes", offer.code, "primary")}'
            f"{_button('back', 'No')}"
        )
    else:
        foot = _button("ask-choose", "Change to this" if live else "Choose", offer.code)
    return (
        f'<div class="card"><h3>{parts.esc(offer.name)}</h3>'
        f'<div class="figure">{parts.esc(offer.price)}</div>'
        f'<div class="note">{_amount(offer.credits)} every month<br>{_kept(offer)}</div>'
        f'<div class="actions">{foot}</div></div>'
    )


def _kept(offer: Offer) -> str:
    if offer.keep_periods is None:
        return "Unused credits never end"
    if offer.keep_periods == 0:
        return "Unused credits end with the month"
    return f"Unused credits stay for {offer.keep_periods + 1} months"


def _done(held: Subscription) -> str:
    if held.next_plan:
        return "Your plan changes with the next period."
    if held.status == "pending":
        return "The plan begins when it is paid."
    return f"{held.period.plan_name}: {parts.amount(held.period.credits)} a month."


def _button(act: str, words: str, id: str = "", kind: str = "") -> str:
    return (
        f'<button class="{kind}" data-act="{act}" data-id="{parts.esc(id)}">{parts.esc(words)}'
        "</button>"
    )


def _amount(micro: int) -> str:
    return f"{show_credits(micro)} credits"


def _day(micros: int) -> str:
    moment = from_micros(micros)
    return f'<time datetime="{moment:%Y-%m-%dT%H:%M:%SZ}">{moment:%d %b %Y}</time>'


def _id(user: User) -> int:
    assert user.id is not None
    return user.id
