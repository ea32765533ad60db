"""Opaque ids: what people and programs see never counts rows."""

import secrets

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str) -> str:
    """A random id such as `rep_5f0k…`: 24 characters of 5 bits, 120 bits in all."""
    return prefix + "_" + "".join(secrets.choice(_ALPHABET) for _ in range(24))
