"""Buy till you die: how often customers come back, and what an order of theirs is worth.

BG/NBD (Fader, Hardie & Lee 2005): a customer buys at a rate drawn from a gamma distribution and
stops after each purchase with a chance drawn from a beta distribution. Gamma-Gamma (Fader & Hardie
2013): what an order is worth varies about the customer's own mean. Times are weeks. All sums stay
in logarithms. A weak normal prior on the logarithms of the parameters keeps them finite where the
data say nothing; with a hundred customers it moves nothing, with ten it decides.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# The published estimates on CDNOW, in weeks: the shape that a shop without data is taken to have.
USUAL_BUYING = (0.243, 4.414, 0.793, 2.426)
USUAL_SPENDING = (6.25, 3.74, 0.438)  # of amounts whose mean is 1
WEAK_PRIOR = 0.02
LOG_BOUND = 12.0
NODES = 400


@dataclass(frozen=True)
class Buying:
    """BG/NBD: purchase rates are Gamma(r, alpha), the chance to stop is Beta(a, b)."""

    r: float
    alpha: float
    a: float
    b: float
    log_likelihood: float = 0.0

    def p_alive(self, frequency: Floats, recency: Floats, age: Floats) -> Floats:
        """The probability that a customer has not stopped. One-time buyers have 1."""
        from scipy.special import expit

        x = frequency
        log_odds = (
            np.log(self.b + np.maximum(x, 1) - 1)
            - math.log(self.a)
            - (self.r + x) * np.log((self.alpha + age) / (self.alpha + recency))
        )
        found: Floats = np.where(x > 0, expit(log_odds), 1.0)
        return found

    def p_buys(self, weeks: float, frequency: Floats, recency: Floats, age: Floats) -> Floats:
        """The probability of at least one purchase in the next `weeks`."""
        rest = self.alpha + age
        silent = np.exp(-(self.r + frequency) * np.log1p(weeks / rest))
        found: Floats = self.p_alive(frequency, recency, age) * (1.0 - silent)
        return found

    def expected(self, weeks: float, frequency: Floats, recency: Floats, age: Floats) -> Floats:
        """The purchases to expect in the next `weeks`."""
        if weeks <= 0:
            return np.zeros(len(frequency))
        found: Floats = self.p_alive(frequency, recency, age) * self._if_alive(
            weeks, frequency, age
        )
        return found

    def _if_alive(self, weeks: float, x: Floats, age: Floats) -> Floats:
        """The closed form where it holds, else the integral over the chance to stop."""
        from scipy.special import hyp2f1

        rest = self.alpha + age
        ceiling = (self.r + x) * weeks / rest  # what somebody would buy who never stops
        lead = self.a + self.b + x - 1.0
        # Euler's transformation of the published form: its powers do not grow with x.
        above, first = self.a - 1.0, self.a + self.b - 1.0 - self.r
        with np.errstate(all="ignore"):
            tail = np.exp(-above * np.log1p(weeks / rest)) * hyp2f1(
                first, above, lead, weeks / (rest + weeks)
            )
            found = lead / (self.a - 1.0) * (1.0 - tail)
            good = np.isfinite(found) & (found >= 0) & (found <= ceiling * (1 + 1e-9))
            good &= (lead > 1e-6) & (ceiling > 1e-6) & (np.abs(1.0 - tail) > 1e-6)
        if abs(self.a - 1.0) < 1e-3:  # 0 / 0
            good[:] = False
        answer: Floats = np.array(found, dtype="float64")
        if not good.all():
            answer[~good] = self.integrated(weeks, x[~good], age[~good])
        return answer

    def integrated(self, weeks: float, frequency: Floats, age: Floats) -> Floats:
        """The same by numbers: E[(1 - (1 + p·weeks/rest)^-(r+x)) / p], p ~ Beta(a, b + x).

        On the logit scale the density is smooth and falls off exponentially to both sides, where
        the trapezoid rule is as good as any.
        """
        found = np.empty(len(frequency))
        at = 0
        while at < len(frequency):  # a block at a time bounds the memory
            x, rest = frequency[at : at + 4096, None], self.alpha + age[at : at + 4096, None]
            right = self.b + x
            spread = np.sqrt(1 / self.a + 1 / right)
            near = np.minimum(spread, 1.0)  # close about the mode, wider apart further out
            low = -np.arcsinh((30 / self.a + 9 * spread) / near)
            high = np.arcsinh((30 / right + 9 * spread) / near)
            u = low + (high - low) * np.arange(NODES) / (NODES - 1)
            y = np.log(self.a / right) + near * np.sinh(u)
            log_p, log_q = -np.logaddexp(0, -y), -np.logaddexp(0, y)
            weight = self.a * log_p + right * log_q + np.log(np.cosh(u))
            weight = np.exp(weight - weight.max(axis=1, keepdims=True))
            p = np.maximum(np.exp(log_p), 1e-300)
            bought = -np.expm1(-(self.r + x) * np.log1p(p * weeks / rest)) / p
            found[at : at + 4096] = (weight * bought).sum(axis=1) / weight.sum(axis=1)
            at += 4096
        return found

    def to_params(self) -> dict[str, float]:
        """The numbers as plain JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Spending:
    """Gamma-Gamma: orders are Gamma(p, nu), nu differs as Gamma(q, v); `scale` is a mean order."""

    p: float
    q: float
    v: float
    scale: float

    def expected(self, mean_order: Floats, orders: Floats) -> Floats:
        """The mean of a customer's future orders, between their own mean and everybody's."""
        n, z = orders, np.maximum(mean_order, 0.0) / self.scale
        found: Floats = self.scale * self.p * (self.v + n * z) / (self.p * n + self.q - 1.0)
        return found

    def to_params(self) -> dict[str, float]:
        """The numbers as plain JSON."""
        return asdict(self)


def fit_buying(
    frequency: Floats, recency: Floats, age: Floats, *, prior: float = WEAK_PRIOR
) -> Buying:
    """BG/NBD by maximum likelihood from repeat purchases, last purchase and age, in weeks.

    `prior` is the weight of the usual shape: the precision of each parameter's logarithm.
    """
    x, last, total = (np.asarray(part, dtype="float64") for part in (frequency, recency, age))
    centre = np.log(USUAL_BUYING)

    def cost(theta: Floats) -> tuple[float, Floats]:
        value, slope = _buying_likelihood(np.exp(theta), x, last, total)
        away = theta - centre
        return -value + prior * float(away @ away) / 2, prior * away - slope * np.exp(theta)

    r, alpha, a, b = np.exp(_least(cost, [centre, np.log([1.0, 8.0, 0.5, 5.0])]))
    value, _ = _buying_likelihood(np.array([r, alpha, a, b]), x, last, total)
    return Buying(float(r), float(alpha), float(a), float(b), value)


def fit_spending(mean_order: Floats, orders: Floats, *, prior: float = WEAK_PRIOR) -> Spending:
    """Gamma-Gamma by maximum likelihood from mean amounts and counts of all orders.

    Only customers with a mean above zero speak; the unit of the amounts changes nothing else.
    """
    paying = (np.asarray(mean_order) > 0) & (np.asarray(orders) > 0)
    z = np.asarray(mean_order, dtype="float64")[paying]
    n = np.asarray(orders, dtype="float64")[paying]
    if not len(z):
        return Spending(*USUAL_SPENDING, scale=1.0)
    scale = float(np.exp(np.log(z).mean()))  # a geometric mean: no outlier moves the unit
    level = float(np.average(z / scale, weights=n))
    usual = np.array([USUAL_SPENDING[0], USUAL_SPENDING[1] - 1, USUAL_SPENDING[2] * level])
    centre = np.log(usual)
    z = z / scale

    def cost(theta: Floats) -> tuple[float, Floats]:
        p, above, v = np.exp(theta)
        value, slope = _spending_likelihood(p, 1.0 + above, v, z, n)
        away = theta - centre
        return -value + prior * float(away @ away) / 2, prior * away - slope * np.exp(theta)

    p, above, v = np.exp(_least(cost, [centre]))
    return Spending(float(p), float(1.0 + above), float(v), scale)


def _buying_likelihood(theta: Floats, x: Floats, last: Floats, age: Floats) -> tuple[float, Floats]:
    """The log-likelihood and its slope in r, alpha, a, b."""
    from scipy.special import digamma, expit, gammaln

    r, alpha, a, b = theta
    again = x > 0
    before = b + np.maximum(x, 1) - 1
    alive = -(r + x) * np.log(alpha + age)
    stopped = np.log(a) - np.log(before) - (r + x) * np.log(alpha + last)
    both = np.where(again, np.logaddexp(alive, stopped), alive)
    gone = np.where(again, expit(stopped - alive), 0.0)
    value = (
        gammaln(r + x) - gammaln(r) + r * np.log(alpha)
        + gammaln(a + b) + gammaln(b + x) - gammaln(b) - gammaln(a + b + x) + both
    )  # fmt: skip
    shared = digamma(a + b) - digamma(a + b + x)
    log_rest = (1 - gone) * np.log(alpha + age) + gone * np.log(alpha + last)
    rest = (1 - gone) / (alpha + age) + gone / (alpha + last)
    slopes = (
        digamma(r + x) - digamma(r) + np.log(alpha) - log_rest,
        r / alpha - (r + x) * rest,
        shared + gone / a,
        shared + digamma(b + x) - digamma(b) - gone / before,
    )
    return float(value.sum()), np.array([float(slope.sum()) for slope in slopes])


def _spending_likelihood(
    p: float, q: float, v: float, z: Floats, n: Floats
) -> tuple[float, Floats]:
    """The log-likelihood of mean orders and its slope in p, q, v."""
    from scipy.special import digamma, gammaln

    shape, total = p * n, v + n * z
    value = (
        gammaln(shape + q) - gammaln(shape) - gammaln(q) + q * np.log(v)
        + (shape - 1) * np.log(z) + shape * np.log(n) - (shape + q) * np.log(total)
    )  # fmt: skip
    common = digamma(shape + q)
    slopes = (
        n * (common - digamma(shape) + np.log(z) + np.log(n) - np.log(total)),
        common - digamma(q) + np.log(v) - np.log(total),
        q / v - (shape + q) / total,
    )
    return float(value.sum()), np.array([float(slope.sum()) for slope in slopes])


def _least(cost: Callable[[Floats], tuple[float, Floats]], starts: list[Floats]) -> Floats:
    """The best of the searches from these starts."""
    from scipy.optimize import minimize

    best: Any = None
    for start in starts:
        bounds = [(-LOG_BOUND, LOG_BOUND)] * len(start)
        with np.errstate(all="ignore"):
            found = minimize(
                cost, start, jac=True, method="L-BFGS-B", bounds=bounds,
                options={"maxiter": 500, "ftol": 1e-12, "gtol": 1e-6},
            )  # fmt: skip
        if np.isfinite(found.fun) and (best is None or found.fun < best.fun - 1e-9):
            best = found
    assert best is not None, "the starts themselves have a finite cost"
    return np.asarray(best.x, dtype="float64")
