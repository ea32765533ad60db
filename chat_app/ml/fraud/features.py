"""What an event looks like in figures: read from the state, which then takes the event in.

The figures tell of the past before the event, those that a rule counts with include it. Absent
is NaN. The order of NAMES is part of every saved model.
"""

from functools import lru_cache
from math import exp, log1p
from typing import Final

from chat_app.accounts import mailboxes
from chat_app.ml.fraud.events import TYPES, Event
from chat_app.ml.fraud.state import (
    BINS,
    BUCKET,
    DAY,
    HOUR,
    K1D,
    K1H,
    K7D,
    K10M,
    LONG,
    MONTH,
    NAN,
    NONE,
    SHORT,
    Person,
    Place,
    State,
    deviation,
    keep,
    newcomers,
    see,
    use,
    within,
)

NAMES: Final = (
    "type", "amount", "amount_z", "amount_to_week",
    "count_10m", "count_1h", "count_1d", "count_7d", "sum_10m", "sum_1h", "sum_1d", "sum_7d",
    "gap", "account_hours", "events", "failures_1d",
    "share_message", "share_topup", "share_transfer", "share_voucher", "share_refund",
    "since_topup", "since_voucher", "since_password", "moved_on", "new_ip", "new_device",
    "users_ip", "users_net", "users_device", "users_card", "signups_ip_1d", "hour_share",
    "vouchers_device", "vouchers_domain", "code_1h", "refund_ratio", "tokens_z", "chats_10m",
    "disposable", "verified", "member", "risk", "api", "senders_1d",
    # What only the rules count with: exact numbers in fixed windows, this event included.
    "failed_10m", "small_1h", "accounts_device", "accounts_ip", "redeems_place", "refunds_30d",
    "burn", "spend_10m", "over_p99",
    # Whether it is the owner who acts.
    "foreign", "since_seized", "new_payee", "amount_to_most", "hour_near", "rest", "sitting",
)  # fmt: skip
PLACE: Final = {name: place for place, name in enumerate(NAMES)}
NUMBER: Final = {name: float(place) for place, name in enumerate(TYPES)}

TOPPING = ("topup", "topup_failed")
SMALL_CREDITS = 200.0  # a top-up up to this size may be the test of a card
COMES_IN = frozenset(("signup_bonus", "voucher", "transfer_in"))
LEAST_BUCKETS = 5  # of spending before what is usual is known
LEAST_BURN = 20.0  # credits in ten minutes
RISK_PRIOR = 20.0
SITTING = 1800.0  # seconds of nothing end one
STRANGE = 3 * DAY  # for so long a place is strange to somebody who had others
OWN_PLACES = 16
NEAR = 12.0  # events of no hour in particular that an hour's share begins with


def observe(state: State, event: Event) -> list[float]:
    """The figures of an event, in the order of NAMES; the state has taken it in afterwards."""
    now, kind, amount = event.ts, event.type, event.amount
    me = state.get("user", event.user, now)
    size = log1p(amount)

    gap = now - me.at if me.n else NAN
    if gap > 0:
        _fade(me, gap)
    if not gap <= SITTING:
        me.session_at, me.rest = now, gap if me.n else 0.0
    n, kinds = me.n, me.kinds
    one = 1.0 / n if n else 0.0
    count = kinds.get
    hour = int(now // HOUR) % 24

    get = state.get
    ip = get("ip", event.ip, now) if event.ip else None
    net = get("net", event.net, now) if event.net else None
    device = get("device", event.device, now) if event.device else None
    card = get("card", event.card, now) if event.card else None
    code = get("code", event.code, now) if event.code else None
    domain = get("domain", event.domain, now) if event.domain else None
    parts = [part for part in (ip, net, device, card, code, domain) if part is not None]
    risk = me.bad / (n + RISK_PRIOR)
    for part in parts:
        risk = max(risk, _fade_place(part, now))

    redeemed = float(kind == "voucher")
    failed = _failed(me, device, card, event)
    small = _small_sizes(me, event)
    redeems = _redeems(device, card, now)
    refund_ratio, refunds = _refunds(me, now, amount if kind == "refund" else None)
    burn, spend = _burn(me, now, amount) if kind == "message" else (0.0, 0.0)
    moved = _moved(me, now, amount if kind == "transfer_out" else 0.0)
    foreign = _foreign(me, event)
    own = event.device or event.agent
    tenant = get("tenant", event.tenant, now)
    place = min(BINS - 1, int(size * 4))
    over = float(place > tenant.top()) if event.created is not None and amount else 0.0

    found = [
        NUMBER[kind],
        size,
        deviation(me.amount_n, me.mean, me.square, size) if amount else NAN,
        amount / (1.0 + me.s7d),
        me.c10m,
        me.c1h,
        me.c1d,
        me.c7d,
        log1p(me.s10m),
        log1p(me.s1h),
        log1p(me.s1d),
        log1p(me.s7d),
        log1p(gap) if gap >= 0 else (0.0 if n else NAN),
        max(0.0, now - event.created) / HOUR if event.created is not None else NAN,
        log1p(n),
        me.fail1d,
        count("message", 0) * one,
        (count("topup", 0) + count("topup_failed", 0)) * one,
        (count("transfer_out", 0) + count("transfer_in", 0)) * one,
        count("voucher", 0) * one,
        count("refund", 0) * one,
        _since(now, me.topup_at),
        _since(now, me.voucher_at),
        _since(now, me.password_at),
        moved,
        float(bool(event.ip and me.ips and event.ip not in me.ips)),
        float(bool(own and me.devices and own not in me.devices)),
        float(len(ip.users)) if ip is not None else NAN,
        float(len(net.users)) if net is not None else NAN,
        float(len(device.users)) if device is not None else NAN,
        float(len(card.users)) if card is not None else NAN,
        ip.signups1d if ip is not None else NAN,
        me.hours[hour] * one if n else NAN,
        device.redeem1d if device is not None else NAN,
        domain.redeem1d if domain is not None else NAN,
        within(code.redeems, now - HOUR) + redeemed if code is not None else 0.0,
        refund_ratio,
        deviation(me.token_n, me.token_mean, me.token_square, log1p(event.tokens))
        if event.tokens is not None
        else NAN,
        me.chat10m,
        float(_disposable(event.domain)) if event.domain else NAN,
        event.verified if event.verified >= 0 else NAN,
        float(bool(event.tenant)),
        risk,
        float(event.channel == "api"),
        float(newcomers(me.senders, event.other, now - DAY)) if kind == "transfer_in" else 0.0,
        float(failed),
        small,
        float(newcomers(device.users, event.user, now - DAY)) if device is not None else 0.0,
        float(newcomers(ip.users, event.user, now - DAY)) if ip is not None else 0.0,
        redeems + redeemed if device is not None or card is not None else 0.0,
        refunds,
        burn,
        spend,
        over,
        foreign,
        _since(now, me.seized_at),
        float(kind == "transfer_out" and bool(event.other) and event.other not in me.payees),
        size - log1p(me.most_out) if amount and me.most_out else NAN,
        _near(me, hour) if n else NAN,
        log1p(me.rest / HOUR) if n else NAN,
        log1p(max(0.0, now - me.session_at) / 60.0),
    ]
    if kind == "password_change" and foreign > 0:
        me.seized_at = now
    _take_in(me, event, size, hour)
    for part in parts:
        _take_in_place(part, event)
    if amount:
        tenant.bins[place] += 1
        tenant.n += 1
    tenant.at = max(tenant.at, now)
    return found


def _fade(me: Person, gap: float) -> None:
    """Let the user's counts and sums decay by so many seconds."""
    fade10m, fade1h, fade1d, fade7d = (
        exp(-K10M * gap), exp(-K1H * gap), exp(-K1D * gap), exp(-K7D * gap),
    )  # fmt: skip
    me.c10m *= fade10m
    me.c1h *= fade1h
    me.c1d *= fade1d
    me.c7d *= fade7d
    me.s10m *= fade10m
    me.s1h *= fade1h
    me.s1d *= fade1d
    me.s7d *= fade7d
    me.chat10m *= fade10m
    me.fail1d *= fade1d


def _fade_place(part: Place, now: float) -> float:
    """Let the counts of a place decay; returns its share of confirmed fraud, held towards 0."""
    age = now - part.at
    if part.n and age > 0:
        fade = exp(-K1D * age)
        part.c1d *= fade
        part.signups1d *= fade
        part.redeem1d *= fade
        part.c1h *= exp(-K1H * age)
    return part.bad / (part.n + RISK_PRIOR)


def _failed(me: Person, device: Place | None, card: Place | None, event: Event) -> int:
    """Failed top-ups of ten minutes, of the user, the device or the card, with this one."""
    since = event.ts - 600
    found = within(me.fails, since)
    for part in (device, card):
        if part is not None and part.fails:
            found = max(found, within(part.fails, since))
    return found + (event.type == "topup_failed")


def _small_sizes(me: Person, event: Event) -> float:
    """Different small amounts of top-ups within an hour, with this one."""
    small = event.type in TOPPING and 0 < event.amount <= SMALL_CREDITS
    if not small and not me.small:
        return 0.0
    sizes = {each for at, each in me.small if at > event.ts - HOUR}
    if small:
        sizes.add(event.amount)
    return float(len(sizes))


def _redeems(device: Place | None, card: Place | None, now: float) -> int:
    """Codes redeemed on a device or with a card in 30 days."""
    since = now - MONTH
    return max((within(part.redeems, since) for part in (device, card) if part), default=0)


def _take_in(person: Person, event: Event, size: float, hour: int) -> None:
    now, kind, amount = event.ts, event.type, event.amount
    person.n += 1
    person.c10m += 1.0
    person.c1h += 1.0
    person.c1d += 1.0
    person.c7d += 1.0
    person.kinds[kind] = person.kinds.get(kind, 0) + 1
    person.hours[hour] += 1
    person.at = max(person.at, now)
    if amount:
        person.amount_n += 1
        step = size - person.mean
        person.mean += step / person.amount_n
        person.square += step * (size - person.mean)
    if event.ip and event.ip not in person.ips:
        keep(person.ips, event.ip, SHORT)
    if person.first_at == NONE:
        person.first_at = now
    if event.device or event.agent:
        use(person.devices, event.device or event.agent, now, OWN_PLACES)
    if event.net or event.ip:
        use(person.nets, event.net or event.ip, now, OWN_PLACES)
    if kind not in COMES_IN:
        person.most_out = max(person.most_out, amount)
        person.s10m += amount
        person.s1h += amount
        person.s1d += amount
        person.s7d += amount
    _BY_TYPE[kind](person, event, now, amount)


def _message(me: Person, event: Event, now: float, amount: float) -> None:
    me.chat10m += 1.0
    if event.tokens is not None:
        size = log1p(event.tokens)
        me.token_n += 1
        step = size - me.token_mean
        me.token_mean += step / me.token_n
        me.token_square += step * (size - me.token_mean)
    bucket = now // BUCKET
    if me.spends and me.spends[-1][0] >= bucket:
        me.spends[-1][1] += amount
    else:
        keep(me.spends, [bucket, amount], LONG * 2)


def _topup(me: Person, event: Event, now: float, amount: float) -> None:
    me.topup_at = now
    me.topup_left = [amount, 0.0]
    keep(me.topups, [now, amount], LONG)
    _small(me, event, now, amount)


def _topup_failed(me: Person, event: Event, now: float, amount: float) -> None:
    me.fail1d += 1.0
    keep(me.fails, now, SHORT)
    _small(me, event, now, amount)


def _small(me: Person, _event: Event, now: float, amount: float) -> None:
    if 0 < amount <= SMALL_CREDITS:
        keep(me.small, [now, amount], SHORT)


def _transfer_out(me: Person, event: Event, now: float, amount: float) -> None:
    me.topup_left[1] += amount
    if event.other:
        use(me.payees, event.other, now, LONG)


def _transfer_in(me: Person, event: Event, now: float, _amount: float) -> None:
    if event.other:
        see(me.senders, event.other, now, LONG)


def _voucher(me: Person, _event: Event, now: float, _amount: float) -> None:
    me.voucher_at = now


def _refund(me: Person, _event: Event, now: float, amount: float) -> None:
    keep(me.refunds, [now, amount], LONG)


def _password(me: Person, _event: Event, now: float, _amount: float) -> None:
    me.password_at = now


def _nothing(_me: Person, _event: Event, _now: float, _amount: float) -> None:
    return


def _take_in_place(part: Place, event: Event) -> None:
    now, kind = event.ts, event.type
    part.n += 1
    part.c1h += 1.0
    part.c1d += 1.0
    part.at = max(part.at, now)
    see(part.users, event.user, now)
    if kind == "signup_bonus":
        part.signups1d += 1.0
    elif kind == "voucher":
        part.redeem1d += 1.0
        keep(part.redeems, now, LONG)
    elif kind == "topup_failed":
        keep(part.fails, now, SHORT)


def _foreign(me: Person, event: Event) -> float:
    """How strange to this user the place is, device and network both: 1 when first seen, then less.

    Whoever has a known device is no stranger in a new network, nor is a new device at home. What
    an account was used from on its first day is its owner's.
    """
    now, own = event.ts, me.first_at
    if own == NONE or now - own < DAY:
        return 0.0
    known, asked = 0.0, False
    device, net = event.device or event.agent, event.net or event.ip
    for what, seen in ((device, me.devices), (net, me.nets)):
        if not what or not seen:
            continue
        asked = True
        first = seen.get(what, now)
        if first - own < DAY:
            return 0.0
        known = max(known, now - first)
    return max(0.0, 1.0 - known / STRANGE) if asked else 0.0


def _near(me: Person, hour: int) -> float:
    """The share of the own events about this hour, held towards that of no hour in particular."""
    hours = me.hours
    about: float = hours[hour] + hours[hour - 1] + hours[(hour + 1) % 24]
    about += 0.5 * (hours[hour - 2] + hours[(hour + 2) % 24])
    return (about + NEAR * 4 / 24) / (me.n + NEAR)


def _since(now: float, at: float) -> float:
    return log1p(max(0.0, now - at) / HOUR) if at >= 0 else NAN


def _moved(me: Person, now: float, amount: float) -> float:
    """The share of a top-up of the last day that was sent on, with this transfer."""
    bought, sent = me.topup_left
    if bought <= 0 or now - me.topup_at >= DAY:
        return 0.0
    return (sent + amount) / bought


def _refunds(me: Person, now: float, amount: float | None) -> tuple[float, float]:
    """Refunds of 30 days as a share of the top-ups, and how many, with this one."""
    if amount is None and not me.refunds:
        return 0.0, 0.0
    since = now - MONTH
    back = [each for at, each in me.refunds if at > since]
    if amount is not None:
        back.append(amount)
    paid = sum(each for at, each in me.topups if at > since)
    return (sum(back) / paid if paid > 0 else float(len(back))), float(len(back))


def _burn(me: Person, now: float, amount: float) -> tuple[float, float]:
    """Spending in ten minutes against the 95th percentile of one's own, and in credits."""
    bucket = now // BUCKET
    spend, spends = amount, me.spends
    for at, each in spends[-2:]:
        if at == bucket:
            spend += each
        elif at == bucket - 1:  # as much of it as lies within ten minutes
            spend += each * (1.0 - (now - bucket * BUCKET) / BUCKET)
    if spend <= LEAST_BURN:
        return 0.0, spend
    since = bucket - 7 * DAY / BUCKET
    own = sorted(each for at, each in spends if since < at < bucket)
    if len(own) < LEAST_BUCKETS:
        return 0.0, spend
    usual = own[min(len(own) - 1, int(len(own) * 0.95))]
    return spend / max(usual, 1e-6), spend


@lru_cache(maxsize=4096)
def _disposable(domain: str) -> bool:
    return mailboxes.is_disposable(f"a@{domain}")


_BY_TYPE = dict.fromkeys(TYPES, _nothing) | {
    "message": _message, "topup": _topup, "topup_failed": _topup_failed,
    "transfer_out": _transfer_out, "transfer_in": _transfer_in, "voucher": _voucher,
    "refund": _refund, "password_change": _password,
}  # fmt: skip
