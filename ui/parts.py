"""Parts: the small pieces of HTML that several tabs use. Everything given is escaped."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from chat_app.clock import MICROS_PER_SECOND, from_micros
from chat_app.credits.ledger import Balance
from chat_app.money import MICRO, show_credits

DAY = 24 * 3600 * MICROS_PER_SECOND
PERIODS = [("Last 7 days", "7"), ("Last 30 days", "30"), ("Last 90 days", "90"), ("All time", "0")]
# gr.HTML treats these as the beginning of a template.
_TEMPLATE = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;"})


def esc(text: object) -> str:
    """Text for gr.HTML: no markup and no template."""
    return html.escape(str(text)).translate(_TEMPLATE)


def since(period: str, now: int) -> int | None:
    """The beginning of a period of days, in µs; None for all time."""
    days = int(period) if period.isdigit() else 30
    return now - days * DAY if days else None


def when(micros: int) -> str:
    """A time for people; the script turns it into the browser's zone."""
    moment = from_micros(micros)
    return f'<time datetime="{moment:%Y-%m-%dT%H:%M:%SZ}">{moment:%d %b %Y, %H:%M} UTC</time>'


def amount(micro: int) -> str:
    """`1 credit`, `12.5 credits`."""
    return f"{show_credits(micro)} {'credit' if abs(micro) == MICRO else 'credits'}"


def base(origin: str) -> str:
    """Where the payment page leads back to: the page that the buyer came from."""
    parsed = urlsplit((origin or "")[:300])
    return origin if parsed.scheme in ("http", "https") and parsed.netloc else ""


def seller(provider: str) -> str:
    """Who takes the money here."""
    if provider == "offline":
        return badge("Demonstration shop: no real money moves", "warn")
    return badge(f"Paid on the page of {provider.capitalize()}")


def pill(balance: Balance) -> str:
    """The available credits in the header."""
    low = " low" if balance.available < 20 * MICRO else ""
    held = show_credits(balance.held) if balance.held else ""
    said = f", {held} held" if held else ""
    return (
        f'<span class="pill{low}" title="{show_credits(balance.total)} in total{said}">'
        f"<b>{show_credits(balance.available)}</b> <span>credits</span>"
        + (f'<i data-held="{held}">{held} held</i>' if held else "")
        + "</span>"
    )


@dataclass(frozen=True)
class Card:
    """A figure with a name and a note."""

    name: str
    figure: str
    note: str = ""


def cards(items: Iterable[Card]) -> str:
    """A row of figures."""
    inner = "".join(
        f'<div class="card"><div class="name">{esc(item.name)}</div>'
        f'<div class="figure">{esc(item.figure)}</div>'
        f'<div class="note">{esc(item.note)}</div></div>'
        for item in items
    )
    return f'<div class="cards">{inner}</div>'


def empty(title: str, sentence: str, go: str = "") -> str:
    """What a list says when it has nothing to show, with a way to the tab `go` that fills it."""
    way = f'<p><a href="#" role="button" data-go="{esc(go)}">Go to {esc(go)}</a></p>' if go else ""
    return f'<div class="empty"><b>{esc(title)}</b><p>{esc(sentence)}</p>{way}</div>'


def loading(rows: int = 3) -> str:
    """Grey bars until the data is there."""
    return '<div class="skeleton" role="status" aria-label="Loading">' + "<i></i>" * rows + "</div>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str) -> str:
    """A table of cells that are HTML already. A head that ends with `>` is of a number column."""
    right = [head.endswith(">") for head in heads]
    top = "".join(
        f'<th scope="col"{_class(number)}>{esc(head.rstrip(">"))}</th>'
        for head, number in zip(heads, right, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td{_class(number)} data-head="{esc(head.rstrip(">"))}">{cell}</td>'
            for head, cell, number in zip(heads, row, right, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{esc(caption)}">'
        f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def reveal(elem_id: str) -> str:
    """A script that scrolls to a panel that has just opened, if it is out of sight."""
    return (
        f"() => requestAnimationFrame(() => document.getElementById('{elem_id}')"
        "?.scrollIntoView({ block: 'nearest' }))"
    )


def signed(micro: int) -> str:
    """A movement of credits with its sign and colour."""
    kind = "plus" if micro > 0 else "minus"
    return f'<span class="{kind}">{"+" if micro > 0 else ""}{show_credits(micro)}</span>'


def badge(text: str, kind: str = "") -> str:
    """A small label: `good`, `warn`, `bad` or neutral."""
    return f'<span class="badge {kind}">{esc(text)}</span>'


def _class(number: bool) -> str:
    return ' class="number"' if number else ""
