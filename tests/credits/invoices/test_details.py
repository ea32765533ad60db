"""Billing details: cleaned, and a VAT id with wrong check digits is refused."""

import pytest

from chat_app.credits.invoices import details
from chat_app.credits.invoices.details import BadBillingDetails, BadVatId, BillingDetails
from chat_app.db import Database
from tests.credits.books import ALICE, NOON


@pytest.mark.parametrize(
    ("country", "given", "kept"),
    [
        ("EE", "ee 100 931 558", "EE100931558"),
        ("EE", "100931558", "EE100931558"),
        ("DE", "DE136,695 976", "DE136695976"),
        ("GR", "EL 094259216", "EL094259216"),
        ("FI", "FI-20774740", "FI20774740"),
        ("NO", "NO 995 525 828 MVA", "NO995525828MVA"),
        ("US", "12-3456789", "123456789"),  # no rule known: taken as it is
    ],
)
def test_a_vat_id_is_kept_in_its_compact_form(country: str, given: str, kept: str) -> None:
    assert details.check(BillingDetails(country=country, vat_id=given)).vat_id == kept


@pytest.mark.parametrize(
    ("country", "given"),
    [("EE", "EE100931559"), ("EE", "EE1"), ("DE", "EE100931558"), ("GR", "094259217")],
)
def test_wrong_check_digits_are_refused(country: str, given: str) -> None:
    with pytest.raises(BadVatId):
        details.check(BillingDetails(country=country, vat_id=given))


@pytest.mark.parametrize(
    "bad",
    [
        BillingDetails(name="x" * 121),
        BillingDetails(country="Estonia"),
        BillingDetails(email="nobody"),
        BillingDetails(address="1\n2\n3\n4\n5\n6\n7"),
        BillingDetails(vat_id="EE100931558"),  # of which country?
    ],
)
def test_bad_details_are_refused(bad: BillingDetails) -> None:
    with pytest.raises(BadBillingDetails):
        details.check(bad)


def test_details_are_kept_clean(database: Database) -> None:
    given = BillingDetails(" Ada\tLtd \u200b", "1 Road\r\n\n  Town ", "ee", "", " a@b.ee ")
    database.write(lambda s: details.put(s, user_id=ALICE, given=given, now=NOON))
    database.write(lambda s: details.put(s, user_id=ALICE, given=given, now=NOON))
    with database.read() as session:
        assert details.get(session, user_id=ALICE) == BillingDetails(
            "Ada Ltd", "1 Road\nTown", "EE", "", "a@b.ee"
        )
        assert details.get(session, user_id=2) == BillingDetails()
