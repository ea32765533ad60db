"""Admin, Revenue in a real browser: every figure is the API's, and opens the rows behind it."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chat_app import settings as settings_room
from chat_app.clock import MICROS_PER_SECOND, Clock
from chat_app.db import Database, migrate
from chat_app.flows import revenue, revenue_costs, simulate
from chat_app.settings import Costs
from tests import servers
from tests.browser.conftest import ADMIN
from tests.browser.robot import Robot
from tests.browser.test_looks import serious

pytestmark = pytest.mark.browser
DAY = 86_400 * MICROS_PER_SECOND
FIGURES = ("opening", "billed", "usage", "subscription", "breakage", "refunded", "closing")
CARDS = (
    "earned_minor", "margin_minor", "billed_minor", "refunded_minor", "deferred_minor",
    "mrr_minor", "nrr", "logo_churn", "run_rate_minor", "open_minor",
)  # fmt: skip


def company(folder: Path) -> None:
    """Some months of made-up customers, written to the money ledger with what they cost."""
    settings = settings_room.load(data_dir=folder, llm={"engine": "script"})
    folder.mkdir()
    db, now = Database(f"sqlite:///{folder / 'chat.db'}"), Clock().micros() - 2 * DAY
    migrate(db)
    simulate.run(db, settings, users=24, months=3, seed=3, now=now)
    while db.write(lambda s: revenue.write_next(s, rules=revenue.Rules(), now=now + 2 * DAY)):
        pass
    costs = Costs(watts=400, cents_per_kwh=32, cents_per_hour=900)
    assert db.write(lambda s: revenue_costs.write(s, costs=costs, now=now))
    db.close()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    folder = tmp_path_factory.mktemp("revenue") / "data"
    company(folder)
    with servers.serving(folder, **ADMIN) as server:
        yield server


def cents(shown: str) -> int:
    return int(shown.replace(",", "").replace(".", "").replace("−", "-"))


def opened(robot: Callable[..., Robot], shop: servers.Server, **look: Any) -> Any:
    """The page of the administrator at the section, for twelve months."""
    root = robot(at=shop.url, **look)
    root.sign_in("root")
    root.tab("Admin")
    root.section("admin", "Revenue")
    root.page.locator("#admin-revenue-cards .card").first.wait_for()
    choose(root.page, "12_months")
    return root.page


def choose(page: Any, preset: str) -> None:
    page.click(f"[data-preset='{preset}']")
    page.locator(f"[data-preset='{preset}'][aria-pressed=true]").wait_for()


def api(page: Any, path: str) -> Any:
    """What the API says about the days that the page shows."""
    where = "document.querySelector('#admin-revenue-cards .card').dataset"
    return page.evaluate(
        f"path => fetch(`/api/admin/revenue/${{path}}from=${{{where}.from}}&to=${{{where}.to}}"
        f"&currency=${{{where}.currency}}`).then((a) => a.json())", path
    )  # fmt: skip


def same(page: Any) -> Any:
    """Cards and months of the page are the API's; returns its months."""
    found = {one["name"]: one for one in api(page, "overview?")["items"]}
    cards = page.locator("#admin-revenue-cards .card").all()
    for card, name in zip(cards, CARDS, strict=True):
        shown, told = card.locator(".figure").inner_text(), found[name]
        if told["value"] is None:
            assert shown == "–"
        elif told["kind"] == "share":
            assert shown == f"{told['value']:.1%}"
        else:
            assert cents(shown) == told["value"], name
        change = card.locator(".delta")
        if told["change"] and abs(told["change"]) >= 0.001:
            figure = float(re.sub(r"[^\d.]", "", change.inner_text()))
            assert figure == pytest.approx(abs(told["change"]) * 100, abs=0.51)
        else:
            assert change.count() == 0
    table = page.locator("#admin-revenue-recognition table")
    months = list(reversed(api(page, "recognition?")["months"]))
    for line, month in zip(table.locator("tbody tr").all(), months, strict=True):
        shown = line.locator("td").all_inner_texts()
        assert shown[0].startswith(month["period"])
        assert [cents(text) for text in shown[1:]] == [month[name] for name in FIGURES]
    return months


def drawn(page: Any, opener: Any) -> tuple[int, Any]:
    """Open what is behind a figure: its sum, and the drawer."""
    opener.click()
    drawer = page.locator("dialog.drawer[open]")
    drawer.wait_for()
    return cents(drawer.locator(".sum").inner_text().split()[0]), drawer


def test_every_figure_is_the_apis_and_opens_its_rows(
    robot: Callable[..., Robot], shop: servers.Server
) -> None:
    page = opened(robot, shop, color_scheme="dark")
    months = same(page)
    assert len(months) >= 3
    billed = page.locator("#admin-revenue-cards .card", has_text="Billed")
    total, drawer = drawn(page, billed)
    assert total == cents(billed.locator(".figure").inner_text())
    rows = drawer.locator("tbody tr td:last-child").all_inner_texts()
    assert len(rows) == 25 or sum(map(cents, rows)) == total
    if drawer.locator("[data-cursor]").count():
        drawer.locator("[data-cursor]", has_text="More").click()
        page.locator("dialog.drawer[open] [data-cursor='']").wait_for()
    with page.expect_download() as saved:
        page.locator("dialog.drawer a[download]").click()
    lines = Path(saved.value.path()).read_text(encoding="utf-8").splitlines()
    assert sum(int(line.split(",")[1]) for line in lines[1:]) == total
    page.keyboard.press("Escape")
    drawer.wait_for(state="detached")
    bought = page.locator("#admin-revenue-bought td button").first
    assert drawn(page, bought)[0] / 100 == pytest.approx(float(bought.inner_text()), rel=0.01)
    assert serious(page) == []
    page.click("dialog.drawer [data-close]")
    part = page.locator("#admin-revenue-sources td button").first
    assert drawn(page, part)[0] == cents(part.inner_text())
    page.locator("dialog.drawer [data-order]").first.click()
    page.locator("#admin-payment-about").wait_for()
    page.keyboard.press("Home")
    assert page.locator("#admin-payment-about").inner_text()


@pytest.mark.full
def test_other_days_and_a_narrow_page(robot: Callable[..., Robot], shop: servers.Server) -> None:
    page = opened(robot, shop, viewport={"width": 390, "height": 844})
    choose(page, "last_month")
    months = same(page)
    assert len(months) == 1
    period = months[0]["period"]
    page.click("[data-custom]")
    page.fill("[name=from]", f"{period}-05")
    page.fill("[name=to]", f"{period}-19")
    page.click("[data-apply]")
    page.locator("[data-custom][aria-pressed=true]").wait_for()
    page.wait_for_function(
        "day => document.querySelector('#admin-revenue-cards .card').dataset.from === day",
        arg=f"{period}-05",
    )
    same(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert serious(page) == []
