"""Admin, Revenue in a real browser: every figure of the months is the API's, and leads to rows."""

from collections.abc import Callable
from pathlib import Path

import pytest

from chat_app import settings as settings_room
from chat_app.clock import MICROS_PER_SECOND, Clock
from chat_app.db import Database, migrate
from chat_app.flows import revenue, simulate
from tests import servers
from tests.browser.conftest import ADMIN
from tests.browser.robot import Robot
from tests.browser.test_looks import serious

pytestmark = pytest.mark.browser
DAY = 86_400 * MICROS_PER_SECOND
FIGURES = ("opening", "billed", "usage", "subscription", "breakage", "refunded", "closing")


def company(folder: Path) -> None:
    """Some months of made-up customers, written to the money ledger."""
    settings = settings_room.load(data_dir=folder, llm={"engine": "script"})
    folder.mkdir()
    db, now = Database(f"sqlite:///{folder / 'chat.db'}"), Clock().micros() - 2 * DAY
    migrate(db)
    simulate.run(db, settings, users=40, months=4, seed=3, now=now)
    while db.write(lambda s: revenue.write_next(s, rules=revenue.Rules(), now=now + 2 * DAY)):
        pass
    db.close()


def cents(shown: str) -> int:
    return int(shown.replace(",", "").replace(".", "").replace("−", "-"))


@pytest.mark.full
def test_every_figure_is_the_apis_and_leads_to_its_rows(
    tmp_path: Path, robot: Callable[..., Robot]
) -> None:
    company(tmp_path / "data")
    with servers.serving(tmp_path / "data", **ADMIN) as server:
        root = robot(at=server.url, color_scheme="dark")
        root.visit()
        root.sign_in("root")
        root.tab("Admin")
        root.section("admin", "Revenue")
        page = root.page
        table = page.locator("#admin-revenue-body table", has_text="Given back")
        table.wait_for()
        api = page.evaluate("fetch('/api/admin/revenue/recognition').then((a) => a.json())")
        rows = table.locator("tbody tr").all()
        months = list(reversed(api["months"]))[: len(rows)]
        assert len(months) >= 4
        for line, month in zip(rows, months, strict=True):
            shown = line.locator("td").all_inner_texts()
            assert shown[0].startswith(month["period"])
            assert [cents(text) for text in shown[1:]] == [month[name] for name in FIGURES]
        link = rows[1].locator("a").first
        behind = page.evaluate(
            "url => fetch(url).then((a) => a.json())", link.get_attribute("href")
        )
        assert sum(row["amount_minor"] for row in behind["items"]) == months[1]["billed"]
        assert all(row["invoice"] for row in behind["items"])
        cards = page.inner_text("#admin-revenue-cards")
        metrics = page.evaluate("fetch('/api/admin/revenue/metrics').then((a) => a.json())")
        assert f"{metrics['mrr_minor'] / 100:,.2f}" in cards
        assert f"{months[0]['closing'] / 100:,.2f}" in cards
        assert page.locator("#admin-revenue-body table", has_text="Running cost").count() == 1
        assert serious(page) == []
        phone = robot(at=server.url, viewport={"width": 390, "height": 844})
        phone.visit()
        phone.sign_in("root")
        phone.tab("Admin")
        phone.section("admin", "Revenue")
        phone.page.locator("#admin-revenue-body table").first.wait_for()
        assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390
