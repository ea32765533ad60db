"""A second, slow and simple ledger, and a machine that plays it against the real one.

The model keeps lots in lists and knows nothing of SQL. The machine is steered: it moves the
clock to deadlines and one microsecond around them, draws amounts from what is there, and uses
keys again. `reached` counts the outcomes, so that a run that reached nothing is noticed.
"""

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import text
from sqlmodel import Session

from chat_app.credits import debts, holds, ledger, lots, moves, operations, refunds, verify
from chat_app.credits.accounts import Owner
from chat_app.db import AFTER_ROLLBACK, Database
from chat_app.errors import AppError, OutOfCredits
from chat_app.money import format_credits

USERS = (1, 2, 3)
# The wallet of an organisation, that users 1 and 2 spend from; the months never change here.
POOL = -7
LIMIT = 150
START = 1_000_000
reached: Counter[str] = Counter()


@dataclass
class Lot:
    number: int
    granted: int
    remaining: int
    price: int
    end: int | None
    priority: int
    held: int = 0
    spent: int = 0
    moved: int = 0
    transfer: int = 0

    @property
    def earned(self) -> int:
        return self.earned_by(self.granted - self.remaining)

    @property
    def free(self) -> int:
        return self.remaining - self.held

    def worth(self, amount: int) -> int:
        """The share of the price that goes with so many credits more."""
        return self.earned_by(self.granted - self.remaining + amount) - self.earned

    def earned_by(self, used: int) -> int:
        # Half up, on the whole: the fraction is exact because it is kept as integers.
        whole, rest = divmod(self.price * used, self.granted)
        return whole + (1 if 2 * rest >= self.granted else 0)

    def order(self) -> tuple[int, float, bool, int]:
        return (
            self.priority,
            float("inf") if self.end is None else self.end,
            self.price > 0,
            self.number,
        )


@dataclass
class Hold:
    user: int
    amount: int
    end: int
    pins: list[tuple[int, int]]
    state: str = "open"
    settled: int = 0
    member: int | None = None


@dataclass
class Wallet:
    last: int = 0
    owed: int = 0
    lots: list[Lot] = field(default_factory=list)
    moves: list[tuple[str, int]] = field(default_factory=list)

    @property
    def posted(self) -> int:
        return sum(lot.remaining for lot in self.lots)

    @property
    def held(self) -> int:
        return sum(lot.held for lot in self.lots)

    @property
    def available(self) -> int:
        return self.posted - self.held


class Refused(Exception):
    """What the model says no to; the argument is the error's code."""


class Model:
    """The rules of the ledger in plain Python."""

    def __init__(self) -> None:
        self.wallets: dict[int, Wallet] = {}
        self.holds: dict[int, Hold] = {}
        self.keys: dict[tuple[str, str], tuple[Any, Any]] = {}
        self.system: Counter[str] = Counter()
        self.usage: dict[int, int] = {}
        # What a member has used and holds of the pool's month.
        self.months: dict[int, list[int]] = {}
        self.lots_made = 0
        # User, operation of the chargeback, what is left of the debt, what of it was forgiven.
        self.debts: list[list[int]] = []

    def wallet(self, user: int) -> Wallet:
        return self.wallets.setdefault(user, Wallet())

    def expire_lots(self, wallet: Wallet, now: int) -> int:
        gone = 0
        for lot in sorted(wallet.lots, key=Lot.order):
            if lot.end is not None and lot.end <= now and lot.remaining > lot.held:
                if lot.held:
                    reached["a pinned part outlived its lot"] += 1
                self._expire(wallet, lot, lot.remaining - lot.held, now)
                gone += 1
        return gone

    def _expire(self, wallet: Wallet, lot: Lot, amount: int, now: int) -> None:
        lot.remaining -= amount
        wallet.moves.append(("expiry", -amount))
        self.system["expired"] += amount
        wallet.last = max(wallet.last, now)
        reached["a lot expired"] += 1

    def end_hold(self, hold: Hold, state: str, spent: int, now: int) -> None:
        wallet = self.wallets[hold.user]
        wallet.last = max(wallet.last, now)
        hold.state, hold.settled = state, spent
        if hold.member is not None:
            self.months[hold.member][0] += spent
            self.months[hold.member][1] -= hold.amount
        self.system["consumed"] += spent
        if spent:
            wallet.moves.append(("message", -spent))
        late: list[tuple[Lot, int]] = []
        for number, pinned in hold.pins:
            lot = next(lot for lot in wallet.lots if lot.number == number)
            used = min(spent, pinned)
            spent -= used
            lot.held -= pinned
            lot.remaining -= used
            lot.spent += used
            if used < pinned and lot.end is not None and lot.end <= now:
                late.append((lot, pinned - used))
        for lot, rest in late:
            reached["freed credits of an ended lot expired"] += 1
            self._expire(wallet, lot, rest, now)

    def take(self, wallet: Wallet, amount: int) -> list[tuple[int, int]]:
        taken = []
        for lot in sorted(wallet.lots, key=Lot.order):
            part = min(amount, lot.remaining - lot.held)
            if part:
                taken.append((lot.number, part))
                amount -= part
        assert amount == 0
        if len(taken) > 1:
            reached["several lots at once"] += 1
        return taken

    def grant(
        self,
        user: int,
        amount: int,
        shown: str,
        system: str,
        end: int | None,
        price: int,
        priority: int,
        now: int,
    ) -> int:
        """Returns the balance after it; what is owed is paid after that."""
        wallet = self.wallet(user)
        wallet.last = now = max(wallet.last, now)
        self.lots_made += 1
        lot = Lot(self.lots_made, amount, amount, price, end, priority)
        wallet.lots.append(lot)
        wallet.moves.append((shown, amount))
        self.system[system] -= amount
        after = wallet.posted
        if price and wallet.owed and self.repay(wallet, lot, now):
            reached["a debt paid by a purchase"] += 1
        return after

    def repay(self, wallet: Wallet, lot: Lot, now: int) -> int:
        self.expire_lots(wallet, now)
        amount = min(wallet.owed, lot.free)
        if amount:
            wallet.owed -= amount
            lot.remaining -= amount
            lot.spent += amount
            wallet.moves.append(("repayment", -amount))
            self.system["debt"] += amount
            wallet.last = now
        return amount

    def forgive(self, user: int, amount: int, now: int) -> None:
        """The credits come in as a gift and pay at once; the newest debt first."""
        wallet = self.wallets[user]
        left = amount
        for debt in reversed(self.debts):
            part = min(left, debt[2]) if debt[0] == user else 0
            if part:
                debt[2] -= part
                debt[3] += part
                left -= part
                self.grant(user, part, "forgiveness", "writeoff", None, 0, 0, now)
                assert self.repay(wallet, wallet.lots[-1], wallet.last) == part
        assert left == 0

    def refund(self, wallet: Wallet, lot: Lot, minor: int | None, now: int) -> tuple[int, int]:
        """Credits and money."""
        now = max(now, wallet.last)
        self.expire_lots(wallet, now)
        amount, money = lot.free, lot.worth(lot.free)
        if minor is not None:
            if minor <= 0 or (minor > money > 0):
                raise Refused("bad_refund")
            if minor < money:
                target = Fraction(lot.granted * (lot.earned + minor), lot.price)
                amount = -(-target.numerator // target.denominator) - lot.granted + lot.remaining
                money = lot.worth(amount)
                if money != minor:
                    raise Refused("bad_refund")
        if not amount or not money:
            raise Refused("nothing_to_refund")
        self._leave(wallet, lot, "refund", amount, now)
        return amount, money

    def charge_back(self, wallet: Wallet, lot: Lot, now: int) -> tuple[int, int, int]:
        """Credits, money and debt."""
        now = max(now, wallet.last)
        self.expire_lots(wallet, now)
        # What was handed on is owed like what was spent: it is with somebody else.
        owed, amount, money = lot.held + lot.spent + lot.moved, lot.free, lot.worth(lot.free)
        if amount:
            self._leave(wallet, lot, "chargeback", amount, now)
        if owed:
            wallet.owed += owed
            wallet.last = now
            self.system["debt"] -= owed
            self.system["refunded"] += owed
        return amount, money, owed

    def _leave(self, wallet: Wallet, lot: Lot, code: str, amount: int, now: int) -> None:
        lot.remaining -= amount
        wallet.moves.append((code, -amount))
        wallet.last = now
        self.system["refunded"] += amount

    def place(self, user: int, amount: int, ttl: int, now: int, member: int | None = None) -> Hold:
        wallet = self.wallet(user)
        now = max(now, wallet.last)
        self.expire_lots(wallet, now)
        if wallet.available < amount:
            self._end_overdue(user, now)
        if member is not None:
            month = self.months.setdefault(member, [0, 0])
            if sum(month) + amount > LIMIT:
                self._end_overdue(user, now)
            if sum(month) + amount > LIMIT:
                raise Refused("budget_reached")
            month[1] += amount
        if wallet.owed:
            raise Refused("debt_unpaid")
        if wallet.available < amount:
            raise Refused("out_of_credits")
        pins = self.take(wallet, amount)
        for number, part in pins:
            next(lot for lot in wallet.lots if lot.number == number).held += part
        wallet.last = now
        return Hold(user, amount, now + ttl, pins, member=member)

    def _end_overdue(self, user: int, now: int) -> None:
        for _, hold in sorted(self.holds.items()):
            if hold.user == user and hold.state == "open" and hold.end <= now:
                self.end_hold(hold, "expired", 0, now)
                reached["an overdue hold made room"] += 1

    def move(self, source: int, target: int, amount: int, shown: str, now: int) -> Wallet:
        giver, taker = self.wallet(source), self.wallet(target)
        now = max(now, giver.last, taker.last)
        self.expire_lots(giver, now)
        if giver.owed:
            raise Refused("debt_unpaid")
        if giver.available < amount:
            raise Refused("out_of_credits")
        for number, part in self.take(giver, amount):
            lot = next(lot for lot in giver.lots if lot.number == number)
            before = lot.earned
            lot.remaining -= part
            lot.moved += part
            if lot.price and lot.remaining:
                reached["a priced lot was split"] += 1
            self.lots_made += 1
            taker.lots.append(
                Lot(self.lots_made, part, part, lot.earned - before, lot.end, lot.priority)
            )
        giver.moves.append((shown, -amount))
        taker.moves.append((shown, amount))
        giver.last = taker.last = now
        return giver

    def settle(self, hold: Hold, amount: int, now: int) -> tuple[int, bool, bool, int]:
        """Charged, replayed, late, written off."""
        if not 0 <= amount <= hold.amount:
            raise Refused("overrun")
        if hold.state in ("settled", "late"):
            return hold.settled, True, hold.state == "late", 0
        if hold.state == "released":
            raise Refused("hold_ended")
        wallet = self.wallets[hold.user]
        now = max(now, wallet.last)
        if hold.state == "open" and now < hold.end:
            self.end_hold(hold, "settled", amount, now)
            return amount, False, False, 0
        if hold.state == "open":
            self.end_hold(hold, "expired", 0, now)
        self.expire_lots(wallet, now)
        charged = min(amount, wallet.available)
        for number, part in self.take(wallet, charged):
            lot = next(lot for lot in wallet.lots if lot.number == number)
            lot.remaining -= part
            lot.spent += part
        if charged:
            wallet.moves.append(("message", -charged))
        wallet.last = now
        if hold.member is not None:
            self.months[hold.member][0] += charged
        hold.state, hold.settled = "late", charged
        self.system["consumed"] += amount
        self.system["writeoff"] -= amount - charged
        return charged, False, True, amount - charged


class Machine(RuleBasedStateMachine):
    """Plays the same moves on the ledger and the model, and compares everything after each."""

    path: Path

    def __init__(self) -> None:
        super().__init__()
        self.database = Database(self.url())
        self.connection = self.database.engine.connect()
        self.outer = self.connection.begin()
        self.model = Model()
        self.clock = START
        self.numbers = 0
        self.ids: list[int] = []
        self.gone: list[tuple[int, int, refunds.Taken, bool]] = []

    @classmethod
    def url(cls) -> str:
        return f"sqlite:///{cls.path}"

    def teardown(self) -> None:
        try:
            with Session(self.connection, join_transaction_mode="create_savepoint") as session:
                assert verify.run(session, now=0) == []
        finally:
            self.outer.rollback()
            self.connection.close()
            self.database.close()

    def write(self, story: Callable[[Session], Any]) -> Any:
        """A story as the writer runs it: a savepoint, and what follows its rollback."""
        savepoint = self.connection.begin_nested()
        session = Session(
            self.connection, join_transaction_mode="create_savepoint", expire_on_commit=False
        )
        try:
            result = story(session)
            session.commit()
            savepoint.commit()
        except AppError as error:
            session.rollback()
            savepoint.rollback()
            for callback in session.info.get(AFTER_ROLLBACK, []):
                with Session(self.connection, join_transaction_mode="create_savepoint") as later:
                    callback(later)
                    later.commit()
            return error
        except BaseException:
            session.close()
            savepoint.rollback()
            raise
        finally:
            session.close()
        return result

    def key(self, data: st.DataObject, kind: str) -> tuple[str, str]:
        """Mostly a fresh key; sometimes a used one, sometimes a used one in another scope."""
        used = sorted(self.model.keys)
        choice = data.draw(st.integers(0, 11), label="key")
        same = [key for key in used if self.model.keys[key][0][0] == kind]
        if same and choice >= 9:
            return data.draw(st.sampled_from(same), label="used key")
        if used and choice == 8:
            return data.draw(st.sampled_from(used), label="any used key")
        if used and choice == 7:
            scope, name = data.draw(st.sampled_from(used), label="other scope of")
            reached["a key in another scope"] += 1
            return ("b" if scope == "a" else "a"), name
        self.numbers += 1
        return "a", f"k{self.numbers}"

    def amount(self, data: st.DataObject, whole: int, *, low: int = 0) -> int:
        """All of it, one more, half, one, or nothing."""
        third, half = whole // 3, whole // 2
        choices = [third, half, third, half, whole, whole - 1, 1, 0, whole + 1]
        return max(low, data.draw(st.sampled_from(choices), label="amount"))

    @initialize()
    def begin(self) -> None:
        data = [
            (1, 1000, "paid", None, 7, "a1"),
            (1, 300, "promo", START + 50, 0, "a2"),
            (1, 200, "paid", START + 90, 3, "a3"),
            (2, 500, "welcome", None, 0, "a4"),
        ]
        for user, amount, source, end, price, name in data:
            self._grant(user, amount, source, end, price, ("a", name))
        self._move(1, POOL, 400, ("a", "a5"))

    def _grant(
        self,
        user: int,
        amount: int,
        source: str,
        end: int | None,
        price: int,
        key: tuple[str, str],
        priority: int = 0,
    ) -> None:
        request = ("grant", user, amount, source, end, price)
        result = self.write(
            lambda session: ledger.grant(
                session,
                user_id=user,
                micro=amount,
                source=source,
                now=self.clock,
                scope=key[0],
                key=key[1],
                actor="machine",
                price_minor=price,
                priority=priority,
                expires_at=end,
            )
        )
        if self.seen_before(key, request, result):
            return
        shown, system = ledger.SOURCES[source]
        after = self.model.grant(user, amount, shown, system, end, price, priority, self.clock)
        if priority:
            reached["a lot out of turn"] += 1
        assert (result.micro, result.balance_after) == (amount, after), (result, amount, after)
        assert not result.replayed
        self.model.wallets[user].lots[-1].transfer = result.transfer_id
        self.model.keys[key] = (request, ("done", result.transfer_id))

    def seen_before(self, key: tuple[str, str], request: Any, result: Any) -> bool:
        """Check the answer to a used key. A fresh one returns False."""
        if key not in self.model.keys:
            return False
        known, (status, value) = self.model.keys[key]
        if known != request:
            reached["another request with a used key"] += 1
            assert isinstance(result, operations.IdempotencyConflict), result
        elif status == "refused":
            reached["a refusal remembered"] += 1
            assert isinstance(result, OutOfCredits), result
            assert result.facts == value
        else:
            reached["an outcome remembered"] += 1
            assert result.replayed
            found = result.id if isinstance(result, holds.HoldView) else result.transfer_id
            assert found == value
        return True

    @rule(data=st.data())
    def move_clock(self, data: st.DataObject) -> None:
        if data.draw(st.booleans(), label="back"):
            self.clock -= data.draw(st.integers(1, 60), label="by")
            reached["clock back"] += 1
        else:
            self.clock += data.draw(st.integers(0, 20), label="on")

    @precondition(lambda self: bool(self.ends()))
    @rule(data=st.data())
    def meet_an_end(self, data: st.DataObject) -> None:
        """Go to the end of a hold or a lot, give or take a microsecond, and do something there."""
        near, name = data.draw(st.sampled_from(self.ends()), label="to the end")
        step = data.draw(st.sampled_from([-1, 0, 1]), label="around it")
        reached[f"clock at an end {step:+d}"] += 1
        self.clock = near + step
        self._act_at_an_end(data, name)

    @precondition(lambda self: bool(self.unended("open")))
    @rule(data=st.data())
    def meet_the_end_of_a_hold(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.unended("open")), label="hold")
        hold = self.model.holds[name]
        self.clock = hold.end + data.draw(st.sampled_from([-1, 0, 1]), label="around its end")
        if hold.amount and data.draw(st.booleans(), label="use what it would free"):
            self._place(data, hold.user, self.model.wallets[hold.user].available + hold.amount)
        else:
            self._act_at_an_end(data, name)

    def _act_at_an_end(self, data: st.DataObject, name: int | None) -> None:
        acts = ["sweep", "expire", "place"]
        if name is not None:
            acts += ["settle", "settle", "release", "place"]
        act = data.draw(st.sampled_from(acts), label="and there")
        user = self.model.holds[name].user if name is not None else 1
        if act == "sweep":
            self._sweep()
        elif act == "expire":
            self._expire_lots()
        elif act == "place":
            self._place(data, user)
        elif act == "settle":
            assert name is not None
            self._settle(data, name, twice=False)
        else:
            assert name is not None
            self._release(name)

    def ends(self) -> list[tuple[int, int | None]]:
        """When open holds and lots end, with the hold's id."""
        held = {(self.model.holds[name].end, name) for name in self.unended("open")}
        lots = {
            (lot.end, None)
            for wallet in self.model.wallets.values()
            for lot in wallet.lots
            if lot.end is not None and lot.remaining
        }
        return [*sorted(held), *sorted(lots)]

    @rule(data=st.data(), user=st.sampled_from(USERS))
    def grant(self, data: st.DataObject, user: int) -> None:
        key = self.key(data, "grant")
        known = self.model.keys.get(key)
        if known and known[0][0] == "grant" and data.draw(st.booleans(), label="same"):
            _, user, amount, source, end, price = known[0]
            if end is not None and end <= self.clock:
                return
        else:
            amount = data.draw(st.integers(1, 400), label="amount")
            source = data.draw(st.sampled_from(sorted(ledger.SOURCES)), label="source")
            after = data.draw(st.sampled_from([None, 1, 10, 40]), label="ends after")
            end = None if after is None else self.clock + after
            sold = source in ("paid", "plan")
            price = data.draw(st.integers(0, 9), label="price") if sold else 0
        # The priority is no part of what a key stands for: the first request decides.
        priority = data.draw(st.sampled_from([0, 0, 0, -1, 2]), label="priority")
        reached[f"a lot of {source}"] += 1
        self._grant(user, amount, source, end, price, key, priority)

    @rule(data=st.data(), user=st.sampled_from((1, 1, 2, 3)))
    def place(self, data: st.DataObject, user: int) -> None:
        self._place(data, user)

    @rule(data=st.data(), member=st.sampled_from((1, 2)))
    def place_on_the_pool(self, data: st.DataObject, member: int) -> None:
        """Relative to what the month leaves, or the pool."""
        left = LIMIT - sum(self.model.months.get(member, (0, 0)))
        whole = min(left, self.model.wallet(POOL).available)
        if data.draw(st.integers(0, 3), label="the pool's") == 3:
            whole = self.model.wallet(POOL).available
        self._place(data, POOL, self.amount(data, max(0, whole)), member=member)

    @rule(
        data=st.data(),
        pair=st.sampled_from(((1, 2), (2, 1), (1, 3), (1, POOL), (2, POOL), (POOL, 2), (POOL, 3))),
    )
    def move(self, data: st.DataObject, pair: tuple[int, int]) -> None:
        source, target = pair
        wallet = self.model.wallets.get(source, Wallet())
        amount = self.amount(data, wallet.available, low=1)
        key = self.key(data, "move")
        known = self.model.keys.get(key)
        if known and known[0][0] == "move" and data.draw(st.booleans(), label="same"):
            _, source, target, amount = known[0]
        self._move(source, target, amount, key)

    def _move(self, source: int, target: int, amount: int, key: tuple[str, str]) -> None:
        request = ("move", source, target, amount)
        shown = "fund" if target == POOL else "allocation" if source == POOL else "transfer"
        result = self.write(
            lambda session: moves.move(
                session,
                source=owner(source),
                target=owner(target),
                micro=amount,
                code=shown,
                now=self.clock,
                scope=key[0],
                key=key[1],
                actor="machine",
            )
        )
        if self.seen_before(key, request, result):
            return
        before = copy.deepcopy(self.model.__dict__)
        try:
            giver = self.model.move(source, target, amount, shown, self.clock)
        except Refused as refusal:
            owing = str(refusal) == "debt_unpaid"
            reached["a move refused for a debt" if owing else "a move refused"] += 1
            had = self.model.wallet(source).available
            self.model.__dict__.update(before)
            assert isinstance(result, OutOfCredits), result
            self.check_refusal(result, str(refusal))
            assert result.facts["available"] == format_credits(had)
            self.model.keys[key] = (request, ("refused", result.facts))
            return
        reached["moved"] += 1
        assert isinstance(result, moves.Moved), result
        assert (result.micro, result.balance_after) == (amount, giver.posted)
        self.model.keys[key] = (request, ("done", result.transfer_id))

    @rule(data=st.data(), user=st.sampled_from(USERS))
    def pin_a_part_of_an_ending_lot(self, data: st.DataObject, user: int) -> None:
        """A free and a paid lot with one end, a hold on a part of them that outlives them."""
        end = self.clock + 10
        for source, price in data.draw(
            st.permutations([("promo", 0), ("paid", 7)]), label="lots in this order"
        ):
            self.numbers += 1
            self._grant(user, 60, source, end, price, ("a", f"k{self.numbers}"))
        self._place(data, user, data.draw(st.sampled_from([20, 60, 90]), label="of 120"), ttl=60)
        name = self.ids[-1] if self.ids else None
        self.clock = end + data.draw(st.sampled_from([-1, 0, 1]), label="around the end")
        if name is not None and self.model.holds[name].state == "open":
            act = data.draw(st.sampled_from(["expire", "settle", "release", "place"]), label="then")
            if act == "expire":
                self._expire_lots()
            elif act == "settle":
                self._settle(data, name, twice=False)
            elif act == "release":
                self._release(name)
            else:
                self._place(data, user)

    def _place(
        self,
        data: st.DataObject,
        user: int,
        amount: int | None = None,
        *,
        ttl: int | None = None,
        member: int | None = None,
    ) -> None:
        if user == POOL and member is None:
            member = data.draw(st.sampled_from((1, 2)), label="member")
        key = self.key(data, "place")
        wallet = self.model.wallets.get(user, Wallet())
        if amount is None:
            amount = self.amount(data, wallet.available)
        known = self.model.keys.get(key)
        if known and known[0][0] == "place" and data.draw(st.booleans(), label="same"):
            _, user, amount, member = known[0]
        if ttl is None:
            ttl = data.draw(st.sampled_from([1, 5, 20, 60]), label="ttl")
        request = ("place", user, amount, member)
        result = self.write(
            lambda session: holds.place(
                session,
                user_id=user if member is None else member,
                org_id=None if member is None else -POOL,
                limit_micro=None if member is None else LIMIT,
                micro=amount,
                ttl_seconds=ttl / 1_000_000,
                now=self.clock,
                scope=key[0],
                key=key[1],
                reference="r",
            )
        )
        if self.seen_before(key, request, result):
            return
        before = copy.deepcopy(self.model.__dict__)
        try:
            hold = self.model.place(user, amount, ttl, self.clock, member)
        except Refused as refusal:
            why = str(refusal)
            over = why == "budget_reached"
            reached["a budget reached" if over else "a hold refused"] += 1
            had, owed = self.model.wallet(user).available, self.model.wallet(user).owed
            if over:
                assert member is not None
                had = LIMIT - sum(self.model.months[member])
            self.model.__dict__.update(before)
            assert isinstance(result, OutOfCredits), result
            self.check_refusal(result, why)
            if owed:
                reached["a hold refused for a debt"] += 1
            reasons = {"budget_reached": "budget", "debt_unpaid": "debt"}
            assert result.facts["reason"] == reasons.get(why, "balance")
            assert result.facts["needed"] == format_credits(owed or amount)
            assert result.facts["available"] == format_credits(had)
            self.model.keys[key] = (request, ("refused", result.facts))
            return
        reached["a hold of nothing" if amount == 0 else "a hold placed"] += 1
        if member is not None:
            reached["a hold on the pool"] += 1
        assert isinstance(result, holds.HoldView), result
        assert (result.micro, result.expires_at, result.replayed) == (amount, hold.end, False)
        self.model.holds[result.id] = hold
        self.ids.append(result.id)
        self.model.keys[key] = (request, ("done", result.id))

    def pick(self, data: st.DataObject) -> int:
        """Mostly an open hold."""
        unended = self.unended("open", "expired")
        if unended and data.draw(st.integers(0, 3), label="any") > 0:
            return data.draw(st.sampled_from(unended), label="hold")
        return data.draw(st.sampled_from(self.ids), label="hold")

    @precondition(lambda self: bool(self.ids))
    @rule(data=st.data(), twice=st.booleans())
    def settle(self, data: st.DataObject, twice: bool) -> None:
        self._settle(data, self.pick(data), twice)

    @precondition(lambda self: bool(self.unended("open", "expired")))
    @rule(data=st.data())
    def settle_late_on_a_thin_wallet(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.unended("open", "expired")), label="hold")
        hold = self.model.holds[name]
        self.clock = max(self.clock, hold.end + data.draw(st.integers(0, 1), label="after"))
        self._sweep()
        wallet = self.model.wallets[hold.user]
        left = data.draw(st.sampled_from([hold.amount, hold.amount // 3, 0]), label="leave")
        if hold.user == POOL:
            if wallet.available > left:
                self._move(POOL, 3, wallet.available - left, self.key(data, "-"))
        elif wallet.available > left:
            self._take_back(hold.user, wallet.available - left, self.key(data, "-"))
        self._settle(data, name, twice=False)

    def unended(self, *states: str) -> list[int]:
        return [name for name in self.ids if self.model.holds[name].state in states]

    def overdue(self) -> list[int]:
        return [name for name in self.unended("open") if self.model.holds[name].end <= self.clock]

    def _settle(self, data: st.DataObject, name: int, twice: bool) -> None:
        hold = self.model.holds[name]
        amount = self.amount(data, hold.amount)
        usage = holds.UsageFacts(f"r{name}", "m", 1, 2, 1)
        for _ in range(2 if twice else 1):
            result = self.write(
                lambda session: holds.settle(
                    session, hold_id=name, micro=amount, now=self.clock, usage=usage
                )
            )
            before = hold.state
            try:
                charged, replayed, late, lost = self.model.settle(hold, amount, self.clock)
            except Refused as refusal:
                reached[f"settle: {refusal}"] += 1
                self.check_refusal(result, str(refusal))
                return
            kind = "again" if replayed else "late" if late else "in time"
            part = "lost" if lost else "nothing" if not charged else "charged"
            reached[f"settle {kind}: {part}"] += 1
            if before == "open" and late:
                reached["settle found the hold overdue"] += 1
            assert isinstance(result, holds.Settlement), result
            assert (result.charged, result.replayed) == (charged, replayed)
            assert (result.late, result.written_off) == (late, lost)
            if not replayed:
                self.model.usage[name] = charged

    def check_refusal(self, result: Any, code: str) -> None:
        assert isinstance(result, AppError), result
        assert result.code == code

    @precondition(lambda self: bool(self.ids))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self._release(self.pick(data))

    def _release(self, name: int) -> None:
        hold = self.model.holds[name]
        result = self.write(lambda session: holds.release(session, hold_id=name, now=self.clock))
        now = max(self.clock, self.model.wallets[hold.user].last)
        done = hold.state == "open" and now < hold.end
        if hold.state == "open":
            self.model.end_hold(hold, "released" if done else "expired", 0, now)
            reached["released" if done else "release found the hold overdue"] += 1
        else:
            reached["release of an ended hold"] += 1
        assert result is done

    @precondition(lambda self: bool(self.ids))
    @rule(data=st.data(), by=st.sampled_from([-5, 1, 30]))
    def extend(self, data: st.DataObject, by: int) -> None:
        name = self.pick(data)
        hold = self.model.holds[name]
        end = hold.end + by
        result = self.write(lambda session: holds.extend(session, hold_id=name, expires_at=end))
        longer = hold.state == "open" and by > 0
        if longer:
            hold.end = end
        reached["extended" if longer else "not extended"] += 1
        assert result is longer

    @precondition(lambda self: bool(self.overdue()) or len(self.ids) == 1)
    @rule()
    def sweep(self) -> None:
        self._sweep()

    def _sweep(self) -> None:
        result = self.write(lambda session: holds.sweep(session, now=self.clock))
        ended = 0
        for _, hold in sorted(self.model.holds.items()):
            if hold.state == "open" and hold.end <= self.clock:
                now = max(self.clock, self.model.wallets[hold.user].last)
                self.model.end_hold(hold, "expired", 0, now)
                ended += 1
        reached["swept" if ended else "nothing to sweep"] += 1
        assert result == ended

    @precondition(lambda self: self.clock > START + 40)
    @rule()
    def expire_lots(self) -> None:
        self._expire_lots()

    def _expire_lots(self) -> None:
        result = self.write(lambda session: lots.expire_due(session, now=self.clock))
        some = 0
        for wallet in self.model.wallets.values():
            due = any(
                lot.end is not None and lot.end <= self.clock and lot.remaining > lot.held
                for lot in wallet.lots
            )
            if due:
                some += 1
                self.model.expire_lots(wallet, max(self.clock, wallet.last))
        reached["lots expired" if some else "no lot to expire"] += 1
        assert result == some

    @rule(data=st.data(), user=st.sampled_from(USERS))
    def take_back(self, data: st.DataObject, user: int) -> None:
        key = self.key(data, "adjust")
        wallet = self.model.wallets.get(user, Wallet())
        amount = self.amount(data, wallet.available // 2, low=1)
        if data.draw(st.integers(0, 3), label="too much") == 3:
            amount = wallet.available + 1
        self._take_back(user, amount, key)

    def _take_back(self, user: int, amount: int, key: tuple[str, str]) -> None:
        request = ("adjust", user, amount)
        result = self.write(
            lambda session: ledger.adjust(
                session,
                user_id=user,
                micro=-amount,
                reason="why",
                actor="admin",
                now=self.clock,
                scope=key[0],
                key=key[1],
            )
        )
        if self.seen_before(key, request, result):
            return
        before = copy.deepcopy(self.model.__dict__)
        wallet = self.model.wallet(user)
        now = max(self.clock, wallet.last)
        self.model.expire_lots(wallet, now)
        if wallet.available < amount:
            reached["taking refused"] += 1
            self.model.__dict__.update(before)
            assert isinstance(result, OutOfCredits), result
            self.model.keys[key] = (request, ("refused", result.facts))
            return
        reached["taken"] += 1
        for number, part in self.model.take(wallet, amount):
            next(lot for lot in wallet.lots if lot.number == number).remaining -= part
        wallet.moves.append(("adjustment", -amount))
        wallet.last = now
        self.model.system["adjusted"] += amount
        assert result.balance_after == wallet.posted
        self.model.keys[key] = (request, ("done", result.transfer_id))

    def bought(self, user: int) -> list[int]:
        """Numbers of the user's lots that cost money and were not charged back."""
        back = {number for _, number, _, all_of_it in self.gone if all_of_it}
        wallet = self.model.wallets.get(user, Wallet())
        # What came from somebody else's wallet was bought there.
        own = [lot for lot in wallet.lots if lot.price and lot.transfer]
        return [lot.number for lot in own if lot.number not in back]

    def lot(self, user: int, number: int) -> Lot:
        """The model is put back after a refusal, so nobody keeps its lots."""
        return next(lot for lot in self.model.wallets[user].lots if lot.number == number)

    @precondition(lambda self: any(self.bought(user) for user in USERS))
    @rule(data=st.data())
    def money_back(self, data: st.DataObject) -> None:
        user = data.draw(st.sampled_from([one for one in USERS if self.bought(one)]), label="whose")
        lot = data.draw(st.sampled_from(self.bought(user)), label="lot")
        if data.draw(st.integers(0, 2), label="by the bank") == 2:
            self._charge_back(user, lot)
        else:
            self._refund(data, user, lot)

    def _refund(self, data: st.DataObject, user: int, number: int) -> None:
        lot = self.lot(user, number)
        key = self.key(data, "refund")
        worth = lot.worth(lot.free)
        minor = data.draw(
            st.sampled_from([None, worth, worth + 1, max(1, worth // 2), 1, 0]), label="minor"
        )
        request = ("refund", lot.transfer, minor)
        result = self.write(
            lambda session: refunds.refund(
                session,
                user_id=user,
                grants=[lot.transfer],
                minor=minor,
                now=self.clock,
                scope=key[0],
                key=key[1],
                actor="admin",
                reference=f"pay{lot.transfer}",
                description="why",
            )
        )
        if self.seen_before(key, request, result):
            return
        before = copy.deepcopy(self.model.__dict__)
        wallet = self.model.wallets[user]
        try:
            amount, money = self.model.refund(wallet, lot, minor, self.clock)
        except Refused as refusal:
            reached[f"refund: {refusal}"] += 1
            self.model.__dict__.update(before)
            self.check_refusal(result, str(refusal))
            return
        reached["a part refunded" if lot.remaining > lot.held else "all unused refunded"] += 1
        assert isinstance(result, refunds.Taken), result
        assert (result.micro, result.minor, result.owed) == (amount, money, 0)
        self.model.keys[key] = (request, ("done", result.transfer_id))
        self.gone.append((user, number, result, False))

    def _charge_back(self, user: int, number: int) -> None:
        lot = self.lot(user, number)
        for again in (False, True):
            result = self.write(
                lambda session: refunds.charge_back(
                    session,
                    user_id=user,
                    grants=[lot.transfer],
                    now=self.clock,
                    scope="dispute",
                    key=str(lot.number),
                    actor="bank",
                    reference=f"pay{lot.transfer}",
                    description="why",
                )
            )
            assert result.replayed is again
        if lot.held:
            reached["held credits charged back"] += 1
        if lot.moved:
            reached["moved credits charged back"] += 1
        amount, money, owed = self.model.charge_back(self.model.wallets[user], lot, self.clock)
        reached["spent credits charged back" if owed else "unused credits charged back"] += 1
        assert (result.micro, result.minor, result.owed) == (amount, money, owed)
        self.gone.append((user, number, result, True))
        if owed:
            self.model.debts.append([user, result.operation_id, owed, 0])

    @precondition(lambda self: any(self.model.wallet(user).owed for user in USERS))
    @rule(data=st.data())
    def forgive(self, data: st.DataObject) -> None:
        owing = [user for user in USERS if self.model.wallet(user).owed]
        user = data.draw(st.sampled_from(owing), label="whom")
        owed = self.model.wallets[user].owed
        some = st.sampled_from([None, owed, max(1, owed // 2), 1, owed + 1, 0])
        self._forgive(user, data.draw(some, label="micro"))

    def _forgive(self, user: int, micro: int | None) -> None:
        self.numbers += 1
        wallet = self.model.wallets[user]
        for again in (False, True):
            result = self.write(
                lambda session: debts.forgive(
                    session,
                    user_id=user,
                    micro=micro,
                    reason="why",
                    now=self.clock,
                    scope="forgive",
                    key=f"k{self.numbers}",
                    actor="admin",
                )
            )
            if micro is not None and not 0 < micro <= wallet.owed:
                reached["a debt not forgiven"] += 1
                assert isinstance(result, debts.BadForgiveness), result
                return
            assert result.replayed is again
        amount = wallet.owed if micro is None else micro
        self.model.forgive(user, amount, self.clock)
        reached["a part of a debt forgiven" if wallet.owed else "a debt forgiven"] += 1
        assert (result.micro, result.owed) == (amount, wallet.owed)

    @precondition(lambda self: bool(self.gone))
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        """A dispute was won, or a refund failed: what went comes back, once."""
        user, number, taken, _ = data.draw(st.sampled_from(self.gone), label="which")
        self._give_back(user, number, taken)

    def _give_back(self, user: int, number: int, taken: refunds.Taken) -> None:
        lot = self.lot(user, number)
        key = ("back", str(taken.operation_id))
        result = self.write(
            lambda session: refunds.give_back(
                session,
                user_id=user,
                taken=taken,
                currency="USD",
                expires_at=None,
                now=self.clock,
                scope=key[0],
                key=key[1],
                actor="bank",
                reference=f"pay{lot.transfer}",
                description="why",
            )
        )
        assert isinstance(result, refunds.Returned), result
        if key in self.model.keys:
            reached["given back before"] += 1
            assert self.model.keys[key][1] == ("done", result)
            return
        wallet = self.model.wallets[user]
        debt = next(
            (one for one in self.model.debts if one[1] == taken.operation_id), [user, 0, 0, 0]
        )
        forgiven = debt[3]
        if forgiven:
            reached["a forgiven debt was decided"] += 1
            self.model.system["writeoff"] += forgiven
            self.model.system["refunded"] -= forgiven
        cancelled = min(wallet.owed, taken.owed - forgiven)
        debt[2] -= cancelled
        if cancelled:
            reached["a debt cancelled"] += 1
            wallet.owed -= cancelled
            wallet.last = max(wallet.last, self.clock)
            self.model.system["debt"] += cancelled
            self.model.system["refunded"] -= cancelled
        if cancelled < taken.owed - forgiven:
            reached["a paid debt came back"] += 1
        amount = taken.micro + taken.owed - forgiven - cancelled
        if amount:
            self.model.grant(
                user, amount, "reinstatement", "refunded", None, taken.minor, 0, self.clock
            )
            wallet.lots[-1].transfer = result.transfer_id or 0
        assert (result.micro, result.cancelled, result.forgiven) == (amount, cancelled, forgiven)
        self.model.keys[key] = (("back", taken.operation_id), ("done", result))
        reached["given back"] += 1

    @precondition(lambda self: any(back for *_, back in self.gone))
    @rule()
    def collect(self) -> None:
        for user, number, _, all_of_it in self.gone:
            if all_of_it:
                self._collect(user, number)

    def _collect(self, user: int, number: int) -> None:
        lot = self.lot(user, number)
        result = self.write(
            lambda session: debts.collect(
                session, user_id=user, grants=[lot.transfer], now=self.clock
            )
        )
        wallet = self.model.wallets[user]
        paid = 0
        if wallet.owed and lot.free:
            paid = self.model.repay(wallet, lot, max(self.clock, wallet.last))
        reached["freed credits pay a debt" if paid else "nothing to collect"] += 1
        assert result == paid

    @rule(data=st.data(), user=st.sampled_from((*USERS, POOL)))
    def a_hold_meets_its_end(self, data: st.DataObject, user: int) -> None:
        """All that there is is held, or a bit of the pool; then it is settled, or needed for
        another.
        """
        before = len(self.ids)
        if user == POOL:
            self._place(data, POOL, 5, ttl=5)
        else:
            self.numbers += 1
            self._grant(user, 40, "bonus", None, 0, ("a", f"k{self.numbers}"))
            self._place(data, user, self.model.wallets[user].available, ttl=5)
        if len(self.ids) == before:
            return
        name = self.ids[-1]
        hold = self.model.holds[name]
        self.clock = hold.end + data.draw(st.sampled_from([-1, 0, 0, 1]), label="around its end")
        if data.draw(st.booleans(), label="settle"):
            self._settle(data, name, twice=False)
        else:
            self._place(data, user, hold.amount)

    @rule(data=st.data(), user=st.sampled_from(USERS))
    def refund_a_purchase(self, data: st.DataObject, user: int) -> None:
        """In two parts, with a part of it held or used."""
        self.numbers += 1
        self._grant(user, 100, "paid", None, 9, ("a", f"k{self.numbers}"))
        lot = self.model.wallets[user].lots[-1].number
        if data.draw(st.booleans(), label="hold some"):
            self._place(data, user, max(0, self.model.wallets[user].available - 50), ttl=60)
        for _ in range(2):
            self._refund(data, user, lot)

    @rule(data=st.data(), user=st.sampled_from(USERS))
    def a_bank_takes_its_time(self, data: st.DataObject, user: int) -> None:
        """Bought, used, charged back with an answer under way, paid back, decided."""
        self.numbers += 1
        self._grant(user, 100, "paid", None, 9, ("a", f"k{self.numbers}"))
        lot = self.model.wallets[user].lots[-1].number
        if data.draw(st.integers(0, 2), label="hand on") == 2:
            self.numbers += 1
            part = max(1, self.model.wallets[user].available - 20)
            target = data.draw(st.sampled_from([3 - user if user < 3 else 1, POOL]), label="to")
            self._move(user, target, part, ("a", f"k{self.numbers}"))
        before = len(self.ids)
        self._place(data, user, self.model.wallets[user].available, ttl=60)
        held = self.ids[-1] if len(self.ids) > before else None
        if held is not None and data.draw(st.booleans(), label="used before"):
            self._settle(data, held, twice=False)
            held = None
        self._charge_back(user, lot)
        if data.draw(st.booleans(), label="try to go on"):
            # A gift is there to be spent, and pays no debt.
            self.numbers += 1
            self._grant(user, 30, "bonus", None, 0, ("a", f"k{self.numbers}"))
            self._place(data, user, 1)
            self.numbers += 1
            self._move(user, POOL, 1, ("a", f"k{self.numbers}"))
        if held is not None and self.model.holds[held].state == "open":
            self._release(held)
            self._collect(user, lot)
        if data.draw(st.integers(0, 2), label="pay"):
            self.numbers += 1
            size = data.draw(st.sampled_from([10, 300]), label="size")
            self._grant(user, size, "paid", None, 5, ("a", f"k{self.numbers}"))
        if self.model.wallets[user].owed and data.draw(st.booleans(), label="forgive"):
            self._forgive(user, data.draw(st.sampled_from([None, 1]), label="how much"))
        if data.draw(st.booleans(), label="won"):
            self._give_back(user, lot, self.gone[-1][2])

    @invariant()
    def everything_is_equal(self) -> None:
        model = self.model
        found = {
            user: rest
            for user, *rest in self.rows(
                "SELECT COALESCE(user_id, -org_id), posted, held, owed, last_at FROM account"
                " WHERE kind = 'wallet'"
            )
        }
        for user, wallet in model.wallets.items():
            expected = [wallet.posted, wallet.held, wallet.owed, wallet.last]
            assert found.get(user, [0, 0, 0, 0]) == expected, user
        assert self.rows("SELECT remaining, held, recognized_minor FROM lot ORDER BY id") == [
            (lot.remaining, lot.held, lot.earned)
            for lot in sorted(
                (lot for wallet in model.wallets.values() for lot in wallet.lots),
                key=lambda lot: lot.number,
            )
        ]
        assert self.rows("SELECT id, state, settled, expires_at FROM hold ORDER BY id") == [
            (name, hold.state, hold.settled, hold.end) for name, hold in sorted(model.holds.items())
        ]
        system = self.rows(
            """SELECT name, SUM(amount) FROM (
              SELECT CASE WHEN a.code LIKE 'debt%' THEN 'debt' ELSE substr(a.code, 5) END AS name,
               CASE WHEN t.credit_id = a.id THEN t.amount ELSE -t.amount END AS amount
              FROM account a JOIN transfer t ON t.credit_id = a.id OR t.debit_id = a.id
              WHERE a.kind = 'system' AND t.kind IN ('direct', 'post')
            ) moved GROUP BY name"""
        )
        assert {name: int(total) for name, total in system if total} == {
            name: total for name, total in model.system.items() if total
        }
        months = self.rows("SELECT user_id, used, held FROM budget WHERE scope = 'member'")
        assert sorted(months) == sorted(
            (member, used, held) for member, (used, held) in model.months.items()
        )
        used = self.rows("SELECT reply_id, cost FROM usage")
        assert sorted(used) == sorted((f"r{name}", cost) for name, cost in model.usage.items())
        with Session(self.connection, join_transaction_mode="create_savepoint") as session:
            for user, wallet in model.wallets.items():
                whose = {"org_id": -user} if user == POOL else {"user_id": user}
                rows, _ = ledger.transactions(session, **whose, limit=500)
                shown = [(row.type, row.credits) for row in reversed(rows)]
                assert sorted(shown) == sorted(wallet.moves), user

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.connection.execute(text(query))]


def owner(user: int) -> Owner:
    """Whom a wallet of the model belongs to."""
    return Owner("org", -user) if user == POOL else Owner("user", user)


BRANCHES = {
    *(f"a lot of {source}" for source in ledger.SOURCES),
    "a lot out of turn",
    "a budget reached",
    "a hold on the pool",
    "a move refused",
    "a move refused for a debt",
    "a priced lot was split",
    "moved",
    "moved credits charged back",
    "a debt cancelled",
    "a debt forgiven",
    "a debt not forgiven",
    "a forgiven debt was decided",
    "a part of a debt forgiven",
    "a debt paid by a purchase",
    "a hold of nothing",
    "a hold placed",
    "a hold refused",
    "a hold refused for a debt",
    "a key in another scope",
    "a lot expired",
    "a paid debt came back",
    "a part refunded",
    "a pinned part outlived its lot",
    "a refusal remembered",
    "all unused refunded",
    "an outcome remembered",
    "an overdue hold made room",
    "another request with a used key",
    "clock at an end +0",
    "clock at an end +1",
    "clock at an end -1",
    "clock back",
    "extended",
    "freed credits of an ended lot expired",
    "freed credits pay a debt",
    "given back",
    "given back before",
    "held credits charged back",
    "lots expired",
    "no lot to expire",
    "not extended",
    "nothing to collect",
    "nothing to sweep",
    "refund: bad_refund",
    "refund: nothing_to_refund",
    "release found the hold overdue",
    "release of an ended hold",
    "released",
    "settle again: charged",
    "settle again: nothing",
    "settle found the hold overdue",
    "settle in time: charged",
    "settle in time: nothing",
    "settle late: charged",
    "settle late: lost",
    "settle late: nothing",
    "settle: hold_ended",
    "settle: overrun",
    "several lots at once",
    "spent credits charged back",
    "swept",
    "taken",
    "taking refused",
    "unused credits charged back",
}
