"""Who pays for a message: the caller, or an organisation they belong to."""

import re
from typing import Annotated

from fastapi import Depends, Header
from pydantic import Field

from chat_app.errors import Invalid

_ORG = re.compile(r"org:([1-9]\d{0,17})", re.ASCII)


class BadPayer(Invalid):
    """Not the name of an organisation's pool, or body and header name two."""

    code = "invalid_payer"
    message = (
        'A payer is "org:" and the number of an organisation, such as org:7, in the body or '
        "in X-Payer. Leave it out to pay with your own credits."
    )


def read(text: str) -> int:
    """The organisation's number; raises BadPayer."""
    found = _ORG.fullmatch(text)
    if found is None:
        raise BadPayer(param="payer")
    return int(found[1])


def _header(
    payer: Annotated[
        str | None,
        Header(alias="X-Payer", max_length=64, description="As `payer` in the body."),
    ] = None,
) -> int | None:
    return None if payer is None else read(payer)


PayerHeader = Annotated[int | None, Depends(_header)]
Payer = Annotated[
    str,
    Field(max_length=64, description="`org:7` when organisation 7 pays; nothing to pay oneself."),
]


def chosen(body: str | None, header: int | None) -> int | None:
    """The organisation that pays, or None; raises BadPayer for two different ones."""
    named = None if body is None else read(body)
    if named is not None and header is not None and named != header:
        raise BadPayer(param="payer")
    return header if named is None else named
