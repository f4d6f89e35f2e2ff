"""TLS contexts for both directions.

Versions (RFC 8997) and ciphers are those of :mod:`.ciphers`.  No compression (CRIME), no renegotiation, and no session
cache on our side: resumption is by tickets, so that a client's session costs no memory here once it is closed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from functools import partial

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.hashes import MD5, SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from ..config.certificate import names_of
from ..config.settings import Tls
from ..policy.interfaces import ClientCertificate
from .ciphers import INTERMEDIATE, OPPORTUNISTIC, OUTGOING, choose_protocol, restrict
from .client_certificates import Judge, read_authorities

HANDSHAKE = 60.0
"""Seconds that a TLS handshake may take."""

DEFAULT = Tls()


class TlsError(Exception):
    """A certificate, a key or a list of ciphers can't be used; the words are for the operator."""


def _context(method: int, tls: Tls, usual: str) -> SSL.Context:
    context = SSL.Context(method)
    try:
        restrict(context, tls, usual)
    except (SSL.Error, ValueError):
        raise TlsError("tls.ciphers or tls.ciphersuites has no cipher that OpenSSL knows") from None
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # an idle session gives its 34 KiB of buffers back
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    return context


_KEY = re.compile(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)


def server_context(
    certificate: bytes, key: bytes, tls: Tls = DEFAULT, usual: str = INTERMEDIATE, judge: Judge | None = None
) -> SSL.Context:
    """A context that shows ``certificate`` (PEM, our own first, then its chain) and has the private ``key`` (PEM).

    Both may hold several pairs, one behind the other: the first is shown unless a client asks for a name that another
    is for (SNI, RFC 6066 §3).  ``usual``: see :func:`.ciphers.restrict`.  ``judge`` asks for the client's.  Raises
    :class:`TlsError` when one is not what it should be, or two do not match.
    """
    try:
        chain = x509.load_pem_x509_certificates(certificate)
        keys = [load_pem_private_key(found[0], None) for found in _KEY.finditer(key)]
        if not keys:
            raise ValueError
    except (ValueError, TypeError):
        raise TlsError("the certificate or its key is not valid PEM") from None
    chains = _chains(chain, keys)
    contexts = [_one(*pair, tls, usual) for pair in zip(chains, keys, strict=True)]
    if judge is not None:
        for context in contexts:
            judge.ask(context)
    first = contexts[0]
    if len(contexts) > 1:
        named = {name: context for own, context in zip(chains, contexts, strict=True) for name in names_of(own[0])}
        named |= dict.fromkeys(names_of(chains[0][0]), first)
        first.set_tlsext_servername_callback(partial(_choose, named))
    return first


def _choose(named: Mapping[str, SSL.Context], connection: SSL.Connection) -> None:
    """Show the certificate for the name that the client asks for; the first one for a name that we don't have."""
    name = (connection.get_servername() or b"").decode("latin-1").lower().removesuffix(".")
    chosen = named.get(name) or named.get(f"*.{name.partition('.')[2]}")
    if chosen is not None:
        connection.set_context(chosen)


def _chains(certificates: list[x509.Certificate], keys: list[PrivateKeyTypes]) -> list[list[x509.Certificate]]:
    """The certificates divided into one chain for each key, each beginning with the key's own."""
    own = [key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in keys]
    chains: list[list[x509.Certificate]] = []
    for certificate in certificates:
        public = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if len(chains) < len(own) and public == own[len(chains)]:
            chains.append([])
        elif not chains:
            break
        chains[-1].append(certificate)
    if len(chains) != len(keys):
        raise TlsError("the private key does not match the certificate")
    return chains


def _one(chain: list[x509.Certificate], private: PrivateKeyTypes, tls: Tls, usual: str) -> SSL.Context:
    context = _context(SSL.TLS_SERVER_METHOD, tls, usual)
    context.set_alpn_select_callback(choose_protocol)
    if not isinstance(private, RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey | Ed448PrivateKey):
        raise TlsError("the private key is of a kind that TLS has no use for: take RSA or an elliptic curve")
    try:
        context.use_certificate(chain[0])
        for signer in chain[1:]:
            context.add_extra_chain_cert(signer)
        context.use_privatekey(private)
        context.check_privatekey()
    except SSL.Error:
        raise TlsError("the private key does not match the certificate") from None
    return context


@implementer(IOpenSSLServerConnectionCreator)
class ServerTls:
    """What the server shows in a handshake, both as PEM, one pair or several (see :func:`server_context`);
    :meth:`load` changes it in place.

    ``authorities`` is None to ask clients for nothing, else the file of those that may vouch for them, "" for none (see
    :mod:`.client_certificates`).  Give it to ``startTLS`` or ``TLSMemoryBIOFactory``, or ``opportunistic``, which takes
    old ciphers too, where the alternative is clear text.  Raises :class:`TlsError`.
    """

    def __init__(self, certificate: bytes, key: bytes, tls: Tls = DEFAULT, authorities: str | None = None) -> None:
        self._authorities = authorities
        self._asking: list[ServerTls] = []
        self._pair = certificate, key, tls
        self._judge, self._context, self.old_ciphers = self._made()
        self.opportunistic = _Opportunistic(self)

    def _made(self) -> tuple[Judge | None, SSL.Context, SSL.Context]:
        judge = None
        if self._authorities is not None:
            try:
                judge = Judge(read_authorities(self._authorities))
            except (OSError, ValueError) as error:
                raise TlsError(f"{self._authorities} has no certificates of authorities in it: {error}") from None
        strict, old = (server_context(*self._pair, usual, judge) for usual in (INTERMEDIATE, OPPORTUNISTIC))
        return judge, strict, old

    def asking(self, authorities: str) -> ServerTls:
        """One that shows the same, also after :meth:`load`, and asks clients for theirs.  Raises :class:`TlsError`."""
        one = ServerTls(*self._pair, authorities)
        self._asking.append(one)
        return one

    def prepare(self, certificate: bytes, key: bytes, tls: Tls = DEFAULT) -> Callable[[], None]:
        """What has connections from now on shown another certificate, and all files of authorities read again.

        Sessions that exist are not touched.  Raises :class:`TlsError`; then all stays as it is.
        """
        others = [one.prepare(certificate, key, tls) for one in self._asking]
        before, self._pair = self._pair, (certificate, key, tls)
        try:
            made = self._made()
        finally:
            self._pair = before

        def apply() -> None:
            self._pair = certificate, key, tls
            self._judge, self._context, self.old_ciphers = made
            for other in others:
                other()

        return apply

    def load(self, certificate: bytes, key: bytes, tls: Tls = DEFAULT) -> None:
        """What :meth:`prepare` prepares, at once."""
        self.prepare(certificate, key, tls)()

    def shown(self, connection: object) -> ClientCertificate | None:
        """The certificate that the client of a connection that is up has shown."""
        return self._judge.shown(connection) if self._judge is not None else None

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See ``IOpenSSLServerConnectionCreator``."""
        return _connection(self._context, protocol)


@implementer(IOpenSSLServerConnectionCreator)
class _Opportunistic:
    """A :class:`ServerTls` for the world on port 25."""

    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See ``IOpenSSLServerConnectionCreator``."""
        return _connection(self._tls.old_ciphers, protocol)


def _connection(context: SSL.Context, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
    connection = SSL.Connection(context, None)
    connection.set_app_data(protocol)
    return connection


@implementer(IOpenSSLClientConnectionCreator)
class ClientTls:
    """Opportunistic TLS to one host: any certificate will do (RFC 7435), but the name is said in SNI (RFC 6066 §3).

    ``context`` comes from :func:`client_context` and may be shared.  ``host`` is the name we connected to; "" or an
    address sends none.
    """

    def __init__(self, context: SSL.Context, host: str = "") -> None:
        self._context = context
        self._name = b"" if _is_address(host) else host.encode("ascii", "ignore")

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See ``IOpenSSLClientConnectionCreator``."""
        connection = SSL.Connection(self._context, None)
        connection.set_app_data(protocol)
        if self._name:
            connection.set_tlsext_host_name(self._name)
        return connection


_PROBLEMS = {  # X509_STORE_CTX_get_error(3)
    9: "it is not valid yet",
    10: "it has expired",
    18: "it is self-signed",
    19: "nobody whom we trust has signed it",
    20: "nobody whom we trust has signed it",
    21: "nobody whom we trust has signed it",
    23: "it has been revoked",
}


@implementer(IOpenSSLClientConnectionCreator)
class VerifiedTls(ClientTls):
    """TLS to one host, whose certificate has to be valid for its name, or its address (RFC 6125 §6).

    ``context`` comes from :func:`verifying_context`.  For one connection: ``problem`` is what is wrong with its
    certificate, "" for nothing.  What is wrong but for the name ends the handshake; then :meth:`check_name` is due.
    """

    def __init__(self, context: SSL.Context, host: str) -> None:
        super().__init__(context, host)
        self.host = host
        self.problem = ""

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See ``IOpenSSLClientConnectionCreator``."""
        connection = super().clientConnectionForTLS(protocol)
        connection.set_verify(SSL.VERIFY_PEER, self._judge)
        return connection

    def _judge(self, connection: SSL.Connection, certificate: object, error: int, depth: int, good: int) -> bool:
        if not good and not self.problem:
            self.problem = _PROBLEMS.get(error, f"OpenSSL's error {error} at depth {depth}")
        return bool(good)

    def check_name(self, connection: SSL.Connection) -> None:
        """After the handshake: whether the certificate is for the host."""
        try:
            if _is_address(self.host):
                verify_ip_address(connection, self.host)
            else:
                verify_hostname(connection, self.host)
        except (VerificationError, CertificateError, ValueError):  # the last: a name that no certificate can have
            self.problem = "it is for another host"


def verifying_context(tls: Tls = DEFAULT, authorities: str = "") -> SSL.Context:
    """A context for :class:`VerifiedTls`; ``authorities`` is their PEM file, "" for the system's.

    Raises :class:`TlsError`.
    """
    context = _context(SSL.TLS_CLIENT_METHOD, tls, OUTGOING)
    if not authorities:
        context.set_default_verify_paths()
        return context
    try:
        context.load_verify_locations(authorities)
    except SSL.Error:
        raise TlsError(f"{authorities} has no certificates in PEM that can be read") from None
    return context


def client_context(tls: Tls = DEFAULT) -> SSL.Context:
    """A context for :class:`ClientTls`: nothing is verified."""
    context = _context(SSL.TLS_CLIENT_METHOD, tls, OUTGOING)
    context.set_verify(SSL.VERIFY_NONE)
    return context


def tls_facts(connection: object) -> str:
    """The version and cipher of a session that is up, as "TLSv1.3 TLS_AES_256_GCM_SHA384"; "TLS" if unknown."""
    if not isinstance(connection, SSL.Connection):
        return "TLS"
    return f"{connection.get_protocol_version_name()} {connection.get_cipher_name() or ''}".rstrip()


def channel_binding(connection: object, kind: str) -> bytes:
    """The data of a channel binding on our side of a session that is up; b"" where the session has none of the kind.

    "tls-exporter" (RFC 9266) is for TLS 1.3 only: with 1.2 it needs an extension (RFC 7627) of which OpenSSL tells
    pyOpenSSL nothing.  "tls-server-end-point" (RFC 5929 §4) is the hash of the certificate we show.
    """
    if not isinstance(connection, SSL.Connection):
        return b""
    if kind == "tls-exporter" and connection.get_protocol_version() == SSL.TLS1_3_VERSION:
        return connection.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
    if kind == "tls-server-end-point":
        shown = connection.get_certificate(as_cryptography=True)
        return _end_point(shown) if shown is not None else b""
    return b""


def _end_point(certificate: x509.Certificate) -> bytes:
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return b""
    if algorithm is None:  # Ed25519, for which RFC 5929 §4.1 leaves it undefined
        return b""
    return certificate.fingerprint(SHA256() if isinstance(algorithm, MD5 | SHA1) else algorithm)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
