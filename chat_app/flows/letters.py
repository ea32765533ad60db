"""Letters: mails with a link that proves something, written with the transaction of their cause.

Only the id of the link waits in the outbox; its token is derived when the mail is handed over.
It stands in the fragment of the address, which browsers keep from servers and their logs.
"""

import logging
from collections.abc import Mapping
from typing import Any

from sqlmodel import Session

from chat_app import secrets
from chat_app.accounts import links, mailboxes
from chat_app.accounts.links import Purpose
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.clock import MICROS_PER_SECOND
from chat_app.errors import TooMany
from chat_app.flows import notices
from chat_app.notify import outbox

log = logging.getLogger(__name__)
_DAY = 24 * 3600 * MICROS_PER_SECOND
# Title, text and button of each letter, and the word in the fragment of its link.
_WORDS: dict[Purpose, tuple[str, str, str, str]] = {
    "verify": (
        "Confirm your e-mail address",
        "Welcome, {name}. Open the link to confirm that this address is yours. It works once, "
        "within {minutes} minutes. If you did not ask for it, ignore this mail.",
        "Confirm this address",
        "verify",
    ),
    "email": (
        "Confirm your new e-mail address",
        "Open the link to make this the address of the account {name}. It works once, within "
        "{minutes} minutes. If you did not ask for it, ignore this mail.",
        "Confirm this address",
        "verify",
    ),
    "reset": (
        "Choose a new password",
        "Somebody asked for a new password for the account {name}. Open the link to choose one; "
        "all sign-ins end then. It works once, within {minutes} minutes. If it was not you, "
        "ignore this mail: nothing has changed.",
        "Choose a new password",
        "reset",
    ),
}


class MailJustSent(TooMany):
    """The account was sent such a mail a moment ago."""

    code = "mail_just_sent"
    message = "A mail is on its way. Look into the spam folder too, or ask again in a minute."


def key_of(app: App) -> bytes:
    """What tokens of links are derived with."""
    return secrets.subkey(app.secrets.link_key, "account links")


def check_pause(app: App, session: Session, *, user_id: int, purpose: Purpose, now: int) -> None:
    """Raise MailJustSent if the account was sent such a mail a moment ago."""
    wait = _wait(app, session, user_id=user_id, purpose=purpose, now=now)
    if wait > 0:
        raise MailJustSent(retry_after_seconds=-(-wait // MICROS_PER_SECOND))


def may_go(app: App, session: Session, *, user_id: int, purpose: Purpose, now: int) -> bool:
    """Whether the account was not sent such a mail a moment ago."""
    return _wait(app, session, user_id=user_id, purpose=purpose, now=now) <= 0


def prove_address(app: App, session: Session, *, user: User, address: str, now: int) -> None:
    """Ask whoever reads this address whether it is this user's.

    If it is another account's, that one is told instead, and nobody else sees a difference. One
    address is sent only so many mails in a day.
    """
    assert user.id is not None
    purpose: Purpose = "verify" if address == user.email else "email"
    rules = app.settings.accounts
    sent = links.to_address(session, address=address, since=now - _DAY)
    link = _make(app, session, user=user, purpose=purpose, address=address, now=now)
    owner = mailboxes.owner(session, address)
    if sent >= rules.mails_per_day_per_address:
        log.warning("one address was to be sent more than %d mails in a day", sent)
    elif owner is not None and owner.id != user.id:
        _someone_tried(session, owner, now=now)
    else:
        _mail(app, session, user=user, purpose=purpose, address=address, link=link, now=now)


def send_reset(app: App, session: Session, *, user: User, now: int) -> bool:
    """Mail a link for a new password; False when the address was sent enough today."""
    since = now - _DAY
    rules = app.settings.accounts
    if (
        links.to_address(session, address=user.email, since=since)
        >= rules.mails_per_day_per_address
    ):
        return False
    link = _make(app, session, user=user, purpose="reset", address=user.email, now=now)
    _mail(app, session, user=user, purpose="reset", address=user.email, link=link, now=now)
    return True


def opened(app: App, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message's data with the path that its link leads to."""
    if "link" not in data:
        return data
    return {**data, "path": f"/#{data['page']}={links.token_of(key_of(app), str(data['link']))}"}


def _make(
    app: App, session: Session, *, user: User, purpose: Purpose, address: str, now: int
) -> str:
    assert user.id is not None
    return links.make(
        session,
        user_id=user.id,
        purpose=purpose,
        address=address,
        key=key_of(app),
        now=now,
        minutes=app.settings.accounts.link_minutes,
    )


def _mail(
    app: App, session: Session, *, user: User, purpose: Purpose, address: str, link: str, now: int
) -> None:
    title, text, label, page = _WORDS[purpose]
    minutes = app.settings.accounts.link_minutes
    outbox.put(
        session,
        kind="security_link",
        channel="mail",
        target=address,
        dedupe_key=f"mail:{link}",
        data={
            "title": title,
            "text": text.format(name=user.username, minutes=minutes),
            "label": label,
            "page": page,
            "link": link,
        },
        now=now,
        user_id=user.id,
    )


def _someone_tried(session: Session, owner: User, *, now: int) -> None:
    assert owner.id is not None
    notices.security(
        session,
        user_id=owner.id,
        key=f"tried:{now // _DAY}",
        title="Your address was given for another account",
        text=(
            f"Somebody gave your e-mail address for another account. You have one here, "
            f"{owner.username}: sign in with it, or choose a new password if you forgot yours. "
            "If it was not you, ignore this mail: nobody else can use your address."
        ),
        now=now,
    )


def _wait(app: App, session: Session, *, user_id: int, purpose: Purpose, now: int) -> int:
    last = links.newest(session, user_id=user_id, purpose=purpose)
    pause = app.settings.accounts.mail_pause_seconds * MICROS_PER_SECOND
    return 0 if last is None else last + pause - now
