"""A made-up company: who signs up, when they come, what they buy, and who cheats.

Pure draws from one seed: people, and their deeds in order of time. `flows/simulate.py` carries
them out in the real ledger. Where the numbers come from stands in docs/models.md. Knows no ledger.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

SECOND = 1_000_000
MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86_400 * SECOND
WEEK = 7 * DAY
MONTH = 30.4375 * DAY

GROWTH = 1.07  # signups of a month to those of the month before
WEEKDAYS = (1.12, 1.15, 1.13, 1.10, 1.02, 0.74, 0.74)
HOURS = (2, 1, 1, 1, 1, 2, 3, 5, 8, 10, 11, 10, 9, 10, 10, 10, 9, 8, 8, 9, 9, 8, 6, 4)
ZONES = ((-8, 2), (-5, 4), (0, 2), (1, 5), (2, 2), (5.5, 3), (8, 2), (9, 1))  # hours, share
BUYERS = 0.27
# BG/NBD of the published CDNOW customers, in weeks (Fader, Hardie and Lee 2005).
R, ALPHA, A, B = 0.243, 4.414, 0.793, 2.426
SPEND_MEDIAN, SPEND_SIGMA = 1_400, 0.8  # cents, lognormal
PLAN_SHARE, PLAN_CHURN = 0.07, 0.06
ORGS = 0.015
FAILED, RETRIED = 0.06, 0.7
REFUNDS = 0.02
TRIAL_DAYS = 12.0
BUSY_WEEKS = 5.0
ABUSIVE = 1 / 6  # of all signups, with fraud
SCENARIOS = ("sybil", "card_testing", "topup_transfer", "refund_abuse", "token_burn")


@dataclass(frozen=True)
class Pack:
    """Something for sale: its code, price in minor units, credits with the bonus."""

    code: str
    price_minor: int
    credits: int


@dataclass
class Person:
    """Somebody. `scenario` names the fraud; of the honest it is empty. Times are µs UTC."""

    number: int
    joined_at: int
    zone: float
    scenario: str = ""
    ip: str = ""
    device: str = ""
    model: int = 0  # place in the list of models, cheapest first
    org: int | None = None
    founder: bool = False


@dataclass(order=True)
class Deed:
    """One thing that happens: `kind` says what, `facts` with what."""

    at: int
    seq: int
    who: int = field(compare=False)
    kind: str = field(compare=False)
    facts: dict[str, Any] = field(compare=False, default_factory=dict)


@dataclass
class World:
    """People and deeds, oldest first. `change_at` is when a price changes, `outage` a span."""

    people: list[Person]
    deeds: list[Deed]
    start: int
    end: int
    change_at: int
    outage: tuple[int, int]


def draw(
    *, users: int, end: int, months: int, seed: int, packs: Sequence[Pack], fraud: bool = False
) -> World:
    """A history of `months` up to `end` (µs) with this many signups. The same seed, the same."""
    return _Draw(users, end, months, seed=seed, packs=packs, fraud=fraud).world()


class _Draw:
    def __init__(
        self, users: int, end: int, months: int, *, seed: int, packs: Sequence[Pack], fraud: bool
    ) -> None:
        self.dice = random.Random(f"world {seed}")  # noqa: S311 - a simulation
        self.users, self.end, self.fraud = users, end, fraud
        self.start = (end - int(months * MONTH)) // DAY * DAY
        self.packs = sorted(packs, key=lambda pack: pack.price_minor)
        self.deeds: list[Deed] = []
        self.numbers = count()

    def world(self) -> World:
        people = self._people()
        self._fates(people)
        for person in people:
            self._live(person)
        span = self.end - self.start
        dark = self.start + int(span * 0.62) // DAY * DAY + 13 * HOUR
        self.deeds.sort()
        return World(
            people=people,
            deeds=[deed for deed in self.deeds if deed.at < self.end],
            start=self.start,
            end=self.end,
            change_at=self.start + int(span * 0.7) // DAY * DAY + 9 * HOUR,
            outage=(dark, dark + 5 * HOUR),
        )

    # -- people -----------------------------------------------------------------------------

    def _people(self) -> list[Person]:
        days = max(1, (self.end - self.start) // DAY - 1)
        weights = [
            GROWTH ** (day / 30.4375) * WEEKDAYS[(self.start // DAY + day + 3) % 7]
            for day in range(days)
        ]
        zones, shares = zip(*ZONES, strict=True)
        found = []
        for day in sorted(self.dice.choices(range(days), weights, k=self.users)):
            zone = self.dice.choices(zones, shares)[0]
            joined = self._moment(self.start + day * DAY, zone)
            found.append(Person(0, joined, zone))
        found.sort(key=lambda person: person.joined_at)
        for number, person in enumerate(found):
            person.number = number
            person.ip = f"198.18.{self.dice.randrange(256)}.{self.dice.randrange(1, 255)}"
            person.device = f"device-{number}"
        return found

    def _fates(self, people: list[Person]) -> None:
        """Who cheats, who founds an organisation and who belongs to it."""
        honest = list(people)
        if self.fraud:
            bad = self.dice.sample(honest, round(len(honest) * ABUSIVE))
            bad.sort(key=lambda person: person.number)
            # Half of them come in rings of accounts, the rest one by one.
            ring: list[Person] = []
            for place, person in enumerate(bad):
                if place < len(bad) // 2:
                    person.scenario = "sybil"
                    ring = ring if 0 < len(ring) < 8 else []
                    ring.append(person)
                    person.ip, person.device = ring[0].ip, ring[0].device
                    # A ring signs up within minutes of its first account.
                    person.joined_at = ring[0].joined_at + len(ring) * 3 * MINUTE
                else:
                    person.scenario = SCENARIOS[1 + place % (len(SCENARIOS) - 1)]
            honest = [person for person in honest if not person.scenario]
        early = honest[: len(honest) * 2 // 3]
        founders = early[:: max(1, round(1 / ORGS))][: max(1, round(len(people) * ORGS))]
        for number, founder in enumerate(founders):
            founder.org, founder.founder = number, True
            later = [one for one in honest if one.org is None and one.number > founder.number]
            for member in later[: self.dice.randrange(2, 5)]:
                member.org = number

    # -- lives ------------------------------------------------------------------------------

    def _live(self, person: Person) -> None:
        self._do(person.joined_at, person, "join")
        person.model = self.dice.choices((0, 1, 2), (0.5, 0.3, 0.2))[0]
        if person.scenario:
            getattr(self, f"_{person.scenario}")(person)
            return
        self._chat(person, person.joined_at, TRIAL_DAYS * DAY, self.dice.randrange(2, 14))
        if person.founder:
            at = person.joined_at + DAY
            self._do(at, person, "found", org=person.org)
            while at < self.end:
                self._buy(person, at, self.packs[-1], fund=True)
                at += int(self.dice.gammavariate(6, 6) * DAY)
            return
        if person.org is not None:
            self._chat(person, person.joined_at + 2 * DAY, 20 * WEEK, 60, org=person.org)
            return
        kind = self.dice.random()
        if kind < PLAN_SHARE:
            self._subscriber(person)
        elif kind < PLAN_SHARE + BUYERS:
            self._buyer(person)

    def _buyer(self, person: Person) -> None:
        """Buys at the pace of BG/NBD until they drop out."""
        pace = self.dice.gammavariate(R, 1 / ALPHA) / WEEK
        leaves = self.dice.betavariate(A, B)
        cents = SPEND_MEDIAN * math.exp(self.dice.gauss(0, SPEND_SIGMA))
        at = person.joined_at + int(self.dice.expovariate(1 / 9) * DAY)
        while at < self.end:
            at = max(self._moment(at // DAY * DAY, person.zone), person.joined_at + 2 * MINUTE)
            wish = cents * math.exp(self.dice.gauss(0, 0.35))
            pack = min(self.packs, key=lambda one: abs(math.log(one.price_minor / wish)))
            self._buy(person, at, pack)
            some = self.dice.uniform(0.35, 0.95)
            used = round(pack.credits * some / (10, 25, 50)[person.model])
            self._chat(person, at, BUSY_WEEKS * WEEK, min(used, 90))
            if self.dice.random() < leaves:
                return
            at += DAY + int(min(self.dice.expovariate(max(pace, 1e-18)), 5e17))

    def _subscriber(self, person: Person) -> None:
        at = person.joined_at + int(self.dice.expovariate(1 / 5) * DAY)
        self._do(at, person, "subscribe")
        months = 1 + int(math.log(self.dice.random()) / math.log(1 - PLAN_CHURN))
        ends = at + int(months * MONTH) - 3 * DAY
        if ends < self.end:
            self._do(ends, person, "cancel")
        self._chat(person, at, min(ends, self.end) - at, 22 * min(months, 12), pace=1.0)

    def _chat(
        self,
        person: Person,
        since: int,
        span: float,
        messages: int,
        *,
        org: int | None = None,
        pace: float = 0.45,
    ) -> None:
        """So many messages on some days of the span, the first days busier than the last.

        A day's messages are a negative binomial; within a session they come in bursts.
        """
        left = messages
        for _ in range(4 * messages):
            if left <= 0:
                return
            day = since + int(self.dice.random() ** (1 / pace if pace < 1 else 1) * span)
            at = max(self._moment(day // DAY * DAY, person.zone), since + MINUTE)
            burst = min(left, 1 + int(self.dice.gammavariate(1.2, 1.7)))
            session = next(self.numbers)
            for _ in range(burst):
                self._say(person, at, session, org=org)
                at += int(MINUTE * (0.4 + self.dice.gammavariate(0.6, 4)))
            left -= burst

    def _say(self, person: Person, at: int, session: int, **more: Any) -> None:
        asked = min(4000, int(math.exp(self.dice.gauss(3.6, 1.1))) + 1)
        said = min(1024, int(math.exp(self.dice.gauss(5.0, 0.9))) + 1)
        empty = self.dice.random() < 0.01
        self._do(at, person, "say", session=session, asked=asked, said=0 if empty else said, **more)

    def _buy(self, person: Person, at: int, pack: Pack, **more: Any) -> None:
        if self.dice.random() < FAILED:
            self._do(at, person, "fail", pack=pack.code)
            if self.dice.random() > RETRIED:
                return
            at += int(self.dice.uniform(1, 20) * MINUTE)
        self._do(at, person, "buy", pack=pack.code, **more)
        if self.dice.random() < REFUNDS:
            self._do(at + int(self.dice.uniform(0.1, 5) * DAY), person, "refund")

    # -- fraud ------------------------------------------------------------------------------

    def _sybil(self, person: Person) -> None:
        """One of many accounts of one device: the welcome credits, used up at once."""
        at, session = person.joined_at + MINUTE, next(self.numbers)
        for _ in range(10):
            self._say(person, at, session)
            at += 20 * SECOND

    def _card_testing(self, person: Person) -> None:
        """Small orders in minutes, most of them refused, until a stolen card works."""
        at = person.joined_at + 5 * MINUTE
        for place in range(self.dice.randrange(5, 11)):
            kind = "buy" if place and self.dice.random() < 0.12 else "fail"
            self._do(at, person, kind, pack=self.packs[0].code)
            at += int(self.dice.uniform(20, 90) * SECOND)
        self._do(at, person, "buy", pack=self.packs[0].code)
        self._do(at + int(self.dice.uniform(12, 45) * DAY), person, "dispute")

    def _topup_transfer(self, person: Person) -> None:
        """Bought with somebody's card and handed on within the hour; the bank takes it back."""
        at = person.joined_at + HOUR
        self._do(at, person, "buy", pack=self.packs[-1].code)
        self._do(at + int(self.dice.uniform(5, 55) * MINUTE), person, "send", share=0.95)
        self._do(at + int(self.dice.uniform(12, 45) * DAY), person, "dispute")

    def _refund_abuse(self, person: Person) -> None:
        """Buys, uses a part, wants the rest back, again and again."""
        at = person.joined_at + HOUR
        for _ in range(self.dice.randrange(3, 6)):
            self._do(at, person, "buy", pack=self.packs[1 % len(self.packs)].code)
            self._chat(person, at, DAY, 6)
            self._do(at + 2 * DAY, person, "refund")
            at += int(self.dice.uniform(3, 8) * DAY)

    def _token_burn(self, person: Person) -> None:
        """An honest buyer for weeks, then somebody else's machine empties the account."""
        at = person.joined_at + DAY
        self._do(at, person, "buy", pack=self.packs[1 % len(self.packs)].code)
        self._chat(person, at, 4 * WEEK, 15)
        at += 5 * WEEK
        session = next(self.numbers)
        stranger = {"ip": "203.0.113.77", "device": f"stolen-{person.number}"}
        for _ in range(60):
            self._say(person, at, session, **stranger)
            at += 5 * SECOND

    # -- small things -----------------------------------------------------------------------

    def _moment(self, day: int, zone: float) -> int:
        """A time of the day by the habits of the person's zone."""
        hour = self.dice.choices(range(24), HOURS)[0] - zone
        return day + int((hour % 24) * HOUR) + self.dice.randrange(HOUR)

    def _do(self, at: int, person: Person, kind: str, **facts: Any) -> None:
        self.deeds.append(Deed(at, next(self.numbers), person.number, kind, facts))


def events(world: World) -> Iterator[tuple[dict[str, Any], str]]:
    """The deeds as events for the fraud engine, with the scenario behind each ("": honest).

    Fields are those of contract.md; what a takeover does carries the stranger's address.
    """
    types = {
        "join": "signup_bonus", "buy": "topup", "fail": "topup_failed", "refund": "refund",
        "send": "transfer_out", "say": "message",
    }  # fmt: skip
    for deed in world.deeds:
        type = types.get(deed.kind)
        if type is None:
            continue
        person = world.people[deed.who]
        strange = "ip" in deed.facts
        event = {
            "event_id": f"e{deed.seq}",
            "ts": deed.at / SECOND,
            "type": type,
            "user_id": person.number,
            "tenant": "demo",
            "ip": deed.facts.get("ip", person.ip),
            "device_id": deed.facts.get("device", person.device),
            "account_created_at": person.joined_at / SECOND,
            "email_domain": "demo.invalid",
            "tokens": deed.facts.get("said"),
            "channel": "browser",
        }
        honest = person.scenario == "token_burn" and not strange
        yield event, "" if honest else person.scenario
