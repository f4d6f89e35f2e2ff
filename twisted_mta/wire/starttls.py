"""Whether a client goes on in clear, asks for STARTTLS, or ends the connection because there is no TLS.  Pure.

Source: RFC 3207, RFC 7435 (opportunistic TLS), RFC 8689 §4.2.1 and §4.4 (REQUIRETLS).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ..mail.status import Reply
from .capabilities import Capabilities
from .replies import shortened

TlsPolicy = Literal["none", "may", "encrypt", "require"]
"""STARTTLS never, when offered, always, or always with a server that offers REQUIRETLS (RFC 8689 §4.2.1)."""

NO_TLS, NO_REQUIRETLS = "5.7.10", "5.7.30"
"""What a recipient bounces with whose message requires TLS (RFC 8689 §4.2.1): TLS cannot be had, or the server (or
its name, by DNS) cannot be trusted with the message."""
NO_TLS_NOW = "4.7.10"
"""The same where TLS may be had later."""


class NoTls(msgspec.Struct, frozen=True):
    """Why the connection ends.  ``polite``: say QUIT first, since the server does nothing wrong."""

    reply: Reply
    polite: bool = False


def choose(policy: TlsPolicy, offers: Capabilities, *, secure: bool, lmtp: bool) -> NoTls | bool:
    """What a server's answer to EHLO means: True to ask for STARTTLS, False to go on as it is, or why neither will do.

    ``secure``: TLS is up.  Also with the policy "none" that may be so, where it was from the first octet.
    """
    if secure or policy == "none":
        # LMTP is delivery, which ends the requirement (RFC 8689 §4.4).
        if policy == "require" and not (offers.requiretls or lmtp):
            words = "The message requires TLS all the way, and the server does not offer REQUIRETLS"
            return NoTls(Reply(550, NO_REQUIRETLS, words), polite=True)
        return False
    if offers.starttls:
        return True
    if policy == "encrypt":
        return NoTls(Reply(451, "4.7.4", "TLS is required here, but the server does not offer it"))
    if policy == "require":
        return NoTls(Reply(550, NO_TLS, "The message requires TLS, but the server does not offer it"), polite=True)
    return False


def refused(policy: TlsPolicy, reply: Reply) -> NoTls | None:
    """Why the connection ends when a server has refused STARTTLS with ``reply``; None: the mail goes on in clear."""
    if policy == "encrypt":
        return NoTls(Reply(451, "4.7.4", f"TLS is required here, but the server refused it: {shortened(reply)}"))
    if policy == "require":
        code, status = (550, NO_TLS) if reply.permanent else (451, NO_TLS_NOW)
        words = f"The message requires TLS, but the server refused it: {shortened(reply)}"
        return NoTls(Reply(code, status, words), polite=True)
    return None  # RFC 7435
