"""REST of the notifications: the inbox, alerts, webhooks with a real receiver, unsubscription."""

import pytest
from standardwebhooks.webhooks import Webhook

from chat_app.flows import alerts, deliver
from chat_app.notify import outbox, preferences
from tests.api.conftest import Person, Serve, Server
from tests.notify import receivers


def unread(person: Person) -> int:
    """What the bell shows."""
    count: int = person.client.get("/api/notifications/unread").json()["unread"]
    return count


def buy(person: Person) -> None:
    """A paid package."""
    order = person.client.post("/api/billing/add", json={"package_id": "starter"}).json()
    paid = person.client.post(f"/api/billing/payments/{order['payment_id']}/confirm")
    assert paid.status_code == 200


def test_the_inbox_is_read_one_by_one_and_at_once(server: Server, ann: Person, bob: Person) -> None:
    for _ in range(3):
        buy(ann)
    assert (unread(ann), unread(bob)) == (3, 0)
    first = ann.client.get("/api/notifications", params={"limit": 2}).json()
    assert first["items"][0]["kind"] == "payment_paid"
    rest = ann.client.get("/api/notifications", params={"cursor": first["next_cursor"]}).json()
    assert len(rest["items"]) == 1
    id = rest["items"][0]["id"]
    assert ann.client.post(f"/api/notifications/{id}/read").json() == {"unread": 2}
    assert ann.client.post(f"/api/notifications/{id}/read").json() == {"unread": 2}
    assert bob.client.get("/api/notifications", params={"cursor": id}).status_code == 404
    assert len(ann.client.get("/api/notifications", params={"unread": True}).json()["items"]) == 2
    assert ann.client.post("/api/notifications/read").json() == {"unread": 0}
    assert unread(ann) == 0
    assert server.app is not None


def test_alerts_are_set_and_tell(server: Server, ann: Person) -> None:
    shown = ann.client.get("/api/billing/alerts").json()
    assert shown == {"low": "20", "critical": "5", "runout_days": 3, "raised": []}
    put = ann.client.put("/api/billing/alerts", json={"low": "150.5", "runout_days": None})
    assert put.json() == {"low": "150.5", "critical": "5", "runout_days": None, "raised": []}
    alerts.look(server.app)
    assert unread(ann) == 1
    assert ann.client.get("/api/billing/alerts").json()["raised"] == ["low"]
    for bad in ({"low": "-1"}, {"low": 1.5}, {"low": "1", "critical": "2"}, {"runout_days": 0},
                {"runout_days": 91}, {"else": 1}, {"low": "9" * 30}):  # fmt: skip
        assert ann.client.put("/api/billing/alerts", json=bad).status_code == 422, bad


def test_preferences_are_kept_and_security_is_fixed(ann: Person) -> None:
    path = "/api/notifications/preferences"
    topics = {item["topic"]: item for item in ann.client.get(path).json()["items"]}
    assert topics["security"]["fixed"]
    assert not topics["weekly"]["mail"]
    body = {"topics": {"weekly": {"mail": True}, "purchases": {"app": False}}}
    topics = {item["topic"]: item for item in ann.client.put(path, json=body).json()["items"]}
    assert (topics["weekly"]["mail"], topics["weekly"]["app"]) == (True, False)
    assert (topics["purchases"]["mail"], topics["purchases"]["app"]) == (True, False)
    buy(ann)
    assert unread(ann) == 0
    for bad in ({"security": {"mail": False}}, {"nothing": {"mail": True}}):
        assert ann.client.put(path, json={"topics": bad}).status_code == 422


def test_a_webhook_from_its_birth_to_its_end(serve: Serve) -> None:
    with receivers.web() as receiver:
        server = serve(notifications={"webhook_allow": receiver.place, "webhooks_per_user": 2})
        ann = server.person()
        body = {"url": receiver.url, "events": ["payment.paid"]}
        made = ann.client.post("/api/webhooks", json=body)
        assert made.status_code == 201
        assert made.headers["cache-control"] == "no-store"
        hook = made.json()
        path = f"/api/webhooks/{hook['id']}"
        assert "secret" not in ann.client.get("/api/webhooks").json()["items"][0]
        assert ann.client.post(f"{path}/test").json()["state"] == "sent"
        rotated = ann.client.post(f"{path}/rotate").json()
        assert rotated["secret"] != hook["secret"]
        buy(ann)
        deliver.deliver_due(server.app)
        for secret in (hook["secret"], rotated["secret"]):
            content = Webhook(secret).verify(receiver.calls[-1].body, receiver.calls[-1].headers)
            assert content["data"]["amount"].endswith("USD")
        receiver.answer = 500
        failed = ann.client.post(f"{path}/test").json()
        assert (failed["state"], failed["error"]) == ("dead", "status 500")
        calls = ann.client.get(f"{path}/deliveries").json()["items"]
        assert [(call["event"], call["state"]) for call in calls] == [
            ("test", "dead"), ("payment.paid", "sent"), ("test", "sent"),
        ]  # fmt: skip
        assert ann.client.post("/api/webhooks", json=body).status_code == 201
        assert ann.client.post("/api/webhooks", json=body).json()["error"]["code"] == (
            "too_many_webhooks"
        )
        off = ann.client.patch(path, json={"enabled": False}).json()
        assert not off["enabled"]
        assert ann.client.delete(path).status_code == 204
        assert ann.client.get(f"{path}/deliveries").status_code == 404


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "http://[::ffff:10.0.0.1]/", "http://x.org:22/", "file:///x", ""]
)
def test_addresses_inside_are_refused_at_once(ann: Person, url: str) -> None:
    answer = ann.client.post("/api/webhooks", json={"url": url, "events": ["balance.low"]})
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "invalid_webhook_url"


def test_one_click_ends_a_topic_and_a_look_does_not(server: Server, ann: Person) -> None:
    """RFC 8058: the POST acts without any sign-in; opening the link changes nothing."""
    key = server.app.secrets.link_key
    token = preferences.link_token(key, user_id=int(ann.id), topic="purchases")
    path = "/api/notifications/unsubscribe"

    def wanted() -> bool:
        with server.app.db.read() as session:
            return preferences.wants(
                session, user_id=int(ann.id), topic="purchases", channel="mail"
            )

    stranger = server.client()
    page = stranger.get(path, params={"token": token})
    assert page.status_code == 200
    assert '<form method="post">' in page.text
    assert wanted()
    other = f"{int(ann.id) + 1}.purchases.{token.rpartition('.')[2]}"
    for bad in (other, token[:-2], "", "x" * 300):
        answer = stranger.post(path, params={"token": bad})
        assert answer.status_code in (404, 422), bad
    assert wanted()
    done = stranger.post(path, params={"token": token}, data={"List-Unsubscribe": "One-Click"})
    assert done.status_code == 200
    assert not wanted()


def test_operators_see_dead_letters_and_send_them_again(serve: Serve) -> None:
    with receivers.post() as post:
        mail = {"kind": "smtp", "host": "127.0.0.1", "port": post.port, "tls": "none"}
        server = serve(mail=mail)
        ann, root = server.person(), server.person(admin=True)
        post.recipient_reply = "550 no such user"
        buy(ann)
        deliver.deliver_due(server.app)
        (dead,) = root.client.get("/api/admin/messages", params={"state": "dead"}).json()["items"]
        assert (dead["channel"], dead["to"]) == ("mail", f"{ann.username}@example.org")
        assert dead["error"].startswith("550")
        troubles = root.client.get("/api/monitoring/alerts").json()["items"]
        assert any("given up" in item["sentence"] for item in troubles)
        post.recipient_reply = "250 OK"
        again = root.client.post(f"/api/admin/messages/{dead['id']}/resend")
        assert again.json()["state"] == "waiting"
        assert root.client.post(f"/api/admin/messages/{dead['id']}/resend").status_code == 404
        deliver.deliver_due(server.app)
        assert len(post.mails) == 1
        assert dead["id"] in post.mails[0]["Message-ID"]
        with server.app.db.read() as session:
            assert outbox.counts(session)["dead"] == 0


def test_an_announcement_is_checked(root: Person) -> None:
    path = "/api/admin/announcements"
    for bad in ({"title": "", "text": "words"}, {"title": "Hi there", "text": ""},
                {"title": "Hi there", "text": "x" * 5001}):  # fmt: skip
        assert root.client.post(path, json=bad).status_code == 422
    made = root.client.post(path, json={"title": "Hi there", "text": "Words."}).json()
    assert made["id"] in [item["id"] for item in root.client.get(path).json()["items"]]
