"""Alerts by faults that are real: a small disk, a mail server that bounces, a model that is gone.

tests/flows/test_monitoring.py goes through every rule, some of them by figures that are put in
their place; here the figures are those of what really went wrong.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from chat_app import api
from chat_app.accounts.passwords import Passwords
from chat_app.api.access import Access
from chat_app.backups import keeping
from chat_app.flows import backup, deliver, notices
from chat_app.jobs import Job, Runner
from chat_app.llm import catalogue
from chat_app.llm import meter as meters
from chat_app.monitor import faults, probe, rules
from chat_app.monitor.rules import Change
from chat_app.notify import outbox
from tests.apps import PASSWORD, answer, ask, in_loop, person
from tests.faults.disk import Disk
from tests.flows.test_monitoring import Nvml, Scene, scene
from tests.llm.test_remote import Odd
from tests.notify import receivers


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk")
    yield made
    made.close()


def own(s: Scene, name: str, **changed: Any) -> None:
    """What the operator wants of a rule."""
    s.app.db.write(
        lambda session: faults.change_rule(
            session, name=name, change=Change(**changed), actor="root", now=1
        )
    )


async def began(s: Scene, name: str, *, looks: int | None = None) -> None:
    """The fault lasts as long as its rule says, and is told once."""
    await s.looks(rules.USUAL[name].for_seconds // 60 + 3 if looks is None else looks, every=60)
    (row,) = s.rows(name)
    assert row.cleared_at is None, name
    assert len(s.mails(name)) == ("mail" in rules.USUAL[name].channels)


async def ended(s: Scene, name: str, *, more: int = 0) -> None:
    """It is over, and that is told once."""
    await s.looks(rules.USUAL[name].clear_seconds // 60 + 3 + more, every=60)
    (row,) = s.rows(name)
    assert row.cleared_at is not None, name
    told = ["machine_alert", "machine_cleared"] if "mail" in rules.USUAL[name].channels else []
    assert s.mails(name) == told


async def no_room(s: Scene, disk: Disk) -> None:
    """The very disk of the data becomes too small."""
    disk.shrink("900m")
    await began(s, "disk_low")
    disk.free()
    await ended(s, "disk_low")


async def little_memory(s: Scene) -> None:
    """What this machine really uses, by a rule that allows nothing and then everything."""
    own(s, "memory_high", threshold=0)
    await began(s, "memory_high")
    own(s, "memory_high", threshold=110)
    await ended(s, "memory_high")


async def broken_pages(s: Scene) -> None:
    """A table is gone: its route fails for whoever asks."""
    web = Access(api.create(s.app), s.app.telemetry.traffic.saw)
    transport = httpx.ASGITransport(web, raise_app_exceptions=False)
    rename = "ALTER TABLE package{} RENAME TO package{}"
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        login = {"login": "root", "password": PASSWORD}
        (await client.post("/api/auth/login", json=login)).raise_for_status()

        async def asked(status: int) -> None:
            for _ in range(11):
                for _ in range(6):
                    answered = await client.get("/api/billing/packages")
                    assert answered.status_code == status, answered.text
                await s.looks(every=60)

        s.app.db.write(lambda session: session.execute(text(rename.format("", "_gone"))))
        try:
            await asked(500)
            await began(s, "error_rate", looks=0)
        finally:
            s.app.db.write(lambda session: session.execute(text(rename.format("_gone", ""))))
        await asked(200)
        await ended(s, "error_rate", more=5)


async def crowd(s: Scene) -> None:
    """Five people and a model that writes for one at a time: places, waits, first words."""
    s.app.passwords = Passwords(s.app.secrets.pepper, cost=4)
    for name in ("queue_wait", "first_token_slow"):
        own(s, name, threshold=100)
    own(s, "queue_full", for_seconds=0)
    people = [await person(s.app, f"person{number}") for number in range(5)]
    begun = [await ask(s.app, one) for one in people]
    await began(s, "queue_full", looks=2)
    for one, started in zip(people, begun, strict=True):
        await answer(s.app, one, started)
    await began(s, "queue_wait")
    await began(s, "first_token_slow")
    for meter in s.app.engine._meters.values():  # type: ignore[attr-defined]
        meter._now = lambda: time.monotonic() + 2 * meters.ANSWERS_SECONDS
    for name in ("queue_full", "queue_wait", "first_token_slow"):
        await ended(s, name)


async def failing_job(s: Scene) -> None:
    """A job of the schedule raises, and the next time does not."""
    broken = [True]

    def work() -> None:
        if broken[0]:
            raise RuntimeError("oh")

    runner = Runner(s.app.db, s.app.clock, [Job("renew plans", 30, work)])
    assert runner.run_due() == 1
    await began(s, "job_failing")
    broken[0] = False
    assert runner.run_due() == 1
    await ended(s, "job_failing")


async def bounced(s: Scene, post: receivers.Post) -> None:
    """The mail server knows nobody of that name; then it does, and the mail is sent again."""
    while await asyncio.to_thread(deliver.deliver_due, s.app):
        pass  # what the other faults told
    post.recipient_reply = "550 no such user"
    await person(s.app, "nobody")
    s.app.db.write(
        lambda session: outbox.put(
            session, kind="mail_test", channel="mail", target="gone@example.org",
            dedupe_key="bounced", data={}, now=s.clock.micros(),
        )
    )  # fmt: skip
    await asyncio.to_thread(deliver.deliver_due, s.app)
    await began(s, "mail_dead")
    post.recipient_reply = "250 OK"
    with s.app.db.read() as session:
        rows, _ = outbox.page(session, limit=100, state="dead")
    for row in rows:
        await notices.resend(s.app, admin_id=1, message_id=row.message_id)
    await asyncio.to_thread(deliver.deliver_due, s.app)
    await ended(s, "mail_dead")
    assert post.mails[-1]["To"] == "gone@example.org"


@in_loop
async def test_people_who_wait(tmp_path: Path) -> None:
    slow = {"slots": 1, "tokens": 10, "tokens_per_second": 25}
    async with real(tmp_path, script=slow, limits={"queue_total": 5}) as s:
        await crowd(s)


@pytest.mark.full
@in_loop
async def test_each_is_told_once_and_its_end_once(disk: Disk) -> None:
    if not disk.own:
        pytest.skip("mounting a small disk is not allowed here")
    with receivers.post() as post:
        mail = {"kind": "smtp", "host": "127.0.0.1", "port": post.port, "tls": "none"}
        async with real(disk.folder / "data", mail=mail) as s:
            await no_room(s, disk)
            await little_memory(s)
            await broken_pages(s)
            await failing_job(s)
            await bounced(s, post)
            with s.app.db.read() as session:
                assert faults.open_ones(session) == []


@in_loop
async def test_a_backup_that_hangs(tmp_path: Path) -> None:
    """Another process is at it for days, so the regular one is not made."""
    async with real(tmp_path, backups={"every_hours": 24}) as s:
        await asyncio.to_thread(backup.make_one, s.app, actor="schedule", kind="scheduled")
        with keeping.working(s.app.settings.data_dir / keeping.FOLDER):
            s.clock.advance(hours=27)
            assert await asyncio.to_thread(backup.tend, s.app) is None
            await began(s, "backup_old")
        assert await asyncio.to_thread(backup.tend, s.app) is not None
        await ended(s, "backup_old")


@in_loop
async def test_a_card_that_falls_off_the_bus(tmp_path: Path) -> None:
    """The driver's library fails from one call to the next; later the card is there again."""
    card = Nvml()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "_nvml", lambda: card)
        patch.setattr(probe, "GPU_PAUSE_SECONDS", 0)  # it is real time
        async with scene(tmp_path, patch) as s:
            await s.looks(2)
            card.there = False
            await began(s, "gpu_missing")
            card.there = True
            await ended(s, "gpu_missing")


@in_loop
async def test_a_model_server_that_is_gone(tmp_path: Path) -> None:
    """Its process ends, and another one listens there later: nobody restarts the program."""
    far = Odd()
    names = {entry.id: far.model for entry in catalogue.offered()}
    llm = {"engine": "remote", "remote_url": far.url, "remote": {"model_names": names}}
    async with real(tmp_path, llm=llm) as s:
        look = s.app.engine.engine._servers._ask_all  # type: ignore[attr-defined]
        far.stop()
        await look()
        await began(s, "model_down")
        await began(s, "engine_down")
        again = Odd(port=int(far.url.rpartition(":")[2]))
        await look()
        await ended(s, "engine_down")
        await ended(s, "model_down")
        again.stop()


@asynccontextmanager
async def real(folder: Path, **over: Any) -> AsyncIterator[Scene]:
    with pytest.MonkeyPatch.context() as patch:
        async with scene(folder, patch, **over) as made:
            yield made
