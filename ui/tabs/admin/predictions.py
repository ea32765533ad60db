"""Predictions: who is likely to leave, what customers will bring, and the weeks ahead.

Only what the last training left is shown, with what it rests on and up to when it knew.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import gradio as gr
from sqlmodel import Session, col, select

from chat_app.accounts.permissions import Permission
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.clock import rfc3339
from chat_app.flows import predictions
from chat_app.flows.predictions import Prediction, Run
from chat_app.money import Money
from ui import parts, plots
from ui.guard import guard
from ui.parts import Card
from ui.plots import Band, Series
from ui.shell import Shell

MOST, EVERYBODY = 50, 100_000
LIKELY = 0.5
LEAVE, VALUE, AHEAD = "Who may leave", "What they will bring", "The weeks ahead"
_KINDS = {LEAVE: "churn", VALUE: "ltv", AHEAD: "forecast"}
_SURE = {"high": "good", "medium": "warn", "low": ""}
_BASES = {
    "insufficient": "too little data: a guess by the rate seen",
    "shrunken": "few customers: own data drawn toward the usual shape",
    "small": "few customers: a careful line",
    "model": "the method that did best on past months",
    "bgnbd": "BG/NBD on own orders",
    "history": "own history",
}
_SCORES = {
    "churn": (("log_loss", "Log-loss>"), ("auc", "AUC>"), ("brier", "Brier>"), ("ece", "ECE>")),
    "ltv": (("mae_ltv", "Error in money>"), ("mae_purchases", "Error in orders>"),
            ("total_ratio", "Total / truth>")),
    "forecast": (("MASE", "MASE>"), ("MAE", "MAE>"), ("RMSE", "RMSE>"), ("sMAPE", "sMAPE>")),
}  # fmt: skip
_PLAIN = {"churn": "rule", "ltv": "naive", "forecast": "naive"}


@dataclass
class Predictions:
    """The components."""

    tab: gr.Tab
    which: gr.Radio
    body: gr.HTML


def build() -> Predictions:
    """The layout, without any data."""
    with gr.Tab("Predictions", id="admin-predictions") as tab:
        which = gr.Radio(
            list(_KINDS),
            value=LEAVE,
            show_label=False,
            container=False,
            elem_id="admin-predictions-which",
        )
        body = gr.HTML(parts.loading(5), elem_id="admin-predictions-body")
    return Predictions(tab, which, body)


def needs(c: Predictions) -> dict[Any, Permission]:
    """What is hidden from staff without the permission."""
    return {c.tab: "books.read"}


def bind(c: Predictions, app: App, _shell: Shell, _tab: gr.Tab) -> None:
    """Wire the section: it loads when it is opened."""

    @guard(app, "books.read")
    async def predictions_show(_staff: User, which: str) -> dict[Any, Any]:
        """One of the three, from the table that a training wrote."""
        return {c.body: await asyncio.to_thread(page, app, which)}

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    asked = [c.tab.select, c.which.input]
    gr.on(asked, predictions_show, [c.which], [c.body], trigger_mode="always_last", **quiet)


def page(app: App, which: str) -> str:
    """Cards, the table or the plots, and how the methods did on past months."""
    kind = _KINDS.get(which, "churn")
    with app.db.read() as session:
        run = predictions.current(session, kind)
        if run is None:
            return _nothing()
        tests = predictions.backtest(session, run.id)
        if kind == "forecast":
            paths = {
                name: predictions.path(session, kind=kind, subject=name)
                for name in ("revenue", "credits")
            }
            inner = _ahead(paths, predictions.currency(run))
        else:
            every, _ = predictions.page(session, kind=kind, limit=EVERYBODY)
            values = _worth(session)
            here = [one for one in every if not _gone(one)] if kind == "churn" else every
            names = _names(session, here[:MOST])
            show = _leaving if kind == "churn" else _values
            inner = show(run, here, names, values, gone=len(every) - len(here))
    return inner + _based(run) + _tests(kind, tests)


def _nothing() -> str:
    return (
        '<div class="sheet">'
        + parts.empty(
            "Nothing has been learnt yet",
            "Models are trained at night once ten people have used anything. An administrator "
            "can begin a training under Model versions.",
        )
        + "</div>"
    )


def _gone(one: Prediction) -> bool:
    """Whether somebody has stayed away for as long as the model looks ahead: that is known."""
    ago = one.facts.get("seen_days_ago")
    return ago is not None and ago >= one.facts["horizon_days"]


def _names(session: Session, found: list[Prediction]) -> dict[str, str]:
    ids = [int(one.subject) for one in found]
    rows = session.exec(select(User.id, User.username).where(col(User.id).in_(ids)))
    return {str(id): name for id, name in rows}


def _worth(session: Session) -> dict[str, tuple[float, str]]:
    """What each customer is expected to bring, and the currency of it."""
    currency = predictions.currency(predictions.current(session, "ltv"))
    found, _ = predictions.page(session, kind="ltv", limit=EVERYBODY)
    return {one.subject: (one.value, currency) for one in found}


def _leaving(
    run: Run,
    found: list[Prediction],
    names: dict[str, str],
    values: dict[str, tuple[float, str]],
    *,
    gone: int,
) -> str:
    likely = [one for one in found if one.value >= LIKELY]
    theirs = sum(values.get(one.subject, (0.0, ""))[0] for one in likely)
    currency = next(iter(values.values()), (0.0, "USD"))[1]
    days = found[0].facts["horizon_days"] if found else 30
    cards = parts.cards(
        [
            Card("More likely than not", f"{len(likely):,}", f"stay away for {days} days"),
            Card("Expected to leave", f"{sum(one.value for one in found):.1f}",
                 f"of the {len(found):,} who are here"),
            Card("They may still bring", _money(theirs, currency) if values else "–",
                 "the chance that they leave is in it already" if values
                 else "once lifetime values are learnt"),
            _knew(run),
        ]
    )  # fmt: skip
    rows = [
        [
            f"<div><b>{parts.esc(names.get(one.subject, one.subject))}</b></div>",
            f"{one.value:.0%}",
            f"<div>{parts.badge(one.facts['confidence'], _SURE.get(one.facts['confidence'], ''))}"
            "</div>",
            _money(*values[one.subject]) if one.subject in values else "–",
            _why(one.reasons, one.facts.get("protective", [])),
        ]
        for one in found[:MOST]
    ]
    table = parts.table(
        ["Account", "Leaves>", "Confidence", "Value>", "Why"],
        rows,
        caption="Who is likely to leave",
    )
    away = (
        f'<p class="hint">{gone:,} more have stayed away for {days} days already and are not '
        "shown.</p>"
        if gone
        else ""
    )
    if not found:
        table = parts.empty("Nobody is here to lose", "Whoever used anything stands here.")
    hint = (
        "A reason says what moved the estimate, not what would keep somebody. To offer something, "
        "make a code under Packages & codes"
    )
    title = f"Who is here and may stay away for {days} days"
    return cards + _sheet(title, hint, table + away)


def _values(
    run: Run,
    found: list[Prediction],
    names: dict[str, str],
    values: dict[str, tuple[float, str]],
    *,
    gone: int,
) -> str:
    currency = predictions.currency(run)
    days = found[0].facts["horizon_days"] if found else 90
    total = sum(value for value, _ in values.values())
    top = sum(one.value for one in found[:10])
    cards = parts.cards(
        [
            Card(f"Expected in {days} days", _money(total, currency),
                 f"from {len(values):,} customers so far"),
            Card("The ten best", f"{top / total:.0%}" if total else "–", "of that"),
            Card("Orders expected",
                 f"{sum(one.facts['expected_purchases'] for one in found):,.1f}",
                 f"by {len(found):,} customers"),
            _knew(run),
        ]
    )  # fmt: skip
    rows = [
        [
            f"<div><b>{parts.esc(names.get(one.subject, one.subject))}</b></div>",
            _money(one.value, currency),
            f"<div>{_money(one.lo, currency)} to {_money(one.hi, currency)}</div>",
            f"{one.facts['expected_purchases']:.1f}",
            f"{one.facts['p_active']:.0%}",
            _why(one.reasons, []),
        ]
        for one in found[:MOST]
    ]
    table = parts.table(
        ["Account", "Value>", "80 of 100 lie in", "Orders>", "Buys again>", "What it rests on"],
        rows,
        caption="Expected value of customers",
    )
    hint = (
        f"net of refunds, in the {days} days after the cut-off; the value is a mean, bands are wide"
    )
    return cards + _sheet("Most valuable customers", hint, table)


def _ahead(paths: dict[str, list[Prediction]], currency: str) -> str:
    shown = (("revenue", "Money in, net of refunds", currency, 100.0),
             ("credits", "Credits used", "credits", 1.0))  # fmt: skip
    found = []
    for name, title, unit, part in shown:
        rows = paths[name]
        if not rows:
            found.append(_sheet(title, "", parts.empty("No days yet", "It needs a few days.")))
            continue
        plot = plots.lines(
            [f"{int(one.ds[8:])} {_MONTHS[int(one.ds[5:7]) - 1]}" for one in rows],
            [
                Series("Forecast", [one.value / part for one in rows]),
                Series("Last week again", [one.facts["naive"] / part for one in rows], dashed=True),
            ],
            band=Band(
                "80 of 100 days",
                [(one.lo or 0) / part for one in rows],
                [(one.hi or 0) / part for one in rows],
            ),
            title=title,
            unit=unit,
        )
        total = sum(one.value for one in rows) / part
        naive = sum(one.facts["naive"] for one in rows) / part
        cards = parts.cards(
            [
                Card(f"In {len(rows)} days", f"{total:,.0f} {unit}", "the sum of the forecast"),
                Card("Last week again", f"{naive:,.0f} {unit}", "what the naive line adds up to"),
                Card("A day", f"{total / len(rows):,.1f} {unit}", "on average"),
            ]
        )
        found.append(_sheet(title, "by day (UTC)", cards + plot))
    return "".join(found)


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _knew(run: Run) -> Card:
    days = rfc3339(run.as_of)[:10]
    return Card("Known up to", days, f"version {run.version}")


def _based(run: Run) -> str:
    """What it rests on, in a sentence that is always there."""
    basis = str(run.report.get("basis", ""))
    words = _BASES.get(basis, basis)
    method = str(run.report.get("algorithm", "")) or "no method"
    made_up = (
        " " + parts.badge("made-up people", "warn") + " Nothing here is about anybody real."
        if run.is_demo
        else ""
    )
    return (
        f'<p class="hint" role="note">Version {parts.esc(run.version or "–")} ({parts.esc(method)})'
        f", learnt from {run.rows:,} rows up to {parts.when(run.as_of)}. It rests on: "
        f"{parts.esc(words)}.{made_up}</p>"
    )


def _tests(kind: str, tests: list[dict[str, Any]]) -> str:
    """Each method's mean over the past moments, the naive one among them."""
    if not tests:
        return _sheet(
            "How the methods did before",
            "",
            parts.empty("No past to judge by", "The history is too short for a backtest."),
        )
    scores = _SCORES[kind]
    rows = []
    for name in dict.fromkeys(row["candidate"] for row in tests):
        mine = [row for row in tests if row["candidate"] == name]
        cells = [f"<div>{_method(kind, name, chosen=any(row['chosen'] for row in mine))}</div>"]
        for key, _ in scores:
            values = [row["scores"].get(key) for row in mine]
            known = [value for value in values if value is not None]
            mean = sum(known) / len(known) if known else None
            money = kind == "ltv" and key == "mae_ltv"
            cells.append("–" if mean is None else f"{mean / (100 if money else 1):,.3f}")
        rows.append(cells)
    heads = ["Method", *(head for _, head in scores)]
    return _sheet(
        "How the methods did before",
        "on past moments that they had not seen; less is better, except AUC",
        parts.table(heads, rows, caption="Backtest of every method"),
    )


def _method(kind: str, name: str, *, chosen: bool) -> str:
    words = parts.esc(name.replace("_", " "))
    if chosen:
        words += " " + parts.badge("used", "good")
    if name == _PLAIN[kind]:
        words += " " + parts.badge("plain baseline")
    return words


def _why(against: list[str], protective: list[str]) -> str:
    """The reasons, one click away."""
    if not against and not protective:
        return "<div>–</div>"
    count = len(against) + len(protective)
    lines = "".join(f"<li>{parts.esc(reason)}</li>" for reason in against)
    kept = "".join(f"<li>{parts.esc(reason)}</li>" for reason in protective)
    rest = f"<p><b>What speaks for staying</b></p><ul>{kept}</ul>" if kept else ""
    return (
        f'<details class="why"><summary>{count} reason{"" if count == 1 else "s"}</summary>'
        f"<ul>{lines}</ul>{rest}</details>"
    )


def _money(minor: float | None, currency: str) -> str:
    return str(Money(round(minor or 0), currency))


def _sheet(title: str, hint: str, inner: str) -> str:
    return (
        f'<section class="sheet"><div class="sheet-head"><h2>{parts.esc(title)}</h2>'
        f'<span class="hint">{parts.esc(hint)}</span></div>{inner}</section>'
    )
