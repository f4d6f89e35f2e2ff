"""Whether the certificate and the key that the settings name can be used, and for how long."""

from __future__ import annotations

import datetime
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from .problems import Problem, warning
from .settings import Sni, Tls

_SOON = datetime.timedelta(days=14)


class Unusable(Exception):
    """A certificate or key that cannot be used; ``problem`` says which and why."""

    def __init__(self, key: str, file: str, wrong: str, mend: str) -> None:
        super().__init__(wrong)
        self.problem = Problem(key=key, value=file, wrong=wrong, mend=mend)


def read_pair(tls: Tls | Sni, table: str = "tls") -> tuple[list[x509.Certificate], PrivateKeyTypes]:
    """The chain, our own certificate first, and the key of ``certificate`` and ``key`` in the ``table`` of the file.

    Raises :class:`Unusable` when one cannot be read or they do not belong together.
    """
    chain = _read_chain(tls.certificate, f"{table}.certificate")
    key = _read_key(tls.key, f"{table}.key")
    if _spki(chain[0]) != key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
        wrong = f"is not the key of {tls.certificate}"
        mend = "name the key that the certificate was made for, and put that certificate first in its file"
        raise Unusable(f"{table}.key", tls.key, wrong, mend)
    return chain, key


def check(tls: Tls | Sni, hostname: str, user: str = "", table: str = "tls") -> Iterator[Problem]:
    """The problems of the pair: unusable is an error; expired, of another name, open to others is a warning.

    ``user`` is whom the service becomes: it must be able to read the key when it reloads.
    """
    certificate, key = f"{table}.certificate", f"{table}.key"
    try:
        chain, _ = read_pair(tls, table)
    except Unusable as unusable:
        yield unusable.problem
        return
    own = chain[0]
    yield from _validity(own, tls, certificate)
    if hostname and not covers(own, hostname):
        wrong = f"is not for {hostname}"
        yield warning(certificate, tls.certificate, wrong, "get one that has the hostname among its names")
    mode = Path(tls.key).stat()
    if mode.st_mode & (stat.S_IROTH | stat.S_IWOTH):
        yield warning(key, tls.key, "can be read by every user of the machine", f"chmod o-rwx {tls.key}")
    if user and not _can_read(user, mode):
        wrong = f"cannot be read by {user}, so a reload could not read it again"
        yield warning(key, tls.key, wrong, f"make it readable for {user}, such as by its group")


def authorities_flaw(file: str) -> str:
    """What is wrong with a PEM file of authorities; "" when nothing is."""
    try:
        x509.load_pem_x509_certificates(Path(file).read_bytes())
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ValueError:
        return "has no certificate that can be read"
    return ""


def names_of(certificate: x509.Certificate) -> set[str]:
    """The domain names that a certificate is for, in lower case, wildcards too."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return set()
    return {name.lower() for name in names.get_values_for_type(x509.DNSName)}


def covers(certificate: x509.Certificate, hostname: str) -> bool:
    """Whether ``hostname`` is among the certificate's names, a wildcard standing for one label (RFC 6125 §6.4.3)."""
    wanted = hostname.lower()
    known = names_of(certificate)
    return wanted in known or f"*.{wanted.partition('.')[2]}" in known


def _validity(own: x509.Certificate, tls: Tls | Sni, key: str) -> Iterator[Problem]:
    now = datetime.datetime.now(datetime.UTC)
    until = own.not_valid_after_utc
    if until <= now:
        yield warning(key, tls.certificate, f"expired on {until:%Y-%m-%d}", "renew it and reload")
    elif until - now < _SOON:
        yield warning(key, tls.certificate, f"expires on {until:%Y-%m-%d}", "renew it and reload")
    elif own.not_valid_before_utc > now:
        wrong = f"is not valid before {own.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        yield warning(key, tls.certificate, wrong, "look at the machine's clock")


def _read(key: str, file: str) -> bytes:
    if not file:
        raise Unusable(key, file, "is empty", "name a PEM file")
    try:
        return Path(file).read_bytes()
    except IsADirectoryError:
        raise Unusable(key, file, "is a folder", "name a PEM file") from None
    except OSError as error:
        me = pwd.getpwuid(os.geteuid()).pw_name if _known(os.geteuid()) else f"uid {os.geteuid()}"
        mend = "name a file that exists" if isinstance(error, FileNotFoundError) else f"make it readable for {me}"
        raise Unusable(key, file, f"cannot be read: {error.strerror}", mend) from None


def _known(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _read_chain(file: str, key: str) -> list[x509.Certificate]:
    content = _read(key, file)
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        mend = "name a PEM file with -----BEGIN CERTIFICATE-----, our own first, then its chain"
        raise Unusable(key, file, "has no certificate that can be read", mend) from None


def _read_key(file: str, key: str) -> PrivateKeyTypes:
    content = _read(key, file)
    try:
        return load_pem_private_key(content, None)
    except TypeError:
        mend = f'take the passphrase off: "openssl pkey -in {file} -out NEW"'
        raise Unusable(key, file, "is locked with a passphrase", mend) from None
    except Exception:  # cryptography raises what OpenSSL says, as several types
        mend = "name a PEM file with -----BEGIN PRIVATE KEY-----"
        raise Unusable(key, file, "has no private key that can be read", mend) from None


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _can_read(user: str, mode: os.stat_result) -> bool:
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return True  # said elsewhere
    if account.pw_uid in (0, mode.st_uid):
        return account.pw_uid == 0 or bool(mode.st_mode & stat.S_IRUSR)
    if mode.st_gid in os.getgrouplist(user, account.pw_gid):
        return bool(mode.st_mode & stat.S_IRGRP)
    return bool(mode.st_mode & stat.S_IROTH)
