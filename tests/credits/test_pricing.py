"""Prices: exact, rounded once, never negative, and nothing is sold without one."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from chat_app.credits import pricing
from chat_app.credits.pricing import Price, Tier
from chat_app.credits.usage import Volume
from chat_app.db import Database
from chat_app.money import MICRO
from tests.credits.books import NOON, SECOND

MESSAGE = Price("m", 1, "per_message", per_message=10 * MICRO)
TOKEN = Price("m", 1, "per_token", input_per_million=3 * MICRO, output_per_million=7 * MICRO)
MIXED = Price("m", 1, "mixed", per_message=MICRO, input_per_million=1, output_per_million=500_000)


@pytest.mark.parametrize(
    ("price", "prompt", "completion", "expected"),
    [
        (MESSAGE, 500, 0, 0),
        (MESSAGE, 500, 1, 10 * MICRO),
        (MESSAGE, 0, 900, 10 * MICRO),
        (TOKEN, 10, 0, 0),
        (TOKEN, 1_000_000, 1_000_000, 10 * MICRO),
        (TOKEN, 1, 1, 10),
        (MIXED, 1, 1, MICRO + 1),
        (MIXED, 0, 2, MICRO + 1),
        (MIXED, 0, 3, MICRO + 2),
        (MIXED, 0, 4, MICRO + 2),
    ],
)
def test_a_message_is_rounded_up_once(
    price: Price, prompt: int, completion: int, expected: int
) -> None:
    """T13: nothing visible costs nothing; T21: the unit is a million tokens."""
    assert pricing.cost(price, prompt_tokens=prompt, completion_tokens=completion) == expected


@given(
    st.sampled_from([MESSAGE, TOKEN, MIXED]),
    st.integers(0, 10**6),
    st.integers(0, 8192),
    st.integers(0, 8192),
)
def test_the_maximum_bounds_every_answer(price: Price, prompt: int, most: int, done: int) -> None:
    """T3: the hold covers the prompt and the longest answer at the list price."""
    most, done = max(most, done), min(most, done)
    cost = pricing.cost(price, prompt_tokens=prompt, completion_tokens=done)
    assert cost <= pricing.maximum(price, prompt_tokens=prompt, max_tokens=most)


def test_versions_stay_and_the_newest_in_force_counts(database: Database) -> None:
    """T25: a reply's price is that of the version it has pinned."""

    def publish(micro: int, **more: int) -> Price:
        return database.write(
            lambda session: pricing.publish(
                session,
                model_id="m",
                kind="per_message",
                per_message=micro,
                **{"now": NOON, **more},
            )
        )

    assert publish(5).version == 1
    assert publish(6).version == 2
    assert publish(7, valid_from=NOON + SECOND).version == 3
    with database.read() as session:
        assert pricing.current(session, "m", NOON).per_message == 6
        assert pricing.current(session, "m", NOON + SECOND).per_message == 7
        assert pricing.version(session, "m", 1).per_message == 5
        assert pricing.current(session, "m", NOON - 1).per_message == 5, "a clock was set back"


def test_a_model_without_a_price_is_not_for_sale(database: Database) -> None:
    """T22."""
    with database.read() as session:
        with pytest.raises(pricing.Unpriced):
            pricing.current(session, "unknown", NOON)
        with pytest.raises(pricing.Unpriced):
            pricing.version(session, "unknown", 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "per_message", "per_message": -1},
        {"kind": "per_message"},
        {"kind": "per_message", "per_message": 1, "input_per_million": 1},
        {"kind": "per_token", "input_per_million": 1},
        {"kind": "per_token", "input_per_million": 1, "output_per_million": -1},
        {"kind": "mixed", "input_per_million": 1, "output_per_million": 1},
        {"kind": "free"},
        {"kind": "per_message", "per_message": 1, "per_image": -1},
        {"kind": "per_message", "per_message": 10**6 * MICRO},
        {"kind": "per_message", "per_message": float("nan")},
        {"kind": "per_message", "per_message": 1.0},
        {"kind": "per_message", "per_message": True},
        {"kind": "per_message", "per_message": 1, "tiers": [Tier("messages", 1, -1)]},
        {"kind": "per_message", "per_message": 1, "tiers": [Tier("messages", 1)]},
        {"kind": "per_message", "per_message": 1, "tiers": [Tier("messages", 0, 1)]},
        {"kind": "per_message", "per_message": 1, "tiers": [Tier("days", 1, 1)]},
        {
            "kind": "per_message",
            "per_message": 1,
            "tiers": [Tier("messages", 5, 1), Tier("messages", 5, 1)],
        },
        {
            "kind": "per_message",
            "per_message": 1,
            "tiers": [Tier("messages", 5, 1), Tier("credits", 6, 1)],
        },
        {
            "kind": "per_message",
            "per_message": 1,
            "tiers": [Tier("messages", number, 1) for number in range(1, 12)],
        },
    ],
)
def test_impossible_prices_are_refused(sqlite_database: Database, wrong: dict[str, object]) -> None:
    """T20, T21."""
    with pytest.raises(pricing.BadPrice):
        sqlite_database.write(
            lambda session: pricing.publish(session, model_id="m", now=NOON, **wrong)  # type: ignore[arg-type]
        )


def test_the_database_takes_no_negative_price(database: Database) -> None:
    """T20: a price below zero would mint credits."""
    for values in ("'per_message', -1", "'per_token', NULL", "'per_message', NULL"):
        with pytest.raises(IntegrityError, match="ck_price"):
            database.write(
                lambda session, part=values: session.execute(
                    text(
                        "INSERT INTO price (model_id, version, valid_from, kind, per_message) "
                        f"VALUES ('m', 1, 0, {part})"
                    )
                )
            )


def test_seeding_prices_leaves_what_is_there(database: Database) -> None:
    database.write(lambda session: pricing.seed(session, prices={"a": 1, "b": 2}, now=NOON))
    database.write(
        lambda session: pricing.publish(
            session, model_id="a", kind="per_message", per_message=9, now=NOON
        )
    )
    database.write(lambda session: pricing.seed(session, prices={"a": 1, "c": 3}, now=NOON))
    with database.read() as session:
        assert [pricing.current(session, m, NOON).per_message for m in "abc"] == [9, 2, 3]


def test_a_price_as_json_has_decimal_strings() -> None:
    assert MIXED.as_json() == {
        "kind": "mixed",
        "per_message": "1",
        "input_per_million": "0.000001",
        "output_per_million": "0.5",
        "per_image": None,
        "version": 1,
        "tiers": [],
    }


def test_images_are_part_of_the_price(database: Database) -> None:
    """An answer without tokens is free, whatever was shown to the model."""
    seeing = Price("m", 1, "per_message", per_message=2 * MICRO, per_image=3 * MICRO)
    tokens = {"prompt_tokens": 9, "completion_tokens": 1}
    assert pricing.cost(seeing, **tokens) == 2 * MICRO
    assert pricing.cost(seeing, **tokens, images=2) == 8 * MICRO
    assert pricing.cost(seeing, prompt_tokens=9, completion_tokens=0, images=2) == 0
    assert pricing.maximum(seeing, prompt_tokens=9, max_tokens=50, images=2) == 8 * MICRO
    assert pricing.cost(MESSAGE, **tokens, images=5) == 10 * MICRO


@given(
    st.sampled_from([MESSAGE, TOKEN, MIXED]),
    st.integers(0, 10**6),
    st.integers(1, 8192),
    st.integers(0, 20 * MICRO),
)
def test_the_longest_answer_within_a_limit(
    price: Price, prompt: int, most: int, limit: int
) -> None:
    """Not one token less than fits, and none more."""
    tokens = pricing.longest(price, prompt_tokens=prompt, max_tokens=most, limit=limit)

    def cost(count: int) -> int:
        return pricing.cost(price, prompt_tokens=prompt, completion_tokens=count)

    assert 0 <= tokens <= most
    assert tokens == 0 or cost(tokens) <= limit
    assert tokens == most or cost(tokens + 1) > limit


def test_tiers_follow_the_volume_of_the_month(database: Database) -> None:
    """T25: a reply's price is that of the version and the tier it has pinned."""
    tiers = [
        Tier("messages", 10, input_per_million=2 * MICRO, output_per_million=4 * MICRO),
        Tier("messages", 100, input_per_million=1, output_per_million=1, per_image=7),
    ]
    made = database.write(
        lambda session: pricing.publish(
            session,
            model_id="m",
            kind="per_token",
            input_per_million=3 * MICRO,
            output_per_million=6 * MICRO,
            tiers=tiers,
            now=NOON,
        )
    )
    with database.read() as session:
        found = pricing.current(session, "m", NOON)
        assert found == made
        assert pricing.version(session, "m", 1, 2).per_image == 7
        assert pricing.for_user(session, "m", user_id=1, now=NOON) == found
    by_messages = [found.after(Volume(10**9, count)).tier for count in (0, 9, 10, 99, 100, 10**6)]
    assert by_messages == [0, 0, 1, 1, 2, 2]
    assert found.at(1).output_per_million == 4 * MICRO
    assert found.as_json()["tiers"][1] == {
        "unit": "messages",
        "from": 100,
        "per_message": None,
        "input_per_million": "0.000001",
        "output_per_million": "0.000001",
        "per_image": "0.000007",
    }
    bought = replace(MESSAGE, tiers=(Tier("credits", 5 * MICRO, per_message=1),))
    assert [bought.after(Volume(micro, 99)).tier for micro in (0, 5 * MICRO - 1, 5 * MICRO)] == [
        0,
        0,
        1,
    ]


def test_published_prices_are_never_changed(database: Database) -> None:
    """Holds, receipts and usage name them by version."""
    database.write(lambda session: pricing.seed(session, prices={"a": 5}, now=NOON))
    for statement in ("UPDATE price SET per_message = 0", "DELETE FROM price"):
        with pytest.raises(IntegrityError, match="append-only"):
            database.write(lambda session, change=statement: session.execute(text(change)))


def test_a_model_is_taken_off_the_shelf_and_put_back(database: Database) -> None:
    database.write(lambda session: pricing.seed(session, prices={"a": 1, "b": 1}, now=NOON))

    def put(offered: bool) -> bool:
        return database.write(
            lambda session: pricing.offer(session, "a", offered=offered, now=NOON)
        )

    assert not put(True)
    assert put(False)
    assert not put(False)
    with database.read() as session:
        assert pricing.offered(session, "b")
        with pytest.raises(pricing.NotOffered):
            pricing.for_user(session, "a", user_id=1, now=NOON)
    assert put(True)
    with database.read() as session:
        assert pricing.for_user(session, "a", user_id=1, now=NOON).per_message == 1
