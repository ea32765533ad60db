"""The side column's routes: places in the list, folders, links, and everything as one file."""

import json
from typing import Any

import httpx

from tests.api.conftest import PASSWORD, Person, Serve, Server

TALKS = "/api/chat/conversations"


def told(person: Person, text: str = "hello there") -> str:
    return str(person.ask(text).json()["conversation_id"])


def share(person: Person, id: str, **how: Any) -> dict[str, Any]:
    answer = person.client.post(f"{TALKS}/{id}/share", json=how)
    shown: dict[str, Any] = answer.raise_for_status().json()
    return shown


def test_a_conversation_is_changed_by_what_is_given(ann: Person) -> None:
    id = told(ann)
    folder = ann.client.post("/api/chat/folders", json={"name": "Work"}).json()
    path = f"{TALKS}/{id}"
    before = ann.client.get(path).json()
    both = {"pinned": True, "folder_id": folder["id"]}
    changed = ann.client.patch(path, json=both).json()
    assert (changed["pinned"], changed["archived"], changed["folder_id"]) == (
        True, False, folder["id"],
    )  # fmt: skip
    assert (changed["title"], changed["updated_at"]) == (before["title"], before["updated_at"])
    assert ann.client.get("/api/chat/folders").json()["items"][0]["conversations"] == 1
    kept = ann.client.patch(path, json={"archived": True}).json()
    assert (kept["pinned"], kept["folder_id"]) == (True, folder["id"])
    assert ann.client.patch(path, json={"folder_id": None}).json()["folder_id"] is None
    for bad in ({"pinned": "yes"}, {"title": ""}, {"folder_id": 3}, {"nothing": 1}):
        assert ann.client.patch(path, json=bad).status_code == 422
    wrong = ann.client.patch(path, json={"title": "New", "folder_id": "fld_none"})
    assert wrong.json()["error"]["code"] == "folder_not_found"
    assert ann.client.get(path).json()["title"] == before["title"]  # all of it or nothing


def test_the_archive_is_not_in_the_list_but_is_found(ann: Person) -> None:
    """And a message in it brings a conversation back."""
    id = told(ann, "the quokka question")
    ann.client.patch(f"{TALKS}/{id}", json={"archived": True})

    def ids(**query: Any) -> list[str]:
        items = ann.client.get(TALKS, params=query).json()["items"]
        return [item["id"] for item in items]

    assert id not in ids()
    assert id in ids(archived=True)
    assert id in ids(q="quokka")
    assert id not in ids(q="quokka", archived=False)
    ann.ask("and on", conversation_id=id)
    assert id in ids()


def test_a_link_shows_the_snapshot_and_nothing_of_its_owner(ann: Person, server: Server) -> None:
    id = told(ann, "What is a quay?")
    other = told(ann, "a secret of another conversation")
    made = share(ann, id, access="open")
    stranger = server.client()
    page = stranger.get(made["url"])
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["cache-control"] == "no-store"
    assert "noindex" in page.headers["x-robots-tag"]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "What is a quay?" in page.text
    assert "w0 w1 w2" in page.text
    for private in (ann.username, ann.id + '"', other, id, "secret", "credit", "charged", "con_"):
        assert private not in page.text, private
    ann.ask("and a later word", conversation_id=id)
    assert "later word" not in stranger.get(made["url"]).text
    assert share(ann, id, update=True)["url"] == made["url"]
    assert "later word" in stranger.get(made["url"]).text


def test_a_link_ends_with_its_share_its_conversation_and_not_before(
    ann: Person, server: Server
) -> None:
    id, stranger = told(ann), server.client()
    first = share(ann, id, access="open")
    assert [row["id"] for row in ann.client.get("/api/chat/shares").json()["items"]] == [
        first["id"]
    ]
    assert ann.client.delete(f"{TALKS}/{id}/share").status_code == 204
    assert stranger.get(first["url"]).json()["error"]["code"] == "share_not_found"
    assert ann.client.delete(f"{TALKS}/{id}/share").json()["error"]["code"] == "not_shared"
    second = share(ann, id, access="open")
    assert second["url"] != first["url"]
    assert ann.client.delete(f"{TALKS}/{id}").status_code == 204
    gone = stranger.get(second["url"], headers={"Accept": "text/html"})
    assert gone.status_code == 404
    assert "<h1>Nothing to see here</h1>" in gone.text
    assert ann.client.get("/api/chat/shares").json()["items"] == []


def test_some_links_are_for_people_with_an_account(
    ann: Person, bob: Person, server: Server
) -> None:
    """By the cookie of a browser; at first every link is so."""
    made = share(ann, told(ann))
    assert made["access"] == "signed_in"
    stranger = server.client()
    assert stranger.get(made["url"]).json()["error"]["code"] == "share_for_members"
    page = stranger.get(made["url"], headers={"Accept": "text/html"})
    assert (page.status_code, 'href="/">Sign in' in page.text) == (401, True)
    stranger.post("/api/auth/login", json={"login": bob.username, "password": PASSWORD})
    assert "hello there" in stranger.get(made["url"]).text
    share(ann, made["conversation_id"], access="open")
    assert server.client().get(made["url"]).status_code == 200


def test_an_address_opens_so_many_shared_pages(serve: Serve) -> None:
    """Right and wrong links count alike."""
    here = serve(limits={"share_pages_per_minute_per_ip": 3})
    ann = here.person()
    url = share(ann, told(ann), access="open")["url"]
    stranger = here.client()
    seen = [stranger.get(path).status_code for path in (url, "/share/wrong", url, url)]
    assert seen == [200, 404, 200, 429]
    assert int(stranger.get(url).headers["retry-after"]) > 0


def test_everything_is_one_file_that_comes_back(ann: Person, bob: Person) -> None:
    told(ann, "one")
    hidden = told(ann, "two")
    ann.client.patch(f"{TALKS}/{hidden}", json={"archived": True})
    answer = ann.client.get("/api/chat/export")
    assert answer.headers["content-disposition"].startswith('attachment; filename="conversations-')
    talks = answer.json()
    assert len(talks) >= 2
    sent = {"Content-Type": "application/json"}
    made = bob.client.post(f"{TALKS}/import", content=json.dumps(talks), headers=sent)
    assert len(made.json()["items"]) == len(talks)


def test_status_says_where_answers_are_written(serve: Serve) -> None:
    here = serve(llm={"script": {"tokens": 200, "tokens_per_second": 20}})
    ann = here.person()
    assert ann.client.get("/api/chat/status").json()["conversations"] == []
    body = {"model": "smollm2-135m-instruct", "message": "go on", "stream": True}
    with ann.client.stream("POST", "/api/chat/message", json=body) as stream:
        start = next(line for line in stream.iter_lines() if line.startswith("data: "))
        begun = json.loads(start.removeprefix("data: "))
        now = ann.client.get("/api/chat/status").json()
    assert now["conversations"] == [begun["conversation_id"]]
    ann.client.post(f"/api/chat/replies/{begun['reply_id']}/stop").raise_for_status()


def test_a_page_of_another_site_shares_nothing(ann: Person, server: Server) -> None:
    """CSRF: the cookie alone is not enough to publish."""
    id = told(ann)
    browser: httpx.Client = server.client()
    browser.post("/api/auth/login", json={"login": ann.username, "password": PASSWORD})
    foreign = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    refused = browser.post(f"{TALKS}/{id}/share", json={"access": "open"}, headers=foreign)
    assert refused.status_code == 403
    assert ann.client.get("/api/chat/shares").json()["items"] == []
