"""A made-up stream of events with seven kinds of fraud in it, for the fraud benchmarks and tests.

What a model reaches on it says little: it is here to keep the rules and the state honest. Honest
people do much of what a thief does: they buy a telephone, travel, forget a password, come back
after weeks, sit up at night, sign in at a hotel. Some thieves sit at the victim's own device.
"""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

Row = dict[str, Any]
START = datetime(2026, 1, 5, tzinfo=UTC)
SCENARIOS = ("card_testing", "mule", "sybil", "voucher", "refund", "burn", "takeover")
# Of honest people, each day on which they come.
SIGNS_IN, NEW_PASSWORD, AT_NIGHT, AWAY, BORROWS = 0.3, 0.004, 0.03, 0.03, 0.1
NEW_DEVICE = 1 / 365
TWO_DEVICES, IN_OFFICES = 0.4, 0.1


class Home:
    """Where an honest person comes from: devices and addresses of their own, some of them new."""

    def __init__(self, chance: random.Random, user: int) -> None:
        self.chance = chance
        self.name = f"d{user}"
        # A tenth work in offices behind one address.
        own = f"81.2.{user // 250}.{user % 250}"
        self.ip = own if chance.random() > IN_OFFICES else "81.9.9.9"
        self.devices = [self.name]
        self.carrier = chance.randrange(4) if chance.random() < TWO_DEVICES else None
        if self.carrier is not None:
            self.devices.append(f"{self.name}-phone")
        self.fresh = False  # today's device was never used before

    def today(self, place: int) -> dict[str, str]:
        """The device and the address of a day."""
        chance = self.chance
        device = chance.choice(self.devices)
        self.fresh = chance.random() < NEW_DEVICE
        if self.fresh:
            device = f"{self.name}-{place}"
            self.devices[chance.randrange(len(self.devices))] = device
        ip = self.ip
        moves = device.endswith("-phone") or (self.fresh and chance.random() < 0.3)
        if moves and chance.random() < 0.5:  # a mobile network, elsewhere each day
            ip = f"92.{40 + (self.carrier or 0)}.{chance.randrange(250)}.{chance.randrange(250)}"
        elif chance.random() < AWAY:
            ip = f"90.1.{chance.randrange(200)}.7"
            if chance.random() < BORROWS:
                self.fresh, device = True, f"hotel-{chance.randrange(10**6)}"
        return {"device_id": device, "ip": ip}


class Stream:
    """Events of `users` over `days`; `rows` are in order of time and carry `label, scenario`."""

    def __init__(self, *, users: int = 300, days: int = 60, seed: int = 0, cases: int = 6) -> None:
        self.random = random.Random(seed)
        self.days = days
        self.rows: list[Row] = []
        self.number = 0
        self.known: dict[str, Row] = {}  # who has been there for long, and as whom
        self.homes: dict[str, dict[str, str]] = {}
        for user in range(users):
            self._honest(user)
        for name in SCENARIOS:
            for case in range(cases):
                make: Callable[[str, datetime], None] = getattr(self, f"_{name}")
                day = self.random.uniform(days * 0.1, days * 0.98)
                make(f"{name}-{case}", START + timedelta(days=day))
        self.rows.sort(key=lambda row: (row["ts"], row["event_id"]))

    def _add(self, at: datetime, type: str, user: str, **fields: Any) -> None:
        self.number += 1
        row = {"event_id": f"e{self.number}", "ts": at, "type": type, "user_id": user, "label": 0,
               "scenario": ""}  # fmt: skip
        self.rows.append(row | fields)

    def _honest(self, user: int) -> None:
        chance = self.random
        name, home = f"u{user}", Home(chance, user)
        joined = START + timedelta(days=chance.uniform(-200, self.days * 0.9))
        domain = chance.choice(("gmail.com", "web.de", f"firm{user % 40}.example"))
        common = {"email_domain": domain, "email_verified": True, "account_created_at": joined,
                  "tenant": "", "channel": "ui"}  # fmt: skip
        at_home = {"ip": home.ip, "device_id": home.name}
        if joined < START:
            self.known[name] = {"account_created_at": joined, "email_domain": domain}
            self.homes[name] = at_home
        else:
            self._add(joined + timedelta(minutes=1), "signup_bonus", name, credits=100,
                      **common, **at_home)  # fmt: skip
        rate, size = chance.lognormvariate(-0.5, 0.8), chance.lognormvariate(1.5, 0.7)
        hour = chance.gauss(14, 4) % 24
        day = max(START, joined).replace(hour=0, minute=0) + timedelta(days=1)
        place = 0
        while day < START + timedelta(days=self.days):
            if chance.random() < min(0.9, rate):
                place += 1
                usual = hour + chance.gauss(0, 1.5)
                at = day + timedelta(
                    hours=chance.uniform(0, 24) if chance.random() < AT_NIGHT else usual % 24
                )
                self._sitting(name, f"c{user}", at, size, home, common | home.today(place))
            day += timedelta(days=1)

    def _sitting(
        self, name: str, card: str, at: datetime, size: float, home: Home, common: Row
    ) -> None:
        """What an honest person does in a sitting."""
        chance = self.random
        if home.fresh or chance.random() < SIGNS_IN:
            self._add(at, "login", name, **common)
            at += timedelta(minutes=1)
            # On something new the password is forgotten more often.
            if chance.random() < (0.15 if home.fresh else NEW_PASSWORD):
                self._add(at, "password_change", name, **common)
        for _ in range(1 + int(chance.expovariate(0.25))):
            at += timedelta(seconds=20 + chance.expovariate(1 / 120))
            cost = round(size * chance.uniform(0.5, 2), 2)
            tokens = int(chance.lognormvariate(5, 1))
            self._add(at, "message", name, credits=cost, tokens=tokens, **common)
        if chance.random() < 0.06:
            at += timedelta(minutes=3)
            if chance.random() < 0.06:
                self._add(at, "topup_failed", name, credits=1000, amount_minor=999,
                          payment_fingerprint=card, **common)  # fmt: skip
                at += timedelta(minutes=1)
            amount = chance.choice((500, 1000, 1000, 5000))
            self._add(at, "topup", name, credits=amount, amount_minor=amount,
                      payment_fingerprint=card, **common)  # fmt: skip
            if chance.random() < 0.02:
                later = at + timedelta(days=chance.uniform(1, 6))
                self._add(later, "refund", name, credits=amount / 2, **common)
        if chance.random() < 0.01:
            self._add(at + timedelta(minutes=9), "transfer_out", name,
                      credits=round(chance.lognormvariate(4, 1)),
                      counterparty_id=f"u{chance.randrange(300)}", **common)  # fmt: skip
        if chance.random() < 0.004:
            self._add(at + timedelta(minutes=12), "voucher", name, credits=50,
                      voucher_code=f"spring{chance.randrange(9)}", **common)  # fmt: skip

    def _bad(self, at: datetime, type: str, user: str, scenario: str, **fields: Any) -> None:
        usual = {"label": 1, "scenario": scenario, "tenant": "", "email_verified": True}
        self._add(at, type, user, **(usual | fields))

    def _victim(self) -> str:
        return self.random.choice(sorted(self.known))

    def _card_testing(self, name: str, at: datetime) -> None:
        common = {"ip": f"45.{self.random.randrange(250)}.3.4", "device_id": f"x-{name}",
                  "account_created_at": at - timedelta(minutes=20), "channel": "api",
                  "email_domain": "mail.example"}  # fmt: skip
        for place in range(14):
            at += timedelta(seconds=self.random.uniform(15, 70))
            kind = "topup" if place % 5 == 4 else "topup_failed"
            self._bad(at, kind, name, "card_testing", credits=self.random.choice((100, 110, 120)),
                      payment_fingerprint=f"{name}-{place}", **common)  # fmt: skip

    def _mule(self, name: str, at: datetime) -> None:
        common = {
            "ip": f"46.{self.random.randrange(250)}.3.4",
            "device_id": f"x-{name}",
            "account_created_at": at - timedelta(days=2),
            "email_domain": "gmail.com",
        }
        self._bad(at, "topup", name, "mule", credits=5000, payment_fingerprint=f"c-{name}",
                  **common)  # fmt: skip
        for place in range(2):
            at += timedelta(minutes=self.random.uniform(4, 90))
            self._bad(at, "transfer_out", name, "mule", credits=4600 if place == 0 else 380,
                      counterparty_id=f"sink-{name}", **common)  # fmt: skip

    def _sybil(self, name: str, at: datetime) -> None:
        ip = f"47.{self.random.randrange(250)}.3.4"
        for place in range(16):
            at += timedelta(minutes=self.random.uniform(2, 30))
            self._bad(at, "signup_bonus", f"{name}-{place}", "sybil", credits=100, ip=ip,
                      device_id=f"x-{name}", account_created_at=at - timedelta(minutes=1),
                      email_domain="mailinator.com")  # fmt: skip

    def _voucher(self, name: str, at: datetime) -> None:
        ip = f"48.{self.random.randrange(250)}.3.4"
        for place in range(12):
            at += timedelta(minutes=self.random.uniform(1, 4))
            self._bad(at, "voucher", f"{name}-{place}", "voucher", credits=200, ip=ip,
                      device_id=f"x-{name}", account_created_at=at - timedelta(hours=3),
                      voucher_code=f"leak-{name}", email_domain="gmail.com")  # fmt: skip

    def _refund(self, name: str, at: datetime) -> None:
        common = {
            "ip": f"49.{self.random.randrange(250)}.3.4",
            "device_id": f"x-{name}",
            "account_created_at": at - timedelta(days=30),
            "email_domain": "gmail.com",
        }
        for _ in range(5):
            at += timedelta(hours=self.random.uniform(8, 40))
            self._add(at, "topup", name, credits=2000, payment_fingerprint=f"c-{name}", **common)
            self._bad(at + timedelta(hours=3), "refund", name, "refund", credits=1900, **common)

    def _burn(self, name: str, at: datetime) -> None:
        """The key of somebody who has been there for long is used by somebody else."""
        victim = self._victim()
        common = dict(self.known[victim])
        for _ in range(40):
            at += timedelta(seconds=self.random.uniform(3, 12))
            self._bad(
                at,
                "message",
                victim,
                "burn",
                credits=self.random.uniform(40, 90),
                tokens=3000,
                ip="50.1.1.1",
                device_id=f"x-{name}",
                channel="api",
                **common,
            )

    def _takeover(self, name: str, at: datetime) -> None:
        """Somebody signs in as the victim, mostly locks them out, and empties the account.

        Of ten, one sits at the victim's own device, and two only steal the answers.
        """
        chance = self.random
        victim = self._victim()
        common = dict(self.known[victim])
        inside = chance.random() < 0.1
        common |= self.homes[victim] if inside else {
            "ip": f"{chance.randrange(51, 80)}.{chance.randrange(250)}.3.4",
            "device_id": f"x-{name}",
        }  # fmt: skip
        if not inside:
            self._bad(at, "login", victim, "takeover", **common)
        if chance.random() < 0.6:
            at += timedelta(minutes=chance.uniform(1, 9))
            self._bad(at, "password_change", victim, "takeover", **common)
        if chance.random() < 0.2:  # it waits until nobody looks
            at += timedelta(hours=chance.uniform(2, 20))
        if chance.random() < 0.2:
            for _ in range(8):
                at += timedelta(seconds=chance.uniform(20, 90))
                self._bad(at, "message", victim, "takeover", tokens=2500,
                          credits=chance.uniform(15, 60), **common)  # fmt: skip
            return
        for _ in range(chance.choice((1, 2, 2, 3))):
            at += timedelta(minutes=chance.uniform(1, 15))
            self._bad(at, "transfer_out", victim, "takeover", counterparty_id=f"sink-{name}",
                      credits=round(chance.lognormvariate(6.5, 0.8)), **common)  # fmt: skip


def stream(**options: Any) -> list[Row]:
    """The rows of a `Stream`."""
    return Stream(**options).rows
