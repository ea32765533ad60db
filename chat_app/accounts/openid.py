"""OpenID: asks a provider who somebody is, by the authorization code flow with PKCE.

The only provider is Hugging Face, and only in a Space, which gives the address and the client by
its environment. Knows nothing of our accounts. What a provider says is believed when it is signed
by one of its keys, for us, now, and for the very sign-in that was begun.
"""

import asyncio
import hmac
import json
import logging
import os
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from chat_app.clock import MICROS_PER_SECOND
from chat_app.errors import NotSignedIn, Unavailable

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

HUB = "https://huggingface.co"
SCOPES = ("openid", "profile", "email")
# Signatures that need the provider's private key; "none" and shared keys are none of them.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA")
CLAIMS = ("iss", "sub", "aud", "exp", "iat", "nonce")
LEEWAY_SECONDS = 60
KEPT_SECONDS = 600
TIMEOUT_SECONDS = 10
MAX_ANSWER_BYTES = 256 * 1024
MAX_SUBJECT = 255
_REFUSALS = (400, 401, 403)


class HubUnavailable(Unavailable):
    """Hugging Face does not answer, or not as an OpenID provider does."""

    code = "hub_unavailable"
    message = "Hugging Face does not answer. Try again in a moment, or sign in with a password."


class HubRefused(NotSignedIn):
    """What Hugging Face said is not signed, not for us, not of now or not for this sign-in."""

    code = "hub_refused"
    message = "The answer of Hugging Face cannot be trusted. Begin the sign-in again."


@dataclass(frozen=True)
class Person:
    """Who somebody is at the provider. `email` is empty where it was not given."""

    subject: str
    name: str
    email: str
    email_verified: bool


@dataclass
class _Known:
    """The provider's addresses and keys, and when they were read (monotonic seconds)."""

    about: dict[str, Any] = field(default_factory=dict)
    about_at: float = 0
    keys: list[dict[str, Any]] = field(default_factory=list)
    keys_at: float = 0


class Provider:
    """One provider and our client there. Reads its addresses and keys when they are needed."""

    def __init__(
        self, url: str, *, client_id: str, client_secret: str, micros: Callable[[], int]
    ) -> None:
        self.url = url.rstrip("/")
        self.client_id = client_id
        self._secret = client_secret
        self._micros = micros
        self._known = _Known()
        self._tls: ssl.SSLContext | None = None

    async def address(self, *, redirect: str, state: str, nonce: str, challenge: str) -> str:
        """Where the browser has to go. Raises HubUnavailable."""
        async with self._client() as client:
            about = await self._about(client)
        query = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": redirect,
            "scope": " ".join(SCOPES),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        place: str = about["authorization_endpoint"]
        return f"{place}{'&' if '?' in place else '?'}{urlencode(query)}"

    async def person(self, *, code: str, redirect: str, verifier: str, nonce: str) -> Person:
        """Who came back with this code. Raises HubRefused or HubUnavailable."""
        async with self._client() as client:
            about = await self._about(client)
            given = await self._exchange(client, about, code, redirect, verifier)
            claims = await self._claims(client, about, str(given.get("id_token", "")), nonce)
            if not claims.get("email") and about.get("userinfo_endpoint"):
                claims |= await self._more(client, about, given, claims["sub"])
        email = claims.get("email")
        return Person(
            subject=claims["sub"],
            name=str(claims.get("preferred_username") or claims.get("name") or ""),
            email=email if isinstance(email, str) else "",
            email_verified=claims.get("email_verified") is True,
        )

    def _client(self) -> "httpx.AsyncClient":
        import httpx

        if self._tls is None:
            self._tls = httpx.create_ssl_context(trust_env=False)  # reads all the roots: only once
        return httpx.AsyncClient(
            verify=self._tls,
            timeout=TIMEOUT_SECONDS,
            follow_redirects=False,
            trust_env=False,
            headers={"Accept": "application/json"},
        )

    async def _about(self, client: "httpx.AsyncClient") -> dict[str, Any]:
        """The provider's description of itself, which has to be its own."""
        known, now = self._known, time.monotonic()
        if known.about and now - known.about_at < KEPT_SECONDS:
            return known.about
        about = await _get(client, f"{self.url}/.well-known/openid-configuration")
        if str(about.get("issuer", "")).rstrip("/") != self.url:
            log.error("the OpenID provider says that it is another one")
            raise HubUnavailable
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not may_be_asked(str(about.get(name, ""))):
                log.error("the OpenID provider gives no safe %s", name)
                raise HubUnavailable
        if not may_be_asked(str(about.get("userinfo_endpoint", ""))):
            about.pop("userinfo_endpoint", None)
        known.about, known.about_at = about, now
        return about

    async def _exchange(
        self,
        client: "httpx.AsyncClient",
        about: Mapping[str, Any],
        code: str,
        redirect: str,
        verifier: str,
    ) -> dict[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect,
            "client_id": self.client_id,
            "code_verifier": verifier,
        }
        return await _ask(
            client, "POST", about["token_endpoint"], data=form, auth=(self.client_id, self._secret)
        )

    async def _claims(
        self, client: "httpx.AsyncClient", about: Mapping[str, Any], token: str, nonce: str
    ) -> dict[str, Any]:
        """What a genuine id token says; raises HubRefused."""
        import jwt

        try:
            key = await self._key(client, about, jwt.get_unverified_header(token))
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=self.client_id,
                issuer=about["issuer"],
                # Times are compared below, with the program's own clock.
                options={
                    "require": list(CLAIMS),
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            log.warning("an id token was refused: %s", error)
            raise HubRefused from error
        self._judge(claims, nonce)
        return claims

    def _judge(self, claims: Mapping[str, Any], nonce: str) -> None:
        now = self._micros() // MICROS_PER_SECOND
        subject, issued, expires = claims["sub"], claims["iat"], claims["exp"]
        if not isinstance(issued, int) or not isinstance(expires, int):
            raise HubRefused
        if not issued - LEEWAY_SECONDS <= now < expires + LEEWAY_SECONDS:
            log.warning("an id token is not of now: check the clock of this machine")
            raise HubRefused
        if not hmac.compare_digest(str(claims["nonce"]).encode(), nonce.encode()):
            raise HubRefused
        many = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if (many or "azp" in claims) and claims.get("azp") != self.client_id:
            raise HubRefused
        if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT:
            raise HubRefused
        if not subject.isprintable():
            raise HubRefused

    async def _key(
        self, client: "httpx.AsyncClient", about: Mapping[str, Any], header: Mapping[str, Any]
    ) -> Any:
        """The key that the token names; read anew once when it is none of the known ones."""
        import jwt

        known, now = self._known, time.monotonic()
        fresh = bool(known.keys) and now - known.keys_at < KEPT_SECONDS
        found = _pick(known.keys, header) if fresh else None
        if found is None:
            keys = (await _get(client, about["jwks_uri"])).get("keys")
            known.keys = [one for one in keys if isinstance(one, dict)] if keys else []
            known.keys_at = now
            found = _pick(known.keys, header)
        if found is None:
            log.warning("an id token names a key that Hugging Face does not have")
            raise HubRefused
        return jwt.PyJWK.from_dict(found, str(header.get("alg")))

    async def _more(
        self,
        client: "httpx.AsyncClient",
        about: Mapping[str, Any],
        given: Mapping[str, Any],
        subject: str,
    ) -> dict[str, Any]:
        """The address, which is not in every id token; of the same person, or it is refused."""
        bearer = {"Authorization": f"Bearer {given.get('access_token', '')}"}
        said = await _ask(client, "GET", about["userinfo_endpoint"], headers=bearer)
        if said.get("sub") != subject:
            raise HubRefused
        names = ("email", "email_verified", "preferred_username")
        return {name: said[name] for name in names if name in said}


def of_environment(*, micros: Callable[[], int]) -> Provider | None:
    """The provider that a Space names; None anywhere else, and where it is not switched on."""
    client_id = os.environ.get("OAUTH_CLIENT_ID", "")
    if not (os.environ.get("SPACE_ID") and client_id):
        return None
    url = os.environ.get("OPENID_PROVIDER_URL") or HUB
    if not may_be_asked(url):
        log.error("OPENID_PROVIDER_URL is no https address: nobody can sign in by it")
        return None
    secret = os.environ.get("OAUTH_CLIENT_SECRET", "")
    return Provider(url, client_id=client_id, client_secret=secret, micros=micros)


def may_be_asked(address: str) -> bool:
    """Whether secrets may be sent there: https, or this machine for tests."""
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme == "https":
        return bool(host)
    return parts.scheme == "http" and host in {"127.0.0.1", "localhost", "::1"}


def _pick(keys: list[dict[str, Any]], header: Mapping[str, Any]) -> dict[str, Any] | None:
    """The public key for a signature that the token names; without a name the only one there is."""
    kid = header.get("kid")
    usable = [
        one
        for one in keys
        if one.get("kty") in ("RSA", "EC", "OKP")
        and one.get("use", "sig") == "sig"
        and one.get("alg", header.get("alg")) == header.get("alg")
        and header.get("alg") in ALGORITHMS
    ]
    if kid is None:
        return usable[0] if len(usable) == 1 else None
    return next((one for one in usable if one.get("kid") == kid), None)


async def _get(client: "httpx.AsyncClient", address: str) -> dict[str, Any]:
    return await _ask(client, "GET", address)


async def _ask(
    client: "httpx.AsyncClient", method: str, address: str, **more: Any
) -> dict[str, Any]:
    """A JSON object; HubRefused for what is refused, HubUnavailable for what is none."""
    import httpx

    try:
        async with (
            asyncio.timeout(TIMEOUT_SECONDS),
            client.stream(method, address, **more) as reply,
        ):
            body = b""
            async for piece in reply.aiter_bytes():
                body += piece
                if len(body) > MAX_ANSWER_BYTES:
                    raise HubUnavailable
        content = json.loads(body) if reply.is_success else None
    except (httpx.HTTPError, TimeoutError, ValueError) as error:
        log.warning("the OpenID provider cannot be reached: %s", type(error).__name__)
        raise HubUnavailable from error
    if reply.status_code in _REFUSALS:
        log.warning("the OpenID provider refused %s: %d", urlsplit(address).path, reply.status_code)
        raise HubRefused
    if not isinstance(content, dict):
        raise HubUnavailable
    return content
