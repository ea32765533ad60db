"""Rules: when a figure of the machine is a fault, and whether it began or ended just now.

A fault begins when its figure was beyond the threshold for long enough, and ends when it was
clearly back for as long: a figure that trembles around its threshold is one fault, not many.
Durations are of a clock that never jumps. Pure steps over numbers; who is told is not known here.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from chat_app.errors import Invalid, NotFound

CHANNELS = ("mail", "app", "webhook")
# A fault must be gone for this long at most before it counts as ended.
LONGEST_CLEAR_SECONDS = 120
MAX_FOR_SECONDS = 24 * 3600
GB = 1e9


class UnknownRule(NotFound):
    """There is no such rule."""

    code = "unknown_rule"
    message = "There is no such rule. Reload the list of rules."


class BadRule(Invalid):
    """A threshold or a duration that cannot be meant, or a channel that does not exist."""

    code = "invalid_rule"
    message = (
        "A threshold is a number from 0 on, a duration 0 to 86400 seconds, a channel mail, app or "
        "webhook. Correct it and save again."
    )


@dataclass(frozen=True)
class Rule:
    """Figure `metric` is at fault beyond `threshold` for `for_seconds`.

    `clear` times the threshold is where it is well again. A `shared` fault is the whole
    installation's, another one that of a process or a machine. `advice` is the next step.
    """

    name: str
    title: str
    metric: str
    threshold: float
    for_seconds: int
    unit: str
    advice: str
    above: bool = True
    clear: float = 0.9
    level: Literal["warn", "bad"] = "warn"
    shared: bool = False
    enabled: bool = True
    channels: tuple[str, ...] = CHANNELS

    def beyond(self, value: float) -> bool:
        """Whether the value is at fault."""
        return value > self.threshold if self.above else value < self.threshold

    def well(self, value: float) -> bool:
        """Whether the value is clearly not at fault."""
        edge = self.threshold * self.clear
        return value <= edge if self.above else value >= edge

    @property
    def clear_seconds(self) -> int:
        """How long it must be well."""
        return min(self.for_seconds, LONGEST_CLEAR_SECONDS)

    def sentence(self, value: float) -> str:
        """What is seen now, in words."""
        way = "above" if self.above else "below"
        lasted = f" for {_span(self.for_seconds)}" if self.for_seconds else ""
        limit = f" ({way} {shown(self.threshold, self.unit)}{lasted})" if self.unit else ""
        return f"{self.title}: {shown(value, self.unit)}{limit}."


USUAL: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("disk_low", "Little room on the disk", "disk.free_bytes", 1 * GB, 60, "GB",
             "Make room on the disk of the data directory. Below 200 MB no answer is taken.",
             above=False, clear=1.2, level="bad"),
        Rule("memory_high", "Memory almost full", "memory.percent", 92, 120, "%",
             "Unload a model or free memory under Monitoring, or take a smaller model.",
             clear=0.96),
        Rule("gpu_missing", "A GPU has gone", "gpu.missing", 0, 60, "GPUs",
             "Look at nvidia-smi and the kernel's log, then restart the machine. If it was taken "
             "out on purpose, set monitor.gpus."),
        Rule("loop_lag", "The server answers late", "loop.lag_ms", 500, 60, "ms",
             "Something holds the event loop up. Look at the processor and at slow lines in the "
             "log; a restart helps for the moment."),
        Rule("error_rate", "Many requests fail", "http.failed_percent", 1, 300, "%",
             "Search the log for lines of level error; each has the request's id.", level="bad"),
        Rule("queue_wait", "People wait in line", "engine.queue_ms_p95", 10_000, 120, "ms",
             "Lower limits.running_per_user, use a smaller model, or add a machine."),
        Rule("queue_full", "Almost all places are taken", "engine.places_percent", 80, 300, "%",
             "New messages are refused when all are taken. Add capacity or raise "
             "limits.queue_total."),
        Rule("first_token_slow", "First words come late", "engine.ttft_ms_p95", 15_000, 600, "ms",
             "Prompts are long or the model is slow. See GET /api/performance/analysis."),
        Rule("model_down", "A model is broken", "engine.models_broken", 0, 30, "models",
             "See its reason under Overview, Models. It is tried again by itself."),
        Rule("engine_down", "No model can answer", "engine.down", 0, 60, "",
             "Download a model, or look at the reasons under Overview, Models.", level="bad"),
        Rule("database_slow", "The books are written slowly", "db.wait_ms_p95", 1000, 60, "ms",
             "Look at the disk's speed and at what else writes to it.", clear=0.7),
        Rule("database_down", "The books cannot be written", "db.down", 0, 20, "",
             "Check the database server, its disk and its rights. No answer is taken meanwhile.",
             level="bad", shared=True),
        Rule("redis_lost", "Redis is lost", "redis.lost", 0, 30, "",
             "Start it again. Until then each process counts limits for itself, and answers of "
             "another process are followed through the database, with a delay."),
        Rule("ledger_wrong", "The proof of the books failed", "ledger.problems", 0, 0, "problems",
             "Run python -m chat_app verify and keep its output before you change anything.",
             level="bad", shared=True),
        Rule("proof_old", "The books were not proven lately", "ledger.proof_hours", 50, 0, "hours",
             "The job 'prove the books' does it daily. Look at the state of the jobs.",
             shared=True, clear=0.8),
        Rule("hold_old", "A hold stays open", "ledger.hold_oldest_seconds", 900, 60, "s",
             "The sweeper ends overdue holds within a minute. Look at the state of the jobs.",
             shared=True),
        Rule("backup_old", "The newest backup is old", "backup.age_hours", 26, 0, "hours",
             "Make one now with python -m chat_app backup, and look why none was made.",
             shared=True, clear=0.9),
        Rule("job_failing", "A background job fails", "jobs.failing", 0, 300, "jobs",
             "The log has the reason; search it for the job's name.", shared=True),
        Rule("mail_dead", "Mails were given up", "mail.dead", 0, 0, "mails",
             "Look under Messages, mend the mail settings, and send them again.", shared=True,
             channels=("app", "webhook")),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """What an operator changed of a rule."""

    enabled: bool | None = None
    threshold: float | None = None
    for_seconds: int | None = None
    channels: tuple[str, ...] | None = None


def changed(rule: Rule, change: Change) -> Rule:
    """The rule with the change; raises BadRule."""
    given = {
        name: value
        for name in ("enabled", "threshold", "for_seconds", "channels")
        if (value := getattr(change, name)) is not None
    }
    made = replace(rule, **given)
    if not 0 <= made.threshold <= 1e15:
        raise BadRule(param="threshold")
    if not 0 <= made.for_seconds <= MAX_FOR_SECONDS:
        raise BadRule(param="for_seconds")
    if not set(made.channels) <= set(CHANNELS):
        raise BadRule(param="channels")
    return made


@dataclass
class State:
    """How a rule stands. `since` is when its figure crossed over, on a clock that never jumps."""

    raised: bool = False
    since: float | None = None
    value: float | None = None


def step(rule: Rule, state: State, value: float | None, *, now: float) -> bool | None:
    """Judge one value: True when a fault began just now, False when it ended, else None.

    A value of None is unknown: nothing begins or ends by it, and what was on its way starts anew.
    """
    if value is None:
        state.since = None
        return None
    state.value = value
    crossing = rule.well(value) if state.raised else rule.beyond(value)
    if not crossing:
        state.since = None
        return None
    if state.since is None:
        state.since = now
    if now - state.since < (rule.clear_seconds if state.raised else rule.for_seconds):
        return None
    state.raised, state.since = not state.raised, None
    return state.raised


@dataclass
class Judge:
    """All rules with their states. `place` is empty for what is the whole installation's."""

    place: str
    rules: dict[str, Rule] = field(default_factory=lambda: dict(USUAL))
    states: dict[str, State] = field(default_factory=dict)

    def place_of(self, rule: Rule) -> str:
        """Whose fault it is."""
        return "" if rule.shared else self.place

    def look(self, values: dict[str, float], *, now: float) -> list[tuple[Rule, bool, float]]:
        """The rules whose fault began (True) or ended (False) with these values."""
        edges = []
        for rule in self.rules.values():
            state = self.states.setdefault(rule.name, State())
            if not rule.enabled:
                if state.raised:  # nobody wants to know any more
                    edges.append((rule, False, state.value or 0.0))
                self.states[rule.name] = State()
                continue
            edge = step(rule, state, values.get(rule.metric), now=now)
            if edge is not None:
                edges.append((rule, edge, state.value or 0.0))
        return edges


def shown(value: float, unit: str) -> str:
    """A value with its unit, for people."""
    if unit == "GB":
        return f"{value / GB:.2f} GB"
    if unit == "ms" and value >= 1000:
        return f"{value / 1000:.1f} s"
    figure = f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.1f}"
    if unit in ("%", ""):
        return f"{figure}{' %' if unit else ''}"
    return f"{figure} {unit.removesuffix('s') if value == 1 and unit not in ('ms', 's') else unit}"


def _span(seconds: int) -> str:
    if seconds % 60 or seconds < 60:
        return f"{seconds} s"
    return f"{seconds // 60} min"
