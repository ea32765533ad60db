"""Preferences: which topics a person wants on which channel, and the link that ends one.

An unsubscribe link names a person and a topic and is signed, so it works without signing in
and for nothing else. It never runs out: an old mail must be able to end what it began.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping

from sqlmodel import Session, col, select

from chat_app.errors import Invalid, NotFound
from chat_app.notify.kinds import CHANNELS, TOPICS
from chat_app.notify.tables import PreferenceRow

Choices = dict[str, dict[str, bool]]


class BadPreference(Invalid):
    """A topic or a channel that does not exist, or one that cannot be switched off."""

    code = "invalid_preference"
    message = "This topic cannot be chosen on this channel. Reload the list of topics."


class BadUnsubscribeLink(NotFound):
    """The link was not made by this installation, or was shortened on the way."""

    code = "invalid_unsubscribe_link"
    message = "This link is not valid. Sign in and choose under Credits, Alerts."


def shown(permitted: Callable[[str], bool]) -> list[str]:
    """The topics that somebody with these permissions may choose about."""
    return [
        name
        for name, topic in TOPICS.items()
        if not topic.permission or permitted(topic.permission)
    ]


def of(session: Session, *, user_id: int) -> Choices:
    """What the person gets, by topic and channel."""
    chosen = {
        (row.topic, row.channel): row.wanted
        for row in session.exec(select(PreferenceRow).where(PreferenceRow.user_id == user_id))
    }
    return {
        name: {
            channel: topic.fixed or chosen.get((name, channel), topic.usual(channel))
            for channel in CHANNELS
        }
        for name, topic in TOPICS.items()
    }


def wants(session: Session, *, user_id: int, topic: str, channel: str) -> bool:
    """Whether the person wants this topic on this channel."""
    if TOPICS[topic].fixed:
        return True
    row = session.get(PreferenceRow, (user_id, topic, channel))
    return TOPICS[topic].usual(channel) if row is None else row.wanted


def who_wants(session: Session, *, topic: str, since: int) -> list[int]:
    """Who asked before `since` (µs) for a topic that is usually off, on any channel."""
    rows = session.exec(
        select(PreferenceRow.user_id)
        .where(
            PreferenceRow.topic == topic,
            col(PreferenceRow.wanted).is_(True),
            col(PreferenceRow.changed_at) < since,
        )
        .distinct()
        .order_by(col(PreferenceRow.user_id))
    )
    return list(rows)


def choose(
    session: Session, *, user_id: int, wanted: Mapping[str, Mapping[str, bool]], now: int
) -> None:
    """Store choices by topic and channel; what is not named stays. Raises BadPreference."""
    for name, channels in wanted.items():
        topic = TOPICS.get(name)
        for channel, yes in channels.items():
            if topic is None or channel not in CHANNELS or (topic.fixed and not yes):
                raise BadPreference(param=name)
            row = session.get(PreferenceRow, (user_id, name, channel))
            if row is None:
                if yes == topic.usual(channel):
                    continue
                row = PreferenceRow(
                    user_id=user_id, topic=name, channel=channel, wanted=yes, changed_at=now
                )
            row.wanted, row.changed_at = yes, now
            session.add(row)
    session.flush()


def link_token(key: bytes, *, user_id: int, topic: str) -> str:
    """The signed part of an unsubscribe link."""
    named = f"{user_id}.{topic}"
    return f"{named}.{_mac(key, named)}"


def read_token(key: bytes, token: str) -> tuple[int, str]:
    """The user and the topic that a link names; raises BadUnsubscribeLink."""
    named, _, mac = token.rpartition(".")
    if not hmac.compare_digest(mac.encode(), _mac(key, named).encode()):
        raise BadUnsubscribeLink
    user_id, _, topic = named.partition(".")
    if topic not in TOPICS or TOPICS[topic].fixed:
        raise BadUnsubscribeLink
    return int(user_id), topic


def _mac(key: bytes, named: str) -> str:
    return hmac.new(key, f"unsubscribe\n{named}".encode(), hashlib.sha256).hexdigest()[:40]
