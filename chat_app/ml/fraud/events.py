"""An event that moves credits or comes close to it, read from a plain dict."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from functools import lru_cache
from ipaddress import ip_address, ip_network
from math import isfinite, isnan
from typing import Any, NamedTuple

from chat_app.errors import Invalid

TYPES = (
    "message", "login", "password_change", "signup_bonus", "voucher", "transfer_in",
    "transfer_out", "topup", "topup_failed", "refund",
)  # fmt: skip
_KNOWN = frozenset(TYPES)
_MOST = 1e18


class BadEvent(Invalid):
    """An event lacks what every event has, or holds what it cannot hold; `field` says which."""

    code = "bad_fraud_event"
    message = "The event cannot be judged. Correct the named field and send it again."


class Event(NamedTuple):
    """An event as the state reads it: times are seconds since 1970, absent text is empty."""

    id: str
    ts: float
    type: str
    user: str
    tenant: str
    amount: float
    ip: str
    net: str
    device: str
    card: str
    code: str
    domain: str
    verified: float
    created: float | None
    other: str
    tokens: float | None
    channel: str
    agent: str = ""


def read(event: Mapping[str, Any]) -> Event:
    """Check a dict with the fields of the documentation; raises BadEvent."""
    get = event.get
    kind = get("type")
    if kind not in _KNOWN:
        raise BadEvent(f"type must be one of {', '.join(TYPES)}.", field="type")
    id, user, ts = get("event_id"), get("user_id"), get("ts")
    if missing(id) or missing(user) or ts is None:
        name = "event_id" if missing(id) else "user_id" if missing(user) else "ts"
        raise BadEvent(f"{name} is missing.", field=name)
    amount = get("credits")
    if missing(amount):
        amount = get("amount_minor")
    ip = text(get("ip"))
    created = get("account_created_at")
    tokens = get("tokens")
    verified = get("email_verified")
    net = get("ip_net")
    return Event(
        str(id),
        seconds(ts, "ts"),
        kind,
        str(user),
        text(get("tenant")),
        number(amount, "credits"),
        ip,
        network(ip) if net is None else text(net),
        text(get("device_id")),
        text(get("payment_fingerprint")),
        text(get("voucher_code")),
        text(get("email_domain")).lower(),
        -1.0 if missing(verified) else float(bool(verified)),
        None if missing(created) else seconds(created, "account_created_at"),
        text(get("counterparty_id")),
        None if missing(tokens) else number(tokens, "tokens"),
        text(get("channel")),
        text(get("agent")),
    )


def missing(value: Any) -> bool:
    """None, NaN and NaT, however a table writes that there is nothing."""
    return value is None or value != value or value == ""  # noqa: PLR0124


def text(value: Any) -> str:
    """Text, empty for what is missing; a whole number that a table made a float is itself."""
    if type(value) is str:
        return value
    if missing(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def number(value: Any, field: str) -> float:
    """The size of a finite amount, 0 for a missing one; decimal text is read too."""
    if value is None:
        return 0.0
    try:
        found = abs(float(value))
    except (TypeError, ValueError) as error:
        raise BadEvent(f"{field} is no number.", field=field) from error
    if isnan(found):
        return 0.0
    if found > _MOST:
        raise BadEvent(f"{field} is not finite.", field=field)
    return found


def seconds(value: Any, field: str) -> float:
    """Seconds since 1970 of a datetime (naive: UTC), of RFC 3339 text, or of whole microseconds."""
    try:
        if isinstance(value, datetime):
            aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
            found = aware.timestamp()
        elif isinstance(value, str):
            return seconds(datetime.fromisoformat(value), field)
        elif isinstance(value, date):
            found = datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp()
        else:
            found = float(value) / 1e6
    except (TypeError, ValueError, OverflowError) as error:
        raise BadEvent(f"{field} is no time.", field=field) from error
    if not isfinite(found):
        raise BadEvent(f"{field} is no time.", field=field)
    return found


@lru_cache(maxsize=65536)
def network(ip: str) -> str:
    """The /24 or /48 of an address; empty for what is no address, such as a hash of one."""
    try:
        address = ip_address(ip)
    except ValueError:
        return ""
    return str(ip_network(f"{address}/{24 if address.version == 4 else 48}", strict=False))
