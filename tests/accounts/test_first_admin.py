"""The first administrator: several processes start at once, and exactly one comes to be."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chat_app import settings
from chat_app.accounts import users
from chat_app.accounts.passwords import Passwords
from chat_app.app import App, build
from chat_app.credits import ledger
from chat_app.flows import signin, signup
from chat_app.flows.signup import AdminNameTaken

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "correct horse battery staple"
START = """
from chat_app import app, settings
from chat_app.flows import signup
import asyncio
made = app.build(settings.load())
print("TOKEN", signup.ensure_first_admin(made))
asyncio.run(made.stop())
"""


def start_four(data_dir: Path, **more: str) -> set[str]:
    """Four processes start on one empty data directory; returns what they would print."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_APP_")}
    env = clean | {"CHAT_APP_DATA_DIR": str(data_dir), "CHAT_APP_LLM__ENGINE": "script"} | more
    command = [sys.executable, "-c", START]
    running = [
        subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    printed = {process.communicate(timeout=120)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0] * 4
    return printed


def app_at(data_dir: Path, **sections: object) -> App:
    made = build(settings.load(data_dir=data_dir, llm={"engine": "script"}, **sections))
    made.passwords = Passwords(made.secrets.pepper, cost=4)
    return made


@pytest.mark.postgres
@pytest.mark.full  # test_serving.py starts four of the whole program
def test_four_processes_print_one_link(tmp_path: Path, empty_postgres_url: str) -> None:
    """Bar 9: on an empty PostgreSQL, one key set, one valid token, no crash."""
    printed = start_four(tmp_path, CHAT_APP_DATABASE__URL=empty_postgres_url)
    assert len(printed) == 1
    token = printed.pop().removeprefix("TOKEN ")
    assert len(token) == 43

    async def claim() -> None:
        app = app_at(tmp_path, database={"url": empty_postgres_url})
        user = await signup.claim_admin(
            app, token=token, username="boss", email="b@example.org", password=PASSWORD, ip=""
        )
        assert user.role == "admin"
        assert signup.ensure_first_admin(app) is None
        with app.db.read() as session:
            assert ledger.balance(session, user_id=user.id or 0).available == 100_000_000
        await app.stop()

    asyncio.run(claim())


@pytest.mark.full  # test_serving.py starts four of the whole program
def test_four_processes_make_one_administrator_from_the_settings(tmp_path: Path) -> None:
    """Bar 9: on an empty SQLite database, one administrator, one key set, no crash."""
    printed = start_four(
        tmp_path,
        CHAT_APP_ADMIN__USERNAME="boss",
        CHAT_APP_ADMIN__EMAIL="boss@example.org",
        CHAT_APP_ADMIN__PASSWORD=PASSWORD,
    )
    assert printed == {"TOKEN None"}

    assert len([path for path in tmp_path.iterdir() if "secrets" in path.name]) == 1

    async def look() -> None:
        app = app_at(tmp_path)
        with app.db.read() as session:
            assert users.count(session) == {"total": 1, "admins": 1, "suspended": 0}
        done = await signin.login(app, login="boss", password=PASSWORD, ip="127.0.0.1")
        assert done.user.role == "admin"
        await app.stop()

    asyncio.run(look())


def test_an_ordinary_account_is_not_promoted_by_the_settings(tmp_path: Path) -> None:
    async def story() -> None:
        admin = {"username": "boss", "email": "boss@example.org", "password": PASSWORD}
        app = app_at(tmp_path, admin=admin)
        await signup.register(
            app, username="boss", email="stranger@example.org", password=PASSWORD, ip=""
        )
        with pytest.raises(AdminNameTaken):
            signup.ensure_first_admin(app)
        with app.db.read() as session:
            assert users.count(session)["admins"] == 0
        await app.stop()

    asyncio.run(story())


def test_a_failed_registration_leaves_neither_account_nor_credits(tmp_path: Path) -> None:
    """T8: the account and its welcome credits are one transaction."""

    async def story() -> None:
        app = app_at(tmp_path, accounts={"welcome_credits": 100})
        original = ledger.grant

        def broken(*_args: object, **_more: object) -> None:
            raise RuntimeError("the grant failed")

        ledger.grant = broken
        try:
            with pytest.raises(RuntimeError):
                await signup.register(
                    app, username="ann", email="ann@example.org", password=PASSWORD, ip=""
                )
        finally:
            ledger.grant = original
        with app.db.read() as session:
            assert users.find(session, "ann") is None
        await signup.register(
            app, username="ann", email="ann@example.org", password=PASSWORD, ip=""
        )
        await app.stop()

    asyncio.run(story())
