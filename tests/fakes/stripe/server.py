"""A stand-in for Stripe's API, its hosted page and its webhooks, as a real HTTP server.

For tests and for a look at the hosted flow: `python -m tests.fakes.stripe.server --help`. What it
answers is held to Stripe's own clients, types and examples by tests/fakes/test_stripe.py.
"""

import argparse
import hashlib
import html
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.fakes.stripe.account import Account, Refused, Thing, bad

API_KEY = "sk_test_standin"
WEBHOOK_SECRET = "whsec_standin"
RETRIES, RETRY_SECONDS = 5, 0.2
KNOWN = {
    "/v1/checkout/sessions": {
        "mode", "client_reference_id", "metadata", "payment_intent_data", "line_items",
        "success_url", "cancel_url", "customer_email", "expires_at", "expand", "customer",
        "customer_creation",
    },
    "/v1/payment_intents": {
        "amount", "currency", "customer", "payment_method", "off_session", "confirm", "metadata",
        "description", "expand",
    },
    "/v1/refunds": {"payment_intent", "charge", "amount", "metadata", "reason", "expand"},
}  # fmt: skip


@dataclass
class Fake:
    """The running stand-in. With `hold` events wait in `outbox` until somebody delivers them.

    `failing` requests are answered with 500, and `losing` ones too, but only after they acted.
    """

    url: str = ""
    webhook_url: str = ""
    hold: bool = False
    failing: int = 0
    losing: int = 0
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    outbox: list[Thing] = field(default_factory=list)
    deliveries: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.account = Account(self._told)
        self._answers: dict[str | None, tuple[str, int, Thing]] = {}
        self._senders: list[threading.Thread] = []

    def _told(self, event: Thing) -> None:
        if self.hold or not self.webhook_url:
            self.outbox.append(event)
            return
        sender = threading.Thread(target=self._send, args=(event,), daemon=True)
        self._senders.append(sender)
        sender.start()

    def _send(self, event: Thing) -> None:
        for attempt in range(RETRIES):
            try:
                if self.deliver(event) < 300:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(RETRY_SECONDS * 2**attempt)

    def deliver(
        self,
        event: Thing,
        *,
        age_seconds: int = 0,
        secret: str = WEBHOOK_SECRET,
        body: bytes | None = None,
        header: str | None = None,
    ) -> int:
        """Post an event, signed as Stripe does; returns the status of the answer."""
        import stripe

        content = json.dumps(event).encode() if body is None else body
        signed = stripe.WebhookSignature.generate_signature_header(
            json.dumps(event), secret, int(time.time()) - age_seconds
        )
        headers = {"Content-Type": "application/json; charset=utf-8"}
        headers["Stripe-Signature"] = signed if header is None else header
        answer = httpx.post(self.webhook_url, content=content, headers=headers, timeout=30)
        self.deliveries.append((event["type"], answer.status_code))
        return answer.status_code

    def deliver_all(self) -> list[int]:
        """Post all that waits, in order."""
        waiting, self.outbox = self.outbox, []
        return [self.deliver(event) for event in waiting]

    def quiet(self) -> None:
        """Wait until everything under way is delivered."""
        for sender in self._senders:
            sender.join(30)

    def answer(self, method: str, path: str, form: str, key: str | None) -> tuple[int, Thing, bool]:
        """Status, body, and whether it is the stored answer to the same key."""
        broken = {"error": {"type": "api_error", "message": "Something broke."}}
        with self.account.lock:
            self.requests.append((method, path, key or ""))
            if self.failing:
                self.failing -= 1
                return 500, broken, False
            found = self._answer(method, path, form, key if method == "POST" else None)
            if self.losing:
                self.losing -= 1
                return 500, broken, False
            return found

    def _answer(
        self, method: str, path: str, form: str, key: str | None
    ) -> tuple[int, Thing, bool]:
        digest = hashlib.sha256(f"{method} {path}\n{form}".encode()).hexdigest()
        if key in self._answers:
            known, status, body = self._answers[key]
            if known == digest:
                return status, body, True
            words = "Keys for idempotent requests can only be used with the same parameters"
            return 400, {"error": {"type": "idempotency_error", "message": words}}, False
        try:
            status, body = 200, self._route(method, path, nested(form))
        except Refused as error:
            status, body = error.status, {"error": error.error}
        body = json.loads(json.dumps(body))
        if key:
            self._answers[key] = (digest, status, body)
        return status, body, False

    def _route(self, method: str, path: str, params: Thing) -> Thing:
        account = self.account
        unknown = sorted(set(params) - KNOWN.get(path, set(params)))
        if unknown and method == "POST":
            raise bad(f"Received unknown parameter: {unknown[0]}", "parameter_unknown")
        routes: list[tuple[str, str, Callable[..., Thing]]] = [
            ("POST", r"/v1/checkout/sessions", lambda: account.open_session(params)),
            ("GET", r"/v1/checkout/sessions/(\w+)", lambda n: account.get(n, "checkout.session")),
            ("POST", r"/v1/checkout/sessions/(\w+)/expire", account.expire),
            ("POST", r"/v1/payment_intents", lambda: account.charge_absent(params)),
            ("GET", r"/v1/payment_intents", lambda: self._list("payment_intent", path, params)),
            (
                "GET",
                r"/v1/customers/(\w+)/payment_methods",
                lambda n: listed(account.methods(n), path),
            ),
            ("POST", r"/v1/payment_methods/(\w+)/detach", account.detach),
            ("GET", r"/v1/payment_intents/(\w+)", lambda n: account.get(n, "payment_intent")),
            ("GET", r"/v1/charges/(\w+)", lambda n: account.get(n, "charge")),
            ("POST", r"/v1/refunds", lambda: account.refund(params)),
            ("GET", r"/v1/refunds", lambda: self._list("refund", path, params)),
            ("GET", r"/v1/refunds/(\w+)", lambda n: account.get(n, "refund")),
            ("GET", r"/v1/disputes/(\w+)", lambda n: account.get(n, "dispute")),
            ("GET", r"/v1/events", lambda: listed(account.events[::-1], path)),
        ]
        for verb, pattern, act in routes:
            match = re.fullmatch(pattern, path)
            if match and verb == method:
                return act(*match.groups())
        raise Refused(404, "invalid_request_error", f"Unrecognized request URL ({method}: {path}).")

    def _list(self, kind: str, path: str, params: Thing) -> Thing:
        found = [
            thing
            for thing in self.account.things.values()
            if thing["object"] == kind
            and all(
                params.get(name) in (None, thing[name])
                for name in ("payment_intent", "customer")
                if name in thing
            )
        ]
        return listed(found[::-1], path)


def listed(items: list[Thing], path: str) -> Thing:
    """A page with everything on it."""
    return {"object": "list", "data": items, "has_more": False, "url": path}


def nested(form: str) -> Thing:
    """`a[b][0][c]=d` as objects and lists."""
    root: Thing = {}
    for name, value in parse_qsl(form, keep_blank_values=True):
        path = re.findall(r"[^\[\]]+", name)
        place = root
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = value
    return _lists(root)


def _lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {name: _lists(item) for name, item in value.items()}
    if inner and all(name.isdigit() for name in inner):
        return [inner[name] for name in sorted(inner, key=int)]
    return inner


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Pay</title>
<meta name="viewport" content="width=device-width"><style>
body{{font:16px system-ui;max-width:26rem;margin:3rem auto;padding:0 1rem;color:#1a1f36}}
button{{display:block;width:100%;padding:.8rem;margin:.6rem 0;border:1px solid #ccd;
border-radius:.5rem;font:inherit;background:#fff}}button.first{{background:#1a1f36;color:#fff}}
</style><h1>{amount}</h1><p>{what}</p>{note}<form method="post">
<button class="first" id="pay" name="act" value="pay">Pay with a test card</button>
<button id="later" name="act" value="later">Pay by a transfer that takes days</button>
<button id="decline" name="act" value="decline">Pay with a card that is declined</button></form>
<p><a id="back" href="{back}">Back to the shop</a></p>
<p><small>A stand-in for a payment page. No money moves.</small></p></html>"""


def application(fake: Fake) -> Starlette:
    """The API and the hosted page."""

    async def api(request: Request) -> Response:
        if f"Bearer {API_KEY}" != request.headers.get("authorization"):
            words = {"type": "invalid_request_error", "message": "Invalid API Key provided"}
            return JSONResponse({"error": words}, 401)
        form = (await request.body()).decode() or request.url.query
        status, body, again = fake.answer(
            request.method, request.url.path, form, request.headers.get("idempotency-key")
        )
        headers = {"Request-Id": "req_standin"}
        if again:
            headers["Idempotent-Replayed"] = "true"
        return JSONResponse(body, status, headers)

    async def page(request: Request) -> Response:
        number, note = request.path_params["number"], ""
        try:
            session = fake.account.get(number, "checkout.session")
        except Refused:
            return HTMLResponse("This page has expired.", 404)
        if request.method == "POST":
            chosen = dict(parse_qsl((await request.body()).decode())).get("act")
            if chosen == "decline":
                note = '<p id="declined"><b>Your card was declined.</b> Try another one.</p>'
            else:
                try:
                    fake.account.pay(number, later=chosen == "later")
                except Refused:
                    return HTMLResponse("This page has expired.", 410)
                return RedirectResponse(session["success_url"], 303)
        amount = f"{session['amount_total'] / 100:.2f} {str(session['currency']).upper()}"
        what = f"Order {session['client_reference_id']}"
        back = html.escape(session["cancel_url"] or "/", quote=True)
        return HTMLResponse(
            _PAGE.format(amount=amount, what=html.escape(what), note=note, back=back)
        )

    return Starlette(
        routes=[
            Route("/v1/{path:path}", api, methods=["GET", "POST"]),
            Route("/c/pay/{number}", page, methods=["GET", "POST"]),
        ]
    )


@contextmanager
def served(application: Starlette, port: int = 0) -> Iterator[str]:
    """An application on a port of this machine; gives its URL."""
    server = uvicorn.Server(
        uvicorn.Config(application, host="127.0.0.1", port=port, log_level="error")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


@contextmanager
def running(port: int = 0, **options: Any) -> Iterator[Fake]:
    """The stand-in on a port of this machine."""
    fake = Fake(**options)
    with served(application(fake), port) as url:
        fake.url = fake.account.page_url = url
        yield fake
        fake.quiet()


def main() -> None:
    """Run it until it is interrupted."""
    parser = argparse.ArgumentParser(description="A stand-in for Stripe. No money moves.")
    parser.add_argument("--port", type=int, default=12111)
    parser.add_argument(
        "--webhook", default="http://127.0.0.1:7860/api/billing/webhooks/stripe", metavar="URL"
    )
    wanted = parser.parse_args()
    with running(wanted.port, webhook_url=wanted.webhook) as fake:
        print(
            f"CHAT_APP_PAYMENTS__PROVIDER=stripe CHAT_APP_PAYMENTS__STRIPE_API_BASE={fake.url} \\"
        )
        print(f"  CHAT_APP_PAYMENTS__STRIPE_API_KEY={API_KEY} \\")
        print(f"  CHAT_APP_PAYMENTS__STRIPE_WEBHOOK_SECRET={WEBHOOK_SECRET}")
        threading.Event().wait()


if __name__ == "__main__":
    main()
