"""The self-check: what this machine has, what is missing, and the next step, a line each.

It looks and changes nothing: no directory, no database, no secrets are made here.
"""

import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from chat_app import db as database
from chat_app import secrets
from chat_app.audit import log
from chat_app.backups import keeping
from chat_app.backups.make import Place
from chat_app.clock import MICROS_PER_SECOND, Clock
from chat_app.credits.payments import choose
from chat_app.db import Database
from chat_app.errors import AppError
from chat_app.llm import catalogue, loader
from chat_app.monitor import system
from chat_app.monitor.health import MIN_FREE_BYTES, beat
from chat_app.notify import mail
from chat_app.settings import Settings

MIN_MEMORY_BYTES = 2_000_000_000
HOUR = 3600 * MICROS_PER_SECOND
# A clock that says less than this was never set; tokens and leases would be wrong.
RELEASED = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Finding:
    """One line. `ok` is False only for what keeps the program from working."""

    name: str
    ok: bool
    sentence: str


def run(settings: Settings, *, clock: Clock | None = None) -> Iterator[Finding]:
    """Look at one thing after the other."""
    clock = clock or Clock()
    yield _clock(clock)
    yield from _machine(settings)
    yield _disk(settings.data_dir)
    yield _files(settings)
    yield _address(settings)
    yield _secrets(settings)
    yield _database(settings, clock)
    yield _mail(settings)
    yield _payments(settings)
    yield _backups(settings, clock)
    yield from _models(settings)


def _clock(clock: Clock) -> Finding:
    now = clock.now()
    if now < RELEASED:
        sentence = f"The clock says {now:%Y-%m-%d}, before this program was written. Set it."
        return Finding("clock", ok=False, sentence=sentence)
    return Finding("clock", ok=True, sentence=f"{now:%Y-%m-%d %H:%M:%S} UTC.")


def _machine(settings: Settings) -> Iterator[Finding]:
    stats = system.snapshot(settings)
    total, free = stats.memory_total_bytes, stats.memory_total_bytes - stats.memory_used_bytes
    sentence = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB are free."
    if free < MIN_MEMORY_BYTES:
        sentence += " The demo model needs about 1 GB: end other programs before you load it."
    yield Finding("memory", ok=True, sentence=sentence)
    for gpu in stats.gpus:
        spare = gpu.memory_total_bytes - gpu.memory_used_bytes
        sentence = f"{gpu.name}, {spare / 1e9:.1f} of {gpu.memory_total_bytes / 1e9:.1f} GB free."
        yield Finding("gpu", ok=True, sentence=sentence)
    if not stats.gpus:
        yield Finding("gpu", ok=True, sentence=stats.gpu_reason)


def _disk(data_dir: Path) -> Finding:
    free = shutil.disk_usage(system.existing(data_dir)).free
    sentence = f"{free / 1e9:.1f} GB are free for {data_dir}."
    if free < MIN_FREE_BYTES:
        sentence += f" At least {MIN_FREE_BYTES / 1e6:.0f} MB are needed: make room."
    return Finding("disk", free >= MIN_FREE_BYTES, sentence)


def _files(settings: Settings) -> Finding:
    """Each connection is a file; the program raises its own limit as far as the system lets it."""
    try:
        import resource
    except ImportError:  # Windows
        return Finding("files", ok=True, sentence="This system sets no limit.")
    wanted = settings.server.max_connections + 1024
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        return Finding("files", ok=True, sentence=f"{wanted} files may be open, which is enough.")
    sentence = (
        f"{hard} files may be open, {wanted} could be needed. Raise LimitNOFILE or ulimit -n, "
        "or lower server.max_connections."
    )
    return Finding("files", ok=True, sentence=sentence)


def _address(settings: Settings) -> Finding:
    url, host = settings.server.public_url, settings.server.host
    if url.startswith("https://"):
        return Finding("address", ok=True, sentence=f"{url}, cookies are kept to https.")
    if url or host not in {"127.0.0.1", "::1", "localhost"}:
        sentence = (
            f"{url or host} is served without https: passwords and cookies can be read on the way. "
            "Put TLS in front and set server.public_url to the https address."
        )
        return Finding("address", ok=True, sentence=sentence)
    return Finding("address", ok=True, sentence=f"{settings.site}, for this machine alone.")


def _secrets(settings: Settings) -> Finding:
    path = settings.data_dir / secrets.FILE
    note = settings.data_dir / secrets.MISSING
    if not path.exists() and note.exists():
        words = " ".join(note.read_text(encoding="utf-8").split())
        return Finding("secrets", ok=False, sentence=words)
    if not path.exists() and (settings.data_dir / "chat.db").exists():
        sentence = (
            f"{path} is missing, but there are books: no password and no seal can be checked. "
            "Restore it from your backup before you start the server."
        )
        return Finding("secrets", ok=False, sentence=sentence)
    if not path.exists():
        sentence = f"None yet. The first start writes {path}."
        return Finding("secrets", ok=True, sentence=sentence)
    try:
        secrets.load_or_create(path.parent)
    except secrets.BadSecrets as error:
        return Finding("secrets", ok=False, sentence=str(error))
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        sentence = f"Others can read {path}. Run: chmod 600 {path}"
        return Finding("secrets", ok=False, sentence=sentence)
    return Finding("secrets", ok=True, sentence="They are there, for their owner alone.")


def _payments(settings: Settings) -> Finding:
    try:
        choose.create(settings.payments)
    except AppError as error:
        return Finding("payments", ok=False, sentence=str(error))
    if settings.payments.provider == "offline":
        return Finding("payments", ok=True, sentence="Offline: no real money moves.")
    return Finding("payments", ok=True, sentence=f"{settings.payments.provider}, with both keys.")


def _backups(settings: Settings, clock: Clock) -> Finding:
    chosen, place = settings.backups, Place.of(settings)
    postgres = make_url(settings.database_url).get_backend_name() == "postgresql"
    if postgres and not (shutil.which("pg_dump") and shutil.which("pg_restore")):
        sentence = (
            "pg_dump and pg_restore are missing, so nothing can be backed up and no older schema "
            "be changed. Install PostgreSQL's client programs."
        )
        return Finding("backups", ok=not chosen.before_migration, sentence=sentence)
    kept = keeping.listed(place.folder) if place.folder.is_dir() else []
    whole = [one for one in kept if one.manifest is not None]
    damaged = [one for one in kept if one.manifest is None]
    if damaged:
        sentence = f"{damaged[0].path} is damaged. Delete it, and look at the disk."
        return Finding("backups", ok=False, sentence=sentence)
    if not whole:
        sentence = "None yet. Make one: python -m chat_app backup FILE"
        if chosen.every_hours:
            sentence = f"None yet; the server makes one each {chosen.every_hours} hours."
        return Finding("backups", ok=True, sentence=sentence)
    hours = (clock.micros() - whole[0].made_at) / HOUR
    sentence = f"{len(whole)}, the newest {hours:.0f} hours old, in {place.folder}."
    if chosen.every_hours and hours > 2 * chosen.every_hours:
        sentence += " That is late: let the server run, and look at its log."
    elif place.folder.is_relative_to(place.data_dir):
        sentence += " They lie beside the data: set backups.folder to another disk."
    return Finding("backups", ok=True, sentence=sentence)


def _mail(settings: Settings) -> Finding:
    if settings.mail.kind == "outbox":
        sentence = (
            f"Mails are written to {settings.data_dir / 'outbox'} and not sent. "
            "Set mail.kind to smtp to send them."
        )
        return Finding("mail", ok=True, sentence=sentence)
    place = f"{settings.mail.host}:{settings.mail.port}"
    try:
        mail.look(settings.mail)
    except (mail.MailDelayed, mail.MailRefused) as error:
        sentence = f"The mail server {place} cannot be used ({error}). Check the [mail] settings."
        return Finding("mail", ok=False, sentence=sentence)
    return Finding("mail", ok=True, sentence=f"The mail server {place} answers.")


def _database(settings: Settings, clock: Clock) -> Finding:
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        sentence = f"None yet. The first start makes {url.database}."
        return Finding("database", ok=True, sentence=sentence)
    db = Database(settings.database_url)
    kind = "SQLite" if db.sqlite else "PostgreSQL"
    try:
        if not database.schema_is_current(db):
            sentence = "The schema is not the newest. Run: python -m chat_app migrate"
            return Finding("database", ok=False, sentence=sentence)
        # Written and committed: only that proves that there is room and the right to do it.
        db.write(lambda session: beat(session, at=clock.micros()))
        ahead = _ahead(db, clock)
    except (AppError, SQLAlchemyError, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        sentence = f"{kind}: {reason}. Check [database] url, the server and its disk."
        return Finding("database", ok=False, sentence=sentence)
    finally:
        db.close()
    if ahead > HOUR:
        sentence = (
            f"Its newest event is {ahead / HOUR:.0f} hours ahead of this machine's clock. "
            "Set the clock: leases, tokens and invoices go by it."
        )
        return Finding("database", ok=False, sentence=sentence)
    return Finding("database", ok=True, sentence=f"{kind}, newest schema, writable.")


def _ahead(db: Database, clock: Clock) -> int:
    """By how much the newest event is later than now, in µs."""
    with db.read() as session:
        found, _ = log.find(session, limit=1)
    return found[0].at - clock.micros() if found else 0


def _models(settings: Settings) -> Iterator[Finding]:
    if settings.llm.engine == "script":
        yield Finding("models", ok=True, sentence="The scripted engine answers; no weights needed.")
        return
    if settings.llm.engine == "remote":
        there = bool(settings.llm.remote_url)
        sentence = "Servers elsewhere answer." if there else "Set remote_url in the section [llm]."
        yield Finding("models", ok=there, sentence=sentence)
        return
    states = {entry: loader.state(entry, settings.models_dir) for entry in catalogue.offered()}
    for entry, state in states.items():
        sentence = f"{entry.id}: {state.reason or 'here and whole by size.'}"
        yield Finding("model", ok=state.state != "broken", sentence=sentence)
    if not any(state.state == "available" for state in states.values()):
        demo = next(entry for entry in states if entry.demo)
        yield Finding(
            "models",
            ok=False,
            sentence=f"No model can answer. Run: python -m chat_app models pull {demo.id}",
        )
