"""BG/NBD and Gamma-Gamma against what was published and against sums by hand."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta, gamma

from chat_app.ml import btyd
from tests.ml import shops

X = np.array([0.0, 1.0, 2.0, 9.0, 29.0, 2000.0])
LAST = np.array([0.0, 5.0, 30.43, 30.0, 38.0, 300.0])
AGE = np.array([38.86, 38.86, 38.86, 31.0, 39.0, 301.0])


@pytest.fixture(scope="module")
def published() -> btyd.Buying:
    frame = shops.cdnow_summary()
    return btyd.fit_buying(*(frame[column].to_numpy() for column in ("frequency", "recency", "T")))


def test_the_published_parameters(published: btyd.Buying) -> None:
    """Fader, Hardie & Lee 2005, table 2."""
    assert published.r == pytest.approx(0.243, rel=0.01)
    assert published.alpha == pytest.approx(4.414, rel=0.01)
    assert published.a == pytest.approx(0.793, rel=0.01)
    assert published.b == pytest.approx(2.426, rel=0.01)
    assert published.log_likelihood == pytest.approx(-9582.4, abs=0.1)


def test_the_published_forecast_of_one_customer(published: btyd.Buying) -> None:
    """Their spreadsheet: x = 2, t_x = 30.43, T = 38.86 buys 1.226 times in 39 weeks."""
    found = published.expected(39.0, X[2:3], LAST[2:3], AGE[2:3])
    assert found[0] == pytest.approx(1.226, abs=0.002)


@pytest.mark.parametrize("weeks", [0.2, 39.0, 520.0, 50_000.0])
@pytest.mark.parametrize(
    "shape",
    [(0.243, 4.414, 0.793, 2.426), (0.02, 1, 0.02, 0.5), (5, 20, 1.0, 3), (0.2, 4, 50, 500),
     (0.2, 4, 0.9999, 0.01), (1e-3, 1e3, 1e-3, 1e3), (300, 3, 1e4, 1e-2)],
)  # fmt: skip
def test_any_shape_and_horizon_is_finite_and_agrees_with_the_integral(
    shape: tuple[float, float, float, float], weeks: float
) -> None:
    """hyp2f1 gives nan on long horizons and for eager customers, and a = 1 is 0 / 0."""
    model = btyd.Buying(*shape)
    alive = model.p_alive(X, LAST, AGE)
    found = model.expected(weeks, X, LAST, AGE)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    np.testing.assert_allclose(found, alive * model.integrated(weeks, X, AGE), rtol=1e-6)
    chance = model.p_buys(weeks, X, LAST, AGE)
    assert ((chance >= 0) & (chance <= 1)).all()
    assert (chance <= found * (1 + 1e-9) + 1e-12).all()  # Markov


def test_the_integral_is_right() -> None:
    model = btyd.Buying(0.6, 5.0, 1.7, 3.1)
    for x, age in zip(X[:5], AGE[:5], strict=True):
        rest = 5.0 + age
        by_hand, _ = quad(
            lambda p, x=x, rest=rest: (
                (1 - (1 + p * 26 / rest) ** -(0.6 + x)) / p * beta.pdf(p, 1.7, 3.1 + x)
            ),
            0,
            1,
        )
        found = model.integrated(26.0, np.array([x]), np.array([age]))
        assert found[0] == pytest.approx(by_hand, rel=1e-7)


def test_slopes_are_those_of_the_likelihoods() -> None:
    theta = np.array([0.5, 6.0, 0.9, 2.0])
    five = X[:5], LAST[:5], AGE[:5]
    _, slope = btyd._buying_likelihood(theta, *five)
    spent = np.array([5.0, 1.5, 2.2, 0.7, 3.0])
    money = np.array([3.0, 2.5, 1.2])
    _, other = btyd._spending_likelihood(*money, spent, X[:5] + 1)
    for k, step in enumerate(np.eye(4) * 1e-6):
        up, _ = btyd._buying_likelihood(theta + step, *five)
        down, _ = btyd._buying_likelihood(theta - step, *five)
        assert (up - down) / 2e-6 == pytest.approx(slope[k], rel=1e-5)
    for k, step in enumerate(np.eye(3) * 1e-6):
        up, _ = btyd._spending_likelihood(*(money + step), spent, X[:5] + 1)
        down, _ = btyd._spending_likelihood(*(money - step), spent, X[:5] + 1)
        assert (up - down) / 2e-6 == pytest.approx(other[k], rel=1e-5)


def test_spending_is_found_again_in_any_unit() -> None:
    rng = np.random.default_rng(1)
    n = rng.integers(1, 8, 4000).astype(float)
    nu = gamma.rvs(4.0, scale=1 / 12.0, size=4000, random_state=rng)
    z = gamma.rvs(5.0 * n, scale=1 / (nu * n), random_state=rng)
    model = btyd.fit_spending(z, n)
    assert model.p == pytest.approx(5.0, rel=0.15)
    assert model.q == pytest.approx(4.0, rel=0.15)
    everybody = model.expected(np.zeros(1), np.zeros(1))[0]
    assert everybody == pytest.approx(5.0 * 12 / 3, rel=0.05)
    one = model.expected(np.array([100.0]), np.array([1.0]))[0]
    many = model.expected(np.array([100.0]), np.array([50.0]))[0]
    assert everybody < one < many < 100.0
    cents = btyd.fit_spending(100 * z, n)
    np.testing.assert_allclose(cents.expected(100 * z, n), 100 * model.expected(z, n), rtol=1e-9)


def test_data_that_say_nothing_stay_finite() -> None:
    """Nobody came back, everybody came back daily, one amount only, no amounts."""
    still = btyd.fit_buying(np.zeros(500), np.zeros(500), np.full(500, 20.0))
    assert 0 <= still.expected(52.0, *np.zeros((2, 1)), np.full(1, 20.0))[0] < 0.2
    eager = btyd.fit_buying(np.full(500, 139.0), np.full(500, 19.9), np.full(500, 20.0))
    assert eager.expected(1.0, *(np.array([v]) for v in (139.0, 19.9, 20.0)))[0] == pytest.approx(
        7.0, rel=0.1
    )
    equal = btyd.fit_spending(np.full(300, 9.0), np.full(300, 3.0))
    assert equal.expected(np.array([9.0]), np.array([3.0]))[0] == pytest.approx(9.0, rel=0.02)
    none = btyd.fit_spending(np.zeros(3), np.ones(3))
    assert np.isfinite(none.expected(np.zeros(1), np.ones(1))).all()
