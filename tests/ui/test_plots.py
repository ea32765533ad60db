"""Plots are valid XML with every word escaped, whatever they are given."""

import math
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import effort
from ui import plots
from ui.plots import Band, Cell, Mark, Series, Step

HOSTILE = "<script>alert(1)</script>\"'&{x}${y}`z`"
TAGS = {
    "div", "figure", "figcaption", "small", "svg", "line", "rect", "polyline", "polygon", "title",
    "span", "i",
}  # fmt: skip
NAMES = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), max_size=12)
VALUES = st.one_of(st.none(), st.floats(-1e12, 1e12), st.just(0.0), st.integers(0, 9).map(float))
KNOWN = st.floats(0, 1e12)


def parsed(picture: str) -> ET.Element:
    """The picture as XML, with every number in it finite and no template in it."""
    root = ET.fromstring(f"<div>{picture}</div>")
    assert not set("{}$`") & set(picture)
    for node in root.iter():
        assert node.tag in TAGS
        for name in ("x", "y", "width", "height", "x1", "x2", "y1", "y2"):
            if name in node.attrib:
                assert math.isfinite(float(node.attrib[name].rstrip("%")))
        if node.tag == "rect":
            assert float(node.attrib["height"]) >= 0
    pictures = list(root.iter("svg"))
    assert pictures
    assert all(node.attrib["role"] == "img" and node.attrib["aria-label"] for node in pictures)
    return root


@given(st.data())
@settings(max_examples=effort(500, 25), deadline=None)
def test_any_figures_and_names_make_valid_xml(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 40))
    labels = data.draw(st.lists(NAMES, min_size=count, max_size=count))

    def row(kind: st.SearchStrategy[float | None]) -> list[float | None]:
        return data.draw(st.lists(kind, min_size=count, max_size=count))

    title, unit = data.draw(NAMES), data.draw(NAMES)
    series = [Series(data.draw(NAMES), row(VALUES), dashed=bool(at)) for at in range(2)]
    band = Band(data.draw(NAMES), row(VALUES), row(VALUES))
    marks = [Mark(data.draw(st.integers(-3, 50)), data.draw(NAMES))]
    parsed(plots.lines(labels, series, title=title, unit=unit, band=band, marks=marks))
    parsed(plots.bars(labels, [Series("a", row(KNOWN)), Series("b", row(VALUES))], title=title))
    parsed(plots.spark(row(VALUES), title=title))
    steps = [Step(label, data.draw(st.floats(-1e9, 1e9)), total=not at) for at, label in
             enumerate(labels)]  # fmt: skip
    parsed(plots.waterfall(steps, title=title, unit=unit))
    table = [[data.draw(KNOWN) for _ in labels] for _ in range(2)]
    parsed(plots.heat(["x", "y"], labels, table, title=title, unit=unit))


def test_hostile_words_stay_words() -> None:
    labels = [HOSTILE, "b"]
    pictures = [
        plots.lines(labels, [Series(HOSTILE, [1, None])], title=HOSTILE, unit=HOSTILE,
                    band=Band(HOSTILE, [0, 0], [2, 2]), marks=[Mark(0, HOSTILE)]),
        plots.bars(labels, [Series(HOSTILE, [1, 2]), Series("x", [1, 2])], title=HOSTILE),
        plots.heat(labels, labels, [[1, 2], [3, 4]], title=HOSTILE, unit=HOSTILE),
        plots.spark([1, 2], title=HOSTILE),
        plots.waterfall([Step(HOSTILE, 1, total=True), Step("b", -2)], title=HOSTILE),
    ]  # fmt: skip
    for picture in pictures:
        root = parsed(picture)
        assert "<script" not in picture
        assert HOSTILE in "".join(
            [*root.itertext(), *(node.attrib.get("aria-label", "") for node in root.iter())]
        )


def test_shapes_are_where_their_values_are() -> None:
    root = parsed(plots.bars(["a", "b"], [Series("n", [50, 100])], title="t"))
    low, high = (node for node in root.iter("rect") if "bar" in node.attrib["class"])
    assert float(high.attrib["height"]) == pytest.approx(2 * float(low.attrib["height"]))
    assert float(high.attrib["y"]) + float(high.attrib["height"]) == pytest.approx(plots.HEIGHT)
    root = parsed(plots.lines(["a", "b", "c", "d"], [Series("n", [0, None, 5, 10])], title="t"))
    paths = [node.attrib["points"] for node in root.iter("polyline")]
    assert len(paths) == 2  # a gap is a gap
    assert paths[1].split()[-1].endswith(",0.00")
    told = next(root.iter("svg")).attrib["aria-label"]
    assert "least 0 (a)" in told
    assert "most 10 (d)" in told
    steps = [Step("s", 10, total=True), Step("m", -4), Step("e", 6, total=True)]
    root = parsed(plots.waterfall(steps, title="t"))
    start, down, end = (node for node in root.iter("rect") if "bar" in node.attrib["class"])
    assert down.attrib["class"] == "bar down"
    bottom = float(down.attrib["y"]) + float(down.attrib["height"])
    assert bottom == pytest.approx(float(end.attrib["y"]))
    assert float(start.attrib["y"]) == pytest.approx(float(down.attrib["y"]))


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (5, "5"), (0.25, "0.25"), (1234, "1,234"), (12_345, "12.3k"), (2.5e6, "2.5m"),
     (-40_000, "-40k"), (3e9, "3bn"), (99.95, "100"), (1e-9, "1e-09"),
     (999_960, "1m"), (-999.9e6, "-1bn")],
)  # fmt: skip
def test_figures_are_short(value: float, shown: str) -> None:
    assert plots.number(value) == shown


def test_a_table_of_shades_is_a_table_for_whoever_cannot_see_them() -> None:
    """Rows and columns have heads, cells say their value in words, and nothing breaks out."""
    way = ' data-figure="cohort" data-part="2026-03+1"'
    cells = [[Cell("92", 0.92, HOSTILE, way), Cell("0", -1.0)], [Cell(HOSTILE, 7.0), None]]
    picture = plots.shades(
        [HOSTILE, "2026-04"], ["0", HOSTILE], cells, title=HOSTILE, corner="Began", note="%"
    )
    root = ET.fromstring(picture)
    assert not set("{}$`") & set(picture)
    assert {node.tag for node in root.iter()} <= TAGS | {
        "table", "thead", "tbody", "tr", "th", "td", "button"
    }  # fmt: skip
    heads = [node.attrib["scope"] for node in root.iter("th")]
    assert heads == ["col"] * 3 + ["row"] * 2
    (button,) = root.iter("button")
    assert (button.attrib["data-part"], button.attrib["title"]) == ("2026-03+1", HOSTILE)
    shares = [node.attrib.get("style") for node in root.iter("td")]
    assert shares == ["--s:54%", "--s:0%", "--s:56%", None]
    (region,) = (node for node in root.iter("div") if node.attrib.get("role") == "region")
    assert region.attrib["tabindex"] == "0"


def test_bars_and_steps_may_lead_somewhere() -> None:
    way = ' data-figure="earned"'
    bars = parsed(plots.bars(["a", "b"], [Series("s", [1, 2])], title="t", ways=[way, way]))
    assert sum("data-figure" in node.attrib for node in bars.iter("rect")) == 2
    steps = parsed(plots.waterfall([Step("a", 1, way=way), Step("b", 1, total=True)], title="t"))
    assert sum("data-figure" in node.attrib for node in steps.iter("rect")) == 1
