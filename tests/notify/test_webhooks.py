"""Webhooks: signatures that the standard's own library accepts, secrets that are nowhere stored."""

import json

import pytest
from sqlalchemy import text
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from chat_app.clock import to_micros
from chat_app.db import Database
from chat_app.notify import webhooks
from chat_app.notify.webhooks import BadEvents, Endpoint, TooManyWebhooks, UnknownWebhook
from chat_app.notify.wire import BadWebhookUrl

KEY = b"k" * 32
URL = "https://example.org/hook"
DAY = 24 * 3600 * 1_000_000


def now() -> int:
    """The real time: the standard's library compares with it."""
    from datetime import UTC, datetime

    return to_micros(datetime.now(UTC))


def add(database: Database, user_id: int = 1, **more: object) -> tuple[Endpoint, str]:
    """An endpoint and its secret."""
    values: dict[str, object] = {
        "url": URL, "events": ["balance.low"], "key": KEY, "most": 5, "allowed": frozenset(),
        "now": now(), **more,
    }  # fmt: skip
    return database.write(lambda s: webhooks.add(s, user_id=user_id, **values))  # type: ignore[arg-type]


def signed(database: Database, webhook_id: str, body: bytes, at: int) -> dict[str, str]:
    """The headers of a call."""
    with database.read() as session:
        found = webhooks.headers_of(
            session, webhook_id=webhook_id, message_id="ntf_1", body=body, key=KEY, now=at
        )
    assert found is not None
    assert found[0] == URL
    return found[1]


BODY = webhooks.body_of("balance_low", {"total": "19"}, created_at=1_767_268_800_000_000)


def test_the_standards_library_accepts_and_refuses(database: Database) -> None:
    """An independent oracle for the signature."""
    endpoint, secret = add(database)
    headers = signed(database, endpoint.id, BODY, now())
    assert Webhook(secret).verify(BODY, headers) == {
        "type": "balance.low",
        "timestamp": "2026-01-01T12:00:00Z",
        "data": {"total": "19"},
    }
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY + b" ", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY, headers | {"webhook-id": "ntf_2"})
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY, signed(database, endpoint.id, BODY, now() - DAY))
    other, other_secret = add(database)
    assert other_secret != secret
    with pytest.raises(WebhookVerificationError):
        Webhook(other_secret).verify(BODY, headers)
    assert other.id != endpoint.id


def test_after_a_rotation_both_secrets_work_for_a_day(database: Database) -> None:
    endpoint, old = add(database)
    changed, new = database.write(
        lambda s: webhooks.rotate(s, user_id=1, webhook_id=endpoint.id, key=KEY, now=now())
    )
    assert changed.previous_until is not None
    headers = signed(database, endpoint.id, BODY, now())
    for secret in (old, new):
        Webhook(secret).verify(BODY, headers)
    later = signed(database, endpoint.id, BODY, changed.previous_until)
    assert len(later["webhook-signature"].split()) == 1


def test_a_copy_of_the_database_signs_nothing(database: Database) -> None:
    """ASVS 13.3.1: the secret is derived from a key outside."""
    _, secret = add(database)
    with database.read() as session:
        row = session.execute(text("SELECT * FROM webhook_endpoint")).one()
    assert secret.removeprefix("whsec_") not in json.dumps([str(value) for value in row])


def test_an_endpoint_is_its_owners(database: Database) -> None:
    endpoint, _ = add(database, user_id=1)
    with pytest.raises(UnknownWebhook), database.read() as session:
        webhooks.get(session, user_id=2, webhook_id=endpoint.id)
    for story in (
        lambda s: webhooks.remove(s, user_id=2, webhook_id=endpoint.id, now=1),
        lambda s: webhooks.rotate(s, user_id=2, webhook_id=endpoint.id, key=KEY, now=1),
        lambda s: webhooks.change(
            s, user_id=2, webhook_id=endpoint.id, allowed=frozenset(), enabled=False
        ),
    ):
        with pytest.raises(UnknownWebhook):
            database.write(story)
    database.write(lambda s: webhooks.remove(s, user_id=1, webhook_id=endpoint.id, now=1))
    with database.read() as session:
        assert webhooks.of(session, user_id=1) == []
        assert (
            webhooks.headers_of(
                session, webhook_id=endpoint.id, message_id="m", body=b"", key=KEY, now=1
            )
            is None
        )


def test_wrong_endpoints_are_refused(database: Database) -> None:
    for error, more in (
        (BadEvents, {"events": []}),
        (BadEvents, {"events": ["balance.low", "everything"]}),
        (BadWebhookUrl, {"url": "http://127.0.0.1/"}),
        (TooManyWebhooks, {"most": 0}),
    ):
        with pytest.raises(error):
            add(database, **more)


def test_an_endpoint_that_keeps_failing_is_switched_off(database: Database) -> None:
    endpoint, _ = add(database)
    ends = [database.write(lambda s: webhooks.gave_up(s, webhook_id=endpoint.id)) for _ in range(2)]
    database.write(lambda s: webhooks.called(s, webhook_id=endpoint.id))
    ends += [
        database.write(lambda s: webhooks.gave_up(s, webhook_id=endpoint.id)) for _ in range(3)
    ]
    assert [end is not None for end in ends] == [False, False, False, False, True]
    assert database.write(lambda s: webhooks.gave_up(s, webhook_id=endpoint.id)) is None
    back = database.write(
        lambda s: webhooks.change(
            s, user_id=1, webhook_id=endpoint.id, allowed=frozenset(), enabled=True
        )
    )
    assert (back.enabled, back.failures) == (True, 0)
