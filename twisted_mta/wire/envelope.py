"""A transaction as MAIL and RCPT for a server of certain offers, or why it cannot go there.

Source: RFC 5321 §4.1.2 (paths); RFC 1870 §6.1 (SIZE); RFC 6152 §3 (8BITMIME); RFC 3030 §3 (BINARYMIME); RFC 6531 §3.2
and §3.5 (SMTPUTF8); RFC 3461 §4 (DSN); RFC 2852 §4 (DELIVERBY); RFC 6710 §3 (MT-PRIORITY); RFC 8689 §4.2.1.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ..mail.status import Reply
from .capabilities import Capabilities
from .exchange import By, Transfer
from .handling import write_by
from .notification import decode_envid, decode_orcpt, parse_notify
from .starttls import NO_REQUIRETLS

_BEYOND = "\u0080-\U0010ffff"
_PATH = r"""(?:"(?:[ !#-\[\]-~{0}]|\\[ -~])*"|[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~.{0}-]+)@[A-Za-z0-9_.:\[\]-]+"""
_MAILBOX, _MAILBOX_UTF8 = (re.compile(_PATH.format(beyond)) for beyond in ("", _BEYOND))


@lru_cache(1024)
def path(address: str, utf8: bool = False) -> bytes | None:
    """An address as it is written between angle brackets, None where it cannot be.  ``utf8``: SMTPUTF8 is offered.

    Every address that goes into a command passes here, so CR, LF, NUL, spaces outside quotes and angle brackets
    cannot: nothing an address holds can become a command or a parameter.
    """
    if _MAILBOX.fullmatch(address):
        return address.encode("ascii")
    if utf8 and _MAILBOX_UTF8.fullmatch(address) and address.isprintable():
        return address.encode("utf-8")
    return None


def _unsendable(address: str, status: str) -> Reply:
    """Why an address for which :func:`path` gives None is refused."""
    if not address.isascii():  # RFC 6531 §3.2: only to a server with SMTPUTF8
        return Reply(553, "5.6.7", "The address has characters beyond ASCII, and the server does not offer SMTPUTF8")
    return Reply(553, status, "The address is not well formed and was not sent to the server")


def refusal(transfer: Transfer, offers: Capabilities, *, secured: bool, lmtp: bool) -> Reply | None:
    """Why nothing of ``transfer`` can go to a server of these ``offers``; None when it can.

    ``secured``: the connection is of the policy "require".
    """
    if transfer.sender and path(transfer.sender, offers.smtputf8) is None:
        return _unsendable(transfer.sender, "5.1.7")
    if transfer.utf8 and not offers.smtputf8 and not lmtp:  # RFC 6531 §3.5; a mailbox keeps what it is given
        return Reply(554, "5.6.9", "The header has UTF-8, which the server does not take (no SMTPUTF8)")
    if transfer.by is not None and transfer.by.mode == "R" and not lmtp:
        late = _by_refusal(transfer.by, offers.deliver_by)
        if late is not None:
            return late
    if offers.size and transfer.size > offers.size:  # RFC 1870 §6.1: no use in trying
        words = f"The message has {transfer.size} octets, the server takes {offers.size} at most"
        return Reply(552, "5.3.4", words)
    if transfer.requiretls and not secured:
        return Reply(550, NO_REQUIRETLS, "The message requires TLS, and this connection is not of that kind")
    if transfer.binary and not (offers.binary and offers.chunking):  # RFC 3030 §3
        return Reply(554, "5.6.1", "The message has binary content, which the server does not take (no BINARYMIME)")
    if transfer.eight_bit and not offers.eight_bit:  # RFC 6152 §3
        words = "The message has 8-bit content, which the server does not take (no 8BITMIME)"
        return Reply(554, "5.6.3", words)
    return None


def _by_refusal(by: By, least: int | None) -> Reply | None:
    """Why a message that is to be returned by a time is not given to a server; ``least`` is what it offers."""
    if by.seconds < 1:
        return Reply(554, "5.4.7", "The time by which it had to be delivered is over")
    if least is None:
        words = "The next server can't be told by when to deliver or return the message (no DELIVERBY)"
        return Reply(554, "5.3.3", words)
    if by.seconds < least:
        words = f"It has to be delivered within {int(by.seconds)} seconds, and the next server takes {least} at least"
        return Reply(554, "5.4.7", words)
    return None


def mail(transfer: Transfer, offers: Capabilities, beyond: bool) -> bytes:
    """MAIL with the parameters that the server knows; ``beyond``: the header or a recipient is beyond ASCII."""
    sender = transfer.sender and path(transfer.sender, offers.smtputf8)
    size = b" SIZE=%d" % transfer.size if offers.size is not None else b""
    body = b" BODY=BINARYMIME" if transfer.binary else b" BODY=8BITMIME" if transfer.eight_bit else b""
    report = _report_wishes(transfer) if (transfer.ret or transfer.envid) and offers.dsn else b""
    utf8 = b" SMTPUTF8" if beyond or (sender and not sender.isascii()) else b""
    tls = b" REQUIRETLS" if transfer.requiretls and offers.requiretls else b""
    queue = _queue_wishes(transfer, offers) if transfer.by is not None or transfer.priority else b""
    return b"MAIL FROM:<%b>%b%b%b%b%b%b\r\n" % (sender or b"", size, body, report, utf8, tls, queue)


def _report_wishes(transfer: Transfer) -> bytes:
    """RET and ENVID as MAIL's parameters (RFC 3461 §4.3 and §4.4); b"" for none."""
    ret = b" RET=%b" % transfer.ret.encode("ascii") if transfer.ret else b""
    known = transfer.envid and decode_envid(transfer.envid) is not None
    return ret + (b" ENVID=%b" % transfer.envid.encode("ascii") if known else b"")


def _queue_wishes(transfer: Transfer, offers: Capabilities) -> bytes:
    """BY and MT-PRIORITY as MAIL's parameters (RFC 2852 §4, RFC 6710 §3), where they are offered; b"" for none."""
    by, found = transfer.by, b""
    if by is not None and offers.deliver_by is not None:
        found = b" BY=%b" % write_by(by.seconds, by.mode, by.trace).encode("ascii")
    if transfer.priority and offers.mt_priority:
        found += b" MT-PRIORITY=%d" % transfer.priority
    return found


def rcpt(transfer: Transfer, index: int, offers: Capabilities) -> bytes | Reply:
    """RCPT of the recipient at ``index``, or why it cannot be said to this server."""
    recipient = transfer.recipients[index]
    encoded = path(recipient, offers.smtputf8)
    if encoded is None:
        return _unsendable(recipient, "5.1.3")
    wishes = _recipient_wishes(transfer, index) if transfer.wishes and offers.dsn else b""
    return b"RCPT TO:<%b>%b\r\n" % (encoded, wishes)


def _recipient_wishes(transfer: Transfer, index: int) -> bytes:
    """NOTIFY and ORCPT as RCPT's parameters (RFC 3461 §4.1 and §4.2); b"" for none."""
    notify, orcpt = transfer.wishes[index]
    found = b""
    if notify and parse_notify(notify):
        found += b" NOTIFY=%b" % notify.encode("ascii")
    if orcpt and decode_orcpt(orcpt):
        found += b" ORCPT=%b" % orcpt.encode("ascii")
    return found
