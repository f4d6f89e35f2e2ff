"""Listeners: what would show passwords, relay, or take an address twice; and the certificates they show."""

from __future__ import annotations

import grp
import ipaddress
import pwd
from collections.abc import Iterator

from .. import certificate, ciphers
from ..addresses import Exposure, exposure, overlaps, too_wide
from ..problems import ABSENT, Problem, error, warning
from ..settings import Listener, Settings
from ..toml import write_path
from ..units import UNIX


def sockets(settings: Settings) -> Iterator[tuple[str, Listener, str, int]]:
    """(dotted key of the table, listener, address, port) of everything that will listen for mail."""
    for name, listener in settings.listen.items():
        for address in listener.address:
            yield write_path(("listen", name)), listener, address, listener.port


def check(settings: Settings) -> Iterator[Problem]:
    """All problems of the listeners and of the certificates."""
    yield from _listeners(settings)
    yield from _collisions(settings)
    yield from _tls(settings)


def _listeners(settings: Settings) -> Iterator[Problem]:
    if not settings.listen:
        yield error("listen", ABSENT, "has no listener", "write one, such as [listen.mx], or leave out [listen]")
    for name, listener in settings.listen.items():
        key = write_path(("listen", name))
        if not listener.address:
            yield error(f"{key}.address", [], "is empty", 'write ["0.0.0.0", "::"] for all addresses')
        exposed = {address: exposure(address) for address in listener.address}
        yield from _unsafe_listener(key, listener, exposed)
        yield from _client_certificates(key, listener, settings)
        yield from _proxies(key, listener)
        yield from _socket_owner(key, listener)
        if listener.role == "mx" and listener.tls == "implicit":
            wrong = "is not what other hosts speak to an mx (RFC 8314 is for submission)"
            yield warning(f"{key}.tls", listener.tls, wrong, 'write "starttls"')
        if listener.role == "submission" and listener.port == 25:
            wrong = "is the port of mx; users' programs look for 587, or 465 with implicit TLS (RFC 6409, RFC 8314)"
            yield warning(f"{key}.port", 25, wrong, "write 587 or 465")


def _proxies(key: str, listener: Listener) -> Iterator[Problem]:
    for name, networks in (("proxies", listener.proxies), ("xclient", listener.xclient)):
        for text in networks:
            if wrong := too_wide(ipaddress.ip_network(text)):
                wrong = f"{wrong}: a proxy may claim any address, those of relay.networks too"
                yield error(f"{key}.{name}", text, wrong, 'name the proxies alone, such as "192.0.2.10"')


def _socket_owner(key: str, listener: Listener) -> Iterator[Problem]:
    for name, value, known in (
        ("socket_user", listener.socket_user, pwd.getpwnam),
        ("socket_group", listener.socket_group, grp.getgrnam),
    ):
        try:
            if value:
                known(value)
        except KeyError:
            what = name.removeprefix("socket_")
            yield error(f"{key}.{name}", value, f"is no {what} of this machine", "name one that exists")


def _unsafe_listener(key: str, listener: Listener, exposed: dict[str, Exposure]) -> Iterator[Problem]:
    outside = [address for address, how in exposed.items() if how is not Exposure.LOOPBACK]
    if listener.role == "submission" and listener.tls == "none" and outside:
        wrong = f"would show passwords to the network at {outside[0]}"
        yield error(f"{key}.tls", "none", wrong, 'write "starttls" or "implicit", or listen on 127.0.0.1 only')
    if listener.role == "lmtp":
        yield from _lmtp(key, listener, outside)
        return
    if listener.relay:
        yield error(f"{key}.relay", True, 'is for role "lmtp" alone', "leave it out; see relay.networks")
    for address in listener.address:
        if address.startswith(UNIX):
            yield error(f"{key}.address", address, 'is for role "lmtp" alone', "name an IP address")


def _client_certificates(key: str, listener: Listener, settings: Settings) -> Iterator[Problem]:
    if listener.client_ca and (wrong := certificate.authorities_flaw(listener.client_ca)):
        mend = "name a PEM file with the certificates of those who sign clients'"
        yield error(f"{key}.client_ca", listener.client_ca, wrong, mend)
    if listener.client_ca and not listener.client_certificates:
        wrong = "is set, but clients are not asked for a certificate"
        yield warning(f"{key}.client_ca", listener.client_ca, wrong, "write client_certificates = true")
    if not listener.client_certificates:
        return
    if listener.tls == "none":
        wrong = "asks for nothing without TLS"
        yield error(f"{key}.client_certificates", True, wrong, 'write tls = "starttls" or "implicit"')
    elif listener.role == "mx" and not settings.relay.certificates:
        wrong = "serves nobody here until relay.certificates names some"
        yield warning(f"{key}.client_certificates", True, wrong, "name them, or leave this out")


def _lmtp(key: str, listener: Listener, outside: list[str]) -> Iterator[Problem]:
    """LMTP asks for no password: whoever is served may put mail into mailboxes."""
    if listener.port == 25 and not all(address.startswith(UNIX) for address in listener.address):
        yield error(f"{key}.port", 25, "must not be used for LMTP (RFC 2033 §5)", "write 24, or any other port")
    for text in listener.clients:
        if wrong := too_wide(ipaddress.ip_network(text)):
            wrong = f"{wrong}: LMTP asks for no password" if listener.relay else "would let anybody put mail in"
            yield error(f"{key}.clients", text, wrong, 'name the gateways alone, such as "192.0.2.10"')
    if outside and not listener.clients:
        wrong = "is reached by others, but LMTP serves this machine alone until clients names networks"
        yield warning(f"{key}.address", outside[0], wrong, 'listen on 127.0.0.1, or write clients = ["192.0.2.10"]')
    if listener.relay and not listener.clients and not all(it.startswith(UNIX) for it in listener.address):
        wrong = "lets every program of this machine send anywhere without a password"
        yield error(f"{key}.relay", True, wrong, 'name the gateways: clients = ["192.0.2.10"], or use a Unix socket')
    if listener.relay and int(listener.socket_mode, 8) & 0o002 and any(it.startswith(UNIX) for it in listener.address):
        wrong = "lets every program of this machine send anywhere without a password"
        yield error(f"{key}.socket_mode", listener.socket_mode, wrong, 'write "0660", and name a socket_group')


def _collisions(settings: Settings) -> Iterator[Problem]:
    taken: list[tuple[str, str, int]] = []
    wanted = [(f"{key}.address", address, port) for key, _, address, port in sockets(settings)]
    if settings.admin.listen:
        wanted.append(("admin.listen", *admin_socket(settings)))
    for key, address, port in wanted:
        for other, its_address, its_port in taken:
            unix = address.startswith(UNIX)
            if (unix or (port and port == its_port)) and overlaps(address, its_address):
                whose = "twice" if other == key else f"by {other} too"
                shown = settings.admin.listen if key == "admin.listen" else address
                wrong = f"is taken {whose}" if unix else f"and port {port} are taken {whose}"
                yield error(key, shown, wrong, "give each its own address or port")
                break
        taken.append((key, address, port))


def admin_socket(settings: Settings) -> tuple[str, int]:
    """Address and port of ``admin.listen``, which is not empty."""
    host, _, port = settings.admin.listen.rpartition(":")
    return host.strip("[]"), int(port)


def _tls(settings: Settings) -> Iterator[Problem]:
    tls = settings.tls
    yield from ciphers.check(tls)
    for name, sni in settings.sni.items():
        yield from certificate.check(sni, "", settings.user, write_path(("sni", name)))
    if tls.certificate and not tls.key:
        yield error("tls.key", "", "is empty, but tls.certificate is set", "name the file of the private key")
    elif tls.key and not tls.certificate:
        yield error("tls.certificate", "", "is empty, but tls.key is set", "name the file of the certificate")
    elif tls.certificate:
        yield from certificate.check(tls, settings.hostname, settings.user)
    else:
        public = [
            key
            for key, listener, address, _ in sockets(settings)
            if listener.role == "submission" and exposure(address) is not Exposure.LOOPBACK
        ]
        if public:
            wrong = f"is empty, so {public[0]} shows a self-signed certificate, which users' programs refuse"
            yield warning(
                "tls.certificate", "", wrong, "get a certificate for the hostname, such as from Let's Encrypt"
            )
