"""A credible history through the real ledger, for demonstrations and for trying models.

People of `ml/world.py` sign up, buy, chat, are refunded and cheat, a week in a write transaction.
Every one of them is marked in `demo_user`, has no password and an address that no mail reaches.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from sqlalchemy import func, insert
from sqlmodel import Session, col, select

from chat_app.accounts import orgs, users
from chat_app.accounts.tables import OrgMember, User
from chat_app.app import stock
from chat_app.audit import anchors
from chat_app.audit import log as audit
from chat_app.audit import seal as seals
from chat_app.chat.tables import Conversation, Message, Reply
from chat_app.credits import (
    changes,
    holds,
    ledger,
    lots,
    moves,
    packages,
    plans,
    pricing,
    renewals,
)
from chat_app.credits.accounts import Owner
from chat_app.credits.holds import UsageFacts
from chat_app.credits.payments import orders, returns
from chat_app.credits.payments.provider import DisputeStanding, RefundStanding
from chat_app.credits.pricing import Price
from chat_app.credits.refunds import NothingToRefund
from chat_app.db import Database
from chat_app.errors import Conflict, Invalid, OutOfCredits
from chat_app.ml import world
from chat_app.ml.fraud import Engine, events
from chat_app.ml.fraud.tables import FraudAssessment, FraudLabel
from chat_app.ml.fraud.watch import KEPT_DAYS
from chat_app.ml.tables import DemoUser
from chat_app.ml.world import DAY, SECOND, WEEK, Deed, Person, World
from chat_app.money import MICRO, Money
from chat_app.settings import Settings

MOST_USERS, MOST_MONTHS = 20_000, 60
MAX_TOKENS = 1024
PLAN = plans.Plan("demo-plus", "Plus", Money(990, "USD"), 1_200 * MICRO, keep_periods=1)
DEARER = 1.2
# What a conversation is about, what is asked in it, and what is answered.
TALKS = (
    ("A letter to the landlord", "Can you make this letter friendlier?",
     "Dear Ms Weber, thank you for looking into the heating so quickly. Could we agree on a day?"),
    ("Fractions for my daughter", "How do I explain why 1/3 is more than 1/4?",
     "Cut two equal cakes, one in three and one in four. Fewer pieces means that each is larger."),
    ("A slow query", "Why is my SQL query slow although there is an index?",
     "The condition calls a function on the column, so the index is idle. Index the expression."),
    ("Names for a bakery", "Five names for a small bakery by the sea?",
     "Salt & Crumb, The Tidal Loaf, Harbour Crust, Morning Gull, Driftwood Bread."),
    ("Soup for six", "What can I cook from lentils, carrots and a lemon?",
     "A lentil soup: soften the carrots with cumin, simmer the lentils, finish with lemon juice."),
    ("Notes of a meeting", "Sum this meeting up in three lines.",
     "The launch moves to May. Ana owns the price list. Open: who answers support at weekends."),
)  # fmt: skip


class BadSimulation(Invalid):
    """A number of users or months that is not simulated."""

    code = "bad_simulation"
    message = f"Give 1 to {MOST_USERS} users and 1 to {MOST_MONTHS} months."


class AlreadySimulated(Conflict):
    """The people of this seed are there: their history is not written twice."""

    code = "already_simulated"
    message = "This seed was simulated here already. Use another seed or another data directory."


Tell = Callable[[int, int], None]


def run(
    db: Database,
    settings: Settings,
    *,
    users: int,
    months: int,
    seed: int,
    now: int,
    fraud: bool = False,
    tell: Tell = lambda _done, _all: None,
) -> dict[str, int]:
    """Write the history that ends at `now` (µs) into a migrated database; counts by name.

    The same numbers and the same seed give the same history. Prices are changed and a plan is
    offered only where no real customer is. Raises BadSimulation or AlreadySimulated.
    """
    if not (0 < users <= MOST_USERS and 0 < months <= MOST_MONTHS and 0 <= seed < 2**31):
        raise BadSimulation
    end = now // DAY * DAY
    start = end - int(months * world.MONTH) - DAY
    with db.read() as session:
        if session.exec(select(DemoUser.user_id).where(DemoUser.seed == seed).limit(1)).first():
            raise AlreadySimulated(seed=seed)
        nobody = alone(session)
    stock(db, settings, now=start)
    with db.read() as session:
        packs = [
            world.Pack(one.code, one.price.amount, (one.credits + one.bonus_credits) // MICRO)
            for one in packages.list_packages(session)
            if one.price.amount > 0
        ]
        prices = _prices(session)
    drawn = world.draw(users=users, end=end, months=months, seed=seed, packs=packs, fraud=fraud)
    story = _Story(settings, drawn, seed, prices, nobody, _Judged(drawn) if fraud else None)
    db.write(story.open)
    done = 0
    for _, week in groupby(drawn.deeds, key=lambda deed: (deed.at - drawn.start) // WEEK):
        deeds = list(week)
        db.write(lambda session, deeds=deeds: story.live(session, deeds))  # type: ignore[misc]
        done += len(deeds)
        tell(done, len(drawn.deeds))
    db.write(story.close)
    return dict(sorted(story.counts.items()))


def seal(db: Database, settings: Settings, *, key: bytes, now: int) -> None:
    """Seal what was written and publish the head, as the server would have done."""
    db.write(lambda session: seals.seal(session, key=key, now=now))
    with db.read() as session:
        head = seals.head(session)
    anchors.append(settings.data_dir / anchors.FILE, head=head, key=key, now=now)


def present(session: Session) -> bool:
    """Whether there are people whom the simulator made up."""
    return session.exec(select(DemoUser.user_id).limit(1)).first() is not None


def alone(session: Session) -> bool:
    """Whether nobody real is a customer here: staff, and people who were made up."""
    demo = select(DemoUser.user_id)
    real = select(func.count()).where(User.role == "user", col(User.id).not_in(demo))
    return session.exec(real).one() == 0


def _prices(session: Session) -> list[list[Price]]:
    """All prices of the three cheapest to dearest models that answer texts, oldest first."""
    found: dict[str, list[Price]] = {}
    for price in pricing.versions(session):
        found.setdefault(price.model_id, []).insert(0, price)
    if not found:
        raise Conflict("There are no prices, so nothing could be sold. Publish some first.")
    ranked = sorted(
        found.values(),
        key=lambda versions: (
            pricing.cost(versions[0], prompt_tokens=70, completion_tokens=215),
            versions[0].model_id,
        ),
    )
    return ranked[-3:] if len(ranked) >= 3 else [ranked[min(n, len(ranked) - 1)] for n in range(3)]


@dataclass
class _Alive:
    """Somebody while the story is told."""

    person: Person
    id: int
    dry: bool = False
    orders: list[str] = field(default_factory=list)
    session: tuple[int, str] = (-1, "")


class _Judged:
    """What the rules would have said, event by event; only what a server would still have is kept.

    The staff of this history look at what was flagged after a week.
    """

    def __init__(self, drawn: World) -> None:
        self.engine = Engine()
        self.since = drawn.end - KEPT_DAYS * DAY
        self.until = drawn.end - WEEK
        self.rows: list[dict[str, Any]] = []
        self.labels: list[tuple[str, str, int]] = []

    def add(
        self, deed: Deed, one: _Alive, type: str, key: str, *, micro: int = 0, **facts: Any
    ) -> None:
        """Judge a deed that was done."""
        ip = deed.facts.get("ip", one.person.ip)
        event = {
            "event_id": f"{type}:{key}"[:120], "ts": deed.at, "type": type, "user_id": str(one.id),
            "credits": micro / MICRO, "ip": _hash(ip), "ip_net": _hash(events.network(ip)),
            "device_id": _hash(deed.facts.get("device", one.person.device)),
            "account_created_at": one.person.joined_at, "email_domain": "demo.invalid",
            "email_verified": True, **facts,
        }  # fmt: skip
        found = self.engine.score(event)
        if deed.at < self.since:
            return
        self.rows.append(
            {
                "event_id": event["event_id"], "user_id": one.id, "type": type,
                "event": json.dumps(event), "score": round(found.score * 10),
                "action": found.action, "reasons": json.dumps(list(found.reasons)),
                "model_version": found.model_version, "features_hash": found.features_hash,
                "fallback_reason": found.fallback_reason, "created_at": deed.at,
            }
        )  # fmt: skip
        if found.action != "allow" and deed.at < self.until:
            strange = one.person.scenario != "token_burn" or "ip" in deed.facts
            label = "fraud" if one.person.scenario and strange else "legit"
            self.labels.append((event["event_id"], label, deed.at + 3 * DAY))

    def flush(self, session: Session) -> int:
        """Write what was judged since; how much it was."""
        count = len(self.rows)
        if self.rows:
            session.execute(insert(FraudAssessment), self.rows)
            self.rows.clear()
        return count

    def close(self, session: Session) -> None:
        """What the staff found, once a judgement had lain there for three days."""
        ids = dict(
            session.execute(
                select(FraudAssessment.event_id, FraudAssessment.id).where(
                    FraudAssessment.action != "allow"
                )
            ).all()
        )
        rows = [
            {"assessment_id": ids[event], "label": label, "labelled_by": 0, "created_at": at}
            for event, label, at in sorted(self.labels, key=lambda label: label[2])
        ]
        if rows:
            session.execute(insert(FraudLabel), rows)


def _hash(value: str) -> str:
    """As the watch hides what leads to people; these were made up."""
    return hashlib.sha256(f"made up {value}".encode()).hexdigest()[:20] if value else ""


@dataclass
class _Story:
    settings: Settings
    drawn: World
    seed: int
    prices: list[list[Price]]
    alone: bool
    judged: _Judged | None = None
    counts: Counter[str] = field(default_factory=Counter)
    alive: dict[int, _Alive] = field(default_factory=dict)
    pools: dict[int, int] = field(default_factory=dict)
    number: int = 0
    swept: int = 0
    changed: bool = False
    rows: dict[Any, list[dict[str, Any]]] = field(
        default_factory=lambda: {Conversation: [], Message: [], "answers": [], Reply: []}
    )

    def __post_init__(self) -> None:
        self.shop = renewals.Shop(self.settings.credits, self.settings.business.zone)

    # -- the beginning and the end ------------------------------------------------------------

    def open(self, session: Session) -> None:
        """What is on sale."""
        if self.alone and not any(p.code == PLAN.code for p in plans.list_plans(session, all=True)):
            plans.create(session, PLAN, now=self.drawn.start)

    def close(self, session: Session) -> None:
        """What is due at the end; nobody is told of balances that changed long ago."""
        self._due(session, self.drawn.end)
        if self.judged is not None:
            self.judged.close(session)
        ids = {one.id for one in self.alive.values()}
        after = 0
        while page := changes.take(session, after=after):
            after = page[-1].account_id
            for change in page:
                if change.user_id in ids or change.user_id is None:
                    changes.clear(session, change)
        audit.record(
            session, type="history_simulated", actor="operator", now=self.drawn.end,
            seed=self.seed, people=len(self.alive),
        )  # fmt: skip

    def live(self, session: Session, deeds: list[Deed]) -> None:
        """A week of it."""
        for deed in deeds:
            if deed.at - self.swept >= DAY:
                self._due(session, deed.at)
            getattr(self, f"_{deed.kind}")(session, deed, self.alive.get(deed.who))
        self._flush(session)
        if self.judged is not None:
            self.counts["judged_events"] += self.judged.flush(session)

    def _saw(self, deed: Deed, one: _Alive, type: str, key: object, **facts: Any) -> None:
        if self.judged is not None:
            self.judged.add(deed, one, type, str(key), **facts)

    def _due(self, session: Session, now: int) -> None:
        """What the schedule would have done by now."""
        self.swept = now // DAY * DAY
        lots.expire_due(session, now=now, limit=100_000)
        for id in plans.due(session, now=now):
            for _ in renewals.renew(session, self.shop, subscription_id=id, now=now):
                self.counts["plan_renewals"] += 1
                owner = plans.load(session, id, zone=self.shop.zone).user_id
                self._refreshed(owner)
        if self.alone and not self.changed and now >= self.drawn.change_at:
            self.changed = True
            self._dearer(session)

    def _refreshed(self, user_id: int) -> None:
        for one in self.alive.values():
            if one.id == user_id:
                one.dry = False

    def _dearer(self, session: Session) -> None:
        """The dearest model costs more from then on."""
        at = self.drawn.change_at
        old = self.prices[-1][-1]
        if old.kind != "per_message" or old.per_message is None or old.valid_from > at:
            return
        new = pricing.publish(
            session, model_id=old.model_id, kind=old.kind,
            per_message=int(old.per_message * DEARER) // MICRO * MICRO or old.per_message,
            per_image=old.per_image, now=at, valid_from=at,
        )  # fmt: skip
        self.prices[-1].append(new)
        self.counts["price_changes"] += 1

    # -- deeds ------------------------------------------------------------------------------

    def _join(self, session: Session, deed: Deed, _one: _Alive | None) -> None:
        person = self.drawn.people[deed.who]
        name = f"demo-{self.seed}-{person.number}"
        user = users.create(
            session, username=name, email=f"{name}@demo.invalid", password_hash="", now=deed.at
        )
        assert user.id is not None
        user.email_verified_at = deed.at
        session.add(DemoUser(user_id=user.id, seed=self.seed, scenario=person.scenario))
        session.flush()
        one = self.alive[deed.who] = _Alive(person, user.id)
        audit.record(
            session, type="user_created", actor=f"user:{user.id}", now=deed.at, role="user"
        )
        welcome = self.settings.accounts.welcome_credits
        if welcome:
            ledger.grant(
                session, user_id=user.id, micro=welcome * MICRO, source="welcome", now=deed.at,
                scope="welcome", key=str(user.id), actor="system", description="Welcome credits",
                **ledger.terms(self.settings.credits, "welcome", now=deed.at),
            )  # fmt: skip
            self._saw(deed, one, "signup_bonus", user.id, micro=welcome * MICRO)
        self.counts["people"] += 1
        self.counts["cheats"] += bool(person.scenario)
        if person.org is not None and person.org in self.pools and not person.founder:
            self._add_member(session, self.pools[person.org], one.id, deed.at)

    def _found(self, session: Session, deed: Deed, one: _Alive | None) -> None:
        assert one is not None
        name = f"Demo Works {self.seed}-{deed.facts['org'] + 1}"
        made = orgs.create(session, user_id=one.id, name=name, now=deed.at, most=10**6)
        assert made.id is not None
        self.pools[deed.facts["org"]] = made.id
        self.counts["organisations"] += 1
        for other in self.alive.values():
            if other.person.org == deed.facts["org"] and other is not one:
                self._add_member(session, made.id, other.id, deed.at)

    def _add_member(self, session: Session, org_id: int, user_id: int, now: int) -> None:
        session.add(OrgMember(org_id=org_id, user_id=user_id, role="member", joined_at=now))
        session.flush()

    def _order(self, session: Session, deed: Deed, one: _Alive) -> str:
        self.number += 1
        return orders.create(
            session, user_id=one.id, package_code=deed.facts["pack"], now=deed.at,
            scope=f"simulation:{self.seed}", key=str(self.number), rules=self.settings.credits,
        ).id  # fmt: skip

    def _fail(self, session: Session, deed: Deed, one: _Alive | None) -> None:
        assert one is not None
        id = self._order(session, deed, one)
        orders.fail(session, payment_id=id, now=deed.at)
        micro = orders.find(session, id).credits
        self._saw(deed, one, "topup_failed", f"failed:{id}", micro=micro)
        self.counts["failed_payments"] += 1

    def _buy(self, session: Session, deed: Deed, one: _Alive | None) -> None:
        assert one is not None
        id = self._order(session, deed, one)
        paid = orders.fulfil(session, payment_id=id, now=deed.at)
        one.orders.append(id)
        one.dry = False
        self._saw(
            deed, one, "topup", f"paid:{id}", micro=paid.credits + paid.bonus_credits,
            amount_minor=paid.amount_minor,
        )  # fmt: skip
        self.counts["purchases"] += 1
        audit.record(session, type="payment_fulfilled", actor=f"user:{one.id}", now=deed.at, id=id)
        pool = self.pools.get(one.person.org) if one.person.org is not None else None
        if deed.facts.get("fund") and pool is not None:
            self.number += 1
            moves.move(
                session, source=Owner("user", one.id), target=Owner("org", pool),
                micro=paid.credits * 3 // 4, code="fund", now=deed.at,
                scope=f"simulation:{self.seed}", key=str(self.number), actor=f"user:{one.id}",
                kinds=self.settings.transfers.sources.split(),
            )  # fmt: skip
            for other in self.alive.values():
                other.dry = other.dry and other.person.org != one.person.org

    def _refund(self, session: Session, deed: Deed, one: _Alive | None) -> None:
        """The unused part of the newest order goes back, if there is one."""
        assert one is not None
        if not one.orders:
            return
        self.number += 1
        try:
            made = returns.start(
                session, payment_id=one.orders[-1], minor=None, reason="Asked for by the customer",
                now=deed.at, key=f"simulation:{self.seed}:{self.number}", actor="operator",
            )  # fmt: skip
        except (NothingToRefund, returns.Disputed):
            return
        standing = RefundStanding(f"offline_{made.id}", made.id, "succeeded")
        returns.stand(session, standing, now=deed.at)
        self._saw(deed, one, "refund", made.id, micro=made.credits)
        self.counts["refunds"] += 1

    def _dispute(self, session: Session, deed: Deed, one: _Alive | None) -> None:
        """The bank takes the newest order back, for good."""
        assert one is not None
        if not one.orders:
            return
        order = orders.find(session, one.orders[-1])
        standing = DisputeStanding(
            f"dp_{order.id}", order.intent_ref or order.id, "lost", order.amount_minor,
            order.currency, "fraudulent",
        )  # fmt: skip
        returns.dispute(session, order, standing, now=deed.at)
        one.dry = True
        self.counts["disputes"] += 1

    def _send(self, session: Session, deed: Deed, one: _Alive | None) -> None:
        """Credits handed on to the newest other account."""
        assert one is not None
        target = next(other for other in reversed(self.alive.values()) if other is not one)
        balance = ledger.balance(session, user_id=one.id)
        micro = int(balance.available * deed.facts["share"]) // MICRO * MICRO or MICRO
        self.number += 1
        try:
            moves.move(
                session, source=Owner("user", one.id), target=Owner("user", target.id),
                micro=micro, code=moves.SENT, now=deed.at, scope=f"simulation:{self.seed}",
                key=str(self.number), actor=f"user:{one.id}",
            )  # fmt: skip
        except OutOfCredits:
            return
        self._saw(
            deed, one, "transfer_out", self.number, micro=micro, counterparty_id=str(target.id)
        )
        self.counts["transfers"] += 1

    def _subscribe(self, session: Session, deed: Deed, one: _Alive | None) -> None:
        assert one is not None
        if not self.alone:
            return
        renewals.subscribe(session, self.shop, user_id=one.id, plan_code=PLAN.code, now=deed.at)
        one.dry = False
        self.counts["plans"] += 1

    def _cancel(self, session: Session, deed: Deed, one: _Alive | None) -> None:
        assert one is not None
        if plans.current(session, user_id=one.id, zone=self.shop.zone) is None:
            return
        renewals.cancel(session, self.shop, user_id=one.id, now=deed.at)
        self.counts["cancellations"] += 1

    # -- messages ---------------------------------------------------------------------------

    def _say(self, session: Session, deed: Deed, one: _Alive | None) -> None:
        assert one is not None
        if one.dry:
            return
        pool = self.pools.get(deed.facts["org"]) if "org" in deed.facts else None
        price = self._price(one.person.model, deed.at)
        self.number += 1
        id = f"rep_sim{self.seed}_{self.number}"
        dark = self.drawn.outage[0] <= deed.at < self.drawn.outage[1]
        asked, said = deed.facts["asked"], 0 if dark else deed.facts["said"]
        maximum = pricing.maximum(price, prompt_tokens=asked, max_tokens=MAX_TOKENS)
        try:
            hold = holds.place(
                session, user_id=one.id, micro=maximum, ttl_seconds=600, now=deed.at,
                scope=f"simulation:{self.seed}", key=str(self.number), reference=id, org_id=pool,
            )  # fmt: skip
        except OutOfCredits:
            one.dry = True
            self.counts["refused_messages"] += 1
            return
        took = SECOND + said * SECOND // 25
        usage = UsageFacts(
            reply_id=id, model=price.model_id, prompt_tokens=asked, completion_tokens=said,
            price_version=price.version, duration_ms=took // 1000, engine_ms=took // 1300,
            status="error" if dark else "stop",
        )  # fmt: skip
        settled = holds.settle(
            session, hold_id=hold.id, now=deed.at + took, usage=usage,
            micro=pricing.cost(price, prompt_tokens=asked, completion_tokens=said),
        )  # fmt: skip
        self.counts["failed_messages" if dark else "messages"] += 1
        self._saw(deed, one, "message", id, micro=settled.charged, tokens=said, channel="ui")
        self._write(
            deed, one, hold_id=hold.id, maximum=maximum, settled=settled, usage=usage, took=took
        )

    def _price(self, model: int, at: int) -> Price:
        versions = self.prices[model]
        return next((one for one in reversed(versions) if one.valid_from <= at), versions[0])

    def _write(
        self,
        deed: Deed,
        one: _Alive,
        *,
        hold_id: int,
        maximum: int,
        settled: holds.Settlement,
        usage: UsageFacts,
        took: int,
    ) -> None:
        if one.session[0] != deed.facts["session"]:
            con = f"con_sim{self.seed}_{self.number}"
            one.session = (deed.facts["session"], con)
            self.rows[Conversation].append(
                {
                    "id": con, "user_id": one.id, "title": self._talk(deed)[0], "renamed": False,
                    "model": usage.model, "created_at": deed.at, "updated_at": deed.at,
                }
            )  # fmt: skip
        con, id = one.session[1], usage.reply_id
        text = {"conversation_id": con, "model": usage.model}
        self.rows[Message].append(
            {
                **text, "id": f"q_{id}", "role": "user", "parent_id": None,
                "content": self._talk(deed)[1], "created_at": deed.at,
            }
        )  # fmt: skip
        answer = self._talk(deed)[2] if usage.completion_tokens else ""
        self.rows["answers"].append(
            {
                **text, "id": f"a_{id}", "role": "assistant", "parent_id": f"q_{id}",
                "content": answer, "created_at": deed.at + 1,
            }
        )  # fmt: skip
        failed = usage.status == "error"
        self.rows[Reply].append(
            {
                "id": id, "user_id": one.id, "conversation_id": con, "question_id": f"q_{id}",
                "message_id": f"a_{id}", "model": usage.model, "hold_id": hold_id,
                "price_version": usage.price_version, "maximum": maximum,
                "state": "failed" if failed else "done", "lease_until": deed.at + took,
                "pieces": "", "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens, "charged": settled.charged,
                "transfer_id": settled.transfer_id, "finish_reason": usage.status,
                "error_code": "simulated_outage" if failed else None,
                "created_at": deed.at, "ended_at": deed.at + took,
            }
        )  # fmt: skip

    @staticmethod
    def _talk(deed: Deed) -> tuple[str, str, str]:
        return TALKS[deed.facts["session"] % len(TALKS)]

    def _flush(self, session: Session) -> None:
        tables: Mapping[Any, Any] = {"answers": Message}
        for table, rows in self.rows.items():
            if rows:
                session.execute(insert(tables.get(table, table)), rows)
                rows.clear()
