"""Plots: small pictures as HTML with inline SVG, for gr.HTML and plain pages alike.

The shapes are an SVG that stretches with its place, the words around it are HTML, so both stay
sharp at any width. Colours are the variables --p1 to --p6 of `static/plots.css`, for light and
dark. Everything given is escaped, each picture says in words what it shows, and the output is
valid XML. Knows no data of ours.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ui.parts import esc

WIDTH, HEIGHT = 1000.0, 200.0
COLOURS = 6
MOST_LABELS = 7
Value = float | None
Words = Callable[[float], str]
_EMPTY_CELL = 'class="cell"'
_ODD = ' class="odd"'


@dataclass(frozen=True)
class Series:
    """A named row of values, one for each label; None is a gap. `dashed` lines are a comparison."""

    name: str
    values: Sequence[Value]
    dashed: bool = False


@dataclass(frozen=True)
class Band:
    """What lies between two rows of values, such as one in ten and nine in ten."""

    name: str
    low: Sequence[Value]
    high: Sequence[Value]


@dataclass(frozen=True)
class Mark:
    """Something to point at: the number of a label, and what happens there."""

    at: int
    name: str


def number(value: float) -> str:
    """A short figure: 1,234 stays, 12,345 is 12.3k."""
    size = abs(value)
    for least, unit, name in ((999.5e6, 1e9, "bn"), (999.5e3, 1e6, "m"), (1e4, 1e3, "k")):
        if size >= least:
            return f"{value / unit:.3g}{name}"
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def lines(
    labels: Sequence[str],
    series: Sequence[Series],
    *,
    title: str,
    unit: str = "",
    band: Band | None = None,
    marks: Sequence[Mark] = (),
    words: Words = number,
) -> str:
    """Lines over the labels, with a band behind them and marks on top."""
    rows = [row.values for row in series] + ([band.low, band.high] if band else [])
    scale = _Scale.over(rows)
    shapes = []
    if band is not None:
        shapes.append(_area(band, scale, len(labels)))
    for place, row in enumerate(series):
        look = " dashed" if row.dashed else ""
        shapes.extend(
            f'<polyline class="line p{_colour(place)}{look}" points="{points}"/>'
            for points in _paths(row.values, scale, len(labels))
        )
    for mark in marks:
        if 0 <= mark.at < len(labels):
            x = _x(mark.at, len(labels))
            shapes.append(f'<line class="mark" x1="{x}" x2="{x}" y1="0" y2="{HEIGHT:.0f}"/>')
    shapes.append(_hovers(labels, series, band, unit, words))
    keys = [(row.name, f"p{_colour(place)}{' dashed' if row.dashed else ''}")
            for place, row in enumerate(series)]  # fmt: skip
    keys += [(band.name, "p1 area")] if band else []
    flags = "".join(
        f'<span class="flag" style="left:{100 * (mark.at + 0.5) / len(labels):.2f}%">'
        f"{esc(mark.name)}</span>"
        for mark in marks
        if 0 <= mark.at < len(labels)
    )
    return _figure(
        title,
        unit=unit,
        told=_told(labels, series, words),
        shapes="".join(shapes),
        scale=scale,
        labels=labels,
        keys=keys,
        words=words,
        extra=flags,
    )


def bars(
    labels: Sequence[str],
    series: Sequence[Series],
    *,
    title: str,
    unit: str = "",
    words: Words = number,
    ways: Sequence[str] = (),
) -> str:
    """Bars over the labels, one series on top of the other. Values are not negative.

    `ways`: attributes for the column of each label, such as where a click leads.
    """
    count = len(labels)
    sums = [sum(max(row.values[at] or 0.0, 0.0) for row in series) for at in range(count)]
    scale = _Scale.over([sums])
    wide = WIDTH / max(count, 1)
    shapes = []
    for at in range(count):
        base = 0.0
        for place, row in enumerate(series):
            value = max(row.values[at] or 0.0, 0.0)
            if value > 0:
                top, foot = scale.y(base + value), scale.y(base)
                shapes.append(
                    f'<rect class="bar p{_colour(place)}" x="{at * wide + wide * 0.14:.2f}" '
                    f'width="{wide * 0.72:.2f}" y="{top:.2f}" height="{max(foot - top, 0.6):.2f}"/>'
                )
            base += value
    shapes.append(_hovers(labels, series, None, unit, words, ways=ways))
    keys = [(row.name, f"p{_colour(place)} full") for place, row in enumerate(series)]
    return _figure(
        title,
        unit=unit,
        told=_told(labels, series, words),
        shapes="".join(shapes),
        scale=scale,
        labels=labels,
        keys=keys if len(series) > 1 else [],
        words=words,
    )


def heat(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    *,
    title: str,
    unit: str = "",
    words: Words = number,
) -> str:
    """A table of cells that are the stronger the larger their value."""
    most = max((value for line in values for value in line), default=0.0)
    wide, high = WIDTH / max(len(columns), 1), HEIGHT / max(len(rows), 1)
    cells = []
    best = ("", 0.0)
    for down, line in enumerate(values):
        for across, value in enumerate(line):
            share = value / most if most else 0.0
            name = f"{rows[down]} {columns[across]}"
            best = max(best, (name, value), key=lambda one: one[1])
            look = f'class="cell p1" fill-opacity="{0.12 + 0.88 * math.sqrt(share):.2f}"'
            cells.append(
                f"<rect {look if value else _EMPTY_CELL} "
                f'x="{across * wide + wide * 0.06:.2f}" y="{down * high + high * 0.08:.2f}" '
                f'width="{wide * 0.88:.2f}" height="{high * 0.84:.2f}">'
                f"<title>{esc(name)}: {esc(_with(words(value), unit))}</title></rect>"
            )
    told = f"The most is {_with(words(best[1]), unit)}, {best[0]}." if best[1] else "Nothing yet."
    side = "".join(
        f'<span style="top:{100 * (at + 0.5) / len(rows):.2f}%">{esc(name)}</span>'
        for at, name in enumerate(rows)
    )
    return (
        f'<figure class="plot heat"><figcaption>{esc(title)}</figcaption>'
        f'<div class="plot-box"><div class="side">{side}</div>'
        f"{_svg(title, told, ''.join(cells))}</div>{_under(columns, spread=True)}</figure>"
    )


@dataclass(frozen=True)
class Cell:
    """A cell of a table of shades: what it shows, how strong it is (0 to 1), what it says.

    `way`: attributes of its button; without them it is no button.
    """

    shown: str
    share: float
    told: str = ""
    way: str = ""


def shades(
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Sequence[Sequence[Cell | None]],
    *,
    title: str,
    corner: str,
    note: str = "",
) -> str:
    """A table whose cells are the stronger the larger their share; it reads as a table, too."""
    top = "".join(f'<th scope="col">{esc(name)}</th>' for name in (corner, *columns))
    body = "".join(
        f'<tr><th scope="row">{esc(name)}</th>{"".join(_shade(cell) for cell in line)}</tr>'
        for name, line in zip(rows, cells, strict=True)
    )
    said = f" <small>{esc(note)}</small>" if note else ""
    return (
        f'<figure class="plot shades"><figcaption>{esc(title)}{said}</figcaption>'
        f'<div class="shade-box" tabindex="0" role="region" aria-label="{esc(title)}"><table>'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div></figure>"
    )


def _shade(cell: Cell | None) -> str:
    if cell is None:
        return '<td class="none"></td>'
    share = min(max(cell.share, 0.0), 1.0)
    strong = f"{56 * math.sqrt(share):.0f}%"
    told = f' title="{esc(cell.told)}"' if cell.told else ""
    inner = esc(cell.shown)
    if cell.way:
        inner = f'<button type="button"{cell.way}{told}>{inner}</button>'
    return f'<td style="--s:{strong}"{"" if cell.way else told}>{inner}</td>'


def spark(values: Sequence[Value], *, title: str, words: Words = number) -> str:
    """A line without axes, for a table's cell or a card."""
    scale = _Scale.over([values])
    known = [value for value in values if value is not None]
    told = f"From {words(known[0])} to {words(known[-1])}." if known else "Nothing yet."
    shapes = "".join(
        f'<polyline class="line p1" points="{points}"/>'
        for points in _paths(values, scale, len(values))
    )
    return f'<span class="spark">{_svg(title, told, shapes)}</span>'


@dataclass(frozen=True)
class Step:
    """A step of a waterfall: a change, or with `total` the level reached, drawn from zero.

    `way`: attributes of its bar, such as where a click leads.
    """

    name: str
    value: float
    total: bool = False
    way: str = ""


def waterfall(steps: Sequence[Step], *, title: str, unit: str = "", words: Words = number) -> str:
    """Changes one after another, from level to level."""
    level = 0.0
    spans: list[tuple[float, float]] = []
    for step in steps:
        start = 0.0 if step.total else level
        level = step.value if step.total else level + step.value
        spans.append((start, level))
    scale = _Scale.over([[edge for span in spans for edge in span]])
    wide = WIDTH / max(len(steps), 1)
    shapes = []
    for at, (step, (start, end)) in enumerate(zip(steps, spans, strict=True)):
        kind = "p1" if step.total else "up" if step.value >= 0 else "down"
        top, foot = scale.y(max(start, end)), scale.y(min(start, end))
        sign = "" if step.total or step.value < 0 else "+"
        shapes.append(
            f'<rect class="bar {kind}"{step.way} x="{at * wide + wide * 0.14:.2f}" '
            f'width="{wide * 0.72:.2f}" '
            f'y="{top:.2f}" height="{max(foot - top, 0.8):.2f}">'
            f"<title>{esc(step.name)}: {sign}{esc(_with(words(step.value), unit))}</title></rect>"
        )
    told = "; ".join(f"{step.name} {words(step.value)}" for step in steps)
    names = [step.name for step in steps]
    return _figure(
        title,
        unit=unit,
        told=told,
        shapes="".join(shapes),
        scale=scale,
        labels=names,
        keys=[],
        words=words,
        spread=True,
    )


@dataclass(frozen=True)
class _Scale:
    """From the lowest to the highest value that is drawn, with the lines between them."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def over(cls, rows: Sequence[Sequence[Value]]) -> "_Scale":
        known = [value for row in rows for value in row if value is not None]
        low, high = min([0.0, *known]), max([0.0, *known])
        if high - low <= 0:
            high = low + 1
        raw = (high - low) / 4
        unit = 10 ** math.floor(math.log10(raw))
        step = next(unit * by for by in (1, 2, 2.5, 5, 10) if unit * by >= raw * 0.999)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        return cls(first * step, last * step, tuple(at * step for at in range(first, last + 1)))

    def y(self, value: float) -> float:
        """Down from the top edge."""
        return HEIGHT * (self.high - value) / (self.high - self.low)


def _colour(place: int) -> int:
    return place % COLOURS + 1


def _x(at: int, count: int) -> str:
    return f"{WIDTH * (at + 0.5) / max(count, 1):.2f}"


def _paths(values: Sequence[Value], scale: _Scale, count: int) -> list[str]:
    """The points of each part without a gap; a lonely value becomes a short stroke."""
    parts: list[list[tuple[int, float]]] = [[]]
    for at, value in enumerate(values):
        if value is None:
            parts.append([])
        else:
            parts[-1].append((at, value))
    return [
        " ".join(f"{_x(at, count)},{scale.y(value):.2f}" for at, value in [*part, part[-1]])
        for part in parts
        if part
    ]


def _area(band: Band, scale: _Scale, count: int) -> str:
    pairs = [
        (at, low, high)
        for at, (low, high) in enumerate(zip(band.low, band.high, strict=True))
        if low is not None and high is not None
    ]
    up = [f"{_x(at, count)},{scale.y(high):.2f}" for at, _, high in pairs]
    down = [f"{_x(at, count)},{scale.y(low):.2f}" for at, low, _ in reversed(pairs)]
    return f'<polygon class="band p1" points="{" ".join([*up, *down])}"/>' if pairs else ""


def _hovers(
    labels: Sequence[str],
    series: Sequence[Series],
    band: Band | None,
    unit: str,
    words: Words,
    *,
    ways: Sequence[str] = (),
) -> str:
    """Invisible columns that say their values when the pointer rests on them."""
    wide = WIDTH / max(len(labels), 1)
    columns = []
    for at, label in enumerate(labels):
        said = [
            f"{row.name}: {_with(words(value), unit)}"
            for row in series
            if (value := row.values[at]) is not None
        ]
        if band is not None and (low := band.low[at]) is not None:
            high = band.high[at]
            if high is not None:
                said.append(f"{band.name}: {words(low)} to {_with(words(high), unit)}")
        columns.append(
            f'<rect class="hover"{ways[at] if ways else ""} x="{at * wide:.2f}" '
            f'width="{wide:.2f}" y="0" '
            f'height="{HEIGHT:.0f}"><title>{esc(label)} — {esc("; ".join(said) or "nothing")}'
            "</title></rect>"
        )
    return "".join(columns)


def _told(labels: Sequence[str], series: Sequence[Series], words: Words) -> str:
    """The picture in a sentence for each series."""
    said = []
    for row in series:
        known = [(value, at) for at, value in enumerate(row.values) if value is not None]
        if not known:
            continue
        (low, where), (high, there) = min(known), max(known)
        said.append(
            f"{row.name}: {words(known[0][0])} at first, {words(known[-1][0])} at last, least "
            f"{words(low)} ({labels[where]}), most {words(high)} ({labels[there]})."
        )
    return " ".join(said) or "Nothing yet."


def _with(figure: str, unit: str) -> str:
    return f"{figure} {unit}" if unit else figure


def _svg(title: str, told: str, shapes: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" preserveAspectRatio="none" role="img" '
        f'aria-label="{esc(title)}. {esc(told)}">{shapes}</svg>'
    )


def _figure(
    title: str,
    *,
    unit: str,
    told: str,
    shapes: str,
    scale: _Scale,
    labels: Sequence[str],
    keys: Sequence[tuple[str, str]],
    words: Words,
    extra: str = "",
    spread: bool = False,
) -> str:
    grid = "".join(
        f'<line class="{"zero" if tick == 0 else "grid"}" x1="0" x2="{WIDTH:.0f}" '
        f'y1="{scale.y(tick):.2f}" y2="{scale.y(tick):.2f}"/>'
        for tick in scale.ticks
    )
    side = "".join(
        f'<span style="top:{100 * scale.y(tick) / HEIGHT:.2f}%">{esc(words(tick))}</span>'
        for tick in scale.ticks
    )
    legend = "".join(f'<span><i class="{look}"></i>{esc(name)}</span>' for name, look in keys)
    said = f" <small>{esc(unit)}</small>" if unit and unit not in title.lower() else ""
    keyed = f'<div class="legend">{legend}</div>' if legend else ""
    return (
        f'<figure class="plot"><figcaption>{esc(title)}{said}</figcaption>'
        f'<div class="plot-box"><div class="side">{side}</div>{_svg(title, told, grid + shapes)}'
        f"{extra}</div>{_under(labels, spread=spread)}"
        f"{keyed}</figure>"
    )


def _under(labels: Sequence[str], *, spread: bool = False) -> str:
    """The labels below, thinned out; with `spread` all of them, each in its column."""
    count = len(labels)
    step = 1 if spread and count <= 2 * MOST_LABELS else max(1, math.ceil(count / MOST_LABELS))
    if spread and count > 2 * MOST_LABELS:
        step = max(1, round(count / 8))
    shown = range(0, count, step)
    return (
        '<div class="under">'
        + "".join(
            f'<span style="left:{100 * (at + 0.5) / count:.2f}%"'
            f"{_ODD if place % 2 else ''}>{esc(labels[at])}</span>"
            for place, at in enumerate(shown)
        )
        + "</div>"
    )
