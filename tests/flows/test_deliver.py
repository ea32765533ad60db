"""From a cause to the wire: purchases, faults of each channel, crashes, dead letters."""

import asyncio
import json
from collections.abc import Sequence
from email import message_from_bytes, policy
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook

from chat_app.app import App
from chat_app.clock import ManualClock
from chat_app.flows import deliver, notices, purchase
from chat_app.notify import inbox, outbox, preferences, webhooks
from chat_app.notify.tables import OutboxRow
from tests.apps import in_loop, person, running_app
from tests.notify import receivers


async def buy(app: App, user_id: int, key: str = "k") -> str:
    """A paid order."""
    order = await purchase.buy(app, user_id=user_id, package_code="starter", key=key)
    await purchase.confirm(app, user_id=user_id, payment_id=order.id)
    return order.id


def rows(app: App, **more: str) -> Sequence[OutboxRow]:
    """What is in the outbox, newest first."""
    with app.db.read() as session:
        return outbox.page(session, limit=50, **more)[0]


def hook(app: App, user_id: int, url: str, *events: str) -> tuple[str, str]:
    """A webhook's id and secret."""
    endpoint, secret = app.db.write(
        lambda s: webhooks.add(
            s, user_id=user_id, url=url, events=events, key=app.secrets.link_key, most=5,
            allowed=app.wire.allowed, now=app.clock.micros(),
        )
    )  # fmt: skip
    return endpoint.id, secret


def allow(receiver: receivers.Web, **more: object) -> dict[str, object]:
    """Settings that let webhooks reach this receiver."""
    return {"webhook_allow": receiver.place, "retry_seconds": 1, **more}


@in_loop
async def test_a_purchase_is_confirmed_on_every_channel_once(
    tmp_path: Path, database_url: str
) -> None:
    with receivers.web() as receiver:
        async with running_app(tmp_path, url=database_url, notifications=allow(receiver)) as app:
            ann = await person(app)
            _, secret = hook(app, ann, receiver.url, "payment.paid")
            order = await buy(app, ann)
            for _ in range(3):
                await purchase.confirm(app, user_id=ann, payment_id=order)
            assert deliver.deliver_due(app) == 2
            assert deliver.deliver_due(app) == 0
            with app.db.read() as session:
                ((told,), _) = inbox.page(session, user_id=ann, limit=9)
                assert inbox.unread(session, user_id=ann) == 1
            assert told.title.endswith("credits added")
            (file,) = (tmp_path / "outbox").glob("*.eml")
            mail = message_from_bytes(file.read_bytes(), policy=policy.default)
            assert mail["To"] == "alice@example.org"
            assert "notifications/unsubscribe?token=" in mail["List-Unsubscribe"]
            (call,) = receiver.calls
            body = Webhook(secret).verify(call.body, call.headers)
            assert body["type"] == "payment.paid"
            assert body["data"]["payment"] == order
            assert {row.state for row in rows(app)} == {"sent"}


@in_loop
async def test_nothing_leaves_for_a_payment_that_was_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_app(tmp_path) as app:
        ann = await person(app)
        order = await purchase.buy(app, user_id=ann, package_code="starter", key="k")
        real = notices.paid

        def late(*given: object, **more: object) -> None:
            real(*given, **more)  # type: ignore[arg-type]
            raise RuntimeError("the last step failed")

        monkeypatch.setattr(notices, "paid", late)
        with pytest.raises(RuntimeError):
            await purchase.confirm(app, user_id=ann, payment_id=order.id)
        assert rows(app) == []
        assert deliver.deliver_due(app) == 0


@in_loop
async def test_a_crash_between_wire_and_mark_repeats_under_the_same_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least once to the wire: the receiver sees one id twice and can tell."""
    clock = ManualClock()
    with receivers.web() as receiver:
        async with running_app(tmp_path, clock=clock, notifications=allow(receiver)) as app:
            ann = await person(app)
            hook(app, ann, receiver.url, "payment.paid")
            await buy(app, ann)

            def crash(*_given: object, **_more: object) -> bool:
                raise SystemExit("killed")

            monkeypatch.setattr(outbox, "sent", crash)
            with pytest.raises(SystemExit):
                await asyncio.to_thread(deliver.deliver_due, app)
            monkeypatch.undo()
            assert deliver.deliver_due(app) == 0
            clock.advance(seconds=outbox.LEASE_SECONDS)
            assert deliver.deliver_due(app) == 2
            assert len(receiver.calls) == 2
            one, two = receiver.calls
            assert one.headers["webhook-id"] == two.headers["webhook-id"]
            assert one.body == two.body
            assert len(list((tmp_path / "outbox").glob("*.eml"))) == 1


@in_loop
async def test_two_processes_deliver_each_message_once(tmp_path: Path, database_url: str) -> None:
    with receivers.web() as receiver:
        async with running_app(tmp_path, url=database_url, notifications=allow(receiver)) as app:
            ann = await person(app)
            hook(app, ann, receiver.url, "payment.paid")
            for number in range(10):
                await buy(app, ann, f"k{number}")
            both = await asyncio.gather(
                *(asyncio.to_thread(deliver.deliver_due, app) for _ in range(2))
            )
            assert sum(both) == 20
            ids = [call.headers["webhook-id"] for call in receiver.calls]
            assert len(ids) == len(set(ids)) == 10


@in_loop
async def test_a_receiver_that_fails_gets_it_later_and_at_last_never(tmp_path: Path) -> None:
    clock = ManualClock()
    with receivers.web() as receiver:
        receiver.answer = 500
        options = allow(receiver, attempts=3)
        async with running_app(tmp_path, clock=clock, notifications=options) as app:
            ann = await person(app)
            webhook_id, _ = hook(app, ann, receiver.url, "payment.paid")
            await buy(app, ann)
            for _ in range(3):
                deliver.deliver_due(app)
                clock.advance(seconds=5)
            (row,) = rows(app, target=webhook_id)
            assert (row.state, row.attempts) == ("dead", 3)
            assert row.error == "status 500"
            receiver.answer = 200
            assert deliver.deliver_due(app) == 0
            app.db.write(
                lambda s: outbox.resend(s, message_id=row.message_id, now=app.clock.micros())
            )
            assert deliver.deliver_due(app) == 1
            assert {call.headers["webhook-id"] for call in receiver.calls} == {row.message_id}


@in_loop
async def test_a_webhook_that_is_gone_is_switched_off_and_its_owner_told(tmp_path: Path) -> None:
    with receivers.web() as receiver:
        receiver.answer = 410
        async with running_app(tmp_path, notifications=allow(receiver)) as app:
            ann = await person(app)
            webhook_id, _ = hook(app, ann, receiver.url, "payment.paid")
            await buy(app, ann)
            deliver.deliver_due(app)
            with app.db.read() as session:
                assert not webhooks.get(session, user_id=ann, webhook_id=webhook_id).enabled
                told = [row.kind for row in inbox.page(session, user_id=ann, limit=9)[0]]
            assert told == ["webhook_stopped", "payment_paid"]
            await buy(app, ann, "k2")
            deliver.deliver_due(app)
            assert len(receiver.calls) == 1


@in_loop
async def test_a_name_that_leads_inside_is_a_dead_letter_without_a_call(tmp_path: Path) -> None:
    with receivers.web() as canary:
        async with running_app(tmp_path) as app:
            app.wire.resolver = lambda _host, _port: ["127.0.0.1"]
            ann = await person(app)
            webhook_id, _ = hook(app, ann, "http://inside.example/", "payment.paid")
            await buy(app, ann)
            deliver.deliver_due(app)
            (row,) = rows(app, target=webhook_id)
            assert row.state == "dead"
            assert "not public" in (row.error or "")
            assert canary.calls == []


@in_loop
async def test_a_mail_server_that_is_down_delays_and_one_that_refuses_ends(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    with receivers.post() as post:
        mail = {"kind": "smtp", "host": "127.0.0.1", "port": post.port, "tls": "none"}
        async with running_app(tmp_path, clock=clock, mail=mail) as app:
            ann = await person(app)
            post.reply = "451 try later"
            await buy(app, ann)
            deliver.deliver_due(app)
            assert rows(app)[0].state == "waiting"
            assert "451" in (rows(app)[0].error or "")
            post.reply = "250 OK"
            clock.advance(seconds=60)
            assert deliver.deliver_due(app) == 1
            assert [mail["To"] for mail in post.mails] == ["alice@example.org"]
            post.recipient_reply = "550 no such user"
            await buy(app, ann, "k2")
            deliver.deliver_due(app)
            assert rows(app)[0].state == "dead"


@in_loop
async def test_a_test_call_says_how_it_went(tmp_path: Path) -> None:
    with receivers.web() as receiver:
        async with running_app(tmp_path, notifications=allow(receiver)) as app:
            ann = await person(app)
            webhook_id, secret = hook(app, ann, receiver.url, "balance.low")
            row = deliver.test_webhook(app, user_id=ann, webhook_id=webhook_id)
            assert row.state == "sent"
            (call,) = receiver.calls
            assert Webhook(secret).verify(call.body, call.headers)["type"] == "test"
            receiver.answer = 503
            row = deliver.test_webhook(app, user_id=ann, webhook_id=webhook_id)
            assert (row.state, row.error) == ("dead", "status 503")
            with pytest.raises(webhooks.UnknownWebhook):
                deliver.test_webhook(app, user_id=ann + 1, webhook_id=webhook_id)


@in_loop
async def test_who_wants_no_mail_gets_none_and_security_always(tmp_path: Path) -> None:
    async with running_app(tmp_path) as app:
        ann = await person(app)
        key = app.secrets.link_key
        token = preferences.link_token(key, user_id=ann, topic="purchases")
        user_id, topic = preferences.read_token(key, token)
        app.db.write(
            lambda s: preferences.choose(s, user_id=user_id, wanted={topic: {"mail": False}}, now=1)
        )
        await buy(app, ann)
        app.db.write(
            lambda s: notices.security(s, user_id=ann, key="1", title="A", text="b.", now=1)
        )
        assert [row.kind for row in rows(app)] == ["security_notice"]
        for bad in (token[:-1] + "0" * (token[-1] != "0") + "1" * (token[-1] == "0"),
                    f"{ann + 1}.purchases." + token.rpartition(".")[2], "", "x", "1.security.ab",
                    preferences.link_token(key, user_id=ann, topic="security")):  # fmt: skip
            with pytest.raises(preferences.BadUnsubscribeLink):
                preferences.read_token(key, bad)


@in_loop
async def test_an_announcement_reaches_everybody_once_across_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "PEOPLE_AT_ONCE", 2)
    async with running_app(tmp_path) as app:
        people = [await person(app, f"person{number}") for number in range(5)]
        await notices.announce(app, admin_id=people[0], title="New prices", text="From Monday.")
        real, rounds = notices._spread_some, []

        def crash(*given: object) -> int | None:
            rounds.append(1)
            if len(rounds) == 2:
                real(*given)  # type: ignore[arg-type]
                raise RuntimeError("killed")
            return real(*given)  # type: ignore[arg-type]

        monkeypatch.setattr(notices, "_spread_some", crash)
        with pytest.raises(RuntimeError):
            notices.spread(app)
        assert notices.spread(app) == 3
        assert notices.spread(app) == 0
        with app.db.read() as session:
            for user_id in people:
                ((told,), _) = inbox.page(session, user_id=user_id, limit=9)
                assert (told.kind, told.title) == ("announcement", "New prices")
        assert len([row for row in rows(app) if json.loads(row.data)["title"]]) == 5
