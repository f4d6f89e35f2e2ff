"""Where recipients go: our mailboxes, what aliases stand for, a smarthost, or the MX of their domain.

Source: RFC 5321 §3.9.1 (aliases), §5.1 (the domain decides), §4.1.3 (address literals), RFC 5233 (details).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
from zope.interface import implementer

from ..config.settings import Settings
from ..directory.interfaces import IDirectory, Resolution
from ..mail.address import domain_of, local_of, lookup_key, quote_local
from ..mail.envelope import Occasion, Recipient
from ..mail.status import MailError, Reply
from ..queue.interfaces import IRouter, NewDelivery, Routing

MAX_DEPTH = 10
"""How many aliases may stand behind one another."""

MAX_TARGETS = 1000
"""How many addresses one recipient may become."""

UNKNOWN = Reply(550, "5.1.1", "There is no such mailbox here")
LOOP = Reply(550, "5.4.6", "The aliases of this address lead back to themselves")
TOO_DEEP = Reply(550, "5.4.6", f"More than {MAX_DEPTH} aliases stand behind one another")
TOO_MANY = Reply(550, "5.2.4", f"The alias stands for more than {MAX_TARGETS} addresses")

_HOST_PORT = re.compile(r"\[(?P<literal>[^\[\]]+)\](?::(?P<port6>\d{1,5}))?|(?P<host>[^\[\]:]+)(?::(?P<port>\d{1,5}))?")


def split_host_port(text: str, port: int) -> tuple[str, int]:
    """The host and port of "host", "host:port", "[host]", "[host]:port" or a bare IPv6 address.

    The host comes without brackets, in lower case; ``port`` is what holds where none is given.  Raises ValueError.
    """
    if text.count(":") > 1 and "[" not in text:
        return text.lower(), port
    match = _HOST_PORT.fullmatch(text)
    if match is None:
        raise ValueError(f'not a "host:port": {text!r}')
    host = match["literal"] or match["host"]
    number = int(match["port6"] or match["port"] or port)
    if not 0 < number < 65536:
        raise ValueError(f"a port is 1 to 65535: {text!r}")
    return host.lower().removeprefix("ipv6:"), number


@implementer(IRouter)
class Router:
    """The one :class:`IRouter`.  It asks the directory about each address and keeps nothing itself."""

    def __init__(self, settings: Settings, directory: IDirectory) -> None:
        self._directory = directory
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed settings; the next answer follows them."""
        self._port = settings.relay.port
        self._smarthost = ""
        if settings.relay.smarthost:
            host, port = split_host_port(settings.relay.smarthost, settings.relay.port)
            self._smarthost = f"smtp:[{host}]:{port}"
        self._lmtp = f"lmtp:{settings.local.lmtp}" if settings.local.lmtp else ""
        self._delimiter = settings.local.detail_delimiter or "+"

    async def route(self, recipients: Sequence[Recipient], lane_customer: str) -> Routing:
        """See :class:`IRouter`."""
        if len(recipients) == 1:
            recipient = recipients[0]
            try:
                found = await self._directory.resolve(recipient.address)
            except MailError as error:
                if error.temporary:
                    raise
                return Routing((), {}, ((recipient, error.reply),))
            if found.kind == "remote":
                return Routing((NewDelivery(self._remote(recipient.address), (recipient,)),))
            if found.kind == "mailbox":
                destination, final = self._mailbox(recipient, found)
                return Routing((NewDelivery(destination, (final,)),))
        gathered = _Gathered()
        for recipient in recipients:
            await self._expand(recipient, gathered)
        return gathered.routing()

    def _remote(self, address: str) -> str:
        if self._smarthost:
            return self._smarthost
        domain = domain_of(address)
        if domain.startswith("["):  # RFC 5321 §5.1: a literal is the host itself
            host, port = split_host_port(domain, self._port)
            return f"smtp:[{host}]:{port}"
        return f"smtp:{domain}"

    def _mailbox(self, recipient: Recipient, found: Resolution) -> tuple[str, Recipient]:
        mailbox = found.mailbox
        address = mailbox
        if found.detail:
            address = f"{_with_detail(local_of(mailbox), self._delimiter + found.detail)}@{domain_of(mailbox)}"
        if address != recipient.address:
            original = recipient.original or recipient.address
            recipient = Recipient(address, original, recipient.notify, recipient.orcpt)
        return self._lmtp or f"maildir:{domain_of(mailbox)}", recipient

    async def _expand(self, recipient: Recipient, gathered: _Gathered) -> None:
        """Follow one recipient to its ends.  What it becomes counts only if all of it is within the bounds."""
        original = recipient.original or recipient.address
        ends: list[tuple[str, Recipient]] = []
        refused: list[tuple[Recipient, Reply]] = []
        expanded: dict[str, tuple[str, ...]] = {}
        seen: set[str] = set()
        waiting = [(recipient.address, 0)]
        while waiting:
            address, depth = waiting.pop()
            key = lookup_key(address)
            if key in seen:
                continue
            seen.add(key)
            here = Recipient(address, original, recipient.notify, recipient.orcpt)
            try:
                found = await self._directory.resolve(address)
            except MailError as error:
                if error.temporary:
                    raise
                refused.append((here, error.reply))
                continue
            if found.kind == "remote":
                ends.append((self._remote(address), here))
            elif found.kind == "mailbox":
                ends.append(self._mailbox(here, found))
            elif found.kind != "alias":
                refused.append((here, UNKNOWN))
            elif depth >= MAX_DEPTH:
                gathered.refused.append((recipient, TOO_DEEP))
                return
            elif len(seen) + len(waiting) + len(found.targets) > MAX_TARGETS:
                gathered.refused.append((recipient, TOO_MANY))
                return
            else:
                expanded[address] = found.targets
                waiting.extend((target, depth + 1) for target in reversed(found.targets))
                if key in map(lookup_key, found.targets):  # "me, and others too": the copy of one's own
                    user = await self._directory.user(address)
                    if user is not None:
                        ends.append(self._mailbox(here, Resolution(kind="mailbox", mailbox=user.address)))
        if not ends and not refused:
            refused.append((recipient, LOOP))
        gathered.expanded.update(expanded)
        gathered.refused.extend(refused)
        for destination, final in ends:
            gathered.add(destination, final)


class _Gathered:
    """What the recipients of one message have become so far: each address once, destinations in order of arrival."""

    def __init__(self) -> None:
        self.expanded: dict[str, tuple[str, ...]] = {}
        self.refused: list[tuple[Recipient, Reply]] = []
        self._by_destination: dict[str, dict[str, Recipient]] = {}

    def add(self, destination: str, recipient: Recipient) -> None:
        found = self._by_destination.setdefault(destination, {})
        known = found.setdefault(recipient.address, recipient)
        if known.notify != recipient.notify:  # two ways to one address: whoever wants a report gets it
            found[recipient.address] = msgspec.structs.replace(known, notify=_either(known, recipient))

    def routing(self) -> Routing:
        deliveries = tuple(
            NewDelivery(destination, tuple(recipients.values()))
            for destination, recipients in self._by_destination.items()
        )
        return Routing(deliveries, self.expanded, tuple(self.refused))


def _either(one: Recipient, other: Recipient) -> str:
    """The NOTIFY that covers what each of two asks for (RFC 3461 §4.1)."""
    occasions: tuple[Occasion, ...] = ("SUCCESS", "FAILURE", "DELAY")
    return ",".join(it for it in occasions if one.wants(it) or other.wants(it)) or "NEVER"


def _with_detail(local: str, tail: str) -> str:
    """A canonical local part with more of it at the end, quoted where that needs it."""
    if local.startswith('"'):
        return local[:-1] + tail.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return quote_local(local + tail)
