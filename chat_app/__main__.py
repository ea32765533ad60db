"""The operator's commands: `python -m chat_app COMMAND`. To serve, see `launch.py`.

Exit codes: 0 all is well, 1 problems were found, 2 wrong use or wrong settings. Each command
is a function from its options to an exit code; the work is done by the rooms and flows.
"""

import argparse
import getpass
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chat_app import settings as settings_room
from chat_app.errors import AppError, Invalid
from chat_app.settings import Settings, SettingsError

if TYPE_CHECKING:
    from sqlmodel import Session

    from chat_app.accounts.tables import User
    from chat_app.db import Database
    from chat_app.flows.prices import Draft

OK, PROBLEMS, WRONG_USE = 0, 1, 2
MARK = {True: "ok", False: "PROBLEM"}


class WrongUse(Invalid):
    """The command cannot do this here; the sentence says what to do instead."""

    code = "wrong_use"


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    options = parser().parse_args(argv)
    over = {} if options.data_dir is None else {"data_dir": options.data_dir}
    try:
        settings = settings_room.load(options.settings, **over)
        code: int = options.run(options, settings)
    except (WrongUse, SettingsError) as error:
        print(error, file=sys.stderr)
        return WRONG_USE
    except AppError as error:
        print(error, file=sys.stderr)
        return PROBLEMS
    except KeyboardInterrupt:
        return PROBLEMS
    return code


def parser() -> argparse.ArgumentParser:
    """The command line. Every command takes the same two options."""
    root = argparse.ArgumentParser(
        prog="python -m chat_app", description="Operate the paid chat. To serve it: launch.py."
    )
    commands = root.add_subparsers(metavar="COMMAND", required=True)
    _command(commands, "migrate", migrate, "bring the database to the newest schema")
    _books(commands)
    _shop(commands)
    _models(commands)
    admin = _command(commands, "create-admin", create_admin, "create an administrator")
    admin.description = (
        "Create an administrator. The password is asked for, or taken from "
        "CHAT_APP_ADMIN__PASSWORD; it is never an argument, because others can see those."
    )
    admin.add_argument("--username", required=True, help="the user name")
    admin.add_argument("--email", required=True, help="the e-mail address")
    _keys(commands)
    lost = _command(commands, "totp-off", totp_off, "turn two-factor sign-in off for somebody")
    lost.description = "For somebody who lost telephone and backup codes; their sign-ins end."
    lost.add_argument("--username", required=True, help="the user name or the e-mail address")
    link = _command(
        commands, "reset-password", reset_password, "print a link to choose a new password"
    )
    link.add_argument("--username", required=True, help="the user name, or the e-mail address")
    _messages(commands)
    _secrets(commands)
    _search(commands)
    bill = _command(commands, "sbom", sbom, "write what is installed, as CycloneDX JSON")
    bill.add_argument("--out", type=Path, help="the file to write (default: print it)")
    _command(commands, "selfcheck", selfcheck, "look at this machine; one line each")
    return root


def _books(commands: Any) -> None:
    proof = _command(commands, "verify", verify, "prove the books; prints every discrepancy")
    proof.add_argument("--json", action="store_true", help="print one JSON document")
    compared = _command(
        commands, "reconcile", reconcile, "compare answers, usage, transfers, lots and payments"
    )
    compared.add_argument("--json", action="store_true", help="print one JSON document")
    plain = _command(
        commands, "export-beancount", export_beancount, "write the books as a Beancount ledger"
    )
    plain.add_argument("file", type=Path, metavar="FILE", help="the new file; - for the output")
    copied = _command(
        commands, "copy-to", copy_to, "copy everything into an empty PostgreSQL database"
    )
    copied.add_argument("url", metavar="URL", help="postgresql+psycopg://…, an empty database")
    paper = _command(
        commands,
        "verify-receipt",
        verify_receipt,
        "check a receipt's signature, without a database",
    )
    paper.add_argument("file", type=Path, help="the receipt, as the API gave it")
    paper.add_argument(
        "--key",
        help="the public key in base64url, or a file with the answer of /api/billing/receipt-keys; "
        "without it the keys of the data directory are taken",
    )
    _command(
        commands,
        "rotate-receipt-key",
        rotate_receipt_key,
        "add a key that signs the receipts of what is settled from now on",
    )


def _shop(commands: Any) -> None:
    _command(commands, "rebuild-usage", rebuild_usage, "make the sums of usage anew from its rows")
    shown = _command(commands, "prices", prices, "every model's price in force and those to come")
    shown.add_argument("--json", action="store_true", help="print one JSON document")
    _price_options(_command(commands, "set-price", set_price, "publish a price, or look at one"))
    codes = commands.add_parser("codes", help="redemption codes: make")
    actions = codes.add_subparsers(metavar="ACTION", required=True)
    make = _command(
        actions, "make", codes_make, "make redemption codes and print them as CSV, this once"
    )
    make.add_argument("--credits", required=True, help="what each is worth, for example 50")
    make.add_argument("--count", type=int, default=1, help="how many (default: 1)")
    make.add_argument("--uses", type=int, default=1, help="how often each works (default: 1)")
    make.add_argument("--per-user", type=int, default=1, help="and for one user (default: 1)")
    make.add_argument("--days", type=int, help="they end after so many days (default: never)")
    make.add_argument("--valid-days", type=int, help="their credits end so long after redeeming")
    make.add_argument("--name", default="", help="a name for your lists")


def _models(commands: Any) -> None:
    models = commands.add_parser("models", help="models: list, pull, verify, convert-openvino")
    actions = models.add_subparsers(metavar="ACTION", required=True)
    _command(actions, "list", models_list, "every model, its state, its licence and how it runs")
    pull = _command(actions, "pull", models_pull, "download a model and check it")
    pull.add_argument("id", help="the model's id, see: models list")
    check = _command(actions, "verify", models_verify, "read every byte of the downloaded models")
    check.add_argument("id", nargs="?", help="only this model")
    convert = _command(
        actions,
        "convert-openvino",
        models_convert_openvino,
        "convert a Gemma or Llama model for the fastest way on a CPU",
    )
    convert.add_argument("id", help="the model's id, see: models list")
    convert.add_argument(
        "--python",
        type=Path,
        required=True,
        help="the Python of an environment of its own with optimum-intel, see docs/commands.md",
    )
    convert.add_argument(
        "--weights",
        choices=("int8", "int4"),
        default="int8",
        help="int4 is smaller and faster, costs quality, and needs 1 billion parameters or more",
    )


def _keys(commands: Any) -> None:
    held = commands.add_parser("keys", help="API keys of a user: list, revoke")
    deeds = held.add_subparsers(metavar="ACTION", required=True)
    shown = _command(deeds, "list", keys_list, "a user's API keys and what each has spent")
    ended = _command(deeds, "revoke", keys_revoke, "end API keys of a user, for ever and at once")
    for command in (shown, ended):
        command.add_argument("--username", required=True, help="whose: the user name")
    ended.add_argument("id", nargs="*", help="their ids, see: keys list")
    ended.add_argument("--all", action="store_true", help="all keys of the user")


def _messages(commands: Any) -> None:
    mails = commands.add_parser("messages", help="mails and webhooks: list, resend, test")
    deeds = mails.add_subparsers(metavar="ACTION", required=True)
    listed = _command(deeds, "list", messages_list, "the newest messages and what went wrong")
    listed.add_argument("--state", choices=("waiting", "sent", "dead"), help="only these")
    again = _command(deeds, "resend", messages_resend, "let messages that were given up be tried")
    again.add_argument("id", nargs="*", help="their ids, see: messages list; none: all of them")
    tried = _command(deeds, "test", messages_test, "send a test mail now, by the [mail] settings")
    tried.add_argument("address", help="where to")


def _secrets(commands: Any) -> None:
    keys = commands.add_parser("secrets", help="the keys in secrets.json: list, rotate")
    deeds = keys.add_subparsers(metavar="ACTION", required=True)
    _command(deeds, "list", secrets_list, "the keys by ring, without the keys themselves")
    turned = _command(deeds, "rotate", secrets_rotate, "add a key and remove those out of date")
    turned.add_argument("ring", choices=("tokens", "pepper"), help="which ring")
    turned.add_argument(
        "--at-once",
        action="store_true",
        help="tokens alone: remove the old keys now, so that every access token is refused",
    )


def _search(commands: Any) -> None:
    index = commands.add_parser("search", help="the full-text index: check, rebuild")
    deeds = index.add_subparsers(metavar="ACTION", required=True)
    _command(deeds, "check", search_check, "compare the index with the messages")
    _command(deeds, "rebuild", search_rebuild, "make the index anew from all messages")


def _price_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", help="the model's id, see: prices")
    command.add_argument("--per-message", help="credits for an answer")
    command.add_argument("--input", help="credits for a million tokens read")
    command.add_argument("--output", help="credits for a million tokens written")
    command.add_argument("--per-image", help="credits for an image")
    command.add_argument("--from", dest="start", help="a time from which it is in force")
    command.add_argument(
        "--preview", action="store_true", help="re-price the last 30 days and publish nothing"
    )
    command.add_argument(
        "--confirm", action="store_true", help="a change of more than 20 times is meant"
    )


def _command(
    group: Any, name: str, run: Callable[[argparse.Namespace, Settings], int], sentence: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = group.add_parser(
        name, help=sentence, description=f"{sentence[0].upper()}{sentence[1:]}."
    )
    command.add_argument(
        "--settings",
        type=Path,
        default=settings_room.DEFAULT_FILE,
        help="the settings file (default: settings.toml)",
    )
    command.add_argument("--data-dir", type=Path, help="where the database and secrets live")
    command.set_defaults(run=run)
    return command


def migrate(_options: argparse.Namespace, settings: Settings) -> int:
    """Bring the database to the newest schema."""
    from chat_app import db as database

    db = database.Database(settings.database_url)
    try:
        database.migrate(db)
    finally:
        db.close()
    print("The database has the newest schema.")
    return OK


def verify(options: argparse.Namespace, settings: Settings) -> int:
    """Prove the books; print every discrepancy."""
    from chat_app import secrets
    from chat_app.flows import books

    with _existing_database(settings) as db:
        if not (settings.data_dir / secrets.FILE).exists():
            raise WrongUse(
                f"{settings.data_dir / secrets.FILE} is missing, so the seals cannot be checked. "
                "Check --data-dir, or restore it from your backup."
            )
        key = secrets.load_or_create(settings.data_dir).audit_key
        found = books.prove(db, key=key, data_dir=settings.data_dir)
    if options.json:
        problems = [
            {"invariant": item.invariant, "sentence": item.sentence, "facts": item.facts}
            for item in found
        ]
        print(json.dumps({"ok": not found, "problems": problems}, indent=2, default=str))
    else:
        for item in found:
            print(f"{item.invariant}: {item.sentence}")
        print(f"{len(found)} discrepancies." if found else "The books are right: no discrepancy.")
    return PROBLEMS if found else OK


def reconcile(options: argparse.Namespace, settings: Settings) -> int:
    """Compare the records that must agree; print and keep every difference."""
    from chat_app.clock import Clock
    from chat_app.flows import reconcile as comparing

    clock = Clock()
    with _existing_database(settings) as db:
        started_at = clock.micros()
        found = comparing.compare(db, now=started_at)
        comparing.keep(db, found=found, actor="operator", started_at=started_at, now=clock.micros())
    if options.json:
        rows = [
            {
                "check": item.check,
                "left": {"kind": item.left.kind, "id": item.left.id},
                "right": {"kind": item.right.kind, "id": item.right.id},
                "facts": item.facts,
            }
            for item in found
        ]
        print(json.dumps({"ok": not found, "differences": rows}, indent=2))
        return PROBLEMS if found else OK
    for item in found:
        check = comparing.check_named(item.check)
        sides = (f"{side.kind} {side.id or 'missing'}" for side in (item.left, item.right))
        print(f"{item.check}: {' / '.join(sides)}. {check.sentence if check else ''}")
    print(f"{len(found)} differences." if found else "All records agree.")
    return PROBLEMS if found else OK


def export_beancount(options: argparse.Namespace, settings: Settings) -> int:
    """Write the books in Beancount's format."""
    from chat_app.flows import beancount

    to_screen = str(options.file) == "-"
    if not to_screen and options.file.exists():
        raise WrongUse(f"{options.file} exists and is not written over. Name another file.")
    with _existing_database(settings) as db:
        if to_screen:
            for line in beancount.lines(db):
                print(line)
            return OK
        count = beancount.write(db, options.file)
    print(f"{options.file}: {count} transactions. Check it with: bean-check {options.file}")
    return OK


def copy_to(options: argparse.Namespace, settings: Settings) -> int:
    """Copy the database into an empty PostgreSQL, then prove the copy."""
    from chat_app import secrets
    from chat_app.flows import books, copying

    with _existing_database(settings) as db:
        counts = copying.copy_to(db, options.url)
    key = secrets.load_or_create(settings.data_dir).audit_key
    there = settings.database.model_copy(update={"url": options.url})
    target = settings.model_copy(update={"database": there})
    with _existing_database(target) as db:
        found = books.prove(db, key=key, data_dir=settings.data_dir)
    for item in found:
        print(f"{item.invariant}: {item.sentence}")
    print(f"{sum(counts.values())} rows of {len(counts)} tables were copied.")
    if found:
        print(f"{len(found)} discrepancies in the copy: do not use it.")
        return PROBLEMS
    print("The copy is proven. Set CHAT_APP_DATABASE__URL to it and start the server.")
    return OK


def rebuild_usage(_options: argparse.Namespace, settings: Settings) -> int:
    """Make the sums of usage anew."""
    from chat_app.credits import rollups

    with _existing_database(settings) as db:
        rows = db.write(rollups.rebuild)
    print(f"{rows} sums were made anew. Prove them with: python -m chat_app verify")
    return OK


def prices(options: argparse.Namespace, settings: Settings) -> int:
    """The price in force of every model, and those to come."""
    from chat_app.clock import Clock, rfc3339
    from chat_app.credits import pricing
    from chat_app.flows.prices import state_of

    now = Clock().micros()
    rows: list[dict[str, Any]] = []
    with _existing_database(settings) as db, db.read() as session:
        for price in pricing.versions(session):
            try:
                in_force = pricing.current(session, price.model_id, now)
            except pricing.Unpriced:
                in_force = None
            row: dict[str, Any] = {
                "model": price.model_id,
                "state": state_of(price, in_force, now),
                "valid_from": rfc3339(price.valid_from),
                "offered": pricing.offered(session, price.model_id),
                "price": price.as_json(),
            }
            rows += [row] if row["state"] != "past" else []
    if options.json:
        print(json.dumps(rows, indent=2))
        return OK
    for row in rows:
        amounts = {name: part for name, part in row["price"].items() if part}
        words = ", ".join(
            f"{name.replace('_', ' ')} {amounts[name]}"
            for name in ("per_message", "input_per_million", "output_per_million", "per_image")
            if name in amounts
        )
        hidden = "" if row["offered"] else " (off the shelf)"
        print(f"{row['model']:<24} {row['state']:<10} {words}{hidden}")
    return OK


def set_price(options: argparse.Namespace, settings: Settings) -> int:
    """Publish a price, or say what it would do."""
    import asyncio

    from chat_app import app as parts
    from chat_app.flows import prices as flow
    from chat_app.ids import new_id
    from chat_app.money import show_credits

    draft = _draft(options)
    with _existing_database(settings):
        pass
    app = parts.build(settings)
    try:
        seen = flow.preview(app, draft)
        change = seen.total
        print(seen.sentence)
        print(
            f"The {change.messages:,} messages of the last {flow.PREVIEW_DAYS} days: "
            f"{show_credits(change.before)} credits before, {show_credits(change.after)} after."
        )
        if options.preview:
            return PROBLEMS if seen.needs_confirm else OK
        price = asyncio.run(
            flow.publish(app, draft, admin_id=None, key=new_id("key"), confirm=options.confirm)
        )
    finally:
        app.passwords.close()
        app.db.close()
    print(f"Version {price.version} of the price of {price.model_id} is published.")
    return OK


def _draft(options: argparse.Namespace) -> "Draft":
    from datetime import UTC, datetime

    from chat_app.clock import to_micros
    from chat_app.flows.prices import Draft
    from chat_app.money import parse_credits

    names = ("per_message", "input", "output", "per_image")
    amounts = {
        name: None if (text := getattr(options, name)) is None else parse_credits(text)
        for name in names
    }
    by_token = amounts["input"] is not None or amounts["output"] is not None
    by_message = amounts["per_message"] is not None
    start = None
    if options.start is not None:
        try:
            moment = datetime.fromisoformat(options.start)
        except ValueError as error:
            raise WrongUse("--from is a time such as 2026-01-31T12:00:00Z.") from error
        start = to_micros(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    return Draft(
        model=options.model,
        kind="mixed" if by_token and by_message else "per_token" if by_token else "per_message",
        per_message=amounts["per_message"],
        input_per_million=amounts["input"],
        output_per_million=amounts["output"],
        per_image=amounts["per_image"],
        valid_from=start,
    )


def verify_receipt(options: argparse.Namespace, settings: Settings) -> int:
    """Check a receipt against a public key; print what it says."""
    from chat_app.credits.receipts import receipts

    try:
        signed = json.loads(options.file.read_text(encoding="utf-8"))
    except OSError as error:
        raise WrongUse(f"{options.file} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise receipts.BadReceipt(why="not JSON") from error
    said = receipts.check(signed, public=_public_keys(options.key, settings))
    for name, value in said.items():
        print(f"{name:<18} {value}")
    print("The signature is right.")
    return OK


def _public_keys(given: str | None, settings: Settings) -> dict[str, bytes]:
    from chat_app.credits.receipts import keys

    if given is None:
        if not (settings.data_dir / keys.FILE).exists():
            raise WrongUse("There are no keys in the data directory. Give one with --key.")
        return {key.id: key.public for key in keys.load_or_create(settings.data_dir)}
    texts = [given]
    if Path(given).is_file():
        texts = [item["public"] for item in json.loads(Path(given).read_text())["items"]]
    try:
        found = [keys.decode(text) for text in texts]
    except ValueError:
        found = []
    if not found or any(len(public) != 32 for public in found):
        raise WrongUse("--key is neither a file nor a public key of 32 bytes in base64url.")
    return {keys.key_id(public): public for public in found}


def rotate_receipt_key(_options: argparse.Namespace, settings: Settings) -> int:
    """Add a receipt key."""
    from chat_app.clock import Clock
    from chat_app.credits.receipts import keys

    fresh = keys.rotate(settings.data_dir, now=Clock().micros())
    print(f"Key {fresh.id} signs from now on. Restart the server, so that it reads the key.")
    print(f"Its public half: {keys.encode(fresh.public)}")
    return OK


def secrets_list(_options: argparse.Namespace, settings: Settings) -> int:
    """Every key of every ring."""
    from chat_app.clock import Clock, rfc3339
    from chat_app.flows import keyring

    with _existing_database(settings) as db:
        shown = keyring.overview(settings.data_dir, db, now=Clock().micros())
    for key in shown:
        since = rfc3339(key.since) if key.since else "the beginning"
        words = "in use" if key.active else "kept"
        if key.passwords is not None:
            words += f", {key.passwords} passwords"
        print(f"{key.ring:<8} {key.id:<4} since {since:<28} {words}")
    return OK


def secrets_rotate(options: argparse.Namespace, settings: Settings) -> int:
    """Add a key to a ring."""
    from chat_app.clock import Clock, rfc3339
    from chat_app.flows import keyring

    if options.at_once and options.ring != "tokens":
        raise WrongUse("A pepper cannot go at once: no password could be checked any more.")
    now = Clock().micros()
    if options.ring == "tokens":
        fresh = keyring.rotate_tokens(settings.data_dir, now=now, at_once=options.at_once)
    else:
        with _existing_database(settings) as db:
            fresh = keyring.rotate_pepper(settings.data_dir, db, now=now)
    print(f"Key {fresh.id} of {options.ring} is used from {rfc3339(fresh.since)} on.")
    print("Running servers read it within seconds. Back up secrets.json, apart from the database.")
    return OK


@contextmanager
def _existing_database(settings: Settings) -> "Iterator[Database]":
    from alembic.migration import MigrationContext
    from sqlalchemy import make_url

    from chat_app import db as database
    from chat_app import migrations

    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        raise WrongUse(f"There is no database at {url.database}. Check --data-dir.")
    db = database.Database(settings.database_url)
    try:
        # Only the revision is asked: a missing trigger is for the proof to find.
        with db.read() as session:
            found = MigrationContext.configure(session.connection()).get_current_revision()
        if found != migrations.head():
            raise WrongUse("The schema is not the newest. Run: python -m chat_app migrate")
        yield db
    finally:
        db.close()


def models_list(_options: argparse.Namespace, settings: Settings) -> int:
    """Every model that is offered, with its state and how it would run here."""
    from chat_app.llm import build, catalogue, loader

    engine = build.create(settings)
    for entry in catalogue.offered():
        state = loader.state(entry, settings.models_dir)
        words = state.reason or engine.why(entry.id)
        print(f"{entry.id:<24} {state.state:<15} {entry.name}; {entry.license}. {words}")
    return OK


def models_pull(options: argparse.Namespace, settings: Settings) -> int:
    """Download a model and check it."""
    from chat_app.llm import catalogue, loader
    from chat_app.llm.bar import bar

    entry = catalogue.get(options.id)
    with bar() as tell:
        loader.pull(entry, settings.models_dir, tell)
    print(f"{entry.name} is ready. License: {entry.license}, {entry.license_url}")
    return OK


def models_verify(options: argparse.Namespace, settings: Settings) -> int:
    """Read every byte of what was downloaded."""
    from chat_app.llm import catalogue, loader
    from chat_app.llm.bar import bar

    entries = [catalogue.get(options.id)] if options.id else catalogue.entries()
    code = OK
    for entry in entries:
        with bar() as tell:
            state = loader.verify(entry, settings.models_dir, tell)
        if state.state == "available":
            print(f"{entry.id}: every byte is right.")
        elif state.state == "broken" or options.id:
            print(f"{entry.id}: {state.reason}")
            code = PROBLEMS
    return code


def models_convert_openvino(options: argparse.Namespace, settings: Settings) -> int:
    """Convert a model for OpenVINO."""
    from chat_app.llm import catalogue, optimum

    entry = catalogue.get(options.id)
    print(f"Converting {entry.name} to {options.weights}; this takes minutes.", flush=True)
    folder = optimum.convert(
        entry, settings.models_dir, python=options.python, weights=options.weights
    )
    print(f"{folder} is ready. On a CPU it is used from the next load on.")
    return OK


def codes_make(options: argparse.Namespace, settings: Settings) -> int:
    """Make redemption codes and print them."""
    import asyncio

    from chat_app import app as parts
    from chat_app.clock import MICROS_PER_SECOND
    from chat_app.credits import codes
    from chat_app.flows import free
    from chat_app.ids import new_id
    from chat_app.money import parse_credits

    micro = parse_credits(options.credits)
    app = parts.build(settings)
    try:
        ends = None
        if options.days is not None:
            ends = app.clock.micros() + options.days * 24 * 3600 * MICROS_PER_SECOND
        made = asyncio.run(
            free.make_codes(
                app,
                actor="operator",
                micro=micro,
                count=options.count,
                uses=options.uses,
                per_user=options.per_user,
                expires_at=ends,
                valid_days=options.valid_days,
                name=options.name,
                key=new_id("key"),
            )
        )
    finally:
        app.passwords.close()
        app.db.close()
    print(codes.table(made), end="")
    return OK


def create_admin(options: argparse.Namespace, settings: Settings) -> int:
    """Create an administrator."""
    from chat_app import app as parts
    from chat_app.flows import signup

    password = settings.admin.password or _ask_password()
    app = parts.build(settings)
    try:
        signup.create_admin(app, username=options.username, email=options.email, password=password)
    finally:
        app.passwords.close()
        app.db.close()
    print(f"{options.username} can sign in as an administrator.")
    return OK


def totp_off(options: argparse.Namespace, settings: Settings) -> int:
    """Turn two-factor sign-in off for somebody; found a problem if it was not on."""
    from chat_app import app as parts
    from chat_app.flows import second_factor

    app = parts.build(settings)
    try:
        was_on = second_factor.reset_by_operator(app, login=options.username)
    finally:
        app.passwords.close()
        app.db.close()
    state = "is off now, and all sign-ins have ended" if was_on else "was not on"
    print(f"{options.username}: two-factor sign-in {state}.")
    return OK if was_on else PROBLEMS


def reset_password(options: argparse.Namespace, settings: Settings) -> int:
    """Print the link with which somebody chooses a new password."""
    from chat_app import app as parts
    from chat_app.flows import recover

    with _existing_database(settings):
        pass
    app = parts.build(settings)
    try:
        link = recover.operator_link(app, login=options.username)
    finally:
        app.passwords.close()
        app.db.close()
    print(link)
    print(
        f"Give this link to {options.username} alone. It works once, within "
        f"{settings.accounts.link_minutes} minutes, and ends all sign-ins."
    )
    return OK


def _ask_password() -> str:
    if not sys.stdin.isatty():
        raise WrongUse("There is nobody to ask for a password. Set CHAT_APP_ADMIN__PASSWORD.")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Once more: ") != password:
        raise WrongUse("The two passwords differ. Start again.")
    return password


def keys_list(options: argparse.Namespace, settings: Settings) -> int:
    """A user's API keys and what each has spent."""
    from chat_app.accounts import keys
    from chat_app.clock import Clock, rfc3339
    from chat_app.credits import key_budgets
    from chat_app.money import format_credits

    now = Clock().micros()
    with _existing_database(settings) as db, db.read() as session:
        user = _user_named(session, options.username)
        rows = keys.list_for(session, user_id=user.id or 0)
        spent = key_budgets.spent(session, key_ids=[row.id for row in rows], now=now)
        for row in rows:
            used = "never" if row.last_used_at is None else rfc3339(row.last_used_at)[:19]
            print(
                f"{row.id}  {keys.state_of(row, user, now=now):<8}  made "
                f"{rfc3339(row.created_at)[:19]}  used {used}  today "
                f"{format_credits(spent[row.id].day)}  in all "
                f"{format_credits(spent[row.id].total)}  {row.scopes}  {row.name}"
            )
    print(f"{len(rows)} API keys.")
    return OK


def keys_revoke(options: argparse.Namespace, settings: Settings) -> int:
    """End API keys of a user. A running program refuses them from the next request on."""
    from chat_app.accounts import keys
    from chat_app.clock import Clock
    from chat_app.flows import keys as flow

    if bool(options.id) == options.all:
        raise WrongUse("Name the ids of the keys, or give --all. See: keys list")
    with _existing_database(settings) as db:
        with db.read() as session:
            user_id = _user_named(session, options.username).id or 0
            held = [row.id for row in keys.list_for(session, user_id=user_id)]
        ids: list[str] = held if options.all else options.id
        now = Clock().micros()

        def story(session: "Session") -> None:
            for id in ids:
                flow.end(session, user_id=user_id, key_id=id, now=now, actor="operator")

        db.write(story)
    print(f"{len(ids)} API keys were revoked.")
    return OK


def _user_named(session: "Session", username: str) -> "User":
    from chat_app.accounts import users

    user = users.find(session, username)
    if user is None:
        raise WrongUse(f"There is no user {username}. Check the name.")
    return user


def messages_list(options: argparse.Namespace, settings: Settings) -> int:
    """The newest hundred messages; found problems if one of them was given up."""
    from chat_app.clock import rfc3339
    from chat_app.notify import outbox

    with _existing_database(settings) as db, db.read() as session:
        rows, _ = outbox.page(session, state=options.state or "", limit=100)
    for row in rows:
        error = f" ({row.error})" if row.error and row.state != "sent" else ""
        print(
            f"{row.message_id}  {rfc3339(row.created_at)[:19]}  {row.state:<7}  {row.channel:<7}  "
            f"{row.kind:<18}  {row.target}  tries {row.attempts}{error}"
        )
    print(f"{len(rows)} messages.")
    return PROBLEMS if any(row.state == "dead" for row in rows) else OK


def messages_resend(options: argparse.Namespace, settings: Settings) -> int:
    """Let messages that were given up be tried again by the running program."""
    from chat_app.clock import Clock
    from chat_app.notify import outbox

    with _existing_database(settings) as db:
        with db.read() as session:
            dead, _ = outbox.page(session, state="dead", limit=10_000)
        ids: list[str] = options.id or [row.message_id for row in dead]
        now = Clock().micros()
        db.write(lambda session: [outbox.resend(session, message_id=one, now=now) for one in ids])
    print(f"{len(ids)} messages will be tried again.")
    return OK


def messages_test(options: argparse.Namespace, settings: Settings) -> int:
    """Send a test mail, past the outbox, so that a wrong setting shows at once."""
    from chat_app.clock import Clock
    from chat_app.ids import new_id
    from chat_app.notify import kinds, mail

    folder = settings.data_dir / "outbox"
    try:
        message = mail.compose(
            kinds.letter("mail_test", {"url": f"the mail settings of {settings.site}"}),
            settings=settings.mail,
            to=options.address,
            message_id=new_id("ntf"),
            at=Clock().now(),
            site=settings.site,
        )
        mail.send(message, settings=settings.mail, outbox=folder)
    except (mail.MailRefused, mail.MailDelayed) as error:
        print(f"The mail did not leave: {error}. Check the [mail] settings.", file=sys.stderr)
        return PROBLEMS
    print(f"Written to {folder}." if settings.mail.kind == "outbox" else "The mail server took it.")
    return OK


def search_check(_options: argparse.Namespace, settings: Settings) -> int:
    """Whether every message that should be found is in the index, and nothing else."""
    from chat_app.chat import search

    with _existing_database(settings) as db, db.read() as session:
        found = search.problems(session)
    for problem in found:
        print(problem)
    print("Run: python -m chat_app search rebuild" if found else "The index is whole.")
    return PROBLEMS if found else OK


def search_rebuild(_options: argparse.Namespace, settings: Settings) -> int:
    """Make the full-text index anew; a server that runs waits meanwhile."""
    from chat_app.chat import search

    with _existing_database(settings) as db:
        count = db.write(search.rebuild)
    print(f"{count} messages can be found.")
    return OK


def sbom(options: argparse.Namespace, _settings: Settings) -> int:
    """The bill of materials of this installation."""
    from chat_app.clock import Clock
    from chat_app.flows import sbom as bill

    text = json.dumps(bill.make(now=Clock().now()), indent=2)
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text + "\n", encoding="utf-8")
    return OK


def selfcheck(_options: argparse.Namespace, settings: Settings) -> int:
    """Look at this machine."""
    from chat_app.flows import selfcheck as looking

    code = OK
    for finding in looking.run(settings):
        print(f"{MARK[finding.ok]:<8} {finding.name:<9} {finding.sentence}", flush=True)
        code = code if finding.ok else PROBLEMS
    return code


if __name__ == "__main__":
    sys.exit(main())
