"""The values of MAIL's parameters that say when and how urgently to deliver.  Sans-I/O, pure.

Source: RFC 4865 §4 (HOLDFOR, HOLDUNTIL; a date is RFC 3339's date-time, erratum 2040), RFC 2852 §4 (BY),
RFC 6710 §3 (MT-PRIORITY).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from ..mail.envelope import ByMode

HOLD_LIMIT = 34
"""Octets by which RFC 4865 §4 makes MAIL longer."""
BY_LIMIT = 17
"""The same of RFC 2852 §2."""
PRIORITY_LIMIT = 15
"""The same of RFC 6710 §3."""

LATEST = 999_999_999
"""Seconds that a parameter may name: nine digits."""

_INTERVAL = re.compile(r"[1-9][0-9]{0,8}")
_DATE = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?(?:Z|([+-])([0-9]{2}):([0-9]{2}))",
    re.IGNORECASE,
)
_BY = re.compile(r"([+-]?[0-9]{1,9});([NR])(T?)", re.IGNORECASE)
_PRIORITY = re.compile(r"0|-?[1-9]")
_MODES: dict[str, ByMode] = {"N": "N", "R": "R"}


def parse_interval(text: str) -> int | None:
    """Seconds of HOLDFOR (RFC 4865 §4), None for what is none."""
    return int(text) if _INTERVAL.fullmatch(text) else None


def parse_date(text: str) -> float | None:
    """A date-time of RFC 3339 §5.6 as seconds since the epoch, None for what is none."""
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    day, hour, minute, second, fraction, sign, off_hours, off_minutes = match.groups()
    if int(second) > 60 or (sign and (int(off_hours) > 23 or int(off_minutes) > 59)):
        return None
    try:
        when = datetime.fromisoformat(f"{day}T{hour}:{minute}:00").replace(tzinfo=UTC)
    except ValueError:
        return None
    offset = timedelta(hours=int(off_hours), minutes=int(off_minutes)) if sign else timedelta()
    east = offset.total_seconds() if sign == "+" else -offset.total_seconds()
    return when.timestamp() - east + int(second) + (float(f"0.{fraction}") if fraction else 0.0)


def write_date(when: float) -> str:
    """A time as a date-time of RFC 3339 in UTC, whole seconds."""
    return datetime.fromtimestamp(int(when), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_by(text: str) -> tuple[int, ByMode, bool] | None:
    """BY's seconds, mode and trace (RFC 2852 §4), None for what is none.  Mode R wants more than 0 seconds."""
    match = _BY.fullmatch(text)
    if match is None:
        return None
    seconds, mode = int(match[1]), _MODES[match[2].upper()]
    return None if mode == "R" and seconds <= 0 else (seconds, mode, bool(match[3]))


def write_by(seconds: float, mode: ByMode, trace: bool) -> str:
    """BY's value for what is left of the time, which for mode N may be less than nothing (RFC 2852 §4.1.4)."""
    whole = max(-LATEST, min(LATEST, int(seconds // 1)))
    return f"{whole};{mode}{'T' if trace else ''}"


def parse_priority(text: str) -> int | None:
    """MT-PRIORITY's value (RFC 6710 §3), None for what is none."""
    return int(text) if _PRIORITY.fullmatch(text) else None
