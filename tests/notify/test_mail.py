"""Mails: what they carry, how they leave, and that nothing given becomes a header."""

from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest
from pydantic import SecretStr

from chat_app.notify import kinds, mail
from chat_app.notify.kinds import Letter
from chat_app.settings import Mail
from tests.notify import receivers

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
SITE = "https://chat.example"
PAID = {
    "credits": "1100", "bonus": "100", "amount": "10.00 USD", "payment": "pay_1", "demo": True,
}  # fmt: skip


def composed(letter: Letter | None = None, **more: object) -> EmailMessage:
    """A mail about a purchase."""
    values: dict[str, object] = {
        "settings": Mail(sender="The Chat <chat@example.org>"),
        "to": "ann@example.org",
        "message_id": "ntf_1",
        "at": AT,
        "site": SITE,
        "why": "Purchases",
        "unsubscribe": f"{SITE}/u?token=1.purchases.ab",
        **more,
    }
    return mail.compose(letter or kinds.letter("payment_paid", PAID), **values)  # type: ignore[arg-type]


def test_a_mail_says_the_same_in_text_and_html() -> None:
    message = message_from_bytes(bytes(composed()), policy=policy.default)
    assert isinstance(message, EmailMessage)
    assert message["Subject"] == "1,100 credits added"
    assert message["From"] == "The Chat <chat@example.org>"
    assert message["Message-ID"] == "<ntf_1@example.org>"
    assert message["Date"] == "Sun, 01 Mar 2026 12:00:00 +0000"
    assert message["List-Unsubscribe"] == f"<{SITE}/u?token=1.purchases.ab>"
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    parts = [message.get_body((kind,)) for kind in ("plain", "html")]
    for part in parts:
        assert part is not None
        for word in ("1,100 credits", "100 credits", "10.00 USD", "pay_1", "No real money"):
            assert word in part.get_content(), word
    assert max(len(line) for line in bytes(composed()).split(b"\r\n")) <= 78 + 20


def test_a_security_mail_has_no_way_out_of_it() -> None:
    message = composed(unsubscribe="")
    assert message["List-Unsubscribe"] is None


def test_words_from_people_are_no_markup() -> None:
    data = {"title": "<b>Hi</b> & bye", "text": '<script>alert("x")</script>'}
    message = composed(kinds.letter("announcement", data))
    part = message.get_body(("html",))
    assert part is not None
    assert "<script" not in part.get_content()
    assert "<b>" not in part.get_content()
    assert "&lt;script&gt;" in part.get_content()


@pytest.mark.parametrize(
    "title", ["Hi\r\nBcc: eve@example.org", "Hi\nX: y", "Hi\rX: y", "Hi\x00\x0b\u2028X: y"]
)
def test_a_title_never_becomes_a_header(title: str) -> None:
    data = {"title": title, "text": "words"}
    message = message_from_bytes(
        bytes(composed(kinds.letter("announcement", data))), policy=policy.default
    )
    assert message["Bcc"] is None
    assert message["X"] is None
    assert message["Subject"].startswith("Hi")


@pytest.mark.parametrize(
    "to",
    [
        "ann@example.org\r\nBcc: eve@example.org",
        "ann@example.org, eve@example.org",
        "ann@example.org\n",
        "Ann <ann@example.org>",
        "ann example@example.org",
        "ann@",
        "@example.org",
        "ann@exa mple.org",
        "a" * 65 + "@example.org",
        "",
    ],
)
def test_an_address_that_is_more_than_one_is_refused(to: str) -> None:
    """Header injection by the recipient."""
    if to == "ann@example.org\n":
        assert composed(to=to)["To"] == "ann@example.org"
        return
    with pytest.raises(mail.BadMailAddress):
        composed(to=to)


def test_a_file_is_written_once_however_often_it_is_sent(tmp_path: Path) -> None:
    """At least once to the wire is exactly once in the folder."""
    settings = Mail(kind="outbox")
    for _ in range(3):
        mail.send(composed(), settings=settings, outbox=tmp_path / "outbox")
    (file,) = (tmp_path / "outbox").iterdir()
    assert file.name == "ntf_1.eml"
    assert file.stat().st_mode & 0o777 == 0o600
    assert message_from_bytes(file.read_bytes(), policy=policy.default)["To"] == "ann@example.org"


def smtp(port: int, **more: object) -> Mail:
    """Settings for the test's server, which has no TLS."""
    return Mail.model_validate(
        {"kind": "smtp", "host": "127.0.0.1", "port": port, "tls": "none", **more}
    )


def test_a_real_mail_server_gets_it(tmp_path: Path) -> None:
    with receivers.post() as post:
        mail.send(composed(), settings=smtp(post.port), outbox=tmp_path)
        (got,) = post.mails
        assert got["Message-ID"] == "<ntf_1@example.org>"
        assert post.envelopes == [("chat@example.org", ["ann@example.org"])]
        assert got.get_body(("html",)) is not None
        mail.look(smtp(post.port))


@pytest.mark.parametrize(
    ("reply", "recipient", "error"),
    [
        ("451 later", "250 OK", mail.MailDelayed),
        ("554 no spam", "250 OK", mail.MailRefused),
        ("250 OK", "550 unknown user", mail.MailRefused),
        ("250 OK", "450 greylisted", mail.MailDelayed),
    ],
)
def test_refusals_for_now_and_for_ever(
    tmp_path: Path, reply: str, recipient: str, error: type[Exception]
) -> None:
    with receivers.post() as post:
        post.reply, post.recipient_reply = reply, recipient
        with pytest.raises(error):
            mail.send(composed(), settings=smtp(post.port), outbox=tmp_path)
        assert post.mails == []


def test_no_server_no_tls_and_a_wrong_password_are_for_now(tmp_path: Path) -> None:
    with receivers.post() as post:
        for settings in (
            smtp(1),
            smtp(post.port, tls="starttls"),
            smtp(post.port, tls="tls"),
            smtp(post.port, username="me", password=SecretStr("wrong")),
        ):
            with pytest.raises(mail.MailDelayed):
                mail.send(composed(), settings=settings, outbox=tmp_path)
        assert post.mails == []


def test_every_kind_has_words_and_a_topic() -> None:
    """A kind without words would fail in the transaction of its cause."""
    alert = {"total": "4.5", "threshold": "5", "days": 2.5}
    plain = {"title": "A title", "text": "Some words."}
    usage = {
        "title": "Your week", "from": "1 Jan 2026", "to": "7 Jan 2026", "messages": 3,
        "credits": "12", "total": "88", "models": [{"model": "m", "credits": "12"}],
    }  # fmt: skip
    fault = {"title": "Disk", "sentence": "It is full.", "advice": "Make room.", "place": "",
             "since": "3 Mar 2026 12:00"}  # fmt: skip
    books = {"title": "Week 9", "earned": "5.00 USD", "from": "1 Jan 2026", "to": "7 Jan 2026",
             "since": "2026-01-01", "until": "2026-01-07",
             "rows": [{"name": "Sold", "value": "9.00 USD"}]}  # fmt: skip
    dispute = {"payment": "pay_1", "user": "7", "state": "open", "reason": "fraudulent",
               "credits": "470", "owed": "30", "amount": "5.00 USD"}  # fmt: skip
    data = {
        "balance_low": alert, "balance_critical": alert, "balance_runout": alert,
        "payment_paid": PAID, "payment_refunded": PAID, "usage_weekly": usage,
        "payment_disputed": dispute, "staff_dispute": dispute,
        "debt_forgiven": {"credits": "12", "owed": "0"},
        "usage_monthly": usage, "price_notice": plain, "announcement": plain,
        "security_notice": plain, "security_link": {**plain, "label": "Go", "path": "/x"},
        "webhook_stopped": {"url": "https://x.example/", "reason": "status 500"},
        "webhook_test": {}, "mail_test": {},
        "staff_model": plain,
        "machine_alert": fault, "machine_cleared": {**fault, "until": "3 Mar 2026 12:10"},
        "renewal_unpaid": {"plan": "Plus", "amount": "9.90 USD", "left": 2, "then": "pause",
                           "next": "3 Mar 2026 12:00"},
        "plan_stopped": {"plan": "Plus", "then": "end"},
        "topup_unpaid": {"payment": "pay_1", "amount": "5.00 USD", "state": "failed"},
        "invoice_reminder": {"invoice": "INV-1", "amount": "5.00 USD", "due": "3 Mar 2026",
                             "late": 1},
        "books_daily": books, "books_weekly": books, "books_monthly": books,
    }  # fmt: skip
    assert set(data) == set(kinds.KINDS)
    for kind, given in data.items():
        letter = kinds.letter(kind, given)
        assert kinds.KINDS[kind].topic in kinds.TOPICS
        assert letter.title
        assert letter.text.endswith((".", "!"))
        assert composed(letter)["Subject"] == letter.title
