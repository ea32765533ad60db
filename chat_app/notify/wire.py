"""Wire: one POST to an address that a stranger chose, without reaching what is inside.

The name is resolved once, every address it has must be a public one, and the connection goes
to the address that was checked: a name that answers otherwise a moment later changes nothing.
No redirects, no proxies, only ports 80 and 443, bounded in time and size. The operator can
allow receivers of their own network by `host:port`.
"""

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from chat_app.errors import Invalid

MAX_URL = 2000
MAX_ANSWER_BYTES = 64 * 1024
KEPT_ANSWER = 200
PORTS = {"https": 443, "http": 80}
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*")
_NUMBERS = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*")
_PATH = re.compile(r"[\x21-\x7e]*")
# Public by their form, but what is behind them is an IPv4 address of anybody's choice.
_TUNNELS = tuple(
    ipaddress.ip_network(net)
    for net in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96", "fec0::/10")
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], list[str]]


class BadWebhookUrl(Invalid):
    """The address of a webhook is not one that may be called."""

    code = "invalid_webhook_url"
    message = (
        "This address cannot be called. Give an https or http address of a public server "
        "on its usual port, without a password in it."
    )


class Refused(Exception):
    """The name leads to an address that must not be called."""


class Unreachable(Exception):
    """No answer: unknown name, refused, too slow, broken TLS."""


@dataclass(frozen=True)
class Target:
    """An address, taken apart."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def place(self) -> str:
        """`host:port`, as the operator would write it."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Answer:
    """What the receiver said: its status and the beginning of its words."""

    status: int
    text: str
    took_ms: int


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, by this machine's resolver."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def allow(text: str) -> frozenset[str]:
    """The operator's own receivers from a setting: `host:port`, separated by spaces or commas."""
    return frozenset(text.lower().replace(",", " ").split())


def parse(url: str, *, allowed: frozenset[str] = frozenset()) -> Target:
    """Take an address apart; raises BadWebhookUrl for everything that is not plain.

    Whatever two parsers could read differently is refused: backslashes, spaces, user names,
    numbers in place of names. `allowed` are `host:port` of the operator's own network.
    """
    if len(url) > MAX_URL or not _PATH.fullmatch(url) or "\\" in url or "#" in url:
        raise BadWebhookUrl(param="url")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").rstrip(".")
    except ValueError as error:
        raise BadWebhookUrl(param="url") from error
    if parts.scheme not in PORTS or "@" in parts.netloc or not host:
        raise BadWebhookUrl(param="url")
    target = Target(
        scheme=parts.scheme,
        host=host,
        port=PORTS[parts.scheme] if port is None else port,
        path=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
    )
    if target.place in allowed:
        return target
    literal = _literal(host)
    if literal is None and (not _HOST.fullmatch(host) or _NUMBERS.fullmatch(host)):
        raise BadWebhookUrl(param="url")
    if literal is not None and not is_public(literal):
        raise BadWebhookUrl(param="url")
    if target.port not in PORTS.values() or host == "localhost" or host.endswith(".localhost"):
        raise BadWebhookUrl(param="url")
    return target


def is_public(address: Address) -> bool:
    """Whether anybody on the internet could call it as well."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if any(address in net for net in _TUNNELS):
            return False
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not address.is_unspecified
    )


@dataclass
class Wire:
    """Makes the calls. `resolver` and `tls` are other ones in tests."""

    allowed: frozenset[str] = frozenset()
    seconds: float = 5.0
    resolver: Resolver = resolve
    tls: ssl.SSLContext | None = None

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """POST once. Raises BadWebhookUrl, Refused or Unreachable; any status is an answer."""
        target = parse(url, allowed=self.allowed)
        address = self._address(target)
        began = time.monotonic()
        try:
            return self._post(target, address, body, headers, began)
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() - began >= self.seconds:
                raise Unreachable(f"no answer within {self.seconds:g} s") from error
            raise Unreachable(f"{type(error).__name__}: {error}") from error

    def _address(self, target: Target) -> str:
        try:
            found = self.resolver(target.host, target.port)
        except (OSError, UnicodeError) as error:
            raise Unreachable(f"the name {target.host} is not known") from error
        if not found:
            raise Unreachable(f"the name {target.host} has no address")
        if target.place in self.allowed:
            return found[0]
        for text in found:
            address = _literal(text)
            # One bad address among good ones is how a name is made to slip through.
            if address is None or not is_public(address):
                raise Refused(f"{target.host} leads to an address that is not public")
        return found[0]

    def _post(
        self, target: Target, address: str, body: bytes, headers: Mapping[str, str], began: float
    ) -> Answer:
        if target.scheme == "https" and self.tls is None:
            self.tls = ssl.create_default_context()
        connection = _Pinned(target, address, self.seconds, self.tls)
        # A timeout of the socket starts anew with every byte; this one does not.
        watch = threading.Timer(self.seconds, connection.cut)
        watch.daemon = True
        watch.start()
        try:
            connection.request("POST", target.path, body=body, headers=dict(headers))
            answer = connection.getresponse()
            text = answer.read(MAX_ANSWER_BYTES)[:KEPT_ANSWER].decode("utf-8", "replace")
            took = int((time.monotonic() - began) * 1000)
            return Answer(answer.status, " ".join(text.split()), took)
        finally:
            watch.cancel()
            connection.close()


class _Pinned(http.client.HTTPConnection):
    """A connection to one address, with the Host header and the certificate of the name."""

    def __init__(
        self, target: Target, address: str, seconds: float, tls: ssl.SSLContext | None
    ) -> None:
        super().__init__(target.host, target.port, timeout=seconds)
        # http.client leaves the port out of the Host header only if it knows the default.
        self.default_port = PORTS[target.scheme]
        self._target = target
        self._address = address
        self._tls = tls
        self._late = False

    def connect(self) -> None:
        """Connect to the checked address and to nothing else."""
        plain = socket.create_connection((self._address, self._target.port), self.timeout)
        self.sock = plain
        if self._target.scheme == "https" and self._tls is not None:
            # The handshake comes after the assignment, so that `cut` can end it too.
            self.sock = self._tls.wrap_socket(
                plain, server_hostname=self._target.host, do_handshake_on_connect=False
            )
            self.sock.do_handshake()
        if self._late:
            raise TimeoutError("too late")

    def cut(self) -> None:
        """End the connection, whatever it is doing."""
        self._late = True
        sock = self.sock
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0] if ":" in host else host)
    except ValueError:
        return None
