"""Redemption codes: made in batches, shown once, redeemed as often as they say.

The database has a keyed hash of each code. The text follows from the installation's key and
the batch, so that a repeated request is shown the same codes and a stolen database has none.
"""

import csv
import hashlib
import hmac
import io
from dataclasses import dataclass

from sqlmodel import Session, col, func, select, update

from chat_app.clock import rfc3339
from chat_app.credits import ledger, operations
from chat_app.credits.packages import clean_name
from chat_app.credits.shop_tables import CodeBatchRow, CodeRow, RedemptionRow
from chat_app.errors import Conflict, Invalid, NotFound
from chat_app.ids import new_id
from chat_app.money import MAX_MICROCREDITS, format_credits, show_credits
from chat_app.settings import Credits as Rules

MAX_BATCH = 1000
MAX_USES = 10**6
MAX_NAME = 64
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LETTERS = 16  # of 5 bits
_READ_AS = str.maketrans({"O": "0", "I": "1", "L": "1", "-": "", " ": "", "\t": "", "\n": ""})


class UnknownCode(NotFound):
    """No such code, or it was revoked."""

    code = "unknown_code"
    message = "This code is not valid. Check it letter by letter and try again."


class CodeExpired(Conflict):
    """Its time is over."""

    code = "code_expired"
    message = "This code has expired. Ask for a new one."


class CodeUsedUp(Conflict):
    """It was redeemed as often as it can be."""

    code = "code_used_up"
    message = "This code was redeemed before. Ask for a new one."


class CodeAlreadyYours(Conflict):
    """This user has redeemed it as often as one user may."""

    code = "code_already_redeemed"
    message = "You have redeemed this code already. Look at your movements on the credits page."


class BadBatch(Invalid):
    """Codes that cannot be made like that."""

    code = "bad_code_batch"
    message = "Codes cannot be made like that. Check credits, number, limits and expiry."


@dataclass(frozen=True)
class Code:
    """A code as its maker sees it; `text` only when it was just made. In microcredits."""

    id: str
    batch_id: str
    name: str
    hint: str
    credits: int
    uses: int
    used: int
    per_user: int
    expires_at: int | None
    revoked_at: int | None
    created_at: int
    text: str | None = None


@dataclass(frozen=True)
class Redeemed:
    """What a code gave, in microcredits, and when that ends."""

    code_id: str
    micro: int
    balance_after: int
    expires_at: int | None
    replayed: bool = False


def make(
    session: Session,
    *,
    secret: bytes,
    micro: int,
    count: int = 1,
    uses: int = 1,
    per_user: int = 1,
    expires_at: int | None = None,
    valid_days: int | None = None,
    name: str = "",
    now: int,
    scope: str,
    key: str,
    actor: str,
) -> list[Code]:
    """`count` codes for `micro` microcredits each, once for each (scope, key).

    Each may be redeemed `uses` times, by one user `per_user` times, before `expires_at`; its
    credits are good for `valid_days`. Raises BadBatch or IdempotencyConflict.
    """
    name = clean_name(name)
    possible = (
        0 < micro <= MAX_MICROCREDITS // 10**6
        and 1 <= count <= MAX_BATCH
        and 1 <= per_user <= MAX_USES
        and 1 <= uses <= MAX_USES
        and (expires_at is None or expires_at > now)
        and (valid_days is None or 1 <= valid_days <= 36_500)
        and len(name) <= MAX_NAME
    )
    if not possible:
        raise BadBatch

    def run() -> operations.Outcome:
        batch = CodeBatchRow(
            id=new_id("bat"),
            name=name,
            credits=micro,
            count=count,
            uses=uses,
            per_user=per_user,
            valid_days=valid_days,
            expires_at=expires_at,
            created_by=actor,
            created_at=now,
        )
        session.add(batch)
        session.flush()
        for number in range(count):
            text = _text(secret, batch.id, number)
            session.add(
                CodeRow(
                    id=new_id("cod"),
                    batch_id=batch.id,
                    number=number,
                    hash=_hash(secret, text),
                    hint=text[-4:],
                    uses=uses,
                    expires_at=expires_at,
                    created_at=now,
                )
            )
        session.flush()
        return {"batch_id": batch.id}

    request = {
        "codes": micro,
        "count": count,
        "uses": uses,
        "per_user": per_user,
        "expires_at": expires_at,
        "valid_days": valid_days,
        "name": name,
    }
    outcome, _ = operations.once(
        session, scope=scope, key=key, request=request, now=now, actor=actor, run=run
    )
    batch = session.get_one(CodeBatchRow, outcome["batch_id"])
    rows = session.exec(
        select(CodeRow).where(CodeRow.batch_id == batch.id).order_by(col(CodeRow.number))
    )
    return [_code(row, batch, _text(secret, batch.id, row.number)) for row in rows]


def redeem(
    session: Session, *, secret: bytes, text: str, user_id: int, now: int, rules: Rules
) -> Redeemed:
    """Give the user what the code is worth. One use is taken by one conditional update, whose
    row lock also puts two requests of one user in a line.

    Raises UnknownCode, CodeExpired, CodeUsedUp, CodeAlreadyYours or WalletClosed.
    """
    found = session.exec(select(CodeRow).where(CodeRow.hash == _hash(secret, clean(text)))).first()
    if found is None:
        raise UnknownCode
    taken = session.execute(
        update(CodeRow)
        .where(
            col(CodeRow.id) == found.id,
            col(CodeRow.used) < col(CodeRow.uses),
            col(CodeRow.revoked_at).is_(None),
            col(CodeRow.expires_at).is_(None) | (col(CodeRow.expires_at) > now),
        )
        .values(used=CodeRow.used + 1)
    )
    number = session.exec(
        select(func.count())
        .select_from(RedemptionRow)
        .where(RedemptionRow.code_id == found.id, RedemptionRow.user_id == user_id)
    ).one()
    batch = session.get_one(CodeBatchRow, found.batch_id)
    if not taken.rowcount:  # type: ignore[attr-defined]
        raise _why(session, found, number=number, now=now)
    if number >= batch.per_user:
        raise CodeAlreadyYours  # the caller's story is rolled back, and the use with it
    terms = ledger.terms(rules, "promo", now=now, days=batch.valid_days)
    granted = ledger.grant(
        session,
        user_id=user_id,
        micro=batch.credits,
        source="promo",
        now=now,
        scope="code",
        key=f"{found.id}:{user_id}:{number}",
        actor=f"user:{user_id}",
        description=f"Code …{found.hint}, {show_credits(batch.credits)} credits",
        reference=found.id,
        **terms,
    )
    session.add(
        RedemptionRow(
            code_id=found.id,
            user_id=user_id,
            number=number,
            transfer_id=granted.transfer_id,
            at=now,
        )
    )
    session.flush()
    return Redeemed(found.id, batch.credits, granted.balance_after, terms["expires_at"])


def revoke(session: Session, id: str, *, now: int) -> int:
    """Make a code, or all of a batch, worth nothing; what was redeemed stays.

    Returns how many ended by it. Raises UnknownCode when there is no such code or batch.
    """
    rows = col(CodeRow.batch_id) == id if id.startswith("bat_") else col(CodeRow.id) == id
    if session.exec(select(CodeRow.id).where(rows).limit(1)).first() is None:
        raise UnknownCode
    ended = session.execute(
        update(CodeRow).where(rows, col(CodeRow.revoked_at).is_(None)).values(revoked_at=now)
    )
    return int(ended.rowcount)  # type: ignore[attr-defined]


def list_codes(
    session: Session, *, limit: int = 50, cursor: str | None = None
) -> tuple[list[Code], str | None]:
    """The newest codes first, without their text, and the cursor of the next page or None.

    A cursor that was never given out is the beginning.
    """
    query = select(CodeRow, CodeBatchRow).join(
        CodeBatchRow, col(CodeBatchRow.id) == col(CodeRow.batch_id)
    )
    at, _, last = (cursor or "").partition(".")
    if at.isascii() and at.isdigit() and len(at) < 19:
        query = query.where(
            (col(CodeRow.created_at) < int(at))
            | ((col(CodeRow.created_at) == int(at)) & (col(CodeRow.id) < last))
        )
    rows = list(
        session.exec(
            query.order_by(col(CodeRow.created_at).desc(), col(CodeRow.id).desc()).limit(limit + 1)
        )
    )
    page = [_code(row, batch) for row, batch in rows[:limit]]
    more = len(rows) > limit
    return page, f"{page[-1].created_at}.{page[-1].id}" if more else None


def table(made: list[Code]) -> str:
    """New codes as CSV."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["code", "credits", "uses", "per_user", "expires_at"])
    for code in made:
        ends = "" if code.expires_at is None else rfc3339(code.expires_at)
        rows.writerow([code.text, format_credits(code.credits), code.uses, code.per_user, ends])
    return out.getvalue()


def clean(text: str) -> str:
    """A code as it is hashed: no dashes and spaces, and letters that look like digits are those."""
    return text.upper().translate(_READ_AS)[:64]


def _why(session: Session, row: CodeRow, *, number: int, now: int) -> Exception:
    session.refresh(row)
    if row.revoked_at is not None:
        return UnknownCode()
    if number:
        return CodeAlreadyYours()
    if row.expires_at is not None and row.expires_at <= now:
        return CodeExpired()
    return CodeUsedUp()


def _text(secret: bytes, batch_id: str, number: int) -> str:
    """A code of 80 bits, `XXXX-XXXX-XXXX-XXXX`."""
    mac = hmac.digest(secret, f"code text\n{batch_id}\n{number}".encode(), hashlib.sha256)
    bits = int.from_bytes(mac, "big")
    marks = "".join(_ALPHABET[(bits >> 5 * place) & 31] for place in range(_LETTERS))
    return "-".join(marks[start : start + 4] for start in range(0, _LETTERS, 4))


def _hash(secret: bytes, text: str) -> str:
    return hmac.digest(secret, b"code hash\n" + clean(text).encode(), hashlib.sha256).hex()


def _code(row: CodeRow, batch: CodeBatchRow, text: str | None = None) -> Code:
    return Code(
        id=row.id,
        batch_id=batch.id,
        name=batch.name,
        hint=row.hint,
        credits=batch.credits,
        uses=row.uses,
        used=row.used,
        per_user=batch.per_user,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        created_at=row.created_at,
        text=text,
    )
