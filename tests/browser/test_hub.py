"""Signing in with Hugging Face in a real browser, against a provider of ours."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests import servers
from tests.browser.conftest import ADMIN
from tests.browser.robot import Robot
from tests.fakes import openid as fake
from tests.nginx import free_ports

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, fake.Hub]]:
    """A Space that is reached without a frame, and its provider."""
    with fake.serving() as hub, pytest.MonkeyPatch.context() as patch:
        [port] = free_ports(1)
        for name, value in {**fake.ENVIRONMENT, "OPENID_PROVIDER_URL": hub.url}.items():
            patch.setenv(name, value)
        home = f"http://127.0.0.1:{port}"
        more = {"SERVER__PORT": str(port), "SERVER__PUBLIC_URL": home, "SERVER__FRAMED_BY": ""}
        folder: Path = tmp_path_factory.mktemp("space") / "data"
        with servers.serving(folder, **ADMIN, **more):
            yield home, hub


def came_home(one: Robot, hub: fake.Hub) -> None:
    """Nothing but the provider was asked, and no answer was used twice."""
    assert {urlsplit(url).netloc for url in one.outside} == {urlsplit(hub.url).netloc}
    assert one.violations == []
    one.close()


def test_the_button_leads_there_and_back(chromium: Any, space: tuple[str, fake.Hub]) -> None:
    """Also when the page's worker is there, which sends what is opened ahead."""
    home, hub = space
    one = Robot(chromium, home, color_scheme="light")
    page = one.page
    page.goto(f"{home}/?hub=hub_email_taken")
    page.wait_for_selector("#login-hub", state="visible")
    trouble = page.locator("[data-panel=login] .trouble")
    assert trouble.inner_text().startswith("An account with your e-mail address is here already")
    assert page.url == f"{home}/"
    page.wait_for_function("navigator.serviceWorker.controller")
    page.click("#login-hub")
    page.wait_for_selector("#chat-input textarea", state="visible")
    assert page.url == f"{home}/"
    assert page.inner_text("#who") == hub.person["preferred_username"]
    came_home(one, hub)


def test_an_account_is_linked_and_unlinked(chromium: Any, space: tuple[str, fake.Hub]) -> None:
    home, hub = space
    hub.person = {**fake.ANN, "sub": "of-root", "preferred_username": "root-hf"}
    one = Robot(chromium, home, color_scheme="dark")
    one.sign_in("root")
    page = one.page
    page.goto(f"{home}/#account")
    page.fill("#account-hub-link-password", servers.PASSWORD)
    page.click("#account-hub-link")
    state = "text => document.querySelector('#account-hub-state')?.textContent.includes(text)"
    page.wait_for_function(state, arg="root-hf")
    page.click("#account-hub summary")
    page.fill("#account-hub-unlink-password", servers.PASSWORD)
    page.click("#account-hub-unlink")
    page.wait_for_function(state, arg="not linked")
    came_home(one, hub)
