"""What a server said it can do in its answer to EHLO or LHLO (RFC 5321 §4.1.1.1, §2.2; RFC 9422 §3)."""

from __future__ import annotations

import re

import msgspec

from ..mail.status import Reply

_LIMIT = re.compile(r"([A-Za-z]+)=([1-9][0-9]{0,5})")


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """The extensions a server offers, as far as we use them.

    ``size`` is None where SIZE is not offered, 0 where it is without a limit (RFC 1870 §4).  ``deliver_by`` is the
    shortest time after which DELIVERBY returns a message, in seconds, None where it is not offered (RFC 2852 §2);
    ``mt_priority``: MT-PRIORITY is (RFC 6710).  ``recipients`` is how many one transaction may have, ``mails`` how many
    transactions one session (RFC 9422 §4.1 and §4.2), 0 for as many as one likes.  ``keywords`` has all, in upper case,
    with their parameters.
    """

    pipelining: bool = False
    size: int | None = None
    eight_bit: bool = False
    starttls: bool = False
    dsn: bool = False
    smtputf8: bool = False
    chunking: bool = False
    binary: bool = False
    deliver_by: int | None = None
    mt_priority: bool = False
    requiretls: bool = False
    recipients: int = 0
    mails: int = 0
    keywords: dict[str, str] = {}


NONE = Capabilities()
"""What a server offers that knows only HELO."""


def parse_capabilities(reply: Reply) -> Capabilities:
    """The offers in a positive reply to EHLO; the first line is the server's name.  Never raises."""
    keywords: dict[str, str] = {}
    for line in reply.text.split("\n")[1:]:
        keyword, _, parameters = line.partition(" ")
        if keyword:
            keywords.setdefault(keyword.upper(), parameters.strip())
    size: int | None = None
    if "SIZE" in keywords:
        digits = keywords["SIZE"]
        # RFC 1870 §4: up to 20 digits; whatever else stands there is no limit that could be kept.
        size = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 20 else 0
    deliver_by: int | None = None
    if "DELIVERBY" in keywords:
        digits = keywords["DELIVERBY"]
        deliver_by = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 9 else 0
    limits = _limits(keywords["LIMITS"]) if "LIMITS" in keywords else {}
    return Capabilities(
        pipelining="PIPELINING" in keywords,
        size=size,
        eight_bit="8BITMIME" in keywords,
        starttls="STARTTLS" in keywords,
        dsn="DSN" in keywords,
        smtputf8="SMTPUTF8" in keywords,
        chunking="CHUNKING" in keywords,
        binary="BINARYMIME" in keywords,
        deliver_by=deliver_by,
        mt_priority="MT-PRIORITY" in keywords,
        requiretls="REQUIRETLS" in keywords,
        recipients=limits.get("RCPTMAX", 0),
        mails=limits.get("MAILMAX", 0),
        keywords=keywords,
    )


def _limits(text: str) -> dict[str, int]:
    """The values of LIMITS; what is not well formed is passed over (RFC 9422 §3)."""
    found: dict[str, int] = {}
    for word in text.split():
        match = _LIMIT.fullmatch(word)
        if match is not None:
            found.setdefault(match[1].upper(), int(match[2]))
    return found
