"""Whether the ciphers that the settings name can be spoken, and are fit to be (RFC 9325 §4.1, §4.2)."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from .problems import Problem, error, warning
from .settings import Tls

SUITES = (
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_AES_128_CCM_SHA256",
    "TLS_AES_128_CCM_8_SHA256",
)
"""All there are of TLS 1.3 (RFC 8446 appendix B.4)."""
MINIMUM = 128
"""Bits of strength."""


def check(tls: Tls) -> Iterator[Problem]:
    """The problems of ``tls.ciphers`` and ``tls.ciphersuites``."""
    for name in filter(None, tls.ciphersuites.split(":")):
        if name not in SUITES:
            mend = f"write some of {', '.join(SUITES[:3])}, with colons between"
            yield error("tls.ciphersuites", name, "is no cipher suite of TLS 1.3", mend)
    if not tls.ciphers:
        return
    mend = 'leave it out, or name ciphers as "openssl ciphers -s -tls1_2 -v LIST" knows them'
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers(tls.ciphers)
    except (ssl.SSLError, ValueError):
        yield error("tls.ciphers", tls.ciphers, "has no cipher that OpenSSL knows", mend)
        return
    for cipher in context.get_ciphers():
        words = str(cipher["description"])
        if cipher["protocol"] == "TLSv1.3":
            continue
        if cipher["strength_bits"] < MINIMUM or "Au=None" in words or "Enc=None" in words:
            yield error("tls.ciphers", tls.ciphers, f"has {cipher['name']}, which protects nothing", mend)
            return
        if "Kx=ECDH" not in words and "Kx=DH" not in words:
            wrong = f"has {cipher['name']}: whoever gets the key reads what was recorded before (RFC 9325 §4.1)"
            yield warning("tls.ciphers", tls.ciphers, wrong, "name ECDHE ciphers alone")
            return
