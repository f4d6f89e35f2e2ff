"""How a DNS list is written in the settings: ``zone[=network,network…][*weight]``, as Postfix's postscreen has it."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from .units import UnitError, parse_domain

_FORM = re.compile(r"([^=*]+)(?:=([0-9./,]+))?(?:\*(-?[0-9]{1,3}))?")
_MEND = 'write it as "zen.isp.example", "zen.isp.example=127.0.0.2/31,127.0.0.4*2" or "allow.isp.example*-1"'
_ANSWERS = ipaddress.IPv4Network("127.0.0.0/8")


class DnsList(NamedTuple):
    """One list: its zone, the answers that count (RFC 5782 §2.1), and what one of them adds to the score."""

    zone: str
    answers: tuple[ipaddress.IPv4Network, ...]
    weight: int


def read_dns_list(text: str) -> DnsList:
    """Raises :class:`UnitError`."""
    form = _FORM.fullmatch(text.replace(" ", ""))
    if form is None:
        raise UnitError("is no DNS list", _MEND)
    zone, networks, weight = form.groups()
    try:
        answers = tuple(ipaddress.IPv4Network(one) for one in networks.split(",")) if networks else (_ANSWERS,)
    except ValueError:
        raise UnitError("has an answer that is no IPv4 network", _MEND) from None
    if not all(one.subnet_of(_ANSWERS) for one in answers):
        raise UnitError("has an answer outside 127.0.0.0/8, where all answers of lists are (RFC 5782 §2.1)", _MEND)
    if weight is not None and int(weight) == 0:
        raise UnitError("has weight 0, which says nothing", "write another weight, or leave the list out")
    return DnsList(parse_domain(zone), answers, int(weight) if weight is not None else 1)


def parse_dns_list(text: str) -> str:
    """The canonical form.  Raises :class:`UnitError`."""
    zone, answers, weight = read_dns_list(text)
    shown = "" if answers == (_ANSWERS,) else f"={','.join(map(_network, answers))}"
    return f"{zone}{shown}{'' if weight == 1 else f'*{weight}'}"


def _network(network: ipaddress.IPv4Network) -> str:
    return str(network.network_address if network.prefixlen == 32 else network)
