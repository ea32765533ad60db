"""Analytics: the user's own messages, tokens and credits, by day and by model."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import gradio as gr

from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.clock import from_micros
from chat_app.credits import usage
from chat_app.credits.usage import UsageDay
from chat_app.money import MICRO, show_credits
from ui import parts
from ui.guard import guard
from ui.parts import Card
from ui.shell import Shell

LONGEST_DAYS = 365
COLOURS = ["#4f46e5", "#0d9488", "#d97706", "#db2777", "#64748b"]


@dataclass
class Analytics:
    """The tab's components."""

    tab: gr.Tab
    period: gr.Dropdown
    cards: gr.HTML
    plots: gr.Column
    credits: gr.BarPlot
    tokens: gr.BarPlot
    models: gr.HTML


def build() -> Analytics:
    """The layout, without any data."""
    with gr.Tab("Analytics", id="analytics", visible=False, elem_id="analytics-tab") as tab:
        with gr.Row(elem_classes="title-row"):
            gr.HTML("<h1>Analytics</h1>", elem_classes="page-title")
            period = gr.Dropdown(
                parts.PERIODS[:3],
                value="30",
                label="Period",
                filterable=False,
                scale=0,
                elem_id="analytics-period",
            )
        cards = gr.HTML(parts.loading(), elem_id="analytics-cards")
        with gr.Column(visible=False) as plots, gr.Row(elem_classes="plots"):
            credits = _plot("credits", "Credits a day", "analytics-credits")
            tokens = _plot("tokens", "Tokens a day", "analytics-tokens")
        with gr.Column(elem_classes="sheet"):
            gr.HTML('<div class="sheet-head"><h2>By model</h2></div>')
            models = gr.HTML(parts.loading(), elem_id="analytics-models")
    return Analytics(tab, period, cards, plots, credits, tokens, models)


def _plot(column: str, title: str, id: str) -> gr.BarPlot:
    return gr.BarPlot(
        x="day",
        y=column,
        color="model",
        title=title,
        x_title=" ",
        y_title=" ",
        y_lim=[0, None],
        x_axis_format="%d %b",
        height=280,
        buttons=[],
        elem_id=id,
        elem_classes="sheet",
        label=title,
        show_label=False,
    )


def bind(c: Analytics, app: App, _shell: Shell) -> None:
    """Wire the tab."""

    @guard(app, "user")
    async def show(user: User, period: str) -> dict[Any, Any]:
        """Everything on the tab for a period of days."""
        assert user.id is not None
        user_id = user.id
        days = min(int(period) if str(period).isdigit() else 30, LONGEST_DAYS)
        now = app.clock.micros()

        def look() -> list[UsageDay]:
            with app.db.read() as session:
                return usage.own(
                    session, user_id=user_id, since=now - days * parts.DAY, until=now + 1
                )

        rows = await asyncio.to_thread(look)
        frame = await asyncio.to_thread(_frame, rows, from_micros(now), days)
        names = sorted({row.model for row in rows})
        colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
        return {
            c.cards: _cards(rows),
            c.plots: gr.update(visible=bool(rows)),
            c.credits: gr.update(value=frame, color_map=colours),
            c.tokens: gr.update(value=frame, color_map=colours),
            c.models: _models(rows),
        }

    outputs = [c.cards, c.plots, c.credits, c.tokens, c.models]
    for trigger in (c.tab.select, c.period.change):
        trigger(show, [c.period], outputs, show_progress="hidden", api_visibility="private")


def _frame(rows: Sequence[UsageDay], now: datetime, days: int) -> Any:
    """One row for each day and model; days without use are there with zero."""
    import pandas as pd

    models = sorted({row.model for row in rows})
    by = {(row.day, row.model): row for row in rows}
    first = (now - timedelta(days=days - 1)).date()
    calendar = [first + timedelta(days=step) for step in range(days)]
    return pd.DataFrame(
        [
            {
                "day": datetime(day.year, day.month, day.day, tzinfo=UTC),
                "model": model,
                "credits": row.credits / MICRO if (row := by.get((day, model))) else 0.0,
                "tokens": row.prompt_tokens + row.completion_tokens if row else 0,
            }
            for model in models
            for day in calendar
        ],
        columns=["day", "model", "credits", "tokens"],
    )


def _cards(rows: Sequence[UsageDay]) -> str:
    messages = sum(row.messages for row in rows)
    spent = sum(row.credits for row in rows)
    tokens = sum(row.prompt_tokens + row.completion_tokens for row in rows)
    days = len({row.day for row in rows})
    each = show_credits(round(spent / messages / 10_000) * 10_000) if messages else "0"
    return parts.cards(
        [
            Card("Messages", f"{messages:,}", f"on {days} day{'' if days == 1 else 's'}"),
            Card("Credits spent", show_credits(spent), "settled answers only"),
            Card("Credits a message", each, "on average"),
            Card("Tokens", f"{tokens:,}", "read and written"),
        ]
    )


def _models(rows: Sequence[UsageDay]) -> str:
    if not rows:
        return parts.empty("No usage in this period", "Chat a little, or choose a longer period.")
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for row in rows:
        figures = (row.messages, row.prompt_tokens, row.completion_tokens, row.credits)
        sums[row.model] = [a + b for a, b in zip(sums[row.model], figures, strict=True)]
    cells = [
        [
            parts.esc(model),
            f"{messages:,}",
            f"{prompt:,}",
            f"{made:,}",
            show_credits(spent),
        ]
        for model, (messages, prompt, made, spent) in sorted(
            sums.items(), key=lambda item: -item[1][3]
        )
    ]
    heads = ["Model", "Messages>", "Tokens read>", "Tokens written>", "Credits>"]
    return parts.table(heads, cells, caption="Usage by model")
