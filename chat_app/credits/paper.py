"""Paper: A4 sheets with our own font, for invoices and statements. Same input, same bytes.

Knows millimetres and texts; what they mean is for the callers. The font is IBM Plex Sans (SIL
Open Font License, `invoices/fonts/OFL.txt`), embedded as the letters that are used.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chat_app.clock import from_micros

if TYPE_CHECKING:
    from fpdf import FPDF

FONTS = Path(__file__).parent / "invoices" / "fonts"
FONT = "plex"
LEFT, RIGHT, WIDTH = 20, 190, 170
INK, MUTED, LINE, SOFT, BRAND = (31, 29, 26), (98, 93, 86), (222, 218, 210), (246, 245, 242), (67, 56, 202)  # fmt: skip  # noqa: E501
# What each column of a table is: heading, width in mm, alignment.
Column = tuple[str, int, str]


def sheet(*, title: str, author: str, at: int, foot: Sequence[str]) -> "FPDF":
    """An empty document of `at` (µs), with `foot` and page numbers at the end of each page."""
    from fpdf import FPDF

    class Sheet(FPDF):
        def footer(self) -> None:
            self.set_y(-10 - 4 * (len(foot) + 1))
            self.set_draw_color(*LINE)
            self.line(LEFT, self.get_y(), RIGHT, self.get_y())
            self.ln(2)
            for number, text in enumerate(foot):
                page = f"Page {self.page_no()} of {{nb}}" if number == len(foot) - 1 else ""
                write(self, text, size=7.5, color=MUTED, width=WIDTH - 26, height=4)
                self.set_xy(RIGHT - 26, self.get_y())
                write(self, page, size=7.5, color=MUTED, width=26, align="R", height=4)
                self.ln(4)

    made = Sheet(format="A4")
    made.set_margins(LEFT, 18, LEFT)
    made.c_margin = 0
    made.set_auto_page_break(True, margin=20 + 4 * len(foot))
    for style, file in (("", "Regular"), ("B", "SemiBold")):
        made.add_font(FONT, style, FONTS / f"IBMPlexSans-{file}.ttf")
    made.set_title(title)
    made.set_author(author)
    made.set_creator("ML Chat Billing")
    made.set_producer("ML Chat Billing")
    made.set_lang("en")
    made.set_creation_date(from_micros(at))
    made.add_page()
    return made


def write(
    page: "FPDF",
    text: str,
    *,
    size: float = 9.5,
    bold: bool = False,
    color: tuple[int, int, int] = INK,
    width: float = 0,
    align: str = "L",
    height: float = 5,
) -> None:
    """One line of text at the current place, cut off at its width; the place moves right."""
    page.set_font(FONT, "B" if bold else "", size)
    page.set_text_color(*color)
    page.cell(width, height, _cut(page, text, width), align=align)


def block(
    page: "FPDF",
    text: str,
    *,
    width: float = 0,
    size: float = 9.5,
    color: tuple[int, int, int] = INK,
    bold: bool = False,
    height: float = 4.8,
) -> None:
    """Wrapped text from the current place down; the next line begins at the same left edge."""
    left = page.get_x()
    page.set_font(FONT, "B" if bold else "", size)
    page.set_text_color(*color)
    page.multi_cell(width, height, text, align="L", new_x="LEFT", new_y="NEXT")
    page.set_x(left)


def mark(page: "FPDF", *, x: float, y: float, size: float = 11) -> None:
    """The logo, drawn."""
    page.set_fill_color(*BRAND)
    page.rect(x, y, size, size, style="F", round_corners=True, corner_radius=size * 0.28)
    page.set_draw_color(255, 255, 255)
    page.set_line_width(size * 0.075)
    for down, long in ((0.354, 0.42), (0.5, 0.42), (0.646, 0.25)):
        page.line(x + size * 0.29, y + size * down, x + size * (0.29 + long), y + size * down)
    page.set_line_width(0.2)


def heads(page: "FPDF", columns: Sequence[Column]) -> None:
    """The head of a table."""
    page.set_fill_color(*SOFT)
    page.rect(LEFT, page.get_y(), WIDTH, 7.5, style="F")
    page.set_x(LEFT + 2)
    for text, width, align in columns:
        write(page, text, size=8, bold=True, color=MUTED, width=width, align=align, height=7.5)
    page.ln(7.5)


def row(
    page: "FPDF",
    columns: Sequence[Column],
    cells: Sequence[str],
    *,
    bold: bool = False,
    size: float = 9.5,
    height: float = 8,
) -> None:
    """A row of a table; on a new page the head comes first."""
    if page.will_page_break(height):
        page.add_page()
        heads(page, columns)
    page.set_x(LEFT + 2)
    for (_, width, align), text in zip(columns, cells, strict=True):
        write(page, text, width=width, align=align, height=height, bold=bold, size=size)
    page.ln(height)
    page.set_draw_color(*LINE)
    page.line(LEFT, page.get_y(), RIGHT, page.get_y())


def pair(page: "FPDF", name: str, value: str, *, x: float, width: float, **look: object) -> None:
    """A name at the left and its value at the right of a box, then the next line."""
    strong = bool(look.get("bold"))
    size = 11 if strong else 9.5
    page.set_x(x)
    write(page, name, width=width / 2, bold=strong, size=size, color=INK if strong else MUTED)
    write(page, value, width=width / 2, align="R", bold=strong, size=size)
    page.ln(7.5 if strong else 5.5)


def content(page: "FPDF") -> bytes:
    """The finished file."""
    return bytes(page.output())


def _cut(page: "FPDF", text: str, width: float) -> str:
    if not width or page.get_string_width(text) <= width - 2:
        return text
    while text and page.get_string_width(text + "…") > width - 2:
        text = text[:-1]
    return text + "…"
