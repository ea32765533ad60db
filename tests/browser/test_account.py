"""The Account tab, as a person uses it, and the forms behind the links of mails."""

import io
import json
import secrets
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from pyotp import TOTP

from tests.browser.robot import Robot
from tests.servers import PASSWORD

pytestmark = pytest.mark.browser
Make = Callable[..., Robot]
NEW = "another horse battery staple"


def opened(robot: Robot) -> None:
    """The tab with its data."""
    robot.settled()
    robot.tab("Account")
    robot.page.wait_for_function("document.querySelector('#account-username')?.textContent !== ''")


def said(robot: Robot, form: str) -> str:
    """What a form answered."""
    part = robot.page.locator(f"form[data-does={form}] .said")
    part.filter(has_text="e").wait_for()
    return str(part.inner_text())


def test_a_life_in_the_account_tab(robot: Make, tmp_path: Path) -> None:
    """Profile, password, sessions, download, and the end in two steps with a typed name."""
    ann = robot()
    name = f"ann-{secrets.token_hex(4)}"
    ann.register(name)
    page = ann.page
    asked: list[str] = []
    page.on("request", lambda request: asked.append(f"{request.url} {request.post_data or ''}"))
    opened(ann)
    page.fill("#account-name", "Ann <b>Other</b>")
    page.select_option("#account-language", "en")
    page.select_option("#account-zone", "Europe/Berlin")
    page.click("#account-profile-save")
    assert said(ann, "profile-save") == "Saved."
    page.eval_on_selector(
        "#account-language",
        "list => { list.append(new Option('no language')); list.value = 'no language'; }",
    )
    page.click("#account-profile-save")
    page.locator("form[data-does=profile-save] .said.bad").wait_for()

    ann.context.request.post(
        f"{ann.url}/api/auth/login", data={"login": name, "password": PASSWORD}
    ).dispose()
    page.fill("#account-current", "wrong")
    page.fill("#account-new", NEW)
    page.click("#account-password-change")
    assert "current password is wrong" in said(ann, "password-change")
    page.fill("#account-current", PASSWORD)
    with page.expect_navigation():
        page.click("#account-password-change")
    page.locator("#account-username", has_text=name).wait_for()  # the tab opens by itself
    assert page.input_value("#account-name") == "Ann <b>Other</b>"
    page.locator("#account-session-list .badge.good").wait_for()
    assert page.locator("#account-session-list .line").count() == 1

    with page.expect_download() as download:
        page.click("#account-export")
    pack = zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes()))
    assert json.loads(pack.read("profile.json"))["username"] == name

    page.click("#account-erase-open")
    page.locator("#account-erase-about", has_text="100 credits are left").wait_for()
    page.fill("#account-erase-name", "somebody")
    page.fill("#account-erase-password", NEW)
    page.click("#account-erase")
    assert "not your user name" in said(ann, "erase")
    page.fill("#account-erase-name", name)
    page.click("#account-erase")
    page.locator("form[data-does=erase] .said", has_text="credits left").wait_for()
    page.check("#account-erase-forfeit")
    page.click("#account-erase")
    page.wait_for_selector("#login-submit", state="visible")
    gradio = [line for line in asked if "/gradio_api/" in line]
    assert gradio
    assert not [line for line in gradio if PASSWORD in line or NEW in line]


def test_a_link_of_a_mail_opens_its_form(robot: Make) -> None:
    """The token stands behind the #, is sent once, and is gone from the address at once."""
    bob = robot()
    sent: list[str] = []
    bob.page.on("request", lambda request: sent.append(f"{request.url} {request.post_data or ''}"))
    bob.page.goto(f"{bob.url}/#reset=secret-token")
    bob.page.fill("#reset-password", NEW)
    assert "secret-token" not in bob.page.url
    assert not [line for line in sent if "secret-token" in line]
    bob.page.click("#reset-submit")
    bob.page.locator("#door .said.bad").wait_for()
    with_token = [line for line in sent if "secret-token" in line]
    assert [line.split()[0] for line in with_token] == [f"{bob.url}/api/auth/password/reset"]
    bob.page.keyboard.press("Escape")
    bob.page.evaluate("location.hash = 'verify=other-token'")
    bob.page.wait_for_selector("#verify-submit")


@pytest.mark.full
def test_an_announcement_is_dismissed_for_good(robot: Make) -> None:
    """On top of the page until its reader has seen it, on all devices; text stays text."""
    words = "From 8 to 9. <img src=x onerror=alert(1)>"
    root = robot()
    root.sign_in("root")
    about = {"title": "Maintenance", "text": words, "level": "warning", "notify": False}
    made = root.context.request.post(
        f"{root.url}/api/admin/announcements", data=about, headers={"Origin": root.url}
    )
    ann = robot()
    ann.register(f"ann-{secrets.token_hex(4)}")
    line = ann.page.locator("#news .news.warning")
    line.wait_for()
    assert words in line.inner_text()
    line.locator("button").click()
    line.wait_for(state="detached")
    with ann.page.expect_response("**/api/announcements") as seen:
        ann.page.reload()
    assert seen.value.json()["items"] == []
    # Taken down, it is gone from whoever did not dismiss it.
    with root.page.expect_response("**/api/announcements") as seen:
        root.page.reload()
    assert [item["title"] for item in seen.value.json()["items"]] == ["Maintenance"]
    number = made.json()["id"]
    root.context.request.delete(
        f"{root.url}/api/admin/announcements/{number}", headers={"Origin": root.url}
    ).dispose()
    with root.page.expect_response("**/api/announcements") as seen:
        root.page.reload()
    assert seen.value.json()["items"] == []


@pytest.mark.full
def test_with_two_factors_a_code_is_asked_for_beside_the_password(robot: Make) -> None:
    bob = robot()
    bob.register(f"bob-{secrets.token_hex(4)}")
    opened(bob)
    codes = "[data-beside]"
    assert not bob.page.locator(codes).first.is_visible()
    site = {"Origin": bob.url}
    enroll, confirm = (f"{bob.url}/api/auth/totp/{step}" for step in ("enroll", "confirm"))
    made = bob.context.request.post(enroll, data={"password": PASSWORD}, headers=site).json()
    code = TOTP(made["secret"]).now()
    kept = bob.context.request.post(confirm, data={"code": code}, headers=site).json()
    bob.page.reload()
    opened(bob)
    bob.page.click("#account-email-part summary")
    bob.page.locator("#account-email-code").wait_for()
    bob.page.fill("#account-new-email", "bob-new@example.org")
    bob.page.fill("#account-email-password", PASSWORD)
    bob.page.click("#account-email-change")
    assert "beside the password" in said(bob, "email-change")
    bob.page.fill("#account-email-code", kept["backup_codes"][0])
    bob.page.click("#account-email-change")
    bob.page.locator("form[data-does=email-change] .said", has_text="on its way").wait_for()
