"""Taking one message in: header section, storing, routing, commit, hand-over.

Source: RFC 5321 §4.4 (trace fields), §6.1 (responsibility begins with the 250), §6.3 (loops), RFC 6409 §8 (what is
added to and removed from mail that users hand in), RFC 6532 §3 (UTF-8 in header fields), RFC 3030 §3 (binary content),
RFC 8689 §4.1 and §5 (REQUIRETLS).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..config.settings import Settings
from ..mail.envelope import Body, Handling, Message, Recipient, RequireTls, Return
from ..mail.events import EventSink, Routed
from ..mail.header import Head, date, field, tls_wish
from ..mail.status import MailError, Reply, printable
from ..policy.interfaces import Peer, Transaction
from ..policy.limits import limits_for
from ..queue.interfaces import (
    CHUNK,
    Charge,
    IIncoming,
    IMessageStore,
    IRouter,
    IScheduler,
    NewDelivery,
    NewMessage,
    Routing,
)
from ..runtime.coroutines import run
from ..wire.stuffing import is_plain
from . import telling
from .individually import unroutable, without
from .runs import QueueRuns
from .trace import protocol, received

ContentHook = Callable[[Peer, Transaction, Any], Coroutine[Any, Any, Reply | None]]

UNROUTABLE = "error:unroutable"
"""The destination of recipients that the router refuses while it takes others of the same message: the delivery's
first attempt asks the router again, and bounces them."""

_RETURN: dict[str, Return] = {"": "", "FULL": "FULL", "HDRS": "HDRS"}
UNSOUND = Reply(
    554,
    "5.6.0",
    "The header section of a binary message has lines of at most 998 octets that end with CRLF, no NUL, "
    "and an empty line behind it",
)
"""RFC 3030 §3: what the octets of a binary message mean is said by its header, so that must be beyond doubt."""
_TROUBLE = Reply(451, "4.3.0", "Local trouble: please try again later")
_log = Logger()


class Reception:
    """Takes messages in; one for the service.  :meth:`begin` begins each.

    ``clock`` gives seconds since the epoch.
    """

    def __init__(
        self,
        store: IMessageStore,
        router: IRouter,
        scheduler: IScheduler,
        settings: Settings,
        events: EventSink,
        clock: IReactorTime,
    ) -> None:
        self.store = store
        self.router = router
        self.scheduler = scheduler
        self.events = events
        self.clock = clock
        self.runs = QueueRuns(store, scheduler, events, clock)
        self._ending = 0
        self._idle: list[Deferred[None]] = []
        self.configure(settings)

    def when_idle(self) -> Deferred[None]:
        """Fires once no message that came in whole is still to be committed and handed over, with its session or
        after it."""
        idle: Deferred[None] = Deferred()
        self._idle.append(idle)
        self._check_idle()
        return idle

    def ends(self, more: int) -> None:
        """One more message is being finished, or one less."""
        self._ending += more
        if self._idle:
            self._check_idle()

    def _check_idle(self) -> None:
        if not self._ending:
            waiting, self._idle = self._idle, []
            for idle in waiting:
                idle.callback(None)

    def configure(self, settings: Settings) -> None:
        """Take over changed settings; messages under way may see either."""
        self.settings = settings

    def message_bytes(self, peer: Peer) -> int:
        """How large a message of this peer may be, in octets."""
        largest = self.settings.smtp.message_bytes
        if peer.account is None:
            return largest
        own = limits_for(self.settings, peer.account.customer).message_bytes
        return largest if own is None else min(largest, own)

    def begin(self, peer: Peer, transaction: Transaction, hooks: Sequence[ContentHook] = ()) -> Inbound:
        """Begin a message.  ``hooks`` are asked when its header section is complete.

        Raises :class:`~twisted_mta.queue.interfaces.StoreUnavailable`.
        """
        return Inbound(self, self.store.incoming(), peer, transaction, hooks)


class Inbound:
    """One message on its way in.  :meth:`write` its content, then either :meth:`finish` or :meth:`abort`.

    Holds the header section until it is complete.  Content that the store has in memory all along goes to the
    scheduler, which need not read it again.

    ``refused``, once :meth:`finish` is through: recipients of a message by LMTP that it was not taken for, and what
    they are to be told.
    """

    __slots__ = (
        "_dotted",
        "_head",
        "_hooks",
        "_incoming",
        "_over",
        "_peer",
        "_reception",
        "_refusal",
        "_transaction",
        "refused",
    )

    def __init__(
        self,
        reception: Reception,
        incoming: IIncoming,
        peer: Peer,
        transaction: Transaction,
        hooks: Sequence[ContentHook],
    ) -> None:
        self._reception = reception
        self._incoming = incoming
        self._peer = peer
        self._transaction = transaction
        self._hooks = hooks
        self._head = Head(reception.settings.smtp.header_bytes)
        self._refusal: MailError | None = None
        self._over = False
        self._dotted = False  # what hooks have made of the header section is not to be sent as it is
        self.refused: dict[str, Reply] = {}

    def write(self, data: bytes) -> Deferred[None] | None:
        """Add content: lines that end with CRLF, or after BODY=BINARYMIME any octets.

        A Deferred: give no more until it fires.  It never fails, nor does this raise for what the content or the
        store do: once the message is to be refused, :meth:`finish` says so and what comes until then is dropped.
        """
        if self._refusal is not None:
            return None
        if self._head.complete:
            return self._store(data)
        try:
            return self._judge_head() if self._head.feed(data) else None
        except MailError as error:
            self._refuse(error)
            return None

    async def finish(self, eight_bit: bool, plain: bool) -> Reply:
        """The content is complete: route, commit and hand over; the reply to give.

        ``eight_bit``: it is not pure ASCII.  ``plain``: it may be sent on as it is.  Once this is called the message
        goes its way, whatever becomes of the session.  Raises :class:`~twisted_mta.mail.status.MailError`; then nothing
        is stored.
        """
        self._reception.ends(+1)
        try:
            if self._refusal is None and not self._head.complete:
                self._head.end()
                waiting = self._judge_head()
                if waiting is not None:
                    await waiting
            if self._refusal is not None:
                raise self._refusal
            if self._transaction.body == "BINARYMIME":
                return await self._commit("BINARYMIME", False)
            return await self._commit("8BITMIME" if eight_bit else "7BIT", plain and not self._dotted)
        except BaseException:
            self.abort()
            raise
        finally:
            self._reception.ends(-1)

    def abort(self) -> None:
        """Forget the message.  Does nothing once it is over."""
        if not self._over:
            self._over = True
            self._incoming.abort()

    def _refuse(self, error: MailError) -> None:
        self._refusal = error
        self.abort()

    def _judge_head(self) -> Deferred[None] | None:
        settings = self._reception.settings
        if self._head.count("Received") > settings.smtp.hops:
            raise MailError(Reply(554, "5.4.6", f"The message has passed more than {settings.smtp.hops} hosts: a loop"))
        if self._transaction.body == "BINARYMIME" and not self._head.sound:
            raise MailError(UNSOUND)
        if not self._hooks:
            return self._store_head()
        finished: Deferred[None] = Deferred()
        run(self._ask_hooks(), finished.callback, finished.errback)
        finished.addErrback(self._failed)
        return None if finished.called else finished

    async def _ask_hooks(self) -> None:
        for hook in self._hooks:
            reply = await hook(self._peer, self._transaction, self._head)
            if reply is not None:
                raise MailError(reply)
        self._dotted = not is_plain(self._head.fields)
        waiting = self._store_head()
        if waiting is not None:
            await waiting

    def _store_head(self) -> Deferred[None] | None:
        """Amend the header section as the standards ask, and store it with what came behind it."""
        head, peer, transaction = self._head, self._peer, self._transaction
        settings, now = self._reception.settings, self._reception.clock.seconds()
        head.remove("Return-Path")  # RFC 5321 §4.4: it is added at the end of the way, and only there
        if peer.account is not None or peer.role == "submission":
            head.remove("Bcc")
            head.remove("Resent-Bcc")
            if "Date" not in head:  # RFC 6409 §8.1
                head.append(field("Date", date(now)))
            if "Message-ID" not in head:  # RFC 6409 §8.3
                head.append(field("Message-ID", f"<{self._incoming.id}@{settings.hostname}>"))
        utf8 = "SMTPUTF8" in transaction.params
        only = transaction.recipients[0] if len(transaction.recipients) == 1 else ""
        priority = 0 if transaction.handling is None else transaction.handling.priority
        return self._store(head.take(received(peer, settings.hostname, self._incoming.id, now, only, utf8, priority)))

    def _store(self, data: bytes) -> Deferred[None] | None:
        waiting: Deferred[None] | None = self._incoming.write(data)
        if waiting is not None:
            waiting.addErrback(self._failed)
        return waiting

    def _failed(self, failure: Failure) -> None:
        if isinstance(failure.value, MailError):
            self._refuse(failure.value)
        else:
            _log.failure("A message could not be taken in", failure)
            self._refuse(MailError(_TROUBLE))

    def _requiretls(self) -> RequireTls:
        """What the sender says of TLS; its command outranks its header (RFC 8689 §4.1)."""
        if "REQUIRETLS" in self._transaction.params:
            return "required"
        return tls_wish(self._head)

    async def _commit(self, body: Body, plain: bool) -> Reply:
        reception, incoming, peer, transaction = self._reception, self._incoming, self._peer, self._transaction
        account = peer.account
        recipients = _recipients(transaction)
        lane_customer = peer.customer or next(
            (known.customer for known in transaction.resolutions if known.customer), ""
        )
        routing = await reception.router.route(recipients, lane_customer)
        if routing.refused and peer.role == "lmtp":
            self.refused = unroutable(recipients, routing)
            recipients, routing = without(self.refused, recipients, routing)
        deliveries = _deliveries(routing)
        now = reception.clock.seconds()
        handling = transaction.handling
        release = 0.0 if handling is None or handling.release <= now else handling.release
        message_id = self._head.get("Message-ID")
        utf8 = "SMTPUTF8" in transaction.params
        requiretls = self._requiretls()
        ret = _RETURN[transaction.params.get("RET", "").upper()]
        if requiretls == "required" and ret == "FULL":  # RFC 8689 §5
            ret = "HDRS"
        message = Message(
            id=incoming.id,
            arrived=now,
            sender=transaction.sender,
            recipients=len(recipients),
            size=incoming.size,
            chunks=-(-incoming.size // CHUNK),
            expires=_expires(release or now, reception.settings.queue.lifetime, handling),
            body=body,
            customer=peer.customer,
            user=peer.user,
            client=peer.address,
            helo=peer.helo,
            protocol=protocol(peer, utf8),
            listener=peer.listener,
            message_id=printable(message_id) if message_id else "",
            ret=ret,
            envid=transaction.params.get("ENVID", ""),
            utf8=utf8 and not self._head.fields.isascii(),
            requiretls=requiretls,
            handling=handling,
            plain=plain,
        )
        accepted = telling.accepted(peer, transaction, message, recipients, release)
        routed = Routed(
            time=now,
            id=message.id,
            destinations={one.destination: tuple([to.address for to in one.recipients]) for one in deliveries},
            expanded=routing.expanded,
        )
        charge = None
        if account is not None:
            charge = Charge(
                customer=account.customer.name,
                recipients=len(recipients),
                bytes=message.size,
                limits=limits_for(reception.settings, account.customer),
            )
        armed = None if release else reception.scheduler.room(deliveries)
        new = NewMessage(
            message=message,
            deliveries=deliveries,
            next_attempt=release or (now if armed is None else armed),
            charge=charge,
            story=(accepted, routed),
            lane_customer=lane_customer,
            armed=armed is not None,
        )
        self._over = True  # from here on it is the store's
        content = None if armed is None else incoming.whole
        await incoming.commit(new)
        reception.events(accepted)
        reception.events(routed)
        self._hand_over(new, content, later=bool(release))
        return Reply(250, "2.0.0", f"queued as {message.id}")

    def _hand_over(self, new: NewMessage, content: bytes | None, later: bool) -> None:
        """Tell the scheduler of what is stored; it finds by itself what is due ``later``, and all else if need be."""
        scheduler = self._reception.scheduler
        try:
            if new.armed:
                scheduler.offer(new, content)
            elif not later:
                scheduler.announce(new)
        except Exception:  # the message is safe, and due again in a while
            _log.failure("The scheduler did not take {id}", id=new.message.id)


def _recipients(transaction: Transaction) -> tuple[Recipient, ...]:
    wishes = transaction.wishes
    if wishes is None:
        return tuple([Recipient(address, address) for address in transaction.recipients])
    return tuple(
        [Recipient(one, one, *wishes.get(place, ("", ""))) for place, one in enumerate(transaction.recipients)]
    )


def _expires(begins: float, lifetime: float, handling: Handling | None) -> float:
    """When a deferred recipient is given up, of a message that may be delivered once ``begins``."""
    expires = begins + lifetime
    return min(expires, handling.deliver_by) if handling is not None and handling.by_mode == "R" else expires


def _deliveries(routing: Routing) -> tuple[NewDelivery, ...]:
    """What to store.  Raises :class:`MailError` when no recipient can be routed."""
    if not routing.refused:
        return routing.deliveries
    if not routing.deliveries:
        raise MailError(routing.refused[0][1])
    return (*routing.deliveries, NewDelivery(UNROUTABLE, tuple(recipient for recipient, _ in routing.refused)))
