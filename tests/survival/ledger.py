"""The books: what was sent against what arrived, was reported and was removed, recipient by recipient."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

import attrs

SETTLING = 5.0
"""Seconds that a 250 of the far side may lie before the death of who had it: then its commit was due long ago.  And as
many behind it, where the far side had no turn."""


@attrs.define
class Sent:
    """What the sender knows of a message: "open" until it was answered, then "promised" or "refused"."""

    tag: str
    sender: str
    recipients: tuple[str, ...]
    time: float
    state: str = "open"
    id: str = ""


@attrs.frozen
class Copy:
    """A message that arrived for a recipient: when it was taken, and by the hand of which process.

    ``told``: whether its 250 was sent; where it was not, another copy has to follow (RFC 1047).
    """

    tag: str
    recipient: str
    time: float
    process: int
    intact: bool = True
    told: bool = True


@attrs.frozen
class Death:
    """The end of a process that did not end by itself: between when it stopped working and when it was gone."""

    process: int
    since: float
    until: float


@attrs.define
class Verdict:
    """What was found.  ``wrong`` is empty when all agree."""

    wrong: list[str] = attrs.Factory(list)
    delivered: int = 0
    bounced: int = 0
    removed: int = 0
    queued: int = 0
    twice: int = 0
    untold: int = 0
    """Copies that another one followed because the connection was lost before their 250 was sent."""

    latest: float = 0.0
    """The longest time between a 250 of the far side and the death that made a second copy of it."""

    promised: int = 0
    unanswered: int = 0


def judge(
    sent: Iterable[Sent],
    copies: Iterable[Copy],
    reports: Iterable[Copy],
    removed: Iterable[tuple[str, str]] = (),
    queued: Iterable[tuple[str, str]] = (),
    deaths: Iterable[Death] = (),
    slack: Iterable[tuple[float, float]] = (),
    settled: Mapping[tuple[str, str], int] | None = None,
    lost: Collection[tuple[int, str]] = (),
) -> Verdict:
    """Hold all ledgers against each other.

    Each recipient of a promised message ends in one of: delivered, reported to the sender as failed, removed, queued;
    of one without an answer in one of these or none; of a refused one in none.  A second copy, or a second report, is
    right only if the process that handed over the one before it died within :data:`SETTLING` seconds of the 250, or
    can't have had that.
    ``slack`` are times in which commits can't be made, so that a process may have had a 250 for longer.
    ``settled`` counts how often the service itself wrote down an end, by queue id and recipient.  ``lost``: processes
    with the tags of what they said themselves that they delivered and could not write down.
    """
    verdict = Verdict()
    by_process = defaultdict(list)
    for death in deaths:
        by_process[death.process].append(death)
    ends: dict[tuple[str, str], set[str]] = defaultdict(set)
    for kind, things in (("delivered", copies), ("bounced", reports)):
        together: dict[tuple[str, str], list[Copy]] = defaultdict(list)
        for copy in things:
            together[copy.tag, copy.recipient].append(copy)
            if not copy.intact:
                verdict.wrong.append(f"{copy.tag} arrived for {copy.recipient} with another content")
        for key, several in together.items():
            ends[key].add(kind)
            several.sort(key=lambda it: it.time)
            for first in several[:-1]:
                if not first.told:
                    verdict.untold += 1
                    continue
                verdict.twice += 1
                if (first.process, first.tag) in lost:
                    continue
                late = _explained(first, by_process[first.process], list(slack))
                if late is None:
                    verdict.wrong.append(f"{key} was {kind} {len(several)} times, and nobody died over it: {several}")
                else:
                    verdict.latest = max(verdict.latest, late)
    for key in removed:
        ends[key].add("removed")
    for key in queued:
        ends[key].add("queued")
    _balance(list(sent), ends, verdict)
    wrong = [f"{key} was settled {count} times" for key, count in (settled or {}).items() if count > 1]
    verdict.wrong.extend(wrong)
    return verdict


def _explained(copy: Copy, deaths: list[Death], slack: list[tuple[float, float]]) -> float | None:
    """How long before its process' death a copy was taken; None where that death does not explain another copy."""
    for death in deaths:
        allowed = SETTLING + sum(
            min(end, death.until) - max(begin, copy.time)
            for begin, end in slack
            if min(end, death.until) > max(begin, copy.time)
        )
        # What a process sent just before it died may be read, and answered, when it is gone.
        if death.since - allowed <= copy.time <= death.until + SETTLING:
            return max(0.0, death.since - copy.time)
    return None


def _balance(sent: list[Sent], ends: dict[tuple[str, str], set[str]], verdict: Verdict) -> None:
    known = set()
    for message in sent:
        verdict.promised += message.state == "promised"
        verdict.unanswered += message.state == "open"
        for recipient in message.recipients:
            key = message.tag, recipient
            known.add(key)
            end = ends.get(key, set())
            if message.state == "refused" and end:
                verdict.wrong.append(f"{key} was refused, and {' and '.join(sorted(end))}")
            elif message.state == "promised" and not end:
                verdict.wrong.append(f"{key}, {message.id}, was promised and is lost")
            elif len(end) > 1:
                verdict.wrong.append(f"{key}, {message.id}, was {' and '.join(sorted(end))}")
            for name in end:
                setattr(verdict, name, getattr(verdict, name) + 1)
    verdict.wrong.extend(f"{key} was never sent, and {' and '.join(ends[key])}" for key in ends if key not in known)
