"""Addresses and forgotten passwords, through the mails as they are written (.eml)."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from chat_app.accounts import links, mailboxes, users
from chat_app.accounts.links import BadLink, TooManyWishes
from chat_app.accounts.passwords import Passwords, WeakPassword
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.clock import ManualClock
from chat_app.credits import ledger
from chat_app.errors import AppError
from chat_app.flows import deliver, free, letters, mailbox, recover, signin, signup, welcome
from chat_app.money import MICRO
from chat_app.notify import outbox
from tests.apps import PASSWORD, in_loop, running_app

STRICT = {"require_verified_email": True}
NEW = "a wholly different phrase"
MINUTE = 60
IP = "8.8.8.8"


@asynccontextmanager
async def quick_app(data_dir: Path, **more: Any) -> AsyncIterator[App]:
    """A running app whose hashes cost little."""
    async with running_app(data_dir, **more) as app:
        app.passwords.close()
        app.passwords = Passwords(app.secrets.pepper, cost=4)
        yield app


class Mails:
    """The mails that have left, by whom they went to; each is read once."""

    def __init__(self, app: App, folder: Path) -> None:
        self.app = app
        self.folder = folder / "outbox"
        self.read: set[str] = set()

    def new(self) -> list[tuple[str, str, str]]:
        """Deliver, and return address, subject and text of the mails since the last look."""
        recover.answer_wishes(self.app)
        deliver.deliver_due(self.app)
        found = []
        for path in sorted(self.folder.glob("*.eml")):
            if path.name not in self.read:
                self.read.add(path.name)
                mail = message_from_bytes(path.read_bytes(), policy=policy.default)
                body = mail.get_body(("plain",))
                assert body is not None
                found.append((str(mail["To"]), str(mail["Subject"]), body.get_content()))
        return found

    def link(self, to: str, page: str) -> str:
        """The token of the only new mail, which goes to this address."""
        ((address, _, words),) = self.new()
        assert address == to
        token = re.search(rf"/#{page}=(\S+)", words)
        assert token is not None, words
        return token[1]


async def register(app: App, name: str, email: str = "", ip: str = IP) -> User:
    """A new account."""
    return await signup.register(
        app, username=name, email=email or f"{name}@example.org", password=PASSWORD, ip=ip
    )


def welcome_of(app: App, user: User) -> int:
    """The credits of an account."""
    with app.db.read() as session:
        return ledger.balance(session, user_id=user.id or 0).total // MICRO


def events(app: App, kind: str) -> list[dict[str, Any]]:
    """What the operator finds in the log of this type."""
    with app.db.read() as session:
        return [dict(event.facts) for event in audit.find(session, type=kind, limit=50)[0]]


@in_loop
async def test_confirming_gives_the_address_and_the_welcome_credits_once(
    tmp_path: Path, database_url: str
) -> None:
    """T34: nothing is free before the address was confirmed."""
    async with quick_app(tmp_path, url=database_url, accounts=STRICT) as app:
        mails = Mails(app, tmp_path)
        ann = await register(app, "ann")
        assert welcome_of(app, ann) == 0
        token = mails.link("ann@example.org", "verify")
        # By name at once; by address only when it is hers.
        await signin.login(app, login="ann", password=PASSWORD, ip=IP)
        with pytest.raises(signin.WrongPassword):
            await signin.login(app, login="ann@example.org", password=PASSWORD, ip=IP)
        outcomes = await asyncio.gather(
            *(mailbox.confirm(app, token=token, ip=IP) for _ in range(8)), return_exceptions=True
        )
        done = [one for one in outcomes if isinstance(one, mailbox.Confirmed)]
        assert [one.micro for one in done] == [100 * MICRO]
        assert sum(isinstance(one, BadLink) for one in outcomes) == 7
        assert welcome_of(app, ann) == 100
        await signin.login(app, login="Ann@Example.org", password=PASSWORD, ip=IP)
        with pytest.raises(mailbox.AlreadyVerified):
            await mailbox.resend(app, user_id=ann.id or 0)


@in_loop
async def test_a_taken_address_is_told_to_its_owner_alone(
    tmp_path: Path, database_url: str
) -> None:
    """Enumeration: the stranger's account looks like any other, and the address stays ann's."""
    clock = ManualClock()
    async with quick_app(tmp_path, url=database_url, accounts=STRICT, clock=clock) as app:
        mails = Mails(app, tmp_path)
        ann = await register(app, "ann")
        await mailbox.confirm(app, token=mails.link("ann@example.org", "verify"), ip=IP)
        mails.new()
        thief = await register(app, "thief", "ANN@example.org")
        fresh = await register(app, "fresh")
        for user in (thief, fresh):
            assert user.email_verified_at is None
            await signin.login(app, login=user.username, password=PASSWORD, ip=IP)
        found = {address: words for address, _, words in mails.new()}
        assert "ann: sign in with it" in " ".join(found["ann@example.org"].split())
        assert "#verify=" not in found["ann@example.org"]
        assert "#verify=" in found["fresh@example.org"]
        with app.db.read() as session:
            assert mailboxes.owner(session, "ann@example.org").id == ann.id  # type: ignore[union-attr]
        # The same pause and the same answer when they ask again; ann is told once in a day.
        for user in (thief, fresh):
            with pytest.raises(letters.MailJustSent) as refused:
                await mailbox.resend(app, user_id=user.id or 0)
            assert refused.value.retry_after_seconds <= MINUTE
        clock.advance(seconds=MINUTE + 1)
        for user in (thief, fresh):
            await mailbox.resend(app, user_id=user.id or 0)
        assert [address for address, _, _ in mails.new()] == ["fresh@example.org"]
        # Nothing else is mailed to an address that nobody has confirmed.
        await signin.change_password(app, user_id=thief.id or 0, current=PASSWORD, new=NEW, ip=IP)
        assert mails.new() == []


@in_loop
async def test_both_paths_of_registering_do_the_same_work(tmp_path: Path) -> None:
    """Bar 15: one hash, one account, one link and one mail each, whoever has the address."""
    async with quick_app(tmp_path, accounts=STRICT) as app:
        mails = Mails(app, tmp_path)
        await register(app, "ann")
        await mailbox.confirm(app, token=mails.link("ann@example.org", "verify"), ip=IP)
        hashes = 0
        original = app.passwords.hash_now

        def counted(password: str) -> str:
            nonlocal hashes
            hashes += 1
            return original(password)

        app.passwords.hash_now = counted  # type: ignore[method-assign]

        def rows() -> dict[str, int]:
            tables = ("user", "account_link", "outbox", "event_log", "free_gift", "transfer")
            with app.db.read() as session:
                return {
                    name: int(session.execute(text(f'SELECT count(*) FROM "{name}"')).scalar_one())
                    for name in tables
                }

        work = []
        for name, email in (("taken", "ann@example.org"), ("free", "free@example.org")):
            before, hashed = rows(), hashes
            await register(app, name, email)
            after = rows()
            work.append({key: after[key] - before[key] for key in after} | {"h": hashes - hashed})
        assert work[0] == work[1]
        assert (work[0]["h"], work[0]["outbox"]) == (1, 1)


@in_loop
async def test_without_verification_a_taken_address_is_a_conflict(tmp_path: Path) -> None:
    async with quick_app(tmp_path) as app:
        ann = await register(app, "ann")
        assert welcome_of(app, ann) == 100
        with pytest.raises(users.NameTaken):
            await register(app, "other", "Ann@example.org")
        await mailbox.resend(app, user_id=ann.id or 0)
        token = Mails(app, tmp_path).link("ann@example.org", "verify")
        assert (await mailbox.confirm(app, token=token, ip=IP)).micro == 0
        assert welcome_of(app, ann) == 100


@in_loop
async def test_links_are_bound_to_time_purpose_and_use(tmp_path: Path) -> None:
    clock = ManualClock()
    async with quick_app(tmp_path, accounts=STRICT, clock=clock) as app:
        mails = Mails(app, tmp_path)
        ann = await register(app, "ann")
        token = mails.link("ann@example.org", "verify")
        for wrong in ("", "nothing", token[:-1], token + "x", "\ud800", "x" * 512):
            with pytest.raises(BadLink):
                await mailbox.confirm(app, token=wrong, ip=IP)
        with pytest.raises(BadLink):  # another purpose
            await recover.reset(app, token=token, password=NEW, ip=IP)
        clock.advance(seconds=31 * MINUTE)
        with pytest.raises(BadLink):
            await mailbox.confirm(app, token=token, ip=IP)
        await mailbox.resend(app, user_id=ann.id or 0)
        await mailbox.confirm(app, token=mails.link("ann@example.org", "verify"), ip=IP)


@in_loop
async def test_the_database_holds_no_token(tmp_path: Path) -> None:
    """Bar 20: neither the outbox nor the links in it open a door."""
    async with quick_app(tmp_path, accounts=STRICT) as app:
        mails = Mails(app, tmp_path)
        await register(app, "ann")
        verify = mails.link("ann@example.org", "verify")
        await recover.ask(app, email="ann@example.org", ip=IP)
        reset = mails.link("ann@example.org", "reset")
        with app.db.engine.connect() as connection:
            dump = "\n".join(connection.connection.driver_connection.iterdump())  # type: ignore[union-attr]
        assert "Choose a new password" in dump
        for token in (verify, reset):
            assert len(token) == 43
            assert token not in dump


@in_loop
async def test_a_forgotten_password(tmp_path: Path, database_url: str) -> None:
    clock = ManualClock()
    async with quick_app(tmp_path, url=database_url, clock=clock) as app:
        mails = Mails(app, tmp_path)
        ann = await register(app, "ann")
        signed = await signin.login(app, login="ann", password=PASSWORD, ip=IP)
        for email in ("nobody@example.org", "Ann@Example.org"):
            await recover.ask(app, email=email, ip=IP)
        token = mails.link("ann@example.org", "reset")
        await recover.ask(app, email="ann@example.org", ip=IP)
        assert mails.new() == []  # one was sent a moment ago
        with pytest.raises(WeakPassword):
            await recover.reset(app, token=token, password="ann-example-org", ip=IP)
        outcomes = await asyncio.gather(
            *(recover.reset(app, token=token, password=NEW, ip=IP) for _ in range(3)),
            return_exceptions=True,
        )
        assert sorted(str(type(one).__name__) for one in outcomes) == [
            "BadLink", "BadLink", "NoneType",
        ]  # fmt: skip
        for stale in ({"cookie": signed.session_token}, {"bearer": signed.access_token}):
            with pytest.raises(AppError):
                await signin.identify(app, **stale)  # type: ignore[arg-type]
        with pytest.raises(signin.WrongPassword):
            await signin.login(app, login="ann", password=PASSWORD, ip=IP)
        await signin.login(app, login="ann", password=NEW, ip=IP)
        ((to, subject, _),) = mails.new()
        assert (to, subject) == ("ann@example.org", "Your password was changed")
        with app.db.read() as session:
            # The link proved the address as well.
            assert users.get(session, ann.id or 0).email_verified_at is not None
        assert len(events(app, "password_reset")) == 1


@in_loop
async def test_who_never_confirmed_can_still_choose_a_new_password(tmp_path: Path) -> None:
    async with quick_app(tmp_path, accounts=STRICT) as app:
        mails = Mails(app, tmp_path)
        ann = await register(app, "ann")
        mails.new()
        await recover.ask(app, email="ann@example.org", ip=IP)
        token = mails.link("ann@example.org", "reset")
        await recover.reset(app, token=token, password=NEW, ip=IP)
        await signin.login(app, login="ann@example.org", password=NEW, ip=IP)
        assert welcome_of(app, ann) == 100


@in_loop
async def test_asking_writes_the_same_for_every_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bar 15: asking looks at no account at all, so there is nothing to measure."""
    limits = {"reset_mails_per_hour": 3}
    async with quick_app(tmp_path, limits=limits) as app:
        await register(app, "ann")
        with monkeypatch.context() as patch:
            patch.setattr(users, "find", None)
            patch.setattr(mailboxes, "reader", None)
            patch.setattr(mailboxes, "owner", None)
            for _ in range(2):
                for email in ("ann@example.org", "nobody@example.org"):
                    await recover.ask(app, email=email, ip=IP)
        with app.db.read() as session:
            assert links.wishes(session, limit=9) == ["ann@example.org", "nobody@example.org"]
        assert recover.answer_wishes(app) == 1
        with app.db.read() as session:
            assert links.wishes(session, limit=9) == []
        for email in ("ann@example.org", "nobody@example.org"):
            await recover.ask(app, email=email, ip=IP)
            with pytest.raises(AppError, match="Too many mails"):
                await recover.ask(app, email=email, ip="9.9.9.9")
        monkeypatch.setattr(links, "MAX_WISHES", 1)
        with pytest.raises(TooManyWishes):
            await recover.ask(app, email="third@example.org", ip="9.9.9.9")


@in_loop
async def test_changing_the_address(tmp_path: Path) -> None:
    """ASVS 6.3.7: the old address hears of it when it is asked for and when it is done."""
    clock = ManualClock()
    async with quick_app(tmp_path, clock=clock) as app:
        mails = Mails(app, tmp_path)
        ann, bob = await register(app, "ann"), await register(app, "bob")
        with pytest.raises(signin.WrongCurrentPassword):
            await mailbox.change_email(
                app, user_id=ann.id or 0, email="new@example.org", password="wrong", ip=IP
            )

        async def change(email: str) -> None:
            await mailbox.change_email(
                app, user_id=ann.id or 0, email=email, password=PASSWORD, ip=IP
            )

        await change("new@example.org")
        found = {address: words for address, _, words in mails.new()}
        assert "new@example.org" in found["ann@example.org"]
        token = re.search(r"/#verify=(\S+)", found["new@example.org"])
        assert token is not None
        assert "#verify=" not in found["ann@example.org"]
        await signin.login(app, login="ann@example.org", password=PASSWORD, ip=IP)
        done = await mailbox.confirm(app, token=token[1], ip=IP)
        assert (done.user.email, done.micro) == ("new@example.org", 0)
        assert sorted(address for address, _, _ in mails.new()) == [
            "ann@example.org", "new@example.org",
        ]  # fmt: skip
        await signin.login(app, login="new@example.org", password=PASSWORD, ip=IP)
        with pytest.raises(signin.WrongPassword):
            await signin.login(app, login="ann@example.org", password=PASSWORD, ip=IP)
        # Somebody else's address: no other answer, no link, and its owner is told.
        clock.advance(seconds=2 * MINUTE)
        await change("bob@example.org")
        told = {address: subject for address, subject, _ in mails.new()}
        assert told["bob@example.org"] == "Your address was given for another account"
        assert told["new@example.org"] == "A new e-mail address was given"
        with app.db.read() as session:
            assert mailboxes.owner(session, "bob@example.org").id == bob.id  # type: ignore[union-attr]


@in_loop
async def test_whoever_confirms_first_has_the_address(tmp_path: Path) -> None:
    async with quick_app(tmp_path, accounts=STRICT) as app:
        mails = Mails(app, tmp_path)
        await register(app, "first", "one@example.org")
        first = mails.link("one@example.org", "verify")
        await register(app, "second", "one@example.org")
        second = mails.link("one@example.org", "verify")
        await mailbox.confirm(app, token=second, ip=IP)
        for _ in range(2):
            with pytest.raises(mailboxes.MailboxTaken):
                await mailbox.confirm(app, token=first, ip=IP)
        done = await signin.login(app, login="one@example.org", password=PASSWORD, ip=IP)
        assert done.user.username == "second"


@in_loop
async def test_one_address_is_not_flooded(tmp_path: Path) -> None:
    """Nobody's mailbox is filled by strangers who sign up with it."""
    rules = {**STRICT, "mails_per_day_per_address": 3}
    async with quick_app(tmp_path, accounts=rules) as app:
        mails = Mails(app, tmp_path)
        for number in range(5):
            await register(app, f"stranger{number}", "victim@example.org")
        assert len(mails.new()) == 3
        await recover.ask(app, email="victim@example.org", ip=IP)
        assert mails.new() == []


@in_loop
async def test_farms_are_refused_with_a_reason_and_their_accounts_work(tmp_path: Path) -> None:
    """T34: tags, networks and throw-away addresses; the reason is on the record."""
    limits = {"welcomes_per_day_per_network": 2}
    async with quick_app(tmp_path, limits=limits) as app:
        farm = [
            await register(app, "one", "one@example.org"),
            await register(app, "two", "one+2@example.org", "9.9.9.9"),
            await register(app, "three", "three@mailinator.com", "9.9.8.9"),
            await register(app, "four", "four@example.org"),
            await register(app, "five", "five@example.org", "8.8.8.9"),
            await register(app, "six", "six@example.org", "127.0.0.1"),
        ]
        assert [welcome_of(app, user) for user in farm] == [100, 0, 0, 100, 0, 100]
        reasons = {
            int(one["user_id"]): one["reason"] for one in events(app, "free_credits_refused")
        }
        assert reasons == {
            farm[1].id: "mailbox", farm[2].id: "disposable", farm[4].id: "network",
        }  # fmt: skip
        (code,) = await free.make_codes(app, actor="op", micro=MICRO, uses=9, key="k")
        for user, fine in zip(farm, (True, False, False, True, True, True), strict=True):
            await signin.login(app, login=user.username, password=PASSWORD, ip=IP)
            redeeming = free.redeem(
                app, user_id=user.id or 0, text=code.text or "", ip=IP, key=f"r{user.id}"
            )
            if fine:
                assert (await redeeming).micro == MICRO
            else:
                with pytest.raises(welcome.NoFreeCredits):
                    await redeeming


@in_loop
async def test_nothing_is_free_before_the_address_is_confirmed(tmp_path: Path) -> None:
    """T34: welcome, codes and periodic credits alike."""
    credits = {"periodic_credits": 7}
    async with quick_app(tmp_path, accounts=STRICT, credits=credits) as app:
        mails = Mails(app, tmp_path)
        ann = await register(app, "ann")
        token = mails.link("ann@example.org", "verify")
        (code,) = await free.make_codes(app, actor="op", micro=MICRO, key="k")

        async def redeem() -> None:
            await free.redeem(app, user_id=ann.id or 0, text=code.text or "", ip=IP, key="r")

        with pytest.raises(welcome.EmailNotVerified):
            await redeem()
        assert free.give_periodic(app) == 0
        await mailbox.confirm(app, token=token, ip=IP)
        await redeem()
        assert free.give_periodic(app) == 1
        assert welcome_of(app, ann) == 108


@in_loop
async def test_throw_away_addresses_are_refused_where_the_settings_say_so(tmp_path: Path) -> None:
    rules = {"disposable_domains": "refuse", "more_disposable_domains": "firm.example"}
    async with quick_app(tmp_path, accounts=rules) as app:
        for email in ("a@mailinator.com", "a@mail.firm.example"):
            with pytest.raises(mailboxes.DisposableEmail):
                await register(app, "someone", email)
        await register(app, "someone")


@in_loop
async def test_staff_choose_longer_passwords(tmp_path: Path) -> None:
    """15 characters for whoever may do more, wherever a password is chosen."""
    short = "xkq vrt plo m"
    async with quick_app(tmp_path) as app:
        with pytest.raises(WeakPassword, match="15"):
            signup.create_admin(app, username="root", email="root@example.org", password=short)
        boss = signup.create_admin(
            app, username="root", email="root@example.org", password=PASSWORD
        )
        assert boss is not None
        assert boss.email_verified_at is not None
        with pytest.raises(WeakPassword, match="15"):
            await signin.change_password(
                app, user_id=boss.id or 0, current=PASSWORD, new=short, ip=IP
            )
        link = recover.operator_link(app, login="root")
        with pytest.raises(WeakPassword, match="15"):
            await recover.reset(app, token=link.partition("#reset=")[2], password=short, ip=IP)
        await register(app, "ann")
        ann = await signin.login(app, login="ann", password=PASSWORD, ip=IP)
        await signin.change_password(
            app, user_id=ann.user.id or 0, current=PASSWORD, new=short, ip=IP
        )


@in_loop
async def test_an_operators_link_proves_no_address(tmp_path: Path) -> None:
    async with quick_app(tmp_path, accounts=STRICT) as app:
        ann = await register(app, "ann")
        link = recover.operator_link(app, login="ann")
        assert link.startswith(f"{app.settings.site}/#reset=")
        await recover.reset(app, token=link.partition("#reset=")[2], password=NEW, ip=IP)
        with app.db.read() as session:
            assert users.get(session, ann.id or 0).email_verified_at is None
        with pytest.raises(recover.UnknownUser):
            recover.operator_link(app, login="nobody")


@in_loop
async def test_what_is_kept_about_an_address_can_be_forgotten(tmp_path: Path) -> None:
    """Bar 37: neither address nor network are left in the tables of this part."""
    async with quick_app(tmp_path, accounts=STRICT) as app:
        mails = Mails(app, tmp_path)
        ann = await register(app, "ann")
        await mailbox.confirm(app, token=mails.link("ann@example.org", "verify"), ip=IP)
        await recover.ask(app, email="ann@example.org", ip=IP)
        app.db.write(lambda s: mailbox.forget(s, user_id=ann.id or 0))
        with app.db.read() as session:
            for table in ("account_link", "reset_wish", "free_gift"):
                rows = str(session.execute(text(f"SELECT * FROM {table}")).all())
                assert "example.org" not in rows
                assert "8.8.8" not in rows


@in_loop
async def test_old_links_are_forgotten(tmp_path: Path) -> None:
    clock = ManualClock()
    async with quick_app(tmp_path, accounts=STRICT, clock=clock) as app:
        await register(app, "ann")
        forget = lambda: app.db.write(lambda s: recover.forget(s, now=clock.micros()))  # noqa: E731
        assert forget() == 0
        clock.advance(seconds=25 * 60 * MINUTE)
        assert forget() == 1
        with app.db.read() as session:
            assert outbox.counts(session)["waiting"] == 1  # the mail is not the link
