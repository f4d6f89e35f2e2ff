"""Which ciphers are spoken, and with whom.

TLS 1.2 at least (RFC 8997), forward secrecy always (RFC 9325 §4.1), nothing of NULL, anonymous, export, RC4, 3DES, PSK
or DSS.  Users' programs, and LMTP's, get Mozilla's "intermediate" list (wiki.mozilla.org/Security/Server_Side_TLS).
Where the alternative to an old cipher is clear text (RFC 7435), which is port 25 and mail to other hosts, AES in CBC
mode stands at its end.  Finite-field Diffie-Hellman is spoken as a client alone: as a server it would cost us more than
whoever asks for it.
"""

from __future__ import annotations

from OpenSSL import SSL

from ..config.settings import Tls

INTERMEDIATE = ":".join(
    f"ECDHE-{key}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for key in ("ECDSA", "RSA")
)
"""For those who are served as users, or as programs of ours."""
_CBC = ":".join(
    f"ECDHE-{key}-{cipher}"
    for cipher in ("AES128-SHA256", "AES256-SHA384", "AES128-SHA", "AES256-SHA")
    for key in ("ECDSA", "RSA")
)
OPPORTUNISTIC = f"{INTERMEDIATE}:{_CBC}"
"""For the world on port 25."""
OUTGOING = (
    f"{INTERMEDIATE}:DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384:DHE-RSA-CHACHA20-POLY1305:{_CBC}"
    ":DHE-RSA-AES128-SHA256:DHE-RSA-AES256-SHA256:DHE-RSA-AES128-SHA:DHE-RSA-AES256-SHA"
)
"""To other hosts."""
SUITES = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
"""Of TLS 1.3, for all."""

_MINIMUM = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
ALPN = (b"smtp", b"esmtp", b"lmtp")
"""Names that clients give our protocols in ALPN, of which none is registered."""


def restrict(context: SSL.Context, tls: Tls, usual: str) -> None:
    """Have a context speak what ``tls`` says; ``usual`` are the ciphers of TLS 1.2 unless it names others.

    Raises :class:`OpenSSL.SSL.Error` when those are none.
    """
    context.set_min_proto_version(_MINIMUM[tls.minimum])
    context.set_cipher_list((tls.ciphers or usual).encode("ascii"))
    context.set_tls13_ciphersuites((tls.ciphersuites or SUITES).encode("ascii"))


def choose_protocol(connection: SSL.Connection, offered: list[bytes]) -> bytes:
    """ALPN (RFC 7301): nobody has to say it, but whoever names other protocols alone, such as a browser that was led
    here by somebody else (ALPACA), gets no session."""
    for name in offered:
        if name in ALPN:
            return name
    raise SSL.Error([("SSL routines", "", "no application protocol")])
