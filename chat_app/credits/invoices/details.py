"""Billing details: the name, address and VAT id that a user wants on invoices.

A VAT id is checked for its form and its check digits only. Nobody is asked whether it was ever
given out (that would be VIES): an operator who needs that proof looks it up.
"""

import re
from dataclasses import dataclass

from sqlmodel import Session

from chat_app.credits.invoices.tables import BillingDetailsRow
from chat_app.errors import Invalid

_LENGTHS = {"name": 120, "address": 400, "vat_id": 32, "email": 254}
_EMAIL = re.compile(r"[^\s@<>]+@[^\s@<>]+\.[^\s@<>]+")


class BadBillingDetails(Invalid):
    """A field is too long, or a country or address of mail is none."""

    code = "bad_billing_details"
    message = (
        "The billing details cannot be used. Give a country as two letters such as EE, an e-mail "
        "address or none, and at most six lines of address."
    )


class BadVatId(Invalid):
    """The VAT id does not have the form or the check digits of its country's ids."""

    code = "bad_vat_id"
    message = (
        "This is not a VAT id of that country: its form or its check digits are wrong. Correct "
        "it, or leave it empty to buy as a private person."
    )


@dataclass(frozen=True)
class BillingDetails:
    """Text as it is printed; `country` is ISO 3166 (GR for Greece) or empty."""

    name: str = ""
    address: str = ""
    country: str = ""
    vat_id: str = ""
    email: str = ""


def get(session: Session, *, user_id: int) -> BillingDetails:
    """The user's details; empty ones when none were given."""
    row = session.get(BillingDetailsRow, user_id)
    if row is None:
        return BillingDetails()
    return BillingDetails(row.name, row.address, row.country, row.vat_id, row.email)


def put(session: Session, *, user_id: int, given: BillingDetails, now: int) -> BillingDetails:
    """Keep the details for the next invoice; returns them cleaned.

    Raises BadBillingDetails or BadVatId.
    """
    clean = check(given)
    row = session.get(BillingDetailsRow, user_id) or BillingDetailsRow(
        user_id=user_id, updated_at=now
    )
    row.name, row.address, row.country = clean.name, clean.address, clean.country
    row.vat_id, row.email, row.updated_at = clean.vat_id, clean.email, now
    session.add(row)
    session.flush()
    return clean


def check(given: BillingDetails) -> BillingDetails:
    """The details in the form that is printed; raises BadBillingDetails or BadVatId."""
    lines = [_line(text) for text in given.address.splitlines()]
    clean = BillingDetails(
        name=_line(given.name),
        address="\n".join(line for line in lines if line),
        country=given.country.strip().upper(),
        vat_id=_line(given.vat_id),
        email=given.email.strip(),
    )
    for field, longest in _LENGTHS.items():
        if len(getattr(clean, field)) > longest:
            raise BadBillingDetails(param=field)
    if clean.address.count("\n") > 5:
        raise BadBillingDetails(param="address")
    if clean.country and not re.fullmatch(r"[A-Z]{2}", clean.country):
        raise BadBillingDetails(param="country")
    if clean.email and not _EMAIL.fullmatch(clean.email):
        raise BadBillingDetails(param="email")
    if not clean.vat_id:
        return clean
    if not clean.country:
        raise BadBillingDetails(param="country")
    return BillingDetails(
        clean.name,
        clean.address,
        clean.country,
        vat_id(clean.vat_id, country=clean.country),
        clean.email,
    )


def vat_id(text: str, *, country: str) -> str:
    """The id in its compact form with the country's letters; raises BadVatId.

    Form and check digits only. A country without a known rule is taken as it is.
    """
    from stdnum import get_cc_module
    from stdnum.exceptions import ValidationError

    letters = "EL" if country == "GR" else country
    rule = get_cc_module("gr" if country == "GR" else country.lower(), "vat")
    digits = re.sub(r"[^0-9A-Z]", "", text.upper())
    if rule is None:
        return digits
    try:
        found = str(rule.validate(digits))
    except ValidationError as error:
        raise BadVatId(param="vat_id", country=country) from error
    return found if found.startswith(letters) else letters + found


def _line(text: str) -> str:
    printable = "".join(mark if mark.isprintable() else " " for mark in text)
    return " ".join(printable.split())
