"""Analytics: the user's own messages, tokens and credits, over time, by model and by the hour."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.clock import from_micros, rfc3339, to_micros
from chat_app.credits.usage import UsageLine
from chat_app.flows import analytics, shelf
from chat_app.flows.analytics import Score, Sums, View
from chat_app.money import MICRO, show_credits
from ui import parts, plots
from ui.guard import guard
from ui.plots import Series
from ui.shell import Shell

RANGES = [
    ("Last 7 days", "7"),
    ("Last 30 days", "30"),
    ("Last 90 days", "90"),
    ("Last 12 months", "365"),
    ("This month", "month"),
    ("Last month", "before"),
]
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
HOURS = tuple(f"{hour:02}" for hour in range(24))
MOST_SERIES = 5
DAILY = 92  # days up to which a plot has one bar for each
_ZONE = "(period) => [period, -new Date().getTimezoneOffset()]"
_PARTS = {
    "frequency": ("How often", "days with an answer"),
    "recency": ("How lately", "since the last answer"),
    "depth": ("How much", "answers on such a day"),
    "regularity": ("How steadily", "weeks with an answer"),
}


@dataclass
class Analytics:
    """The tab's components."""

    tab: gr.Tab
    period: gr.Dropdown
    zone: gr.Number
    board: gr.HTML


def build() -> Analytics:
    """The layout, without any data."""
    with gr.Tab("Analytics", id="analytics", visible=False, elem_id="analytics-tab") as tab:
        with gr.Row(elem_classes="title-row"):
            gr.HTML("<h1>Analytics</h1>", elem_classes="page-title")
            period = gr.Dropdown(
                RANGES,
                value="30",
                label="Period",
                filterable=False,
                scale=0,
                elem_id="analytics-period",
            )
        zone = gr.Number(0, visible=False)
        board = gr.HTML(parts.loading(6), elem_id="analytics-board")
    return Analytics(tab, period, zone, board)


def bind(c: Analytics, app: App, _shell: Shell) -> None:
    """Wire the tab."""

    @guard(app, "user")
    async def show(user: User, period: str, zone: float) -> dict[Any, Any]:
        """Everything on the tab for a period, with hours in the reader's zone."""
        assert user.id is not None
        since, until = span(period, from_micros(app.clock.micros()))
        shift = round(zone) if abs(zone) <= analytics.MOST_SHIFT_MINUTES else 0
        view = await asyncio.to_thread(
            analytics.of, app, user_id=user.id, since=since, until=until, shift=shift
        )
        with app.db.read() as session:
            names = {one.id: one.name for one in shelf.models(app, session=session)}
        today = from_micros(app.clock.micros()).date()
        return {c.board: await asyncio.to_thread(board, view, names, today)}

    gr.on(
        [c.tab.select, c.period.change],
        show,
        [c.period, c.zone],
        [c.board],
        js=_ZONE,
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
    )


def span(period: str, now: datetime) -> tuple[int, int]:
    """The beginning and the end of a period, in µs."""
    tomorrow = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
    first = tomorrow - timedelta(days=1)
    first = first.replace(day=1)
    if period == "month":
        return to_micros(first), to_micros(tomorrow)
    if period == "before":
        return to_micros((first - timedelta(days=1)).replace(day=1)), to_micros(first)
    days = int(period) if period.isdigit() and 0 < int(period) <= analytics.LONGEST_DAYS else 30
    return to_micros(tomorrow - timedelta(days=days)), to_micros(tomorrow)


_NOTHING = ("No usage in this period", "Chat a little, or choose a longer period.", "Chat")


def board(view: View, names: dict[str, str], today: date) -> str:
    """The whole tab as HTML."""
    if not view.now.messages and not view.before.messages:
        return parts.empty(*_NOTHING)
    days = [from_micros(at).date() for at in range(view.since, view.until, analytics.DAY)]
    step, labels = _steps(days)
    query = urlencode({"from": rfc3339(view.since), "to": rfc3339(view.until), "format": "csv"})
    models = [row.model for row in view.models]
    return (
        f'<div id="analytics-cards">{_cards(view)}</div><div class="board">'
        f'<div class="sheet wide" id="analytics-credits">'
        f"{_by_model('Credits', view, days, step, labels, models, names)}</div>"
        f'<div class="sheet" id="analytics-compared">{_compared(view, days, today)}</div>'
        f'<div class="sheet" id="analytics-tokens">{_tokens(view, days, step, labels)}</div>'
        f'<div class="sheet wide" id="analytics-hours">{_hours(view)}</div>'
        f'<div class="sheet wide" id="analytics-models"><div class="sheet-head"><h2>By model</h2>'
        f'<a class="file" href="/api/analytics/me?{parts.esc(query)}" download>Download CSV</a>'
        f"</div>{_models(view, names)}</div>"
        f'<div class="sheet" id="analytics-score">{_score(view.score)}</div>'
        f'<div class="sheet" id="analytics-advice">{_advice(view)}</div></div>'
    )


def _steps(days: Sequence[date]) -> tuple[int, list[str]]:
    """How many days one bar has, and the names of the bars."""
    step = 1 if len(days) <= DAILY else 7
    return step, [f"{day.day} {day:%b}" for day in days[::step]]


def _rows(
    lines: Sequence[UsageLine], days: Sequence[date], step: int, of: Any, model: str | None = None
) -> list[float]:
    """A figure of the lines for each bar; of one model, or of all."""
    place = {day: at for at, day in enumerate(days)}
    sums = [0.0] * ((len(days) + step - 1) // step)
    for row in lines:
        at = place.get(from_micros(row.at).date())
        if at is not None and model in (None, row.model):
            sums[at // step] += of(row)
    return sums


def _by_model(
    title: str,
    view: View,
    days: Sequence[date],
    step: int,
    labels: Sequence[str],
    models: Sequence[str],
    names: dict[str, str],
) -> str:
    shown = list(models[:MOST_SERIES])
    series = [
        Series(
            names.get(model, model),
            _rows(view.lines, days, step, lambda row: row.credits / MICRO, model),
        )
        for model in shown
    ]
    rest = [row for row in view.lines if row.model not in shown]
    if rest:
        series.append(Series("Others", _rows(rest, days, step, lambda row: row.credits / MICRO)))
    each = "a day" if step == 1 else "a week"
    return plots.bars(labels, series, title=f"{title} {each}", unit="credits")


def _compared(view: View, days: Sequence[date], today: date) -> str:
    """The sum of credits day by day, beside the period before."""

    def grown(lines: Sequence[UsageLine], first: int) -> list[float]:
        own = [from_micros(first + at * analytics.DAY).date() for at in range(len(days))]
        total, sums = 0.0, []
        for value in _rows(lines, own, 1, lambda row: row.credits / MICRO):
            total += value
            sums.append(total)
        return sums

    now: list[float | None] = [
        value if day <= today else None
        for value, day in zip(grown(view.lines, view.since), days, strict=True)
    ]
    before = grown(view.lines_before, 2 * view.since - view.until)
    return plots.lines(
        [f"{day.day} {day:%b}" for day in days],
        [Series("This period", now), Series("The period before", before, dashed=True)],
        title="Credits so far",
        unit="credits",
    )


def _tokens(view: View, days: Sequence[date], step: int, labels: Sequence[str]) -> str:
    return plots.bars(
        labels,
        [
            Series("Read", _rows(view.lines, days, step, lambda row: row.prompt_tokens)),
            Series("Written", _rows(view.lines, days, step, lambda row: row.completion_tokens)),
        ],
        title=f"Tokens {'a day' if step == 1 else 'a week'}",
    )


def _hours(view: View) -> str:
    values = [[float(count) for count in line] for line in view.hours]
    return plots.heat(WEEKDAYS, HOURS, values, title="When you chat", unit="messages")


def _cards(view: View) -> str:
    now, before = view.now, view.before
    share = f"{now.cached / now.answers:.0%}" if now.answers else "0%"
    each = show_credits(_short(now.each)) if now.each is not None else "–"
    per = f"{view.tokens_per_credit:,.0f} tokens a credit" if view.tokens_per_credit else ""
    cards = [
        ("Credits spent", show_credits(now.credits), _delta(now.credits, before.credits),
         f"{show_credits(before.credits)} before"),
        ("Messages", f"{now.messages:,}", _delta(now.messages, before.messages),
         f"on {now.active_days} day{'' if now.active_days == 1 else 's'}"),
        ("Tokens", plots.number(now.tokens), _delta(now.tokens, before.tokens),
         "read and written"),
        ("Cost of an answer", each, _delta(now.each or 0, before.each or 0), per or "credits"),
        ("From the cache", share, "", f"{now.cached:,} of {_answers(now)}"),
    ]  # fmt: skip
    inner = "".join(
        f'<div class="card"><div class="name">{parts.esc(name)}</div>'
        f'<div class="figure">{parts.esc(figure)}{delta}</div>'
        f'<div class="note">{parts.esc(note)}</div></div>'
        for name, figure, delta, note in cards
    )
    return f'<div class="cards">{inner}</div>'


def _answers(sums: Sums) -> str:
    return f"{sums.answers:,} answer{'' if sums.answers == 1 else 's'}"


def _short(micro: int) -> int:
    return round(micro / 10_000) * 10_000


def _delta(now: float, before: float) -> str:
    """How much more or less than before; nothing where there was nothing."""
    if not before:
        return ""
    change = now / before - 1
    sign = "+" if change > 0 else "−" if change < 0 else "±"
    return f'<span class="delta" title="against the period before">{sign}{abs(change):.0%}</span>'


def _models(view: View, names: dict[str, str]) -> str:
    if not view.models:
        return parts.empty(*_NOTHING)
    days = [from_micros(at).date() for at in range(view.since, view.until, analytics.DAY)]
    cells = [
        [
            parts.esc(names.get(row.model, row.model)),
            f"{row.messages:,}",
            f"{row.prompt_tokens:,}",
            f"{row.completion_tokens:,}",
            show_credits(_short(round(row.cost / row.answers))) if row.answers else "–",
            show_credits(row.cost),
            plots.spark(
                _rows(view.lines, days, 1, lambda line: line.credits / MICRO, row.model),
                title=f"Credits a day for {names.get(row.model, row.model)}",
            ),
        ]
        for row in view.models
    ]
    heads = ["Model", "Messages>", "Read>", "Written>", "Each>", "Credits>", "Over time>"]
    return parts.table(heads, cells, caption="Usage by model")


def _score(score: Score | None) -> str:
    head = '<div class="sheet-head"><h2>Your habits</h2></div>'
    if score is None:
        return head + parts.empty(
            "Nothing in the last four weeks", "Get an answer, and it begins to count."
        )
    meters = "".join(
        f'<div class="meter" title="{parts.esc(_PARTS[name][1])}"><span>{_PARTS[name][0]}</span>'
        f'<i><u style="width:{value:.0f}%"></u></i><em>{value:.0f}</em></div>'
        for name, value in score.parts.items()
    )
    basis = (
        f"Ranked among {score.people:,} people of the last four weeks."
        if score.basis == "ranks"
        else "Held against fixed marks until enough people chat here to be ranked."
    )
    return (
        f'{head}<div class="score"><b>{score.score:.0f}<small> of 100</small></b>'
        f'<div class="meters">{meters}</div></div><p class="hint">{basis}</p>'
    )


def _advice(view: View) -> str:
    head = '<div class="sheet-head"><h2>Recommendations</h2></div>'
    if not view.advice:
        return head + parts.empty(
            "Nothing to improve", "You spend your credits well, as far as the numbers tell."
        )
    items = "".join(
        f"<li><b>{parts.esc(item.figure)}</b><span>{parts.esc(item.sentence)}</span></li>"
        for item in view.advice
    )
    return f'{head}<ul class="tips">{items}</ul>'
