"""Operations: one outcome for each key, refusals that are decided, and no partial effect."""

from typing import Any

import pytest
from sqlalchemy import text
from sqlmodel import Session

from chat_app.credits import operations
from chat_app.db import Database
from chat_app.errors import AppError, Conflict, Invalid, OutOfCredits, Unavailable
from tests.credits.books import NOON, balance, grant, place


def once(session: Session, run: Any, request: dict[str, Any] | None = None) -> Any:
    return operations.once(
        session, scope="s", key="k", request=request or {}, now=NOON, actor="t", run=run
    )


def stored(database: Database) -> list[tuple[str, str]]:
    with database.read() as session:
        rows = session.execute(text("SELECT key, status FROM operation WHERE scope = 's'"))
        return [tuple(row) for row in rows]


def test_the_outcome_is_stored_and_given_again(database: Database) -> None:
    first = database.write(lambda session: once(session, lambda: {"n": 1}))
    again = database.write(lambda session: once(session, lambda: {"n": 2}))
    assert (first, again) == (({"n": 1}, False), ({"n": 1}, True))
    with database.read() as session:
        assert operations.replay(session, scope="s", key="k", request={}) == {"n": 1}
        assert operations.replay(session, scope="s", key="other", request={}) is None
        with pytest.raises(operations.IdempotencyConflict):
            operations.replay(session, scope="s", key="k", request={"other": True})


@pytest.mark.parametrize("kind", [Invalid, OutOfCredits])
def test_a_decided_refusal_is_remembered_without_its_effects(
    database: Database, kind: type[AppError]
) -> None:
    """I10."""
    runs = []

    def story(session: Session) -> Any:
        def run() -> dict[str, Any]:
            runs.append(1)
            grant(session, 5)
            raise kind(because="of this")

        return once(session, run)

    for _ in range(2):
        with pytest.raises(kind) as refused:
            database.write(story)
        assert refused.value.facts == {"because": "of this"}
        assert refused.value.code == kind.code
    assert len(runs) == 1
    assert balance(database) == (0, 0, 0)
    assert stored(database) == [("k", "refused")]


@pytest.mark.parametrize("kind", [Unavailable, Conflict])
def test_a_refusal_of_the_moment_is_not_remembered(
    database: Database, kind: type[AppError]
) -> None:
    def refuse() -> dict[str, Any]:
        raise kind

    with pytest.raises(kind):
        database.write(lambda session: once(session, refuse))
    assert stored(database) == []
    assert database.write(lambda session: once(session, lambda: {}))[1] is False


def test_a_caught_refusal_leaves_the_rest_of_the_story(database: Database) -> None:
    def story(session: Session) -> None:
        grant(session, 1)
        with pytest.raises(OutOfCredits):
            once(session, lambda: {"id": place(session, 2).id})
        grant(session, 1)

    database.write(story)
    assert balance(database) == (2, 0, 2)
    assert stored(database) == [("k", "refused")]


def test_an_error_after_the_operation_takes_it_back(database: Database) -> None:
    """T6, T8: one transaction; the record never says what did not happen."""

    def story(session: Session) -> None:
        once(session, lambda: {"n": grant(session, 5).micro})
        raise RuntimeError("later step")

    with pytest.raises(RuntimeError):
        database.write(story)
    assert stored(database) == []
    assert balance(database) == (0, 0, 0)


def test_a_leaf_error_is_raised_as_itself(database: Database) -> None:
    database.write(lambda session: grant(session, 1))
    for _ in range(2):
        with pytest.raises(OutOfCredits) as refused:
            database.write(lambda session: once(session, lambda: {"id": place(session, 2).id}))
        assert refused.value.facts["needed"] == "2"
        assert str(refused.value) == OutOfCredits.message
