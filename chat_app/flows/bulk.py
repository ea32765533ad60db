"""Credits for many people at once: all rows or none, with a report for each.

A preview does exactly what the act would do, in the same transaction, and takes it back.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlmodel import Session

from chat_app.accounts import users
from chat_app.app import App
from chat_app.credits import operations
from chat_app.db import AFTER_ROLLBACK
from chat_app.errors import AppError, Invalid, NotFound
from chat_app.flows import adjust
from chat_app.ids import new_id

MAX_ROWS = 1000
_FORMULA = ("=", "+", "-", "@")


class BulkRefused(Invalid):
    """Some rows cannot be done, so none was. Fact: `rows`, those that cannot, with the reason."""

    code = "bulk_refused"
    message = "Nothing was changed, because some rows cannot be done. Correct them and send again."


class NoSuchUser(NotFound):
    """A row names nobody."""

    code = "no_such_user"
    message = "There is no user of this name or e-mail address. Check the row."


class FormulaInReason(Invalid):
    """A reason that a spreadsheet would run, were it exported again."""

    code = "formula_in_reason"
    message = "A reason may not begin with =, +, - or @. Change the first character of the row's."


@dataclass(frozen=True)
class Row:
    """`micro` microcredits for (negative: from) the user with this name or e-mail address."""

    user: str
    micro: int
    reason: str


@dataclass(frozen=True)
class Result:
    """What became of row number `row`, from 1. `available` microcredits are left after it.

    A row that cannot be done has a `code` and a `message`.
    """

    row: int
    user: str
    micro: int
    user_id: int | None = None
    available: int | None = None
    code: str | None = None
    message: str | None = None


class _Preview(Exception):
    """Rolls everything back and carries the report."""

    def __init__(self, results: list[Result]) -> None:
        super().__init__()
        self.results = results


async def credits(
    app: App, *, admin_id: int, rows: Sequence[Row], key: str, dry_run: bool = False
) -> list[Result]:
    """Adjust all balances or none; with `dry_run` only say what would become of each row.

    The same key acts once. Raises BulkRefused when a row cannot be done, but in a preview.
    """
    actor = f"user:{admin_id}"
    request = {"rows": [[row.user, row.micro, row.reason] for row in rows]}
    key = new_id("dry") if dry_run else key

    def act(session: Session, now: int) -> dict[str, Any]:
        results = _adjust(app, session, admin_id=admin_id, rows=rows, key=key, now=now)
        if dry_run:
            # What the rows were refused with is not to be remembered: nothing was asked.
            session.info.get(AFTER_ROLLBACK, []).clear()
            raise _Preview(results)
        refused = [asdict(result) for result in results if result.code is not None]
        if refused:
            raise BulkRefused(rows=[_told(row) for row in refused])
        return {"rows": [asdict(result) for result in results]}

    def story(session: Session) -> list[Result]:
        now = app.clock.micros()
        outcome, _ = operations.once(
            session,
            scope=f"bulk:{admin_id}",
            key=key,
            request=request,
            now=now,
            actor=actor,
            run=lambda: act(session, now),
        )
        return [Result(**row) for row in outcome["rows"]]

    try:
        return await app.db.awrite(story)
    except _Preview as preview:
        return preview.results


def _adjust(
    app: App, session: Session, *, admin_id: int, rows: Sequence[Row], key: str, now: int
) -> list[Result]:
    owners = [_owner(session, row.user) for row in rows]
    results: dict[int, Result] = {}
    # In one order of people, so that two of these at once do not wait for each other.
    for number in sorted(range(len(rows)), key=lambda at: owners[at] or 0):
        row, owner = rows[number], owners[number]
        shown = Result(number + 1, row.user, row.micro, owner)
        try:
            with session.begin_nested():
                if owner is None:
                    raise NoSuchUser
                reason = adjust.checked(row.micro, row.reason)
                if reason.startswith(_FORMULA):
                    raise FormulaInReason
                balance = adjust.post(
                    app,
                    session,
                    admin_id=admin_id,
                    user_id=owner,
                    micro=row.micro,
                    reason=reason,
                    key=f"{key}:{number}",
                    now=now,
                )
            results[number] = Result(**asdict(shown) | {"available": balance.available})
        except AppError as error:
            results[number] = Result(**asdict(shown) | {"code": error.code, "message": str(error)})
    return [results[number] for number in range(len(rows))]


def _owner(session: Session, name: str) -> int | None:
    found = users.find(session, name.strip())
    return found.id if found is not None else None


def _told(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("row", "user", "code", "message")}
