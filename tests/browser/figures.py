"""What a page of figures shows, read once as data: cards, tables, plots and their sizes.

Also the words of a figure, held to the exact decimal that they stand for.
"""

import re
from decimal import Decimal
from typing import Any

# Every sheet by its id, as a person (or a screen reader) finds it: text, never attributes of ours,
# but `ways`, which lead from a figure to its rows.
READ = """() => {
  const text = (node) => (node ? node.innerText : '').replace(/\\s+/g, ' ').trim();
  const all = (node, where, make) => [...node.querySelectorAll(where)].map(make);
  const share = (node) => parseFloat(node.style.top) / 100;
  const shade = (cell) => {
    const told = cell.querySelector('button') || cell;
    return { text: text(cell), title: told.title, way: { ...told.dataset },
             strong: cell.style.getPropertyValue('--s') };
  };
  const row = (line) => all(line, 'td', (cell) => ({
    text: text(cell), way: { ...(cell.querySelector('[data-figure]') || {}).dataset } }));
  const bar = (rect) => ({
    title: (rect.querySelector('title') || {}).textContent || '', way: { ...rect.dataset },
    y: parseFloat(rect.getAttribute('y')), height: parseFloat(rect.getAttribute('height')),
    x: parseFloat(rect.getAttribute('x')), colour: rect.getAttribute('class') });
  const plot = (figure) => ({
    title: text(figure.querySelector('figcaption')),
    told: figure.querySelector('svg').getAttribute('aria-label'),
    ticks: all(figure, '.side span', (tick) => [share(tick), text(tick)]),
    bars: all(figure, 'rect.bar', bar), columns: all(figure, 'rect.hover', bar),
    under: all(figure, '.under span', text) });
  const shades = (figure) => ({
    title: text(figure.querySelector('figcaption')),
    heads: all(figure, 'thead th', text),
    names: all(figure, 'tbody th', text),
    rows: all(figure, 'tbody tr', (line) => all(line, 'td', shade)) });
  const sheet = (node) => ({
    hint: text(node.querySelector('.hint')),
    plots: all(node, 'figure.plot:not(.shades)', plot),
    shades: all(node, 'figure.shades', shades),
    tables: Object.fromEntries(all(node, '.table', (table) =>
      [table.getAttribute('aria-label'), all(table, 'tbody tr', row)])) });
  const page = document.getElementById('admin-revenue-page');
  return {
    span: text(document.querySelector('#admin-revenue-range .spans')),
    currencies: all(document, '#admin-revenue-range option', (one) => one.textContent),
    cards: all(page, '.card', (card) => ({
      name: text(card.querySelector('.name')), figure: text(card.querySelector('.figure')),
      note: text(card.querySelector('.note')), delta: text(card.querySelector('.delta')),
      spark: (card.querySelector('svg') || { getAttribute: () => '' }).getAttribute('aria-label'),
      way: { ...card.dataset } })),
    sheets: Object.fromEntries(all(page, 'section.sheet', (node) => [
      node.id.replace('admin-revenue-', ''), sheet(node)])),
    closed: text(document.getElementById('admin-revenue-closed')),
  };
}"""
_UNITS = {"": 0, "k": 3, "m": 6, "bn": 9}
_HEIGHT = 200


def exact(shown: str) -> Decimal:
    """`−1,234.50` as it stands."""
    return Decimal(shown.replace(",", "").replace("−", "-"))


def money(minor: Decimal | int | None) -> str:
    """Minor units as an operator reads them; there is no part of a cent."""
    if minor is None:
        return "–"
    assert minor == int(minor), minor
    return f"{Decimal(int(minor)).scaleb(-2):,.2f}".replace("-", "−")


def rounds(shown: str, figure: Decimal) -> bool:
    """Whether a short figure such as `12.3k` is this one, rounded and no further off than that:
    whole below ten thousand, else three digits.
    """
    found = re.fullmatch(r"([+−-]?[\d,]+(?:\.\d+)?)(k|m|bn|)", shown)
    if found is None:
        return False
    said, size = exact(found[1]).scaleb(_UNITS[found[2]]), abs(figure)
    last = 0 if 100 <= size < 10_000 else figure.adjusted() - 2
    return bool(abs(said - figure) <= Decimal(1).scaleb(last) / 2)


def percent(shown: str, share: Decimal | int | None) -> bool:
    """Whether `12.3%` is this share, to its last digit."""
    if share is None:
        return shown == "–"
    said = re.fullmatch(r"(-?[\d,]+\.\d)%", shown)
    return said is not None and abs(exact(said[1]) - Decimal(share) * 100) <= Decimal("0.05")


def levels(plot: dict[str, Any]) -> list[tuple[Decimal, Decimal]]:
    """From where to where each bar of a plot goes, read off its axis, and the width of a pixel."""
    (first, top), (last, foot) = plot["ticks"][-1], plot["ticks"][0]
    high, low = short(top), short(foot)
    assert abs(first) < 1e-6
    assert abs(last - 1) < 1e-6
    per = (high - low) / _HEIGHT
    return [
        (high - Decimal(str(bar["y"])) * per, Decimal(str(bar["height"])) * per)
        for bar in plot["bars"]
    ]


def short(shown: str) -> Decimal:
    """`12.5k` as a number; ticks are round, so nothing is lost."""
    found = re.fullmatch(r"(-?[\d,.]+)(k|m|bn|)", shown)
    assert found is not None, shown
    return exact(found[1]).scaleb(_UNITS[found[2]])
