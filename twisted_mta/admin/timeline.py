"""A story as people read it: what it is, what happened when, and how it stands."""

from __future__ import annotations

import time

from ..mail.events import (
    Accepted,
    Bounced,
    Deferred,
    Delayed,
    Delivered,
    Done,
    HistoryEvent,
    Operator,
    Outcome,
    Reported,
    Routed,
)
from .describe import message_facts, sender_of, some, tls_wish
from .story import ENDS, End, Story, alike, tally
from .tables import Cell, age, clean, clock_time, due, facts, lapse, many, moment, pad, paint, size, wrap

COLOURS = {
    "delivered": "green",
    "bounced": "red",
    "expired": "red",
    "removed": "red",
    "deferred": "yellow",
    "held": "magenta",
    "queued": "cyan",
}
_MODES = {"R": "returned", "N": "the sender is told", "": "as usual"}
_LAPSE, _WORD = 7, 9
_INDENT = " " * (2 + 12 + 2 + _LAPSE + 2 + _WORD + 2)  # up to the sentence: two, the time, the lapse, the word


def verdict(story: Story, now: float) -> str:
    """In one line: "1 delivered, 2 deferred"."""
    ends = story.ends()
    parts = [paint(f"{number:,} {fate}", COLOURS[fate]) for fate, number in tally(ends).items()]
    words = ", ".join(parts) or "nothing known of its recipients"
    times = [event.time for event in story.events]
    if story.finished and times:
        return f"{words}; done after {lapse(times[-1] - times[0])}"
    if story.message is not None:
        return f"{words}; in the queue for {age(now - story.message.arrived)}"
    return words


def render(story: Story, reports: dict[str, Story], now: float, width: int | None) -> list[str]:
    """The whole page.  ``reports`` are the stories of the reports about the message."""
    lines = [paint(f"Message {story.id}", "bold"), f"  {verdict(story, now)}", ""]
    lines += facts(_header(story, now), width)
    lines += _timeline(story.events, width)
    lines += ["", paint("Recipients", "bold")]
    ends = story.ends()
    for n, end in enumerate(ends):
        lines.append(_named(end))
        details = _details(end, reports, now)
        # what several recipients in a row have in common is said once, below the last of them
        if n + 1 == len(ends) or ends[n + 1].fate != end.fate or _details(ends[n + 1], reports, now) != details:
            room = None if width is None else max(24, width - 13)
            lines += [" " * 13 + paint(line, "dim") for text in details for line in wrap(clean(text), room)]
    return lines


def _header(story: Story, now: float) -> list[tuple[str, Cell | str]]:
    """What the message is: from its reception's event, which outlives it, or from the queue."""
    accepted, about = story.accepted, story.about
    if accepted is None:
        pairs = message_facts(story.message, now) if story.message is not None else []
        if about is not None:
            pairs = [("Report", f"{about.kind}, about {about.about}"), ("To", some(about.recipients)), *pairs]
        return pairs
    client = accepted.client or "this machine"
    if accepted.helo and accepted.client:
        client += f" ({accepted.helo})"
    how = [client]
    if accepted.client:
        how += [accepted.protocol, f"listener {accepted.listener}" if accepted.listener else "", accepted.tls]
    customer = accepted.customer
    if customer and accepted.user:
        customer += f", user {accepted.user}"
    pairs = [
        ("From", sender_of(accepted.sender)),
        ("To", some(accepted.recipients, 10)),
        ("Message-ID", accepted.message_id),
        ("Size", size(accepted.size)),
        ("Customer", customer),
        ("Came from", ", ".join(filter(None, how))),
        ("Session", accepted.session),
        ("TLS", tls_wish(accepted.requiretls)),
    ]
    if story.message is not None:
        expires = story.message.expires
        pairs.append(("Expires", f"{moment(expires)} ({due(expires, now)})"))
    return pairs


def _timeline(events: tuple[HistoryEvent, ...], width: int | None) -> list[str]:
    lines: list[str] = []
    day, first = "", events[0].time if events else 0.0
    for event, addresses in alike(events):
        today = time.strftime("%A, %Y-%m-%d", time.localtime(event.time))
        if today != day:
            day = today
            lines += ["", paint(today, "bold")]
        word, colour, text, more = _told(event, addresses)
        passed = event.time - first
        lapsed = paint(pad(f"+{lapse(passed)}" if passed >= 0.0005 else "", _LAPSE), "dim")
        room = None if width is None else max(24, width - len(_INDENT))
        head, *rest = wrap(clean(text), room)
        lines.append(f"  {clock_time(event.time)}  {lapsed}  {paint(pad(word, _WORD), colour)}  {head}")
        lines += [_INDENT + line for line in rest]
        for extra in more:
            lines += [_INDENT + paint(line, "dim") for line in wrap(clean(extra), room)]
    return lines


def _told(event: HistoryEvent, addresses: list[str]) -> tuple[str, str, str, list[str]]:
    """An event's word, its colour, its sentence, and what is worth knowing besides."""
    if isinstance(event, Outcome):
        return _outcome(event, addresses)
    if isinstance(event, Accepted):
        where = f"from {event.client}" if event.client else "from this machine"
        text = f"{where}, on disk {lapse(event.seconds)} after MAIL" if event.client else where
        return "accepted", "", text, _asked(event)
    if isinstance(event, Routed):
        parts = [f"{some(to)} → {destination}" for destination, to in event.destinations.items()]
        if len(parts) > 20:
            parts = [*parts[:20], f"and {len(parts) - 20:,} more destinations"]
        for alias, targets in event.expanded.items():
            parts.insert(0, f"{alias} stands for {some(targets)}")
        return "routed", "", parts[0] if parts else "nowhere", parts[1:]
    if isinstance(event, Delayed):
        return (
            "warned",
            "yellow",
            f"the sender was told that {some(event.recipients)} is late: report {event.report}",
            [],
        )
    if isinstance(event, Operator):
        return event.action, "magenta", f"by {event.who}: {some(event.recipients) or 'all'}", []
    if isinstance(event, Reported):
        return "reported", "", f"{event.kind}: about {event.about}, to {some(event.recipients)}, as {event.id}", []
    assert isinstance(event, Done)
    return "done", "bold", "no recipient is left in the queue", []


def _asked(event: Accepted) -> list[str]:
    """What the sender asked of the queue, as it was granted."""
    found = []
    if event.release:
        found.append(f"put off by the sender until {moment(event.release)}")
    if event.deliver_by:
        found.append(f"to be delivered by {moment(event.deliver_by)}, else {_MODES[event.by_mode]}")
    if event.priority:
        found.append(f"priority {event.priority}")
    return found


def _outcome(event: Outcome, addresses: list[str]) -> tuple[str, str, str, list[str]]:
    who = some(addresses)
    if event.original and len(addresses) == 1:
        who += f" (as {event.original})"
    more = []
    place = ", ".join(filter(None, [event.relay, event.tls]))
    if isinstance(event, Delivered) and event.file:
        more.append(event.file)
    elif place:
        more.append(place)
    more.append(event.reply)
    if isinstance(event, Delivered):
        if event.converted:
            more.append(f"converted to {event.converted}, as the server takes no more")
        return "delivered", "green", who, more
    if isinstance(event, Deferred):
        wait = age(event.next_attempt - event.time)
        more.append(f"attempt {event.attempt}, the next in {wait}")
        return "deferred", "yellow", who, more
    assert isinstance(event, Bounced)
    more.append(f"report {event.report}" if event.report else f"no report: {event.fate or 'null sender'}")
    return ("expired" if event.expired else "bounced"), "red", who, more


def _named(end: End) -> str:
    name = f"{end.address} (as {end.original})" if end.original and end.original != end.address else end.address
    return f"  {paint(pad(end.fate, _WORD), COLOURS[end.fate])}  {clean(name)}"


def _details(end: End, reports: dict[str, Story], now: float) -> list[str]:
    more = []
    if end.fate == "delivered":
        more.append(end.file or end.relay)
    elif end.fate in ENDS:
        more.append(end.reply)
    else:
        more.append(end.destination)
        if end.next_attempt is not None:
            tried = f"tried {many(end.attempts, 'time')}, " if end.attempts else ""
            more.append(f"{tried}next attempt {due(end.next_attempt, now)} ({moment(end.next_attempt)})")
        more.append(end.reply)
    if end.report:
        told = reports.get(end.report)
        fate = ", ".join(tally(told.ends())) if told is not None else "no longer known"
        to = some(told.about.recipients) if told is not None and told.about is not None else "the sender"
        more.append(f"report {end.report} to {to}: {fate}")
    return [text for text in more if text]
