"""Certificates that clients show (RFC 8446 §4.4.2): asked for in the handshake and never demanded, judged there, and
read once it is over.

A client without one, or with one that nobody vouches for, is served like any other: whoever wants to know asks
:func:`shown`.  That a client has the private key of what it shows, TLS has seen to in any case.
"""

from __future__ import annotations

from pathlib import Path
from weakref import WeakSet

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import SSL
from OpenSSL.crypto import X509, X509StoreFlags

from ..policy.interfaces import ClientCertificate

DEPTH = 8
"""Certificates between a client's and an authority's."""
_BEGIN_REVOKED = b"-----BEGIN X509 CRL-----"
_END_REVOKED = b"-----END X509 CRL-----"


@attrs.frozen
class Authorities:
    """Who vouches for clients' addresses, and what they have revoked."""

    trusted: tuple[x509.Certificate, ...] = ()
    revoked: tuple[x509.CertificateRevocationList, ...] = ()


def read_authorities(path: str) -> Authorities:
    """Those of a PEM file; "" has none.  Raises ValueError or OSError."""
    if not path:
        return Authorities()
    pem = Path(path).read_bytes()
    trusted = tuple(x509.load_pem_x509_certificates(pem))
    pieces = pem.split(_BEGIN_REVOKED)[1:]
    revoked = [
        x509.load_pem_x509_crl(_BEGIN_REVOKED + piece.partition(_END_REVOKED)[0] + _END_REVOKED + b"\n")
        for piece in pieces
    ]
    return Authorities(trusted, tuple(revoked))


class Judge:
    """Asks for certificates, and remembers of which connections OpenSSL has found fault with theirs."""

    def __init__(self, authorities: Authorities) -> None:
        self._authorities = authorities
        self._faulty: WeakSet[SSL.Connection] = WeakSet()

    def ask(self, context: SSL.Context) -> None:
        """Have a context ask.  Sessions are not resumed: a ticket would bring a certificate back unjudged."""
        store = context.get_cert_store()
        assert store is not None
        for certificate in self._authorities.trusted:
            store.add_cert(X509.from_cryptography(certificate))
            context.add_client_ca(certificate)
        for revoked in self._authorities.revoked:
            store.add_crl(revoked)
        if self._authorities.revoked:
            store.set_flags(X509StoreFlags.CRL_CHECK)
        context.set_options(SSL.OP_NO_TICKET)
        context.set_session_id(b"twisted-mta")
        context.set_verify_depth(DEPTH)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_CLIENT_ONCE, self._judged)

    def _judged(self, connection: SSL.Connection, _: object, error: int, depth: int, good: int) -> bool:
        if not good:
            self._faulty.add(connection)
        return True  # a handshake that broke here would say nothing to a person

    def shown(self, connection: object) -> ClientCertificate | None:
        """What the client of a connection that is up has shown."""
        if not isinstance(connection, SSL.Connection):
            return None
        certificate = connection.get_peer_certificate(as_cryptography=True)
        if certificate is None:
            return None
        trusted = bool(self._authorities.trusted) and connection not in self._faulty
        return ClientCertificate(
            fingerprint=certificate.fingerprint(SHA256()).hex(),
            trusted=trusted,
            addresses=_addresses(certificate) if trusted else (),
        )


def _addresses(certificate: x509.Certificate) -> tuple[str, ...]:
    """The mail addresses in subjectAltName (RFC 5280 §4.2.1.6); those in the subject are not looked at."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return tuple(names.get_values_for_type(x509.RFC822Name))
    except (x509.ExtensionNotFound, ValueError):
        return ()
