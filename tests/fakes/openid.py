"""A stand-in for Hugging Face as an OpenID provider: signed tokens, PKCE, codes that work once.

It is as strict as the specification and can be told to lie in one point.
"""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

CLIENT, SECRET = "space-client", "space-secret"
ANN = {"sub": "62f1", "preferred_username": "ann-hf", "email": "ann@hub.example"}


def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass
class Hub:
    """Who is signed in there (`person`), and in which points it lies.

    `claims` goes over what the id token says, None takes a claim out; `signer` signs in place of
    the published key; `broken` answers 500. `asked` counts requests by path.
    """

    url: str = ""
    person: dict[str, Any] = field(default_factory=lambda: dict(ANN, email_verified=True))
    claims: dict[str, Any] = field(default_factory=dict)
    token_has_email: bool = True
    userinfo: dict[str, Any] | None = None
    issuer: str = ""
    algorithm: str = "RS256"
    signer: Any = None
    broken: bool = False
    kid: str = "one"
    keys: dict[str, rsa.RSAPrivateKey] = field(default_factory=lambda: {"one": key()})
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def honest(self) -> None:
        """As it was before it was told to lie."""
        self.claims, self.userinfo, self.issuer = {}, None, ""
        self.token_has_email, self.algorithm, self.signer, self.broken = True, "RS256", None, False

    def rotate(self) -> None:
        """Another key, under another name; the old one is gone."""
        self.kid = f"key-{len(self.asked)}"
        self.keys = {self.kid: key()}

    def agree(self, address: str) -> dict[str, str]:
        """Somebody agrees on the page at `address`; what the browser is sent back with."""
        asked = dict(parse_qsl(urlsplit(address).query))
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT
        assert asked["code_challenge_method"] == "S256"
        assert {"openid", "profile", "email"} <= set(asked["scope"].split())
        code = f"code-{len(self.codes)}-{time.monotonic_ns()}"
        self.codes[code] = asked
        return {"code": code, "state": asked["state"]}

    def description(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer or self.url,
            "authorization_endpoint": f"{self.url}/oauth/authorize",
            "token_endpoint": f"{self.url}/oauth/token",
            "userinfo_endpoint": f"{self.url}/oauth/userinfo",
            "jwks_uri": f"{self.url}/oauth/jwks",
        }

    def jwks(self) -> dict[str, Any]:
        made = []
        for kid, one in self.keys.items():
            public = jwt.algorithms.RSAAlgorithm.to_jwk(one.public_key(), as_dict=True)
            made.append({**public, "kid": kid, "use": "sig", "alg": "RS256"})
        return {"keys": made}

    def token(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """The exchange of a code."""
        basic = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        asked = self.codes.pop(form.get("code", ""), None)
        if authorization != f"Basic {basic}":
            return 401, {"error": "invalid_client"}
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = _packed(digest)
        if (
            asked is None
            or form.get("grant_type") != "authorization_code"
            or asked["redirect_uri"] != form.get("redirect_uri")
            or asked["code_challenge"] != challenge
        ):
            return 400, {"error": "invalid_grant"}
        return 200, {
            "access_token": f"token-of-{self.person['sub']}",
            "token_type": "bearer",
            "id_token": self.id_token(asked["nonce"]),
        }

    def id_token(self, nonce: str) -> str:
        now = int(time.time())
        said = dict(self.person)
        if not self.token_has_email:
            said = {k: v for k, v in said.items() if not k.startswith("email")}
        claims = {
            "iss": self.issuer or self.url, "aud": CLIENT, "iat": now, "exp": now + 3600,
            "nonce": nonce, **said, **self.claims,
        }  # fmt: skip
        claims = {name: value for name, value in claims.items() if value is not None}
        signer = self.signer or self.keys[self.kid]
        if self.algorithm == "HS256":
            return self._by_the_public_key(claims)
        signer = None if self.algorithm == "none" else signer
        return jwt.encode(claims, signer, algorithm=self.algorithm, headers={"kid": self.kid})

    def _by_the_public_key(self, claims: dict[str, Any]) -> str:
        """What everybody can sign, if a verifier takes the public key for a shared one."""
        public = self.keys[self.kid].public_key()
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        head = {"alg": "HS256", "typ": "JWT", "kid": self.kid}
        text = ".".join(_packed(json.dumps(part).encode()) for part in (head, claims))
        return f"{text}.{_packed(hmac.digest(pem, text.encode(), 'sha256'))}"


def _packed(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@contextmanager
def serving() -> Iterator[Hub]:
    """The provider on a free port of this machine."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_given: Any) -> None:
            pass

        def do_GET(self) -> None:
            path = self.note()
            if path == "/oauth/authorize":
                asked = dict(parse_qsl(urlsplit(self.path).query))
                back = f"{asked['redirect_uri']}?{urlencode(hub.agree(self.path))}"
                self.send_response(302)
                self.send_header("Location", back)
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif path == "/.well-known/openid-configuration":
                self.say(200, hub.description())
            elif path == "/oauth/jwks":
                self.say(200, hub.jwks())
            else:
                right = self.headers["Authorization"] == f"Bearer token-of-{hub.person['sub']}"
                self.say(200 if right else 401, hub.userinfo or hub.person)

        def do_POST(self) -> None:
            self.note()
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            self.say(*hub.token(form, self.headers.get("Authorization", "")))

        def note(self) -> str:
            path = urlsplit(self.path).path
            hub.asked.append(path)
            return path

        def say(self, status: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(500 if hub.broken else status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


ENVIRONMENT = {
    "SPACE_ID": "somebody/chat",
    "OAUTH_CLIENT_ID": CLIENT,
    "OAUTH_CLIENT_SECRET": SECRET,
    "OAUTH_SCOPES": "openid profile email",
}
