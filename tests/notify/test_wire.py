"""The guard around outgoing calls: nothing inside the network is ever reached (bar 27)."""

import socket
import threading
import time

import pytest

from chat_app.notify import wire
from chat_app.notify.wire import BadWebhookUrl, Refused, Unreachable, Wire
from tests.notify import receivers

PUBLIC = "93.184.215.14"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/x",
        "http://user@example.org/",
        "http://user:secret@example.org/",
        "http://example.org\\@127.0.0.1/",
        "http://example.org:8080/",
        "http://example.org:22/",
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://0x7f.1/",
        "http://localhost/",
        "http://LOCALHOST./",
        "http://a.localhost/",
        "http://10.0.0.8/",
        "http://192.168.1.1/",
        "http://172.16.0.1/",
        "http://100.64.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://0.0.0.0/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[::127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[2001:0:7f00:1::]/",
        "http://[fe80::1]/",
        "http://[fd00::1]/",
        "http://[fec0::1]/",
        "http://[ff02::1]/",
        "http://example.org/a b",
        "http://example.org/\r\nx: y",
        "http://exa\x00mple.org/",
        "http://example.org/#fragment",
        "http:///path",
        "http://",
        "//example.org/",
        "javascript:alert(1)",
        "http://[::1",
        "http://exämple.org/",
        "https://example.org:99999/",
        "https://" + "a" * 2000 + ".org/",
    ],
)
def test_addresses_that_are_refused_as_they_stand(url: str) -> None:
    with pytest.raises(BadWebhookUrl):
        wire.parse(url)


@pytest.mark.parametrize(
    ("url", "place", "path"),
    [
        ("https://example.org", "example.org:443", "/"),
        ("http://Example.ORG/hook?a=1", "example.org:80", "/hook?a=1"),
        ("https://example.org:443/x", "example.org:443", "/x"),
        ("http://93.184.215.14/", "93.184.215.14:80", "/"),
        ("https://xn--exmple-cua.org/", "xn--exmple-cua.org:443", "/"),
    ],
)
def test_plain_addresses_are_taken_apart(url: str, place: str, path: str) -> None:
    target = wire.parse(url)
    assert (target.place, target.path) == (place, path)


@pytest.mark.parametrize(
    "answers",
    [
        ["127.0.0.1"],
        [PUBLIC, "10.0.0.1"],
        ["169.254.169.254"],
        ["::ffff:10.0.0.1"],
        ["fe80::1%eth0"],
        ["64:ff9b::a9fe:a9fe"],
        ["0.0.0.0"],
        ["not an address"],
    ],
)
def test_a_name_that_leads_inside_is_refused_before_any_connection(
    answers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One inside address among good ones is enough."""
    monkeypatch.setattr(socket, "create_connection", _never)
    with pytest.raises(Refused):
        Wire(resolver=lambda _host, _port: answers).post("http://evil.example/", b"{}", {})


def test_a_name_that_changes_its_answer_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the first answer is public, every later one is this machine."""
    asked: list[str] = []
    tried: list[tuple[str, int]] = []

    def resolver(host: str, _port: int) -> list[str]:
        asked.append(host)
        return [PUBLIC] if len(asked) == 1 else ["127.0.0.1"]

    def connect(address: tuple[str, int], _timeout: float) -> socket.socket:
        tried.append(address)
        raise ConnectionRefusedError("nobody there")

    monkeypatch.setattr(socket, "create_connection", connect)
    with receivers.web() as canary:
        with pytest.raises(Unreachable):
            Wire(resolver=resolver).post("http://evil.example/", b"{}", {})
        assert canary.calls == []
    assert asked == ["evil.example"]
    assert tried == [(PUBLIC, 80)]


def test_a_redirect_to_the_inside_is_not_followed() -> None:
    with receivers.web() as canary, receivers.web() as outside:
        outside.answer = 307
        outside.headers = {"location": canary.url}
        answer = Wire(allowed=frozenset({outside.place})).post(outside.url, b"{}", {})
        assert answer.status == 307
        assert len(outside.calls) == 1
        assert canary.calls == []


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with receivers.web() as proxy, receivers.web() as receiver:
        monkeypatch.setenv("http_proxy", f"http://{proxy.place}")
        wired = Wire(allowed=frozenset({receiver.place}))
        assert wired.post(receiver.url, b"{}", {}).status == 200
        assert proxy.calls == []


def test_the_call_arrives_with_the_name_as_host() -> None:
    """The connection goes to the checked address, the Host header names the name."""
    with receivers.web() as receiver:
        place = f"hooks.internal:{receiver.port}"
        wired = Wire(allowed=frozenset({place}), resolver=lambda _host, _port: ["127.0.0.1"])
        wired.post(f"http://{place}/in?x=1", b'{"a":1}', {"webhook-id": "m1"})
        (call,) = receiver.calls
        assert (call.path, call.body) == ("/in?x=1", b'{"a":1}')
        assert call.headers["host"] == place
        assert call.headers["webhook-id"] == "m1"


def test_a_receiver_that_drips_is_cut_off() -> None:
    """A timeout of the socket starts anew with every byte; the call's own does not."""
    with receivers.web() as receiver:
        receiver.answer = lambda handler: receivers.drip(handler, seconds=20)
        wired = Wire(allowed=frozenset({receiver.place}), seconds=0.4)
        ended = threading.Event()

        def call() -> None:
            with pytest.raises(Unreachable):
                wired.post(receiver.url, b"{}", {})
            ended.set()

        thread = threading.Thread(target=call)
        thread.start()
        thread.join(15)
        assert ended.is_set()


def test_a_huge_answer_is_not_read_to_its_end() -> None:
    with receivers.web() as receiver:
        sent = []

        def answer(handler: object) -> None:
            handler.send_response(200)  # type: ignore[attr-defined]
            handler.end_headers()  # type: ignore[attr-defined]
            for _ in range(2000):
                handler.wfile.write(b"x" * 65536)  # type: ignore[attr-defined]
                sent.append(65536)

        receiver.answer = answer
        got = Wire(allowed=frozenset({receiver.place})).post(receiver.url, b"{}", {})
        assert len(got.text) <= wire.KEPT_ANSWER
        time.sleep(0.1)
        assert sum(sent) < 2000 * 65536


def test_nobody_there_is_said_so() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(Unreachable):
        Wire(allowed=frozenset({place})).post(f"http://{place}/", b"{}", {})

    def unknown(_host: str, _port: int) -> list[str]:
        raise socket.gaierror("no such name")

    with pytest.raises(Unreachable, match="not known"):
        Wire(resolver=unknown).post("https://nowhere.example/", b"{}", {})


def _never(*_given: object, **_more: object) -> socket.socket:
    raise AssertionError("a connection was tried")
