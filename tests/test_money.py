"""Credits and money are exact on their way in and out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_app.money import MAX_MICROCREDITS, BadCredits, Money, format_credits, parse_credits
from chat_app.money import show_credits as show


@given(st.integers(-MAX_MICROCREDITS, MAX_MICROCREDITS))
def test_text_and_integer_agree(micro: int) -> None:
    assert parse_credits(format_credits(micro)) == micro


@pytest.mark.parametrize(
    ("value", "micro"),
    [
        ("10", 10_000_000),
        ("0.25", 250_000),
        ("0.000001", 1),
        ("-3.5", -3_500_000),
        ("+1", 1_000_000),
        (" 7 ", 7_000_000),
        (12, 12_000_000),
        (-1, -1_000_000),
    ],
)
def test_credits_are_read_exactly(value: object, micro: int) -> None:
    assert parse_credits(value) == micro


@pytest.mark.parametrize(
    "value",
    [0.1, True, None, "", "1e3", "NaN", "inf", "1.0000001", "1,5", "0x10", "١", "9" * 14, 2**62,
     "--1", "1.", ".5", [], "1\n2"],
)  # fmt: skip
def test_what_is_no_amount_of_credits_is_refused(value: object) -> None:
    with pytest.raises(BadCredits):
        parse_credits(value)


def test_people_see_separators() -> None:
    assert show(12_345_500_000) == "12,345.5"
    assert show(-1_000_000_000) == "-1,000"
    assert str(Money(123_456)) == "1,234.56 USD"
    assert str(Money(-5, "EUR")) == "-0.05 EUR"
