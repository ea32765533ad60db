"""A person is erased: nothing of them is found in any file, and the books still verify."""

import asyncio
import json
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlmodel import Session, select

from chat_app import migrations
from chat_app.accounts import profile, users
from chat_app.accounts.passwords import Passwords
from chat_app.app import App
from chat_app.chat import feedback, presets
from chat_app.chat.parameters import Parameters
from chat_app.chat.tables import Conversation
from chat_app.credits import leaving, ledger
from chat_app.credits.invoices import details
from chat_app.credits.invoices.details import BillingDetails
from chat_app.errors import AppError
from chat_app.flows import (
    books,
    deliver,
    erase,
    export,
    people,
    purchase,
    reconcile,
    signin,
    transfer,
)
from chat_app.flows import orgs as clubs
from chat_app.flows import profile as profiles
from chat_app.money import MICRO
from chat_app.notify.tables import WebhookRow
from tests.apps import PASSWORD, answer, ask, in_loop, person, running_app
from tests.flows.test_images import SEES, shot

NAME = "quentinia"
TRACES = (NAME, "zanzibar", "Quentinia Q", "Europe/Tallinn", "9 Harbour Street", "203.0.113.7")
RICH: dict[str, Any] = {
    "accounts": {"welcome_credits": 1000},
    "transfers": {"sources": "welcome paid"},
}
NEW = "another horse battery staple"


async def lived(app: App, *, paid: bool = False) -> int:
    """A life: talks with an image, transfers with notes, mails, webhooks, billing details."""
    app.passwords = Passwords(app.secrets.pepper, cost=4)
    ann = await person(app, NAME)
    bob = await person(app, "bob")
    long = "zanzibar " * 3000  # more than a page of the file
    for said, more in ((long, {}), ("zanzibar?", {"model": SEES, "images": [shot()]})):
        begun = await ask(app, ann, said, system="Speak of zanzibar.", **more)
        await answer(app, ann, begun)
    app.db.write(lambda session: rename(session, ann))
    golem = Parameters(system="zanzibar")
    app.db.write(
        lambda session: presets.save(session, user_id=ann, name="Zanzibar", settings=golem, now=1)
    )
    app.db.write(
        lambda session: feedback.put(
            session, user_id=ann, message_id=begun.message_id, vote="up", note="zanzibar", now=1
        )
    )
    await transfer.send(app, user_id=ann, to_username="bob", micro=MICRO, key="1", note="zanzibar!")
    await transfer.send(app, user_id=bob, to_username=NAME, micro=MICRO, key="2", note="thanks")
    await profiles.change(
        app, user_id=ann, display_name="Quentinia Q", language="et", timezone="Europe/Tallinn"
    )
    given = BillingDetails(name="Quentinia Q", address="9 Harbour Street", country="EE")
    app.db.write(lambda s: details.put(s, user_id=ann, given=given, now=1))
    hook = WebhookRow(
        id="whk_1", user_id=ann, url="https://zanzibar.example.org", events="[]", created_at=1
    )
    app.db.write(lambda session: session.add(hook))
    await signin.change_password(
        app, user_id=ann, current=PASSWORD, new=NEW, ip="203.0.113.7", agent="zanzibar 1.0"
    )
    club = await clubs.create(app, user_id=bob, name="Harbour", key="club")
    await clubs.add_member(app, user_id=bob, org_id=club.id, username=NAME)
    await clubs.fund(app, user_id=ann, org_id=club.id, micro=MICRO, key="fund")
    if paid:
        order = await purchase.buy(app, user_id=ann, package_code="starter", key="order")
        await purchase.confirm(app, user_id=ann, payment_id=order.id)
    await asyncio.to_thread(deliver.deliver_due, app)
    return ann


def rename(session: Session, user_id: int) -> None:
    for row in session.exec(select(Conversation).where(Conversation.user_id == user_id)):
        row.title = "About zanzibar"
        session.add(row)


def traces(folder: Path) -> list[str]:
    """Which files of the data directory still say something about the person."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes().lower()
            found += [f"{path.name}: {text}" for text in TRACES if text.lower().encode() in data]
    return found


def proven(app: App) -> None:
    """The books, the seals and the reconciliation are clean."""
    books.seal_and_anchor(app)
    key = app.secrets.audit_key
    assert books.prove(app.db, key=key, data_dir=app.settings.data_dir) == []
    assert reconcile.run(app).found == 0


async def gone(app: App, user_id: int, **more: Any) -> None:
    """Erase the account with the right password."""
    given = {"password": NEW, "forfeit": True, "ip": "203.0.113.7", **more}
    await erase.account(app, user_id=user_id, **given)


# Rows that stay under the account's number: the books and what they follow from, and a keyed hash
# that keeps free credits from being farmed. All others go.
STAY = {
    "account", "auto_topup_order", "budget", "conversation", "demo_user", "dispute",
    "fraud_assessment", "free_gift", "invoice", "message_feedback", "payment", "payment_customer",
    "periodic_grant", "redemption", "reply", "subscription", "usage", "usage_day", "usage_minute",
    "usage_month",
}  # fmt: skip
GO = {
    "alert_rule", "alert_state", "announcement_dismissal", "auto_topup", "billing_details",
    "conversation_share", "folder", "inbox_message", "message_image", "notify_preference",
    "outbox", "preset", "spend_limit", "transfer_note", "usage_summary", "webhook_endpoint",
}  # fmt: skip


def test_every_table_about_people_has_a_fate() -> None:
    """A new table with a user is said to stay or to go; those of accounts/ go by themselves."""
    tables = migrations.metadata().tables.values()
    about = {table.name for table in tables if "user_id" in table.c}
    by_themselves = {table.name for table in profile.tables_about_people("chat_app.accounts.")}
    assert by_themselves >= {"session", "org_member"}
    assert about - by_themselves - STAY - GO == set()
    assert about >= GO


@in_loop
async def test_nothing_of_a_person_is_left_in_any_file(tmp_path: Path) -> None:
    """Bar 37: database, its log, images, mails; seals made before still hold."""
    async with running_app(tmp_path, **RICH) as app:
        ann = await lived(app)
        books.seal_and_anchor(app)
        before = traces(tmp_path)
        assert any(line.startswith("chat.db") for line in before), before
        assert any(".eml" in line for line in before), before
        assert list((tmp_path / "images" / str(ann)).iterdir())
        await gone(app, ann)
        assert traces(tmp_path) == []
        assert not (tmp_path / "images" / str(ann)).exists()
        assert app.cache.stats()["entries"] == 0
        proven(app)
        with app.db.read() as session:
            user = users.get(session, ann)
            assert (user.username, user.email) == (f"erased-{ann}", "")
            left = [
                name
                for name in GO | {"session", "org_member"}
                if session.connection()
                .execute(text(f"SELECT 1 FROM {name} WHERE user_id = {ann}"))
                .first()
            ]
            assert left == []
            rows, _ = ledger.transactions(session, user_id=ann)
            assert [row.description for row in rows if row.type == "adjustment"] == [leaving.REASON]
            assert f"erased-{ann} → bob" in [row.description for row in rows]
            assert ledger.balance(session, user_id=ann).total == 0
    assert traces(tmp_path) == []


@pytest.mark.postgres
@in_loop
async def test_on_postgresql_no_row_names_the_person(
    tmp_path: Path, empty_postgres_url: str
) -> None:
    async with running_app(tmp_path, url=empty_postgres_url, **RICH) as app:
        ann = await lived(app)
        await gone(app, ann)
        from sqlmodel import SQLModel

        with app.db.read() as session:
            for table in SQLModel.metadata.sorted_tables:
                text = str(session.connection().execute(table.select()).all()).lower()
                assert [found for found in TRACES if found.lower() in text] == [], table.name
        proven(app)


@in_loop
async def test_invoices_keep_their_buyer_and_nothing_else_does(tmp_path: Path) -> None:
    """The law asks for invoices as they were issued; everything around them goes."""
    async with running_app(tmp_path, **RICH) as app:
        ann = await lived(app, paid=True)
        await gone(app, ann)
        from sqlmodel import SQLModel

        with app.db.read() as session:
            naming = [
                table.name
                for table in SQLModel.metadata.sorted_tables
                if any(
                    found.lower() in str(session.connection().execute(table.select()).all()).lower()
                    for found in TRACES
                )
            ]
        assert naming == ["invoice"]
        proven(app)


@in_loop
async def test_who_cannot_be_erased_is_told_what_to_do(tmp_path: Path) -> None:
    """T31: credits never vanish in silence, and nothing has changed after a refusal."""
    async with running_app(tmp_path, **RICH) as app:
        ann = await lived(app)

        async def refused(code: str, user: int = ann, **more: Any) -> AppError:
            with pytest.raises(AppError) as why:
                await gone(app, user, **more)
            assert why.value.code == code
            return why.value

        await refused("wrong_current_password", password="wrong")
        left = await refused("credits_left", forfeit=False)
        assert float(str(left.facts["available"])) > 900
        club = await clubs.create(app, user_id=ann, name="Own club", key="own")
        owner = await refused("owns_organisation")
        assert owner.facts["organisations"] == ["Own club"]
        await clubs.close(app, user_id=ann, org_id=club.id)
        app.db.write(lambda s: users.set_role(s, user_id=ann, role="admin"))
        await refused("last_admin")
        with app.db.read() as session:
            assert users.get(session, ann).username == NAME
        bob = 2
        app.db.write(lambda s: users.set_role(s, user_id=bob, role="admin"))
        await gone(app, ann)
        await refused("wrong_current_password")
        with pytest.raises(profile.AlreadyErased):
            await people.change(app, admin_id=bob, user_id=ann, suspended=False)
        with pytest.raises(signin.WrongPassword):
            await signin.login(app, login=NAME, password=NEW, ip="203.0.113.7")
        with pytest.raises(signin.WrongPassword):
            await signin.login(app, login=f"erased-{ann}", password="", ip="203.0.113.7")
        with pytest.raises(users.BadUsername):
            await person(app, "Erased-5")
        assert await person(app, NAME) != ann
        proven(app)


@in_loop
async def test_a_running_answer_is_stopped_and_paid_first(tmp_path: Path) -> None:
    slow = {"script": {"tokens": 400, "tokens_per_second": 40}}
    async with running_app(tmp_path, **RICH, **slow) as app:
        app.passwords = Passwords(app.secrets.pepper, cost=4)
        ann = await person(app, NAME)
        await ask(app, ann, "zanzibar")
        await gone(app, ann, password=PASSWORD)
        assert traces(tmp_path) == []
        proven(app)


@in_loop
async def test_the_export_has_everything_and_no_secret(tmp_path: Path) -> None:
    """A ZIP whose files are JSON; what signs somebody in is not in it."""
    async with running_app(tmp_path, **RICH) as app:
        ann = await lived(app, paid=True)
        data = b"".join(await asyncio.to_thread(lambda: list(export.archive(app, user_id=ann))))
        pack = zipfile.ZipFile(BytesIO(data))
        assert pack.testzip() is None
        files = {name: pack.read(name) for name in pack.namelist()}
        found = {name: json.loads(text) for name, text in files.items() if name.endswith(".json")}
        assert found["profile.json"]["display_name"] == "Quentinia Q"
        talks = found["conversations.json"]
        assert {talk["title"] for talk in talks} == {"About zanzibar"}
        assert all(len(talk["messages"]) == 2 for talk in talks)
        assert {"transfer", "purchase", "message", "welcome"} <= {
            row["type"] for row in found["transactions.json"]
        }
        assert found["organisations.json"][0]["name"] == "Harbour"
        assert found["sessions.json"][0]["ip"] == "203.0.113.7"
        assert found["payments.json"][0]["amount_minor"] > 0
        assert found["lots.json"]
        assert found["more/usage.json"]
        assert found["billing_details.json"][0]["address"] == "9 Harbour Street"
        assert [files[name][:5] for name in files if name.startswith("invoices/")] == [b"%PDF-"]
        assert [files[name][1:4] for name in files if name.startswith("images/")] == [b"PNG"]
        with app.db.read() as session:
            stored = users.get(session, ann).password_hash
            others = users.get(session, 2).email
        whole = b"".join(files.values())
        assert stored.encode() not in whole
        assert b"_hash" not in whole
        assert others.encode() not in whole
        assert ann not in app.exports


@in_loop
async def test_one_export_at_a_time(tmp_path: Path) -> None:
    async with running_app(tmp_path) as app:
        ann = await person(app)
        first = export.archive(app, user_id=ann)
        next(first)
        with pytest.raises(export.ExportRunning):
            export.archive(app, user_id=ann)
        first.close()  # type: ignore[attr-defined]
        assert b"".join(export.archive(app, user_id=ann))


@in_loop
async def test_a_profile_takes_only_what_exists(tmp_path: Path) -> None:
    async with running_app(tmp_path) as app:
        ann = await person(app)
        for wrong in (
            {"display_name": "x" * 65},
            {"language": "english please"},
            {"timezone": "Mars/Olympus"},
        ):
            with pytest.raises(profile.BadProfile) as why:
                await profiles.change(app, user_id=ann, **wrong)
            assert why.value.facts["param"] in wrong
        user = await profiles.change(app, user_id=ann, display_name="  Ann   B ", language="de-AT")
        assert (user.display_name, user.language, user.timezone) == ("Ann B", "de-AT", "")
