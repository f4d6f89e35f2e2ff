"""What is unsafe, impossible or doubtful about settings that are well formed.

An error stops the start; a warning is said and the service starts.  Errors are what would relay for strangers, show a
password, loop, or never work; doubts are warnings.  Files that are named are looked at, nothing is changed.
"""

from __future__ import annotations

import grp
import ipaddress
import os
import pwd
import string
from collections.abc import Iterable, Iterator
from pathlib import Path

from . import certificate, checkers, ciphers, oauth
from .addresses import Exposure, exposure, is_loopback, overlaps, points_at, reach
from .problems import ABSENT, Problem, Severity
from .settings import KIB, MINUTE, Listener, Settings
from .toml import write_path
from .units import UNIX, format_duration, format_size, parse_host_port

MAX_WORKERS = 64
"""More would only wait for each other: the queue is written by one process at a time."""
MIN_TIMEOUT = 2.0
"""Seconds; a busy reactor may take that long for one turn."""

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def check(settings: Settings) -> Iterator[Problem]:
    """All problems of ``settings``, without file and line."""
    for part in (_process, _listeners, _collisions, _tls, _relay, _loops, _local, _queue, _smtp, _quota, _admin):
        yield from part(settings)
    yield from checkers.check(settings)
    yield from oauth.check(settings)


def _problem(severity: Severity, key: str, value: object, wrong: str, mend: str) -> Problem:
    return Problem(key=key, value=value, wrong=wrong, mend=mend, severity=severity)


def _error(key: str, value: object, wrong: str, mend: str) -> Problem:
    return _problem("error", key, value, wrong, mend)


def _warning(key: str, value: object, wrong: str, mend: str) -> Problem:
    return _problem("warning", key, value, wrong, mend)


# --- the process -----------------------------------------------------------------------------------------------------


def _process(settings: Settings) -> Iterator[Problem]:
    if settings.workers < 0:
        yield _error("workers", settings.workers, "is negative", "write 0: one process does everything")
    elif settings.workers > MAX_WORKERS:
        yield _error("workers", settings.workers, f"is more than {MAX_WORKERS}", "write the number of processors")
    if settings.worker_timeout < MIN_TIMEOUT:
        wrong = "is so short that workers which are just busy would be killed"
        yield _error("worker_timeout", format_duration(settings.worker_timeout), wrong, 'write "30s"')
    if not settings.state_dir:
        yield _error("state_dir", "", "is empty", 'name a folder, such as "/var/lib/twisted-mta"')
    elif Path(settings.state_dir).exists() and not Path(settings.state_dir).is_dir():
        yield _error("state_dir", settings.state_dir, "is not a folder", "name a folder; it is made when missing")
    yield from _account(settings)
    public = any(exposure(address) is not Exposure.LOOPBACK for _, _, address, _ in _sockets(settings))
    if public and "." not in (settings.hostname or os.uname().nodename):
        value = settings.hostname or os.uname().nodename
        wrong = "is not a full domain name, which other hosts refuse in EHLO (RFC 5321 §2.3.5)"
        yield _warning("hostname", value, wrong, 'write the name that your address resolves to: "mx1.isp.example"')
    for key, name in (("hostname", settings.hostname), ("relay.hostname", settings.relay.hostname)):
        if "_" in name:
            wrong = "has an underscore, which the name of a mail host may not have (RFC 5321 §4.1.2)"
            yield _error(key, name, wrong, "write a name of letters, digits, hyphens and dots")
    log, state = Path(settings.log.file).absolute(), Path(settings.state_dir).absolute()
    if settings.log.file not in ("", "-") and not log.parent.is_dir() and not log.is_relative_to(state):
        yield _error("log.file", settings.log.file, "is in a folder that does not exist", "make the folder first")
    elif not settings.log.file:
        yield _error("log.file", "", "is empty", 'write "-" for standard output')


def _account(settings: Settings) -> Iterator[Problem]:
    if settings.user:
        try:
            pwd.getpwnam(settings.user)
        except KeyError:
            mend = f'make it with "useradd --system {settings.user}", or name one that exists'
            yield _error("user", settings.user, "is no user of this machine", mend)
    if settings.group:
        if not settings.user:
            yield _error("group", settings.group, "is set without user", "set user too")
        try:
            grp.getgrnam(settings.group)
        except KeyError:
            mend = f'make it with "groupadd --system {settings.group}", or name one that exists'
            yield _error("group", settings.group, "is no group of this machine", mend)


# --- listeners -------------------------------------------------------------------------------------------------------


def _sockets(settings: Settings) -> Iterator[tuple[str, Listener, str, int]]:
    """(dotted key of the table, listener, address, port) of everything that will listen for mail."""
    for name, listener in settings.listen.items():
        for address in listener.address:
            yield write_path(("listen", name)), listener, address, listener.port


def _listeners(settings: Settings) -> Iterator[Problem]:
    if not settings.listen:
        yield _error("listen", ABSENT, "has no listener", "write one, such as [listen.mx], or leave out [listen]")
    for name, listener in settings.listen.items():
        key = write_path(("listen", name))
        if not listener.address:
            yield _error(f"{key}.address", [], "is empty", 'write ["0.0.0.0", "::"] for all addresses')
        exposed = {address: exposure(address) for address in listener.address}
        yield from _unsafe_listener(key, listener, exposed)
        yield from _client_certificates(key, listener, settings)
        yield from _proxies(key, listener)
        yield from _socket_owner(key, listener)
        if listener.role == "mx" and listener.tls == "implicit":
            wrong = "is not what other hosts speak to an mx (RFC 8314 is for submission)"
            yield _warning(f"{key}.tls", listener.tls, wrong, 'write "starttls"')
        if listener.role == "submission" and listener.port == 25:
            wrong = "is the port of mx; users' programs look for 587, or 465 with implicit TLS (RFC 6409, RFC 8314)"
            yield _warning(f"{key}.port", 25, wrong, "write 587 or 465")


def _proxies(key: str, listener: Listener) -> Iterator[Problem]:
    for name, networks in (("proxies", listener.proxies), ("xclient", listener.xclient)):
        for text in networks:
            if wrong := _too_wide(ipaddress.ip_network(text)):
                wrong = f"{wrong}: a proxy may claim any address, those of relay.networks too"
                yield _error(f"{key}.{name}", text, wrong, 'name the proxies alone, such as "192.0.2.10"')


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
            yield _error(f"{key}.{name}", value, f"is no {what} of this machine", "name one that exists")


def _unsafe_listener(key: str, listener: Listener, exposed: dict[str, Exposure]) -> Iterator[Problem]:
    outside = [address for address, how in exposed.items() if how is not Exposure.LOOPBACK]
    if listener.role == "submission" and listener.tls == "none" and outside:
        wrong = f"would show passwords to the network at {outside[0]}"
        yield _error(f"{key}.tls", "none", wrong, 'write "starttls" or "implicit", or listen on 127.0.0.1 only')
    if listener.role == "lmtp":
        yield from _lmtp(key, listener, outside)
        return
    if listener.relay:
        yield _error(f"{key}.relay", True, 'is for role "lmtp" alone', "leave it out; see relay.networks")
    for address in listener.address:
        if address.startswith(UNIX):
            yield _error(f"{key}.address", address, 'is for role "lmtp" alone', "name an IP address")


def _client_certificates(key: str, listener: Listener, settings: Settings) -> Iterator[Problem]:
    if listener.client_ca and (wrong := certificate.authorities_flaw(listener.client_ca)):
        mend = "name a PEM file with the certificates of those who sign clients'"
        yield _error(f"{key}.client_ca", listener.client_ca, wrong, mend)
    if listener.client_ca and not listener.client_certificates:
        wrong = "is set, but clients are not asked for a certificate"
        yield _warning(f"{key}.client_ca", listener.client_ca, wrong, "write client_certificates = true")
    if not listener.client_certificates:
        return
    if listener.tls == "none":
        wrong = "asks for nothing without TLS"
        yield _error(f"{key}.client_certificates", True, wrong, 'write tls = "starttls" or "implicit"')
    elif listener.role == "mx" and not settings.relay.certificates:
        wrong = "serves nobody here until relay.certificates names some"
        yield _warning(f"{key}.client_certificates", True, wrong, "name them, or leave this out")


def _lmtp(key: str, listener: Listener, outside: list[str]) -> Iterator[Problem]:
    """LMTP asks for no password: whoever is served may put mail into mailboxes."""
    if listener.port == 25 and not all(address.startswith(UNIX) for address in listener.address):
        yield _error(f"{key}.port", 25, "must not be used for LMTP (RFC 2033 §5)", "write 24, or any other port")
    for text in listener.clients:
        if wrong := _too_wide(ipaddress.ip_network(text)):
            wrong = f"{wrong}: LMTP asks for no password" if listener.relay else "would let anybody put mail in"
            yield _error(f"{key}.clients", text, wrong, 'name the gateways alone, such as "192.0.2.10"')
    if outside and not listener.clients:
        wrong = "is reached by others, but LMTP serves this machine alone until clients names networks"
        yield _warning(f"{key}.address", outside[0], wrong, 'listen on 127.0.0.1, or write clients = ["192.0.2.10"]')
    if listener.relay and not listener.clients and not all(it.startswith(UNIX) for it in listener.address):
        wrong = "lets every program of this machine send anywhere without a password"
        yield _error(f"{key}.relay", True, wrong, 'name the gateways: clients = ["192.0.2.10"], or use a Unix socket')
    if listener.relay and int(listener.socket_mode, 8) & 0o002 and any(it.startswith(UNIX) for it in listener.address):
        wrong = "lets every program of this machine send anywhere without a password"
        yield _error(f"{key}.socket_mode", listener.socket_mode, wrong, 'write "0660", and name a socket_group')


def _collisions(settings: Settings) -> Iterator[Problem]:
    taken: list[tuple[str, str, int]] = []
    wanted = [(f"{key}.address", address, port) for key, _, address, port in _sockets(settings)]
    if settings.admin.listen:
        admin = parse_host_port_or_zero(settings.admin.listen)
        wanted.append(("admin.listen", *admin))
    for key, address, port in wanted:
        for other, its_address, its_port in taken:
            unix = address.startswith(UNIX)
            if (unix or (port and port == its_port)) and overlaps(address, its_address):
                whose = "twice" if other == key else f"by {other} too"
                shown = settings.admin.listen if key == "admin.listen" else address
                wrong = f"is taken {whose}" if unix else f"and port {port} are taken {whose}"
                yield _error(key, shown, wrong, "give each its own address or port")
                break
        taken.append((key, address, port))


def parse_host_port_or_zero(text: str) -> tuple[str, int]:
    """The host and port of a setting that loading has accepted."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


# --- TLS -------------------------------------------------------------------------------------------------------------


def _tls(settings: Settings) -> Iterator[Problem]:
    tls = settings.tls
    yield from ciphers.check(tls)
    for name, sni in settings.sni.items():
        yield from certificate.check(sni, "", settings.user, write_path(("sni", name)))
    if tls.certificate and not tls.key:
        yield _error("tls.key", "", "is empty, but tls.certificate is set", "name the file of the private key")
    elif tls.key and not tls.certificate:
        yield _error("tls.certificate", "", "is empty, but tls.key is set", "name the file of the certificate")
    elif tls.certificate:
        yield from certificate.check(tls, settings.hostname, settings.user)
    else:
        public = [
            key
            for key, listener, address, _ in _sockets(settings)
            if listener.role == "submission" and exposure(address) is not Exposure.LOOPBACK
        ]
        if public:
            wrong = f"is empty, so {public[0]} shows a self-signed certificate, which users' programs refuse"
            yield _warning(
                "tls.certificate", "", wrong, "get a certificate for the hostname, such as from Let's Encrypt"
            )


# --- relaying --------------------------------------------------------------------------------------------------------


def _relay(settings: Settings) -> Iterator[Problem]:
    relay = settings.relay
    alone = [ipaddress.ip_network(network) for network in relay.networks]
    for network in alone:
        if wrong := _too_wide(network):
            yield _error("relay.networks", str(network), wrong, _NETWORKS_MEND)
    narrow = [network for network in alone if not _too_wide(network)]
    for merged in _collapsed(narrow):
        if merged not in narrow and (wrong := _too_wide(merged)):
            wrong = f"together are {merged}, which {wrong}"
            yield _error("relay.networks", list(relay.networks), wrong, _NETWORKS_MEND)
    if relay.private_addresses and any(exposure(item[2]) is Exposure.PUBLIC for item in _sockets(settings)):
        wrong = "lets anybody's MX record send our connections into the local network"
        yield _warning("relay.private_addresses", True, wrong, "write false unless this is a closed network")
    if relay.tls == "none":
        yield _warning("relay.tls", "none", "sends all mail in clear", 'write "may"')
    if relay.ca and not Path(relay.ca).is_file():
        yield _error("relay.ca", relay.ca, "is no file that can be read", "name one, or leave it empty")
    if relay.connections_per_destination > relay.connections:
        wrong = f"is more than relay.connections = {relay.connections}"
        yield _warning("relay.connections_per_destination", relay.connections_per_destination, wrong, "lower it")


_NETWORKS_MEND = 'name the networks of your own clients, such as "192.0.2.0/24"'


def _too_wide(network: IpNetwork) -> str:
    """Why ``network`` may not relay; "" when it may."""
    share = reach(network)
    if share == 0:
        return "would let anybody relay"
    if share < 8 if network.version == 4 or _embeds(network) else share < 16:
        return "would let a large part of the Internet relay"
    return ""


def _embeds(network: IpNetwork) -> bool:
    return reach(network) != network.prefixlen


def _collapsed(networks: Iterable[IpNetwork]) -> Iterator[IpNetwork]:
    listed = list(networks)
    yield from ipaddress.collapse_addresses(n for n in listed if isinstance(n, ipaddress.IPv4Network))
    yield from ipaddress.collapse_addresses(n for n in listed if isinstance(n, ipaddress.IPv6Network))


def _loops(settings: Settings) -> Iterator[Problem]:
    listening = [(address, port) for _, _, address, port in _sockets(settings)]
    if settings.local.lmtp.startswith(UNIX) and any(address == settings.local.lmtp for address, _ in listening):
        wrong = "is our own listener: mail would go round in circles"
        yield _error("local.lmtp", settings.local.lmtp, wrong, "name another socket")
    for key, text in (("relay.smarthost", settings.relay.smarthost), ("local.lmtp", settings.local.lmtp)):
        if text and not text.startswith("unix:"):
            target = parse_host_port(text)
            if points_at(target, listening, settings.hostname):
                yield _error(
                    key, text, "is our own listener: mail would go round in circles", "name another host or port"
                )


# --- mailboxes -------------------------------------------------------------------------------------------------------

_PLACEHOLDERS = ("state_dir", "domain", "user")


def _local(settings: Settings) -> Iterator[Problem]:
    local = settings.local
    if not local.lmtp:
        yield from _mailbox(local.mailbox)
    if local.detail_delimiter and (len(local.detail_delimiter) > 1 or local.detail_delimiter not in "+-=_#%!~^&|"):
        mend = 'write one of + - = _ # % ! ~ ^ & |, or "" for none'
        yield _error("local.detail_delimiter", local.detail_delimiter, "is no delimiter", mend)
    if len(set(local.domains)) < len(local.domains):
        twice = next(domain for domain in local.domains if local.domains.count(domain) > 1)
        yield _warning("local.domains", twice, "is listed twice", "leave one out")


def _mailbox(template: str) -> Iterator[Problem]:
    key, known = "local.mailbox", ", ".join(f"{{{name}}}" for name in _PLACEHOLDERS)
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        yield _error(key, template, f"has unbalanced braces ({error})", f"only {known} stand in braces")
        return
    names = [name for _, name, _, _ in parts if name is not None]
    for _, name, form, conversion in parts:
        if name is not None and (name not in _PLACEHOLDERS or form or conversion):
            yield _error(key, template, "has a placeholder that means nothing", f"only {known} are filled in")
            return
    if "user" not in names:
        yield _error(key, template, "would put everybody's mail into one mailbox", "write {user} into it")
    elif "domain" not in names:
        wrong = "puts users of the same name in two domains into one mailbox"
        yield _warning(key, template, wrong, "write {domain} into it, unless there is one domain only")
    if not template.startswith(("/", "{state_dir}/")):
        wrong = "depends on the folder that the service is started from"
        yield _error(key, template, wrong, "begin it with / or {state_dir}/")


# --- queue, limits, quotas -------------------------------------------------------------------------------------------


def _queue(settings: Settings) -> Iterator[Problem]:
    queue = settings.queue
    if not queue.retry:
        yield _error("queue.retry", [], "is empty", 'write the waits between attempts, such as ["5m", "30m", "2h"]')
    for wait in queue.retry:
        if wait < 1:
            wrong = "would try without a pause"
            yield _error("queue.retry", format_duration(wait), wrong, 'write "1s" or more; RFC 5321 asks for "30m"')
    if queue.retry and queue.lifetime < queue.retry[0]:
        wrong = f"is over before the first retry after {format_duration(queue.retry[0])}"
        yield _warning("queue.lifetime", format_duration(queue.lifetime), wrong, 'write "5d"')
    if queue.lifetime and queue.delay_warning >= queue.lifetime:
        wrong = "is not sooner than queue.lifetime, so nobody is warned"
        yield _warning(
            "queue.delay_warning", format_duration(queue.delay_warning), wrong, 'write "4h", or "0s" for never'
        )
    if queue.sync == "never":
        yield _warning("queue.sync", "never", "loses acknowledged mail in a power cut", 'write "always"')
    if queue.map_size < 1024 * KIB:
        yield _error("queue.map_size", format_size(queue.map_size), "holds no queue", 'write "1MiB" or more')


def _smtp(settings: Settings) -> Iterator[Problem]:
    smtp = settings.smtp
    if len(smtp.banner) > 200 or not smtp.banner.isascii():
        yield _error("smtp.banner", smtp.banner, "does not fit a greeting", "write up to 200 ASCII characters")
    if smtp.recipients < 100:
        yield _warning(
            "smtp.recipients", smtp.recipients, "is less than RFC 5321 §4.5.3.1.8 asks for", "write 100 or more"
        )
    if smtp.message_bytes < 64 * KIB:
        wrong = "is less than RFC 5321 §4.5.3.1.7 asks for"
        yield _warning("smtp.message_bytes", format_size(smtp.message_bytes), wrong, 'write "64KiB" or more')
    if smtp.header_bytes > smtp.message_bytes:
        wrong = "is more than smtp.message_bytes"
        yield _warning("smtp.header_bytes", format_size(smtp.header_bytes), wrong, "lower it")
    for text in smtp.verify_networks:
        if _too_wide(ipaddress.ip_network(text)):
            wrong = "lets strangers find out all addresses"
            yield _warning("smtp.verify_networks", text, wrong, "name the networks of your own programs")
    if smtp.timeout <= 0:
        yield _error("smtp.timeout", format_duration(smtp.timeout), "would end every session at once", 'write "5m"')
    elif smtp.timeout < 5 * MINUTE:
        wrong = "is less than RFC 5321 §4.5.3.2.7 asks for; slow clients are cut off"
        yield _warning("smtp.timeout", format_duration(smtp.timeout), wrong, 'write "5m"')
    if settings.dns.timeout <= 0:
        yield _error("dns.timeout", format_duration(settings.dns.timeout), "answers nothing", 'write "5s"')


def _quota(settings: Settings) -> Iterator[Problem]:
    for name, quota in settings.quota.items():
        key = write_path(("quota", name))
        if quota.message_bytes is not None and quota.message_bytes > settings.smtp.message_bytes:
            wrong = f"is more than smtp.message_bytes = {format_size(settings.smtp.message_bytes)}, which holds"
            yield _warning(
                f"{key}.message_bytes", format_size(quota.message_bytes), wrong, "lower it, or raise the other"
            )
        largest = min(settings.smtp.message_bytes, quota.message_bytes or settings.smtp.message_bytes)
        if quota.queued_bytes is not None and quota.queued_bytes < largest:
            wrong = f"is less than one message of the largest size, {format_size(largest)}"
            yield _warning(f"{key}.queued_bytes", format_size(quota.queued_bytes), wrong, "raise it")


# --- the operator's side ---------------------------------------------------------------------------------------------


def _admin(settings: Settings) -> Iterator[Problem]:
    if not settings.admin.listen or settings.admin.public:
        return
    address, _ = parse_host_port_or_zero(settings.admin.listen)
    if not is_loopback(address):
        wrong = "would show metrics, with customers' names, to other machines without a password"
        mend = 'listen on "127.0.0.1:8025", or write admin.public = true behind a firewall or proxy'
        yield _error("admin.listen", settings.admin.listen, wrong, mend)
