"""What may stand behind an address in MAIL and RCPT: each extension's parameters, and how their values must look.

Source: RFC 5321 §4.1.2 and §4.1.1.11, RFC 1870 §3 (SIZE), RFC 6152 §2 (BODY), RFC 3030 §3 (BINARYMIME), RFC 4954 §5
(AUTH), RFC 3461 §4 (RET, ENVID, NOTIFY, ORCPT), RFC 6531 §3.4 (SMTPUTF8), RFC 8689 §2 (REQUIRETLS), RFC 4865 §4
(HOLDFOR, HOLDUNTIL), RFC 2852 §4 (BY), RFC 6710 §3 (MT-PRIORITY).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ..mail.envelope import Body
from ..mail.status import Reply, printable
from .commands import CommandError
from .handling import parse_by, parse_date, parse_interval, parse_priority
from .notification import ENVID_LIMIT, decode_envid, decode_orcpt, parse_notify

_PARAM = re.compile("([A-Za-z0-9][A-Za-z0-9-]*+)(?:=([!-<>-~\u0080-\U0010ffff]+))?")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+")
_DIGITS = re.compile(r"[0-9]{1,20}")

BODIES: dict[str, Body] = {"7BIT": "7BIT", "8BITMIME": "8BITMIME", "BINARYMIME": "BINARYMIME"}


def _size(value: str) -> None:
    if not _DIGITS.fullmatch(value):
        raise CommandError(Reply(501, "5.5.4", "SIZE= wants a number of at most 20 digits"))


def _body(value: str) -> None:
    if value.upper() not in BODIES:
        raise CommandError(Reply(501, "5.5.4", "BODY= is 7BIT, 8BITMIME or BINARYMIME"))


def _auth_sender(value: str) -> None:
    if value != "<>" and not _XTEXT.fullmatch(value):
        raise CommandError(Reply(501, "5.5.4", "AUTH= wants an address in xtext, or <>"))


def _ret(value: str) -> None:
    if value.upper() not in ("FULL", "HDRS"):
        raise CommandError(Reply(501, "5.5.4", "RET= is FULL or HDRS"))


def _envid(value: str) -> None:
    if decode_envid(value) is None:
        words = f"ENVID= wants at most {ENVID_LIMIT} characters of xtext that stand for printable ASCII"
        raise CommandError(Reply(501, "5.5.4", words))


def _smtputf8(value: str) -> None:
    if value:
        raise CommandError(Reply(501, "5.5.4", "SMTPUTF8 has no value"))


def _requiretls(value: str) -> None:
    if value:
        raise CommandError(Reply(501, "5.5.4", "REQUIRETLS has no value"))


def _hold_for(value: str) -> None:
    if parse_interval(value) is None:
        raise CommandError(Reply(501, "5.5.4", "HOLDFOR= wants from 1 to 999999999 seconds"))


def _hold_until(value: str) -> None:
    if parse_date(value) is None:
        raise CommandError(Reply(501, "5.5.4", "HOLDUNTIL= wants a date and time such as 2030-12-31T23:59:00Z"))


def _by(value: str) -> None:
    if parse_by(value) is None:
        words = "BY= wants seconds, a semicolon and N or R, such as 3600;R; with R the seconds are more than 0"
        raise CommandError(Reply(501, "5.5.4", words))


def _mt_priority(value: str) -> None:
    if parse_priority(value) is None:
        raise CommandError(Reply(501, "5.5.4", "MT-PRIORITY= wants a number from -9 to 9"))


def _notify(value: str) -> None:
    if parse_notify(value) is None:
        raise CommandError(Reply(501, "5.5.4", "NOTIFY= is NEVER, or a list of SUCCESS, FAILURE and DELAY"))


def _orcpt(value: str) -> None:
    if decode_orcpt(value) is None:
        words = "ORCPT= wants a type, a semicolon and an address in xtext that stands for printable ASCII"
        raise CommandError(Reply(501, "5.5.4", words))


MAIL_PARAMS: dict[str, Callable[[str], None]] = {
    "SIZE": _size,
    "BODY": _body,
    "AUTH": _auth_sender,
    "RET": _ret,
    "ENVID": _envid,
    "SMTPUTF8": _smtputf8,
    "REQUIRETLS": _requiretls,
    "HOLDFOR": _hold_for,
    "HOLDUNTIL": _hold_until,
    "BY": _by,
    "MT-PRIORITY": _mt_priority,
}
RCPT_PARAMS: dict[str, Callable[[str], None]] = {"NOTIFY": _notify, "ORCPT": _orcpt}


def parse_params(text: str, known: dict[str, Callable[[str], None]]) -> dict[str, str]:
    """The parameters in ``text``, names in upper case, values as given; those of ``known`` are supported.

    Raises :class:`~.commands.CommandError`.
    """
    found: dict[str, str] = {}
    for word in text.split():
        match = _PARAM.fullmatch(word)
        if match is None:
            raise CommandError(Reply(501, "5.5.4", f"{printable(word, 40)}: this is not a parameter"))
        name, value = match[1].upper(), match[2] or ""
        check = known.get(name)
        if check is None:  # RFC 5321 §4.1.1.11
            raise CommandError(Reply(555, "5.5.4", f"{printable(name, 40)}: this parameter is not supported"))
        if name in found:
            raise CommandError(Reply(501, "5.5.4", f"{name}: this parameter is given twice"))
        check(value)
        found[name] = value
    return found
