"""Admin, Revenue in a real browser: every figure on screen is the API's, and opens its rows."""

import copy
import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlmodel import Session, select

from chat_app import settings as settings_room
from chat_app.accounts.tables import User
from chat_app.clock import MICROS_PER_SECOND, Clock
from chat_app.credits.invoices import register
from chat_app.credits.payments import orders
from chat_app.db import Database, migrate
from chat_app.flows import revenue, revenue_costs, simulate
from chat_app.money import MICRO
from chat_app.settings import Costs
from tests import servers
from tests.browser import figures
from tests.browser.conftest import ADMIN
from tests.browser.figures import exact, money, percent, rounds
from tests.browser.robot import Robot
from tests.browser.test_looks import serious
from tests.effort import effort

pytestmark = pytest.mark.browser
DAY = 86_400 * MICROS_PER_SECOND
COLUMNS = ("opening", "billed", "usage", "subscription", "breakage", "refunded", "closing")
CARDS = (
    "earned_minor", "margin_minor", "billed_minor", "refunded_minor", "deferred_minor",
    "mrr_minor", "nrr", "logo_churn", "run_rate_minor", "open_minor",
)  # fmt: skip
BREAKDOWNS = {
    "plan": "product", "organisation": "organisation", "channel": "channel", "country": "country",
}  # fmt: skip
ASKED = {
    "overview": "overview?",
    "earned": "recognition?",
    "recurring": "metrics?",
    "cohorts": "cohorts?",
    "aged": "receivables?",
    "taxes": "tax?",
    "margins": "margin?",
    "unpaid": "rows?figure=open&limit=1&",
    **{by: f"breakdown?by={by}&" for by in BREAKDOWNS},
}


def company(folder: Path) -> None:
    """Some months of made-up customers with plans and taxes, two invoices that nobody paid, and
    all of it written to the money ledger with what it cost.
    """
    business = {"country": "DE", "tax": "destination"}
    settings = settings_room.load(data_dir=folder, llm={"engine": "script"}, business=business)
    folder.mkdir()
    db, now = Database(f"sqlite:///{folder / 'chat.db'}"), Clock().micros() - 2 * DAY
    migrate(db)
    simulate.run(db, settings, users=16, months=3, seed=6, now=now)
    for late in (50, 1):
        db.write(lambda s, at=now - late * DAY: bill(s, now=at))  # type: ignore[misc]
    while db.write(lambda s: revenue.write_next(s, rules=revenue.Rules(), now=now + 2 * DAY)):
        pass
    costs = Costs(watts=400, cents_per_kwh=32, cents_per_hour=900)
    assert db.write(lambda s: revenue_costs.write(s, costs=costs, now=now))
    db.close()


def bill(session: Session, *, now: int) -> None:
    """Send an invoice to the first customer."""
    user = session.exec(select(User.id).order_by(User.id)).first()  # type: ignore[arg-type]
    assert user is not None
    order = orders.create(
        session, user_id=user, micro=1000 * MICRO, now=now, scope="test", key=str(now)
    )
    made = register.draft(session, payment_id=order.id, now=now)
    register.open_draft(session, invoice_id=made.id, actor="user:1", now=now)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    folder = tmp_path_factory.mktemp("revenue") / "data"
    company(folder)
    with servers.serving(folder, **ADMIN) as server:
        yield server


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


def api(page: Any, paths: list[str]) -> list[Any]:
    """What the API says about the days that the page shows, decimals as they are written."""
    where = "document.querySelector('#admin-revenue-cards .card').dataset"
    texts = page.evaluate(
        f"paths => {{ const at = {where}; const days = `from=${{at.from}}&to=${{at.to}}`"
        " + `&currency=${at.currency}`; return Promise.all(paths.map((path) =>"
        " fetch(`/api/admin/revenue/${path}${path.includes('from=') ? '' : days}`)"
        ".then((answer) => answer.text()))); }",
        paths,
    )
    return [json.loads(text, parse_float=Decimal) for text in texts]


def same(page: Any) -> list[dict[str, Any]]:
    """Everything on the page is the API's; returns the API's months, the newest first."""
    shown = page.evaluate(figures.READ)
    told = dict(zip(ASKED, api(page, list(ASKED.values())), strict=True))
    sheets = copy.deepcopy(shown["sheets"])
    ends = told["overview"]["since"], told["overview"]["until"]
    assert [shown["cards"][0]["way"][name] for name in ("from", "to")] == list(ends)
    assert f"written up to {told['earned']['written_to']}" in shown["span"]
    assert shown["currencies"] == told["overview"]["currencies"]
    check_cards(shown["cards"], told)
    check_deferred(sheets.pop("deferred"), told)
    check_receivables(sheets.pop("aging"), told["aged"])
    check_taxes(sheets.pop("tax"), told)
    check_recurring(sheets.pop("mrr"), told["recurring"])
    if told["cohorts"]["items"]:
        check_cohorts(sheets.pop("cohorts"), told["cohorts"]["items"])
    check_months(sheets.pop("recognition"), told["earned"])
    check_bought(sheets.pop("bought"), told["earned"]["waterfall"])
    check_sources(sheets.pop("sources"), told)
    assert sheets == {}, "a part of the page that nothing here looks at"
    check_ways(page, shown)
    months: list[dict[str, Any]] = list(reversed(told["earned"]["months"]))
    return months


def check_cards(cards: list[dict[str, Any]], told: dict[str, Any]) -> None:
    found = {one["name"]: one for one in told["overview"]["items"]}
    for card, name in zip(cards, CARDS, strict=True):
        one = found[name]
        scale = 0 if one["kind"] == "share" else -2
        if one["kind"] == "share":
            assert percent(card["figure"], one["value"]), (name, card["figure"])
        else:
            assert card["figure"] == money(one["value"]), name
        check_delta(card["delta"], one)
        known = [Decimal(value).scaleb(scale) for value in one["spark"] if value is not None]
        if not any(known):
            assert not card["spark"]
            continue
        ends = re.search(r"\. From (\S+) to (\S+)\.$", card["spark"])
        assert ends is not None, card["spark"]
        assert rounds(ends[1], known[0])
        assert rounds(ends[2], known[-1])
    notes = {card["name"]: card["note"] for card in cards}
    assert notes["Margin"].endswith(f"cost {money(found['cost_minor']['value'])}")
    assert notes["MRR"].endswith(f"{money(found['arr_minor']['value'])} a year")
    assert percent(notes["Net retention"].split("gross ")[1], found["grr"]["value"])
    left = told["recurring"]["churned_customers"]
    assert notes["Logo churn"].endswith(f"{left} have left")
    assert notes["Open invoices"].endswith(f"{told['unpaid']['count']} not paid")


def check_delta(shown: str, one: dict[str, Any]) -> None:
    change = one["change"]
    if not change or abs(change) < Decimal("0.0005"):
        assert shown == ""
        return
    said = re.fullmatch(r"([+−])([\d,]+(?:\.\d)?) (%|pp)", shown)
    assert said is not None, (one["name"], shown)
    last = Decimal("0.1") if "." in said[2] else Decimal(1)
    assert said[1] == ("+" if change > 0 else "−")
    assert said[3] == ("pp" if one["kind"] == "share" else "%")
    assert abs(exact(said[2]) - abs(change) * 100) <= last / 2


def check_bars(plot: dict[str, Any], columns: dict[str, dict[str, int]]) -> None:
    """A plot of bars by label and series (minor units): words, sentence and sizes."""
    assert [column["title"].split(" — ")[0] for column in plot["columns"]] == list(columns)
    for column, parts in zip(plot["columns"], columns.values(), strict=True):
        for text in column["title"].split(" — ")[1].split("; "):
            name, figure, _currency = re.fullmatch(r"(.+): (\S+) (\w+)", text).groups()  # type: ignore[union-attr]
            assert rounds(figure, Decimal(max(parts[name], 0)).scaleb(-2)), text
        assert column["title"].count(";") == len(parts) - 1
    drawn = [
        Decimal(minor).scaleb(-2)
        for parts in columns.values()
        for minor in parts.values()
        if minor > 0
    ]
    check_sizes(plot, drawn, least="0.6")
    for name in next(iter(columns.values())):
        values = [Decimal(max(parts[name], 0)).scaleb(-2) for parts in columns.values()]
        said = re.search(
            rf"{name}: (\S+) at first, (\S+) at last, least (\S+) \(.*?\), most (\S+) \(",
            plot["told"],
        )
        assert said is not None, plot["told"]
        ends = (values[0], values[-1], min(values), max(values))
        for text, value in zip(said.groups(), ends, strict=True):
            assert rounds(text, value), plot["told"]


def check_sizes(plot: dict[str, Any], drawn: list[Decimal], *, least: str) -> None:
    """The bars are as high as their figures, to a hundredth of the height's two hundredth."""
    for (_, size), value, bar in zip(figures.levels(plot), drawn, plot["bars"], strict=True):
        per = size / Decimal(str(bar["height"]))
        assert abs(size - max(abs(value), Decimal(least) * per)) <= per / 50, plot["title"]


def check_waterfall(plot: dict[str, Any], steps: list[tuple[str, int, bool]]) -> None:
    """Steps of (name, minor units, whether it is a level): words, sentence and sizes."""
    assert [bar["title"].split(": ")[0] for bar in plot["bars"]] == [name for name, _, _ in steps]
    sentence = plot["told"].removeprefix(plot["told"].split(". ")[0] + ". ").removesuffix(".")
    for bar, said, (name, minor, level) in zip(
        plot["bars"], sentence.split("; "), steps, strict=True
    ):
        value = Decimal(minor).scaleb(-2)
        figure = bar["title"].split(": ")[1].split(" ")[0]
        assert rounds(figure, value), bar["title"]
        assert figure.startswith("+") == (not level and minor >= 0)
        assert rounds(said.removeprefix(f"{name} "), value), said
    check_sizes(plot, [Decimal(minor).scaleb(-2) for _, minor, _ in steps], least="0.8")
    tops, running = [], Decimal(0)
    for _, minor, level in steps:
        value = Decimal(minor).scaleb(-2)
        start, running = (Decimal(0), value) if level else (running, running + value)
        tops.append(max(start, running))
    for (top, size), wanted, bar in zip(figures.levels(plot), tops, plot["bars"], strict=True):
        assert abs(top - wanted) <= size / Decimal(str(bar["height"])) / 50


def texts(rows: list[list[dict[str, Any]]]) -> list[list[str]]:
    return [[cell["text"] for cell in row] for row in rows]


def check_deferred(sheet: dict[str, Any], told: dict[str, Any]) -> None:
    """What was owed, what came and went, and what is owed: the sums of the API's months."""
    months = told["earned"]["months"]
    moved = (
        ("Billed", "billed", 1), ("Used", "usage", -1), ("Plans", "subscription", -1),
        ("Breakage", "breakage", -1), ("Given back", "refunded", -1),
        ("Corrections", "adjustment", -1), ("Other", "other", 1),
    )  # fmt: skip
    sums = [(name, sign * sum(row[key] for row in months), False) for name, key, sign in moved]
    (plot,) = sheet["plots"]
    check_waterfall(
        plot,
        [
            ("Owed before", months[0]["opening"], True),
            *(step for step in sums if step[1]),
            ("Owed now", months[-1]["closing"], True),
        ],
    )


def check_receivables(sheet: dict[str, Any], aged: dict[str, Any]) -> None:
    buckets, allowance = aged["total"]["buckets"], aged["allowance"]
    assert sum(buckets.values()) == aged["total"]["total"]
    if not aged["items"]:
        assert (sheet["tables"], sheet["plots"]) == ({}, []), "nobody owes anything"
        return
    names = {key: "current" if key == "current" else f"{key} days" for key in buckets}
    rows = texts(sheet["tables"].pop("Open invoices by days past due"))
    assert rows == [
        *([names[key].capitalize(), money(minor), money(allowance[key])]
          for key, minor in buckets.items()),
        ["All", money(aged["total"]["total"]), money(allowance["total"])],
    ]  # fmt: skip
    (plot,) = sheet["plots"]
    check_bars(plot, {names[key]: {"Unpaid": minor} for key, minor in buckets.items()})
    assert sheet["tables"] == {}


def check_taxes(sheet: dict[str, Any], told: dict[str, Any]) -> None:
    currency = told["overview"]["currency"]
    mine = [row for row in told["taxes"]["items"] if row["currency"] == currency]
    if not mine:
        assert sheet["tables"] == {}, "there are no documents"
        return
    assert texts(sheet["tables"].pop("Tax by rate")) == [
        *(
            [
                row["jurisdiction"] or "–",
                row["treatment"].replace("_", " "),
                f"{Decimal(row['rate_bp']) / 100:f} %",
                money(row["base_minor"]),
                money(row["tax_minor"]),
            ]
            for row in mine
        ),
        [
            "All", "", "", money(sum(row["base_minor"] for row in mine)),
            money(sum(row["tax_minor"] for row in mine)),
        ],
    ]  # fmt: skip
    assert sheet["tables"] == {}


def check_recurring(sheet: dict[str, Any], now: dict[str, Any]) -> None:
    if not (
        now["mrr_minor"] or now["opening_mrr_minor"] or any(m["mrr_minor"] for m in now["months"])
    ):
        assert (sheet["tables"], sheet["plots"]) == ({}, []), "there are no plans"
        return
    said = f"{now['customers']} customers, {now['opening_customers']} before"
    assert sheet["hint"].endswith(said)
    moved = [
        ("New", now["new_minor"]), ("Back", now["reactivation_minor"]),
        ("More", now["expansion_minor"]), ("Less", -now["contraction_minor"]),
        ("Left", -now["churned_minor"]),
    ]  # fmt: skip
    waterfall, history = sheet["plots"]
    check_waterfall(
        waterfall,
        [
            ("Before", now["opening_mrr_minor"], True),
            *((name, minor, False) for name, minor in moved),
            ("Now", now["mrr_minor"], True),
        ],
    )
    check_bars(history, {row["period"]: {"MRR": row["mrr_minor"]} for row in now["months"]})
    tables = sheet["tables"]
    assert texts(tables["Movements of MRR"]) == [[name, money(minor)] for name, minor in moved]
    assert texts(tables["MRR by plan"]) == [
        [plan, money(minor)] for plan, minor in now["by_plan"].items()
    ]
    assert len(tables) == 2


def check_cohorts(sheet: dict[str, Any], cohorts: list[dict[str, Any]]) -> None:
    """Who stayed and what stayed: each cell, its words and how strong it is."""
    for table, share, words in (
        ("logo_retention", "logo_retention", "{left} of {customers} customers"),
        ("revenue_retention", "revenue_retention", "{mrr} of {base}"),
    ):
        shades = sheet["shades"].pop(0)
        assert shades["names"] == [f"{one['cohort']} · {one['customers']}" for one in cohorts]
        assert shades["heads"] == ["Began", *map(str, range(len(shades["rows"][0])))]
        for row, one in zip(shades["rows"], cohorts, strict=True):
            assert [cell["text"] for cell in row[len(one[table]) :]].count("") == len(
                row[len(one[table]) :]
            )
            for age, (cell, kept) in enumerate(zip(row, one[share], strict=False)):
                said = words.format(
                    left=one["left"][age], customers=one["customers"],
                    mrr=money(one["mrr_minor"][age]), base=money(one["base_minor"]),
                )  # fmt: skip
                begin = f"{one['cohort']}, {age} months later: {said} ("
                assert cell["title"].startswith(begin), (cell["title"], begin)
                assert percent(cell["title"].removeprefix(begin).removesuffix(")"), kept)
                shown = "–" if kept is None else kept
                assert cell["text"] == shown or abs(exact(cell["text"]) - kept * 100) <= Decimal(
                    "0.5"
                )
                check_strength(cell, kept or 0)
    assert sheet["shades"] == []


def check_strength(cell: dict[str, Any], share: Decimal | int) -> None:
    strong = 56 * Decimal(min(max(share, 0), 1)).sqrt()
    assert abs(exact(cell["strong"].removesuffix("%")) - strong) <= Decimal("0.51")


def check_months(sheet: dict[str, Any], earned: dict[str, Any]) -> None:
    months = earned["months"]
    (plot,) = sheet["plots"]
    kinds = {"Usage": "usage", "Plans": "subscription", "Breakage": "breakage"}
    check_bars(
        plot,
        {row["period"]: {name: row[key] for name, key in kinds.items()} for row in months},
    )
    assert texts(sheet["tables"].pop("Deferred revenue by month")) == [
        [
            row["period"] + (" closed" if row["closed"] else ""),
            *(money(row[name]) for name in COLUMNS),
        ]
        for row in reversed(months)
    ]
    assert sheet["tables"] == {}


def check_bought(sheet: dict[str, Any], waterfall: dict[str, dict[str, int]]) -> None:
    (shades,) = sheet["shades"]
    months = sorted({month for row in waterfall.values() for month in row})
    most = max(minor for row in waterfall.values() for minor in row.values())
    assert shades["names"] == sorted(waterfall)
    assert shades["heads"] == ["Bought", *months]
    for bought, row in zip(sorted(waterfall), shades["rows"], strict=True):
        for month, cell in zip(months, row, strict=True):
            minor = waterfall[bought].get(month, 0)
            if not minor:
                assert (cell["text"], cell["title"]) == ("", "")
                continue
            assert cell["title"] == (
                f"Bought in {bought}, earned in {month}: {money(minor)} {cell['way']['currency']}"
            )
            assert rounds(cell["text"], Decimal(minor).scaleb(-2))
            check_strength(cell, Decimal(minor) / most)


def check_sources(sheet: dict[str, Any], told: dict[str, Any]) -> None:
    models = texts(sheet["tables"].pop("Margin by model"))
    for row, one in zip(models, told["margins"]["items"], strict=True):
        margin, share = re.fullmatch(r"(\S+) \((\S+)\)", row.pop(3)).groups()  # type: ignore[union-attr]
        assert row == [
            one["model"], money(one["earned_minor"]), money(one["cost_minor"]),
            f"{one['answers']:,}",
        ]  # fmt: skip
        assert margin == money(one["margin_minor"])
        assert percent(share, one["share"])
    for by, name in BREAKDOWNS.items():
        assert texts(sheet["tables"].pop(f"Revenue by {name}")) == [
            [part["name"], money(part["earned_minor"])] for part in told[by]["items"][:8]
        ]
    assert sheet["tables"] == {}


def check_ways(page: Any, shown: dict[str, Any]) -> None:
    """What a figure leads to adds up to it; one of each kind, all with `--full`."""
    counted = ("Earned", "Billed", "Given back", "Deferred revenue", "MRR", "Open invoices")
    found = [(card["way"], card["figure"]) for card in shown["cards"] if card["name"] in counted]
    for sheet in shown["sheets"].values():
        found += [
            (cell["way"], cell["text"])
            for table in sheet["tables"].values()
            for row in table
            for cell in row
            if cell["way"] and cell["way"]["figure"] != "cost"  # a model's share of all costs
        ]
        found += [
            (cell["way"], re.split(r"[:,] ", cell["title"])[-1].split(" ")[0])
            for shades in sheet["shades"]
            if "stayed" not in shades["title"] or "Revenue" in shades["title"]
            for row in shades["rows"]
            for cell in row
            if cell["way"]
        ]
    if not effort(full=True, quick=False):
        found = list({way["figure"]: (way, figure) for way, figure in found}.values())
    assert len(found) > 12
    paths = [f"rows?{urlencode({**way, 'limit': 1})}" for way, _ in found]
    for (way, figure), rows in zip(found, api(page, paths), strict=True):
        assert money(rows["total_minor"]) == figure, way


def drawn(page: Any, opener: Any) -> Any:
    """Open what is behind a figure: the drawer, whose sum, count and rows are the API's."""
    way = opener.evaluate("node => ({ ...node.dataset })")
    opener.click()
    drawer = page.locator("dialog.drawer[open]")
    drawer.wait_for()
    (told,) = api(page, [f"rows?{urlencode({**way, 'limit': 25})}"])
    assert drawer.locator(".sum").inner_text().split()[0] == money(told["total_minor"])
    some = f"{told['count']:,} row{'' if told['count'] == 1 else 's'}"
    assert drawer.locator(".hint").first.inner_text().endswith(some)
    shown = drawer.evaluate(
        "node => [...node.querySelectorAll('tbody tr')].map((row) =>"
        " [...row.cells].map((cell) => cell.innerText.trim()))"
    )
    for cells, row in zip(shown, told["items"], strict=True):
        assert cells[0].split()[0] == row["first_day"]
        assert cells[0].split()[-1] == row["last_day"]
        assert cells[1] == (row["username"] or "–")
        assert cells[2].startswith(row["invoice"] or row["note"] or "")
        assert cells[3] == money(row["amount_minor"])
    return drawer


def test_every_figure_is_the_apis_and_opens_its_rows(
    robot: Callable[..., Robot], shop: servers.Server
) -> None:
    page = opened(robot, shop, color_scheme="dark")
    months = same(page)
    for part in ("cohorts", "aging", "mrr", "tax"):
        table = page.locator(f"#admin-revenue-{part} table")
        assert table.count(), "the made-up history has it all"
    assert len(months) >= 3
    whole = next(one for one in reversed(months) if not one["closed"])["period"]
    closed = page.locator("#admin-revenue-closed").inner_text()
    assert f"{whole} is written to its end" in closed
    assert "No month is closed yet." in closed
    billed = page.locator("#admin-revenue-cards .card", has_text="Billed")
    total, drawer = billed.locator(".figure").inner_text(), drawn(page, billed)
    if drawer.locator("[data-cursor]").count():
        drawer.locator("[data-cursor]", has_text="More").click()
        page.locator("dialog.drawer[open] [data-cursor='']").wait_for()
    with page.expect_download() as saved:
        page.locator("dialog.drawer a[download]").click()
    lines = Path(saved.value.path()).read_text(encoding="utf-8").splitlines()
    assert money(sum(int(line.split(",")[1]) for line in lines[1:])) == total
    page.keyboard.press("Escape")
    drawer.wait_for(state="detached")
    drawn(page, page.locator("#admin-revenue-bought td button").first)
    assert serious(page) == []
    page.click("dialog.drawer [data-close]")
    drawn(page, page.locator("#admin-revenue-sources td button").first)
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
    assert [one["period"] for one in same(page)] == [period]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert serious(page) == []
