"""What is remembered of people, addresses, devices, cards, codes and domains, to judge an event.

Everything is O(1) for an event and bounded in memory: counts and sums that decay, running means,
short lists of times, small maps of who was seen where. The same code runs online and in replay,
and a state that is saved and loaded goes on to the last bit. Knows no rule and no model.
"""

from collections.abc import Iterable, Mapping
from math import sqrt
from typing import Any

from chat_app.ml.fraud.events import Event

LN2 = 0.6931471805599453
K10M, K1H, K1D, K7D = LN2 / 600, LN2 / 3600, LN2 / 86400, LN2 / 604800
HOUR, DAY, MONTH = 3600.0, 86400.0, 30 * 86400.0
IDLE = 90 * DAY  # what nobody touched for so long is begun anew
SHORT, LONG, WIDE = 8, 32, 64  # how much the lists and maps hold at most
BINS = 80  # of the logarithm of amounts, four to each power of e
BUCKET = 600.0  # seconds of a bucket of spending
NONE = -1.0  # a time that there was none of
NAN = float("nan")

# Another number when a part holds other fields than before: what was saved is then rebuilt.
FORMAT = 2

KINDS = ("user", "ip", "net", "device", "card", "code", "domain", "tenant")


class Part:
    """Something that is remembered; `at` is when it was last touched, in seconds since 1970."""

    __slots__: tuple[str, ...] = ("at", "bad", "n")

    def __init__(self) -> None:
        self.at = NONE
        self.n = 0  # events in all
        self.bad = 0.0  # of them, confirmed as fraud since

    def dump(self) -> list[Any]:
        """Plain values for `load`."""
        return [getattr(self, name) for name in self.names()]

    def load(self, values: Iterable[Any]) -> None:
        """Take over what `dump` gave."""
        for name, value in zip(self.names(), values, strict=True):
            setattr(self, name, value)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The fields, in the order in which they are saved."""
        return tuple(
            name for kind in reversed(cls.__mro__) for name in getattr(kind, "__slots__", ())
        )


class Person(Part):
    """One user."""

    __slots__ = (
        "amount_n", "c1d", "c1h", "c7d", "c10m", "chat10m", "devices", "fail1d", "fails",
        "first_at", "hours", "ips", "kinds", "mean", "most_out", "nets", "password_at", "payees",
        "refunds", "rest", "s1d", "s1h", "s7d", "s10m", "seized_at", "senders", "session_at",
        "small", "spends", "square", "token_mean", "token_n", "token_square", "topup_at",
        "topup_left", "topups", "voucher_at",
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.c10m = self.c1h = self.c1d = self.c7d = 0.0
        self.s10m = self.s1h = self.s1d = self.s7d = 0.0
        self.amount_n = 0
        self.mean = self.square = 0.0  # of the logarithm of amounts
        self.token_n, self.token_mean, self.token_square = 0, 0.0, 0.0
        self.kinds: dict[str, int] = {}
        self.topup_at, self.voucher_at, self.password_at = NONE, NONE, NONE
        self.topup_left: list[float] = [0.0, 0.0]  # bought and moved on since, credits
        self.fails: list[float] = []
        self.fail1d = 0.0
        self.small: list[list[float]] = []  # time and amount of small top-ups
        self.topups: list[list[float]] = []  # time and amount
        self.refunds: list[list[float]] = []
        self.ips: list[str] = []
        # Where this user was seen first when, the latest used last.
        self.devices: dict[str, float] = {}
        self.nets: dict[str, float] = {}
        self.first_at, self.session_at = NONE, NONE
        self.rest = 0.0  # seconds of nothing before this sitting
        self.seized_at = NONE  # when the password was changed from a strange place
        self.most_out = 0.0  # the largest amount that was spent or sent
        self.payees: dict[str, float] = {}
        self.hours: list[int] = [0] * 24
        self.spends: list[list[float]] = []  # number of a bucket and what was spent in it
        self.chat10m = 0.0
        self.senders: dict[str, float] = {}  # who sent credits, and when first


class Place(Part):
    """An address, a network, a device, a card, a code or a domain, and who was seen there."""

    __slots__ = ("c1d", "c1h", "fails", "redeem1d", "redeems", "signups1d", "users")

    def __init__(self) -> None:
        super().__init__()
        self.c1h = self.c1d = self.signups1d = self.redeem1d = 0.0
        self.users: dict[str, float] = {}  # who, and when first
        self.fails: list[float] = []
        self.redeems: list[float] = []


class Tenant(Part):
    """All amounts of a tenant, as a histogram of their logarithms."""

    __slots__ = ("bins",)

    def __init__(self) -> None:
        super().__init__()
        self.bins: list[int] = [0] * BINS

    def top(self) -> int:
        """The bin of the 99th percentile; the last one while there are too few amounts."""
        if self.n < 100:
            return len(self.bins)
        above, most = 0, self.n * 0.01
        for place in range(len(self.bins) - 1, -1, -1):
            above += self.bins[place]
            if above > most:
                return place
        return len(self.bins)


MADE: dict[str, type[Part]] = {
    "user": Person, "ip": Place, "net": Place, "device": Place, "card": Place, "code": Place,
    "domain": Place, "tenant": Tenant,
}  # fmt: skip


class State:
    """Everything that is remembered. Not safe for several threads at once: the engine locks."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
        self.touched: set[tuple[str, str]] = set()

    def get(self, kind: str, key: str, now: float) -> Any:
        """The part of this name; a new one where there is none, or none of late."""
        held = self.parts[kind]
        found = held.get(key)
        if found is None or now - found.at > IDLE:
            found = held[key] = MADE[kind]()
        self.touched.add((kind, key))
        return found

    def find(self, kind: str, key: str) -> Any:
        """The part of this name, or None."""
        return self.parts[kind].get(key)

    def confirm(self, event: Event, fraud: bool) -> None:
        """An event turned out to be fraud, or not after all: everything it touched knows."""
        step = 1.0 if fraud else -1.0
        for kind, key in places(event):
            part = self.parts[kind].get(key)
            if part is not None:
                part.bad = max(0.0, part.bad + step)
                self.touched.add((kind, key))

    def refuse(self, event: Event) -> None:
        """An event that was taken in was stopped after all: nothing was sent on by it."""
        me = self.parts["user"].get(event.user)
        if event.type == "transfer_out" and me is not None:
            me.topup_left[1] -= event.amount
            self.touched.add(("user", event.user))

    def forget(self, kind: str, key: str) -> None:
        """Forget a part, such as a user who was erased, and that it was seen elsewhere."""
        self.parts[kind].pop(key, None)
        self.touched.add((kind, key))
        if kind != "user":
            return
        for other in KINDS:
            for name, part in self.parts[other].items():
                for field in ("users", "senders", "payees"):
                    if getattr(part, field, {}).pop(key, None) is not None:
                        self.touched.add((other, name))

    def tidy(self, now: float) -> int:
        """Drop what was idle for so long that it would begin anew; returns how many."""
        old = [
            (kind, key)
            for kind, held in self.parts.items()
            for key, part in held.items()
            if now - part.at > IDLE
        ]
        for kind, key in old:
            del self.parts[kind][key]
            self.touched.add((kind, key))
        return len(old)

    def dump(self) -> dict[str, dict[str, list[Any]]]:
        """All parts as plain values."""
        return {
            kind: {key: part.dump() for key, part in held.items()}
            for kind, held in self.parts.items()
        }

    def put(self, kind: str, key: str, values: Iterable[Any]) -> None:
        """Take over a part that was dumped."""
        part = MADE[kind]()
        part.load(values)
        self.parts[kind][key] = part

    @classmethod
    def of(cls, dumped: Mapping[str, Mapping[str, Iterable[Any]]]) -> "State":
        """What `dump` gave."""
        made = cls()
        for kind, held in dumped.items():
            for key, values in held.items():
                made.put(kind, key, values)
        return made


def places(event: Event) -> list[tuple[str, str]]:
    """Kind and key of everything that an event touches, the user first."""
    found = [("user", event.user)]
    for kind, key in (
        ("ip", event.ip), ("net", event.net), ("device", event.device), ("card", event.card),
        ("code", event.code), ("domain", event.domain),
    ):  # fmt: skip
        if key:
            found.append((kind, key))
    return found


def within(times: list[float], since: float) -> int:
    """How many of these times, oldest first, are later than `since`."""
    count = 0
    for at in reversed(times):
        if at <= since:
            break
        count += 1
    return count


def keep(times: list[Any], value: Any, most: int) -> None:
    """Add to a short list, and let go of the oldest beyond `most`."""
    times.append(value)
    if len(times) > most:
        del times[0]


def see(seen: dict[str, float], who: str, now: float, most: int = WIDE) -> None:
    """Note who was seen first when; beyond `most` the longest known is let go."""
    if who not in seen:
        seen[who] = now
        if len(seen) > most:
            del seen[next(iter(seen))]


def use(seen: dict[str, float], what: str, now: float, most: int) -> None:
    """Note what is used, with when it first was; beyond `most` the longest unused is let go."""
    seen[what] = seen.pop(what, now)
    if len(seen) > most:
        del seen[next(iter(seen))]


def newcomers(seen: dict[str, float], who: str, since: float) -> int:
    """How many were first seen after `since`, this one included."""
    count = 0 if who in seen else 1
    for at in reversed(seen.values()):
        if at <= since:
            break
        count += 1
    return count


def deviation(n: int, mean: float, square: float, value: float) -> float:
    """How many standard deviations a value is from the mean of n; NaN while there are too few."""
    if n < 3:
        return NAN
    # A little spread is always granted, or the first other amount would be infinitely odd.
    return (value - mean) / sqrt(square / (n - 1) + 0.04)
