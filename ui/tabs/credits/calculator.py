"""Calculator: what chatting costs in a day and a month, how long the credits last, what to buy."""

import asyncio
import math
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.credits.pricing import Price
from chat_app.flows import estimate, shelf
from chat_app.flows.estimate import Estimate
from chat_app.money import parse_credits, show_credits
from ui import parts
from ui.guard import guard
from ui.parts import Card
from ui.shell import Shell
from ui.tabs.chat.words import price_words

LONG_DAYS = 3650


@dataclass
class Calculator:
    """The section's components."""

    tab: gr.Tab
    model: gr.Dropdown
    messages: gr.Number
    prompt: gr.Number
    completion: gr.Number
    budget: gr.Textbox
    result: gr.HTML


def build() -> Calculator:
    """The layout, without any data."""
    with (
        gr.Tab("Calculator", id="credits-calculator") as tab,
        gr.Column(elem_classes="sheet", elem_id="credits-calculator"),
    ):
        gr.HTML('<div class="sheet-head"><h2>What would it cost?</h2></div>')
        with gr.Row(elem_classes="filters tight"):
            model = gr.Dropdown(
                [], label="Model", filterable=False, elem_id="credits-calculator-model"
            )
            messages = _number("Messages a day", 20, "credits-calculator-messages")
            prompt = _number("Tokens you send", 300, "credits-calculator-prompt")
            completion = _number("Tokens of an answer", 400, "credits-calculator-answer")
            budget = gr.Textbox(
                label="Budget a month",
                placeholder="Credits, optional",
                max_lines=1,
                elem_id="credits-calculator-budget",
            )
        result = gr.HTML(parts.loading(2), elem_id="credits-estimate")
    return Calculator(tab, model, messages, prompt, completion, budget, result)


def _number(label: str, value: int, id: str) -> gr.Number:
    return gr.Number(value, label=label, precision=0, elem_id=id)


def bind(c: Calculator, app: App, _shell: Shell, _tab: gr.Tab) -> None:
    """Wire the section to its own tab."""

    def count(user: User, model: str | None, figures: tuple[Any, ...], budget: str) -> str:
        if not model:
            return parts.empty("No model is for sale", "Ask an administrator to offer one.")
        wanted = (budget or "").replace(",", "").strip()
        messages, prompt, completion = (_whole(figure) for figure in figures)
        with app.db.read() as session:
            found = estimate.of_chatting(
                app,
                session,
                user_id=_id(user),
                model=model,
                messages_per_day=messages,
                prompt_tokens=prompt,
                completion_tokens=completion,
                budget=parse_credits(wanted) if wanted else None,
            )
        return _shown(found)

    @guard(app, "user")
    async def calculator_show(
        user: User,
        model: str | None,
        messages: float,
        prompt: float,
        completion: float,
        budget: str,
    ) -> dict[Any, Any]:
        """The models for sale, and the first estimate."""

        def look() -> dict[Any, Any]:
            with app.db.read() as session:
                views = shelf.models(app, session=session)
            ids = [view.id for view in views]
            default = app.settings.llm.default_model
            picked = next((id for id in (model, default, *ids) if id in ids), None)
            return {
                c.model: gr.update(choices=[(view.name, view.id) for view in views], value=picked),
                c.result: count(user, picked, (messages, prompt, completion), budget),
            }

        return await asyncio.to_thread(look)

    @guard(app, "user")
    async def calculator_count(
        user: User,
        model: str | None,
        messages: float,
        prompt: float,
        completion: float,
        budget: str,
    ) -> dict[Any, Any]:
        """Another estimate."""
        figures = (messages, prompt, completion)
        return {c.result: await asyncio.to_thread(count, user, model, figures, budget)}

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    inputs = [c.model, c.messages, c.prompt, c.completion, c.budget]
    c.tab.select(calculator_show, inputs, [c.model, c.result], **quiet)
    asked = [
        c.model.input,
        c.messages.change,
        c.prompt.change,
        c.completion.change,
        # Not at every key: half an amount is none.
        c.budget.submit,
        c.budget.blur,
    ]
    gr.on(asked, calculator_count, inputs, [c.result], trigger_mode="always_last", **quiet)


def _id(user: User) -> int:
    assert user.id is not None
    return user.id


def _whole(figure: object) -> int:
    """A figure from the page; an empty field, or what is no number, is zero."""
    if not isinstance(figure, (int, float)) or not math.isfinite(figure):
        return 0
    return int(figure)


def _shown(found: Estimate) -> str:
    items = [
        Card("A message", show_credits(found.per_message), price_words(found.price)),
        Card("A day", show_credits(found.per_day), "credits"),
        Card("A month", show_credits(found.per_month), "credits in 30 days"),
        Card("Your credits last", _lasting(found.days), f"{show_credits(found.available)} left"),
    ]
    if found.package is not None:
        many = f"{found.packages:,} × " if found.packages > 1 else ""
        got = parts.amount(found.package.credits + found.package.bonus_credits)
        note = f"{found.package.price} for {got}" + (" each" if found.packages > 1 else "")
        items.append(Card("Fits a month", many + found.package.name, note))
    if found.affordable is not None:
        items.append(Card("Within the budget", f"{found.affordable:,}", "messages a day"))
    return parts.cards(items) + _rates(found.base, found.price.tier)


def _lasting(days: float | None) -> str:
    if days is None:
        return "for ever"
    if days > LONG_DAYS:
        return "10+ years"
    return f"{days:,.0f} days" if days >= 10 else f"{days:.1f} days"


def _rates(base: Price, reached: int) -> str:
    """The tiers in words, and which one the user has reached."""
    if not base.tiers:
        return ""
    rows = []
    for number in range(len(base.tiers) + 1):
        mine = parts.badge("yours now", "good") if number == reached else ""
        rows.append([*(parts.esc(cell) for cell in tier_words(base, number)), mine])
    return parts.table(["In a month from", "Price", ""], rows, caption="Prices by volume")


def tier_words(base: Price, number: int) -> tuple[str, str]:
    """From when on a tier counts, and what it costs; 0 is the beginning of the month."""
    if number == 0:
        return "the first message", price_words(base)
    tier = base.tiers[number - 1]
    amount = show_credits(tier.from_amount) if tier.unit == "credits" else f"{tier.from_amount:,}"
    return f"{amount} {tier.unit} on", price_words(tier)
