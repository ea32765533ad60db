"""Checkpoints: a cache of sums that changes no sum."""

from chat_app.credits import checkpoints, holds, verify
from chat_app.db import Database
from tests.credits.books import NOON, credits, grant, place


def test_a_checkpoint_changes_no_turnover(database: Database) -> None:
    def turnover() -> dict[str, tuple[int, int]]:
        with database.read() as session:
            assert verify.run(session) == []
            return {
                name: (found.debits, found.credits)
                for name, found in checkpoints.turnover(session).items()
                if found.debits or found.credits
            }

    def spend(amount: float) -> None:
        hold = database.write(lambda session: place(session, amount + 1))
        database.write(
            lambda session: holds.settle(
                session, hold_id=hold.id, micro=credits(amount), now=NOON + 1
            )
        )

    assert turnover() == {}
    database.write(lambda session: checkpoints.take(session, now=NOON))
    database.write(lambda session: grant(session, 10))
    database.write(lambda session: grant(session, 5, source="welcome"))
    spend(3)
    before = turnover()
    assert before == {
        "issued": (credits(10), 0),
        "promo": (credits(5), 0),
        "consumed": (0, credits(3)),
    }
    for _ in range(2):
        database.write(lambda session: checkpoints.take(session, now=NOON))
        assert turnover() == before
    spend(1)
    assert turnover()["consumed"] == (0, credits(4))
    with database.read() as session:
        assert checkpoints.turnover(session)["consumed"].balance == credits(4)
