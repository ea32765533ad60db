"""The operator's commands, as an operator runs them: exit codes, words, and nothing else."""

import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sqlmodel import Session

from chat_app import __main__ as commands
from chat_app import secrets
from chat_app.accounts import keys, users
from chat_app.accounts.totp_tables import Totp
from chat_app.db import Database
from chat_app.llm import catalogue, loader
from chat_app.llm.engine import ModelState
from chat_app.notify import outbox
from tests.house import tree
from tests.notify import receivers

ADMIN = ["create-admin", "--username", "root", "--email", "root@example.org"]
PASSWORD = "a long enough phrase"


@pytest.fixture(autouse=True)
def _small_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine counts, and no weights are in reach."""
    for name in list(os.environ):
        if name.startswith("CHAT_APP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CHAT_APP_LLM__ENGINE", "script")
    monkeypatch.setenv("CHAT_APP_MODELS_DIR", str(tmp_path / "models"))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def books(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory with an administrator and the welcome credits, hence a transfer."""
    monkeypatch.setenv("CHAT_APP_ADMIN__PASSWORD", PASSWORD)
    assert run(data_dir, *ADMIN) == commands.OK
    return data_dir


def run(data_dir: Path, *arguments: str) -> int:
    return commands.main([*arguments, "--data-dir", str(data_dir)])


def damage(data_dir: Path, *statements: str) -> None:
    """What only somebody with the file can do: triggers off, rows changed."""
    with sqlite3.connect(data_dir / "chat.db") as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='trigger'"):
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            assert connection.execute(statement).rowcount > 0
    connection.close()


def test_migrate_makes_a_database_and_may_run_again(data_dir: Path) -> None:
    assert run(data_dir, "migrate") == commands.OK
    assert run(data_dir, "migrate") == commands.OK
    assert (data_dir / "chat.db").exists()


def test_verify_is_silent_about_right_books(
    books: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(books, "verify") == commands.OK
    assert capsys.readouterr().out == "The books are right: no discrepancy.\n"
    assert run(books, "verify", "--json") == commands.OK
    assert json.loads(capsys.readouterr().out) == {"ok": True, "problems": []}


def test_verify_prints_every_discrepancy(books: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two planted ones are two findings at least, each with its invariant's name."""
    damage(
        books,
        "UPDATE account SET posted = posted + 1000000 WHERE kind = 'wallet'",
        "UPDATE lot SET remaining = remaining - 1",
    )
    capsys.readouterr()
    assert run(books, "verify", "--json") == commands.PROBLEMS
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert {"I2", "I5", "I6", "I13"} <= {problem["invariant"] for problem in report["problems"]}
    assert run(books, "verify") == commands.PROBLEMS
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(report["problems"]) + 1
    assert lines[-1] == f"{len(report['problems'])} discrepancies."


def test_verify_needs_a_database(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A typing error in --data-dir must not make an empty database and call it right."""
    assert run(data_dir, "verify") == commands.WRONG_USE
    assert "--data-dir" in capsys.readouterr().err
    assert not data_dir.exists()


def test_verify_makes_no_new_secrets(books: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (books / secrets.FILE).unlink()
    assert run(books, "verify") == commands.WRONG_USE
    assert "backup" in capsys.readouterr().err
    assert not (books / secrets.FILE).exists()


def test_reconcile_is_quiet_about_records_that_agree(
    books: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(books, "reconcile") == commands.OK
    assert capsys.readouterr().out == "All records agree.\n"
    assert run(books, "reconcile", "--json") == commands.OK
    assert json.loads(capsys.readouterr().out) == {"ok": True, "differences": []}


def test_reconcile_names_both_sides(books: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(books, "UPDATE lot SET granted = granted + 1")
    capsys.readouterr()
    assert run(books, "reconcile", "--json") == commands.PROBLEMS
    [row] = json.loads(capsys.readouterr().out)["differences"]
    assert (row["check"], row["left"], row["right"]) == (
        "credits_without_lot",
        {"kind": "transfer", "id": "1"},
        {"kind": "lot", "id": "1"},
    )
    assert run(books, "reconcile") == commands.PROBLEMS
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("credits_without_lot: transfer 1 / lot 1. ")
    assert lines[-1] == "1 differences."


def test_the_books_are_exported(books: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = books / "books.beancount"
    assert run(books, "export-beancount", str(file)) == commands.OK
    assert "1 transactions" in capsys.readouterr().out
    assert run(books, "export-beancount", str(file)) == commands.WRONG_USE
    assert run(books, "export-beancount", "-") == commands.OK
    assert capsys.readouterr().out.strip() == file.read_text().strip()


@pytest.mark.postgres
def test_the_books_are_copied_and_proven(
    books: Path, empty_postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(books, "copy-to", "sqlite:///x.db") == commands.PROBLEMS
    assert run(books, "copy-to", empty_postgres_url) == commands.OK
    assert "The copy is proven." in capsys.readouterr().out
    assert run(books, "copy-to", empty_postgres_url) == commands.PROBLEMS
    assert "nothing was copied" in capsys.readouterr().err


def test_prices_are_listed_looked_at_and_set(
    books: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """T21: the command is held up by the same guard as the page."""
    model = "gemma-3-1b-it"
    capsys.readouterr()
    assert run(books, "set-price", model, "--per-message", "500", "--preview") == commands.PROBLEMS
    assert "will cost 500 credits, now 10." in capsys.readouterr().out
    assert run(books, "set-price", model, "--per-message", "500") == commands.PROBLEMS
    assert "--confirm" in " ".join(
        capsys.readouterr().err.replace("`confirm`", "--confirm").split()
    )
    assert run(books, "set-price", model, "--input", "900", "--output", "9000") == commands.OK
    later = ["--per-message", "12", "--from", "2999-01-01"]
    assert run(books, "set-price", model, *later) == commands.PROBLEMS
    assert run(books, "set-price", model, *later[:3], "soon") == commands.WRONG_USE
    capsys.readouterr()
    assert run(books, "prices", "--json") == commands.OK
    rows = {row["model"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows[model]["state"], rows[model]["price"]["version"]) == ("current", 2)
    assert run(books, "prices") == commands.OK
    assert "input per million 900, output per million 9000" in capsys.readouterr().out


def test_sums_of_usage_are_made_anew(books: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(books, "INSERT INTO usage_day VALUES (1, 0, 'm', 1, 1, 1, 1, 1)")
    assert run(books, "migrate") == commands.OK
    assert run(books, "verify") == commands.PROBLEMS
    assert run(books, "rebuild-usage") == commands.OK
    assert run(books, "verify") == commands.OK


def test_create_admin(books: Path) -> None:
    db = Database(f"sqlite:///{books / 'chat.db'}")
    with db.read() as session:
        user = users.find(session, "root")
    db.close()
    assert user is not None
    assert user.role == "admin"
    assert PASSWORD not in user.password_hash


def test_totp_off(books: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = Database(f"sqlite:///{books / 'chat.db'}")
    row = Totp(user_id=1, sealed="1:", created_at=1, confirmed_at=1)
    db.write(lambda session: session.add(row))
    assert run(books, "totp-off", "--username", "root") == commands.OK
    assert "is off now" in capsys.readouterr().out
    assert run(books, "totp-off", "--username", "root@example.org") == commands.PROBLEMS
    assert run(books, "totp-off", "--username", "nobody") == commands.PROBLEMS
    assert "Check the name" in capsys.readouterr().err
    with db.read() as session:
        assert users.get(session, 1).token_epoch == 1
    db.close()


@pytest.mark.parametrize(
    ("password", "words"), [("short", "password"), (PASSWORD, "CHAT_APP_ADMIN__USERNAME")]
)
def test_create_admin_refuses_in_words(
    books: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    password: str,
    words: str,
) -> None:
    monkeypatch.setenv("CHAT_APP_ADMIN__PASSWORD", password)
    assert run(books, *ADMIN) == commands.PROBLEMS
    assert words.lower() in capsys.readouterr().err.lower()


def test_reset_password_prints_a_link(books: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ASVS 6.4.6: the operator starts a reset and never chooses the password."""
    assert run(books, "reset-password", "--username", "root") == commands.OK
    link = capsys.readouterr().out.splitlines()[0]
    assert re.fullmatch(r"http://127.0.0.1:7860/#reset=[\w-]{43}", link)
    assert run(books, "reset-password", "--username", "nobody") == commands.PROBLEMS
    assert "no account" in capsys.readouterr().err


def test_create_admin_without_a_terminal_or_password(data_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "chat_app", *ADMIN, "--data-dir", str(data_dir)],
        cwd=tree.ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == commands.WRONG_USE
    assert "CHAT_APP_ADMIN__PASSWORD" in done.stderr
    assert not data_dir.exists()


def test_codes_are_printed_once(books: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As CSV on standard output; the database has their hashes."""
    asked = ["codes", "make", "--credits", "2.5", "--count", "3", "--days", "30", "--name", "Fair"]
    assert commands.main([*asked, "--data-dir", str(books)]) == commands.OK
    head, *rows = capsys.readouterr().out.splitlines()
    assert head == "code,credits,uses,per_user,expires_at"
    assert len({row.split(",")[0] for row in rows}) == 3
    assert all(row.split(",")[1:4] == ["2.5", "1", "1"] for row in rows)
    with sqlite3.connect(books / "chat.db") as connection:
        assert connection.execute("SELECT COUNT(*) FROM redemption_code").fetchone() == (3,)
    asked[3] = "0"
    assert commands.main([*asked, "--data-dir", str(books)]) == commands.PROBLEMS


def test_models_list_names_every_offered_model(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data_dir, "models", "list") == commands.OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [entry.id for entry in catalogue.offered()]
    assert all("not_downloaded" in line and "models pull" in line for line in lines)


def test_models_list_says_how_a_model_that_is_here_would_run(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAT_APP_LLM__ENGINE", "script")
    monkeypatch.setattr(loader, "state", lambda *_: ModelState("available"))
    assert run(data_dir, "models", "list") == commands.OK
    assert "is answered by the script engine" in capsys.readouterr().out


def test_models_with_an_unknown_id(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data_dir, "models", "pull", "gpt-99") == commands.PROBLEMS
    assert "models" in capsys.readouterr().err


def test_models_verify_of_one_that_is_not_there(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data_dir, "models", "verify") == commands.OK
    assert run(data_dir, "models", "verify", "smollm2-135m-instruct") == commands.PROBLEMS
    assert "models pull" in capsys.readouterr().out


def test_secrets_are_listed_and_rotated(books: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = secrets.load_or_create(books)
    assert run(books, "secrets", "rotate", "tokens") == commands.OK
    assert run(books, "secrets", "rotate", "pepper") == commands.OK
    with pytest.raises(SystemExit):
        run(books, "secrets", "rotate", "audit_key")
    assert run(books, "secrets", "rotate", "pepper", "--at-once") == commands.WRONG_USE
    capsys.readouterr()
    assert run(books, "secrets", "list") == commands.OK
    shown = capsys.readouterr().out
    rows = [line.split()[:2] for line in shown.splitlines()]
    assert rows == [["tokens", "1"], ["tokens", "2"], ["pepper", "1"], ["pepper", "2"]]
    assert "in use, 1 passwords" in shown.splitlines()[2]
    after = secrets.load_or_create(books)
    assert (after.audit_key, after.link_key) == (before.audit_key, before.link_key)
    keys = [key for ring in (after.tokens, after.pepper) for key in ring.keys]
    assert not [key for key in keys if key.secret.hex() in shown]
    assert run(books, "secrets", "rotate", "tokens", "--at-once") == commands.OK
    assert [key.id for key in secrets.load_or_create(books).tokens.keys] == ["3"]


def findings(text: str) -> dict[str, tuple[bool, str]]:
    """The lines of selfcheck by name."""
    split = (line.split(maxsplit=2) for line in text.splitlines())
    return {name: (mark == "ok", sentence) for mark, name, sentence in split}


def test_selfcheck_of_a_bare_machine_changes_nothing(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data_dir, "selfcheck") == commands.OK
    found = findings(capsys.readouterr().out)
    assert set(found) == {
        "clock", "memory", "gpu", "disk", "files", "address", "secrets", "database", "mail",
        "payments", "backups", "models",
    }  # fmt: skip
    assert not data_dir.exists()


def test_selfcheck_finds_open_secrets_and_an_old_schema(
    books: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(books, "selfcheck") == commands.OK
    (books / secrets.FILE).chmod(0o644)
    with sqlite3.connect(books / "chat.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0000'")
    connection.close()
    capsys.readouterr()
    assert run(books, "selfcheck") == commands.PROBLEMS
    found = findings(capsys.readouterr().out)
    assert "chmod 600" in found["secrets"][1]
    assert "migrate" in found["database"][1]
    assert not found["secrets"][0]
    assert not found["database"][0]
    assert stat.S_IMODE((books / secrets.FILE).stat().st_mode) == 0o644


def test_selfcheck_finds_what_would_go_wrong_later(
    books: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keys that are gone, a clock behind the books, a damaged backup, an open door."""
    (books / secrets.FILE).rename(books / "elsewhere.json")
    folder = books / "backups"
    folder.mkdir()
    (folder / "chat-20260101T000000000000Z-asked.zip").write_bytes(b"half")
    with sqlite3.connect(books / "chat.db") as connection:
        connection.execute(
            "INSERT INTO event_log (at, type, actor, payload)"
            " VALUES (strftime('%s') * 1000000 + 7200000001, 't', 'a', '{}')"
        )
    connection.close()
    monkeypatch.setenv("CHAT_APP_SERVER__HOST", "0.0.0.0")
    capsys.readouterr()
    assert run(books, "selfcheck") == commands.PROBLEMS
    found = findings(capsys.readouterr().out)
    assert not any(found[name][0] for name in ("secrets", "database", "backups"))
    assert "Restore it from your backup" in found["secrets"][1]
    assert "ahead of this machine's clock" in found["database"][1]
    assert "damaged" in found["backups"][1]
    assert "server.public_url" in found["address"][1]


def test_selfcheck_without_a_model_says_how_to_get_one(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHAT_APP_LLM__ENGINE", "auto")
    assert run(data_dir, "selfcheck") == commands.PROBLEMS
    assert "models pull smollm2-135m-instruct" in findings(capsys.readouterr().out)["models"][1]


def test_selfcheck_of_a_database_that_is_not_reached(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHAT_APP_DATABASE__URL", "postgresql+psycopg://nobody@127.0.0.1:1/none")
    assert run(data_dir, "selfcheck") == commands.PROBLEMS
    ok, sentence = findings(capsys.readouterr().out)["database"]
    assert not ok
    assert "[database] url" in sentence


@pytest.mark.parametrize("arguments", [[], ["fly"], ["models"], ["create-admin"], ["migrate", "x"]])
def test_wrong_use_ends_with_two(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        commands.main(arguments)
    assert ended.value.code == commands.WRONG_USE


def test_wrong_settings_end_with_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["migrate", "--settings", str(tmp_path / "no.toml")]) == 2
    assert "no.toml" in capsys.readouterr().err


def test_keys_are_listed_and_revoked(books: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = Database(f"sqlite:///{books / 'chat.db'}")

    def story(session: Session) -> list[str]:
        user = users.find(session, "root")
        assert user is not None
        made = [
            keys.create(session, user=user, name=f"robot {n}", now=n + 1, most=5) for n in range(3)
        ]
        return [key.id for key, _ in made]

    ids = db.write(story)
    db.close()
    asked = ["--username", "root"]
    assert run(books, "keys", "list", *asked) == commands.OK
    shown = capsys.readouterr().out
    assert all(id in shown for id in ids)
    assert "robot 1" in shown
    assert "3 API keys." in shown
    assert run(books, "keys", "revoke", *asked) == commands.WRONG_USE
    assert run(books, "keys", "revoke", *asked, ids[0], "--all") == commands.WRONG_USE
    assert run(books, "keys", "revoke", "--username", "nobody", "--all") == commands.WRONG_USE
    assert run(books, "keys", "revoke", *asked, "00000000") == commands.PROBLEMS
    assert run(books, "keys", "revoke", *asked, ids[0]) == commands.OK
    assert run(books, "keys", "revoke", *asked, "--all") == commands.OK
    capsys.readouterr()
    run(books, "keys", "list", *asked)
    assert capsys.readouterr().out == "0 API keys.\n"
    with sqlite3.connect(books / "chat.db") as connection:
        told = connection.execute("SELECT actor FROM event_log WHERE type = 'api_key_revoked'")
        assert told.fetchall() == [("operator",)] * 3
    assert run(books, "verify") == commands.OK


def test_messages_are_listed_sent_again_and_tested(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(data_dir, "migrate")
    db = Database(f"sqlite:///{data_dir / 'chat.db'}")

    def story(session: Session) -> str:
        outbox.put(
            session,
            kind="mail_test",
            channel="mail",
            target="ann@example.org",
            dedupe_key="k",
            data={},
            now=1,
        )
        row = outbox.by_key(session, "k")
        row.state, row.ended_at, row.error = "dead", 2, "550 no such user"
        session.add(row)
        return row.message_id

    message_id = db.write(story)
    db.close()
    assert run(data_dir, "messages", "list", "--state", "dead") == commands.PROBLEMS
    shown = capsys.readouterr().out
    assert message_id in shown
    assert "550 no such user" in shown
    assert run(data_dir, "messages", "resend") == commands.OK
    assert run(data_dir, "messages", "list") == commands.OK
    assert run(data_dir, "messages", "resend", message_id) == commands.PROBLEMS
    assert run(data_dir, "messages", "test", "ann@example.org") == commands.OK
    assert len(list((data_dir / "outbox").glob("*.eml"))) == 1
    assert run(data_dir, "messages", "test", "not an address") == commands.PROBLEMS
    with receivers.post() as post:
        for name, value in (
            ("KIND", "smtp"),
            ("HOST", "127.0.0.1"),
            ("TLS", "none"),
            ("PORT", str(post.port)),
        ):
            monkeypatch.setenv(f"CHAT_APP_MAIL__{name}", value)
        assert run(data_dir, "messages", "test", "ann@example.org") == commands.OK
        assert [mail["To"] for mail in post.mails] == ["ann@example.org"]
    assert run(data_dir, "messages", "test", "ann@example.org") == commands.PROBLEMS


def test_simulate_and_train(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A history that is right, written once, and a model that says what it knows of it."""
    small = ["simulate", "--users", "6", "--months", "1", "--seed", "4"]
    assert run(data_dir, *small) == commands.OK
    assert "6 people" in capsys.readouterr().out
    assert run(data_dir, *small) == commands.PROBLEMS
    assert run(data_dir, "verify") == commands.OK
    capsys.readouterr()
    assert run(data_dir, "train", "ltv", "churn") == commands.OK
    told = json.loads(capsys.readouterr().out)
    assert [one["kind"] for one in told["runs"]] == ["ltv", "churn"]
    assert {one["basis"] for one in told["runs"]} == {"insufficient"}
    assert all(one["is_demo"] and one["state"] == "done" for one in told["runs"])
    assert run(data_dir, "train", "weather") == commands.WRONG_USE
