"""Export: everything the program knows about a person, as a ZIP of JSON files.

It is written while it is sent: a page of rows is read, packed and gone, so the largest account
takes no more memory than a small one. What would let somebody sign in is left out.
"""

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from io import RawIOBase
from typing import Any

from sqlalchemy import Table, select
from sqlmodel import Session, SQLModel

from chat_app.accounts import orgs, users
from chat_app.app import App
from chat_app.chat import conversations, export, images
from chat_app.clock import rfc3339
from chat_app.credits import ledger
from chat_app.credits.invoices import register
from chat_app.credits.receipts import receipts
from chat_app.errors import AppError, TooMany
from chat_app.flows import paperwork
from chat_app.money import format_credits

PAGE = 200
# Of these tables the rows of a person are told in another form, or say nothing about them.
_TOLD = {"user", "conversation", "message_image", "invoice", "org_member", "account"}
_SECRET = re.compile(r"password|hash|token|secret|nonce|sealed|claim|digest|dedupe|cipher|step")
_NAMES = {
    "session": "sessions", "api_key": "keys", "lot": "lots", "payment": "payments",
    "inbox_message": "notifications", "outbox": "mails", "billing_details": "billing_details",
}  # fmt: skip
_README = """This is everything that this installation stores about your account.

Times are RFC 3339 in UTC. In the files that are made from tables, whole numbers of credits are
microcredits (1 credit is 1,000,000) and fields that end in _minor are cents. transactions.json
and receipts.json have credits as decimal texts. Receipts can be checked with the public keys at
/api/billing/receipt-keys. Passwords, keys and codes are not in here: nobody can read them.
"""


class ExportRunning(TooMany):
    """An export of the same account is being written."""

    code = "export_running"
    message = "Your data is being exported already. Wait for that download to end, then try again."


class _Pipe(RawIOBase):
    """What was packed since it was last asked for."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.parts.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        data = b"".join(self.parts)
        self.parts.clear()
        return data


def archive(app: App, *, user_id: int) -> Iterator[bytes]:
    """The ZIP in pieces. Raises ExportRunning at once while another one of the user's runs."""
    if user_id in app.exports:
        raise ExportRunning(retry_after_seconds=10)
    app.exports.add(user_id)

    def pieces() -> Iterator[bytes]:
        try:
            yield from _packed(app, user_id)
        finally:
            app.exports.discard(user_id)

    return pieces()


def talks(app: App, *, user_id: int) -> Iterator[bytes]:
    """All conversations as one JSON list that can be imported again, in pieces.

    Raises ExportRunning at once while another export of the user's runs.
    """
    if user_id in app.exports:
        raise ExportRunning(retry_after_seconds=10)
    app.exports.add(user_id)

    def pieces() -> Iterator[bytes]:
        try:
            yield from _list(_conversations(app, user_id))
        finally:
            app.exports.discard(user_id)

    return pieces()


def _packed(app: App, user_id: int) -> Iterator[bytes]:
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as pack:
        pack.writestr("README.txt", _README)
        for name, content in _files(app, user_id):
            with pack.open(name, "w", force_zip64=True) as file:
                for piece in content:
                    file.write(piece)
                    if pipe.parts:
                        yield pipe.taken()
            yield pipe.taken()
    yield pipe.taken()


def _files(app: App, user_id: int) -> Iterator[tuple[str, Iterator[bytes]]]:
    yield "profile.json", _json(_profile(app, user_id))
    yield "organisations.json", _json(_organisations(app, user_id))
    yield "conversations.json", _list(_conversations(app, user_id))
    yield "transactions.json", _list(_transactions(app, user_id))
    yield "receipts.json", _list(_receipts(app, user_id))
    yield "invoices.json", _list(invoice.document for invoice in _invoices(app, user_id))
    for table in _tables():
        name = _NAMES.get(table.name, f"more/{table.name}")
        yield f"{name}.json", _list(_rows(app, table, user_id))
    for invoice in _invoices(app, user_id):
        name = re.sub(r"[^\w-]", "_", str(invoice.number))
        yield f"invoices/{name}.pdf", iter([paperwork.rendered(app, invoice=invoice)])
    for image, kind, path in _images(app, user_id):
        if path.exists():
            yield f"images/{image}.{kind}", iter([path.read_bytes()])


def _tables() -> Iterator[Table]:
    """Every table with a column `user_id`: a new one is part of the export by itself."""
    for table in sorted(SQLModel.metadata.tables.values(), key=lambda table: table.name):
        if table.name not in _TOLD and ("user_id" in table.c or table.name == "lot"):
            yield table


def _rows(app: App, table: Table, user_id: int) -> Iterator[dict[str, Any]]:
    """The person's rows without what is secret, a page at a time."""
    columns = [column for column in table.c if not _SECRET.search(column.name)]
    query = select(*columns).order_by(*table.primary_key.columns).limit(PAGE)
    if "user_id" in table.c:
        query = query.where(table.c.user_id == user_id)
    else:
        wallets = SQLModel.metadata.tables["account"]
        own = select(wallets.c.id).where(wallets.c.user_id == user_id).scalar_subquery()
        query = query.where(table.c.account_id == own)
    at = 0
    while True:
        with app.db.read() as session:
            found = session.execute(query.offset(at)).mappings().all()
        yield from ({name: _shown(name, value) for name, value in row.items()} for row in found)
        if len(found) < PAGE:
            return
        at += PAGE


def _shown(name: str, value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return rfc3339(value) if name.endswith("_at") or name == "at" else value
    return value.hex() if isinstance(value, bytes) else value


def _profile(app: App, user_id: int) -> dict[str, Any]:
    with app.db.read() as session:
        user = users.get(session, user_id)
        balance = ledger.balance(session, user_id=user_id)
    return {
        "id": str(user.id),
        "username": user.username,
        "email": user.email,
        "display_name": user.display_name,
        "language": user.language,
        "timezone": user.timezone,
        "role": user.role,
        "created_at": rfc3339(user.created_at),
        "last_login_at": rfc3339(user.last_login_at) if user.last_login_at else None,
        "credits": {
            "total": format_credits(balance.total),
            "held": format_credits(balance.held),
            "debt": format_credits(balance.debt),
        },
    }


def _organisations(app: App, user_id: int) -> list[dict[str, Any]]:
    with app.db.read() as session:
        return [
            {
                "id": str(org.id),
                "name": org.name,
                "role": own.role,
                "joined_at": rfc3339(own.joined_at),
            }
            for org, own in orgs.of_user(session, user_id=user_id)
        ]


def _pages(
    app: App, look: Callable[[Session, str | None], tuple[list[Any], str | None]]
) -> Iterator[Any]:
    cursor: str | None = None
    while True:
        with app.db.read() as session:
            found, cursor = look(session, cursor)
        yield from found
        if cursor is None:
            return


def _conversations(app: App, user_id: int) -> Iterator[dict[str, Any]]:
    rows = _pages(
        app,
        lambda session, cursor: conversations.list_for(
            session, user_id=user_id, limit=50, cursor=cursor
        ),
    )
    for row in rows:
        try:
            with app.db.read() as session:
                found = conversations.get(session, user_id=user_id, conversation_id=row.id)
                said = conversations.messages(
                    session, user_id=user_id, conversation_id=row.id, whole=True
                )
        except AppError:  # deleted while the export runs
            continue
        yield export.as_json(found, said)


def _transactions(app: App, user_id: int) -> Iterator[dict[str, Any]]:
    rows = _pages(
        app,
        lambda session, cursor: ledger.transactions(
            session, user_id=user_id, limit=PAGE, cursor=cursor
        ),
    )
    for row in rows:
        yield {
            "id": str(row.id),
            "type": row.type,
            "credits": format_credits(row.credits),
            "balance_after": format_credits(row.balance_after),
            "description": row.description,
            "model": row.model,
            "reply_id": row.reply_id,
            "reference": row.reference,
            "created_at": rfc3339(row.created_at),
        }


def _receipts(app: App, user_id: int) -> Iterator[dict[str, Any]]:
    """The receipts that were given out; the others can be asked for by their answers."""
    after = 0
    while True:
        with app.db.read() as session:
            found = receipts.given_to(session, user_id=user_id, after=after, limit=PAGE)
            signed = [
                receipts.issue(
                    session,
                    transfer_id=transfer_id,
                    user_id=user_id,
                    known=app.receipt_keys,
                    now=app.clock.micros(),
                )
                for transfer_id in found
            ]
        yield from signed
        if len(found) < PAGE:
            return
        after = found[-1]


def _invoices(app: App, user_id: int) -> Iterator[register.Invoice]:
    rows = _pages(
        app,
        lambda session, cursor: register.listed(
            session, user_id=user_id, limit=PAGE, cursor=cursor
        ),
    )
    return (invoice for invoice in rows if invoice.number is not None)


def _images(app: App, user_id: int) -> Iterator[tuple[str, str, Any]]:
    table = SQLModel.metadata.tables["message_image"]
    query = select(table.c.id, table.c.digest, table.c.kind).where(table.c.user_id == user_id)
    with app.db.read() as session:
        found = session.execute(query.order_by(table.c.id)).all()
    for id, digest, kind in found:
        path = images.path(app.settings.data_dir, user_id=user_id, digest=digest, kind=kind)
        yield id, kind, path


def _json(content: Any) -> Iterator[bytes]:
    yield json.dumps(content, indent=1, ensure_ascii=False).encode()


def _list(items: Iterator[Any]) -> Iterator[bytes]:
    first = True
    for item in items:
        lead = "[\n" if first else ",\n"
        first = False
        yield (lead + json.dumps(item, ensure_ascii=False)).encode()
    yield b"[]\n" if first else b"\n]\n"
