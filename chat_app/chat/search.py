"""Search: what people type becomes a query, and the messages that match it come newest first.

Words are found by their beginnings, "quoted words" as they stand one after another, -words keep
messages out. Both databases index the same words (`chat_app.fold`), so both find the same; a
query without a word, such as a picture or a bracket, is looked for as it is written. Whatever
is typed is a query. Every query names the owner.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlmodel import Session

from chat_app.errors import Invalid
from chat_app.fold import LONGEST_TEXT, fold, places
from chat_app.migrations import full_text

PAGE = 100
SNIPPET = 80
MOST_TERMS = 16
MOST_WORDS_OF_A_TERM = 32
MERGE_PAGES = 200
_QUOTES = str.maketrans(dict.fromkeys("“”„‟«»＂", '"'))
_TERM = re.compile(r'(-?)(?:"([^"]*)"?|([^\s"]+))')
_LAST = 2**63 - 1
Marks = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Hit:
    """A message that a search found.

    The snippet is plain text around the first match; `marks` are where the matches begin and end
    in it. `charged` is in microcredits.
    """

    message_id: str
    conversation_id: str
    title: str
    role: str
    snippet: str
    model: str
    created_at: int
    charged: int | None
    cached: bool = False
    marks: Marks = ()


@dataclass(frozen=True)
class Term:
    """Words that stand one after another. With `prefix` the last may be the beginning of one."""

    words: tuple[str, ...]
    prefix: bool = False


@dataclass(frozen=True)
class Query:
    """What somebody looks for. `literal` is looked for as it is, when there are no words."""

    wanted: tuple[Term, ...] = ()
    unwanted: tuple[Term, ...] = ()
    literal: str = ""

    def of_sqlite(self, user_id: int) -> str:
        """The query in the words of FTS5, for one user; empty when it has no words."""
        if not (self.wanted or self.unwanted):
            return ""
        asked = [f'owner : "u{user_id}"', *(f"words : {_fts5(term)}" for term in self.wanted)]
        found = "(" + " AND ".join(asked) + ")"
        if self.unwanted:
            found += " NOT words : (" + " OR ".join(_fts5(term) for term in self.unwanted) + ")"
        return found

    def of_postgres(self) -> str:
        """The query as a tsquery; empty when it has no words."""
        asked = [_tsquery(term) for term in self.wanted]
        return " & ".join([*asked, *(f"!({_tsquery(term)})" for term in self.unwanted)])


def _fts5(term: Term) -> str:
    return '"' + " ".join(term.words) + '"' + (" *" if term.prefix else "")


def _tsquery(term: Term) -> str:
    return " <-> ".join(f"'{word}'" for word in term.words) + (":*" if term.prefix else "")


def parse(q: str) -> Query:
    """A query from what was typed; never fails."""
    cleaned = q.encode("utf-8", "ignore").decode().replace("\0", " ")
    wanted: list[Term] = []
    unwanted: list[Term] = []
    for found in _TERM.finditer(cleaned.translate(_QUOTES)):
        minus, phrase, word = found.groups()
        words = tuple(fold(phrase if word is None else word).split())[:MOST_WORDS_OF_A_TERM]
        if not words:
            continue
        asked = (word or "").endswith("*")
        prefix = asked or (word is not None and not minus and len(words[-1]) > 1)
        term, terms = Term(words, prefix), unwanted if minus else wanted
        if term not in terms and len(wanted) + len(unwanted) < MOST_TERMS:
            terms.append(term)
    if wanted or unwanted:
        return Query(tuple(wanted), tuple(unwanted))
    return Query(literal=cleaned.strip())


@dataclass(frozen=True)
class Wishes:
    """What else a message has to be: times in µs (`since` <= time < `until`), microcredits."""

    model: str | None = None
    since: int | None = None
    until: int | None = None
    role: str | None = None
    min_charged: int | None = None
    max_charged: int | None = None
    has_image: bool | None = None


def find(
    session: Session,
    *,
    user_id: int,
    q: str = "",
    model: str | None = None,
    since: int | None = None,
    until: int | None = None,
    limit: int = 50,
    cursor: str | None = None,
    role: str | None = None,
    min_charged: int | None = None,
    max_charged: int | None = None,
    has_image: bool | None = None,
) -> tuple[list[Hit], str | None]:
    """Messages of the user that match `q`, newest first, and the cursor of the next page.

    `since` <= time < `until`, in µs; what an answer was charged is in microcredits. An answer is
    found when it has ended. Raises Invalid for a cursor that is none.
    """
    wishes = Wishes(model, since, until, role, min_charged, max_charged, has_image)
    query = parse(q)
    limit = max(1, min(limit, PAGE))
    sqlite = session.get_bind().dialect.name == "sqlite"
    look = _Look(sqlite, user_id, query, wishes, _before(cursor))
    rows = session.execute(text(look.statement()), {**look.values, "limit": limit + 1}).all()
    hits = []
    for row in rows[:limit]:
        snippet, marks = excerpt(row.content, query)
        hits.append(
            Hit(
                row.message_id, row.conversation_id, row.title, row.role, snippet, row.model,
                row.created_at, row.charged, bool(row.cached), marks,
            )
        )  # fmt: skip
    return hits, str(rows[limit - 1].place) if len(rows) > limit else None


@dataclass
class _Look:
    """One search as a statement with its values."""

    sqlite: bool
    user_id: int
    query: Query
    wishes: Wishes
    before: int
    values: dict[str, Any] = field(default_factory=dict)

    def statement(self) -> str:
        match = self.query.of_sqlite(self.user_id) if self.sqlite else self.query.of_postgres()
        wanted = list(self._wanted(match))
        # FTS5 gives its rows by falling number, so nothing is sorted and the limit ends the work.
        place = "f.rowid" if self.sqlite and match else "e.id"
        start = "message_words f CROSS JOIN search_entry e" if place == "f.rowid" else ""
        return f"""SELECT {place} AS place, m.id AS message_id, m.conversation_id, c.title, m.role,
         m.content, m.model, m.created_at, r.charged, r.cached
        FROM {start or "search_entry e"}
        {"CROSS JOIN" if start else "JOIN"} message m ON m.id = e.message_id
        {"CROSS JOIN" if start else "JOIN"} conversation c ON c.id = m.conversation_id
        LEFT JOIN reply r ON r.message_id = m.id
        WHERE {" AND ".join(wanted)} ORDER BY {place} DESC LIMIT :limit"""  # noqa: S608

    def _wanted(self, match: str) -> Iterator[str]:
        """The conditions; values go into `values`."""
        wishes, values = self.wishes, self.values
        values |= {"user_id": self.user_id, "first": _number(wishes.since or 0),
                   "before": min(self.before, _number(wishes.until))}  # fmt: skip
        place = "f.rowid" if self.sqlite and match else "e.id"
        yield f"{place} >= :first AND {place} < :before"
        yield "e.user_id = :user_id AND c.user_id = :user_id AND c.deleted_at IS NULL"
        yield "c.temporary_until IS NULL"
        if match and self.sqlite:
            yield "message_words MATCH :match AND e.id = f.rowid"
            values["match"] = match
        elif match:
            yield "e.words @@ CAST(:match AS tsquery)"
            values["match"] = match
        elif self.query.literal:
            yield "LOWER(m.content) LIKE LOWER(:literal) ESCAPE '/'"
            shown = re.sub(r"([/%_])", r"/\1", self.query.literal)
            values["literal"] = f"%{shown}%"
        for name, column in (("model", "m.model"), ("role", "m.role")):
            if getattr(wishes, name):
                yield f"{column} = :{name}"
                values[name] = getattr(wishes, name)
        if wishes.min_charged is not None:
            yield "r.charged >= :min_charged"
            values["min_charged"] = wishes.min_charged
        if wishes.max_charged is not None:
            yield "r.charged <= :max_charged"
            values["max_charged"] = wishes.max_charged
        if wishes.has_image is not None:
            there = "EXISTS (SELECT 1 FROM message_image i WHERE i.message_id = m.id)"
            yield there if wishes.has_image else f"NOT {there}"


def _number(moment: int | None) -> int:
    """The first number of a moment in µs; without one, that after all."""
    if moment is None:
        return _LAST
    return min(max(moment, 0), full_text.LATEST) * full_text.STEP


def _before(cursor: str | None) -> int:
    if not cursor:
        return _LAST
    if not (cursor.isascii() and cursor.isdigit()) or len(cursor) > 19 or int(cursor) > _LAST:
        raise Invalid("This page marker is not valid. Start from the first page.", param="cursor")
    return int(cursor)


def excerpt(content: str, query: Query) -> tuple[str, Marks]:
    """The text around the first match, or its beginning, on one line; and the matches in it."""
    line = " ".join(content[:LONGEST_TEXT].split())
    found = _literal(line, query.literal) if query.literal else _matches(line, query.wanted)
    start = max(found[0][0] - SNIPPET // 2, 0) if found else 0
    end = start + 2 * SNIPPET
    head = "…" if start else ""
    shown = head + line[start:end] + ("…" if end < len(line) else "")
    off = len(head) - start
    marks = tuple((first + off, min(last, end) + off) for first, last in found if first < end)
    return shown, marks


def snippet(content: str, q: str) -> str:
    """The text around the first match of what was typed."""
    return excerpt(content, parse(q))[0]


def _literal(line: str, literal: str) -> list[tuple[int, int]]:
    at = line.casefold().find(literal.casefold())
    return [(at, min(at + len(literal), len(line)))] if 0 <= at < len(line) else []


def _matches(line: str, terms: tuple[Term, ...]) -> list[tuple[int, int]]:
    """Where the terms are, from the first match to the end of what is shown around it."""
    found: list[tuple[int, int]] = []
    seen: list[tuple[str, int, int]] = []
    longest = max((len(term.words) for term in terms), default=0)
    for place in places(line) if terms else ():
        if found and place[1] > found[0][0] + 2 * SNIPPET:
            break
        seen.append(place)
        if len(seen) > longest:
            del seen[0]
        for term in terms:
            size = len(term.words)
            last = seen[-size:]
            if len(last) == size and _is(term, [word for word, _, _ in last]):
                _mark(found, last[0][1], last[-1][2])
    return found


def _is(term: Term, words: list[str]) -> bool:
    *before, last = term.words
    if words[:-1] != before:
        return False
    return words[-1].startswith(last) if term.prefix else words[-1] == last


def _mark(found: list[tuple[int, int]], start: int, end: int) -> None:
    """Add a match; it may reach over the ones before it."""
    while found and found[-1][1] > start:
        before = found.pop()
        start, end = min(start, before[0]), max(end, before[1])
    found.append((start, end))


# The index


def rebuild(session: Session) -> int:
    """Make the index anew from all messages; returns how many can be found."""
    connection = session.connection()
    full_text.resume(connection)
    return full_text.fill(connection)


def problems(session: Session) -> list[str]:
    """Messages that should be found and are not, or the other way round: one line for each kind."""
    absent = full_text.missing(session.connection())
    found = [f"The trigger {name} is missing." for name in absent]
    for query, words in (
        (full_text.UNLISTED, "messages are not in the index"),
        (full_text.UNWANTED, "entries of the index have no message"),
    ):
        count = session.execute(text(query)).scalar_one()
        if count:
            found.append(f"{count} {words}.")
    return found


def tidy(session: Session) -> bool:
    """Take words of wiped messages out of SQLite's index for good, a piece at a time.

    FTS5 only marks what is deleted until it merges. Returns whether there is more to do.
    PostgreSQL does it by itself.
    """
    connection = session.connection()
    if connection.dialect.name != "sqlite":
        return False
    marked = connection.execute(text("SELECT id FROM search_wiped")).scalars().all()
    if not marked:
        return False
    # The first call puts all parts in line for a merge, the others work on it.
    pages = -MERGE_PAGES if 1 in marked else MERGE_PAGES
    before = _changes(connection)
    merge = text("INSERT INTO message_words (message_words, rank) VALUES ('merge', :pages)")
    connection.execute(merge, {"pages": pages})
    more = _changes(connection) - before >= 2
    if 1 in marked:
        connection.execute(text("DELETE FROM search_wiped"))
        connection.execute(text("INSERT INTO search_wiped (id) VALUES (2)"))
        return True
    if not more:
        connection.execute(text("DELETE FROM search_wiped"))
    return more


def _changes(connection: Any) -> int:
    return int(connection.execute(text("SELECT total_changes()")).scalar_one())
