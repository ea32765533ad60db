"""Commands of what is sold: prices, redemption codes, sums of usage."""

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chat_app.flows.prices import Draft

from chat_app.commands.common import OK, PROBLEMS, WrongUse, add_command, existing_database
from chat_app.settings import Settings


def add(commands: Any) -> None:
    """Add the commands of this room."""
    add_command(
        commands, "rebuild-usage", rebuild_usage, "make the sums of usage anew from its rows"
    )
    shown = add_command(
        commands, "prices", prices, "every model's price in force and those to come"
    )
    shown.add_argument("--json", action="store_true", help="print one JSON document")
    _price_options(add_command(commands, "set-price", set_price, "publish a price, or look at one"))
    codes = commands.add_parser("codes", help="redemption codes: make")
    actions = codes.add_subparsers(metavar="ACTION", required=True)
    make = add_command(
        actions, "make", codes_make, "make redemption codes and print them as CSV, this once"
    )
    make.add_argument("--credits", required=True, help="what each is worth, for example 50")
    make.add_argument("--count", type=int, default=1, help="how many (default: 1)")
    make.add_argument("--uses", type=int, default=1, help="how often each works (default: 1)")
    make.add_argument("--per-user", type=int, default=1, help="and for one user (default: 1)")
    make.add_argument("--days", type=int, help="they end after so many days (default: never)")
    make.add_argument("--valid-days", type=int, help="their credits end so long after redeeming")
    make.add_argument("--name", default="", help="a name for your lists")


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


def rebuild_usage(_options: argparse.Namespace, settings: Settings) -> int:
    """Make the sums of usage anew."""
    from chat_app.credits import rollups

    with existing_database(settings) as db:
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
    with existing_database(settings) as db, db.read() as session:
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
    with existing_database(settings):
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
