"""Receipts: the same for ever, checked without a database, and named when the books change."""

import json
import stat
from pathlib import Path

import pytest

from chat_app.credits import holds, verify
from chat_app.credits.receipts import keys, receipts
from chat_app.credits.receipts.receipts import BadReceipt, Signed, UnknownReceipt
from chat_app.db import Database
from tests.credits.books import ALICE, BOB, HOUR, NOON, credits, facts, grant, place
from tests.credits.test_verify import plant


def settle(database: Database, now: int = NOON) -> int:
    """The transfer of a settled answer."""
    database.write(lambda s: grant(s, 5, now=now))
    hold = database.write(lambda s: place(s, 3, now=now, reference=f"rep_{now}"))
    done = database.write(
        lambda s: holds.settle(
            s, hold_id=hold.id, micro=credits(2), now=now, usage=facts(f"rep_{now}")
        )
    )
    assert done.transfer_id is not None
    return done.transfer_id


def issue(
    database: Database, known: list[keys.ReceiptKey], transfer: int, user: int = ALICE
) -> Signed:
    return database.write(
        lambda s: receipts.issue(
            s, transfer_id=transfer, user_id=user, known=known, now=NOON + HOUR
        )
    )


def public(known: list[keys.ReceiptKey]) -> dict[str, bytes]:
    return {key.id: key.public for key in known}


def test_a_receipt_is_the_same_every_time_and_after_a_restart(
    database: Database, tmp_path: Path
) -> None:
    known = keys.load_or_create(tmp_path)
    transfer = settle(database)
    first = issue(database, known, transfer)
    assert first == issue(database, keys.load_or_create(tmp_path), transfer)
    said = receipts.check(json.loads(json.dumps(first)), public=public(known))
    assert (said["credits"], said["reply_id"], said["user_id"]) == ("2", f"rep_{NOON}", "1")
    assert (said["prompt_tokens"], said["completion_tokens"], said["model"]) == (10, 20, "m")
    for user, number in ((BOB, transfer), (ALICE, transfer - 1), (ALICE, 999)):
        with pytest.raises(UnknownReceipt):
            issue(database, known, number, user)
    with database.read() as session:
        assert verify.run(session) == []


def test_every_change_of_a_receipt_is_noticed(database: Database, tmp_path: Path) -> None:
    known = keys.load_or_create(tmp_path)
    signed = issue(database, known, settle(database))
    for name in signed["receipt"]:
        forged = json.loads(json.dumps(signed))
        forged["receipt"][name] = "x"
        with pytest.raises(BadReceipt):
            receipts.check(forged, public=public(known))
    stranger = keys.ReceiptKey(b"s" * 32, 0)
    for bad in (
        {**signed, "signature": signed["signature"][::-1]},
        {**signed, "signature": "ü"},
        {**signed, "signature": ""},
        {**signed, "algorithm": "none"},
        {**signed, "key_id": stranger.id},
        {**signed, "more": 1},
        {**signed, "receipt": []},
        [],
        None,
    ):
        with pytest.raises(BadReceipt):
            receipts.check(bad, public=public([*known, stranger]))
    with pytest.raises(BadReceipt):
        receipts.check(signed, public=public([stranger]))


def test_a_new_key_signs_what_is_settled_from_then_on(database: Database, tmp_path: Path) -> None:
    old = keys.load_or_create(tmp_path)
    before, after = settle(database, NOON), settle(database, NOON + HOUR)
    fresh = keys.rotate(tmp_path, now=NOON + HOUR)
    known = keys.load_or_create(tmp_path)
    assert [key.id for key in known] == [old[0].id, fresh.id]
    assert issue(database, known, before)["key_id"] == old[0].id
    assert issue(database, known, after)["key_id"] == fresh.id
    assert stat.S_IMODE((tmp_path / keys.FILE).stat().st_mode) == 0o600
    lost = [key for key in known if key.id != fresh.id]
    with pytest.raises(receipts.ReceiptKeyLost):
        issue(database, lost, after)


@pytest.mark.parametrize(
    "script",
    [
        "UPDATE usage SET model = 'cheaper'",
        "UPDATE usage SET completion_tokens = completion_tokens + 1",
        "UPDATE transfer SET description = 'x' WHERE kind = 'post'",
        "DELETE FROM usage",
    ],
)
def test_books_that_no_longer_bear_a_receipt_out_are_named(
    sqlite_database: Database, tmp_path: Path, script: str
) -> None:
    """Also what no sum would show: the model's name, the tokens."""
    issue(sqlite_database, keys.load_or_create(tmp_path), settle(sqlite_database))
    plant(Path(str(sqlite_database.engine.url.database)), script)
    with sqlite_database.read() as session:
        found = [problem.sentence for problem in verify.run(session)]
    assert "A receipt that was given out does not follow from the books." in found


def test_bad_key_files_are_refused(tmp_path: Path) -> None:
    for content in ("[]", '[{"seed": "00", "since": 0}]'):
        (tmp_path / keys.FILE).write_text(content)
        with pytest.raises(ValueError, match="no key"):
            keys.load_or_create(tmp_path)
