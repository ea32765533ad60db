"""Commands of the books: proofs, comparisons, copies, receipts."""

import argparse
import json
from pathlib import Path
from typing import Any

from chat_app.commands.common import OK, PROBLEMS, WrongUse, add_command, existing_database
from chat_app.settings import Settings


def add(commands: Any) -> None:
    """Add the commands of this room."""
    proof = add_command(commands, "verify", verify, "prove the books; prints every discrepancy")
    proof.add_argument("--json", action="store_true", help="print one JSON document")
    compared = add_command(
        commands, "reconcile", reconcile, "compare answers, usage, transfers, lots and payments"
    )
    compared.add_argument("--json", action="store_true", help="print one JSON document")
    plain = add_command(
        commands, "export-beancount", export_beancount, "write the books as a Beancount ledger"
    )
    plain.add_argument("file", type=Path, metavar="FILE", help="the new file; - for the output")
    plain.add_argument(
        "--money",
        action="store_true",
        help="the money ledger, its balances asserted from orders, refunds and lots",
    )
    copied = add_command(
        commands, "copy-to", copy_to, "copy everything into an empty PostgreSQL database"
    )
    copied.add_argument("url", metavar="URL", help="postgresql+psycopg://…, an empty database")
    paper = add_command(
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
    add_command(
        commands,
        "rotate-receipt-key",
        rotate_receipt_key,
        "add a key that signs the receipts of what is settled from now on",
    )


def verify(options: argparse.Namespace, settings: Settings) -> int:
    """Prove the books; print every discrepancy."""
    from chat_app import secrets
    from chat_app.flows import books

    with existing_database(settings) as db:
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
    with existing_database(settings) as db:
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
    from chat_app.flows import beancount, money_books

    source = money_books if options.money else beancount
    to_screen = str(options.file) == "-"
    if not to_screen and options.file.exists():
        raise WrongUse(f"{options.file} exists and is not written over. Name another file.")
    with existing_database(settings) as db:
        if to_screen:
            for line in source.lines(db):
                print(line)
            return OK
        count = source.write(db, options.file)
    print(f"{options.file}: {count} transactions. Check it with: bean-check {options.file}")
    return OK


def copy_to(options: argparse.Namespace, settings: Settings) -> int:
    """Copy the database into an empty PostgreSQL, then prove the copy."""
    from chat_app import secrets
    from chat_app.flows import books, copying

    with existing_database(settings) as db:
        counts = copying.copy_to(db, options.url)
    key = secrets.load_or_create(settings.data_dir).audit_key
    there = settings.database.model_copy(update={"url": options.url})
    target = settings.model_copy(update={"database": there})
    with existing_database(target) as db:
        found = books.prove(db, key=key, data_dir=settings.data_dir)
    for item in found:
        print(f"{item.invariant}: {item.sentence}")
    print(f"{sum(counts.values())} rows of {len(counts)} tables were copied.")
    if found:
        print(f"{len(found)} discrepancies in the copy: do not use it.")
        return PROBLEMS
    print("The copy is proven. Set CHAT_APP_DATABASE__URL to it and start the server.")
    return OK


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
