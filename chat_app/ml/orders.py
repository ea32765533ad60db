"""Purchases as of a moment: what was known about each customer then, what came after.

Nothing after the cut is ever looked at for what was known. A customer's orders of one calendar
day (UTC) are one order; amounts below zero are refunds, booked when they happened and never back
onto the purchase. Knows no model.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chat_app.ml import keeping
from chat_app.revenue import frames

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
DAY = 86_400_000_000  # microseconds
WEEK_DAYS = 7.0


@dataclass(frozen=True)
class Known:
    """Customers with an order up to the cut, one entry each; times in weeks."""

    at: int  # the cut, microseconds UTC
    who: Ints  # places in `Orders.users`
    frequency: Floats  # repeat orders
    recency: Floats  # first order to last
    age: Floats  # first order to the cut
    mean_order: Floats  # net of refunds
    last_order: Floats
    gap: Floats  # the mean between orders; the age without a repeat

    def __len__(self) -> int:
        return len(self.who)

    @property
    def orders(self) -> Floats:
        """All orders, the first among them."""
        return self.frequency + 1.0

    @property
    def repeaters(self) -> int:
        """Customers who came back."""
        return int((self.frequency > 0).sum())


class Orders:
    """The checked purchases of a table, in an order of their own: the table's changes nothing."""

    def __init__(self, tx: pd.DataFrame) -> None:
        frame = frames.checked(tx, ("user_id", "ts", "amount"), name="tx")
        frames.refuse(frame, frame["user_id"].isna(), "user_id", "tx", "is missing a key")
        frames.times(frame, "ts", name="tx")
        frame["amount"] = _signed(frame)
        codes, users = pd.factorize(frame["user_id"])
        try:
            ranks = np.argsort(np.asarray(users), kind="stable")
        except TypeError:  # keys of several kinds
            ranks = np.argsort(np.array([f"{type(u).__name__}:{u}" for u in users]), kind="stable")
        place = np.empty(len(users), dtype="int64")
        place[ranks] = np.arange(len(users))
        self.users = users.take(ranks)
        user = place[codes] if len(codes) else np.zeros(0, dtype="int64")
        at = frame["ts"].astype("int64").to_numpy()
        amount = frame["amount"].to_numpy()
        order = np.lexsort((amount, at, user))
        self.user, self.at, self.amount = user[order], at[order], amount[order]

    def to_params(self) -> dict[str, Any] | None:
        """The orders as plain JSON; None where the users' keys are no plain ones."""
        users = keeping.keys(self.users)
        if users is None:
            return None
        return {
            "users": users, "user": self.user.tolist(), "at": self.at.tolist(),
            "amount": self.amount.tolist(),
        }  # fmt: skip

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> "Orders":
        """The orders that `to_params` described."""
        made = cls.__new__(cls)
        made.users = pd.Index(params["users"]["values"], dtype=params["users"]["kind"])
        made.user = np.array(params["user"], dtype="int64")
        made.at = np.array(params["at"], dtype="int64")
        made.amount = np.array(params["amount"], dtype="float64")
        return made

    @property
    def first(self) -> int | None:
        """The moment of the first purchase of all, microseconds UTC."""
        bought = self.at[self.amount >= 0]
        return int(bought.min()) if len(bought) else None

    def known(self, cut: int) -> Known:
        """What was known at the cut; rows at the very moment are known."""
        seen = self.at <= cut
        user, at, amount = self.user[seen], self.at[seen], self.amount[seen]
        people = len(self.users)
        net = np.bincount(user, weights=amount, minlength=people)
        user, day, value = _order_days(user, at, amount)
        orders = np.bincount(user, minlength=people)
        who = np.flatnonzero(orders)
        ends = np.cumsum(orders)[who] - 1
        begins = ends - orders[who] + 1
        today = cut // DAY
        repeat = (orders[who] - 1).astype("float64")
        recency = (day[ends] - day[begins]) / WEEK_DAYS if len(who) else np.zeros(0)
        age = (today - day[begins]) / WEEK_DAYS if len(who) else np.zeros(0)
        return Known(
            at=cut,
            who=who,
            frequency=repeat,
            recency=recency,
            age=age,
            mean_order=np.maximum(net[who] / orders[who], 0.0),
            last_order=value[ends] if len(who) else np.zeros(0),
            gap=np.where(repeat > 0, recency / np.maximum(repeat, 1), age),
        )

    def between(self, start: int, end: int, who: Ints) -> tuple[Floats, Floats]:
        """Order days and net amounts of these customers after `start`, up to and with `end`."""
        seen = (self.at > start) & (self.at <= end)
        user, at, amount = self.user[seen], self.at[seen], self.amount[seen]
        people = len(self.users)
        net = np.bincount(user, weights=amount, minlength=people)
        user, _, _ = _order_days(user, at, amount)
        count: Floats = np.bincount(user, minlength=people)[who].astype("float64")
        return count, np.asarray(net[who], dtype="float64")

    def repeats(self, known: Known, since: int) -> tuple[Floats, Floats]:
        """Repeat order days and what they brought (net) after `since`, up to the cut of `known`."""
        count, net = self.between(since, known.at, known.who)
        # The first order is no repeat: take it out where it lies in the window.
        born = known.at // DAY - np.rint(known.age * WEEK_DAYS).astype("int64")
        day = self.at // DAY
        code = np.full(len(self.users), -1, dtype="int64")
        code[known.who] = born
        first = (self.at > since) & (self.at <= known.at) & (day == code[self.user])
        first &= self.amount >= 0
        spent = np.bincount(
            self.user[first], weights=self.amount[first], minlength=len(self.users)
        )[known.who]
        was = np.zeros(len(self.users))
        was[self.user[first]] = 1.0
        return np.maximum(count - was[known.who], 0.0), np.maximum(net - spent, 0.0)


def _order_days(user: Ints, at: Ints, amount: Floats) -> tuple[Ints, Ints, Floats]:
    """One entry for each user and day with a purchase: user, day, what was bought that day."""
    bought = amount >= 0
    user, day, amount = user[bought], at[bought] // DAY, amount[bought]
    if not len(user):
        return user, day, amount
    fresh = np.ones(len(user), dtype=bool)
    fresh[1:] = (user[1:] != user[:-1]) | (day[1:] != day[:-1])
    begins = np.flatnonzero(fresh)
    return user[begins], day[begins], np.add.reduceat(amount, begins)


def _signed(frame: pd.DataFrame) -> Any:
    """The amounts as finite numbers; refunds are below zero."""
    numbers = pd.to_numeric(frame["amount"], errors="coerce").astype("float64")
    bad = numbers.isna() | ~numbers.abs().lt(1e15)
    frames.refuse(frame, bad, "amount", "tx", "holds what is no finite number")
    return numbers
