"""Signing in with Hugging Face, in a Space: begun, answered, linked to an account, unlinked.

An account is found by the stable id that Hugging Face gives a person. A new person gets a new
account; an address that somebody here has already is never enough to become that somebody: they
sign in as before and link the two under Account. What was begun is kept in a cookie of the
browser that began it, and each answer counts once.
"""

import base64
import hashlib
import hmac
import logging
import os
from dataclasses import dataclass
from secrets import token_urlsafe

from sqlmodel import Session

from chat_app import secrets
from chat_app.accounts import hub, mailboxes, tokens, users
from chat_app.accounts.openid import HubRefused, HubUnavailable, Person, Provider
from chat_app.accounts.sessions import SignedIn
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.clock import MICROS_PER_SECOND
from chat_app.errors import AppError, Conflict, Invalid, NotFound, NotSignedIn
from chat_app.flows import doors, letters, mailbox, notices, presence, signin, welcome
from chat_app.flows.signin import SignIn

log = logging.getLogger(__name__)

VALID_SECONDS = 600
CALLBACK = "/api/auth/hub/callback"
MAX_COOKIE = 200
_COOKIE = "chat_hub"
_TRIES = 3


class HubAbsent(NotFound):
    """This installation is no Space, or its sign-in with Hugging Face is off."""

    code = "hub_absent"
    message = "Signing in with Hugging Face is not offered here. Sign in with a password."


class HubStale(NotSignedIn):
    """The sign-in was begun in another browser, long ago, or was finished before."""

    code = "hub_stale"
    message = (
        "This sign-in with Hugging Face was begun elsewhere, took too long or was used already. "
        "Begin it again."
    )


class HubDenied(NotSignedIn):
    """Whoever was asked at Hugging Face did not agree."""

    code = "hub_denied"
    message = "Hugging Face was not allowed to say who you are. Agree there, or use a password."


class HubNoEmail(Invalid):
    """Hugging Face did not give an e-mail address, and every account has one."""

    code = "hub_no_email"
    message = (
        "Hugging Face did not give your e-mail address. Allow it there, or create an account with "
        "a password."
    )


class HubEmailTaken(Conflict):
    """The address belongs to an account here, and an address alone opens no account."""

    code = "hub_email_taken"
    message = (
        "An account with your e-mail address is here already. Sign in with its password, then "
        "link Hugging Face under Account."
    )


# What the page may have to say when the browser comes back.
TOLD: tuple[type[AppError], ...] = (
    HubStale,
    HubDenied,
    HubRefused,
    HubUnavailable,
    HubNoEmail,
    HubEmailTaken,
    hub.HubTaken,
    hub.HubLinked,
    signin.AccountSuspended,
    doors.TooManySignIns,
    doors.TooManySignUps,
    mailboxes.DisposableEmail,
)


@dataclass(frozen=True)
class Begun:
    """Where the browser goes, and what it keeps until it comes back."""

    address: str
    cookie: str


@dataclass(frozen=True)
class Finished:
    """A sign-in; or the `second` factor is to be shown, by the holder of this cookie; or neither:
    the account was linked.
    """

    signed_in: SignIn | None = None
    second: str = ""


@dataclass(frozen=True)
class _Kept:
    """What our cookie says: begun for nobody, or for a user who links."""

    purpose: str
    seconds: int
    user_id: int
    chance: str


def cookie_name(https: bool) -> str:
    """The name of the cookie that keeps what was begun."""
    return f"__Host-{_COOKIE}" if https else _COOKIE


def provider(app: App) -> Provider:
    """Hugging Face. Raises HubAbsent."""
    if app.hub is None or not _own(app):
        raise HubAbsent
    return app.hub


async def begin(app: App) -> Begun:
    """Begin a sign-in. Raises HubAbsent or HubUnavailable."""
    return await _begin(app, purpose="in", user_id=0)


async def begin_link(app: App, who: SignedIn, *, password: str, code: str | None, ip: str) -> Begun:
    """Begin to link the account of whoever shows its password again.

    Raises HubAbsent, HubLinked, HubUnavailable, or what `presence.prove` does.
    """
    provider(app)
    user_id = _id(who.user)
    await presence.prove(app, user_id=user_id, password=password, code=code, ip=ip)
    with app.db.read() as session:
        if hub.of_user(session, user_id=user_id) is not None:
            raise hub.HubLinked
    return await _begin(app, purpose="link", user_id=user_id)


async def finish(
    app: App, *, cookie: str, state: str, code: str, error: str, ip: str, agent: str, device: str
) -> Finished:
    """What the browser brought back from Hugging Face.

    Raises HubAbsent, HubStale, HubDenied, HubRefused, HubUnavailable, HubNoEmail, HubEmailTaken,
    HubTaken, AccountSuspended, or what creating an account raises.
    """
    asked = provider(app)
    kept = _read(app, cookie, ("in", "link"))
    if kept is None or not hmac.compare_digest(_derive(app, "state", kept).encode(), _bytes(state)):
        raise HubStale
    attempt = await doors.attempt(app, "sign_in", subject="hub", ip=ip)
    await _use(app, kept)
    if error or not code:
        raise HubDenied
    person = await asked.person(
        code=code,
        redirect=_own(app) + CALLBACK,
        verifier=_derive(app, "verifier", kept),
        nonce=_derive(app, "nonce", kept),
    )
    await attempt.forgive(app)
    if kept.purpose == "link":
        await _link(app, person, user_id=kept.user_id)
        return Finished()
    user_id = await _user(app, person, ip=ip)
    try:
        done = await signin.vouched(app, user_id=user_id, ip=ip, agent=agent, device=device)
        return Finished(done)
    except signin.TotpRequired:
        return Finished(second=_cookie(app, purpose="code", user_id=user_id))


async def second(app: App, *, cookie: str, code: str, ip: str, agent: str, device: str) -> SignIn:
    """The code of somebody whom Hugging Face has just named.

    Raises HubStale, WrongTotp, TooManySecondFactors or AccountSuspended.
    """
    provider(app)
    kept = _read(app, cookie, ("code",))
    if kept is None:
        raise HubStale
    with app.db.read() as session:
        if hub.of_user(session, user_id=kept.user_id) is None:
            raise HubStale
    return await signin.vouched(
        app, user_id=kept.user_id, ip=ip, agent=agent, code=code, device=device
    )


async def unlink(app: App, who: SignedIn, *, password: str, code: str | None, ip: str) -> None:
    """Hugging Face signs in to this account no longer. Raises NotFound, or as `presence.prove`."""
    user_id = _id(who.user)
    await presence.prove(app, user_id=user_id, password=password, code=code, ip=ip)

    def story(session: Session) -> None:
        if not hub.unlink(session, user_id=user_id):
            raise NotFound("No Hugging Face account is linked. There is nothing to unlink.")
        _tell(app, session, user_id=user_id, linked=False, name="")

    await app.db.awrite(story)


async def _begin(app: App, *, purpose: str, user_id: int) -> Begun:
    asked = provider(app)
    cookie = _cookie(app, purpose=purpose, user_id=user_id)
    kept = _read(app, cookie, (purpose,))
    assert kept is not None
    digest = hashlib.sha256(_derive(app, "verifier", kept).encode()).digest()
    address = await asked.address(
        redirect=_own(app) + CALLBACK,
        state=_derive(app, "state", kept),
        nonce=_derive(app, "nonce", kept),
        challenge=base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
    )
    return Begun(address, cookie)


async def _use(app: App, kept: _Kept) -> None:
    """The answer counts now and never again, in no process."""
    expires_at = (kept.seconds + VALID_SECONDS) * MICROS_PER_SECOND
    state_hash = tokens.token_hash(_derive(app, "state", kept))
    if not await app.db.awrite(
        lambda session: hub.use_answer(session, state_hash=state_hash, expires_at=expires_at)
    ):
        log.warning("an answer of Hugging Face was shown twice")
        raise HubStale


async def _user(app: App, person: Person, *, ip: str) -> int:
    """Whose account this person has here; a new one, if it is their first time."""

    def story(session: Session) -> int | None:
        known = hub.find(session, subject=person.subject)
        if known is None:
            return None
        now = app.clock.micros()
        hub.note(session, subject=person.subject, name=person.name, now=now)
        return known.user_id

    for _ in range(_TRIES):
        found = await app.db.awrite(story)
        if found is not None:
            return found
        try:
            return await _create(app, person, ip=ip)
        except (users.NameTaken, hub.HubTaken):
            continue  # somebody else was first with the name, or this person in another tab
    raise HubRefused


async def _create(app: App, person: Person, *, ip: str) -> int:
    if not person.email:
        raise HubNoEmail
    address = mailbox.accept(app, person.email)

    attempt = await doors.attempt(app, "sign_up", ip=ip)

    def story(session: Session) -> int:
        now = app.clock.micros()
        known = hub.find(session, subject=person.subject)
        if known is not None:  # by another tab, a moment ago
            return known.user_id
        if mailboxes.owner(session, address) is not None:
            raise HubEmailTaken
        user = users.create(
            session,
            username=hub.free_username(session, person.name),
            email=address,
            password_hash="",  # nobody has one: a password is set by mail
            now=now,
            # An address that is not confirmed there is nobody's here.
            pending=not person.email_verified,
        )
        hub.link(session, subject=person.subject, user_id=_id(user), name=person.name, now=now)
        if person.email_verified:
            user.email_verified_at = now
            session.add(user)
            welcome.give(app, session, user=user, ip=ip, now=now)
        else:
            letters.prove_address(app, session, user=user, address=address, now=now)
        audit.record(
            session, type="user_created", actor=f"user:{user.id}", now=now, role="user", by="hub"
        )
        return _id(user)

    try:
        user_id = await app.db.awrite(story)
    except (users.NameTaken, hub.HubTaken, HubEmailTaken):
        await attempt.forgive(app)
        raise
    log.info("somebody signed up with Hugging Face")
    return user_id


async def _link(app: App, person: Person, *, user_id: int) -> None:
    def story(session: Session) -> None:
        now = app.clock.micros()
        if users.get(session, user_id).erased_at is not None:
            raise HubStale
        hub.link(session, subject=person.subject, user_id=user_id, name=person.name, now=now)
        _tell(app, session, user_id=user_id, linked=True, name=person.name)

    await app.db.awrite(story)


def _tell(app: App, session: Session, *, user_id: int, linked: bool, name: str) -> None:
    now = app.clock.micros()
    audit.record(
        session, type="hub_linked" if linked else "hub_unlinked", actor=f"user:{user_id}", now=now
    )
    what = f"{name} of Hugging Face signs in" if linked else "Hugging Face no longer signs in"
    notices.security(
        session,
        user_id=user_id,
        key=f"hub:{now}",
        title="Sign-in with Hugging Face was changed",
        text=f"{what} to your account. If it was not you, change your password at once.",
        now=now,
    )


def _own(app: App) -> str:
    """Our own address, as Hugging Face knows it; empty where there is none."""
    host = os.environ.get("SPACE_HOST", "")
    return app.settings.server.public_url.rstrip("/") or (f"https://{host}" if host else "")


def _cookie(app: App, *, purpose: str, user_id: int) -> str:
    seconds = app.clock.micros() // MICROS_PER_SECOND
    text = f"{purpose}.{seconds}.{user_id}.{token_urlsafe(32)}"
    return f"{text}.{tokens.derive(_key(app), 'cookie', text)}"


def _read(app: App, cookie: str, purposes: tuple[str, ...]) -> _Kept | None:
    """What a genuine cookie of now says."""
    text, _, mark = cookie.rpartition(".")
    parts = text.split(".")
    if len(cookie) > MAX_COOKIE or not cookie.isascii() or len(parts) != 4:
        return None
    if not hmac.compare_digest(tokens.derive(_key(app), "cookie", text).encode(), mark.encode()):
        return None
    kept = _Kept(parts[0], int(parts[1]), int(parts[2]), parts[3])
    age = app.clock.micros() // MICROS_PER_SECOND - kept.seconds
    if kept.purpose not in purposes or not -VALID_SECONDS < age < VALID_SECONDS:
        return None
    return kept


def _derive(app: App, purpose: str, kept: _Kept) -> str:
    """The state, the nonce or the verifier: 43 characters that the browser cannot know."""
    return tokens.derive(_key(app), purpose, f"{kept.purpose}.{kept.user_id}.{kept.chance}")


def _key(app: App) -> bytes:
    return secrets.subkey(app.secrets.link_key, "hub sign-in")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _id(user: User) -> int:
    assert user.id is not None
    return user.id
