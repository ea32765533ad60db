"""Short words for the tests of the books: people, amounts, grants and holds."""

from itertools import count

from sqlmodel import Session

from chat_app.credits import holds, ledger
from chat_app.credits.holds import HoldView, UsageFacts
from chat_app.credits.ledger import Outcome
from chat_app.db import Database
from chat_app.money import MICRO

ALICE, BOB = 1, 2
NOON = 1_767_268_800_000_000
SECOND = 1_000_000
HOUR = 3600 * SECOND

_numbers = count(1)


def credits(amount: float) -> int:
    """Microcredits."""
    return round(amount * MICRO)


def fresh() -> str:
    """A key that was never used."""
    return f"key-{next(_numbers)}"


def grant(session: Session, amount: float, *, user: int = ALICE, **more: object) -> Outcome:
    """Credits for a user, with a key of their own unless one is given."""
    values: dict[str, object] = {
        "source": "paid",
        "now": NOON,
        "scope": "test",
        "key": fresh(),
        "actor": "test",
        **more,
    }
    return ledger.grant(session, user_id=user, micro=credits(amount), **values)  # type: ignore[arg-type]


def place(session: Session, amount: float, *, user: int = ALICE, **more: object) -> HoldView:
    """A hold of a minute."""
    values: dict[str, object] = {
        "ttl_seconds": 60,
        "now": NOON,
        "scope": "test",
        "key": fresh(),
        **more,
    }
    return holds.place(session, user_id=user, micro=credits(amount), **values)  # type: ignore[arg-type]


def facts(reply_id: str, **more: object) -> UsageFacts:
    """What an answer used."""
    values: dict[str, object] = {
        "model": "m",
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "price_version": 1,
        **more,
    }
    return UsageFacts(reply_id=reply_id, **values)  # type: ignore[arg-type]


def balance(database: Database, user: int = ALICE) -> tuple[float, float, float]:
    """Total, held and available, in credits."""
    with database.read() as session:
        found = ledger.balance(session, user_id=user)
    return found.total / MICRO, found.held / MICRO, found.available / MICRO
