"""Alerts: a level is raised once when a balance falls to it, again only after it rose well above.

Pure steps over numbers, and the tables that keep rules and states. Where balances come from
and who is told is not known here. Amounts are microcredits.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlmodel import Session, col, select, update

from chat_app.errors import Invalid
from chat_app.money import MAX_MICROCREDITS, MICRO
from chat_app.notify.tables import AlertRuleRow, AlertStateRow

LEVELS = ("critical", "low", "runout")
MAX_DAYS = 90


class BadThreshold(Invalid):
    """A threshold is negative, too large, or critical is above low."""

    code = "invalid_threshold"
    message = (
        "A threshold is zero or more credits, and critical is not above low. "
        "Days are 1 to 90. Leave a field empty to switch its alert off."
    )


@dataclass(frozen=True)
class Rule:
    """When to warn: microcredits, days; None is never."""

    low: int | None
    critical: int | None
    runout_days: int | None


@dataclass(frozen=True)
class Level:
    """The state of one level. `edge` counts how often it was raised."""

    raised: bool = False
    edge: int = 0


def step(raised: bool, value: float, threshold: float, *, again: float) -> bool:
    """Whether the level is raised after `value` was seen.

    Raised at or below the threshold; lowered only above `again`, which is higher: a value that
    trembles around the threshold is one edge, not many.
    """
    if value <= threshold:
        return True
    return raised and value <= again


def rearm(threshold: int) -> int:
    """Above this balance an alert can come again: a fifth more than the threshold, or a credit."""
    return threshold + max(threshold // 5, MICRO)


def judge(
    rule: Rule, before: Mapping[str, Level], *, total: int, days: float | None
) -> tuple[dict[str, Level], list[str]]:
    """The levels after this balance, and those to tell of now: the gravest new one alone.

    `days` is how long the balance lasts, None if nobody can say; then that level stays as it is.
    """
    after: dict[str, Level] = {}
    for name in LEVELS:
        old = before.get(name, Level())
        raised = _raised(rule, name, old.raised, total=total, days=days)
        after[name] = Level(raised, old.edge + (raised and not old.raised))
    fresh = [name for name in LEVELS if after[name].edge > before.get(name, Level()).edge]
    # Who has been told the graver thing needs no second message about the lesser.
    grave = [name for name in LEVELS if after[name].raised][:1]
    return after, [name for name in fresh if [name] == grave]


def _raised(rule: Rule, name: str, raised: bool, *, total: int, days: float | None) -> bool:
    if name == "runout":
        if rule.runout_days is None:
            return False
        if days is None:
            return raised
        return step(raised, days, rule.runout_days, again=1.5 * rule.runout_days)
    threshold = rule.low if name == "low" else rule.critical
    if threshold is None:
        return False
    return step(raised, total, threshold, again=rearm(threshold))


def rule_of(session: Session, *, user_id: int, usual: Rule) -> Rule:
    """The person's rule, or the usual one."""
    row = session.get(AlertRuleRow, user_id)
    return usual if row is None else Rule(row.low, row.critical, row.runout_days)


def set_rule(session: Session, *, user_id: int, rule: Rule, now: int) -> None:
    """Store the person's rule; raises BadThreshold."""
    for value in (rule.low, rule.critical):
        if value is not None and not 0 <= value <= MAX_MICROCREDITS // 2:
            raise BadThreshold
    if rule.low is not None and rule.critical is not None and rule.critical > rule.low:
        raise BadThreshold(param="critical")
    if rule.runout_days is not None and not 1 <= rule.runout_days <= MAX_DAYS:
        raise BadThreshold(param="runout_days")
    session.merge(
        AlertRuleRow(
            user_id=user_id,
            low=rule.low,
            critical=rule.critical,
            runout_days=rule.runout_days,
            changed_at=now,
        )
    )
    session.flush()


def levels_of(session: Session, *, user_id: int) -> dict[str, Level]:
    """The levels that were ever looked at for this person."""
    rows = session.exec(select(AlertStateRow).where(AlertStateRow.user_id == user_id))
    return {row.level: Level(row.raised, row.edge) for row in rows}


def keep(
    session: Session,
    *,
    user_id: int,
    before: Mapping[str, Level],
    after: Mapping[str, Level],
    now: int,
) -> bool:
    """Store what changed; False if somebody else was faster, and then nothing may be told."""
    for name, level in after.items():
        old = before.get(name)
        if old == level or (old is None and level == Level()):
            continue
        if old is None:
            session.add(
                AlertStateRow(
                    user_id=user_id, level=name, raised=level.raised, edge=level.edge,
                    changed_at=now,
                )
            )  # fmt: skip
            continue
        changed = session.execute(
            update(AlertStateRow)
            .where(
                col(AlertStateRow.user_id) == user_id,
                col(AlertStateRow.level) == name,
                col(AlertStateRow.raised) == old.raised,
                col(AlertStateRow.edge) == old.edge,
            )
            .values(raised=level.raised, edge=level.edge, changed_at=now)
            .execution_options(synchronize_session=False)
        )
        if not changed.rowcount:  # type: ignore[attr-defined]
            return False
    session.flush()
    return True
