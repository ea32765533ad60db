"""Limits: what an answer, a conversation and a day may cost at most, and what is spent so far."""

import asyncio
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.credits import guards, rollups
from chat_app.credits.guards import Limits, Spent
from chat_app.errors import Invalid
from chat_app.flows import spending
from chat_app.money import format_credits, parse_credits, show_credits
from ui import parts
from ui.guard import guard
from ui.parts import Card
from ui.shell import Shell


class NegativeLimit(Invalid):
    """A limit below zero."""

    code = "negative_limit"
    message = "A limit is zero or more credits. Leave the field empty for no limit."


@dataclass
class LimitsSection:
    """The section's components."""

    tab: gr.Tab
    cards: gr.HTML
    answer: gr.Textbox
    conversation: gr.Textbox
    day: gr.Textbox
    save: gr.Button
    saved: gr.HTML


def build() -> LimitsSection:
    """The layout, without any data."""
    with gr.Tab("Limits", id="credits-limits") as tab:
        cards = gr.HTML(parts.loading(1), elem_id="credits-spent")
        with gr.Column(elem_classes="sheet", elem_id="credits-guards"):
            gr.HTML(
                '<div class="sheet-head"><h2>Your limits</h2></div><p class="hint">In credits; an '
                "empty field is no limit. An answer is cut where its limit is reached. A message "
                "that could pass another limit is not sent, and nothing is charged.</p>"
            )
            with gr.Row(elem_classes="filters"):
                answer = _field("One answer", "credits-limit-answer")
                conversation = _field("One conversation", "credits-limit-conversation")
                day = _field("One day (UTC)", "credits-limit-day")
                save = gr.Button(
                    "Save limits", variant="primary", scale=0, elem_id="credits-limits-save"
                )
            saved = gr.HTML(elem_id="credits-limits-saved")
    return LimitsSection(tab, cards, answer, conversation, day, save, saved)


def _field(label: str, id: str) -> gr.Textbox:
    return gr.Textbox(label=label, placeholder="No limit", elem_id=id, max_lines=1)


def bind(c: LimitsSection, app: App, _shell: Shell, _tab: gr.Tab) -> None:
    """Wire the section to its own tab."""

    def look(user: User) -> dict[Any, Any]:
        now = app.clock.micros()
        with app.db.read() as session:
            own = guards.own(session, user_id=_id(user))
            plan = guards.quota(session, user_id=_id(user))
            spent = guards.spent(session, user_id=_id(user), now=now)
        return {
            c.cards: _cards(own, plan, spent, now),
            c.answer: _text(own.per_answer),
            c.conversation: _text(own.per_conversation),
            c.day: _text(own.per_day),
        }

    @guard(app, "user")
    async def limits_show(user: User) -> dict[Any, Any]:
        """The limits, and what counts towards them."""
        return {**await asyncio.to_thread(look, user), c.saved: ""}

    @guard(app, "user")
    async def limits_save(user: User, answer: str, conversation: str, day: str) -> dict[Any, Any]:
        """Set the limits as they stand in the fields."""
        limits = Limits(_micro(answer), _micro(conversation), _micro(day))
        await spending.limit(app, user_id=_id(user), limits=limits)
        words = "Saved: in force from the next message on" if limits.any else "Saved: no limit"
        return {**await asyncio.to_thread(look, user), c.saved: parts.badge(words, "good")}

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    fields = [c.answer, c.conversation, c.day]
    shown = [c.cards, *fields, c.saved]
    c.tab.select(limits_show, None, shown, **quiet)
    c.save.click(limits_save, fields, shown, **quiet)


def _id(user: User) -> int:
    assert user.id is not None
    return user.id


def _text(micro: int | None) -> str:
    return "" if micro is None else format_credits(micro)


def _micro(text: object) -> int | None:
    cleaned = str(text or "").replace(",", "").strip()
    if not cleaned:
        return None
    micro = parse_credits(cleaned)
    if micro < 0:
        raise NegativeLimit
    return micro


def _cards(own: Limits, plan: Limits | None, spent: Spent, now: int) -> str:
    left = None if own.per_day is None else max(0, own.per_day - spent.today)
    midnight = rollups.start_of("day", now) + rollups.DAY
    hours = max(1, round((midnight - now) / 3_600_000_000))
    today = f"{show_credits(left)} left" if left is not None else "no limit"
    items = [
        Card("Spent today", show_credits(spent.today), f"{today}, new day in {hours} h"),
        Card("Spent this month", show_credits(spent.this_month), "with what is held"),
        Card("Messages this month", f"{spent.messages_this_month:,}", "answers you got"),
    ]
    if plan is not None and plan.per_month is not None:
        items.append(Card("Your plan", show_credits(plan.per_month), "credits a month at most"))
    if plan is not None and plan.messages_per_month is not None:
        items.append(Card("Your plan", f"{plan.messages_per_month:,}", "messages a month at most"))
    return parts.cards(items)
