"""Mail: a letter as a message with text and HTML, and the two ways it leaves: a file, or SMTP.

The Message-ID belongs to the message and not to the try, so a mail that arrives twice is
recognised as one; a file is simply written again. Nothing that was given becomes a header
line of its own.
"""

import html
import os
import re
import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from email import policy
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from pathlib import Path

from chat_app.errors import Invalid
from chat_app.notify.kinds import Letter
from chat_app.settings import Mail

SECONDS = 10
_ADDRESS = re.compile(r"[\x21-\x7e]{1,64}@[A-Za-z0-9.-]{1,253}")
_BAD = re.compile(r"[\x00-\x1f\x7f\u0085\u2028\u2029]")
_INK, _MUTED, _BRAND = "#1f1d1a", "#625d56", "#4338ca"


class BadMailAddress(Invalid):
    """The text is no address a mail can be sent to."""

    code = "invalid_mail_address"
    message = "This is not an address that a mail can be sent to. Correct it and send it again."


class MailRefused(Exception):
    """The mail server will never take this message."""


class MailDelayed(Exception):
    """The mail server cannot take it now."""


def compose(
    letter: Letter,
    *,
    settings: Mail,
    to: str,
    message_id: str,
    at: datetime,
    site: str,
    why: str = "",
    unsubscribe: str = "",
) -> EmailMessage:
    """The message. `site` is the address of this installation, `why` the topic it belongs to.

    With `unsubscribe` it carries the header for one-click unsubscription (RFC 8058). Raises
    BadMailAddress.
    """
    message = EmailMessage(policy=policy.SMTP)
    message["From"] = _sender(settings.sender)
    message["To"] = _address(to)
    message["Subject"] = _BAD.sub(" ", letter.title)[:200]
    message["Date"] = format_datetime(at)
    message["Message-ID"] = f"<{message_id}@{_domain(settings.sender)}>"
    message["Auto-Submitted"] = "auto-generated"
    if unsubscribe:
        message["List-Unsubscribe"] = f"<{unsubscribe}>"
        message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    message.set_content(_text(letter, site, why, unsubscribe), cte="quoted-printable")
    message.add_alternative(
        _html(letter, site, why, unsubscribe), subtype="html", cte="quoted-printable"
    )
    return message


def send(message: EmailMessage, *, settings: Mail, outbox: Path) -> None:
    """Hand the message over. Raises MailDelayed, or MailRefused for what will never be taken."""
    if settings.kind == "outbox":
        _write(message, outbox)
    else:
        _deliver(message, settings)


def look(settings: Mail) -> None:
    """Greet the mail server and sign in, without sending; raises MailDelayed or MailRefused."""
    with _sorting(), _connected(settings) as server:
        server.noop()


def _write(message: EmailMessage, outbox: Path) -> None:
    """One file for each message: written again it is the same file."""
    outbox.mkdir(parents=True, exist_ok=True, mode=0o700)
    name = re.sub(r"[^A-Za-z0-9_-]", "", str(message["Message-ID"]).partition("@")[0])
    draft = outbox / f".{name}.{os.getpid()}"
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(bytes(message))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(outbox / f"{name}.eml")


def _deliver(message: EmailMessage, settings: Mail) -> None:
    with _sorting(), _connected(settings) as server:
        server.send_message(message)


@contextmanager
def _sorting() -> Iterator[None]:
    """Sorts what smtplib raises: a 5xx is for ever, everything else may pass."""
    try:
        yield
    except smtplib.SMTPRecipientsRefused as error:
        raise _sorted(*next(iter(error.recipients.values()))) from error
    except smtplib.SMTPAuthenticationError as error:
        # The operator's to mend, not the end of the message.
        raise _sorted(450, error.smtp_error) from error
    except smtplib.SMTPResponseException as error:
        raise _sorted(error.smtp_code, error.smtp_error) from error
    except (smtplib.SMTPException, OSError) as error:
        raise MailDelayed(f"{type(error).__name__}: {error}") from error


def _sorted(code: int, words: bytes | str) -> Exception:
    shown = words.decode("utf-8", "replace") if isinstance(words, bytes) else words
    kind = MailRefused if 500 <= code < 600 else MailDelayed
    return kind(f"{code} {shown}")


def _connected(settings: Mail) -> smtplib.SMTP:
    context = ssl.create_default_context()
    if settings.tls == "tls":
        server: smtplib.SMTP = smtplib.SMTP_SSL(
            settings.host, settings.port, timeout=SECONDS, context=context
        )
    else:
        server = smtplib.SMTP(settings.host, settings.port, timeout=SECONDS)
    try:
        if settings.tls == "starttls":
            server.starttls(context=context)
        if settings.username:
            server.login(settings.username, settings.password.get_secret_value())
    except BaseException:
        server.close()
        raise
    return server


def _address(text: str) -> Address:
    found = _ascii(text.strip())
    if not _ADDRESS.fullmatch(found):
        raise BadMailAddress
    try:
        return Address(addr_spec=found)
    except (ValueError, HeaderParseError) as error:
        raise BadMailAddress from error


def _ascii(text: str) -> str:
    """The address with its host as mail servers write it."""
    local, _, host = text.rpartition("@")
    try:
        return f"{local}@{host if host.isascii() else host.encode('idna').decode()}"
    except UnicodeError as error:
        raise BadMailAddress from error


def _sender(text: str) -> Address:
    name, address = parseaddr(_BAD.sub("", text))
    found = _address(address)
    return Address(display_name=name, addr_spec=found.addr_spec)


def _domain(text: str) -> str:
    return str(_sender(text).domain)


def _text(letter: Letter, site: str, why: str, unsubscribe: str) -> str:
    parts = [letter.title, "", *letter.lines]
    if letter.rows:
        width = max(len(name) for name, _ in letter.rows)
        parts += ["", *(f"{name:<{width}}  {value}" for name, value in letter.rows)]
    if letter.action:
        parts += ["", f"{letter.action[0]}: {site}{letter.action[1]}"]
    parts += ["", "-- ", f"ML Chat Billing, {site}"]
    if unsubscribe:
        parts += [f"No more mail about {why.lower()}: {unsubscribe}"]
    return "\n".join(parts) + "\n"


def _html(letter: Letter, site: str, why: str, unsubscribe: str) -> str:
    esc = html.escape
    lines = "".join(
        f'<p style="margin:0 0 14px;font-size:16px;line-height:1.55">{esc(line)}</p>'
        for line in letter.lines
    )
    rows = "".join(
        f'<tr><td style="padding:9px 16px 9px 0;color:{_MUTED};border-top:1px solid #e4e0d9">'
        f'{esc(name)}</td><td style="padding:9px 0;text-align:right;'
        f'border-top:1px solid #e4e0d9">{esc(value)}</td></tr>'
        for name, value in letter.rows
    )
    table = (
        '<table role="presentation" width="100%" cellspacing="0" cellpadding="0" '
        f'style="border-collapse:collapse;margin:4px 0 18px;font-size:15px">{rows}</table>'
        if rows
        else ""
    )
    button = ""
    if letter.action:
        label, path = letter.action
        button = (
            f'<p style="margin:22px 0 6px"><a href="{esc(site + path)}" '
            f'style="display:inline-block;background:{_BRAND};color:#ffffff;padding:11px 20px;'
            f'border-radius:10px;text-decoration:none;font-weight:bold">{esc(label)}</a></p>'
        )
    foot = f'<a href="{esc(site)}" style="color:{_MUTED}">ML Chat Billing</a>'
    if unsubscribe:
        foot += (
            f' &middot; <a href="{esc(unsubscribe)}" style="color:{_MUTED}">'
            f"No more mail about {esc(why.lower())}</a>"
        )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light">'
        f"<title>{esc(letter.title)}</title></head>"
        f'<body style="margin:0;background:#f3f1ed;color:{_INK};'
        "font-family:-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif\">"
        '<table role="presentation" width="100%" cellspacing="0" cellpadding="0"><tr>'
        '<td align="center" style="padding:32px 14px">'
        '<table role="presentation" width="100%" cellspacing="0" cellpadding="0" '
        'style="max-width:560px"><tr><td style="background:#ffffff;border:1px solid #e4e0d9;'
        'border-radius:14px;padding:30px 32px">'
        '<table role="presentation" cellspacing="0" cellpadding="0"><tr>'
        f'<td width="26" height="26" align="center" style="background:{_BRAND};border-radius:7px;'
        'color:#ffffff;font-size:15px;font-weight:bold">&#8801;</td>'
        f'<td style="padding-left:10px;font-size:15px;font-weight:bold">ML Chat Billing</td>'
        "</tr></table>"
        f'<h1 style="font-size:22px;line-height:1.3;margin:24px 0 12px">{esc(letter.title)}</h1>'
        f"{lines}{table}{button}</td></tr>"
        f'<tr><td style="padding:16px 32px;color:{_MUTED};font-size:13px;line-height:1.5">'
        f"{foot}</td></tr></table></td></tr></table></body></html>"
    )
