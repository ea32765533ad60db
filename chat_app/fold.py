"""Fold: a text reduced to the words by which it is found. Knows no database.

Without case, accents and punctuation; a sign of a script that sets no spaces between words is a
word of its own. SQLite calls `fold` from its triggers; PostgreSQL has the same rule in SQL
(`migrations/full_text.py`), made from the same sets of signs, and a test holds both together.
"""

import re
import unicodedata
from collections.abc import Iterator

LONGEST_TEXT = 100_000
LONGEST_WORD = 64
# PostgreSQL keeps no position beyond it.
MOST_WORDS = 16_383
ACCENTS = "\\U00000300-\\U0000036f"

_SEPARATORS = (
    # ASCII but letters and digits; Latin-1's signs
    (0x01, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0xA9), (0xAB, 0xB4), (0xB6, 0xB9),
    (0xBB, 0xBF), (0xD7, 0xD7), (0xF7, 0xF7),
    # Armenian, Hebrew, Arabic, Indic, Thai
    (0x55A, 0x55F), (0x589, 0x58A), (0x5BE, 0x5BE), (0x5C0, 0x5C0), (0x5C3, 0x5C3),
    (0x5F3, 0x5F4), (0x60C, 0x60C), (0x61B, 0x61F), (0x66A, 0x66D), (0x6D4, 0x6D4),
    (0x964, 0x965), (0xE3F, 0xE3F), (0xE4F, 0xE4F), (0xE5A, 0xE5B), (0x1680, 0x1680),
    # general punctuation, currencies, letterlike signs, arrows, mathematics, boxes, dingbats
    (0x2000, 0x206F), (0x20A0, 0x20CF), (0x2100, 0x2BFF), (0x2E00, 0x2E7F),
    # Chinese and Japanese punctuation, variation selectors, private use, specials
    (0x3000, 0x3004), (0x3008, 0x3020), (0x3030, 0x3030), (0x303D, 0x303F), (0x30FB, 0x30FB),
    (0xE000, 0xF8FF), (0xFE00, 0xFE6F), (0xFEFF, 0xFEFF), (0xFFF0, 0xFFFF),
    # pictures
    (0x1F000, 0x1FAFF), (0xE0000, 0xE01EF),
)  # fmt: skip
_SINGLES = (
    (0xE00, 0xE3E), (0xE40, 0xE4E), (0xE50, 0xE59), (0xE5C, 0xFFF),  # Thai, Lao, Tibetan
    (0x1000, 0x109F), (0x1780, 0x17FF),  # Burmese, Khmer
    (0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3021, 0x302F), (0x3031, 0x303C),
    (0x3040, 0x30FA), (0x30FC, 0x312F), (0x31A0, 0x31FF),  # kana, bopomofo
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF),  # ideographs
)  # fmt: skip


def _signs(ranges: tuple[tuple[int, int], ...]) -> str:
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)


# What stands between the brackets of a regular expression, in Python's and PostgreSQL's words.
SEPARATORS = _signs(_SEPARATORS)
SINGLES = _signs(_SINGLES)

_accents = re.compile(f"[{ACCENTS}]")
_separators = re.compile(f"[\\x00{SEPARATORS}]+")
_singles = re.compile(f"[{SINGLES}]")
_RUN = re.compile(f"[{SINGLES}]|[^\\x00{SEPARATORS}{SINGLES}]+")
_PLAIN = str.maketrans({chr(code): " " for code in range(128) if not chr(code).isalnum()})


def fold(text: str | None) -> str:
    """The words of a text with a blank between them; nothing when it has none."""
    text = (text or "")[:LONGEST_TEXT]
    if text.isascii():
        words = text.lower().translate(_PLAIN).split()
    else:
        plain = _accents.sub("", unicodedata.normalize("NFKD", text))
        plain = unicodedata.normalize("NFC", plain).lower().replace("ς", "σ")
        words = _singles.sub(r" \g<0> ", _separators.sub(" ", plain)).split()
    return " ".join(word[:LONGEST_WORD] for word in words[:MOST_WORDS])


def places(text: str) -> Iterator[tuple[str, int, int]]:
    """Each word of a text as it is folded, with where it begins and ends there."""
    for found in _RUN.finditer(text):
        run = found.group()
        words = [run.lower()] if run.isascii() else fold(run).split()
        for word in words:
            yield word[:LONGEST_WORD], found.start(), found.end()
