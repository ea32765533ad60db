"""Velocity: one mailbox, one network, one domain get only so many gifts (T34)."""

import threading

import pytest
from sqlalchemy import text

from chat_app.accounts import mailboxes, velocity
from chat_app.accounts.velocity import DAY, Rules
from chat_app.db import Database

NOON = 1_767_268_800_000_000
KEY = b"k" * 32
RULES = Rules(per_block=3, per_domain=5, disposable=False)
HOME, AWAY = "8.8.8.8", "9.9.9.9"


def decide(db: Database, user_id: int, email: str = "", *, ip: str = "", now: int = NOON,
           rules: Rules = RULES) -> str | None:  # fmt: skip
    """What becomes of one account."""
    email = email or f"person{user_id}@gmail.com"
    return db.write(
        lambda s: velocity.decide(
            s, user_id=user_id, email=email, ip=ip, key=KEY, rules=rules, now=now
        )
    )


def test_tags_and_dots_reach_one_mailbox(db: Database) -> None:
    pairs = [
        ("Ann.Lee@gmail.com", "annlee@googlemail.com"),
        ("bee.lee@gmail.com", "be.elee+credits@gmail.com"),
        ("bob@example.org", "BOB+2@Example.ORG"),
        ("eve@bücher.example", "eve+a+b@xn--bcher-kva.example"),
    ]
    for number, (email, same) in enumerate(pairs):
        assert mailboxes.identity(email) == mailboxes.identity(same)
        assert decide(db, 2 * number + 1, email) == ""
        assert decide(db, 2 * number + 2, same) == "mailbox"


def test_dots_count_elsewhere_than_at_gmail() -> None:
    assert mailboxes.identity("b.ob@example.org") != mailboxes.identity("bob@example.org")
    assert mailboxes.identity("+tag@example.org") == "+tag@example.org"


def test_it_is_decided_once_for_each_account(db: Database) -> None:
    assert decide(db, 1, ip=HOME) == ""
    assert decide(db, 1, "another@example.org", ip=AWAY) is None
    assert decide(db, 2, "person1+x@gmail.com") == "mailbox"
    assert decide(db, 2) is None
    with db.read() as session:
        assert velocity.refusals(session, [1, 2, 3]) == {2: "mailbox"}


def test_a_network_gets_so_many_in_a_day(db: Database) -> None:
    """T34: the address changes within its /24; a day later there is room again."""
    for number in range(3):
        assert decide(db, number + 1, ip=f"8.8.8.{number}") == ""
    assert decide(db, 4, ip="8.8.8.200") == "network"
    assert decide(db, 5, ip="::ffff:8.8.8.9") == "network"
    assert decide(db, 6, ip=AWAY) == ""
    assert decide(db, 7, ip="8.8.8.9", now=NOON + DAY + 1) == ""
    assert decide(db, 8, ip="8.8.8.9", rules=Rules(0, 0, False)) == ""


def test_people_of_your_own_network_are_no_farm(db: Database) -> None:
    for number, ip in enumerate(["127.0.0.1", "::1", "10.1.2.3", "192.168.1.9", "", "nonsense"]):
        assert velocity.block(ip) == ""
        assert decide(db, number + 1, f"p{number}@one.example", ip=ip) == ""
    assert velocity.block("2606:4700:1234:5678::1") == "2606:4700:1234::/48"


def test_a_domain_gets_so_many_and_the_great_providers_any(db: Database) -> None:
    for number in range(5):
        assert decide(db, number + 1, f"p{number}@farm.example", ip=f"8.8.{number}.8") == ""
    assert decide(db, 6, "p6@FARM.example", ip="8.8.6.8") == "domain"
    for number in range(7, 15):
        assert decide(db, number, f"p{number}@gmail.com", ip=f"8.8.{number}.8") == ""


def test_a_refusal_takes_no_place(db: Database) -> None:
    strict = Rules(per_block=1, per_domain=0, disposable=True)
    assert decide(db, 1, ip=HOME, rules=strict) == "disposable"
    assert decide(db, 2, "person1+x@gmail.com", ip=HOME) == ""
    assert decide(db, 3, ip="8.8.8.1", rules=Rules(1, 0, False)) == "network"


def test_sixteen_at_once_get_the_places_there_are(db: Database) -> None:
    """T1: whoever counts at the same time does not find the same last place."""
    outcomes: list[str | None] = []
    barrier = threading.Barrier(16)

    def one(number: int) -> None:
        barrier.wait()
        outcomes.append(decide(db, number + 1, ip=f"8.8.8.{number}"))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, outcomes)) == [""] * 3 + ["network"] * 13


def test_where_people_were_is_forgotten_and_their_mailbox_not(db: Database) -> None:
    decide(db, 1, "ann@one.example", ip=HOME)
    assert db.write(lambda s: velocity.forget(s, now=NOON)) == 0
    late = NOON + 31 * DAY
    assert db.write(lambda s: velocity.forget(s, now=late)) == 1
    assert decide(db, 2, "ann+2@one.example", ip=HOME, now=late) == "mailbox"
    with db.read() as session:
        row = session.execute(text("SELECT * FROM free_gift WHERE user_id = 1")).mappings().one()
    assert (row["block"], row["domain"]) == ("", "")
    assert "ann" not in str(dict(row))


@pytest.mark.parametrize(
    ("email", "more", "expected"),
    [
        ("a@mailinator.com", "", True),
        ("a@Sub.Mailinator.com", "", True),
        ("a@mailinator.example", "", False),
        ("a@gmail.com", "", False),
        ("a@firm.example", "other.example Firm.Example", True),
        ("a@com", "", False),
    ],
)
def test_throw_away_addresses(email: str, more: str, expected: bool) -> None:
    assert mailboxes.is_disposable(email, more=more) is expected
