"""The stand-in for Stripe, held to what is not ours: Stripe's clients, types and examples."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe

from chat_app.credits.payments.stripe import Stripe
from tests.fakes.stripe import server
from tests.fakes.stripe.account import EXAMPLES
from tests.fakes.stripe.server import API_KEY, WEBHOOK_SECRET, Fake

NODE = Path(__file__).parent / "stripe" / "node"
ORDER = {
    "mode": "payment",
    "client_reference_id": "pay_1",
    "metadata": {"order_id": "pay_1", "user_id": "7"},
    "payment_intent_data": {"metadata": {"order_id": "pay_1"}},
    "line_items": [
        {
            "quantity": 2,
            "price_data": {
                "currency": "usd",
                "unit_amount": 250,
                "product_data": {"name": "250 credits"},
            },
        }
    ],
    "success_url": "http://shop.test/back",
    "cancel_url": "http://shop.test/back",
}
KEEPING = {
    "customer_creation": "always",
    "payment_intent_data": {"setup_future_usage": "off_session", "metadata": {"order_id": "pay_1"}},
}
SESSION_FIELDS = [
    "id", "object", "amount_total", "currency", "client_reference_id", "metadata", "status",
    "payment_status", "payment_intent", "url", "success_url", "cancel_url", "mode", "created",
    "expires_at", "livemode",
]  # fmt: skip
REFUND_FIELDS = [
    "id", "object", "amount", "currency", "status", "metadata", "payment_intent", "reason",
]  # fmt: skip
DISPUTE_FIELDS = [
    "id", "object", "amount", "currency", "status", "payment_intent", "reason", "charge",
    "is_charge_refundable",
]  # fmt: skip
INTENT_FIELDS = [
    "id", "object", "amount", "amount_received", "currency", "customer", "payment_method",
    "status", "metadata",
]  # fmt: skip
TSC = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--target", "es2022"]
# Keys that Stripe documents as optional and its examples leave out.
OPTIONAL = {"failure_reason", "failure_balance_transaction", "pending_reason"}


def absent(customer: str, card: str) -> dict[str, Any]:
    """A payment from a kept card."""
    return {
        "amount": 500,
        "currency": "usd",
        "customer": customer,
        "payment_method": card,
        "off_session": True,
        "confirm": True,
        "metadata": {"order_id": "pay_1", "attempt": "pay_1:1"},
    }


@pytest.fixture
def fake() -> Iterator[Fake]:
    with server.running(hold=True) as running:
        yield running


@pytest.fixture
def client(fake: Fake) -> Any:
    """The official client, as it comes."""
    return stripe.StripeClient(
        API_KEY, base_addresses={"api": fake.url}, http_client=stripe.RequestsClient(timeout=20)
    )


def test_the_official_python_client_goes_all_the_way(fake: Fake, client: Any) -> None:
    made = client.v1.checkout.sessions.create(ORDER, {"idempotency_key": "k"})
    assert (made.amount_total, made.currency, made.status) == (500, "usd", "open")
    again = client.v1.checkout.sessions.create(ORDER, {"idempotency_key": "k"})
    assert again.id == made.id
    with pytest.raises(stripe.IdempotencyError):
        client.v1.checkout.sessions.create(ORDER | {"cancel_url": "x"}, {"idempotency_key": "k"})
    with pytest.raises(stripe.InvalidRequestError) as unknown:
        client.v1.checkout.sessions.create(ORDER | {"sucess_url": "x"})
    assert unknown.value.code == "parameter_unknown"
    fake.account.pay(made.id)
    paid = client.v1.checkout.sessions.retrieve(made.id)
    assert (paid.status, paid.payment_status) == ("complete", "paid")
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.checkout.sessions.expire(made.id)
    intent = client.v1.payment_intents.retrieve(paid.payment_intent)
    assert intent.metadata["order_id"] == "pay_1"
    part = client.v1.refunds.create({"payment_intent": intent.id, "amount": 200})
    assert (part.status, part.amount) == ("succeeded", 200)
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.refunds.create({"payment_intent": intent.id, "amount": 301})
    client.v1.refunds.create({"payment_intent": intent.id})
    with pytest.raises(stripe.InvalidRequestError) as nothing:
        client.v1.refunds.create({"payment_intent": intent.id})
    assert nothing.value.code == "charge_already_refunded"
    assert len(client.v1.refunds.list({"payment_intent": intent.id}).data) == 2
    with pytest.raises(stripe.InvalidRequestError) as missing:
        client.v1.checkout.sessions.retrieve("cs_nothing")
    assert missing.value.http_status == 404
    other = stripe.StripeClient("sk_other", base_addresses={"api": fake.url})
    with pytest.raises(stripe.AuthenticationError):
        other.v1.checkout.sessions.retrieve(made.id)
    events = client.v1.events.list()
    assert events.data[0].type == "charge.refunded"


def test_the_official_client_keeps_a_card_and_charges_it(fake: Fake, client: Any) -> None:
    made = client.v1.checkout.sessions.create(ORDER | KEEPING)
    fake.account.pay(made.id)
    customer = client.v1.checkout.sessions.retrieve(made.id).customer
    (card,) = client.v1.customers.payment_methods.list(customer, {"type": "card"}).data
    assert card.card.last4 == "4242"
    paid = client.v1.payment_intents.create(absent(customer, card.id), {"idempotency_key": "a"})
    again = client.v1.payment_intents.create(absent(customer, card.id), {"idempotency_key": "a"})
    assert (paid.status, paid.amount_received, again.id) == ("succeeded", 500, paid.id)
    found = client.v1.payment_intents.list({"customer": customer, "limit": 100}).data
    assert found[0].id == paid.id
    for does, code in (("declined", "card_declined"), ("authenticate", "authentication_required")):
        fake.account.cards[card.id] = does
        with pytest.raises(stripe.CardError) as refused:
            client.v1.payment_intents.create(absent(customer, card.id))
        assert refused.value.code == code
        assert refused.value.error.payment_intent.status == "requires_payment_method"
    client.v1.payment_methods.detach(card.id)
    assert client.v1.customers.payment_methods.list(customer).data == []
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.payment_intents.create(absent(customer, card.id))


def test_every_object_has_the_keys_and_kinds_of_the_published_ones(fake: Fake) -> None:
    """The third oracle: after a whole life, nothing is missing, made up or of another kind."""
    account = fake.account
    first = account.pay(account.open_session(_form(ORDER))["id"])
    account.fail_refund(account.refund({"payment_intent": first["payment_intent"]})["id"])
    account.decide(account.dispute(first["payment_intent"])["id"], won=True)
    later = account.pay(account.open_session(_form(ORDER))["id"], later=True)
    account.arrive(later["id"])
    account.expire(account.open_session(_form(ORDER))["id"])
    kept = account.pay(account.open_session(_form(ORDER | KEEPING))["id"])
    card = account.methods(kept["customer"])[0]["id"]
    account.charge_absent(_form(absent(kept["customer"], card)))
    account.detach(card)
    seen = [*account.things.values(), *account.events]
    seen += [event["data"]["object"] for event in account.events]
    assert {thing["object"] for thing in seen} == set(EXAMPLES)
    for thing in seen:
        example = EXAMPLES[thing["object"]]
        assert set(thing) - set(example) <= OPTIONAL, thing["object"]
        assert set(example) <= set(thing), thing["object"]
        for name, value in thing.items():
            known = example.get(name)
            # An example shows one value: where it is null, or ours is, there is nothing to compare.
            if value is not None and known is not None:
                assert type(value) is type(known), (thing["object"], name)


def test_the_official_verifier_takes_its_signatures_and_no_others(fake: Fake) -> None:
    fake.account.open_session(_form(ORDER))
    event = fake.account.emit(
        "checkout.session.completed", next(iter(fake.account.things.values()))
    )
    body = json.dumps(event)
    ours = Stripe(api_key=API_KEY, webhook_secret=WEBHOOK_SECRET, api_base=fake.url)
    header = stripe.WebhookSignature.generate_signature_header(body, WEBHOOK_SECRET)
    official = stripe.Webhook.construct_event(body, header, WEBHOOK_SECRET)
    assert (official.id, official.data.object.object) == (event["id"], "checkout.session")
    assert ours.parse(body.encode(), header).id == event["id"]


def test_it_delivers_again_until_it_is_heard(fake: Fake) -> None:
    """Its webhooks are retried after an error, like Stripe's."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    answers = [500, 503, 200]
    heard: list[str] = []

    async def hook(request: Request) -> Response:
        heard.append((await request.json())["id"])
        return Response(status_code=answers[len(heard) - 1])

    with server.served(Starlette(routes=[Route("/hook", hook, methods=["POST"])])) as url:
        fake.webhook_url, fake.hold = f"{url}/hook", False
        event = fake.account.emit("charge.succeeded", dict(EXAMPLES["charge"]))
        fake.quiet()
    assert heard == [event["id"]] * 3
    assert [status for _, status in fake.deliveries] == answers


def test_the_hosted_page_pays_declines_and_waits(fake: Fake, client: Any) -> None:
    made = client.v1.checkout.sessions.create(ORDER)
    page = httpx.get(made.url)
    assert "5.00 USD" in page.text
    assert "declined" in httpx.post(made.url, data={"act": "decline"}).text
    assert client.v1.checkout.sessions.retrieve(made.id).status == "open"
    answer = httpx.post(made.url, data={"act": "pay"})
    assert (answer.status_code, answer.headers["location"]) == (303, "http://shop.test/back")
    assert httpx.post(made.url, data={"act": "pay"}).status_code == 410
    slow = client.v1.checkout.sessions.create(ORDER)
    httpx.post(slow.url, data={"act": "later"})
    assert client.v1.checkout.sessions.retrieve(slow.id).payment_status == "unpaid"


@pytest.fixture(scope="module")
def node() -> str:
    """Node with Stripe's SDK and TypeScript, where somebody has installed them."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("there is no Node on this machine; install it to check against Stripe's SDK")
    if not (NODE / "node_modules" / "stripe").is_dir():
        pytest.skip(f"run `npm install` in {NODE.relative_to(Path.cwd())} to check against the SDK")
    return program


def test_the_official_node_signer_and_ours_agree(node: str, fake: Fake) -> None:
    """The second oracle: what its signer signs our provider takes, and the other way round."""
    event = fake.account.emit("charge.succeeded", dict(EXAMPLES["charge"]))
    body = json.dumps(event)
    theirs = stripe.WebhookSignature.generate_signature_header(body, WEBHOOK_SECRET)
    told = json.dumps({"body": body, "header": theirs, "secret": WEBHOOK_SECRET})
    done = _node(node, "sign.mjs", told)
    answer = json.loads(done.stdout)
    assert answer["verified"] == event["id"]
    ours = Stripe(api_key=API_KEY, webhook_secret=WEBHOOK_SECRET)
    assert ours.parse(body.encode(), answer["header"]).id == event["id"]


def test_the_official_node_client_goes_all_the_way(node: str, fake: Fake) -> None:
    told = json.dumps({"url": fake.url, "key": API_KEY, "order": ORDER})
    answer = json.loads(_node(node, "client.mjs", told).stdout)
    assert answer == {"total": 500, "status": "open", "error": "parameter_unknown"}


def test_the_objects_have_the_types_of_the_official_sdk(node: str, fake: Fake) -> None:
    """What we send and what the stand-in answers passes `tsc`; a wrong name or kind does not."""
    account = fake.account
    session = account.pay(account.open_session(_form(ORDER | KEEPING))["id"])
    card = account.methods(session["customer"])[0]
    charge = absent(session["customer"], card["id"])
    intent = account.charge_absent(_form(charge))
    refund = account.refund({"payment_intent": session["payment_intent"], "amount": "10"})
    dispute = account.dispute(session["payment_intent"])

    def check(name: str, order: Any, session: Any) -> int:
        shown = {
            "Checkout.Session": (session, SESSION_FIELDS),
            "Refund": (refund, REFUND_FIELDS),
            "Dispute": (dispute, DISPUTE_FIELDS),
            "PaymentIntent": (intent, INTENT_FIELDS),
            "PaymentMethod": (card, ["id", "object", "customer", "type", "card"]),
        }
        lines = [
            "import Stripe from 'stripe';",
            f"export const order: Stripe.Checkout.SessionCreateParams = {json.dumps(order)};",
            f"export const charge: Stripe.PaymentIntentCreateParams = {json.dumps(charge)};",
        ]
        for number, (kind, (thing, fields)) in enumerate(shown.items()):
            part = json.dumps({field: thing[field] for field in fields})
            names = " | ".join(map(repr, fields))
            lines.append(f"export const v{number}: Pick<Stripe.{kind}, {names}> = {part};")
        path = NODE / f".{name}.ts"
        path.write_text("\n".join(lines))
        try:
            command = [node, str(NODE / "node_modules" / "typescript" / "bin" / "tsc"), *TSC]
            done = subprocess.run(
                [*command, path.name], cwd=NODE, capture_output=True, text=True, check=False
            )
            print(done.stdout[:2000])
            return done.returncode
        finally:
            path.unlink()

    assert check("right", ORDER | KEEPING, session) == 0
    assert check("misspelt", ORDER | {"sucess_url": "x"}, session) != 0
    assert check("wrong", ORDER, session | {"amount_total": "500"}) != 0


def _node(program: str, script: str, told: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": os.environ["PATH"], "NODE_NO_WARNINGS": "1"}
    return subprocess.run(
        [program, script], cwd=NODE, input=told, capture_output=True, text=True, check=True,
        timeout=60, env=environment,
    )  # fmt: skip


def _form(params: Any) -> Any:
    """As a form carries it: everything is text."""
    if isinstance(params, dict):
        return {name: _form(value) for name, value in params.items()}
    if isinstance(params, list):
        return [_form(value) for value in params]
    if isinstance(params, bool):
        return str(params).lower()
    return str(params)
