"""Fraud: what wants a look and why, the story of its account, and what a person finds it to be."""

import asyncio
from dataclasses import dataclass
from typing import Any

import gradio as gr
from sqlmodel import Session

from chat_app.accounts import users
from chat_app.accounts.permissions import Permission
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.errors import NotFound
from chat_app.flows import fraud
from chat_app.ml.fraud.watch import Case, Threshold
from chat_app.money import show_credits
from ui import parts, plots
from ui.guard import guard
from ui.parts import Card
from ui.shell import Shell

MOST = 50
STORY = 25
OPEN, DONE = "Without a label", "With a label"
_KINDS = {"hold": "bad", "review": "warn", "allow": "good"}
_WORDS = {"hold": "held", "review": "to look at", "allow": "let through"}
_TYPES = {
    "signup_bonus": "Welcome credits", "voucher": "Code redeemed", "transfer_out": "Credits sent",
    "transfer_in": "Credits received", "topup": "Top-up", "topup_failed": "Failed top-up",
    "refund": "Refund", "message": "Answer", "login": "Sign-in", "password_change": "New password",
}  # fmt: skip
_RULES = {
    "card_testing": "Card testing", "topup_then_transfer": "Top-up sent on",
    "many_accounts": "Many accounts", "voucher_abuse": "Code abuse", "refund_abuse": "Refund abuse",
    "token_burn": "Burst of spending", "takeover": "Takeover", "stranger": "Strange place",
    "new_account": "New account", "odd_hour": "Odd hour", "model": "Model", "novelty": "Novelty",
}  # fmt: skip
_ALONE = {
    "no_model": "no model judges yet", "model_refused": "the model's files were changed",
    "model_failed": "the model failed", "model_late": "the model took too long",
    "killed": "the model is out or only in the shadow", "breaker_open": "the model rests",
    "state_failed": "the event could not be read",
}  # fmt: skip


@dataclass
class Fraud:
    """The components."""

    tab: gr.Tab
    cards: gr.HTML
    which: gr.Radio
    cases: gr.HTML
    choice: gr.Dropdown
    bad: gr.Button
    good: gr.Button
    story: gr.HTML
    points: gr.Slider
    costs: gr.HTML


def build() -> Fraud:
    """The layout, without any data."""
    with gr.Tab("Fraud", id="admin-fraud") as tab:
        cards = gr.HTML(parts.loading(), elem_id="admin-fraud-state")
        with gr.Column(elem_classes="sheet"):
            gr.HTML(
                '<div class="sheet-head"><h2>What looks like fraud</h2><span class="hint">From 50 '
                "points an event is shown here, from 80 it is held</span></div>"
            )
            which = gr.Radio(
                [OPEN, DONE],
                value=OPEN,
                show_label=False,
                container=False,
                elem_id="admin-fraud-which",
            )
            cases = gr.HTML(parts.loading(4), elem_id="admin-fraud-cases")
        with gr.Column(elem_classes="sheet"):
            gr.HTML('<div class="sheet-head"><h2>One case</h2></div>')
            with gr.Row(elem_classes="filters"):
                choice = gr.Dropdown([], label="Case", elem_id="admin-fraud-case", scale=3)
                bad = gr.Button("It is fraud", variant="stop", elem_id="admin-fraud-bad", scale=0)
                good = gr.Button("It is legitimate", elem_id="admin-fraud-good", scale=0)
            story = gr.HTML(elem_id="admin-fraud-story")
        with gr.Column(elem_classes="sheet"):
            gr.HTML(
                '<div class="sheet-head"><h2>Where to draw the line</h2><span class="hint">What a '
                "hold from so many points on would have done to what was labelled</span></div>"
            )
            points = gr.Slider(
                5, 100, value=80, step=5, label="Held from", elem_id="admin-fraud-points"
            )
            costs = gr.HTML(elem_id="admin-fraud-costs")
    return Fraud(tab, cards, which, cases, choice, bad, good, story, points, costs)


def needs(c: Fraud) -> dict[Any, Permission]:
    """What is hidden from staff without the permission."""
    return {c.tab: "fraud.read", c.bad: "fraud.write", c.good: "fraud.write"}


def bind(c: Fraud, app: App, _shell: Shell, _tab: gr.Tab) -> None:
    """Wire the section: it loads when it is opened."""

    async def listed(which: str, chosen: str | None) -> dict[Any, Any]:
        found = await fraud.queue(app, limit=MOST, labelled=which == DONE)
        names = await asyncio.to_thread(_names, app, found)
        choices = [(_title(case, names), str(case.id)) for case in found]
        known = {id for _, id in choices}
        value = chosen if chosen in known else choices[0][1] if choices else None
        return {
            c.cards: _cards(app, found, which),
            c.cases: _cases(found, names, which),
            c.choice: gr.update(choices=choices, value=value),
            c.story: await told(value, found),
        }

    async def told(id: str | None, found: list[Case]) -> str:
        case = next((case for case in found if str(case.id) == id), None)
        if case is None:
            return parts.empty("No case chosen", "Choose one above to see its account's story.")
        try:
            events = await fraud.story(app, user_id=case.user_id, limit=STORY)
        except NotFound:
            events = []
        return _story(case, events)

    @guard(app, "fraud.read")
    async def fraud_show(_staff: User, which: str, chosen: str | None) -> dict[Any, Any]:
        """The whole section."""
        return await listed(which, chosen)

    @guard(app, "fraud.read")
    async def fraud_choose(_staff: User, which: str, chosen: str | None) -> dict[Any, Any]:
        """The story of the account of a case."""
        found = await fraud.queue(app, limit=MOST, labelled=which == DONE)
        return {c.story: await told(chosen, found)}

    async def say(staff: User, label: str, which: str, chosen: str | None) -> dict[Any, Any]:
        if not (chosen or "").isdecimal():
            gr.Info("Choose a case first.", duration=4)
            return await listed(which, chosen)
        assert staff.id is not None
        await fraud.label(app, id=int(chosen or 0), label=label, by=staff.id)
        gr.Info("Noted. What this event touched carries its risk from now on.", duration=4)
        return await listed(which, chosen)

    @guard(app, "fraud.write")
    async def fraud_bad(staff: User, which: str, chosen: str | None) -> dict[Any, Any]:
        """It is fraud."""
        return await say(staff, "fraud", which, chosen)

    @guard(app, "fraud.write")
    async def fraud_good(staff: User, which: str, chosen: str | None) -> dict[Any, Any]:
        """It is legitimate."""
        return await say(staff, "legit", which, chosen)

    @guard(app, "fraud.read")
    async def fraud_points(_staff: User, points: float) -> dict[Any, Any]:
        """What this line would have cost."""
        return {c.costs: await lines(points)}

    async def lines(points: float) -> str:
        chosen = min(max(int(points or 80), 5), 100)
        found = await fraud.thresholds(app, points=[chosen, *range(10, 101, 10)])
        return _lines(app, found[0], found[1:])

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    last = {"trigger_mode": "always_last", **quiet}
    gr.on([c.tab.select, c.points.release], fraud_points, [c.points], [c.costs], **last)
    asked, shown = [c.which, c.choice], [c.cards, c.cases, c.choice, c.story]
    gr.on([c.tab.select, c.which.input], fraud_show, asked, shown, **last)
    c.choice.input(fraud_choose, asked, [c.story], **quiet)
    c.bad.click(fraud_bad, asked, shown, **quiet)
    c.good.click(fraud_good, asked, shown, **quiet)


def _names(app: App, found: list[Case]) -> dict[int, str]:
    def name(session: Session, user_id: int) -> str:
        try:
            return users.get(session, user_id).username
        except NotFound:
            return f"account {user_id}"

    with app.db.read() as session:
        return {id: name(session, id) for id in {case.user_id for case in found}}


def _title(case: Case, names: dict[int, str]) -> str:
    return f"#{case.id} · {names[case.user_id]} · {_TYPES.get(case.type, case.type)}"


def _cards(app: App, found: list[Case], which: str) -> str:
    engine = app.fraud.engine
    review, hold = engine.costs.thresholds
    shadowed = engine.rollout is not None and engine.rollout.shadow
    shadow = f"model {shadowed} in the shadow" if shadowed else "no model yet"
    asked = engine.cache.hits + engine.cache.misses
    more = "+" if len(found) == MOST else ""
    modes = {"act": "held events are refused", "watch": "nothing is refused", "off": "off"}
    items = [
        Card("Cases", f"{len(found)}{more}", which.lower()),
        Card("Stopped", str(sum(case.refused for case in found)), "of these"),
        Card(
            "Judged by",
            engine.version,
            "and the rules" if engine.version != "rules" else shadow,
        ),
        Card("Mode", app.fraud.mode, modes[app.fraud.mode]),
        Card("A review pays from", f"{review:.0%}", f"chance of fraud; a hold from {hold:.0%}"),
        Card("From the cache", f"{engine.cache.hits:,}", f"of {asked:,} judgements"),
    ]
    return parts.cards(items)


def _cases(found: list[Case], names: dict[int, str], which: str) -> str:
    if not found:
        sentence = "Events of 50 points and more appear here." if which == OPEN else ""
        return parts.empty("Nothing to look at", sentence or "Nobody has labelled an event yet.")
    rows = [
        [
            f"#{case.id}",
            f"<b>{parts.esc(names[case.user_id])}</b>",
            f"<div>{_what(case)}</div>",
            f"<div>{_why(case)}</div>",
            f"{case.score:.0f}",
            f"<div>{_state(case)}</div>",
        ]
        for case in found
    ]
    heads = ["Case", "Account", "Event", "Why", "Points>", "State"]
    return parts.table(heads, rows, caption="Events that look like fraud")


def _lines(app: App, chosen: Threshold, others: list[Threshold]) -> str:
    costs = app.fraud.engine.costs
    if not chosen.caught + chosen.missed + chosen.blocked:
        return parts.empty(
            "Nothing was labelled in 90 days", "Label a few cases, then a line can be weighed."
        )
    cheapest = min(others, key=lambda one: (one.cost, -one.points))
    cards = parts.cards(
        [
            Card("Caught", str(chosen.caught), f"of {chosen.caught + chosen.missed} frauds"),
            Card("Honest ones stopped", str(chosen.blocked), "of those with a label"),
            Card("It would have cost", f"{chosen.cost:,.0f}", f"from {chosen.points} points on"),
            Card("The cheapest line", f"{cheapest.points} points", f"costs {cheapest.cost:,.0f}"),
        ]
    )
    plot = plots.bars(
        [str(one.points) for one in others],
        [
            plots.Series("Fraud let through", [one.missed * costs.loss for one in others]),
            plots.Series(
                "Honest ones stopped", [one.blocked * costs.false_block for one in others]
            ),
        ],
        title="Costs by the points from which an event is held",
        unit="cost",
    )
    return (
        f'{cards}{plot}<p class="hint">Fraud that goes through costs {costs.loss:g}, stopping an '
        f"honest person {costs.false_block:g}; both are settings of the operator, and so is the "
        "line: the model's chance of fraud becomes points by them. It rests on the labels of the "
        "last 90 days, up to now. They stand mostly at what was "
        "flagged, so what was let through is seen less than it should be.</p>"
    )


def _story(case: Case, events: list[Case]) -> str:
    rows = [
        [
            f"<div>{parts.when(event.created_at)}</div>",
            f"<div>{_what(event)}</div>",
            f"<div>{_why(event)}</div>",
            f"{event.score:.0f}",
            f"<div>{_state(event)}</div>",
        ]
        for event in events
    ]
    by = f"model {case.model_version} and the rules"
    if case.model_version == "rules":
        why = _ALONE.get(case.fallback_reason or "")
        by = f"the rules alone: {why}" if why else "the rules alone"
    head = (
        f'<p class="hint">Case #{case.id} was judged on {parts.when(case.created_at)} by '
        f"{parts.esc(by)}, on what was known then. The newest events of its account:</p>"
    )
    heads = ["When", "Event", "Why", "Points>", "State"]
    return head + parts.table(heads, rows, caption="The story of the account")


def _what(case: Case) -> str:
    words = parts.esc(_TYPES.get(case.type, case.type))
    if case.credits:
        words += f"<br><small>{show_credits(case.credits)} credits</small>"
    return words


def _why(case: Case) -> str:
    if not case.reasons:
        return "–"
    lines = []
    for reason in case.reasons:
        rule, _, text = reason.partition(": ")
        lines.append(f"<b>{parts.esc(_RULES.get(rule, rule))}</b> {parts.esc(text)}")
    return "<br>".join(lines)


def _state(case: Case) -> str:
    words = "stopped" if case.refused else _WORDS[case.action]
    shown = parts.badge(words, _KINDS[case.action])
    if case.label:
        shown += " " + parts.badge(case.label, "bad" if case.label == "fraud" else "good")
    return shown
