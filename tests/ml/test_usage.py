"""Usage patterns: a score by ranks, an efficiency, and advice with the number behind it."""

import numpy as np
import pandas as pd
import pytest

from chat_app.ml import usage
from chat_app.ml.usage import Facts, Use
from chat_app.revenue.frames import BadFrame

MICRO = 1_000_000


def people(count: int) -> pd.DataFrame:
    """The later in the table, the more of everything."""
    at = np.arange(count)
    return pd.DataFrame(
        {
            "user_id": at,
            "active_days": at + 1,
            "active_weeks": at + 1,
            "days_ago": count - at,
            "answers": (at + 1) ** 2,
        }
    )


def test_the_score_is_a_mean_of_ranks_and_keeps_the_order() -> None:
    scored = usage.behaviour(people(40))
    assert (scored["basis"] == "ranks").all()
    assert scored["score"].is_monotonic_increasing
    assert scored["score"].between(0, 100).all()
    assert scored["score"].mean() == pytest.approx(50)
    shuffled = usage.behaviour(people(40).sample(frac=1, random_state=1)).sort_values("user_id")
    assert shuffled["score"].tolist() == scored["score"].tolist()


def test_equal_people_are_in_the_middle_and_few_are_held_against_marks() -> None:
    alike = people(40).assign(active_days=3, active_weeks=2, days_ago=1, answers=9)
    assert usage.behaviour(alike)["score"].unique().tolist() == [50.0]
    few = usage.behaviour(people(1).assign(active_days=20, active_weeks=4, days_ago=0, answers=900))
    assert few["basis"].tolist() == ["scale"]
    assert few["score"].tolist() == [100.0]
    assert usage.behaviour(people(0)).empty
    with pytest.raises(BadFrame):
        usage.behaviour(people(3).drop(columns="answers"))
    with pytest.raises(BadFrame):
        usage.behaviour(people(3).assign(answers=float("nan")))


def test_efficiency_divides_by_what_is_there() -> None:
    use = Use("A", answers=4, cost=8 * MICRO, prompt_tokens=300, completion_tokens=100)
    found = usage.efficiency([use])
    assert found == usage.Efficiency(2.0, 50.0, 0.25)
    assert usage.efficiency([]) == usage.Efficiency(None, None, None)


def test_each_rule_speaks_with_its_number() -> None:
    dear = Use(
        "Big", answers=65, cost=3000 * MICRO, prompt_tokens=65_000, completion_tokens=9_000,
        short=40, short_cost=2000 * MICRO, instead="Small", instead_each=10 * MICRO, messages=65,
    )  # fmt: skip
    (cheaper,) = usage.recommend(Facts(uses=[dear]))
    assert cheaper.code == "cheaper_model"
    assert cheaper.value == 1600
    assert "40 of 65 answers of Big" in cheaper.sentence
    assert "2,000 credits" in cheaper.sentence
    assert "about 400" in cheaper.sentence

    def codes(**facts: object) -> list[str]:
        return [item.code for item in usage.recommend(Facts(**facts))]  # type: ignore[arg-type]

    plain = Use("A", answers=10, cost=10 * MICRO, prompt_tokens=100, completion_tokens=900,
                messages=10)  # fmt: skip
    assert codes(uses=[plain]) == []
    assert codes() == []
    long = Use("A", answers=10, cost=9, prompt_tokens=40_000, completion_tokens=900, messages=10)
    assert codes(uses=[long]) == ["long_prompts"]
    cut = Use("A", answers=10, cost=9, prompt_tokens=1, completion_tokens=9, stopped=6, messages=10)
    assert codes(uses=[cut]) == ["stopped"]
    failing = Use("A", answers=10, cost=9, prompt_tokens=1, completion_tokens=9, messages=19)
    assert codes(uses=[failing]) == ["failed"]
    assert codes(uses=[plain], cached=6) == ["cached"]
    assert codes(uses=[plain], cost_before=5 * MICRO, answers_before=10) == ["dearer"]
    assert codes(ending=MICRO, ending_days=3.0, days_left=2.0) == ["run_out", "ending"]
    assert codes(ending=MICRO, ending_days=30.0, days_left=80.0) == []
