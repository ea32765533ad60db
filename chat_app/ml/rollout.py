"""Which version answers whom: shares by hash, tenants pinned, a kill switch, a way back by itself.

A subject's place in [0, 1) hangs on the experiment, the tenant and the subject alone, and the
ranges stand in the order of the weights, the newcomer first at [0, w): raising its share moves
people to it and nobody away from it, lowering it moves people back to where they were. Pins beat
weights; a killed version is given to nobody, whoever was pinned to it. Knows no model.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from chat_app.errors import Invalid

SUM_WITHIN = 1e-6
# When a newcomer goes by itself, and how many answers that needs.
LEAST_CALLS = 200
MOST_ERRORS = 0.01
MOST_P99_MICROS = 5_000
MOST_PSI = 0.25
MOST_BLOCKED = 2.0
MANY_BLOCKED = 10  # blocked answers of the newcomer below which doubling is chance
KEPT_SCORES = 5_000


class BadRollout(Invalid):
    """Weights that are no shares, or names that are none; the sentence says which."""

    code = "bad_rollout"
    message = "These weights are no shares that sum to 1. Correct them, the newcomer first."


@dataclass(frozen=True)
class Assignment:
    """Who answers: the version (None: no model, the rules), the bucket, and what decided it.

    `why` is `weight`, `pin` or `killed`. The bucket is stored with what was answered.
    """

    version: str | None
    bucket: float
    why: str


def bucket(experiment: str, tenant: str, subject: object) -> float:
    """The subject's place in [0, 1), the same on every machine and for ever."""
    text = f"{experiment}:{tenant}:{subject}".encode()
    number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
    return (number >> 11) / 2**53  # the highest 53 bits: exact, and below 1


def assign(
    experiment: str,
    tenant: str,
    subject: object,
    weights: Mapping[str, float],
    pins: Mapping[str, str] = {},
) -> str:
    """The version that answers this subject. `weights` sum to 1, the newcomer first.

    `pins` map tenants to versions and win. Raises BadRollout.
    """
    checked(weights, pins)
    pinned = pins.get(tenant)
    return pinned if pinned is not None else _at(weights, bucket(experiment, tenant, subject))


def checked(weights: Mapping[str, float], pins: Mapping[str, str] = {}) -> None:
    """Raise BadRollout, with the name, for what is no rollout."""
    if not isinstance(weights, Mapping) or not weights:
        raise BadRollout("There are no weights. Give each version its share, the newcomer first.")
    for version, share in weights.items():
        if not isinstance(version, str) or not version:
            raise BadRollout("A version has no name. Name each version.")
        number = isinstance(share, int | float) and not isinstance(share, bool)
        if not number or not math.isfinite(share) or not 0 <= share <= 1:
            raise BadRollout(
                f"The weight of {version} is {share!r}. Give a share from 0 to 1.", version=version
            )
    total = math.fsum(weights.values())
    if abs(total - 1) > SUM_WITHIN:
        raise BadRollout(f"The weights sum to {total:g}, not to 1. Correct them.", sum=total)
    if not isinstance(pins, Mapping):
        raise BadRollout("pins map tenants to versions. Give them as such.")
    for tenant, version in pins.items():
        if not isinstance(version, str) or not version:
            raise BadRollout(f"The tenant {tenant} is pinned to no version. Name one.")


def _at(weights: Mapping[str, float], place: float) -> str:
    reached = 0.0
    last = ""
    for version, share in weights.items():
        if share > 0:
            last = version
            reached += share
            if place < reached:
                return version
    return last  # the sum of floats may end a hair below 1


@dataclass(frozen=True)
class Rollout:
    """How the versions of one model share its subjects. Each change is a new value.

    `weights` as for `assign`; the last is the incumbent. `shadow` scores beside the answer and
    decides nothing. `killed` are versions that answer nobody.
    """

    experiment: str
    weights: Mapping[str, float]
    pins: Mapping[str, str] = field(default_factory=dict)
    shadow: str | None = None
    killed: frozenset[str] = frozenset()
    reason: str = ""

    def __post_init__(self) -> None:
        checked(self.weights, self.pins)

    @property
    def incumbent(self) -> str:
        """The version that everybody goes back to."""
        return list(self.weights)[-1]

    @property
    def newcomer(self) -> str | None:
        """The version that is being brought in; None where one version has it all."""
        first = next(iter(self.weights))
        return first if first != self.incumbent else None

    def choose(self, tenant: str, subject: object) -> Assignment:
        """Who answers this subject. A killed version's subjects go to the next that stands."""
        place = bucket(self.experiment, tenant, subject)
        pinned = self.pins.get(tenant)
        wanted = pinned if pinned is not None else _at(self.weights, place)
        if wanted not in self.killed:
            return Assignment(wanted, place, "weight" if pinned is None else "pin")
        standing = [version for version in self.weights if version not in self.killed]
        return Assignment(standing[-1] if standing else None, place, "killed")

    def introduce(self, version: str, share: float = 0.0) -> "Rollout":
        """Bring a newcomer in; whoever was one before is out, the incumbent has the rest."""
        if version == self.incumbent:
            raise BadRollout("This version has it all already. Bring in another one.")
        weights = {version: share, self.incumbent: 1 - share}
        killed = self.killed - {version}
        return replace(self, weights=weights, killed=killed, shadow=None, reason="")

    def ramp(self, share: float) -> "Rollout":
        """Give the newcomer another share. Raises BadRollout where there is none."""
        if self.newcomer is None:
            raise BadRollout("There is no newcomer whose share could change. Introduce one.")
        return replace(self, weights={self.newcomer: share, self.incumbent: 1 - share}, reason="")

    def promote(self) -> "Rollout":
        """The newcomer has it all, and becomes the incumbent."""
        if self.newcomer is None:
            raise BadRollout("There is no newcomer that could be promoted. Introduce one.")
        return replace(self, weights={self.newcomer: 1.0}, shadow=None, reason="")

    def kill(self, version: str, reason: str = "") -> "Rollout":
        """Take a version out at once, also where it is pinned."""
        return replace(self, killed=self.killed | {version}, reason=reason)

    def roll_back(self, reason: str) -> "Rollout":
        """Take the newcomer out and say why."""
        return self if self.newcomer is None else self.kill(self.newcomer, reason)

    def to_params(self) -> dict[str, Any]:
        """Plain JSON; the order of the weights is kept as a list."""
        return {
            "experiment": self.experiment,
            "weights": [[version, share] for version, share in self.weights.items()],
            "pins": dict(self.pins),
            "shadow": self.shadow,
            "killed": sorted(self.killed),
            "reason": self.reason,
        }

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Rollout":
        """What `to_params` wrote."""
        return cls(
            params["experiment"], dict(params["weights"]),
            dict(params["pins"]), params["shadow"], frozenset(params["killed"]), params["reason"],
        )  # fmt: skip


@dataclass
class Health:
    """What one version has done lately. Times in microseconds; scores are probabilities."""

    calls: int = 0
    errors: int = 0
    blocked: int = 0
    micros: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def saw(self, score: float | None, *, micros: int, blocked: bool = False) -> None:
        """One answer; `score` is None where the version failed."""
        self.calls += 1
        self.errors += score is None
        self.blocked += blocked
        _keep(self.micros, micros)
        if score is not None:
            _keep(self.scores, score)

    @property
    def p99(self) -> int:
        """The 99th percentile of the times that are kept; 0 without any."""
        ordered = sorted(self.micros)
        return ordered[math.ceil(0.99 * len(ordered)) - 1] if ordered else 0


def judge(newcomer: Health, incumbent: Health) -> str | None:
    """Why the newcomer has to go, in a sentence; None where it may stay or it is too early."""
    if newcomer.calls < LEAST_CALLS:
        return None
    errors = newcomer.errors / newcomer.calls
    if errors > MOST_ERRORS:
        return f"{100 * errors:.1f} % of its answers failed."
    if newcomer.p99 > MOST_P99_MICROS:
        return f"One in a hundred answers took {newcomer.p99 / 1000:.1f} ms or more."
    return _compared(newcomer, incumbent) if incumbent.calls >= LEAST_CALLS else None


def _compared(newcomer: Health, incumbent: Health) -> str | None:
    share, usual = newcomer.blocked / newcomer.calls, incumbent.blocked / incumbent.calls
    if newcomer.blocked >= MANY_BLOCKED and share > MOST_BLOCKED * usual:
        return f"It stops {100 * share:.1f} %, the incumbent {100 * usual:.1f} %."
    moved = _psi(incumbent.scores, newcomer.scores)
    if moved > MOST_PSI:
        return f"Its scores lie elsewhere than the incumbent's: PSI {moved:.2f}."
    return None


def watched(rollout: Rollout, health: Mapping[str, Health]) -> Rollout:
    """The rollout after a look at the newcomer's health: the same, or without it."""
    newcomer = rollout.newcomer
    if newcomer is None or newcomer in rollout.killed:
        return rollout
    why = judge(health.get(newcomer, Health()), health.get(rollout.incumbent, Health()))
    return rollout if why is None else rollout.roll_back(why)


def _psi(then: Iterable[float], now: Iterable[float]) -> float:
    from chat_app.ml import drift

    found = drift.psi(list(then), list(now))
    # Below its threshold, which is scaled to the rows, it is chance.
    return found.psi if found.alarm else 0.0


def _keep(values: list[Any], value: Any) -> None:
    values.append(value)
    if len(values) > KEPT_SCORES:
        del values[: KEPT_SCORES // 2]
