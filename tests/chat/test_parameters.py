"""Parameters as they are stored, and what is refused."""

import pytest

from chat_app.chat import parameters
from chat_app.chat.parameters import BadParameters, Parameters

ALL = Parameters("Be brief.", 0.5, 0.9, 7, 100)


def test_they_survive_the_column() -> None:
    assert parameters.load(ALL.dump()) == ALL
    assert Parameters().dump() == ""
    assert parameters.load("") == Parameters()
    assert parameters.load('{"seed": 3, "from_the_future": 1}') == Parameters(seed=3)


def test_what_is_given_wins_and_the_rest_stays() -> None:
    assert Parameters(seed=1).over(ALL) == Parameters("Be brief.", 0.5, 0.9, 1, 100)
    assert Parameters(temperature=0.0).over(ALL).temperature == 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1}, {"temperature": 2.1}, {"temperature": float("nan")},
        {"temperature": "1"}, {"temperature": True}, {"top_p": 0}, {"top_p": 1.01},
        {"seed": -1}, {"seed": 1.0}, {"seed": 2**31}, {"max_tokens": 0}, {"max_tokens": True},
        {"system": "x" * 8001}, {"system": "\ud800"}, {"system": "a\x00"}, {"system": 3},
        {"user_id": 1},
    ],
)  # fmt: skip
def test_what_a_page_may_not_send(wrong: dict[str, object]) -> None:
    """A page may send anything: each wrong value is a refusal that names it, never a crash."""
    with pytest.raises(BadParameters) as refused:
        parameters.from_page(wrong)
    assert refused.value.facts["param"] in {*wrong, "settings"}


def test_a_blank_system_prompt_is_none() -> None:
    assert parameters.from_page({"system": " \n", "seed": None}) == Parameters()
    assert parameters.from_page(["nothing"]) == Parameters()
    assert parameters.from_page({"top_p": 1, "temperature": 0}) == Parameters(
        top_p=1.0, temperature=0.0
    )
