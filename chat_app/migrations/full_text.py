"""Full text: the index of all messages, kept by triggers on both databases.

`search_entry` has one row for each message that can be found, numbered by its time, so newest
first is the order of the numbers. SQLite keeps the words in the FTS5 table `message_words`,
without the texts; PostgreSQL in the column `words`. Triggers follow every insert, change and
deletion in the same transaction, so what is wiped is not found any more, whoever wiped it. An
answer comes in when its reply has ended, not at each step. Alembic's batch mode on SQLite drops
triggers and stumbles over those that name a table it rebuilds, so they are put aside before
migrations and put back after them.

These tables follow from the messages; the program's metadata does not have them.
"""

from typing import Any

from sqlalchemy import Connection, inspect, text

from chat_app import fold

TABLES = ("search_entry", "message_words", "search_wiped")
STEP = 1024  # numbers for one microsecond
LATEST = 2**53 - 1  # times beyond it would leave no room for the number
TRIGGERS = ("message_search_insert", "message_search_update", "message_search_delete",
            "reply_search_end")  # fmt: skip

_RUNNING = "SELECT 1 FROM reply r WHERE r.message_id = m.id AND r.state = 'running'"
_FOUND = (
    "m.content <> '' AND c.deleted_at IS NULL AND c.temporary_until IS NULL "
    f"AND NOT EXISTS ({_RUNNING})"
)

UNLISTED = f"""SELECT COUNT(*) FROM message m JOIN conversation c ON c.id = m.conversation_id
 WHERE {_FOUND} AND NOT EXISTS
  (SELECT 1 FROM search_entry e WHERE e.message_id = m.id)"""
UNWANTED = """SELECT COUNT(*) FROM search_entry e LEFT JOIN message m ON m.id = e.message_id
 WHERE m.id IS NULL OR m.content = ''"""


def ours(name: str | None) -> bool:
    """Whether a table of the database belongs to the index."""
    return name is not None and name.startswith(TABLES)


def include(_item: Any, name: str | None, kind: str, reflected: bool, _other: Any) -> bool:
    """For Alembic: what it compares with the program's tables."""
    return not (kind == "table" and reflected and ours(name))


def create(connection: Connection) -> None:
    """The tables of the index, with every message that is there.

    The triggers come after the last migration: a later one of the same run may rebuild a table.
    """
    if connection.dialect.name == "sqlite":
        statements = [
            """CREATE TABLE search_entry (id INTEGER NOT NULL PRIMARY KEY,
             message_id VARCHAR NOT NULL, user_id INTEGER NOT NULL)""",
            "CREATE UNIQUE INDEX uq_search_entry_message_id ON search_entry (message_id)",
            "CREATE INDEX ix_search_entry_user_id ON search_entry (user_id, id)",
            "CREATE TABLE search_wiped (id INTEGER NOT NULL PRIMARY KEY)",
            """CREATE VIRTUAL TABLE message_words
             USING fts5(words, owner, content='', tokenize='ascii', prefix='2 3')""",
        ]
    else:
        statements = [
            """CREATE TABLE search_entry (id BIGINT NOT NULL PRIMARY KEY,
             message_id VARCHAR NOT NULL, user_id BIGINT NOT NULL, words TSVECTOR NOT NULL)""",
            "CREATE UNIQUE INDEX uq_search_entry_message_id ON search_entry (message_id)",
            "CREATE INDEX ix_search_entry_user_id ON search_entry (user_id, id)",
            "CREATE INDEX ix_search_entry_words ON search_entry USING gin (words)",
        ]
    for statement in statements:
        connection.execute(text(statement))
    _define(connection)
    fill(connection)


def drop(connection: Connection) -> None:
    """Take the index away."""
    pause(connection)
    for table in TABLES:
        connection.execute(text(f"DROP TABLE IF EXISTS {table}"))
    if connection.dialect.name != "sqlite":
        for function in ("search_follow()", "search_words(text)", "search_fold(text)"):
            connection.execute(text(f"DROP FUNCTION IF EXISTS {function}"))


def pause(connection: Connection) -> None:
    """Put the triggers aside; nothing happens where there are none."""
    sqlite = connection.dialect.name == "sqlite"
    there = set(inspect(connection).get_table_names())
    for name in TRIGGERS:
        table = name.partition("_")[0]
        if table in there:
            place = "" if sqlite else f" ON {table}"
            connection.execute(text(f"DROP TRIGGER IF EXISTS {name}{place}"))


def resume(connection: Connection) -> None:
    """Put the triggers and functions back, if the index is there."""
    if "search_entry" not in inspect(connection).get_table_names():
        return
    pause(connection)
    _define(connection)
    sqlite = connection.dialect.name == "sqlite"
    for statement in _sqlite_triggers() if sqlite else _POSTGRES_TRIGGERS:
        connection.exec_driver_sql(statement)


def _define(connection: Connection) -> None:
    """The functions on PostgreSQL. Those of SQLite come with each connection."""
    if connection.dialect.name != "sqlite":
        for statement in _postgres_functions(_collation(connection)):
            connection.exec_driver_sql(statement)


def missing(connection: Connection) -> list[str]:
    """The triggers that are not there."""
    if connection.dialect.name == "sqlite":
        query = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    else:
        query = "SELECT tgname FROM pg_trigger WHERE tgenabled <> 'D' AND NOT tgisinternal"
    found = {row[0] for row in connection.execute(text(query))}
    return sorted(set(TRIGGERS) - found)


def fill(connection: Connection) -> int:
    """Make the index anew from the messages; returns how many it has."""
    sqlite = connection.dialect.name == "sqlite"
    if sqlite:
        connection.execute(text("INSERT INTO message_words (message_words) VALUES ('delete-all')"))
    connection.execute(text("DELETE FROM search_entry"))
    words = "" if sqlite else ", search_words(content)"
    # Each number is its time's first one, or the one after the number before.
    connection.execute(
        text(
            f"""INSERT INTO search_entry (id, message_id, user_id{"" if sqlite else ", words"})
            SELECT MAX(base - place) OVER (ORDER BY place ROWS UNBOUNDED PRECEDING) + place,
             message_id, user_id{words}
            FROM (SELECT {_base("m.created_at")} AS base, m.id AS message_id, c.user_id, m.content,
              ROW_NUMBER() OVER (ORDER BY m.created_at, m.id) AS place
             FROM message m JOIN conversation c ON c.id = m.conversation_id
             WHERE {_FOUND}) placed"""
        )
    )
    if sqlite:
        connection.execute(text(_words_of("e.id IS NOT NULL ORDER BY e.id")))
    return int(connection.execute(text("SELECT COUNT(*) FROM search_entry")).scalar_one())


def _base(moment: str) -> str:
    """The first number of a moment."""
    return (
        f"(CASE WHEN {moment} < 0 THEN 0 WHEN {moment} > {LATEST} THEN {LATEST} "
        f"ELSE {moment} END) * {STEP}"
    )


def _words_of(which: str) -> str:
    return f"""INSERT INTO message_words (rowid, words, owner)
     SELECT e.id, search_fold(m.content), 'u' || e.user_id
     FROM search_entry e JOIN message m ON m.id = e.message_id WHERE {which}"""


def _sqlite_triggers() -> tuple[str, ...]:
    base = _base("m.created_at")

    def add(message: str) -> str:
        return f"""INSERT INTO search_entry (id, message_id, user_id)
         SELECT CASE WHEN NOT EXISTS (SELECT 1 FROM search_entry t WHERE t.id = {base}) THEN {base}
          ELSE (SELECT MIN(t.id) + 1 FROM search_entry t WHERE t.id >= {base}
           AND NOT EXISTS (SELECT 1 FROM search_entry n WHERE n.id = t.id + 1)) END,
          m.id, c.user_id
         FROM message m JOIN conversation c ON c.id = m.conversation_id
         WHERE m.id = {message} AND {_FOUND};
         {_words_of(f"e.message_id = {message}")};"""

    remove = """INSERT OR IGNORE INTO search_wiped (id)
     SELECT 1 FROM search_entry e WHERE e.message_id = old.id;
     INSERT INTO message_words (message_words, rowid, words, owner)
     SELECT 'delete', e.id, search_fold(old.content), 'u' || e.user_id
     FROM search_entry e WHERE e.message_id = old.id;
     DELETE FROM search_entry WHERE message_id = old.id;"""
    return (
        f"""CREATE TRIGGER message_search_insert AFTER INSERT ON message WHEN new.content <> ''
        BEGIN {add("new.id")} END""",
        f"""CREATE TRIGGER message_search_update AFTER UPDATE OF content ON message
        WHEN old.content <> new.content BEGIN {remove} {add("new.id")} END""",
        f"CREATE TRIGGER message_search_delete AFTER DELETE ON message BEGIN {remove} END",
        f"""CREATE TRIGGER reply_search_end AFTER UPDATE OF state ON reply
        WHEN old.state = 'running' AND new.state <> 'running' AND NOT EXISTS
         (SELECT 1 FROM search_entry e WHERE e.message_id = new.message_id)
        BEGIN {add("new.message_id")} END""",
    )


def _collation(connection: Connection) -> str:
    """One that knows the cases of all letters, as far as the server has one."""
    known = {row[0] for row in connection.execute(text("SELECT collname FROM pg_collation"))}
    wanted = ("pg_c_utf8", "und-x-icu", "C.utf8", "en_US.utf8")
    return next((f' COLLATE "{name}"' for name in wanted if name in known), "")


_POSTGRES_TRIGGERS = (
    """CREATE TRIGGER message_search_insert AFTER INSERT ON message FOR EACH ROW
    WHEN (NEW.content <> '') EXECUTE FUNCTION search_follow()""",
    """CREATE TRIGGER message_search_update AFTER UPDATE OF content ON message FOR EACH ROW
    WHEN (OLD.content <> NEW.content) EXECUTE FUNCTION search_follow()""",
    """CREATE TRIGGER message_search_delete AFTER DELETE ON message FOR EACH ROW
    EXECUTE FUNCTION search_follow()""",
    """CREATE TRIGGER reply_search_end AFTER UPDATE OF state ON reply FOR EACH ROW
    WHEN (OLD.state = 'running' AND NEW.state <> 'running')
    EXECUTE FUNCTION search_follow()""",
)


def _postgres_functions(collation: str) -> tuple[str, ...]:
    most, longest = fold.MOST_WORDS, fold.LONGEST_WORD
    plain = (
        f"normalize(regexp_replace(normalize(left(content, {fold.LONGEST_TEXT}), NFKD), "
        f"'[{fold.ACCENTS}]', '', 'g'), NFC)"
    )
    lower = f"translate(lower({plain}{collation}), 'ς', 'σ')"
    apart = (
        f"regexp_replace(regexp_replace({lower}, '[{fold.SEPARATORS}]+', ' ', 'g'), "
        f"'([{fold.SINGLES}])', ' \\1 ', 'g')"
    )
    short = f"regexp_replace({apart}, '([^ ]{{{longest}}})[^ ]+', '\\1', 'g')"
    words = f"(regexp_split_to_array(btrim({short}), ' +'))[1:{most}]"
    statements = (
        f"""CREATE OR REPLACE FUNCTION search_fold(content text) RETURNS text LANGUAGE sql
        IMMUTABLE PARALLEL SAFE AS $fold$ SELECT array_to_string({words}, ' ') $fold$""",
        """CREATE OR REPLACE FUNCTION search_words(content text) RETURNS tsvector LANGUAGE sql
        IMMUTABLE PARALLEL SAFE AS $words$
        SELECT coalesce(string_agg('''' || word || ''':' || place, ' '), '')::tsvector
        FROM unnest(string_to_array(search_fold(content), ' ')) WITH ORDINALITY AS t (word, place)
        WHERE word <> '' $words$""",
        f"""CREATE OR REPLACE FUNCTION search_follow() RETURNS trigger LANGUAGE plpgsql AS $follow$
        DECLARE place bigint; message text; owner bigint; found_words tsvector;
        BEGIN
         IF TG_TABLE_NAME = 'reply' THEN message := NEW.message_id;
         ELSIF TG_OP = 'DELETE' THEN message := OLD.id;
         ELSE message := NEW.id;
         END IF;
         DELETE FROM search_entry WHERE message_id = message;
         SELECT {_base("m.created_at")}, c.user_id, search_words(m.content)
          INTO place, owner, found_words
          FROM message m JOIN conversation c ON c.id = m.conversation_id
          WHERE m.id = message AND {_FOUND};
         IF FOUND THEN
          LOOP
           INSERT INTO search_entry (id, message_id, user_id, words)
            VALUES (place, message, owner, found_words) ON CONFLICT (id) DO NOTHING;
           EXIT WHEN FOUND;
           place := place + 1;
          END LOOP;
         END IF;
         RETURN NULL;
        END $follow$""",
    )
    # The driver reads a percent sign as the place of a value.
    return tuple(statement.replace("%", "%%") for statement in statements)
