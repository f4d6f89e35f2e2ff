"""What a client may ask of the queue with MAIL: FUTURERELEASE, DELIVERBY, MT-PRIORITY.

Source: RFC 4865 §4 and §5, RFC 2852 §4, RFC 6710 §3 to §5, RFC 3463 §3 and RFC 5248 (the codes).
"""

from __future__ import annotations

from collections.abc import Mapping

from ..config.settings import Settings
from ..config.units import format_duration
from ..mail.envelope import ByMode, Handling
from ..mail.status import MailError, Reply
from ..policy.interfaces import Peer
from ..wire.handling import LATEST, parse_by, parse_date, parse_interval, parse_priority, write_date

POLICY = b"MIXER"
"""The priority assignment policy that EHLO names (RFC 6710 §3 and appendix B): -4 non-urgent, 0 normal, 4 urgent; all
19 priorities are told apart."""

PARAMETERS = frozenset(("HOLDFOR", "HOLDUNTIL", "BY", "MT-PRIORITY"))
"""MAIL's parameters that this is about."""


def offers(settings: Settings, role: str, now: float) -> dict[bytes, list[bytes] | None]:
    """What EHLO offers on a listener of this role.  The latest date is of the present minute: see :func:`stale`."""
    extensions = settings.extensions
    found: dict[bytes, list[bytes] | None] = {}
    if role == "submission" and extensions.future_release:
        longest = _longest(settings)
        latest = write_date(now // 60 * 60 + longest)
        found[b"FUTURERELEASE"] = [b"%d" % longest, latest.encode("ascii")]
    if extensions.deliver_by:
        least = int(extensions.deliver_by_minimum)
        found[b"DELIVERBY"] = [b"%d" % least] if least else None
    if extensions.mt_priority:
        found[b"MT-PRIORITY"] = [POLICY]
    return found


def stale(settings: Settings, role: str, now: float) -> int:
    """Changes when what :func:`offers` gives does."""
    return int(now // 60) if role == "submission" and settings.extensions.future_release else 0


def asked(
    settings: Settings, peer: Peer, params: Mapping[str, str], now: float
) -> tuple[Handling | None, Reply | None]:
    """What MAIL's parameters ask for, None for nothing, and the reply that a changed priority calls for.

    The parameters are well formed.  Raises MailError for what is not offered, or out of bounds.
    """
    release, request = _release(settings, peer, params, now)
    deliver_by, mode, trace = _deliver_by(settings, params, now)
    if deliver_by and release >= deliver_by:
        raise MailError(Reply(501, "5.5.4", "BY= would be over before the message is released"))
    priority, reply = _priority(settings, peer, params)
    handling = Handling(
        release=release, request=request, deliver_by=deliver_by, by_mode=mode, trace=trace, priority=priority
    )
    return (handling if handling != _USUAL else None), reply


_USUAL = Handling()


def _longest(settings: Settings) -> int:
    return min(int(settings.extensions.future_release), LATEST)


def _not_offered(name: str) -> MailError:
    return MailError(Reply(555, "5.5.4", f"{name}: this parameter is not supported here"))


def _release(settings: Settings, peer: Peer, params: Mapping[str, str], now: float) -> tuple[float, str]:
    interval, date = params.get("HOLDFOR"), params.get("HOLDUNTIL")
    if interval is None and date is None:
        return 0.0, ""
    longest = _longest(settings)
    if not longest or peer.role != "submission":  # RFC 4865 §4: for submission alone
        raise _not_offered("HOLDFOR" if date is None else "HOLDUNTIL")
    if interval is not None and date is not None:
        raise MailError(Reply(501, "5.5.4", "HOLDFOR= and HOLDUNTIL= exclude each other"))
    if interval is not None:
        seconds = parse_interval(interval)
        assert seconds is not None
        if seconds > longest:
            raise MailError(Reply(501, "5.5.4", f"HOLDFOR= takes {longest} seconds at most"))
        return now + seconds, f"for;{seconds}"
    assert date is not None
    when = parse_date(date)
    assert when is not None
    if when <= now:
        raise MailError(Reply(501, "5.5.4", f"HOLDUNTIL= wants a time to come, and it is {write_date(now)} already"))
    if when > now + longest:
        raise MailError(Reply(501, "5.5.4", f"HOLDUNTIL= takes {write_date(now + longest)} at the latest"))
    return when, f"until;{date}"


def _deliver_by(settings: Settings, params: Mapping[str, str], now: float) -> tuple[float, ByMode, bool]:
    text = params.get("BY")
    if text is None:
        return 0.0, "", False
    if not settings.extensions.deliver_by:
        raise _not_offered("BY")
    parsed = parse_by(text)
    assert parsed is not None
    seconds, mode, trace = parsed
    least = int(settings.extensions.deliver_by_minimum)
    if mode == "R" and seconds < least:  # RFC 2852 §4: a 55z reply
        raise MailError(Reply(555, "5.5.4", f"BY= with mode R takes {format_duration(least)} at least here"))
    return now + seconds, mode, trace


def _priority(settings: Settings, peer: Peer, params: Mapping[str, str]) -> tuple[int, Reply | None]:
    text = params.get("MT-PRIORITY")
    if text is None:
        return 0, None
    if not settings.extensions.mt_priority:
        raise _not_offered("MT-PRIORITY")
    wanted = parse_priority(text)
    assert wanted is not None
    trusted = peer.account is not None or peer.relaying or peer.role == "lmtp"
    highest = settings.extensions.highest_priority if trusted else 0
    if wanted <= highest:
        return wanted, None
    why = "the highest that is taken here" if trusted else "higher ones are for those who have logged in"
    # RFC 6710 §5 and §10: 2.3.6, and the text begins with the new priority.
    return highest, Reply(250, "2.3.6", f"{highest} is the priority of the message: {why}")
