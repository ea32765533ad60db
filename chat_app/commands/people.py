"""Commands about accounts: administrators, second factors, passwords, API keys."""

import argparse
import getpass
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlmodel import Session

from chat_app.commands.common import (
    OK,
    PROBLEMS,
    WrongUse,
    add_command,
    existing_database,
    user_named,
)
from chat_app.settings import Settings


def add(commands: Any) -> None:
    """Add the commands of this room."""
    admin = add_command(commands, "create-admin", create_admin, "create an administrator")
    admin.description = (
        "Create an administrator. The password is asked for, or taken from "
        "CHAT_APP_ADMIN__PASSWORD; it is never an argument, because others can see those."
    )
    admin.add_argument("--username", required=True, help="the user name")
    admin.add_argument("--email", required=True, help="the e-mail address")
    _keys(commands)
    lost = add_command(commands, "totp-off", totp_off, "turn two-factor sign-in off for somebody")
    lost.description = "For somebody who lost telephone and backup codes; their sign-ins end."
    lost.add_argument("--username", required=True, help="the user name or the e-mail address")
    link = add_command(
        commands, "reset-password", reset_password, "print a link to choose a new password"
    )
    link.add_argument("--username", required=True, help="the user name, or the e-mail address")


def _keys(commands: Any) -> None:
    held = commands.add_parser("keys", help="API keys of a user: list, revoke")
    deeds = held.add_subparsers(metavar="ACTION", required=True)
    shown = add_command(deeds, "list", keys_list, "a user's API keys and what each has spent")
    ended = add_command(
        deeds, "revoke", keys_revoke, "end API keys of a user, for ever and at once"
    )
    for command in (shown, ended):
        command.add_argument("--username", required=True, help="whose: the user name")
    ended.add_argument("id", nargs="*", help="their ids, see: keys list")
    ended.add_argument("--all", action="store_true", help="all keys of the user")


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
    with existing_database(settings) as db, db.read() as session:
        user = user_named(session, options.username)
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
    with existing_database(settings) as db:
        with db.read() as session:
            user_id = user_named(session, options.username).id or 0
            held = [row.id for row in keys.list_for(session, user_id=user_id)]
        ids: list[str] = held if options.all else options.id
        now = Clock().micros()

        def story(session: "Session") -> None:
            for id in ids:
                flow.end(session, user_id=user_id, key_id=id, now=now, actor="operator")

        db.write(story)
    print(f"{len(ids)} API keys were revoked.")
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

    with existing_database(settings):
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
