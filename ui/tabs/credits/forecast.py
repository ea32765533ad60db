"""Forecast: when the credits run out, as a fan of possible balances from one's own use."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.clock import from_micros
from chat_app.flows import outlook
from chat_app.flows.outlook import Outlook
from chat_app.money import MICRO, show_credits
from ui import parts, plots
from ui.guard import guard
from ui.parts import Card
from ui.plots import Band, Mark, Series
from ui.shell import Shell

_BASIS = {
    "history": "A forecast of your daily use, with the misses it made in your own past.",
    "profile": "Your mean use so far, by weekday; with four weeks of use it becomes a forecast.",
    "insufficient": "You have used credits on too few days to say much: the mean, spread widely.",
}
WAIT = (
    '<p class="hint" role="status">Looking at your use day by day. This is done once a day and '
    "takes some seconds.</p>" + parts.loading(5)
)


@dataclass
class Forecast:
    """The section's components."""

    tab: gr.Tab
    plot: gr.HTML


def build() -> Forecast:
    """The layout, without any data."""
    with gr.Tab("Forecast", id="credits-forecast") as tab:
        plot = gr.HTML(parts.loading(5), elem_id="credits-forecast-plot")
    return Forecast(tab, plot)


def bind(c: Forecast, app: App, _shell: Shell, _tab: gr.Tab) -> None:
    """Wire the section: it is computed when it is opened, away from the event loop."""

    @guard(app, "user")
    async def forecast_show(user: User) -> AsyncIterator[dict[Any, Any]]:
        """The outlook of today; a word of patience first when it has to be made."""
        assert user.id is not None
        if not await asyncio.to_thread(outlook.ready, app, user_id=user.id):
            yield {c.plot: WAIT}
        yield {c.plot: page(await outlook.ask(app, user_id=user.id))}

    c.tab.select(forecast_show, None, [c.plot], show_progress="hidden", api_visibility="private")


def page(seen: Outlook) -> str:
    """The plot with the three days and what it rests on."""
    if not seen.used_days and seen.balance > 0:
        return (
            '<div class="sheet">'
            + parts.empty("Nothing to go by yet", "Use credits on a few days, then look again.")
            + "</div>"
        )
    labels = [f"{day.day} {day:%b}" for day in map(from_micros, seen.days)]
    marks = [
        Mark(at, f"+{show_credits(item.micro)}")
        for item in seen.coming
        for at, day in enumerate(seen.days)
        if day <= item.at < day + outlook.DAY
    ]
    fan = plots.lines(
        labels,
        [Series("The middle future", _credits(seen.middle))],
        band=Band("Eight in ten futures", _credits(seen.low), _credits(seen.high)),
        marks=marks,
        title="Your balance in the days to come",
        unit="credits",
    )
    cards = parts.cards(
        [
            Card(
                "At the earliest",
                _day(seen.runout["p10"]),
                "one future in ten is out by then",
            ),
            Card("Most likely", _day(seen.runout["p50"]), "half of the futures are"),
            Card("At the latest", _day(seen.runout["p90"]), "nine futures in ten are"),
        ]
    )
    days = f"{seen.used_days} day{'' if seen.used_days == 1 else 's'} with use"
    return (
        f'<div class="sheet"><div class="sheet-head"><h2>When your credits run out</h2></div>'
        f'{cards}<div style="margin-top:24px">{fan}</div><p class="hint" style="margin-top:14px">'
        f"{_BASIS[seen.basis]} From {days} in the last {outlook.PAST_DAYS} days, up to "
        f"{parts.when(seen.as_of)}; {show_credits(seen.balance)} credits were available then. "
        "Purchases you have not made and credits that end are not in it.</p></div>"
    )


def _credits(row: list[int]) -> list[float]:
    return [micro / MICRO for micro in row]


def _day(at: int | None) -> str:
    if at is None:
        return f"in {outlook.HORIZON_DAYS}+ days"
    day = from_micros(at)
    return f"{day.day} {day:%B}"
