"""Access tokens: only genuine, current tokens of the right kind are read."""

import base64
import json
from typing import Any

import jwt
import pytest

from chat_app import secrets
from chat_app.accounts import tokens
from chat_app.accounts.tokens import BadToken

KEY = b"k" * 32
RING = secrets.ring(KEY)
NOW = 1_800_000_000
MICROS = NOW * 1_000_000


def claims(**changes: Any) -> dict[str, Any]:
    good = {
        "sub": "7",
        "sid": "ses_1",
        "epoch": 3,
        "typ": "access",
        "aud": tokens.AUDIENCE,
        "iss": tokens.ISSUER,
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 600,
        "jti": "x",
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def sign(payload: dict[str, Any], *, key: bytes = KEY, **options: Any) -> str:
    return jwt.encode(payload, key, **{"algorithm": "HS256", **options})


def test_a_token_says_who_and_until_when() -> None:
    token = tokens.issue(RING, user_id=7, session_id="ses_1", epoch=3, now=MICROS, minutes=10)
    assert tokens.read(RING, token, now=MICROS) == tokens.Claims(7, "ses_1", 3, NOW + 600)
    with pytest.raises(BadToken):
        tokens.read(RING, token, now=MICROS + 600 * 1_000_000)
    assert tokens.read(RING, sign(claims()), now=MICROS).user_id == 7


@pytest.mark.parametrize(
    "changes",
    [
        *({name: None} for name in tokens.CLAIMS),
        {"aud": "another"},
        {"aud": [tokens.AUDIENCE, "another"]},
        {"iss": "another"},
        {"typ": "refresh"},
        {"typ": 1},
        {"sub": "seven"},
        {"sub": "-1"},
        {"sub": "9" * 19},
        {"sub": ""},
        {"sid": 5},
        {"epoch": "3"},
        {"epoch": True},
        {"exp": NOW},
        {"exp": NOW - 1},
        {"exp": "soon"},
        {"exp": float("inf")},
        {"exp": True},
        {"exp": NOW + 86400},
        {"iat": NOW + 172800, "nbf": NOW + 172800, "exp": NOW + 173400},
        {"nbf": NOW + 60},
        {"iat": NOW + 60},
    ],
    ids=str,
)
def test_wrong_claims_are_refused(changes: dict[str, Any]) -> None:
    """Bar 17: every claim is required and judged, also a token from a clock ahead."""
    with pytest.raises(BadToken):
        tokens.read(RING, sign(claims(**changes)), now=MICROS)


def test_forged_and_damaged_tokens_are_refused() -> None:
    """Bar 17: alg none, another key, another algorithm, unknown crit, garbage."""

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    good = sign(claims())
    head, body, signature = good.split(".")
    forged = [
        f"{part({'alg': 'none', 'typ': 'JWT'})}.{body}.",
        f"{part({'alg': 'none', 'typ': 'JWT'})}.{body}.{signature}",
        sign(claims(), key=b"j" * 32),
        sign(claims(), key=b"k" * 64, algorithm="HS512"),
        sign(claims(), headers={"crit": ["exp"], "exp": 1}),
        f"{head}.{part(claims(sub='8'))}.{signature}",
        good[:-4],
        good + "x" * tokens.MAX_TOKEN_LENGTH,
        "",
        "..",
        "a.b.c",
        "\x00",
        "\ud800.\ud800.\ud800",
        "日本.語.",
    ]
    for token in forged:
        with pytest.raises(BadToken):
            tokens.read(RING, token, now=MICROS)


def test_the_key_is_looked_up_in_our_own_ring_alone() -> None:
    """Bar 17: a token names its key; while both live, each reads what it signed."""
    two = secrets.Ring((*RING.keys, secrets.Key("2", b"m" * 32, since=MICROS)))

    def issue(now: int) -> str:
        return tokens.issue(two, user_id=7, session_id="s", epoch=0, now=now, minutes=10)

    before, after = issue(MICROS - 1_000_000), issue(MICROS)
    assert [jwt.get_unverified_header(text)["kid"] for text in (before, after)] == ["1", "2"]
    for token in (before, after, sign(claims())):
        assert tokens.read(two, token, now=MICROS).user_id == 7
    newest = secrets.Ring(two.keys[1:])
    assert tokens.read(newest, after, now=MICROS).user_id == 7
    forged = [
        before,
        sign(claims()),
        sign(claims(), headers={"kid": "2"}),
        sign(claims(), key=b"m" * 32, headers={"kid": "1"}),
        sign(claims(), key=b"\0" * 32, headers={"kid": "../../dev/null"}),
        *(
            sign(claims(), key=b"m" * 32, headers={"kid": kid})
            for kid in ("", "3", "x" * 999, "' OR 1=1 --", "\x00")
        ),
    ]
    for token in forged:
        with pytest.raises(BadToken):
            tokens.read(newest, token, now=MICROS)


def test_a_short_key_stops_the_program() -> None:
    short = secrets.ring(b"k" * 31)
    with pytest.raises(ValueError, match="fewer than 32 bytes"):
        tokens.issue(short, user_id=7, session_id="s", epoch=0, now=MICROS, minutes=10)


def test_derived_tokens_repeat_and_need_the_key() -> None:
    first = tokens.derive(KEY, "refresh", "a")
    assert first == tokens.derive(KEY, "refresh", "a")
    others = {
        tokens.derive(b"j" * 32, "refresh", "a"),
        tokens.derive(KEY, "setup", "a"),
        tokens.derive(KEY, "refresh", "b"),
    }
    assert len({first, *others}) == 4
    assert len(first) == 43
