"""TLS contexts for both directions, and the certificate we make when the operator has none.

Cipher policy: TLS 1.2 at least (RFC 8997), forward secrecy always (RFC 9325 §4.1), AEAD before CBC, nothing of NULL,
anonymous, export, RC4, 3DES, PSK or DSS.  CBC stays because on port 25 the alternative to an old cipher is clear text
(RFC 7435).  No compression (CRIME), no renegotiation, and no session cache on our side: resumption is by tickets, so
that a client's session costs no memory here once it is closed.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:ECDHE+AES:DHE+AES:!aNULL:!eNULL:!PSK:!SRP:!DSS:!MD5"
_MINIMUM = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
_YEARS = 10


class TlsError(Exception):
    """A certificate or key can't be used; the words are for the operator and name the file."""


def _context(method: int, minimum: str) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(_MINIMUM[minimum])
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_options(SSL.OP_NO_RENEGOTIATION)  # type: ignore[attr-defined]  # the stubs lack it
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # an idle session gives its 34 KiB of buffers back
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_cipher_list(CIPHERS)
    return context


def server_context(certificate: str, key: str, minimum: str = "1.2") -> SSL.Context:
    """A context that shows ``certificate`` (a PEM file with its chain) and has the private ``key`` (a PEM file).

    Raises :class:`TlsError` when a file can't be read or is not what it should be, or the two do not match.
    """
    context = _context(SSL.TLS_SERVER_METHOD, minimum)
    for path, what, use in (
        (certificate, "certificate", context.use_certificate_chain_file),
        (key, "private key", context.use_privatekey_file),
    ):
        try:
            Path(path).open("rb").close()
            use(path)
        except OSError as error:
            raise TlsError(f"{path}: the {what} cannot be read: {error.strerror}") from None
        except SSL.Error:
            matching = " that matches the certificate" if what == "private key" else ""
            raise TlsError(f"{path}: this is not a {what} in PEM{matching}") from None
    try:
        context.check_privatekey()
    except SSL.Error:
        raise TlsError(f"{key}: the private key does not match the certificate {certificate}") from None
    return context


@implementer(IOpenSSLServerConnectionCreator)
class ServerTls:
    """What the server shows in a handshake; :meth:`load` changes it in place.

    ``minimum`` is "1.2" or "1.3".  Give it to ``startTLS`` or ``TLSMemoryBIOFactory``.  Raises :class:`TlsError`.
    """

    def __init__(self, certificate: str, key: str, minimum: str = "1.2") -> None:
        self._context = server_context(certificate, key, minimum)

    def load(self, certificate: str, key: str, minimum: str = "1.2") -> None:
        """Show another certificate, or the same files read again, to connections from now on.

        Sessions that exist are not touched.  Raises :class:`TlsError`; then the old one stays in use.
        """
        self._context = server_context(certificate, key, minimum)

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See ``IOpenSSLServerConnectionCreator``."""
        connection = SSL.Connection(self._context, None)
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


def client_context(minimum: str = "1.2") -> SSL.Context:
    """A context for :class:`ClientTls`: nothing is verified."""
    context = _context(SSL.TLS_CLIENT_METHOD, minimum)
    context.set_verify(SSL.VERIFY_NONE)
    return context


def tls_facts(connection: object) -> str:
    """The version and cipher of a session that is up, as "TLSv1.3 TLS_AES_256_GCM_SHA384"; "TLS" if unknown."""
    if not isinstance(connection, SSL.Connection):
        return "TLS"
    return f"{connection.get_protocol_version_name()} {connection.get_cipher_name() or ''}".rstrip()


def self_signed(folder: str | os.PathLike[str], hostname: str) -> tuple[str, str]:
    """Paths of a certificate for ``hostname`` and its key in ``folder``, made there unless they exist.

    For sessions in which nobody verifies: better than clear text (RFC 7435).  The key is readable by its owner only.
    Raises OSError.
    """
    certificate, key = Path(folder, f"{hostname}.pem"), Path(folder, f"{hostname}.key")
    if not (certificate.exists() and key.exists()):
        Path(folder).mkdir(parents=True, exist_ok=True, mode=0o700)
        key_pem, certificate_pem = _make_certificate(hostname)
        for path, content in ((key, key_pem), (certificate, certificate_pem)):
            # The key first, the certificate last and in one step: whoever sees both can use them.
            part = path.with_name(f".{path.name}.{os.getpid()}")
            part.unlink(missing_ok=True)
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
    return str(certificate), str(key)


def _make_certificate(hostname: str) -> tuple[bytes, bytes]:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname[:64])])
    now = datetime.datetime.now(datetime.UTC)
    alternative = x509.IPAddress(ipaddress.ip_address(hostname)) if _is_address(hostname) else x509.DNSName(hostname)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 * _YEARS))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(private, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    key_pem = private.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key_pem, certificate.public_bytes(encoding)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
