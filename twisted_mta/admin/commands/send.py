"""``mta send``: hand a message to the queue from this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..base import Command, pass_context
from ..context import CommandError, Context, NotFound
from ..tables import many


@click.command(cls=Command)
@click.option("--from", "sender", metavar="ADDRESS", default=None,
              help='The envelope sender; "<>" for none. Else --user, the From field, or you.')  # fmt: skip
@click.option("--to", "recipients", metavar="ADDRESS", multiple=True,
              help="A recipient; may be repeated. Else those of To, Cc and Bcc.")  # fmt: skip
@click.option("--user", "user_address", metavar="ADDRESS", default="",
              help="Send as this user, charged to their customer; the sender must be theirs.")  # fmt: skip
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@pass_context
def send(
    context: Context, sender: str | None, recipients: tuple[str, ...], user_address: str, file: Path | None
) -> None:
    """Hand the message in FILE, or on standard input, to the queue, as sendmail(1) does.

    Date, Message-ID and From are added where they are missing, Bcc is removed. The message is on disk when this ends;
    a running service begins its delivery within a second, else it waits. Without --user nobody is charged.
    """
    from ..local_mail import Letter, Sender

    if file is None and sys.stdin.isatty():
        click.echo("Type the message, then Ctrl-D:", err=True)
    try:
        content = sys.stdin.buffer if file is None else file.open("rb")
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}") from None
    with content:
        sending = Sender(context)
        user = customer = None
        if user_address:
            directory = context.directory()
            user = context.done(directory.user(user_address))
            if user is None:
                raise NotFound(f"there is no user {user_address}")
            customer = context.done(directory.customer(user.customer))
            if user.suspended or customer is None or customer.suspended:
                raise CommandError(f"{user.address} is suspended")
        letter = Letter(content=content, sender=sender, recipients=recipients, user=user, customer=customer)
        id_, to = sending.send(letter)
    context.say(
        {"id": id_, "recipients": to},
        lambda: f"Queued as {id_} for {many(len(to), 'recipient')}; follow it with: mta trace {id_}",
    )
