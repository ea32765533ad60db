"""Revenue: everything that a span of days shows, as HTML. Every figure leads to its rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from chat_app.app import App
from chat_app.credits.takings import Taxed
from chat_app.flows import revenue_detail, revenue_figures, revenue_overview
from chat_app.flows.revenue_detail import By, Margin, Part
from chat_app.flows.revenue_figures import Receivables, Recognition, Recurring
from chat_app.flows.revenue_overview import Overview
from chat_app.revenue import spans
from chat_app.revenue.months import Month
from chat_app.revenue.spans import Span
from ui import parts, plots
from ui.plots import Cell, Series, Step
from ui.tabs.admin.revenue_rows import money, way

if TYPE_CHECKING:
    from chat_app.revenue.metrics import Cohort

HISTORY = 12
SOURCES: tuple[tuple[By, str], ...] = (
    ("plan", "Product"), ("organisation", "Organisation"), ("channel", "Channel"),
    ("country", "Country"),
)  # fmt: skip
MOST = 8
_NAMES = (
    ("month", "This month"), ("last_month", "Last month"), ("quarter", "Quarter"),
    ("year", "Year"), ("12_months", "12 months"),
)  # fmt: skip
_COLUMNS = ("billed", "usage", "subscription", "breakage", "refunded", "closing")
# name, label, figure behind it, whether more is better (None: neither)
_CARDS: tuple[tuple[str, str, str, bool | None], ...] = (
    ("earned_minor", "Earned", "earned", True),
    ("margin_minor", "Margin", "cost", True),
    ("billed_minor", "Billed", "billed", True),
    ("refunded_minor", "Given back", "refunded", False),
    ("deferred_minor", "Deferred revenue", "closing", None),
    ("mrr_minor", "MRR", "mrr", True),
    ("nrr", "Net retention", "moved", True),
    ("logo_churn", "Logo churn", "churned", False),
    ("run_rate_minor", "Usage run rate", "usage", True),
    ("open_minor", "Open invoices", "open", None),
)


@dataclass(frozen=True)
class View:
    """All that is shown of a span."""

    span: Span
    today: date
    overview: Overview
    recurring: Recurring
    earned: Recognition
    all_months: list[Month]
    cohorts: "list[Cohort]"
    aged: Receivables
    taxes: list[Taxed]
    margins: list[Margin]
    sources: dict[By, list[Part]]

    @property
    def currency(self) -> str:
        """The currency of all of it."""
        return self.overview.currency

    def way(self, figure: str, part: str = "", span: Span | None = None) -> str:
        """The attributes that lead from a figure to its rows."""
        return way(figure, span or self.span, self.currency, part)


def look(app: App, span: Span, currency: str | None) -> View:
    """Read everything."""
    first, last = span.first, span.last
    found = revenue_overview.overview(app, span=span, currency=currency)
    chosen, end = found.currency, revenue_figures.end_of(app, span)
    begun = min(span.begin, end)
    given: dict[str, Any] = {"since": first, "until": last, "currency": chosen}
    return View(
        span=span,
        today=app.clock.now().date(),
        overview=found,
        recurring=revenue_figures.recurring(app, as_of=end, since=begun, currency=chosen),
        earned=revenue_figures.recognition(app, **given),
        all_months=revenue_figures.recognition(app, currency=chosen).months,
        cohorts=revenue_figures.cohorts(app, as_of=end, currency=chosen),
        aged=revenue_figures.receivables(app, as_of=end, currency=chosen),
        taxes=[
            row
            for row in revenue_figures.tax(app, since=first, until=last)
            if row.currency == chosen
        ],
        margins=revenue_detail.margins(app, **given),
        sources={by: revenue_detail.breakdown(app, by=by, **given) for by, _ in SOURCES},
    )


def bar(view: View, preset: str) -> str:
    """What chooses the days and the currency, and the files of just these days."""
    buttons = "".join(
        f'<button type="button" data-preset="{name}" aria-pressed="{str(name == preset).lower()}">'
        f"{shown}</button>"
        for name, shown in _NAMES
    )
    own = str(not preset).lower()
    choices = "".join(
        f"<option{' selected' if code == view.currency else ''}>{parts.esc(code)}</option>"
        for code in sorted({*view.overview.currencies, view.currency})
    )
    span, before = view.span, view.overview.before
    days = f'{"" if not preset else " hidden"}><label>From <input type="date" name="from" '
    return (
        f'<div class="ranges revenue"><div role="group" aria-label="Days">{buttons}'
        f'<button type="button" data-custom aria-expanded="{own}" aria-pressed="{own}">Custom…'
        f'</button></div><div class="days"{days}value="{span.first}" max="{view.today}"></label>'
        f'<label>to <input type="date" name="to" value="{span.last}"></label>'
        '<button type="button" data-apply>Show</button></div>'
        f'<label class="money">Currency <select name="currency">{choices}</select></label></div>'
        f'<p class="hint spans"><b>{span.first:%d %b %Y} – {span.last:%d %b %Y}</b>'
        f"<i>beside {before.first:%d %b} – {before.last:%d %b %Y}, written up to "
        f"{parts.esc(view.earned.written_to or '–')}</i><span>{_files(span)}</span></p>"
    )


def _files(span: Span) -> str:
    kinds = (("Revenue", "revenue"), ("Ledger", "financial"), ("Tax", "tax"),
             ("Receivables", "receivables"))  # fmt: skip
    links = " ".join(
        '<a href="/api/monitoring/report?'
        + parts.esc(urlencode({"kind": kind, "from": span.first, "to": span.last, "format": "csv"}))
        + f'" download>{name}</a>'
        for name, kind in kinds
    )
    return f"CSV: {links}"


def whole(view: View) -> str:
    """The page below the bar."""
    return (
        f'<div id="admin-revenue-cards">{_cards(view)}</div><div id="admin-revenue-body">'
        + _deferred(view)
        + _receivables(view)
        + _taxes(view)
        + _recurring(view)
        + _cohorts(view)
        + _months(view)
        + _bought(view)
        + _sources(view)
        + "</div>"
    )


def closed(earned: Recognition, following: str | None) -> str:
    """Which months are closed, and which one is next."""
    done = (
        f"Closed: {parts.esc(', '.join(reversed(earned.closed[-24:])))}."
        if earned.closed
        else "No month is closed yet."
    )
    ahead = (
        f"<b>{parts.esc(following)}</b> is written to its end and can be closed."
        if following
        else "Nothing can be closed before its last day is written."
    )
    return f'<p>{ahead}</p><p class="hint">{done}</p>'


def _cards(view: View) -> str:
    found = view.overview
    figures = {
        "margin_minor": f"cost {money(found['cost_minor'].value)}",
        "mrr_minor": f"{money(found['arr_minor'].value)} a year",
        "nrr": f"gross {percent(found['grr'].value)}",
        "logo_churn": f"{view.recurring.now.churned_customers} have left",
        "run_rate_minor": "of 30 days",
        "open_minor": f"{len(view.aged.invoices)} not paid",
        "deferred_minor": "not earned yet",
        "earned_minor": "net of tax",
        "billed_minor": "net of tax",
        "refunded_minor": "of what was unused",
    }
    lately = Span(spans.back(view.span.last, 0) - revenue_figures.LATELY, view.span.last)
    return (
        '<div class="cards figures">'
        + "".join(
            _card(
                found[name],
                label,
                figures[name],
                better,
                view.way(figure, span=lately if name == "run_rate_minor" else None),
            )
            for name, label, figure, better in _CARDS
        )
        + "</div>"
    )


def _card(
    figure: revenue_overview.Figure, label: str, note: str, better: bool | None, leads: str
) -> str:
    shown = percent(figure.value) if figure.kind == "share" else money(figure.value)
    scale = 1 if figure.kind == "share" else 100
    known = [None if value is None else value / scale for value in figure.spark]
    line = plots.spark(known, title=f"{label}, twelve months") if any(known) else ""
    return (
        f'<button type="button" class="card"{leads} aria-haspopup="dialog">'
        f'<span class="name">{parts.esc(label)}</span><span class="figure">{shown}</span>'
        f'<span class="note">{_delta(figure, better)}{parts.esc(note)}</span>{line}</button>'
    )


def _delta(figure: revenue_overview.Figure, better: bool | None) -> str:
    """How it has changed against the equal span before, in green where that is good."""
    change = figure.change
    if change is None or not round(change, 3):
        return ""
    kind = "" if better is None else " good" if (change > 0) == better else " bad"
    points = " pp" if figure.kind == "share" else " %"
    size = f"{abs(change) * 100:,.0f}" if abs(change) >= 0.1 else f"{abs(change) * 100:.1f}"
    sign = "+" if change > 0 else "−"
    return (
        f'<span class="delta{kind}" title="against the equal time before">{sign}{size}{points}'
        "</span> "
    )


def percent(share: float | None) -> str:
    """A share for people."""
    return "–" if share is None else f"{share:.1%}"


def _sheet(title: str, hint: str, inner: str, *, id: str) -> str:
    return (
        f'<section class="sheet" id="admin-revenue-{id}"><div class="sheet-head">'
        f'<h2>{parts.esc(title)}</h2><span class="hint">{parts.esc(hint)}</span></div>{inner}'
        "</section>"
    )


def figure(minor: float | None, leads: str) -> str:
    """An amount in a table that leads to its rows; nothing leads nowhere."""
    if not minor:
        return money(minor)
    return (
        f'<button type="button" class="figure"{leads} aria-haspopup="dialog">{money(minor)}'
        "</button>"
    )


def _deferred(view: View) -> str:
    """What is owed, from the first day to the last."""
    row = view.overview.month
    parted = (
        ("Billed", row.billed, "billed"),
        ("Used", -row.usage, "usage"),
        ("Plans", -row.subscription, "subscription"),
        ("Breakage", -row.breakage, "breakage"),
        ("Given back", -row.refunded, "refunded"),
        ("Corrections", -row.adjustment, "adjustment"),
        ("Other", row.other, ""),
    )
    moved = [one for one in parted if one[1]]
    if not (row.opening or row.closing or moved):
        inner = parts.empty("Nothing is written yet", "The money ledger is written day by day.")
    else:
        inner = plots.waterfall(
            [
                Step("Owed before", row.opening / 100, total=True),
                *(
                    Step(name, minor / 100, way=view.way(kind) if kind else "")
                    for name, minor, kind in moved
                ),
                Step("Owed now", row.closing / 100, total=True, way=view.way("closing")),
            ],
            title="From what was owed to what is",
            unit=view.currency,
        )
    return _sheet(
        "Deferred revenue", "what is paid for and not earned yet, net of tax", inner, id="deferred"
    )


def _receivables(view: View) -> str:
    aged = view.aged
    if not aged.invoices:
        inner = parts.empty("Nobody owes you anything", "Sent invoices stand here until paid.")
        return _sheet("Receivables", "by days past due", inner, id="aging")
    names = [str(name) for name in aged.aged.columns if name != "total"]
    sums = {name: int(aged.aged.loc["total", name]) for name in names}
    shown = {name: name if name == "current" else f"{name} days" for name in names}
    picture = plots.bars(
        [shown[name] for name in names],
        [Series("Unpaid", [max(sums[name], 0) / 100 for name in names])],
        title="Open by days past due",
        unit=view.currency,
        ways=[view.way("open", name) for name in names],
    )
    table = parts.table(
        ["Past due", "Unpaid>", "Allowance>"],
        [
            (
                parts.esc(shown[name].capitalize()),
                figure(sums[name], view.way("open", name)),
                money(aged.allowance[name]),
            )
            for name in names
        ]
        + [
            (
                "<b>All</b>",
                figure(sum(sums.values()), view.way("open")),
                money(aged.allowance["total"]),
            )
        ],
        caption="Open invoices by days past due",
    )
    return _sheet(
        "Receivables",
        f"on {view.span.last:%d %b %Y}, by days past due",
        f'<div class="pairs">{picture}{table}</div>',
        id="aging",
    )


def _taxes(view: View) -> str:
    rows = [
        (
            parts.esc(row.jurisdiction or "–"),
            parts.esc(row.treatment.replace("_", " ")),
            f"{row.rate_bp / 100:g} %",
            *_taxed(view, row),
        )
        for row in view.taxes
    ]
    total = sum(row.tax_minor for row in view.taxes)
    if rows:
        rows.append(("<b>All</b>", "", "", money(sum(row.base_minor for row in view.taxes)),
                     money(total)))  # fmt: skip
    inner = (
        parts.table(["Where", "Kind", "Rate>", "Base>", "Tax>"], rows, caption="Tax by rate")
        if rows
        else parts.empty("No documents yet", "Taxes stand here as the invoices state them.")
    )
    return _sheet("Tax", "documents of these days, credit notes off", inner, id="tax")


def _taxed(view: View, row: Taxed) -> tuple[str, str]:
    """The base and the tax of a rate: the tax leads to its documents, the base where it is nil."""
    way = view.way("tax", f"{row.jurisdiction}|{row.category}|{row.treatment}|{row.rate_bp}")
    base = money(row.base_minor) if row.tax_minor else figure(row.base_minor, way)
    return base, figure(row.tax_minor, way)


def _recurring(view: View) -> str:
    found, now = view.recurring, view.recurring.now
    if not (now.mrr_minor or now.opening_mrr_minor or found.months["mrr_minor"].any()):
        inner = parts.empty(
            "No plans yet",
            "Offer a monthly plan under Packages & codes: only plans recur. What is prepaid "
            "counts as usage.",
        )
        return _sheet("Recurring revenue", "", inner, id="mrr")
    moved = (
        ("New", now.new_minor, "new"),
        ("Back", now.reactivation_minor, "reactivation"),
        ("More", now.expansion_minor, "expansion"),
        ("Less", -now.contraction_minor, "contraction"),
        ("Left", -now.churned_minor, "churned"),
    )
    waterfall = plots.waterfall(
        [
            Step("Before", now.opening_mrr_minor / 100, total=True),
            *(Step(name, minor / 100, way=view.way(kind)) for name, minor, kind in moved),
            Step("Now", now.mrr_minor / 100, total=True, way=view.way("mrr")),
        ],
        title="How MRR moved",
        unit=now.currency or "",
    )
    labels = [str(period) for period in found.months.index]
    history = plots.bars(
        labels,
        [Series("MRR", [minor / 100 for minor in found.months["mrr_minor"]])],
        title="MRR by month",
        unit=now.currency or "",
        ways=[view.way("mrr", span=_until(spans.month(name), view.span.last)) for name in labels],
    )
    moves = parts.table(
        ["Movement", "MRR>"],
        [(name, figure(minor, view.way(kind))) for name, minor, kind in moved],
        caption="Movements of MRR",
    )
    plans = parts.table(
        ["Plan", "MRR>"],
        [(parts.esc(plan), money(minor)) for plan, minor in found.by_plan.items()],
        caption="MRR by plan",
    )
    return _sheet(
        "Recurring revenue",
        f"plans only; {now.customers} customers, {now.opening_customers} before",
        f'<div class="pairs">{waterfall}{history}{moves}{plans}</div>',
        id="mrr",
    )


def _cohorts(view: View) -> str:
    since = min(spans.back(view.span.last.replace(day=1), HISTORY - 1), view.span.first)
    shown = [one for one in view.cohorts if one.period >= f"{since:%Y-%m}"]
    if not shown:
        return ""
    most = max(len(one.left) for one in shown)
    ages = [str(age) for age in range(most)]
    rows = [f"{one.period} · {one.customers}" for one in shown]

    def cells(of: "Iterable[Sequence[tuple[float | None, str]]]") -> list[list[Cell | None]]:
        table: list[list[Cell | None]] = []
        for one, line in zip(shown, of, strict=True):
            made: list[Cell | None] = [
                Cell(
                    "–" if share is None else f"{share * 100:.0f}",
                    share or 0.0,
                    f"{one.period}, {age} months later: {told}",
                    view.way("cohort", f"{one.period}+{age}"),
                )
                for age, (share, told) in enumerate(line)
            ]
            table.append(made + [None] * (most - len(made)))
        return table

    people = cells(
        [
            (share, f"{left} of {one.customers} customers ({percent(share)})")
            for share, left in zip(one.logo_retention, one.left, strict=True)
        ]
        for one in shown
    )
    amounts = cells(
        [
            (share, f"{money(minor)} of {money(one.base_minor)} ({percent(share)})")
            for share, minor in zip(one.revenue_retention, one.mrr_minor, strict=True)
        ]
        for one in shown
    )
    named = {"corner": "Began", "note": "% by months since"}
    return _sheet(
        "Cohorts",
        "customers of plans by the month they began in, with how many they were",
        '<div class="pairs">'
        + plots.shades(rows, ages, people, title="Customers who stayed", **named)
        + plots.shades(rows, ages, amounts, title="Revenue that stayed", **named)
        + "</div>",
        id="cohorts",
    )


def _months(view: View) -> str:
    shown = view.earned.months
    if not shown:
        return ""
    kinds = (("Usage", "usage"), ("Plans", "subscription"), ("Breakage", "breakage"))
    bars = plots.bars(
        [row.period for row in shown],
        [
            Series(name, [max(getattr(row, field), 0) / 100 for row in shown])
            for name, field in kinds
        ],
        title="Earned by month",
        unit=view.currency,
        ways=[view.way("earned", span=_days(view, row.period)) for row in shown],
    )
    rows = [
        (
            parts.esc(row.period)
            + (" " + parts.badge("closed", "good") if row.period in view.earned.closed else ""),
            money(row.opening),
            *(
                figure(getattr(row, name), view.way(name, span=_days(view, row.period)))
                for name in _COLUMNS
            ),
        )
        for row in reversed(shown)
    ]
    table = parts.table(
        ["Month", "Opening>", "Billed>", "Usage>", "Plans>", "Breakage>", "Given back>", "Owed>"],
        rows,
        caption="Deferred revenue by month",
    )
    return _sheet("Recognition", "by month, net of tax", bars + table, id="recognition")


def _bought(view: View) -> str:
    months = sorted({month for row in view.earned.waterfall.values() for month in row})
    bought = sorted(view.earned.waterfall)
    if not months:
        return ""
    most = max(minor for row in view.earned.waterfall.values() for minor in row.values())
    cells = [
        [
            _earned_cell(view, row, month, view.earned.waterfall[row].get(month), most)
            for month in months
        ]
        for row in bought
    ]
    inner = plots.shades(
        bought, months, cells, title="Bought when, earned when", corner="Bought",
        note=view.currency,
    )  # fmt: skip
    return _sheet("Month of purchase by month of recognition", "", inner, id="bought")


def _earned_cell(view: View, row: str, month: str, minor: int | None, most: int) -> Cell | None:
    if not minor:
        return None
    return Cell(
        plots.number(round(minor / 100, 2)),
        max(minor, 0) / max(most, 1),
        f"Bought in {row}, earned in {month}: {money(minor, view.currency)}",
        view.way("earned", row, _days(view, month)),
    )


def _sources(view: View) -> str:
    """Who and what the revenue comes from, and what is left of each model's."""
    if not view.earned.months:
        return ""
    models = parts.table(
        ["Model", "Earned>", "Running cost>", "Margin>", "Answers>"],
        [
            (
                parts.esc(one.model),
                figure(one.earned_minor, view.way("model", one.model)),
                figure(one.cost_minor, view.way("cost")),
                f"{money(one.margin_minor)} ({percent(one.share)})",
                f"{one.answers:,}",
            )
            for one in view.margins
        ],
        caption="Margin by model",
    )
    tables = "".join(
        parts.table(
            [name, "Earned>"],
            [
                (parts.esc(part.name), figure(part.earned_minor, view.way(by, part.name)))
                for part in view.sources[by][:MOST]
            ],
            caption=f"Revenue by {name.lower()}",
        )
        for by, name in SOURCES
    )
    costs = "" if view.overview.month.cost else "; set [costs] or book bills for a margin"
    return _sheet(
        "Where it comes from",
        f"earned net of tax, in {view.currency}{costs}",
        f'{models}<div class="pairs">{tables}</div>',
        id="sources",
    )


def _days(view: View, period: str) -> Span:
    """The days of a month that are in the span."""
    month = spans.month(period)
    return Span(max(month.first, view.span.first), min(month.last, view.span.last))


def _until(month: Span, last: date) -> Span:
    return Span(month.first, max(month.first, min(month.last, last)))
