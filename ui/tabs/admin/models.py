"""Models: versions and their scores, who gets which, drift, trainings; changed in two steps."""

import asyncio
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.accounts.permissions import Permission
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.clock import to_micros
from chat_app.flows import drift, learn, predictions, rollouts
from chat_app.flows.drift import Moved
from chat_app.flows.predictions import Run
from chat_app.ml.registry import ModelVersion
from chat_app.ml.rollout import Rollout
from ui import parts
from ui.guard import guard
from ui.parts import Card
from ui.shell import Shell

MOST_DRIFT, MOST_RUNS = 8, 8
KINDS = [("Churn", "churn"), ("Lifetime value", "ltv"), ("Forecast", "forecast"),
         ("Fraud", "fraud")]  # fmt: skip
ACTS = [("Give it to everybody", "promote"), ("Give it a tenth of the users", "canary"),
        ("Let it score in the shadow", "shadow"), ("Take it out", "out")]  # fmt: skip
_DOES = {
    "promote": "Version {version} will answer for everybody.",
    "canary": "Version {version} will judge a tenth of the users, {old} the rest.",
    "shadow": "Version {version} will score beside {old} and decide nothing.",
    "out": "Version {version} will answer nobody. Without another one the rules decide.",
}
# The score that says most, the baseline that it stands beside, and whether less is better.
_MAIN = {
    "churn": ("log_loss", "rule", True), "ltv": ("mae_ltv", "naive", True),
    "forecast": ("MASE", "naive", True), "fraud": ("log_loss", "rate", True),
}  # fmt: skip
_NAMES = {
    "auc": "AUC", "log_loss": "log-loss", "mae_ltv": "error in money", "ece": "ECE",
    "mae_purchases": "error in orders", "total_ratio": "total over truth", "brier": "Brier",
    "average_precision": "average precision", "recall_at_1": "recall at 1 % false alarms",
    "calibration": "came over promised",
}  # fmt: skip
_STATES = {"done": "good", "running": "warn", "failed": "bad"}


@dataclass
class Models:
    """The components."""

    tab: gr.Tab
    kind: gr.Radio
    train: gr.Button
    body: gr.HTML
    sheet: gr.Column
    version: gr.Dropdown
    act: gr.Dropdown
    reason: gr.Textbox
    ask: gr.Button
    confirm: gr.Row
    told: gr.HTML
    yes: gr.Button


def build() -> Models:
    """The layout, without any data."""
    with gr.Tab("Model versions", id="admin-models") as tab:
        with gr.Row(elem_classes="filters"):
            kind = gr.Radio(
                KINDS,
                value="churn",
                show_label=False,
                container=False,
                elem_id="admin-models-kind",
                scale=3,
            )
            train = gr.Button("Train it now", elem_id="admin-models-train", scale=0)
        body = gr.HTML(parts.loading(5), elem_id="admin-models-body")
        with gr.Column(elem_classes="sheet") as sheet:
            gr.HTML(
                '<div class="sheet-head"><h2>Change who answers</h2><span class="hint">A way back '
                "is to give an older version to everybody</span></div>"
            )
            with gr.Row(elem_classes="filters"):
                version = gr.Dropdown(
                    [], label="Version", elem_id="admin-models-version", filterable=False
                )
                act = gr.Dropdown(
                    ACTS, value="promote", label="What", elem_id="admin-models-act",
                    filterable=False,
                )  # fmt: skip
                reason = gr.Textbox(
                    label="Why", placeholder="for those who come after you", max_length=300,
                    elem_id="admin-models-reason", scale=2,
                )  # fmt: skip
                ask = gr.Button("Go on", elem_id="admin-models-ask", scale=0)
            with gr.Row(visible=False, elem_classes="filters") as confirm:
                told = gr.HTML(elem_id="admin-models-told")
                yes = gr.Button(
                    "Yes, change it", variant="stop", elem_id="admin-models-yes", scale=0
                )
    return Models(tab, kind, train, body, sheet, version, act, reason, ask, confirm, told, yes)


def needs(c: Models) -> dict[Any, Permission]:
    """What is hidden from staff without the permission."""
    return {c.tab: "machine.read", c.train: "machine.write", c.sheet: "machine.write"}


def bind(c: Models, app: App, _shell: Shell, _tab: gr.Tab) -> None:
    """Wire the section: it loads when it is opened."""

    def show(kind: str, chosen: str | None) -> dict[Any, Any]:
        kind = kind if kind in rollouts.KINDS else "churn"
        versions = rollouts.versions(app, kind)
        models = rollouts.of(app)
        with app.db.read() as session:
            state = rollouts.rollout(session, models, kind)
            runs = predictions.runs(session, kind=kind, limit=MOST_RUNS)
            moved, again = drift.newest(session, kind), drift.moved_since(session, kind)
        choices = [one.version for one in versions]
        value = chosen if chosen in choices else choices[0] if choices else None
        acts = ACTS if kind == "fraud" else ACTS[:1]
        return {
            c.body: _cards(app, kind, versions, state, runs, again=again)
            + _versions(kind, versions, state)
            + _drift(moved, again=again)
            + _trainings(runs),
            c.version: gr.update(choices=choices, value=value),
            c.act: gr.update(choices=acts, value="promote"),
            c.confirm: gr.update(visible=False),
        }

    @guard(app, "machine.read")
    async def models_show(_staff: User, kind: str, version: str | None) -> dict[Any, Any]:
        """All of a kind."""
        return await asyncio.to_thread(show, kind, version)

    @guard(app, "machine.write")
    async def models_train(admin: User, kind: str, version: str | None) -> dict[Any, Any]:
        """Begin a training in a process of its own."""
        await asyncio.to_thread(learn.begin, app, kinds=[str(kind)], actor=f"user:{admin.id}")
        gr.Info("It learns in the background. Open this section again in a minute.", duration=6)
        return await asyncio.to_thread(show, kind, version)

    @guard(app, "machine.write")
    async def models_ask(
        _admin: User, kind: str, version: str | None, act: str, reason: str
    ) -> dict[Any, Any]:
        """The second step: what would happen, in a sentence."""
        if len(" ".join(str(reason or "").split())) < 3:
            raise rollouts.NoReason(param="reason")
        if not version:
            gr.Info("There is no version yet. Train one first.", duration=4)
            return {c.confirm: gr.update(visible=False)}

        def read() -> Rollout | None:
            with app.db.read() as session:
                return rollouts.rollout(session, rollouts.of(app), kind)

        state = await asyncio.to_thread(read)
        old = state.incumbent if state is not None else "the rules"
        sentence = _DOES.get(str(act), _DOES["promote"]).format(version=version, old=old)
        return {
            c.told: f'<p role="alert">{parts.esc(sentence)}</p>',
            c.confirm: gr.update(visible=True),
        }

    @guard(app, "machine.write")
    async def models_change(
        admin: User, kind: str, version: str | None, act: str, reason: str
    ) -> dict[Any, Any]:
        """Do it; it is written into the audit log with the reason."""
        await asyncio.to_thread(
            rollouts.change, app, kind=str(kind), version=str(version or ""), act=str(act),
            reason=str(reason or ""), actor=f"user:{admin.id}",
        )  # fmt: skip
        gr.Info("Changed.", duration=4)
        return {**await asyncio.to_thread(show, kind, version), c.reason: ""}

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    # The choices hang on the kind; the flow checks what is given, whatever the page showed.
    loose = {**quiet, "preprocess": False, "postprocess": False}
    shown = [c.body, c.version, c.act, c.confirm]
    picked = [c.kind, c.version]
    gr.on(
        [c.tab.select, c.kind.input], models_show, picked, shown,
        trigger_mode="always_last", **loose,
    )  # fmt: skip
    c.train.click(models_train, [c.kind, c.version], shown, **loose)
    asked = [c.kind, c.version, c.act, c.reason]
    c.ask.click(models_ask, asked, [c.told, c.confirm], **loose)
    c.yes.click(models_change, asked, [*shown, c.reason], **loose)


def _cards(
    app: App,
    kind: str,
    versions: list[ModelVersion],
    state: Rollout | None,
    runs: list[Run],
    *,
    again: bool,
) -> str:
    if kind == "fraud":
        judging = app.fraud.engine.version
        note = "the rules alone decide" if judging == "rules" else "beside the rules"
    else:
        judging = state.incumbent if state is not None else "–"
        note = "its predictions are shown"
    champion = next((one for one in versions if one.version == judging), None)
    score, base, _ = _MAIN[kind]
    ours, theirs = _pair(kind, champion.meta.get("metrics", {})) if champion else (None, None)
    gain = f"{ours / theirs - 1:+.0%}" if ours is not None and theirs else "–"
    broken = sum(one.problem is not None for one in versions)
    newcomer = state.newcomer if state is not None else None
    shadow = state.shadow if state is not None else None
    cards = [
        Card("Answers now", judging, note),
        Card(f"{_NAMES.get(score, score).capitalize()}", gain, f"against the plain {base}"),
        Card("Versions", str(len(versions)), f"{broken} cannot be read" if broken else "all whole"),
        Card("Last training", runs[0].state if runs else "–",
             f"by {_who(runs[0].actor)}" if runs else "none yet"),
        Card("Drift", "moved" if again else "quiet",
             "train it again" if again else "by the newest look"),
    ]  # fmt: skip
    if kind == "fraud":
        tried = newcomer if newcomer and state and newcomer not in state.killed else None
        words = f"{state.weights[tried]:.0%} of the users" if tried and state else "nobody"
        del cards[2]  # how many there are stands below
        cards.insert(1, Card("On trial", tried or "–", words))
        cards.insert(2, Card("In the shadow", shadow or "–", "scores and decides nothing"))
    why = (
        f'<p class="hint" role="note">{parts.esc(state.reason)}</p>'
        if state is not None and state.reason
        else ""
    )
    return parts.cards(cards) + why


def _pair(kind: str, metrics: dict[str, Any]) -> tuple[float | None, float | None]:
    """The main score of what was used, and of the baseline."""
    score, base, _ = _MAIN[kind]
    theirs = metrics.get(base, {}).get(score)
    if kind == "fraud":
        return metrics.get("model", {}).get(score), theirs
    known = [row.get(score) for name, row in metrics.items() if name != base]
    # The champion of the candidates is not named in the metrics: the best of them is.
    best = min((value for value in known if value is not None), default=None)
    return best, theirs


def _versions(kind: str, versions: list[ModelVersion], state: Rollout | None) -> str:
    if not versions:
        return _sheet(
            "Versions",
            "",
            parts.empty("No version yet", "Models are trained at night, or by the button above."),
        )
    rows = []
    for one in versions:
        ours, theirs = _pair(kind, one.meta.get("metrics", {}))
        rows.append(
            [
                f"<div><b>{parts.esc(one.version)}</b> {_standing(one, state)}</div>",
                f"<div>{parts.esc(one.meta.get('algorithm') or '–')}</div>",
                f"{one.meta.get('rows', 0):,}",
                "–" if ours is None else f"{ours:,.4g}",
                "–" if theirs is None else f"{theirs:,.4g}",
                f"<div>{parts.when(to_micros(one.created_at))}</div>",
                _card_of(one),
            ]
        )
    score, base, _ = _MAIN[kind]
    heads = ["Version", "Method", "Rows>", f"{_NAMES.get(score, score).capitalize()}>",
             f"{base.capitalize()}>", "Trained", "Card"]  # fmt: skip
    return _sheet(
        "Versions",
        "each file is checked against its signature; less is better",
        parts.table(heads, rows, caption="Versions with their scores beside the baseline"),
    )


def _standing(one: ModelVersion, state: Rollout | None) -> str:
    if one.problem is not None:
        return parts.badge("refused", "bad")
    found = []
    if state is not None:
        share = state.weights.get(one.version, 0)
        if one.version in state.killed and one.version != state.shadow:
            found.append(parts.badge("out", "bad"))
        elif share and one.version not in state.killed:
            found.append(parts.badge("champion" if share == 1 else f"{share:.0%}", "good"))
        if one.version == state.shadow:
            found.append(parts.badge("shadow", "warn"))
    if one.meta.get("is_demo"):
        found.append(parts.badge("made-up people", "warn"))
    return " ".join(found)


def _card_of(one: ModelVersion) -> str:
    """All that is known of a version, one click away."""
    if one.problem is not None:
        return f"<div>{parts.esc(one.problem)}</div>"
    facts = [
        ("Knew up to", (one.as_of or "–").replace("T", " ")[:16]),
        ("Rests on", one.meta.get("basis") or "–"),
        ("Size", f"{one.size / 1024:,.0f} KiB"),
        ("Libraries", ", ".join(f"{name} {number}" for name, number in one.libraries.items())),
    ]
    if one.meta.get("why"):
        facts.insert(0, ("Verdict", one.meta["why"]))
    lines = "".join(f"<li>{parts.esc(name)}: {parts.esc(value)}</li>" for name, value in facts)
    scores = "".join(
        f"<li><b>{parts.esc(name.replace('_', ' '))}</b> {_scores(row)}</li>"
        for name, row in one.meta.get("metrics", {}).items()
    )
    return (
        f'<details class="why"><summary>Open</summary><ul>{lines}</ul>'
        f"<p><b>On unseen data</b></p><ul>{scores}</ul></details>"
    )


def _scores(row: dict[str, Any]) -> str:
    shown = [
        f"{parts.esc(_NAMES.get(key, key.replace('_', ' ')))} {value:,.4g}"
        for key, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return ", ".join(shown) or "–"


def _drift(moved: list[Moved], *, again: bool) -> str:
    if not moved:
        return _sheet(
            "Drift", "", parts.empty("Not looked at yet", "It is looked at with each training.")
        )
    rows = [
        [
            f"<div translate='no'>{parts.esc(row.feature.replace('_', ' '))}</div>",
            "–" if row.psi is None else f"{row.psi:.3f}",
            f"{row.threshold:.3f}",
            f"<div>{parts.badge('moved', 'bad') if row.alarm else parts.badge('quiet', 'good')}"
            "</div>",
        ]
        for row in moved[:MOST_DRIFT]
    ]
    words = (
        '<p role="alert"><b>Something moved since the newest training.</b> Train it again; tonight '
        "it is done by itself.</p>"
        if again
        else ""
    )
    hint = "the last four weeks beside those before; the level is what chance allows for so few"
    table = parts.table(["Figure", "PSI>", "Level>", "State"], rows, caption="Drift by figure")
    return _sheet("Drift", hint, words + table)


def _trainings(runs: list[Run]) -> str:
    if not runs:
        return ""
    rows = [
        [
            f"<div>{parts.when(run.started_at)}</div>",
            f"<div>{parts.badge(run.state, _STATES[run.state])}</div>",
            f"<div>{parts.esc(_who(run.actor))}</div>",
            f"{run.rows:,}",
            f"<div>{parts.esc(run.version or '–')}"
            + (" " + parts.badge("champion", "good") if run.champion else "")
            + "</div>",
            f"<div>{parts.esc(run.error or run.report.get('why') or '–')}</div>",
        ]
        for run in runs
    ]
    heads = ["Begun", "State", "By", "Rows>", "Version", "What came of it"]
    return _sheet(
        "Trainings", "in a process of their own", parts.table(heads, rows, caption="Trainings")
    )


def _who(actor: str) -> str:
    return {"schedule": "the schedule", "operator": "the command line"}.get(
        actor, actor.replace("user:", "user ")
    )


def _sheet(title: str, hint: str, inner: str) -> str:
    return (
        f'<section class="sheet"><div class="sheet-head"><h2>{parts.esc(title)}</h2>'
        f'<span class="hint">{parts.esc(hint)}</span></div>{inner}</section>'
    )
