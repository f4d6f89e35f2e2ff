"""Mail handed in on this machine, as sendmail(1) does it: made fit for the queue, routed and committed.

Source: RFC 5322 §3.6 (fields that a message must have), RFC 6409 §8 (what a submission server adds), RFC 5321 §4.4.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from email.utils import getaddresses
from typing import BinaryIO

import attrs

from ..config.settings import Settings
from ..directory.interfaces import Customer, User
from ..mail.address import AddressError, canonical
from ..mail.envelope import Message, Recipient
from ..mail.events import Accepted, Routed
from ..mail.header import Head, date, field, tls_wish
from ..mail.status import printable
from ..policy.limits import limits_for
from ..queue.interfaces import CHUNK, Charge, IIncoming, NewMessage, Routing
from .context import CommandError, Context

_NEWLINE = re.compile(rb"\r\n|\r|\n")
_PIECE = 64 << 10


@attrs.frozen(kw_only=True)
class Letter:
    """What to send: its envelope and where its content comes from.

    ``recipients`` are empty where the header fields To, Cc and Bcc name them; ``sender`` is None where From does.
    ``user`` and ``customer``: on whose behalf; the customer's quotas are charged.
    """

    content: BinaryIO
    sender: str | None = None
    recipients: tuple[str, ...] = ()
    user: User | None = None
    customer: Customer | None = None


def lines_of(content: BinaryIO) -> Iterable[bytes]:
    """The content in pieces whose lines end with CRLF, whatever they ended with; never cut between CR and LF."""
    held = b""
    while data := content.read(_PIECE):
        data = held + data
        held = b"\r" if data.endswith(b"\r") else b""
        yield _NEWLINE.sub(b"\r\n", data[: len(data) - len(held)])
    if held:
        yield b"\r\n"


def address_list(head: Head, *names: str) -> list[str]:
    """The addresses that some header fields name."""
    values = [value.decode("utf-8", "replace") for name in names for value in head.get_all(name)]
    return [address for _, address in getaddresses(values) if address]


def own_address(settings: Settings) -> str:
    """The address of who runs the command."""
    import pwd

    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid{os.getuid()}"
    return f"{name}@{settings.hostname}"


class Sender:
    """Sends letters into ``context``'s queue."""

    def __init__(self, context: Context) -> None:
        from ..delivery.router import Router

        self._context = context
        self._settings = _named(context.settings)
        self._uid = os.getuid()
        self._me = own_address(self._settings)
        self._directory = context.directory(make=True)
        self._router = Router(self._settings, self._directory)

    def send(self, letter: Letter) -> tuple[str, list[str]]:
        """Commit a letter; its id, and its recipients.  Raises :class:`CommandError`, and what the context raises."""
        head = Head(self._settings.smtp.header_bytes)
        pieces = iter(lines_of(letter.content))
        for piece in pieces:
            if self._context.guard(lambda: head.feed(piece)):  # noqa: B023 - called at once
                break
        else:
            head.end()
        sender = self._sender(letter, head)
        recipients = self._recipients(letter, head)
        if letter.user is not None and not self._context.done(self._directory.may_send_as(letter.user, sender)):
            raise CommandError(f"{letter.user.address} may not send as {sender or '<>'}")
        lane_customer = letter.customer.name if letter.customer is not None else ""
        everyone = tuple(Recipient(address, address) for address in recipients)
        routing = self._context.done(self._router.route(everyone, lane_customer))
        if routing.refused:
            words = "; ".join(f"{to.original}: {reply}" for to, reply in routing.refused)
            raise CommandError(f"nothing was sent: {words}")
        incoming = self._context.guard(self._context.store(make=True).incoming)
        try:
            self._write(incoming, head, sender, pieces)
            self._commit(incoming, head, sender, recipients, routing, letter)
        except BaseException:
            incoming.abort()
            raise
        return incoming.id, recipients

    def _sender(self, letter: Letter, head: Head) -> str:
        given = letter.sender
        if given is None and letter.user is not None:
            given = letter.user.address
        if given is None:
            given = next(iter(address_list(head, "Sender", "From")), self._me)
        return _canonical("" if given == "<>" else given)

    def _recipients(self, letter: Letter, head: Head) -> list[str]:
        given: Sequence[str] = letter.recipients or address_list(head, "To", "Cc", "Bcc")
        if not given:
            raise CommandError("to whom? Give --to, or a message with To, Cc or Bcc")
        return list(dict.fromkeys(_canonical(address) for address in given))

    def _write(self, incoming: IIncoming, head: Head, sender: str, pieces: Iterable[bytes]) -> None:
        now = self._context.now()
        head.remove("Return-Path")
        head.remove("Bcc")
        head.remove("Resent-Bcc")
        if "From" not in head:
            head.append(field("From", f"<{sender}>" if sender else f"<{self._me}>"))
        if "Date" not in head:
            head.append(field("Date", date(now)))
        if "Message-ID" not in head:
            head.append(field("Message-ID", f"<{incoming.id}@{self._settings.hostname}>"))
        received = field(
            "Received", f"by {self._settings.hostname}", f"(twisted-mta, from userid {self._uid})",
            f"id {incoming.id};", date(now),
        )  # fmt: skip
        self._put(incoming, head.take(received))
        for piece in pieces:
            self._put(incoming, piece)

    def _put(self, incoming: IIncoming, data: bytes) -> None:
        if incoming.size + len(data) > self._settings.smtp.message_bytes:
            raise CommandError(f"the message is larger than smtp.message_bytes, {self._settings.smtp.message_bytes}")
        waiting = incoming.write(data)
        if waiting is not None:
            self._context.done(waiting)

    def _commit(self, incoming: IIncoming, head: Head, sender: str, recipients: list[str], routing: Routing,
                letter: Letter) -> None:  # fmt: skip
        now = self._context.now()
        named = head.get("Message-ID")
        customer, user = letter.customer, letter.user
        message = Message(
            id=incoming.id,
            arrived=now,
            sender=sender,
            recipients=len(recipients),
            size=incoming.size,
            chunks=-(-incoming.size // CHUNK),
            expires=now + self._settings.queue.lifetime,
            body="8BITMIME",
            customer=customer.name if customer is not None else "",
            user=user.address if user is not None else "",
            protocol="local",
            message_id=printable(named) if named else "",
            kind="local",
            requiretls=tls_wish(head),
        )
        accepted = Accepted(
            time=now, id=message.id, session="", client="", listener="", helo="", protocol="local", sender=sender,
            recipients=tuple(recipients), size=message.size, user=message.user, customer=message.customer,
            message_id=message.message_id, requiretls=message.requiretls,
        )  # fmt: skip
        destinations = {d.destination: tuple(r.address for r in d.recipients) for d in routing.deliveries}
        routed = Routed(time=now, id=message.id, destinations=destinations, expanded=routing.expanded)
        story = (accepted, routed)
        charge = None
        if customer is not None:
            charge = Charge(
                customer=customer.name,
                recipients=len(recipients),
                bytes=message.size,
                limits=limits_for(self._settings, customer),
            )
        new = NewMessage(
            message=message,
            deliveries=routing.deliveries,
            next_attempt=now,
            charge=charge,
            story=story,
            lane_customer=message.customer,
        )
        self._context.done(incoming.commit(new))
        for event in story:
            self._context.events(event)


def _named(settings: Settings) -> Settings:
    if settings.hostname:
        return settings
    from ..runtime.names import machine_name

    return attrs.evolve(settings, hostname=machine_name())


def _canonical(address: str) -> str:
    try:
        return canonical(address)
    except AddressError as error:
        raise CommandError(f"{printable(address)}: {error.reply.text}") from None
