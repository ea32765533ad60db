"""Limits: who may ask now, who has to wait, and for how long. In front of the page and the API.

Every answer takes a ticket here first. An answer runs when its user has a place and the model
has one; who waits is let in by turns between users, never by who asked most. What nobody would
wait for is refused with the time after which it is worth asking again.

Kept in memory, exact, and safe from any thread and event loop: it counts the answers of this
process, and the engine is this process's too. The messages and quotes of a minute are counted
with the other processes where there are some. What has to outlast them is in `throttles.py`.
A limit of 0 is no limit. Knows nothing of money or the database.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

from chat_app.accounts.pace import Pace, Window
from chat_app.errors import TooMany
from chat_app.settings import Limits as LimitSettings
from chat_app.shared.windows import Windows

MINUTE_SECONDS = 60.0
LONGEST_ADVICE_SECONDS = 120
# A page asks for a quote whenever the writer pauses.
QUOTES_PER_MESSAGE = 4


class RateLimited(TooMany):
    """Too many messages of one user in a minute."""

    code = "rate_limited"
    message = "You are sending messages very fast. Wait a moment and send it again."


class TooManyQuotes(TooMany):
    """Too many quotes of one user in a minute: the model counts tokens for them."""

    code = "too_many_quotes"
    message = "You are asking for prices very fast. Wait a moment and ask again."


class TooManyAnswers(TooMany):
    """The user has as many answers running and waiting as one user may have."""

    code = "too_many_answers"
    message = "Your earlier answers are still being written. Wait for one of them or stop it."


class QueueFull(TooMany):
    """All users together have as many answers running and waiting as are accepted."""

    code = "queue_full"
    message = "Everybody is busy here right now and nothing was charged. Try again in a moment."


@dataclass(frozen=True)
class Allowance:
    """What one user may have at once and in a minute; 0 is no limit."""

    running: int
    waiting: int
    per_minute: int


@dataclass(frozen=True)
class Rate:
    """Where a user stands in the current minute: `left` of `limit`, all again after `seconds`."""

    limit: int
    left: int
    seconds: float


@dataclass(frozen=True)
class Place:
    """A waiting answer's place, counted from 1, and about when its turn comes."""

    position: int
    expected_seconds: int


class Ticket:
    """One answer's place: first waiting, then running, then left."""

    def __init__(
        self, limits: "Limits", user_id: int, *, model: str = "", running_limit: int = 0
    ) -> None:
        self.user_id = user_id
        self.model = model
        self.running_limit = running_limit
        self.state: Literal["waiting", "running", "left"] = "waiting"
        self.began_at: float | None = None
        self._limits = limits
        self._turn: Future[bool] = Future()

    async def turn(self) -> bool:
        """Wait until this answer may run; False when the ticket was given back instead.

        A cancelled wait keeps the place: the owner of the ticket calls `leave`.
        """
        return await asyncio.shield(asyncio.wrap_future(self._turn))

    def place(self) -> Place | None:
        """Where it stands in line; None when it does not wait."""
        return self._limits._place(self)

    def began(self) -> None:
        """The model has begun with it: from now on it takes time, and the model's size is known."""
        self._limits._began(self)

    def leave(self) -> None:
        """Give the place back, to whoever's turn it is. Idempotent."""
        self._limits._leave(self)

    def _answer(self, may_run: bool) -> None:
        if self._turn.set_running_or_notify_cancel():
            self._turn.set_result(may_run)


@dataclass
class _Line:
    """The answers of one model; `joined` is when a waiting user came, in turns."""

    model: str
    seen_at: float
    running: int = 0
    waiting: dict[int, deque[Ticket]] = field(default_factory=dict)
    joined: dict[int, int] = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)


class Limits:
    """All limits of one process.

    `slots` tells how many answers of a model the engine writes at once, 0 when that is not
    bounded; `now` gives seconds that never go backwards. `windows` are those that all processes
    count in.
    """

    def __init__(
        self,
        settings: LimitSettings,
        *,
        slots: Callable[[str], int] = lambda _model: 0,
        now: Callable[[], float] = time.monotonic,
        windows: Windows | None = None,
    ) -> None:
        self.settings = settings
        self._windows = windows
        self._slots = slots
        self._now = now
        self._messages = Window(settings.requests_per_minute, MINUTE_SECONDS, now)
        self._quotes = Window(0, MINUTE_SECONDS, now)
        self._usual = Allowance(
            settings.running_per_user, settings.waiting_per_user, settings.requests_per_minute
        )
        self._special: dict[int, Allowance] = {}
        self._lock = threading.Lock()
        self._lines: dict[str, _Line] = {}
        self._running: dict[int, int] = {}
        self._total = 0
        self._turns = 0
        # The turn that let a user's newest answer in, for users who have any.
        self._served: dict[int, int] = {}

    def know(self, user_id: int, plan: str | None) -> None:
        """From now on the user has what this plan gives; what it does not say is everybody's."""
        own = self.settings.plans.get(plan) if plan is not None else None
        if own is None:
            self._special.pop(user_id, None)
            return
        usual = self._usual
        self._special[user_id] = Allowance(
            usual.running if own.running is None else own.running,
            usual.waiting if own.waiting is None else own.waiting,
            usual.per_minute if own.per_minute is None else own.per_minute,
        )

    def allowance(self, user_id: int) -> Allowance:
        """What the user may have, as far as it is known."""
        return self._special.get(user_id, self._usual)

    # Messages in a minute

    async def count_message(self, user_id: int) -> None:
        """Count a message of the user in all processes; raises RateLimited."""
        self.check_rate(user_id)
        limit = self.allowance(user_id).per_minute
        if wait := await self._everywhere("messages", user_id, limit):
            self._messages.give_back(user_id)
            raise RateLimited(retry_after_seconds=math.ceil(wait))

    async def uncount_message(self, user_id: int) -> None:
        """The message was no new one."""
        self.undo_rate(user_id)
        if self._windows is not None:
            await self._windows.give_back(f"messages:{user_id}")

    async def count_quote(self, user_id: int) -> None:
        """Count a quote of the user in all processes; raises TooManyQuotes."""
        self.check_quotes(user_id)
        limit = self.allowance(user_id).per_minute * QUOTES_PER_MESSAGE
        if wait := await self._everywhere("quotes", user_id, limit):
            self._quotes.give_back(user_id)
            raise TooManyQuotes(retry_after_seconds=math.ceil(wait))

    async def _everywhere(self, what: str, user_id: int, limit: int) -> float:
        """Seconds to wait; 0 when it was counted, or when there are no others to count with."""
        if self._windows is None or not limit:
            return 0.0
        return await self._windows.take(f"{what}:{user_id}", limit=limit, seconds=MINUTE_SECONDS)

    def check_rate(self, user_id: int) -> None:
        """Count a message of the user here; raises RateLimited when the minute is full."""
        wait = self._messages.take(user_id, self.allowance(user_id).per_minute)
        if wait:
            raise RateLimited(retry_after_seconds=math.ceil(wait))

    def check_quotes(self, user_id: int) -> None:
        """Count a quote of the user here; raises TooManyQuotes."""
        limit = self.allowance(user_id).per_minute * QUOTES_PER_MESSAGE
        wait = self._quotes.take(user_id, limit)
        if wait:
            raise TooManyQuotes(retry_after_seconds=math.ceil(wait))

    def undo_rate(self, user_id: int) -> None:
        """The message was no new one; here."""
        self._messages.give_back(user_id)

    def rate(self, user_id: int) -> Rate | None:
        """Where the user stands in the minute; None when nothing limits them."""
        limit = self.allowance(user_id).per_minute
        if not limit:
            return None
        left, seconds = self._messages.left(user_id, limit)
        others = self._windows.left(f"messages:{user_id}") if self._windows is not None else None
        if others is not None:
            left, seconds = min(left, others[0]), max(seconds, others[1])
        return Rate(limit, left, seconds)

    # Answers

    def enter(self, user_id: int, *, model: str = "", elsewhere: int = 0) -> Ticket:
        """A place for one answer of the model, running at once or waiting.

        With so many of the user's answers `elsewhere`, in other processes, all of them together
        may be as many as may run and wait here.

        Raises TooManyAnswers when the user has no place left, QueueFull when nobody has or when
        it would wait longer than `max_wait_seconds`. Whoever gets a ticket calls `leave` on it,
        whatever happens.
        """
        may = self.allowance(user_id)
        with self._lock:
            line = self._line(model)
            self._check_everywhere(user_id, line, may, elsewhere)
            ticket = Ticket(self, user_id, model=model, running_limit=may.running)
            if self._must_wait(line, ticket):
                if may.waiting and self._waiting_of(user_id) >= may.waiting:
                    raise TooManyAnswers(retry_after_seconds=self._own_wait(user_id, line, may))
                self._check_wait(line, ticket)
            if self.settings.queue_total and self._total >= self.settings.queue_total:
                seconds = line.pace.typical_seconds / max(1, sum(self._running.values()))
                raise QueueFull(retry_after_seconds=_advice(seconds))
            self._total += 1
            if user_id not in line.waiting:
                line.joined[user_id] = self._next_turn()
            line.waiting.setdefault(user_id, deque()).append(ticket)
            self._let_in(line)
            return ticket

    def position(self, ticket: Ticket) -> int:
        """How many answers come before it, plus one; 0 when it may run."""
        place = self._place(ticket)
        return place.position if place else 0

    def counts(self, user_id: int | None = None) -> tuple[int, int]:
        """Answers running and waiting, of one user or of all."""
        with self._lock:
            if user_id is not None:
                return self._running.get(user_id, 0), self._waiting_of(user_id)
            running = sum(self._running.values())
            return running, self._total - running

    # Inside, under the lock

    def _line(self, model: str) -> _Line:
        """The model's line, with the time that has passed noted."""
        now = self._now()
        line = self._lines.get(model)
        if line is None:
            line = self._lines[model] = _Line(model, now)
        if self._is_full(line):
            line.pace.passed(max(0.0, now - line.seen_at))
        line.seen_at = now
        return line

    def _check_everywhere(self, user_id: int, line: _Line, may: Allowance, elsewhere: int) -> None:
        if elsewhere and may.running and may.waiting:
            here = self._running.get(user_id, 0) + self._waiting_of(user_id)
            if here + elsewhere >= may.running + may.waiting:
                raise TooManyAnswers(retry_after_seconds=_advice(line.pace.typical_seconds))

    def _is_full(self, line: _Line) -> bool:
        slots = self._slots(line.model)
        return bool(slots) and line.running >= slots

    def _may_run(self, ticket: Ticket) -> bool:
        running = self._running.get(ticket.user_id, 0)
        return not ticket.running_limit or running < ticket.running_limit

    def _must_wait(self, line: _Line, ticket: Ticket) -> bool:
        return ticket.user_id in line.waiting or not self._may_run(ticket) or self._is_full(line)

    def _waiting_of(self, user_id: int) -> int:
        return sum(len(line.waiting.get(user_id, ())) for line in self._lines.values())

    def _next_turn(self) -> int:
        self._turns += 1
        return self._turns

    def _let_in(self, line: _Line) -> None:
        """Let run who may: the user with the fewest running, then who had no turn for longest."""
        while line.waiting and not self._is_full(line):
            able = [user for user, own in line.waiting.items() if self._may_run(own[0])]
            if not able:
                return
            user = min(able, key=lambda user: (self._running.get(user, 0), *self._turn(line, user)))
            ticket = line.waiting[user].popleft()
            self._tidy(line, user)
            self._served[user] = self._next_turn()
            line.running += 1
            self._running[user] = self._running.get(user, 0) + 1
            ticket.state = "running"
            ticket._answer(True)

    def _turn(self, line: _Line, user: int) -> tuple[int, int]:
        return self._served.get(user, 0), line.joined.get(user, self._turns + 1)

    def _tidy(self, line: _Line, user: int) -> None:
        if not line.waiting[user]:
            del line.waiting[user], line.joined[user]

    def _ahead(self, line: _Line, user: int, index: int) -> int:
        """How many come before the user's waiting answer number `index` (from 0), by the turns.

        The rounds are counted as if nothing that runs ended meanwhile.
        """
        if not self._slots(line.model):
            return index
        round_ = self._running.get(user, 0) + index
        key = index > 0, self._turn(line, user)
        ahead = index
        for other, tickets in line.waiting.items():
            if other != user:
                theirs = round_ - self._running.get(other, 0)
                ahead += min(len(tickets), max(0, theirs))
                same_round = 0 <= theirs < len(tickets)
                ahead += same_round and (theirs > 0, self._turn(line, other)) < key
        return ahead

    def _check_wait(self, line: _Line, ticket: Ticket) -> None:
        """Refuse what would wait for the model longer than anybody should; raises QueueFull."""
        longest, slots = self.settings.max_wait_seconds, self._slots(line.model)
        if not longest or not self._is_full(line) or not line.waiting:
            return
        ahead = self._ahead(line, ticket.user_id, len(line.waiting.get(ticket.user_id, ())))
        seconds = (ahead + 1) / line.pace.per_second(slots)
        if seconds > longest:
            raise QueueFull(
                retry_after_seconds=_advice(seconds - longest),
                expected_seconds=math.ceil(seconds),
            )

    def _expected(self, line: _Line, ticket: Ticket, *, index: int, ahead: int) -> int:
        seconds = 0.0
        if slots := self._slots(line.model):
            seconds = (ahead + 1) / line.pace.per_second(slots)
        if ticket.running_limit:
            places = ticket.running_limit
            over = self._running.get(ticket.user_id, 0) + index + 1 - places
            seconds = max(seconds, over * line.pace.typical_seconds / places)
        return max(1, math.ceil(seconds))

    def _own_wait(self, user_id: int, line: _Line, may: Allowance) -> int:
        """Seconds until about one of the user's own places is free."""
        first = line.waiting.get(user_id)
        if not first or not may.running:
            return _advice(line.pace.typical_seconds / max(1, may.running))
        ahead = self._ahead(line, user_id, 0)
        return _advice(self._expected(line, first[0], index=0, ahead=ahead))

    # What tickets ask for

    def _place(self, ticket: Ticket) -> Place | None:
        with self._lock:
            line = self._line(ticket.model)
            own = line.waiting.get(ticket.user_id, ())
            if ticket not in own:
                return None
            index = list(own).index(ticket)
            ahead = self._ahead(line, ticket.user_id, index)
            expected = self._expected(line, ticket, index=index, ahead=ahead)
            return Place(ahead + 1, expected)

    def _began(self, ticket: Ticket) -> None:
        with self._lock:
            ticket.began_at = self._now()
            self._let_in(self._line(ticket.model))

    def _leave(self, ticket: Ticket) -> None:
        with self._lock:
            if ticket.state == "left":
                return
            user, line = ticket.user_id, self._line(ticket.model)
            if ticket.state == "running":
                if ticket.began_at is not None:  # what was refused on the way says nothing
                    full = self._is_full(line)
                    line.pace.took(self._now() - ticket.began_at, all_taken=full)
                line.running -= 1
                self._running[user] -= 1
                if not self._running[user]:
                    del self._running[user]
            else:
                line.waiting[user].remove(ticket)
                self._tidy(line, user)
                ticket._answer(False)
            ticket.state = "left"
            self._total -= 1
            if user not in self._running and not self._waiting_of(user):
                self._served.pop(user, None)
            for other in self._lines.values():
                if other.waiting:
                    self._let_in(self._line(other.model))


def _advice(seconds: float) -> int:
    """Whole seconds to wait before the next try, within reason."""
    return min(LONGEST_ADVICE_SECONDS, max(1, math.ceil(seconds)))
