"""TLS for sessions that we open: which versions, and who the server is told it is."""

from __future__ import annotations

import ipaddress
from typing import Literal, Protocol

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

_MINIMUM = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}


class TlsFor(Protocol):
    """Gives the TLS side of a session with the host of a name."""

    def __call__(self, host: str) -> IOpenSSLClientConnectionCreator:
        """What ``transport.startTLS`` takes."""


class OpportunisticTls:
    """TLS against those who only listen: any certificate will do (RFC 7435 §3).  Call it with a host's name.

    ``minimum`` is the oldest version spoken (RFC 8997).  One context serves all sessions.
    """

    def __init__(self, minimum: Literal["1.2", "1.3"] = "1.2") -> None:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(_MINIMUM[minimum])
        context.set_verify(SSL.VERIFY_NONE, lambda *_: True)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        self._context = context

    def __call__(self, host: str) -> IOpenSSLClientConnectionCreator:
        """The TLS side of a session with ``host``."""
        return _Creator(self._context, host)


@implementer(IOpenSSLClientConnectionCreator)
class _Creator:
    __slots__ = ("_context", "_host")

    def __init__(self, context: SSL.Context, host: str) -> None:
        self._context = context
        self._host = host

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        if self._host and not _is_address(self._host):
            connection.set_tlsext_host_name(self._host.encode("ascii"))  # RFC 6066 §3: names only
        return connection


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
