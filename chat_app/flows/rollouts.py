"""Which version of a model answers whom: shared, promoted, watched, taken out, each with a reason.

Who is champion is decided by the commit in the database; the registry's choice follows it, also
after a crash. Knows nothing of how a version was learnt.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from sqlmodel import Session, select

from chat_app.accounts import permissions
from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.db import Database
from chat_app.errors import AppError, Conflict, Invalid
from chat_app.flows import notices
from chat_app.ml import promotion
from chat_app.ml import registry as shelf
from chat_app.ml.registry import BadModel, ModelVersion, Registry, UnknownModelVersion
from chat_app.ml.rollout import BadRollout, Rollout
from chat_app.ml.tables import RolloutRow

log = logging.getLogger(__name__)

KINDS = ("ltv", "churn", "forecast", "fraud")
ACTS = ("promote", "canary", "shadow", "out")


class UnknownKind(Invalid):
    """There is no such kind of model; `known` lists them."""

    code = "unknown_model_kind"
    message = f"There is no such kind of model. Choose of {', '.join(KINDS)}."


class NoReason(Invalid):
    """Who answers is changed without saying why."""

    code = "rollout_reason"
    message = "Say in a few words why, for those who come after you. Write 3 to 300 characters."


class NotShared(Conflict):
    """Only what judges one by one can be shared among versions."""

    code = "rollout_not_shared"
    message = (
        "This model predicts for everybody at once, so it has no shadow and no share. "
        "Give it to everybody, or leave it."
    )


def registry(data_dir: Path, link_key: bytes) -> Registry:
    """The models of this installation."""
    return shelf.of(data_dir, link_key)


def of(app: App) -> Registry:
    """The models of this app."""
    return registry(app.settings.data_dir, app.secrets.link_key)


def check_kinds(kinds: Sequence[str]) -> list[str]:
    """The kinds, each once; all without any. Raises UnknownKind."""
    if any(kind not in KINDS for kind in kinds):
        raise UnknownKind(known=list(KINDS))
    return list(dict.fromkeys(kinds)) or list(KINDS)


def versions(app: App, kind: str | None = None) -> list[ModelVersion]:
    """Every version with its metrics, newest first; those that cannot be used say why."""
    if kind is not None:
        check_kinds([kind])
    return of(app).list(kind)


def rollout(session: Session, models: Registry, kind: str) -> Rollout | None:
    """How the versions of a kind share its subjects; None before the first training."""
    row = session.get(RolloutRow, kind)
    if row is not None:
        return Rollout.from_params(json.loads(row.state))
    champion = models.champion(kind)
    return None if champion is None else Rollout(kind, {champion: 1.0})


def champion(models: Registry, kind: str) -> ModelVersion | None:
    return next((one for one in models.list(kind) if one.champion), None)


def set_rollout(
    app: App,
    *,
    kind: str,
    weights: Mapping[str, float],
    pins: Mapping[str, str],
    shadow: str | None,
    killed: Sequence[str],
    reason: str,
    actor: str,
) -> Rollout:
    """Share a kind's subjects anew; the last of the weights becomes the champion.

    Raises UnknownKind, BadRollout, UnknownModelVersion, or BadModel for a version whose files
    were changed: only what can be loaded is given to anybody.
    """
    check_kinds([kind])
    state = Rollout(kind, dict(weights), dict(pins), shadow, frozenset(killed), reason)
    models = of(app)
    known = {one.version: one for one in models.list(kind)}
    named = {*state.weights, *state.pins.values(), *([shadow] if shadow else ()), *state.killed}
    missing = sorted(named - known.keys())
    if missing:
        raise UnknownModelVersion(kind=kind, version=missing[0])
    if any(known[one].problem for one in named - state.killed):
        models.load(kind, next(one for one in named - state.killed if known[one].problem))

    def story(session: Session) -> None:
        now = app.clock.micros()
        put(session, state, actor=actor, now=now)
        audit.record(
            session, type="rollout_changed", actor=actor, now=now, **state.to_params(),
        )  # fmt: skip

    app.db.write(story)
    follow(app)
    return state


def change(app: App, *, kind: str, version: str, act: str, reason: str, actor: str) -> Rollout:
    """Give a version to everybody or to a tenth, let it score in the shadow, or take it out.

    Raises NoReason, NotShared, UnknownKind, UnknownModelVersion, BadModel or BadRollout.
    """
    check_kinds([kind])
    reason = " ".join(reason.split())
    if not 3 <= len(reason) <= 300:
        raise NoReason(param="reason")
    if act not in ACTS:
        raise BadRollout("Choose what to do with the version: promote, canary, shadow or out.")
    if act != "promote" and kind != "fraud":
        raise NotShared(kind=kind)
    with app.db.read() as session:
        before = rollout(session, of(app), kind)
    if before is None or version not in {one.version for one in of(app).list(kind)}:
        raise UnknownModelVersion(kind=kind, version=version)
    after = Rollout(kind, {version: 1.0}, before.pins, reason=reason)
    if act == "canary":
        after = before.introduce(version, promotion.CANARY)
    elif act == "shadow":
        after = replace(before, shadow=version)
    elif act == "out":
        after = before.kill(version, reason)
    return set_rollout(
        app, kind=kind, weights=after.weights, pins=after.pins, shadow=after.shadow,
        killed=sorted(after.killed), reason=reason, actor=actor,
    )  # fmt: skip


def put(session: Session, state: Rollout, *, actor: str, now: int) -> None:
    row = session.get(RolloutRow, state.experiment)
    row = row or RolloutRow(kind=state.experiment, changed_by=actor, changed_at=now)
    row.state, row.changed_by, row.changed_at = json.dumps(state.to_params()), actor, now
    session.add(row)
    session.flush()


# -- what goes by itself ------------------------------------------------------------------------


def settle(db: Database, models: Registry) -> list[str]:
    """Make the registry's champions those of the database; the kinds that were changed.

    A process may die between the commit and the registry's file; this finishes what it began.
    """
    changed = []
    with db.read() as session:
        rows = {row.kind: row for row in session.exec(select(RolloutRow))}
    for kind, row in rows.items():
        wanted = Rollout.from_params(json.loads(row.state)).incumbent
        try:
            if models.champion(kind) == wanted:
                continue
        except BadModel:
            log.warning("the choice of the %s champion is unreadable and made anew", kind)
        try:
            models.promote(kind, wanted)
        except AppError as error:
            log.error("the champion of %s is not available: %s", kind, error)
        else:
            changed.append(kind)
    return changed


def follow(app: App) -> bool:
    """Take over what another process decided: champions, and who judges; whether it changed.

    A newcomer of the fraud model that does harm is taken out, one that did well takes over.
    """
    models = of(app)
    settle(app.db, models)
    with app.db.read() as session:
        row = session.get(RolloutRow, "fraud")
    state = Rollout.from_params(json.loads(row.state)) if row is not None else None
    engine = app.fraud.engine
    changed = engine.follow(state)
    if state is None:
        return changed
    after = promotion.watch(state, engine.health, engine.refused)
    if after == state:
        return changed
    app.db.write(partial(_steer, app, state, after))
    engine.follow(after)
    settle(app.db, models)
    return True


def _steer(app: App, before: Rollout, after: Rollout, session: Session) -> None:
    row = session.get(RolloutRow, "fraud", with_for_update=True)
    if row is None or Rollout.from_params(json.loads(row.state)) != before:
        return  # somebody else has decided meanwhile
    now = app.clock.micros()
    put(session, after, actor="system", now=now)
    audit.record(
        session, type="rollout_changed", actor="system", now=now, **after.to_params(),
    )  # fmt: skip
    out = after.killed - before.killed
    said = "was taken out" if out else "judges everybody now"
    warn(
        session, key=f"rollout:{before.newcomer}:{bool(out)}:{now}", now=now,
        title=f"A fraud model {said}",
        text=f"Version {before.newcomer} {said}: {after.reason}",
    )  # fmt: skip


def warn(session: Session, *, key: str, title: str, text: str, now: int) -> None:
    for id in permissions.holders(session, "machine.write"):
        notices.tell(
            session, user_id=id, kind="staff_model", key=key,
            data={"title": title, "text": text}, now=now,
        )  # fmt: skip
