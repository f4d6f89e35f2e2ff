"""Where mail goes: what would relay for strangers, loop, or mix up mailboxes."""

from __future__ import annotations

import ipaddress
import string
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..addresses import Exposure, IpNetwork, exposure, points_at, too_wide
from ..problems import Problem, error, warning
from ..settings import Settings
from ..units import UNIX, parse_host_port
from .listeners import sockets

_NETWORKS_MEND = 'name the networks of your own clients, such as "192.0.2.0/24"'
_PLACEHOLDERS = ("state_dir", "domain", "user")


def check(settings: Settings) -> Iterator[Problem]:
    """All problems of relaying, of mailboxes, and of mail that would come back to us."""
    yield from _relay(settings)
    yield from _loops(settings)
    yield from _local(settings)


def _relay(settings: Settings) -> Iterator[Problem]:
    relay = settings.relay
    alone = [ipaddress.ip_network(network) for network in relay.networks]
    for network in alone:
        if wrong := too_wide(network):
            yield error("relay.networks", str(network), wrong, _NETWORKS_MEND)
    narrow = [network for network in alone if not too_wide(network)]
    for merged in _collapsed(narrow):
        if merged not in narrow and (wrong := too_wide(merged)):
            wrong = f"together are {merged}, which {wrong}"
            yield error("relay.networks", list(relay.networks), wrong, _NETWORKS_MEND)
    if relay.private_addresses and any(exposure(item[2]) is Exposure.PUBLIC for item in sockets(settings)):
        wrong = "lets anybody's MX record send our connections into the local network"
        yield warning("relay.private_addresses", True, wrong, "write false unless this is a closed network")
    if relay.tls == "none":
        yield warning("relay.tls", "none", "sends all mail in clear", 'write "may"')
    if relay.ca and not Path(relay.ca).is_file():
        yield error("relay.ca", relay.ca, "is no file that can be read", "name one, or leave it empty")
    if relay.connections_per_destination > relay.connections:
        wrong = f"is more than relay.connections = {relay.connections}"
        yield warning("relay.connections_per_destination", relay.connections_per_destination, wrong, "lower it")


def _collapsed(networks: Iterable[IpNetwork]) -> Iterator[IpNetwork]:
    listed = list(networks)
    yield from ipaddress.collapse_addresses(n for n in listed if isinstance(n, ipaddress.IPv4Network))
    yield from ipaddress.collapse_addresses(n for n in listed if isinstance(n, ipaddress.IPv6Network))


def _loops(settings: Settings) -> Iterator[Problem]:
    listening = [(address, port) for _, _, address, port in sockets(settings)]
    if settings.local.lmtp.startswith(UNIX) and any(address == settings.local.lmtp for address, _ in listening):
        wrong = "is our own listener: mail would go round in circles"
        yield error("local.lmtp", settings.local.lmtp, wrong, "name another socket")
    for key, text in (("relay.smarthost", settings.relay.smarthost), ("local.lmtp", settings.local.lmtp)):
        if text and not text.startswith("unix:"):
            target = parse_host_port(text)
            if points_at(target, listening, settings.hostname):
                yield error(
                    key, text, "is our own listener: mail would go round in circles", "name another host or port"
                )


def _local(settings: Settings) -> Iterator[Problem]:
    local = settings.local
    if not local.lmtp:
        yield from _mailbox(local.mailbox)
    if local.detail_delimiter and (len(local.detail_delimiter) > 1 or local.detail_delimiter not in "+-=_#%!~^&|"):
        mend = 'write one of + - = _ # % ! ~ ^ & |, or "" for none'
        yield error("local.detail_delimiter", local.detail_delimiter, "is no delimiter", mend)
    if len(set(local.domains)) < len(local.domains):
        twice = next(domain for domain in local.domains if local.domains.count(domain) > 1)
        yield warning("local.domains", twice, "is listed twice", "leave one out")


def _mailbox(template: str) -> Iterator[Problem]:
    key, known = "local.mailbox", ", ".join(f"{{{name}}}" for name in _PLACEHOLDERS)
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as malformed:
        yield error(key, template, f"has unbalanced braces ({malformed})", f"only {known} stand in braces")
        return
    names = [name for _, name, _, _ in parts if name is not None]
    for _, name, form, conversion in parts:
        if name is not None and (name not in _PLACEHOLDERS or form or conversion):
            yield error(key, template, "has a placeholder that means nothing", f"only {known} are filled in")
            return
    if "user" not in names:
        yield error(key, template, "would put everybody's mail into one mailbox", "write {user} into it")
    elif "domain" not in names:
        wrong = "puts users of the same name in two domains into one mailbox"
        yield warning(key, template, wrong, "write {domain} into it, unless there is one domain only")
    if not template.startswith(("/", "{state_dir}/")):
        wrong = "depends on the folder that the service is started from"
        yield error(key, template, wrong, "begin it with / or {state_dir}/")
