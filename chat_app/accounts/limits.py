"""Limits: how often somebody may ask, and how many answers may be under way.

Kept in memory, exact, and safe from any thread and event loop. A limit of 0 is no limit.
Knows nothing of models, money or the database.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Literal

from chat_app.errors import TooMany
from chat_app.settings import Limits as LimitSettings

MINUTE_SECONDS = 60.0
LOGIN_WINDOW_SECONDS = 15 * 60.0
SIGNUP_WINDOW_SECONDS = 3600.0
# An address may belong to many people: it gets this many times what a user gets.
CODES_PER_ADDRESS = 5
TRANSFER_WINDOW_SECONDS = 3600.0
# What an answer is thought to take until some have been seen, and how fast that is unlearned.
FIRST_GUESS_SECONDS = 5.0
LEARNING_RATE = 0.2
LONGEST_ADVICE_SECONDS = 120
_SWEEP_EVERY = 1024


class RateLimited(TooMany):
    """Too many messages of one user in a minute."""

    code = "rate_limited"
    message = "You are sending messages very fast. Wait a moment and send it again."


class TooManyAnswers(TooMany):
    """The user has as many answers running and waiting as one user may have."""

    code = "too_many_answers"
    message = "Your earlier answers are still being written. Wait for one of them or stop it."


class QueueFull(TooMany):
    """All users together have as many answers running and waiting as are accepted."""

    code = "queue_full"
    message = "Everybody is busy here right now and nothing was charged. Try again in a moment."


class TooManySignUps(TooMany):
    """Too many new accounts from one address."""

    code = "too_many_sign_ups"
    message = "Too many accounts were created from this address. Try again later."


class TooManyResets(TooMany):
    """Too many new passwords asked for from one address."""

    code = "too_many_resets"
    message = "Too many new passwords were asked for from this address. Try again later."


class TooManySignIns(TooMany):
    """Too many failed sign-ins of one account from one address."""

    code = "too_many_sign_ins"
    message = "Too many failed sign-ins. Wait some minutes and try again."


class TooManyCodes(TooMany):
    """Too many wrong redemption codes of one user or from one address."""

    code = "too_many_codes"
    message = "Too many wrong codes. Wait some minutes and try again."


class TooManyTransfers(TooMany):
    """Too many movements of credits by one user in an hour."""

    code = "too_many_transfers"
    message = "You have moved credits very often in the last hour. Try again later."


class Window:
    """At most `limit` events of a key in any `seconds`: exact, not per calendar minute."""

    def __init__(self, limit: int, seconds: float, now: Callable[[], float]) -> None:
        self.limit = limit
        self.seconds = seconds
        self._now = now
        self._lock = threading.Lock()
        self._events: dict[object, deque[float]] = {}
        self._taken = 0

    def take(self, key: object) -> float:
        """Count an event and return 0, or return the seconds until one would be accepted."""
        if not self.limit:
            return 0.0
        with self._lock:
            now = self._now()
            self._sweep(now)
            events = self._events.setdefault(key, deque())
            self._drop_old(events, now)
            if len(events) >= self.limit:
                return max(0.001, events[0] + self.seconds - now)
            events.append(now)
            return 0.0

    def give_back(self, key: object) -> None:
        """Forget the newest event of the key: it turned out not to count."""
        with self._lock:
            events = self._events.get(key)
            if events:
                events.pop()

    def clear(self, key: object) -> None:
        """Forget all events of the key."""
        with self._lock:
            self._events.pop(key, None)

    def _drop_old(self, events: deque[float], now: float) -> None:
        while events and events[0] <= now - self.seconds:
            events.popleft()

    def _sweep(self, now: float) -> None:
        self._taken += 1
        if self._taken % _SWEEP_EVERY:
            return
        for key in list(self._events):
            self._drop_old(self._events[key], now)
            if not self._events[key]:
                del self._events[key]


class Ticket:
    """One answer's place: first waiting, then running, then left."""

    def __init__(self, limits: "Limits", user_id: int) -> None:
        self.user_id = user_id
        self.state: Literal["waiting", "running", "left"] = "waiting"
        self.running_since = 0.0
        self._limits = limits
        self._turn: Future[bool] = Future()

    async def turn(self) -> bool:
        """Wait until this answer may run; False when the ticket was given back instead.

        A cancelled wait keeps the place: the owner of the ticket calls `leave`.
        """
        return await asyncio.shield(asyncio.wrap_future(self._turn))

    def leave(self) -> None:
        """Give the place back, to the user's next waiting answer. Idempotent."""
        self._limits._leave(self)

    def _answer(self, may_run: bool) -> None:
        if self._turn.set_running_or_notify_cancel():
            self._turn.set_result(may_run)


class Limits:
    """All limits of one program. `now` gives seconds that never go backwards."""

    def __init__(
        self, settings: LimitSettings, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings = settings
        self._now = now
        self._messages = Window(settings.requests_per_minute, MINUTE_SECONDS, now)
        self._signups = Window(settings.registrations_per_hour_per_ip, SIGNUP_WINDOW_SECONDS, now)
        self._resets = Window(settings.resets_per_hour_per_ip, SIGNUP_WINDOW_SECONDS, now)
        self._transfers = Window(settings.transfers_per_hour, TRANSFER_WINDOW_SECONDS, now)
        self._logins = Window(settings.login_failures_per_15_minutes, LOGIN_WINDOW_SECONDS, now)
        codes = settings.code_failures_per_15_minutes
        self._codes = Window(codes, LOGIN_WINDOW_SECONDS, now)
        self._codes_from = Window(codes * CODES_PER_ADDRESS, LOGIN_WINDOW_SECONDS, now)
        self._lock = threading.Lock()
        self._running: dict[int, list[Ticket]] = {}
        self._waiting: dict[int, deque[Ticket]] = {}
        self._total = 0
        self._typical_seconds = FIRST_GUESS_SECONDS

    # Messages

    def check_rate(self, user_id: int) -> None:
        """Count a message of the user; raises RateLimited when the minute is full."""
        wait = self._messages.take(user_id)
        if wait:
            raise RateLimited(retry_after_seconds=math.ceil(wait))

    def check_transfers(self, user_id: int) -> None:
        """Count a movement of credits by the user; raises TooManyTransfers when it is one more
        than an hour has. Many tiny lots would make each message of who gets them dear.
        """
        wait = self._transfers.take(user_id)
        if wait:
            raise TooManyTransfers(retry_after_seconds=math.ceil(wait))

    def enter(self, user_id: int) -> Ticket:
        """A place for one answer, running at once or waiting behind the user's others.

        Raises TooManyAnswers when the user has no place left, QueueFull when nobody has.
        Whoever gets a ticket calls `leave` on it, whatever happens.
        """
        limit = self.settings
        with self._lock:
            running = self._running.get(user_id, [])
            waiting = self._waiting.get(user_id, deque())
            must_wait = bool(limit.running_per_user) and (
                bool(waiting) or len(running) >= limit.running_per_user
            )
            if must_wait and limit.waiting_per_user and len(waiting) >= limit.waiting_per_user:
                raise TooManyAnswers(retry_after_seconds=self._advice(1))
            if limit.queue_total and self._total >= limit.queue_total:
                raise QueueFull(retry_after_seconds=self._advice(1))
            ticket = Ticket(self, user_id)
            self._total += 1
            if must_wait:
                self._waiting.setdefault(user_id, deque()).append(ticket)
            else:
                self._run(ticket)
            return ticket

    def admit_message(self, user_id: int) -> Ticket:
        """`check_rate` and `enter` in one step."""
        self.check_rate(user_id)
        return self.enter(user_id)

    def position(self, ticket: Ticket) -> int:
        """How many answers of the same user come first, plus one; 0 when it may run."""
        with self._lock:
            waiting = self._waiting.get(ticket.user_id, deque())
            return waiting.index(ticket) + 1 if ticket in waiting else 0

    def counts(self, user_id: int | None = None) -> tuple[int, int]:
        """Answers running and waiting, of one user or of all."""
        with self._lock:
            if user_id is not None:
                return (
                    len(self._running.get(user_id, [])),
                    len(self._waiting.get(user_id, deque())),
                )
            running = sum(len(tickets) for tickets in self._running.values())
            return running, self._total - running

    # Sign-up and sign-in

    def admit_sign_up(self, ip: str) -> None:
        """Count a new account from this address; raises TooManySignUps."""
        wait = self._signups.take(ip)
        if wait:
            raise TooManySignUps(retry_after_seconds=math.ceil(wait))

    def undo_sign_up(self, ip: str) -> None:
        """The account did not come about after all."""
        self._signups.give_back(ip)

    def admit_reset(self, ip: str) -> None:
        """Count a new password asked for from this address; raises TooManyResets."""
        wait = self._resets.take(ip)
        if wait:
            raise TooManyResets(retry_after_seconds=math.ceil(wait))

    def admit_sign_in(self, account: str, ip: str) -> None:
        """Count an attempt as failed until it succeeds; raises TooManySignIns.

        Counting before the password is looked at leaves no gap for parallel guesses. The key
        is account and address together, so nobody can lock another person out.
        """
        wait = self._logins.take((account, ip))
        if wait:
            raise TooManySignIns(retry_after_seconds=math.ceil(wait))

    def undo_sign_in(self, account: str, ip: str) -> None:
        """The attempt was never judged, for example because the program was too busy."""
        self._logins.give_back((account, ip))

    def signed_in(self, account: str, ip: str) -> None:
        """The password was right: earlier failures are forgotten."""
        self._logins.clear((account, ip))

    # Redemption codes

    def admit_code(self, user_id: int, ip: str) -> None:
        """Count a code as wrong until it turns out to be right; raises TooManyCodes."""
        wait = self._codes.take(user_id)
        if not wait:
            wait = self._codes_from.take(ip)
            if wait:
                self._codes.give_back(user_id)
        if wait:
            raise TooManyCodes(retry_after_seconds=math.ceil(wait))

    def undo_code(self, user_id: int, ip: str) -> None:
        """The code was right."""
        self._codes.give_back(user_id)
        self._codes_from.give_back(ip)

    # Inside

    def _run(self, ticket: Ticket) -> None:
        ticket.state = "running"
        ticket.running_since = self._now()
        self._running.setdefault(ticket.user_id, []).append(ticket)
        ticket._answer(True)

    def _leave(self, ticket: Ticket) -> None:
        with self._lock:
            if ticket.state == "left":
                return
            user = ticket.user_id
            if ticket.state == "running":
                self._remove(self._running, ticket)
                took = self._now() - ticket.running_since
                self._typical_seconds += LEARNING_RATE * (took - self._typical_seconds)
                if user in self._waiting:
                    following = self._waiting[user][0]
                    self._remove(self._waiting, following)
                    self._run(following)
            else:
                self._remove(self._waiting, ticket)
                ticket._answer(False)
            ticket.state = "left"
            self._total -= 1

    def _remove(
        self, places: dict[int, list[Ticket]] | dict[int, deque[Ticket]], ticket: Ticket
    ) -> None:
        places[ticket.user_id].remove(ticket)
        if not places[ticket.user_id]:
            del places[ticket.user_id]

    def _advice(self, answers: int) -> int:
        """Seconds until about `answers` places are free, judged by recent answers."""
        return min(LONGEST_ADVICE_SECONDS, max(1, math.ceil(self._typical_seconds * answers)))
