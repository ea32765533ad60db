"""The PDF of a document: A4, drawn from the frozen text alone, so the same bytes every time."""

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from chat_app.clock import to_micros
from chat_app.credits import paper
from chat_app.credits.invoices import tax
from chat_app.credits.invoices.documents import Document
from chat_app.money import Money

if TYPE_CHECKING:
    from fpdf import FPDF

TITLES = {"invoice": "Invoice", "credit_note": "Credit note"}
PROVIDERS = {"offline": "the demonstration shop, no real money moved", "stripe": "Stripe"}
# Names of countries that the rates know; others are shown by their letters.
COUNTRIES = {
    "AT": "Austria", "BE": "Belgium", "BG": "Bulgaria", "CH": "Switzerland", "CY": "Cyprus",
    "CZ": "Czechia", "DE": "Germany", "DK": "Denmark", "EE": "Estonia", "ES": "Spain",
    "FI": "Finland", "FR": "France", "GB": "United Kingdom", "GR": "Greece", "HR": "Croatia",
    "HU": "Hungary", "IE": "Ireland", "IT": "Italy", "LT": "Lithuania", "LU": "Luxembourg",
    "LV": "Latvia", "MT": "Malta", "NL": "Netherlands", "NO": "Norway", "PL": "Poland",
    "PT": "Portugal", "RO": "Romania", "SE": "Sweden", "SI": "Slovenia", "SK": "Slovakia",
    "US": "United States",
}  # fmt: skip
_LINES: list[paper.Column] = [("Description", 112, "L"), ("Quantity", 20, "R"), ("Amount", 34, "R")]
_TAXES: list[paper.Column] = [
    ("Tax", 64, "L"),
    ("Net", 34, "R"),
    ("Tax amount", 34, "R"),
    ("Gross", 34, "R"),
]


def render(document: Document, *, sha256: str) -> bytes:
    """The file. `sha256` is the document's own hash, printed at the foot."""
    seller, title = document["seller"], TITLES[document["kind"]]
    number = document["number"] or "Draft"
    page = paper.sheet(
        title=f"{title} {number}",
        author=seller["name"],
        at=_micros(document["issued_on"]),
        foot=_foot(document, sha256),
    )
    _head(page, document, title)
    _parties(page, document)
    _lines(page, document)
    _totals(page, document)
    _closing(page, document)
    return paper.content(page)


def day(iso: str) -> str:
    """`21 November 2026`."""
    found = date.fromisoformat(iso)
    return f"{found.day} {found:%B %Y}"


def facts(document: Document) -> list[tuple[str, str]]:
    """The names and values at the top: number, dates, what it corrects."""
    found = [
        ("Number", document["number"] or "Draft, not issued"),
        ("Date of issue", day(document["issued_on"])),
        ("Date of supply", day((document["paid"] or {}).get("on") or document["issued_on"])),
    ]
    if document["due_on"]:
        found[2] = ("Due", day(document["due_on"]))
    if document["corrects"]:
        corrected = document["corrects"]
        found[2] = ("Corrects invoice", f"{corrected['number']}, {day(corrected['issued_on'])}")
    return found


def party(who: Document) -> list[str]:
    """The lines of an address."""
    lines = [*who["address"], COUNTRIES.get(who["country"], who["country"])]
    if who["vat_id"]:
        lines.append(f"VAT id {who['vat_id']}")
    return [line for line in [*lines, who["email"]] if line]


def tax_name(line: Document) -> str:
    """What a tax line is called."""
    if line["treatment"] == "standard":
        return f"VAT {line['jurisdiction']} {tax.show_rate(line['rate_bp'])}"
    if line["treatment"] == "reverse_charge":
        return "Reverse charge, 0 %"
    return "Not taxed" if line["treatment"] == "outside" else "No tax"


def payment(document: Document) -> str:
    """The sentence on the payment."""
    if document["kind"] == "credit_note":
        return "This amount is taken off the invoice named above."
    if document["paid"]:
        paid = document["paid"]
        through = PROVIDERS.get(paid["provider"], paid["provider"])
        return f"Paid on {day(paid['on'])} through {through}. Reference {paid['reference']}."
    if document["due_on"]:
        return f"Please pay by {day(document['due_on'])} and name the number of this invoice."
    return "A draft is not an invoice: nothing is due."


def _head(page: "FPDF", document: Document, title: str) -> None:
    paper.mark(page, x=paper.LEFT, y=18)
    page.set_xy(paper.LEFT + 15, 18)
    paper.write(page, document["seller"]["name"], size=13, bold=True, width=85, height=11)
    page.set_xy(120, 18)
    paper.write(page, title, size=22, bold=True, width=70, align="R", height=11)
    page.set_y(40)


def _parties(page: "FPDF", document: Document) -> None:
    top, lowest = page.get_y(), page.get_y()
    for x, name, who in (
        (paper.LEFT, "From", document["seller"]),
        (paper.LEFT + 56, "Billed to", document["buyer"]),
    ):
        page.set_xy(x, top)
        paper.write(page, name, size=8, bold=True, color=paper.MUTED, width=52)
        page.set_xy(x, top + 5.5)
        paper.block(page, who["name"], width=52, bold=True)
        for line in party(who):
            paper.block(page, line, width=52, color=paper.MUTED)
        lowest = max(lowest, page.get_y())
    page.set_xy(paper.LEFT + 114, top)
    for name, value in facts(document):
        page.set_x(paper.LEFT + 114)
        paper.write(page, name, size=8, bold=True, color=paper.MUTED, width=56)
        page.ln(5)
        page.set_x(paper.LEFT + 114)
        paper.write(page, value, width=56)
        page.ln(7)
    page.set_y(max(lowest, page.get_y()) + 8)


def _lines(page: "FPDF", document: Document) -> None:
    columns = _LINES
    if document["taxed"]:
        columns = [*_LINES[:2], ("Amount incl. tax", 34, "R")]
    paper.heads(page, columns)
    for line in document["lines"]:
        amount = str(Money(line["amount_minor"], document["currency"]))
        paper.row(page, columns, [line["description"], str(line["quantity"]), amount], height=9)
    page.ln(5)


def _totals(page: "FPDF", document: Document) -> None:
    def money(minor: int) -> str:
        return str(Money(minor, document["currency"]))

    box = {"x": paper.RIGHT - 82.0, "width": 80.0}
    if document["taxed"]:
        paper.pair(page, "Net", money(document["net_minor"]), **box)
        for line in document["taxes"]:
            paper.pair(page, tax_name(line), money(line["tax_minor"]), **box)
    page.set_draw_color(*paper.INK)
    page.line(paper.RIGHT - 82, page.get_y() + 0.5, paper.RIGHT, page.get_y() + 0.5)
    page.ln(2.5)
    name = "Total credited" if document["kind"] == "credit_note" else "Total"
    paper.pair(page, name, money(document["total_minor"]), bold=True, **box)
    page.ln(6)
    if not document["taxed"]:
        return
    paper.heads(page, _TAXES)
    for line in document["taxes"]:
        gross = line["base_minor"] + line["tax_minor"]
        amounts = [money(minor) for minor in (line["base_minor"], line["tax_minor"], gross)]
        paper.row(page, _TAXES, [tax_name(line), *amounts])
    page.ln(6)


def _closing(page: "FPDF", document: Document) -> None:
    page.set_x(paper.LEFT)
    paper.block(page, payment(document), bold=bool(document["paid"]))
    for note in document["notes"]:
        page.ln(1.5)
        paper.block(page, note, color=paper.MUTED)


def _foot(document: Document, sha256: str) -> list[str]:
    seller = document["seller"]
    about = [seller["name"], *seller["address"], seller["country"]]
    ids = [f"Registration {seller['registration']}"] if seller["registration"] else []
    ids += [f"VAT id {seller['vat_id']}"] if seller["vat_id"] else []
    return [" · ".join(part for part in [*about, *ids] if part), f"Document SHA-256 {sha256}"]


def _micros(iso: str) -> int:
    return to_micros(datetime.fromisoformat(iso).replace(tzinfo=UTC))
