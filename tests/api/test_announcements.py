"""Announcements over HTTP: who sees them, from when until when, and that a dismissal lasts."""

from datetime import timedelta

import pytest

from chat_app.clock import ManualClock, rfc3339
from tests.api.conftest import Person, Serve, Server

PATH = "/api/admin/announcements"
HOUR = 3600 * 1_000_000


@pytest.fixture(scope="module")
def server(serve: Serve) -> Server:
    """A server whose clock is ours."""
    served = serve(accounts={"access_minutes": 60})
    served.app.clock = ManualClock()
    return served


def seen(person: Person) -> list[str]:
    """The titles on the person's page."""
    items = person.client.get("/api/announcements").raise_for_status().json()["items"]
    return [item["title"] for item in items]


def announce(root: Person, title: str, **more: object) -> str:
    body = {"title": title, "text": "Words about it.", "notify": False, **more}
    return str(root.client.post(PATH, json=body).raise_for_status().json()["id"])


def test_it_stands_on_everybodys_page_until_each_dismisses_it(server: Server) -> None:
    root, ann, bob = server.person(admin=True), server.person(), server.person()
    quiet = announce(root, "New models")
    loud = announce(root, "Maintenance", level="warning")
    assert seen(ann) == seen(bob) == seen(root) == ["Maintenance", "New models"]
    assert server.client().get("/api/announcements").status_code == 401
    for _ in range(2):
        assert ann.client.post(f"/api/announcements/{loud}/dismiss").status_code == 204
    assert (seen(ann), seen(bob)) == (["New models"], ["Maintenance", "New models"])
    assert ann.client.post("/api/announcements/ann_nothing/dismiss").status_code == 404
    for id in (quiet, loud):
        assert root.client.delete(f"{PATH}/{id}").status_code == 204
    assert seen(bob) == []
    assert root.client.delete(f"{PATH}/ann_nothing").status_code == 404
    assert ann.client.delete(f"{PATH}/{quiet}").status_code == 403


def test_it_comes_and_goes_at_its_times(server: Server) -> None:
    clock = server.app.clock
    assert isinstance(clock, ManualClock)
    root, ann = server.person(admin=True), server.person()
    now = clock.micros()
    later, end = rfc3339(now + HOUR // 3), rfc3339(now + HOUR * 2 // 3)
    made = announce(root, "Tonight", starts_at=later, ends_at=end)
    assert seen(ann) == []
    assert ann.client.post(f"/api/announcements/{made}/dismiss").status_code == 404, "too early"
    clock.moment += timedelta(minutes=20)
    assert seen(ann) == ["Tonight"]
    clock.moment += timedelta(minutes=20)
    assert seen(ann) == []
    # Without an end it stands for a week.
    announce(root, "For a week")
    clock.moment += timedelta(days=6, hours=23, minutes=30)
    bob = server.person()
    assert seen(bob) == ["For a week"]
    clock.moment += timedelta(minutes=30)
    assert seen(bob) == []


def test_one_that_has_not_come_can_be_taken_back(server: Server) -> None:
    root, ann = server.person(admin=True), server.person()
    starts = server.app.clock.micros() + HOUR // 3
    made = announce(root, "Not after all", starts_at=rfc3339(starts))
    assert root.client.delete(f"{PATH}/{made}").status_code == 204
    shown = next(one for one in root.client.get(PATH).json()["items"] if one["id"] == made)
    assert (shown["done"], shown["ends_at"]) == (True, None)
    assert isinstance(server.app.clock, ManualClock)
    server.app.clock.moment += timedelta(minutes=30)
    assert seen(ann) == []


@pytest.mark.parametrize(
    "more",
    [
        {"on_page": False},
        {"ends_at": "2020-01-01"},
        {"starts_at": "2027-01-02", "ends_at": "2027-01-01"},
        {"starts_at": "soon"},
        {"level": "loud"},
        {"title": "x"},
    ],
)
def test_one_that_nobody_would_see_is_refused(server: Server, more: dict[str, object]) -> None:
    root = server.person(admin=True)
    body = {"title": "A title", "text": "Words.", "notify": False, **more}
    assert root.client.post(PATH, json=body).status_code == 422


def test_at_most_three_stand_on_a_page_warnings_first(server: Server) -> None:
    root, ann = server.person(admin=True), server.person()
    made = [announce(root, f"News {number}") for number in range(4)]
    made.append(announce(root, "Watch out", level="warning"))
    assert seen(ann) == ["Watch out", "News 3", "News 2"]
    for id in made:
        root.client.delete(f"{PATH}/{id}").raise_for_status()
