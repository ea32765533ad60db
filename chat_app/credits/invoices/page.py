"""The public page of an invoice: plain HTML without any script, for whoever has its link."""

from html import escape

from chat_app.credits.invoices import pdf
from chat_app.credits.invoices.documents import Document
from chat_app.money import Money

_STYLE = """
:root { color-scheme: light dark; --ink: #1f1d1a; --muted: #625d56; --line: #e4e0d9; --sheet: #fff;
  --back: #f3f1ed; --brand: #4338ca; --good: #166534; --good-bg: #e3f4e7; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf1; --muted: #a3a3ad; --line: #34343c;
  --sheet: #1b1b20; --back: #111114; --brand: #a5b4fc; --good: #86efac; --good-bg: #163322; } }
* { box-sizing: border-box; } body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 780px; margin: 0 auto; padding: 32px 16px 48px; }
.sheet { background: var(--sheet); border: 1px solid var(--line); border-radius: 16px;
  padding: clamp(20px, 5vw, 44px); }
header { display: flex; flex-wrap: wrap; gap: 12px; justify-content: space-between;
  align-items: center; margin-bottom: 28px; }
h1 { font-size: 28px; margin: 0; letter-spacing: -0.02em; } h2 { font-size: 13px;
  color: var(--muted); margin: 0 0 4px; font-weight: 600; } p { margin: 0; }
.badge { background: var(--good-bg); color: var(--good); border-radius: 99px; padding: 3px 12px;
  font-size: 14px; font-weight: 600; }
.badge.other { background: var(--back); color: var(--muted); }
.parties { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 24px;
  margin-bottom: 28px; } .parties p { color: var(--muted); overflow-wrap: anywhere; }
.parties b { color: var(--ink); display: block; }
table { width: 100%; border-collapse: collapse; margin-bottom: 20px; } th { text-align: left;
  font-size: 13px; color: var(--muted); } th, td { padding: 10px 4px; vertical-align: top;
  border-bottom: 1px solid var(--line); } .n { text-align: right; white-space: nowrap; }
.total td { font-weight: 700; font-size: 18px; border-bottom: 0; } .note { color: var(--muted);
  font-size: 14.5px; margin-top: 6px; }
a.go { display: inline-block; margin-top: 20px; background: #4338ca; color: #fff;
  padding: 10px 18px; border-radius: 10px; text-decoration: none; font-weight: 600; }
"""


def render(document: Document, *, status: str, pdf_path: str) -> str:
    """The page. `status` is how the invoice stands today; everything else was frozen."""
    title = f"{pdf.TITLES[document['kind']]} {document['number']}"
    seller, buyer = document["seller"], document["buyer"]

    def money(minor: int) -> str:
        return escape(str(Money(minor, document["currency"])))

    facts = "".join(
        f"<h2>{escape(name)}</h2><p><b>{escape(value)}</b></p>"
        for name, value in pdf.facts(document)
    )
    rows = "".join(
        f"<tr><td>{escape(line['description'])}</td><td class=n>{line['quantity']}</td>"
        f"<td class=n>{money(line['amount_minor'])}</td></tr>"
        for line in document["lines"]
    )
    sums = ""
    if document["taxed"]:
        sums = f"<tr><td colspan=2>Net</td><td class=n>{money(document['net_minor'])}</td></tr>"
        sums += "".join(
            f"<tr><td colspan=2>{escape(pdf.tax_name(line))}</td>"
            f"<td class=n>{money(line['tax_minor'])}</td></tr>"
            for line in document["taxes"]
        )
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in document["notes"])
    state = {"paid": "Paid", "open": "Open", "void": "Void", "uncollectible": "Not paid"}[status]
    if document["kind"] == "credit_note":
        state = "Credited"
    kind = "badge" if status == "paid" else "badge other"
    amount = "Amount incl. tax" if document["taxed"] else "Amount"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="robots" content="noindex"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><main><article class=sheet>"
        f'<header><h1>{escape(title)}</h1><span class="{kind}">{state}</span></header>'
        f"<section class=parties>{_party('From', seller)}{_party('Billed to', buyer)}"
        f"<div>{facts}</div></section>"
        f"<table><thead><tr><th>Description</th><th class=n>Quantity</th>"
        f"<th class=n>{amount}</th></tr></thead><tbody>{rows}{sums}"
        f"<tr class=total><td colspan=2>Total</td>"
        f"<td class=n>{money(document['total_minor'])}</td></tr></tbody></table>"
        f"<p>{escape(pdf.payment(document))}</p>{notes}"
        f'<a class="go" href="{escape(pdf_path)}">Download PDF</a>'
        "</article></main></body></html>"
    )


def _party(name: str, who: Document) -> str:
    lines = "<br>".join(escape(line) for line in pdf.party(who))
    return f"<div><h2>{name}</h2><p><b>{escape(who['name'])}</b>{lines}</p></div>"
