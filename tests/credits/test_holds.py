"""Holds: set aside, settled or freed once, and never usable past their end."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from chat_app.credits import holds, ledger, lots, operations, verify
from chat_app.credits.accounts import WalletClosed
from chat_app.db import Database
from chat_app.errors import OutOfCredits
from tests.credits.books import (
    ALICE,
    BOB,
    HOUR,
    NOON,
    SECOND,
    balance,
    credits,
    facts,
    fresh,
    grant,
    place,
)

MINUTE = 60 * SECOND


def sound(database: Database) -> bool:
    with database.read() as session:
        problems = verify.run(session)
    assert problems == []
    return True


def test_held_credits_cannot_be_held_again(database: Database) -> None:
    database.write(lambda session: grant(session, 10))
    database.write(lambda session: place(session, 7))
    with pytest.raises(OutOfCredits) as refused:
        database.write(lambda session: place(session, 4))
    assert refused.value.facts == {
        "reason": "balance",
        "limit_source": "wallet",
        "needed": "4",
        "available": "3",
        "hint": "Add credits, or choose a cheaper model.",
    }
    assert balance(database) == (10, 7, 3)
    assert sound(database)


def test_a_rich_user_and_a_free_model_are_held_too(database: Database) -> None:
    """T2: no bypass; there is a hold row for every answer, also one of nothing."""
    database.write(lambda session: grant(session, 1_000_000))
    hold = database.write(lambda session: place(session, 1))
    free = database.write(lambda session: place(session, 0))
    with database.read() as session:
        rows = session.execute(text("SELECT id, amount, state FROM hold ORDER BY id")).all()
    assert [tuple(row) for row in rows] == [(hold.id, credits(1), "open"), (free.id, 0, "open")]
    settled = database.write(
        lambda session: holds.settle(
            session, hold_id=free.id, micro=0, now=NOON + 1, usage=facts("free")
        )
    )
    assert settled.charged == 0
    assert sound(database)


def test_a_settlement_charges_once_and_frees_the_rest(database: Database) -> None:
    database.write(lambda session: grant(session, 10))
    hold = database.write(lambda session: place(session, 7))
    for again in (False, True):
        settled = database.write(
            lambda session: holds.settle(
                session, hold_id=hold.id, micro=credits(2), now=NOON + 1, usage=facts("rep")
            )
        )
        assert (settled.charged, settled.replayed) == (credits(2), again)
        assert balance(database) == (8, 0, 8)
    assert not database.write(lambda session: holds.release(session, hold_id=hold.id, now=NOON + 2))
    assert sound(database)


def test_more_than_the_hold_is_a_bug_and_changes_nothing(database: Database) -> None:
    """T4: an overrun is never taken from elsewhere, nor forgiven silently."""
    database.write(lambda session: grant(session, 10))
    hold = database.write(lambda session: place(session, 7))
    with pytest.raises(holds.Overrun):
        database.write(
            lambda session: holds.settle(
                session, hold_id=hold.id, micro=credits(7) + 1, now=NOON + 1
            )
        )
    assert balance(database) == (10, 7, 3)
    assert sound(database)


def test_a_released_hold_is_never_charged(database: Database) -> None:
    database.write(lambda session: grant(session, 10))
    hold = database.write(lambda session: place(session, 7))
    assert database.write(lambda session: holds.release(session, hold_id=hold.id, now=NOON))
    with pytest.raises(holds.HoldEnded):
        database.write(
            lambda session: holds.settle(session, hold_id=hold.id, micro=1, now=NOON + 1)
        )
    assert balance(database) == (10, 0, 10)
    with pytest.raises(holds.UnknownHold):
        database.write(lambda session: holds.release(session, hold_id=10**6, now=NOON))
    assert sound(database)


@pytest.mark.parametrize(("offset", "late"), [(-1, False), (0, True), (1, True)])
def test_the_end_of_a_hold_is_exact(database: Database, offset: int, late: bool) -> None:
    database.write(lambda session: grant(session, 10))
    hold = database.write(lambda session: place(session, 7))
    settled = database.write(
        lambda session: holds.settle(
            session, hold_id=hold.id, micro=credits(5), now=hold.expires_at + offset
        )
    )
    assert (settled.charged, settled.late, settled.written_off) == (credits(5), late, 0)
    assert balance(database) == (5, 0, 5)
    assert sound(database)


def test_a_late_answer_takes_what_is_there_and_records_the_loss(database: Database) -> None:
    """T4, T5: the sum of the entries stays the balance; the loss is an entry of its own."""
    database.write(lambda session: grant(session, 10))
    hold = database.write(lambda session: place(session, 7, reference="rep_1"))
    assert database.write(lambda session: holds.sweep(session, now=NOON + MINUTE)) == 1
    assert database.write(lambda session: holds.sweep(session, now=NOON + MINUTE)) == 0
    database.write(lambda session: place(session, 8, now=NOON + MINUTE))
    settled = database.write(
        lambda session: holds.settle(
            session, hold_id=hold.id, micro=credits(5), now=NOON + HOUR - 1, usage=facts("rep_1")
        )
    )
    # The second hold had ended as well, but nobody asked for its room: it is not touched here.
    assert (settled.charged, settled.written_off) == (credits(2), credits(3))
    again = database.write(
        lambda session: holds.settle(session, hold_id=hold.id, micro=credits(5), now=NOON + HOUR)
    )
    assert (again.charged, again.replayed) == (credits(2), True)
    with database.read() as session:
        lost = session.execute(
            text("SELECT amount, cause_id, reference FROM transfer WHERE code = 'writeoff'")
        ).all()
        used = session.execute(text("SELECT cost FROM usage")).all()
    assert [tuple(row) for row in lost] == [(credits(3), hold.id, "rep_1")]
    assert [tuple(row) for row in used] == [(credits(2),)]
    assert balance(database)[0] == 8
    with database.read() as session:
        assert verify.run(session, now=NOON + MINUTE) == []


def test_an_extended_hold_ends_later_and_never_sooner(database: Database) -> None:
    database.write(lambda session: grant(session, 10))
    hold = database.write(lambda session: place(session, 7))

    def extend(by: int) -> bool:
        return database.write(
            lambda session: holds.extend(session, hold_id=hold.id, expires_at=hold.expires_at + by)
        )

    assert not extend(-SECOND)
    assert extend(SECOND)
    assert database.write(lambda session: holds.sweep(session, now=hold.expires_at)) == 0
    assert database.write(lambda session: holds.sweep(session, now=hold.expires_at + SECOND)) == 1
    assert not extend(HOUR)


def test_an_overdue_hold_makes_room_without_a_sweeper(database: Database) -> None:
    database.write(lambda session: grant(session, 10))
    old = database.write(lambda session: place(session, 10))
    with pytest.raises(OutOfCredits):
        database.write(lambda session: place(session, 1, now=old.expires_at - 1))
    database.write(lambda session: place(session, 10, now=old.expires_at))
    assert balance(database) == (10, 10, 0)
    assert sound(database)


def test_the_same_key_is_the_same_hold(database: Database) -> None:
    """T12: a retry with the client's key never holds twice, and is no conflict."""
    database.write(lambda session: grant(session, 10))
    first = database.write(lambda session: place(session, 7, key="k", reference="rep_1"))
    again = database.write(
        lambda session: place(session, 7, key="k", reference="rep_2", now=NOON + SECOND)
    )
    assert (again.id, again.reference, again.replayed) == (first.id, "rep_1", True)
    with pytest.raises(operations.IdempotencyConflict):
        database.write(lambda session: place(session, 6, key="k"))
    other = database.write(lambda session: place(session, 1, key="k", scope="another"))
    assert other.id != first.id
    assert balance(database) == (10, 8, 2)


def test_a_refusal_is_remembered_and_leaves_nothing(database: Database) -> None:
    """I10: decided once; credits that come later do not change what was said."""
    database.write(lambda session: grant(session, 1))
    for _ in range(2):
        with pytest.raises(OutOfCredits) as refused:
            database.write(lambda session: place(session, 2, key="k"))
        assert refused.value.facts["available"] == "1"
        database.write(lambda session: grant(session, 5))
    with database.read() as session:
        assert session.execute(text("SELECT COUNT(*) FROM hold")).scalar_one() == 0
    assert database.write(lambda session: place(session, 2, key="fresh")).replayed is False


def test_ended_lots_cannot_be_held_and_held_ones_do_not_end(database: Database) -> None:
    database.write(lambda session: grant(session, 10, source="promo", expires_at=NOON + SECOND))
    hold = database.write(lambda session: place(session, 6, now=NOON + SECOND - 1))
    with pytest.raises(OutOfCredits):
        database.write(lambda session: place(session, 1, now=NOON + SECOND))
    database.write(lambda session: lots.expire_due(session, now=NOON + SECOND))
    assert balance(database) == (6, 6, 0)
    settled = database.write(
        lambda session: holds.settle(
            session, hold_id=hold.id, micro=credits(4), now=NOON + 2 * SECOND
        )
    )
    assert settled.charged == credits(4)
    assert balance(database) == (0, 0, 0), "what was freed of the ended lot expired at once"
    with database.read() as session:
        moves, _ = ledger.transactions(session, user_id=ALICE)
    assert [(move.type, move.credits) for move in moves] == [
        ("expiry", credits(-2)),
        ("message", credits(-4)),
        ("expiry", credits(-4)),
        ("promo", credits(10)),
    ]
    assert sound(database)


def test_wallets_do_not_mix(database: Database) -> None:
    database.write(lambda session: grant(session, 10))
    with pytest.raises(OutOfCredits):
        database.write(lambda session: place(session, 1, user=BOB))
    assert balance(database, BOB) == (0, 0, 0)


def test_closing_a_wallet_never_creates_credits(database: Database) -> None:
    """T31: what is there stays there, open holds end as they would, and nothing new begins."""
    database.write(lambda session: grant(session, 10))
    hold = database.write(lambda session: place(session, 4))
    assert database.write(lambda session: ledger.close(session, user_id=ALICE, now=NOON + 1))
    assert not database.write(lambda session: ledger.close(session, user_id=ALICE, now=NOON + 2))
    assert balance(database) == (10, 4, 6)
    for story in (lambda s: grant(s, 1), lambda s: place(s, 1)):
        with pytest.raises(WalletClosed):
            database.write(story)
    database.write(
        lambda session: holds.settle(session, hold_id=hold.id, micro=credits(1), now=NOON + 3)
    )
    assert balance(database) == (9, 0, 9)
    assert sound(database)


def test_the_database_itself_refuses_a_second_resolution(database: Database) -> None:
    """T11: if the program were wrong, UNIQUE(pending_id) still holds."""
    database.write(lambda session: grant(session, 10))
    hold = database.write(lambda session: place(session, 4))
    database.write(lambda session: holds.release(session, hold_id=hold.id, now=NOON + 1))
    twice = text(
        """INSERT INTO transfer (kind, code, debit_id, credit_id, amount, pending_id, created_at)
        SELECT 'void', 'message', debit_id, credit_id, 0, id, created_at FROM transfer
        WHERE id = :id"""
    )
    with pytest.raises(IntegrityError):
        database.write(lambda session: session.execute(twice, {"id": hold.id}))


def test_a_usage_row_is_written_once_for_each_answer(database: Database) -> None:
    database.write(lambda session: grant(session, 10))
    one, two = (database.write(lambda session: place(session, 4)) for _ in range(2))
    key = fresh()
    database.write(
        lambda session: holds.settle(session, hold_id=one.id, micro=1, now=NOON, usage=facts(key))
    )
    with pytest.raises(IntegrityError):
        database.write(
            lambda session: holds.settle(
                session, hold_id=two.id, micro=1, now=NOON, usage=facts(key)
            )
        )
    assert balance(database)[1] == 4, "the failed settlement left its hold as it was"
