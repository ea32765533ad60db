"""Judges one event in well under a millisecond: the state, the rules, the model, the novelty.

The gravest layer decides. Without a model, with one that is refused, late or failing, the rules
decide alone and the decision says why. The state takes every event in, whatever is cached.
Scoring is safe from several threads. Knows no database and blocks nothing by itself.
"""

import logging
import time
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from math import log10
from typing import Any, NamedTuple

from chat_app.clock import MICROS_PER_SECOND, Clock
from chat_app.errors import AppError, Invalid
from chat_app.ml.fraud import events, features
from chat_app.ml.fraud.cache import Cache
from chat_app.ml.fraud.events import BadEvent, Event
from chat_app.ml.fraud.rules import HOLD, REVIEW, Finding, Rules, odd_hour
from chat_app.ml.fraud.rules import judge as judge_rules
from chat_app.ml.fraud.state import State, places
from chat_app.ml.fraud.turn import Turn
from chat_app.ml.rollout import Health, Rollout

log = logging.getLogger(__name__)

KIND = "fraud"
RULES_ONLY = "rules"
KILLED = "killed"
BUDGET_MICROS = 5000
RETRY_SECONDS = 600  # before a version that was refused is read again
FAILURES, FAILURE_SECONDS, OPEN_SECONDS = 5, 60, 60
RECENT = 4096
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
    `fallback_reason` says why. `bucket` is the user's place in a rollout; what a shadow would have
    said stands beside the decision and changes nothing.
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
    bucket: float | None = None
    shadow_version: str | None = None
    shadow_score: float | None = None


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


class Judge:
    """A version that is asked: what reads its rows, or why there is none, and how it does."""

    def __init__(
        self, version: str, clock: Clock, *, reader: Reader | None, why: str | None, rows: int = 0
    ) -> None:
        self.version = version
        self.reader = reader
        self.why = why
        self.novelty = rows >= NOVELTY_ROWS
        self.breaker = Breaker(clock)
        self.health = Health()
        self.read_at = clock.micros()


class _Panel(NamedTuple):
    """Who judges now, replaced as a whole."""

    main: Judge
    judges: Mapping[str, Judge]
    rollout: Rollout | None


class Engine:
    """Scores events with the versions of a registry, or with the rules alone.

    `registry` may be None or empty. The champion is loaded at once, and again by `refresh`;
    `follow` shares the users among versions instead, and asks a shadow that decides nothing.
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
        self.lock = Turn()
        self._costs = costs or Costs()
        self._panel = self._alone(self._nobody("no_model"))
        # As bytes: figures as Python's numbers take four times as much.
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._stopped: OrderedDict[str, None] = OrderedDict()
        if registry is not None:
            self.refresh()

    # -- what judges --------------------------------------------------------------------------

    @property
    def version(self) -> str:
        """The version that judges where no rollout says otherwise; `rules` without one."""
        return self._panel.main.version

    @property
    def breaker(self) -> Breaker:
        """The breaker of that version."""
        return self._panel.main.breaker

    @property
    def rollout(self) -> Rollout | None:
        """How the users are shared among versions; None where one judges everybody."""
        return self._panel.rollout

    @property
    def health(self) -> dict[str, Health]:
        """How each version did since it was loaded by this process."""
        return {name: judge.health for name, judge in self._panel.judges.items()}

    @property
    def refused(self) -> list[str]:
        """Versions that should judge and cannot be read."""
        return sorted(name for name, one in self._panel.judges.items() if one.reader is None)

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
        except AppError as error:
            log.error("the fraud model is not used: %s", error)
            self._sit(self._alone(self._nobody("model_refused")))
            return self.version
        if version is None:
            self._sit(self._alone(self._nobody("no_model")))
        elif version != self.version:
            self._sit(self._alone(self._load(version)))
        return self.version

    def use(self, model: Any, version: str) -> None:
        """Let this fitted model judge, without a registry; raises BadFrame for foreign columns."""
        self._sit(self._alone(self._made(model, version)))

    def follow(self, rollout: Rollout | None) -> bool:
        """Judge as the rollout says, the champion alone without one; whether anything changed.

        Loads what is not loaded yet; a version that cannot be read leaves its users to the rules.
        """
        before = self._panel
        if rollout is None:
            self.refresh()
            return self._panel is not before
        asked = {version for version, share in rollout.weights.items() if share > 0}
        asked |= {rollout.incumbent, *rollout.pins.values()}
        asked -= rollout.killed
        if rollout.shadow:
            asked.add(rollout.shadow)
        old = self._panel.judges if self._panel.rollout is not None else {}
        judges = {
            version: old[version] if self._still(old.get(version)) else self._load(version)
            for version in sorted(asked)
        }
        if rollout == before.rollout and all(old.get(one) is judges[one] for one in judges):
            return False
        main = None if rollout.incumbent in rollout.killed else judges.get(rollout.incumbent)
        main = main or self._nobody(KILLED)
        self._sit(_Panel(main, judges, rollout))
        return True

    def _still(self, judge: Judge | None) -> bool:
        """Whether a version that is loaded need not be read again."""
        if judge is None:
            return False
        waited = self.clock.micros() - judge.read_at
        return judge.reader is not None or waited < RETRY_SECONDS * MICROS_PER_SECOND

    def _champion(self) -> str | None:
        if self.registry is None:
            return None
        asked = getattr(self.registry, "champion", None)
        if asked is not None:
            version = asked(KIND)
            return None if version is None else str(version)
        listed = self.registry.list(KIND)
        return next((str(row.version) for row in listed if getattr(row, "champion", True)), None)

    def _load(self, version: str) -> Judge:
        try:
            return self._made(self.registry.load(KIND, version), version)
        except AppError as error:
            log.error("the fraud model is not used: %s", error)
            return self._nobody("model_refused")

    def _made(self, model: Any, version: str) -> Judge:
        reader = model.reader(features.NAMES)
        reader((0.0,) * len(features.NAMES))  # the first call is slow
        rows = int(model.report.get("rows", 0))
        return Judge(version, self.clock, reader=reader, why=None, rows=rows)

    def _nobody(self, why: str) -> Judge:
        return Judge(RULES_ONLY, self.clock, reader=None, why=why)

    @staticmethod
    def _alone(judge: Judge) -> _Panel:
        return _Panel(judge, {}, None)

    def _sit(self, panel: _Panel) -> None:
        self._panel = panel
        self.cache.clear()

    def _chosen(self, panel: _Panel, event: Event) -> tuple[Judge, float | None]:
        """Who judges this event, and the place of its user among the versions."""
        if panel.rollout is None:
            return panel.main, None
        found = panel.rollout.choose(event.tenant, event.user)
        judge = None if found.version is None else panel.judges.get(found.version)
        return judge or self._nobody(KILLED), found.bucket

    # -- judging ------------------------------------------------------------------------------

    def score(self, event: Mapping[str, Any] | Event) -> Decision:
        """Judge an event and take it into the state; an id seen of late is not taken in twice.

        Raises BadEvent for what is no event. Nothing else is raised: what fails is logged, and
        the decision's `fallback_reason` says so.
        """
        began = time.perf_counter_ns()
        read = event if isinstance(event, Event) else events.read(event)
        # One at a time to the end: threads that work at once would only take turns at the
        # interpreter, and be stopped for milliseconds in the middle.
        with self.lock:
            return self._score(read, began)

    def _score(self, read: Event, began: int) -> Decision:
        try:
            figures, content = self._take_in(read)
        except Exception:
            log.exception("an event could not be taken into the fraud state")
            return Decision(0.0, "allow", (), RULES_ONLY, "", fallback_reason="state_failed")
        panel = self._panel
        judge, place = self._chosen(panel, read)
        key = (judge.version, content)
        kept = self.cache.get(key)
        if kept is not None:
            spent = (time.perf_counter_ns() - began) // 1000
            return replace(kept, cached=True, latency_us=spent, bucket=place)
        decision = self._judge(judge, figures, content, began)
        decision = self._shadowed(panel, decision, figures)
        # What was judged while the versions changed is not kept for those who come after.
        if decision.fallback_reason == judge.why and panel is self._panel:
            self.cache.put(key, decision)
        return decision if place is None else replace(decision, bucket=place)

    def observe(self, event: Event) -> tuple[float, ...]:
        """The figures of an event, which the state takes in, once for each id."""
        with self.lock:
            return self._take_in(event)[0]

    def _take_in(self, event: Event) -> tuple[tuple[float, ...], bytes]:
        known = self._recent.get(event.id)
        if known is not None:
            return tuple(array("d", known)), known
        figures = tuple(features.observe(self.state, event))
        content = array("d", figures).tobytes()
        self._recent[event.id] = content
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        return figures, content

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
        judge, place = self._chosen(self._panel, read)
        found = self._judge(judge, figures, array("d", figures).tobytes(), began)
        return replace(found, bucket=place)

    def confirm(self, event: Mapping[str, Any] | Event, *, fraud: bool) -> None:
        """A label: everything the event touched carries its risk from now on."""
        read = event if isinstance(event, Event) else events.read(event)
        with self.lock:
            self.state.confirm(read, fraud)

    def _judge(
        self,
        judge: Judge,
        figures: tuple[float, ...],
        content: bytes,
        began: int,
    ) -> Decision:
        chance, novelty, why, micros = self._ask(judge, figures)
        points, layers = self._weigh(figures, chance, novelty)
        if judge.reader is not None and why != "breaker_open":
            judge.health.saw(chance, micros=micros, blocked=points >= HOLD)
        action = "hold" if points >= HOLD else "review" if points >= REVIEW else "allow"
        return Decision(
            score=round(points, 1),
            action=action,
            reasons=tuple(f"{layer.rule}: {layer.text}" for layer in layers if layer.text),
            model_version=RULES_ONLY if why else judge.version,
            features_hash=blake2b(content, digest_size=8).hexdigest(),
            fallback_reason=why,
            probability=chance,
            novelty=novelty,
            latency_us=(time.perf_counter_ns() - began) // 1000,
            features=figures,
        )

    def _weigh(
        self, figures: tuple[float, ...], chance: float | None, novelty: float | None
    ) -> tuple[float, list[Finding]]:
        """The points of the gravest layer, and all layers, the gravest first."""
        layers = list(judge_rules(figures, self.rules))
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
        return points, layers

    def _shadowed(
        self,
        panel: _Panel,
        decision: Decision,
        figures: tuple[float, ...],
    ) -> Decision:
        """The decision with what the shadow would have said; it changes nothing else."""
        name = panel.rollout.shadow if panel.rollout is not None else None
        shadow = panel.judges.get(name) if name else None
        if shadow is None or shadow.reader is None or shadow.version == decision.model_version:
            return decision
        chance, novelty, why, micros = self._ask(shadow, figures)
        if why == "breaker_open":
            return decision
        points, _ = self._weigh(figures, chance, novelty)
        shadow.health.saw(chance, micros=micros, blocked=points >= HOLD)
        if chance is None:
            return decision
        return replace(decision, shadow_version=shadow.version, shadow_score=round(points, 1))

    def _ask(
        self, judge: Judge, figures: tuple[float, ...]
    ) -> tuple[float | None, float | None, str | None, int]:
        """Probability and novelty by the model, or why there are none; µs of its own time."""
        reader = judge.reader
        if reader is None:
            return None, None, judge.why or "no_model", 0
        if judge.breaker.is_open:
            return None, None, "breaker_open", 0
        began = time.thread_time_ns()  # what others do with the processor is not its fault
        try:
            chance, novelty = reader(figures)
        except Exception:
            log.exception("the fraud model failed")
            judge.breaker.failed()
            return None, None, "model_failed", (time.thread_time_ns() - began) // 1000
        micros = (time.thread_time_ns() - began) // 1000
        if micros > self.budget_us:
            judge.breaker.failed()
            return None, None, "model_late", micros
        return chance, novelty if judge.novelty else None, None, micros

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


__all__ = ["BadCosts", "BadEvent", "Breaker", "Costs", "Decision", "Engine", "points_of"]
