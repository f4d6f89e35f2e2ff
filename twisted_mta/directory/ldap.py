"""Passwords checked by an LDAP server: a simple bind as the user (RFC 4511 §4.2, RFC 4513 §5.1).

The user's entry is found by a template for its DN, or by a search.  What a client gave reaches the server only escaped:
in a DN by RFC 4514 §2.4, in a filter by RFC 4515 §3.  The library blocks, so each checker has threads of its own.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twisted.logger import Logger

from ..config.settings import Checker
from .answers import NoAnswer
from .passwords import Threads

WRONG = frozenset({19, 32, 34, 48, 49, 50, 53})
"""Result codes of a bind that are about the user (RFC 4511 §4.1.9): constraint violation (a lock-out), no such object,
invalid DN, inappropriate authentication (no password), invalid credentials, insufficient rights, unwilling.  All
others, such as busy and unavailable, are about the server."""

_log = Logger()


def escape_dn(value: str) -> str:
    """A value as it stands in a DN (RFC 4514 §2.4).  "#" and "=" may be escaped anywhere; ldap3 wants them to be."""
    escaped = "".join(f"\\{letter}" if letter in '"+,;<>\\=#' else letter for letter in value).replace("\0", "\\00")
    if escaped.startswith(" "):
        escaped = f"\\{escaped}"
    if escaped.endswith(" ") and len(value) > 1:
        escaped = f"{escaped[:-1]}\\ "
    return escaped


def escape_filter(value: str) -> str:
    """A value as it stands in a filter (RFC 4515 §3)."""
    return "".join(f"\\{ord(letter):02x}" if letter in "*()\\\0" else letter for letter in value)


def fill(template: str, address: str, escape: Callable[[str], str]) -> str:
    """A template with {address}, {user} and {domain} filled in, each escaped; in one pass over the template."""
    user, _, domain = address.rpartition("@")
    values = {"{address}": escape(address), "{user}": escape(user), "{domain}": escape(domain)}
    return re.sub(r"\{(?:address|user|domain)\}", lambda match: values[match[0]], template)


class LdapSource:
    """See :class:`~.outside.Source`.  Needs the extra "ldap"."""

    def __init__(self, name: str, settings: Checker, reactor: Any) -> None:
        import ldap3  # type: ignore[import-untyped]

        self._ldap3: Any = ldap3
        self._name = name
        self._settings = settings
        self._threads = Threads(reactor, f"checker.{name}", settings.threads)
        place = urlsplit(settings.server)
        host, secure = place.hostname or "", place.scheme == "ldaps"
        self._start_tls = not secure and not _is_loopback(host)
        tls = ldap3.Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=settings.ca or None)
        port = place.port or (636 if secure else 389)
        self._server = ldap3.Server(
            host, port, secure, get_info=ldap3.NONE, tls=tls, connect_timeout=max(settings.timeout, 1.0)
        )

    def start(self) -> None:
        """See :class:`~.outside.Source`."""
        self._threads.start()

    def stop(self) -> None:
        """See :class:`~.outside.Source`."""
        self._threads.leave()

    async def good(self, address: str, password: str) -> bool:
        """See :class:`~.outside.Source`."""
        return await self._threads.run(partial(self._good, address, password))

    def _good(self, address: str, password: str) -> bool:
        if not password:
            return False  # with a name and no password a bind succeeds, as nobody (RFC 4513 §5.1.2)
        settings = self._settings
        if not settings.filter:
            return self._bind(fill(settings.dn, address, escape_dn), password)
        found = self._find(fill(settings.filter, address, escape_filter))
        return found != "" and self._bind(found, password)

    def _bind(self, dn: str, password: str) -> bool:
        with self._connection(dn, password) as connection:
            if connection.bind():
                return True
            code = connection.result["result"]
            if code in WRONG:
                return False
            raise NoAnswer(f"it answers the bind with {code} {connection.result['description']}")

    def _find(self, search: str) -> str:
        """The DN of the one entry that the filter finds, else ""."""
        settings = self._settings
        secret = Path(settings.password_file).read_text().rstrip("\r\n") if settings.password_file else None
        with self._connection(settings.dn or None, secret) as connection:
            if not connection.bind():
                raise NoAnswer(f"it refuses the service's own bind: {connection.result['description']}")
            connection.search(settings.base, search, self._ldap3.SUBTREE, attributes=["1.1"], size_limit=2)
            code = connection.result["result"]
            if code not in (0, 4, 32):  # 4: there are more than two
                raise NoAnswer(f"it answers the search with {code} {connection.result['description']}")
            found = [entry["dn"] for entry in connection.response or () if entry["type"] == "searchResEntry"]
        if len(found) > 1:
            _log.warn("checker.{name}: the filter finds more than one entry, so nobody", name=self._name)
        return found[0] if len(found) == 1 else ""

    def _connection(self, dn: str | None, password: str | None) -> Any:
        """A connection that is open and secure, and not bound."""
        connection = self._ldap3.Connection(
            self._server,
            dn,
            password,
            authentication=self._ldap3.SIMPLE if dn else self._ldap3.ANONYMOUS,
            receive_timeout=max(round(self._settings.timeout), 1),
            auto_referrals=False,
            read_only=True,
        )
        connection.open()
        if self._start_tls and not connection.start_tls():
            raise NoAnswer("it refuses STARTTLS")
        return _Closing(connection)


class _Closing:
    """ldap3's own context manager binds first; this one only closes."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __enter__(self) -> Any:
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.unbind()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
