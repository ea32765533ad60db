"""Commands of the outbox: mails and webhooks."""

import argparse
import sys
from typing import Any

from chat_app.commands.common import OK, PROBLEMS, add_command, existing_database
from chat_app.settings import Settings


def add(commands: Any) -> None:
    """Add the commands of this room."""
    mails = commands.add_parser("messages", help="mails and webhooks: list, resend, test")
    deeds = mails.add_subparsers(metavar="ACTION", required=True)
    listed = add_command(deeds, "list", messages_list, "the newest messages and what went wrong")
    listed.add_argument("--state", choices=("waiting", "sent", "dead"), help="only these")
    again = add_command(
        deeds, "resend", messages_resend, "let messages that were given up be tried"
    )
    again.add_argument("id", nargs="*", help="their ids, see: messages list; none: all of them")
    tried = add_command(
        deeds, "test", messages_test, "send a test mail now, by the [mail] settings"
    )
    tried.add_argument("address", help="where to")


def messages_list(options: argparse.Namespace, settings: Settings) -> int:
    """The newest hundred messages; found problems if one of them was given up."""
    from chat_app.clock import rfc3339
    from chat_app.notify import outbox

    with existing_database(settings) as db, db.read() as session:
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

    with existing_database(settings) as db:
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
