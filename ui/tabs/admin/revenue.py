"""Revenue: what recurs, what is earned and owed, tax, receivables, and the months of the books."""

import asyncio
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import gradio as gr

from chat_app.accounts.permissions import Permission
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.flows import revenue, revenue_detail, revenue_figures
from chat_app.flows.revenue_detail import By, Figure
from chat_app.flows.revenue_figures import Receivables, Recognition, Recurring
from chat_app.revenue.months import Month
from ui import parts, plots
from ui.guard import guard
from ui.parts import Card
from ui.shell import Shell

MONTHS = 12
EXPORT = "/api/admin/revenue/"
_BEHIND: tuple[Figure, ...] = (
    "billed", "usage", "subscription", "breakage", "refunded", "closing"
)  # fmt: skip
_SOURCES: dict[By, str] = {
    "plan": "Product", "organisation": "Organisation", "channel": "Channel", "country": "Country"
}  # fmt: skip


@dataclass
class Revenue:
    """The components."""

    tab: gr.Tab
    currency: gr.Dropdown
    cards: gr.HTML
    body: gr.HTML
    period: gr.Dropdown
    ask: gr.Button
    confirm: gr.Row
    close: gr.Button
    closed: gr.HTML


def build() -> Revenue:
    """The layout, without any data."""
    with gr.Tab("Revenue", id="admin-revenue") as tab:
        with gr.Row(elem_classes="filters"):
            currency = gr.Dropdown(
                [], label="Currency", elem_id="admin-revenue-currency", filterable=False, scale=0
            )
        cards = gr.HTML(parts.loading(), elem_id="admin-revenue-cards")
        body = gr.HTML(elem_id="admin-revenue-body")
        with gr.Column(elem_classes="sheet"):
            gr.HTML(
                '<div class="sheet-head"><h2>Close a month</h2><span class="hint">Its figures are '
                "final then: what comes to light later counts for the day it is found</span></div>"
            )
            with gr.Row(elem_classes="filters"):
                period = gr.Dropdown(
                    [], label="Month", elem_id="admin-revenue-period", filterable=False, scale=0
                )
                ask = gr.Button("Close this month", elem_id="admin-revenue-ask", scale=0)
            with gr.Row(visible=False, elem_classes="filters") as confirm:
                gr.HTML("<p>A closed month cannot be opened again.</p>")
                close = gr.Button(
                    "Yes, close it for good", variant="stop", elem_id="admin-revenue-close", scale=0
                )
            closed = gr.HTML(elem_id="admin-revenue-closed")
    return Revenue(tab, currency, cards, body, period, ask, confirm, close, closed)


def needs(c: Revenue) -> dict[Any, Permission]:
    """What is hidden from staff without the permission."""
    return {c.tab: "books.read", c.ask: "books.write"}


def bind(c: Revenue, app: App, _shell: Shell, _tab: gr.Tab) -> None:
    """Wire the section: it loads when it is opened."""

    def show(currency: object) -> dict[Any, Any]:
        chosen = currency if isinstance(currency, str) and len(currency) == 3 else None
        recurring = revenue_figures.recurring(app, currency=chosen, history=MONTHS)
        chosen = chosen or recurring.now.currency
        earned = revenue_figures.recognition(app, currency=chosen)
        aged = revenue_figures.receivables(app, currency=chosen)
        today = app.clock.now().date()
        open_months = _closable(earned)
        return {
            c.currency: gr.update(choices=recurring.currencies or ["USD"], value=earned.currency),
            c.cards: _cards(recurring, earned, aged),
            c.body: _movements(recurring)
            + _recognition(earned)
            + _waterfall(earned)
            + _sources(app, earned, today)
            + _taxes(app, today)
            + _receivables(aged),
            c.period: gr.update(choices=open_months, value=open_months[0] if open_months else None),
            c.closed: _closed(earned),
            c.confirm: gr.update(visible=False),
        }

    outputs = [c.currency, c.cards, c.body, c.period, c.closed, c.confirm]

    @guard(app, "books.read")
    async def revenue_show(_admin: User, currency: str | None) -> dict[Any, Any]:
        """All of the section."""
        return await asyncio.to_thread(show, currency)

    @guard(app, "books.write")
    async def revenue_ask(_admin: User) -> dict[Any, Any]:
        """The second step before a month is closed."""
        return {c.confirm: gr.update(visible=True)}

    @guard(app, "books.write")
    async def revenue_close(
        admin: User, period: str | None, currency: str | None
    ) -> dict[Any, Any]:
        """Close a month for good."""
        await asyncio.to_thread(
            revenue.close, app, period=str(period or ""), actor=f"user:{admin.id}"
        )
        return await asyncio.to_thread(show, currency)

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    loose = {**quiet, "preprocess": False, "postprocess": False}
    c.tab.select(revenue_show, [c.currency], outputs, **loose)
    c.currency.input(revenue_show, [c.currency], outputs, **loose)
    c.ask.click(revenue_ask, None, [c.confirm], **quiet)
    c.close.click(revenue_close, [c.period, c.currency], outputs, **loose)


def _closable(earned: Recognition) -> list[str]:
    """The oldest month that is written to its end and not closed; only that one can be next."""
    if earned.written_to is None:
        return []
    upto = date.fromisoformat(earned.written_to)
    done = set(earned.closed)
    for row in earned.months:
        first = date.fromisoformat(f"{row.period}-01")
        last = (first + timedelta(days=32)).replace(day=1) - timedelta(days=1)
        if row.period not in done and last <= upto:
            return [row.period]
    return []


def _money(minor: float | None, currency: str | None) -> str:
    if minor is None:
        return "–"
    sign = "−" if minor < 0 else ""
    return f"{sign}{abs(minor) / 100:,.2f} {currency or ''}".strip()


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _cards(found: Recurring, earned: Recognition, aged: Receivables) -> str:
    now, currency = found.now, found.now.currency or earned.currency
    closing = earned.months[-1].closing if earned.months else 0
    this = earned.months[-1].recognized if earned.months else 0
    before = earned.months[-2].recognized if len(earned.months) > 1 else None
    change = "" if not before else f"{(this - before) / before:+.0%} on the month before"
    due = int(aged.aged.loc["total", "total"]) if len(aged.aged) else 0
    return parts.cards(
        [
            Card("MRR", _money(now.mrr_minor, currency), f"{now.customers} customers with a plan"),
            Card("ARR", _money(now.arr_minor, currency), "MRR × 12; plans only"),
            Card(
                "Usage run rate",
                _money(found.run_rate_minor, currency),
                "prepaid credits used in 30 days, as a year",
            ),
            Card("Earned this month", _money(this, currency), change),
            Card("Deferred revenue", _money(closing, currency), "paid for and not earned yet"),
            Card("Net retention", _percent(now.nrr), f"gross {_percent(now.grr)}"),
            Card("Logo churn", _percent(now.logo_churn), f"{now.churned_customers} have left"),
            Card("Open invoices", _money(due, aged.currency), f"{len(aged.invoices)} not paid"),
        ]
    )


def _sheet(title: str, hint: str, inner: str, export: str = "") -> str:
    link = (
        f'<a class="more" href="{EXPORT}{export}" target="_blank" rel="noopener">JSON</a>'
        if export
        else ""
    )
    return (
        f'<section class="sheet"><div class="sheet-head"><h2>{parts.esc(title)}</h2>'
        f'<span class="hint">{parts.esc(hint)}</span>{link}</div>{inner}</section>'
    )


def _movements(found: Recurring) -> str:
    now = found.now
    if not (now.mrr_minor or now.opening_mrr_minor or found.months["mrr_minor"].any()):
        return _sheet(
            "Recurring revenue",
            "",
            parts.empty(
                "No plans yet",
                "Offer a monthly plan under Packages & codes: only plans recur. What is prepaid "
                "counts as usage and stands under recognition.",
            ),
        )
    steps = [
        plots.Step("A month ago", now.opening_mrr_minor / 100, total=True),
        plots.Step("New", now.new_minor / 100),
        plots.Step("Back", now.reactivation_minor / 100),
        plots.Step("More", now.expansion_minor / 100),
        plots.Step("Less", -now.contraction_minor / 100),
        plots.Step("Left", -now.churned_minor / 100),
        plots.Step("Now", now.mrr_minor / 100, total=True),
    ]
    history = plots.bars(
        [str(period) for period in found.months.index],
        [plots.Series("MRR", [minor / 100 for minor in found.months["mrr_minor"]])],
        title="MRR by month",
        unit=now.currency or "",
    )
    plans = parts.table(
        ["Plan", "MRR>"],
        [(parts.esc(plan), _money(minor, now.currency)) for plan, minor in found.by_plan.items()],
        caption="MRR by plan",
    )
    return _sheet(
        "Recurring revenue",
        "plans only; the month that ends now",
        plots.waterfall(steps, title="How MRR moved in a month", unit=now.currency or "")
        + history
        + plans,
        "metrics",
    )


def _recognition(earned: Recognition) -> str:
    if not earned.months:
        return _sheet(
            "Recognition",
            "",
            parts.empty("Nothing is written yet", "The money ledger is written after each day."),
        )
    shown = earned.months[-MONTHS:]
    kinds = (("Usage", "usage"), ("Plans", "subscription"), ("Breakage", "breakage"))
    bars = plots.bars(
        [row.period for row in shown],
        [
            plots.Series(name, [max(getattr(row, field), 0) / 100 for row in shown])
            for name, field in kinds
        ],
        title="Earned by month",
        unit=earned.currency,
    )
    rows = [
        (
            parts.esc(row.period)
            + (" " + parts.badge("closed", "good") if row.period in earned.closed else ""),
            _money(row.opening, None),
            *(_behind(row, figure) for figure in _BEHIND),
        )
        for row in reversed(shown)
    ]
    table = parts.table(
        ["Month", "Opening>", "Billed>", "Usage>", "Plans>", "Breakage>", "Given back>", "Owed>"],
        rows,
        caption="Deferred revenue by month",
    )
    hint = f"net of tax, in {earned.currency}, written up to {earned.written_to or '–'}"
    return _sheet("Recognition and deferred revenue", hint, bars + table, "recognition")


def _behind(row: Month, figure: Figure) -> str:
    """A figure that leads to the orders it comes from."""
    shown = _money(getattr(row, figure), None)
    if not getattr(row, figure):
        return shown
    first, last = _days_of(row.period)
    query = f"figure={figure}&from={first}&to={last}&currency={row.currency}"
    return (
        f'<a class="figure" href="{EXPORT}rows?{parts.esc(query)}" target="_blank" rel="noopener" '
        f'title="The orders behind this figure">{shown}</a>'
    )


def _days_of(period: str) -> tuple[date, date]:
    """The first and the last day of a month such as 2026-03."""
    first = date.fromisoformat(f"{period}-01")
    return first, (first + timedelta(days=32)).replace(day=1) - timedelta(days=1)


def _sources(app: App, earned: Recognition, today: date) -> str:
    """Who and what the revenue comes from, and what is left of each model's."""
    shown = earned.months[-MONTHS:]
    if not shown:
        return ""
    first, currency = _days_of(shown[0].period)[0], earned.currency
    models = revenue_detail.margins(app, since=first, until=today, currency=currency)
    tables = [
        parts.table(
            ["Model", "Earned>", "Running cost>", "Margin>", "Answers>"],
            [
                (
                    parts.esc(one.model),
                    _money(one.earned_minor, None),
                    _money(one.cost_minor, None),
                    f"{_money(one.margin_minor, None)} ({_percent(one.share)})",
                    f"{one.answers:,}",
                )
                for one in models
            ],
            caption="Margin by model",
        )
    ]
    for by, name in _SOURCES.items():
        found = revenue_detail.breakdown(app, by=by, since=first, until=today, currency=currency)
        tables.append(
            parts.table(
                [name, "Earned>"],
                [(parts.esc(part.name), _money(part.earned_minor, None)) for part in found[:20]],
                caption=f"Revenue by {name.lower()}",
            )
        )
    costs = "" if any(one.cost_minor for one in models) else "; set [costs] for running costs"
    return _sheet(
        "Where it comes from",
        f"earned net of tax since {first:%d %b %Y}, in {currency}{costs}",
        "".join(tables),
        f"margin?from={first}&amp;to={today}&amp;currency={currency}",
    )


def _waterfall(earned: Recognition) -> str:
    months = sorted({month for row in earned.waterfall.values() for month in row})[-MONTHS:]
    if not months:
        return ""
    bought = sorted(earned.waterfall)[-MONTHS:]
    heat = plots.heat(
        bought,
        months,
        [[earned.waterfall[row].get(month, 0) / 100 for month in months] for row in bought],
        title="Bought when, earned when",
        unit=earned.currency,
    )
    models = parts.table(
        ["Model", "Earned with tax>", "Answers>"],
        [
            (parts.esc(row.model), _money(row.gross_minor, None), f"{row.charges:,}")
            for row in earned.by_model
        ],
        caption="Revenue by model",
    )
    return _sheet("Month of purchase by month of recognition", "", heat + models, "recognition")


def _taxes(app: App, today: date) -> str:
    since = (today.replace(day=1) - timedelta(days=1)).replace(day=1)
    found = revenue_figures.tax(app, since=since, until=today)
    rows = [
        (
            parts.esc(row.jurisdiction or "–"),
            parts.esc(row.treatment.replace("_", " ")),
            f"{row.rate_bp / 100:g} %",
            _money(row.base_minor, row.currency),
            _money(row.tax_minor, row.currency),
        )
        for row in found
    ]
    inner = (
        parts.table(["Where", "Kind", "Rate>", "Base>", "Tax>"], rows, caption="Tax by rate")
        if rows
        else parts.empty("No documents yet", "Taxes stand here as the invoices state them.")
    )
    return _sheet("Tax", f"documents since {since:%d %b %Y}, credit notes taken off", inner, "tax")


def _receivables(aged: Receivables) -> str:
    if not aged.invoices:
        inner = parts.empty("Nobody owes you anything", "Sent invoices stand here until paid.")
    else:
        names = [str(name) for name in aged.aged.columns]
        rows = [
            (
                parts.esc("All" if customer == "total" else f"Customer {customer}"),
                *(_money(int(row[name]), None) for name in names),
            )
            for customer, row in aged.aged.iterrows()
        ]
        heads = ["Customer", *(f"{name} days>" if name[0].isdigit() else f"{name.capitalize()}>"
                               for name in names)]  # fmt: skip
        inner = parts.table(heads, rows, caption="Open invoices by days past due")
    return _sheet("Receivables", "by days past due", inner, "receivables")


def _closed(earned: Recognition) -> str:
    if not earned.closed:
        return '<p class="hint">No month is closed yet.</p>'
    return f'<p class="hint">Closed: {parts.esc(", ".join(reversed(earned.closed[-24:])))}</p>'
