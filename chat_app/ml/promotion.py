"""Whether a newcomer takes over, and by which steps: shadow, a small share, everybody.

A newcomer is compared on past windows that it had not seen: with the version that judges now
where that one had not seen them either, else with the plain baseline. It has to be better on two
of the newest three and not worse calibrated. Knows no model and no database.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from chat_app.ml.rollout import Health, Rollout, judge

NEWEST, WINS = 3, 2
CANARY = 0.10  # the share that a newcomer begins with
CANARY_CALLS = 1000  # healthy answers after which it gets everybody
TOLERATED = 1.5  # times too many or too few promised that are no reason
DEVIATIONS = 2.58  # of the number of cases that are chance: one in a hundred is further off


@dataclass(frozen=True)
class Window:
    """A past window: losses (less is better), what was promised and what came, in cases."""

    loss: float
    usual: float
    promised: float
    usual_promised: float
    came: float
    against: str  # whose loss `usual` is


@dataclass(frozen=True)
class Verdict:
    """Whether it may take over, and the sentence that says why."""

    good: bool
    why: str


def weigh(windows: Sequence[Window]) -> Verdict:
    """The rule, on windows in order of time; without a window nothing is proven."""
    newest = list(windows)[-NEWEST:]
    if not newest:
        return Verdict(False, "There was no past window with confirmed cases to be judged on.")
    wins = sum(window.loss < window.usual for window in newest)
    needed = min(WINS, len(newest))
    came = sum(window.came for window in newest)
    promised = sum(window.promised for window in newest)
    ours = _off(promised, came)
    theirs = _off(sum(window.usual_promised for window in newest), came)
    chance = abs(promised - came) <= DEVIATIONS * math.sqrt(max(promised, came))
    against = " and ".join(sorted({window.against for window in newest}))
    beaten = f"It was better than {against} in {wins} of the newest {len(newest)} windows"
    if wins < needed:
        return Verdict(False, f"{beaten}; {needed} are needed.")
    if not chance and ours > max(theirs, math.log(TOLERATED)):
        return Verdict(False, f"{beaten}, but its probabilities were off by a factor of "
                              f"{math.exp(ours):.1f}.")  # fmt: skip
    return Verdict(True, f"{beaten}, and no worse calibrated.")


def _off(promised: float, came: float) -> float:
    """How far from the truth, as a logarithm; half a case keeps nothing finite."""
    return abs(math.log((promised + 0.5) / (came + 0.5)))


def step(
    before: Rollout | None, version: str, *, verdict: Verdict, trusted: bool, sound: bool
) -> Rollout:
    """The rollout after a training of what may stop people.

    `trusted`: learnt from real people; what was learnt from made-up ones only scores beside the
    rules. `sound`: the version that judges now can be read and is not made-up. A good newcomer
    begins with a small share, another one in the shadow of what judges.
    """
    if before is None or not sound or before.incumbent in before.killed:
        alone = Rollout(before.experiment if before else "fraud", {version: 1.0})
        if not trusted:
            return _shadow(alone, "It was learnt from made-up people, so it only scores.")
        return alone if verdict.good else _shadow(alone, verdict.why)
    if verdict.good and trusted:
        return replace(before.introduce(version, CANARY), reason=verdict.why)
    if before.newcomer is not None and before.newcomer not in before.killed:
        return before  # one newcomer at a time
    return replace(before, shadow=version, reason=verdict.why)


def _shadow(alone: Rollout, why: str) -> Rollout:
    return replace(alone, shadow=alone.incumbent, killed=frozenset({alone.incumbent}), reason=why)


def watch(rollout: Rollout, health: dict[str, Health], refused: Sequence[str]) -> Rollout:
    """The rollout after a look at its newcomer: as it was, without it, or with it alone."""
    newcomer = rollout.newcomer
    if newcomer is None or newcomer in rollout.killed:
        return rollout
    if newcomer in refused:
        return rollout.roll_back("Its files cannot be read.")
    own = health.get(newcomer, Health())
    why = judge(own, health.get(rollout.incumbent, Health()))
    if why is not None:
        return rollout.roll_back(why)
    if own.calls >= CANARY_CALLS:
        return replace(rollout.promote(), reason=f"It judged {own.calls:,} events well.")
    return rollout


__all__ = ["CANARY", "Verdict", "Window", "step", "watch", "weigh"]
