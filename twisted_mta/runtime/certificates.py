"""The certificate that is shown: the operator's, or a self-signed one that is made, kept and renewed.

Opportunistic TLS between hosts asks for no name and no signature (RFC 7435), so a made-up certificate serves an mx;
users' programs want a real one.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import tempfile
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..config import ConfigError, Settings
from ..config.certificate import Unusable, covers, read_pair
from ..config.settings import Sni, Tls
from ..config.toml import write_path
from . import privileges

LIFETIME = datetime.timedelta(days=397)
RENEW_BEFORE = datetime.timedelta(days=30)

_UNTIL_CLOCKS_AGREE = datetime.timedelta(hours=1)


@attrs.frozen(kw_only=True)
class Pair:
    """A certificate with its chain, and its key, as PEM; read, matched and ready for OpenSSL."""

    certificate: bytes
    """Our own certificate, then those that signed it; then the same of each ``[sni.NAME]``."""
    key: bytes = attrs.field(repr=False)
    """The private keys in the order of their certificates, unencrypted, PKCS #8."""
    expires: datetime.datetime
    """When our own certificate ends (UTC)."""
    self_signed: bool = False
    """Whether we made it ourselves."""


def load_pair(settings: Settings, hostname: str, account: privileges.Account | None = None) -> Pair:
    """The pair that the settings name; without one, our self-signed pair for ``hostname`` below ``state_dir``.

    Call it before privileges are dropped, and again at each reload: a made-up pair near its end is made anew.  What is
    made belongs to ``account``.  Raises :class:`~twisted_mta.config.ConfigError`.
    """
    if settings.tls.certificate:
        pair = _read(settings.tls, "tls")
    else:
        pair = self_signed(Path(settings.state_dir) / "tls", hostname, account)
    further = [_read(sni, write_path(("sni", name))) for name, sni in settings.sni.items()]
    return attrs.evolve(
        pair,
        certificate=b"".join([pair.certificate, *(one.certificate for one in further)]),
        key=b"".join([pair.key, *(one.key for one in further)]),
    )


def _read(tls: Tls | Sni, table: str) -> Pair:
    try:
        chain, key = read_pair(tls, table)
    except Unusable as error:
        raise ConfigError([error.problem]) from None
    return _pair(chain, key, made=False)


def _pair(chain: list[x509.Certificate], key: PrivateKeyTypes, *, made: bool) -> Pair:
    return Pair(
        certificate=b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain),
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        expires=chain[0].not_valid_after_utc,
        self_signed=made,
    )


def self_signed(
    folder: Path,
    hostname: str,
    account: privileges.Account | None = None,
    now: datetime.datetime | None = None,
) -> Pair:
    """Our own pair in ``folder``; a new one where there is none, it is of another name, or it ends within 30 days.

    Raises :class:`~twisted_mta.config.ConfigError` when the folder cannot be written and nothing usable is there.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    tls = Tls(certificate=str(folder / "self-signed.pem"), key=str(folder / "self-signed.key"))
    try:
        chain, key = read_pair(tls)
    except Unusable:
        pass  # none yet, or half of one after a crash
    else:
        if chain[0].not_valid_after_utc - now > RENEW_BEFORE and covers(chain[0], hostname):
            return _pair(chain, key, made=True)
    key = ec.generate_private_key(ec.SECP256R1())
    pair = _pair([_certify(key, hostname, now)], key, made=True)
    try:
        privileges.make_folder(str(folder), account)
        _write(Path(tls.key), pair.key, 0o600, account)
        _write(Path(tls.certificate), pair.certificate, 0o644, account)
    except OSError as error:
        unusable = Unusable(
            "state_dir",
            str(folder.parent),
            f"cannot keep a self-signed certificate: {error.strerror}",
            "make the folder writable for the service's user, or set tls.certificate and tls.key",
        )
        raise ConfigError([unusable.problem]) from None
    return pair


def _certify(key: ec.EllipticCurvePrivateKey, hostname: str, now: datetime.datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname[:64])])  # ub-common-name, RFC 5280 appendix A.1
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in dict.fromkeys((hostname, "localhost"))]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _UNTIL_CLOCKS_AGREE)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )


def _write(path: Path, content: bytes, mode: int, account: privileges.Account | None) -> None:
    """Writes a file whole or not at all; the key is never readable for others, not for an instant."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        privileges.give(Path(temporary), account)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
