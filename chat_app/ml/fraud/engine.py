"""Judges one event in well under a millisecond: the state, the rules, the model, the novelty.

The gravest layer decides. Without a model, with one that is refused, late or failing, the rules
decide alone and the decision says why. The state takes every event in, whatever is cached.
Scoring is safe from several threads. Knows no database and blocks nothing by itself.
"""

import logging
import threading
import time
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from math import log10
from typing import Any

from chat_app.clock import MICROS_PER_SECOND, Clock
from chat_app.errors import AppError, Invalid
from chat_app.ml.fraud import events, features
from chat_app.ml.fraud.cache import Cache
from chat_app.ml.fraud.events import BadEvent, Event
from chat_app.ml.fraud.rules import HOLD, REVIEW, Finding, Rules, judge, odd_hour
from chat_app.ml.fraud.state import State, places

log = logging.getLogger(__name__)

KIND = "fraud"
RULES_ONLY = "rules"
BUDGET_MICROS = 5000
FAILURES, FAILURE_SECONDS, OPEN_SECONDS = 5, 60, 60
RECENT = 16_384
NOVELTY_ROWS = 500  # rows that a forest has to know before its word counts
NOVELTY_MOST = 70.0  # what is only new is looked at, never held
ODD_WITH = 20.0  # points that another signal has before an odd hour adds to it

# What stands between a model and its row: the fewest calls.
Reader = Callable[[Any], tuple[float, float]]


class BadCosts(Invalid):
    """The costs of reviewing, of fraud and of blocking an honest person must be above zero."""

    code = "bad_fraud_costs"
    message = "Costs are numbers above zero. Correct them and send again."


@dataclass(frozen=True)
class Costs:
    """What a review costs, what fraud that goes through costs, and what a wrong block costs."""

    review: float = 1.0
    loss: float = 20.0
    false_block: float = 30.0

    def __post_init__(self) -> None:
        if not all(0 < value < 1e12 for value in (self.review, self.loss, self.false_block)):
            raise BadCosts

    @property
    def thresholds(self) -> tuple[float, float]:
        """The probabilities from which a review and a hold are worth their costs."""
        hold = self.false_block / (self.false_block + self.loss)
        return min(self.review / self.loss, hold * 0.999), hold


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with an event: `allow`, `review` (let it through, look later) or `hold`.

    `score` is from 0 to 100: from 50 it is reviewed, from 80 held. `reasons` begin with the name
    of a rule, `model` or `novelty`. `model_version` is `rules` when no model had a say, and then
    `fallback_reason` says why.
    """

    score: float
    action: str
    reasons: tuple[str, ...]
    model_version: str
    features_hash: str
    cached: bool = False
    fallback_reason: str | None = None
    probability: float | None = None
    novelty: float | None = None
    latency_us: int = 0
    features: tuple[float, ...] = field(default=(), repr=False)


class Breaker:
    """Opens for a minute after five failures in a minute; safe from several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: deque[int] = deque(maxlen=FAILURES)
        self._open_until = 0

    @property
    def is_open(self) -> bool:
        """Whether the model is left alone for now."""
        return self._clock.micros() < self._open_until

    def failed(self) -> None:
        """Note a failure of the model."""
        now = self._clock.micros()
        self._failures.append(now)
        window = FAILURE_SECONDS * MICROS_PER_SECOND
        if len(self._failures) == FAILURES and now - self._failures[0] <= window:
            self._open_until = now + OPEN_SECONDS * MICROS_PER_SECOND
            self._failures.clear()
            log.error("the fraud model failed %d times in a minute: rules decide", FAILURES)

    def reset(self) -> None:
        """Another model: begin anew."""
        self._failures.clear()
        self._open_until = 0


class Engine:
    """Scores events with the champion of a registry, or with the rules alone.

    `registry` may be None or empty. The champion is loaded at once, and again by `refresh`.
    """

    def __init__(
        self,
        registry: Any = None,
        clock: Clock | None = None,
        *,
        rules: Rules | None = None,
        costs: Costs | None = None,
        state: State | None = None,
        budget_us: int = BUDGET_MICROS,
    ) -> None:
        self.registry = registry
        self.budget_us = budget_us
        self.clock = clock or Clock()
        self.rules = rules or Rules()
        self.state = state or State()
        self.cache: Cache[Decision] = Cache(self.clock)
        self.breaker = Breaker(self.clock)
        self.version = RULES_ONLY
        self.lock = threading.Lock()
        self._costs = costs or Costs()
        self._why: str | None = "no_model"
        self._reader: Reader | None = None
        self._novelty = False
        self._recent: OrderedDict[str, tuple[float, ...]] = OrderedDict()
        self._stopped: OrderedDict[str, None] = OrderedDict()
        if registry is not None:
            self.refresh()

    # -- what judges --------------------------------------------------------------------------

    @property
    def costs(self) -> Costs:
        """What the thresholds rest on; setting them forgets cached judgements."""
        return self._costs

    @costs.setter
    def costs(self, costs: Costs) -> None:
        self._costs = costs
        self.cache.clear()

    def refresh(self) -> str:
        """Load the champion if it is another one than now; returns the version that judges.

        A model that is refused or unfit leaves the rules alone, and that is logged.
        """
        try:
            version = self._champion()
            if version is None:
                self._use(None, RULES_ONLY, "no_model")
            elif version != self.version:
                model = self.registry.load(KIND, version)
                self._use(model, version, None)
        except AppError as error:
            log.error("the fraud model is not used: %s", error)
            self._use(None, RULES_ONLY, "model_refused")
        return self.version

    def use(self, model: Any, version: str) -> None:
        """Let this fitted model judge, without a registry; raises BadFrame for foreign columns."""
        self._use(model, version, None)

    def _champion(self) -> str | None:
        if self.registry is None:
            return None
        asked = getattr(self.registry, "champion", None)
        if asked is not None:
            version = asked(KIND)
            return None if version is None else str(version)
        listed = self.registry.list(KIND)
        return next((str(row.version) for row in listed if getattr(row, "champion", True)), None)

    def _use(self, model: Any, version: str, why: str | None) -> None:
        reader = None if model is None else model.reader(features.NAMES)
        if reader is not None:
            reader(_row(array("d", [0.0] * len(features.NAMES))))  # the first call is slow
        known = 0 if model is None else int(model.report.get("rows", 0))
        self._reader, self._why = reader, why
        self._novelty = known >= NOVELTY_ROWS
        self.version = version
        self.breaker.reset()
        self.cache.clear()

    # -- judging ------------------------------------------------------------------------------

    def score(self, event: Mapping[str, Any] | Event) -> Decision:
        """Judge an event and take it into the state; an id seen of late is not taken in twice.

        Raises BadEvent for what is no event. Nothing else is raised: what fails is logged, and
        the decision's `fallback_reason` says so.
        """
        began = time.perf_counter_ns()
        read = event if isinstance(event, Event) else events.read(event)
        try:
            figures = self.observe(read)
        except Exception:
            log.exception("an event could not be taken into the fraud state")
            return Decision(0.0, "allow", (), RULES_ONLY, "", fallback_reason="state_failed")
        packed = array("d", figures)
        version = self.version
        key = (version, packed.tobytes())
        kept = self.cache.get(key)
        if kept is not None:
            spent = (time.perf_counter_ns() - began) // 1000
            return replace(kept, cached=True, latency_us=spent)
        decision = self._judge(figures, packed, key[1], began)
        if decision.fallback_reason in (None, self._why) and decision.model_version == version:
            self.cache.put(key, decision)
        return decision

    def observe(self, event: Event) -> tuple[float, ...]:
        """The figures of an event, which the state takes in, once for each id."""
        with self.lock:
            found = self._recent.get(event.id)
            if found is None:
                found = tuple(features.observe(self.state, event))
                self._recent[event.id] = found
                if len(self._recent) > RECENT:
                    self._recent.popitem(last=False)
            return found

    def refuse(self, event: Mapping[str, Any] | Event) -> None:
        """What was judged was stopped: the state knows, once for each id, that nothing moved."""
        read = event if isinstance(event, Event) else events.read(event)
        with self.lock:
            if read.id not in self._stopped:
                self.state.refuse(read)
                self._stopped[read.id] = None
                if len(self._stopped) > RECENT:
                    self._stopped.popitem(last=False)

    def recent(self, most: int) -> list[str]:
        """The newest ids that the state took in; the caller holds the lock."""
        return list(self._recent)[-most:]

    def peek(self, event: Mapping[str, Any] | Event) -> Decision:
        """Judge an event that has not happened yet: the state stays as it is."""
        began = time.perf_counter_ns()
        read = event if isinstance(event, Event) else events.read(event)
        touched = [*places(read), ("tenant", read.tenant)]
        with self.lock:
            state = self.state
            before = [(kind, key, state.find(kind, key)) for kind, key in touched]
            kept = [(kind, key, part and part.dump()) for kind, key, part in before]
            kept = deepcopy(kept)
            fresh = [mark for mark in touched if mark not in state.touched]
            figures = tuple(features.observe(state, read))
            for kind, key, values in kept:
                state.parts[kind].pop(key, None)
                if values is not None:
                    state.put(kind, key, values)
            state.touched.difference_update(fresh)
        packed = array("d", figures)
        return self._judge(figures, packed, packed.tobytes(), began)

    def confirm(self, event: Mapping[str, Any] | Event, *, fraud: bool) -> None:
        """A label: everything the event touched carries its risk from now on."""
        read = event if isinstance(event, Event) else events.read(event)
        with self.lock:
            self.state.confirm(read, fraud)

    def _judge(
        self, figures: tuple[float, ...], packed: "array[float]", content: bytes, began: int
    ) -> Decision:
        found = judge(figures, self.rules)
        chance, novelty, why = self._ask(packed)
        layers = list(found)
        if chance is not None:
            layers += self._model_says(chance)
        if novelty is not None:
            layers += _novelty_says(novelty)
        points = max((layer.points for layer in layers), default=0.0)
        if points >= ODD_WITH:
            odd = odd_hour(figures, self.rules)
            if odd is not None:
                layers.append(odd)
                # It tips nothing into a hold that was none.
                points = min(points + odd.points, max(points, HOLD - 1.0))
        layers.sort(key=lambda layer: -layer.points)
        action = "hold" if points >= HOLD else "review" if points >= REVIEW else "allow"
        return Decision(
            score=round(points, 1),
            action=action,
            reasons=tuple(f"{layer.rule}: {layer.text}" for layer in layers if layer.text),
            model_version=RULES_ONLY if why else self.version,
            features_hash=blake2b(content, digest_size=8).hexdigest(),
            fallback_reason=why,
            probability=chance,
            novelty=novelty,
            latency_us=(time.perf_counter_ns() - began) // 1000,
            features=figures,
        )

    def _ask(self, packed: "array[float]") -> tuple[float | None, float | None, str | None]:
        """Probability and novelty by the model, or why there are none."""
        reader = self._reader
        if reader is None:
            return None, None, self._why or "no_model"
        if self.breaker.is_open:
            return None, None, "breaker_open"
        began = time.perf_counter_ns()
        try:
            chance, novelty = reader(_row(packed))
        except Exception:
            log.exception("the fraud model failed")
            self.breaker.failed()
            return None, None, "model_failed"
        if time.perf_counter_ns() - began > self.budget_us * 1000:
            self.breaker.failed()
            return None, None, "model_late"
        return chance, novelty if self._novelty else None, None

    def _model_says(self, chance: float) -> list[Finding]:
        points = points_of(chance, self._costs)
        text = f"{chance:.0%} likely to be fraud" if points >= ODD_WITH else ""
        return [Finding("model", points, text)]


def points_of(chance: float, costs: Costs) -> float:
    """A probability as points: 50 where a review begins to pay, 80 where a hold does."""
    review, hold = costs.thresholds
    if chance < review:
        return REVIEW * chance / review
    if chance < hold:
        return REVIEW + (HOLD - REVIEW) * (chance - review) / (hold - review)
    return HOLD + (100.0 - HOLD) * (chance - hold) / (1.0 - hold)


def _novelty_says(tail: float) -> list[Finding]:
    rare = -log10(max(tail, 1e-6))  # 3: one in a thousand usual events is as odd
    points = min(NOVELTY_MOST, 15.0 * rare if rare < 2 else 30.0 + 20.0 * (rare - 2))
    text = f"as odd as {tail:.2%} of all events" if points >= ODD_WITH else ""
    return [Finding("novelty", points, text)]


def _row(packed: "array[float]") -> Any:
    import numpy as np

    return np.frombuffer(packed, dtype=np.float64)


__all__ = ["BadCosts", "BadEvent", "Breaker", "Costs", "Decision", "Engine", "points_of"]
