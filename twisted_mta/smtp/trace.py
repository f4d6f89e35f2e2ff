"""The trace field of a message that we receive.

Source: RFC 5321 §4.4 (Received), RFC 3848 (the ``with`` keywords), §4.1.3 (address literals).
"""

from __future__ import annotations

import re

from ..mail.header import date
from ..policy.interfaces import UNIX, UNKNOWN, Peer

_ODD = re.compile(r"[^A-Za-z0-9.:_\[\]-]")


def protocol(peer: Peer, utf8: bool = False) -> str:
    """The ``with`` keyword: SMTP, or ESMTP or LMTP with S for TLS and A for authentication (RFC 3848); UTF8SMTP and
    UTF8LMTP for these if the message came with SMTPUTF8 (RFC 6531 §4.3)."""
    if peer.role == "lmtp":
        name = "UTF8LMTP" if utf8 else "LMTP"
    elif not peer.esmtp:
        return "SMTP"
    else:
        name = "UTF8SMTP" if utf8 else "ESMTP"
    return f"{name}{'S' if peer.secure else ''}{'A' if peer.account is not None else ''}"


def literal(address: str) -> str:
    """An IP address as an address literal; "unix" and "unknown" as they are, for a comment."""
    if address in (UNIX, UNKNOWN):
        return address
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def received(
    peer: Peer,
    hostname: str,
    id: str,  # noqa: A002
    when: float,
    recipient: str,
    utf8: bool = False,
    priority: int = 0,
) -> bytes:
    """The Received field.  ``recipient`` is the only one, or "" (§7.2: several would tell of blind copies); one beyond
    ASCII is left out, as it would put UTF-8 into the header of a message that may be forwarded to where that cannot go.

    ``priority`` is RFC 6710's, shown where it is not the usual one.

    What the client called itself is shown as it is, but for characters that no name has.
    """
    helo = _ODD.sub("?", peer.helo) or "unknown"
    tls = f"\t(using {peer.tls.replace(' ', ' with cipher ', 1)})\r\n" if peer.secure else ""
    name = f"{_ODD.sub('?', peer.hostname)} " if peer.hostname not in ("", peer.address) else ""
    client = f" ({name}{literal(peer.address)})" if peer.address else ""
    end = f"\r\n\tfor <{recipient}>" if recipient and recipient.isascii() else ""
    if priority:
        end += f"\r\n\tPRIORITY {priority}"
    return (
        f"Received: from {helo}{client}\r\n{tls}"
        f"\tby {hostname} with {protocol(peer, utf8)} id {id}{end};\r\n\t{date(when)}\r\n"
    ).encode("ascii", "replace")
