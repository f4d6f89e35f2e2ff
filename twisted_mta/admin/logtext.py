"""Events as lines that look at home beside Postfix's log, so that people's eyes, pflogsumm and fail2ban read them.

A line is ``Nov 23 12:00:00 mx1 mta/smtp[123]: ID: to=<…>, relay=…, delay=…, delays=…, dsn=…, status=sent (…)``: the
program's part says which of Postfix's daemons would have written it, with the listener's name in between where Postfix
would be told to write one (``mta/submission/smtpd``).  The stamp is local time, as syslog's (RFC 3164 §4.1.2).

Whatever a peer may have chosen goes through :func:`~twisted_mta.mail.status.printable`, and in ``<…>`` also loses its
angle brackets: nobody outside can make a line, the end of a field, or a terminal do something.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..mail.events import (
    Accepted,
    AnyEvent,
    Authenticated,
    AuthFailed,
    Bounced,
    Connected,
    Deferred,
    Delivered,
    Disconnected,
    Done,
    Operator,
    Outcome,
    Overloaded,
    Rejected,
    Reported,
    Service,
    TlsFailed,
)
from ..mail.status import printable

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_STAGES = {"connect": "CONNECT", "helo": "EHLO", "mail": "MAIL", "rcpt": "RCPT", "data": "DATA"}
_STAGES["content"] = "END-OF-MESSAGE"  # Postfix's word for what comes after the final dot
_REPORTS = {"failed": "sender non-delivery", "delayed": "sender delay", "double-bounce": "postmaster non-delivery"}
_BRACKETS = {ord("<"): "\\x3c", ord(">"): "\\x3e"}
_TEXT = 500  # characters of a reply


def inside(text: str) -> str:
    """A peer's words fit to stand between angle brackets."""
    text = printable(text, _TEXT)
    return text.translate(_BRACKETS) if ">" in text or "<" in text else text


def seconds(value: float) -> str:
    """Seconds with two significant digits and no more decimals than two, as Postfix's ``delay=`` has them."""
    if value >= 10:
        return str(int(value))
    text = f"{value:.1f}" if value >= 1 else f"{value:.2f}"
    return text.rstrip("0").rstrip(".")


def _replied(text: str) -> str:
    return printable(text, _TEXT)


class TextFormat:
    """Turns events into text: "" for what the text form leaves out, else one or more lines, each with its newline.

    ``hostname`` and ``pid`` stand in each line.  Not for use from several threads.
    """

    def __init__(self, hostname: str, pid: int) -> None:
        self._host = printable(hostname.partition(".")[0] or "localhost").replace(" ", "_")
        self._pid = pid
        self._second = -1
        self._stamp = ""
        self._programs: dict[str, str] = {}
        self._receivers: dict[str, str] = {}
        self._qmgr = self._program("qmgr")
        self._cleanup = self._program("cleanup")
        self._bounce = self._program("bounce")
        self._writers: dict[type[Any], Callable[[Any], str]] = {
            Connected: self._connected,
            Disconnected: self._disconnected,
            Authenticated: self._authenticated,
            AuthFailed: self._auth_failed,
            Rejected: self._rejected,
            TlsFailed: self._tls_failed,
            Overloaded: self._overloaded,
            Accepted: self._accepted,
            Delivered: self._delivered,
            Deferred: self._deferred,
            Bounced: self._bounced,
            Operator: self._operator,
            Reported: self._reported,
            Done: self._done,
            Service: self._service,
        }

    def __call__(self, event: AnyEvent) -> str:
        """The lines for one event."""
        writer = self._writers.get(type(event))
        if writer is None:
            return ""
        second = int(event.time)
        if second != self._second:
            self._second = second
            t = time.localtime(second)
            self._stamp = f"{_MONTHS[t.tm_mon - 1]} {t.tm_mday:2d} {t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}"
        return writer(event)

    def _program(self, name: str) -> str:
        """`` mx1 mta/NAME[123]: ``, kept."""
        text = self._programs.get(name)
        if text is None:
            safe = printable(name).replace(" ", "_").replace(":", "_")
            text = self._programs[name] = f" {self._host} mta/{safe}[{self._pid}]: "
        return text

    def _receiver(self, listener: str) -> str:
        text = self._receivers.get(listener)
        if text is None:
            name = "smtpd" if listener in ("", "mx", "smtp") else f"{listener}/smtpd"
            text = self._receivers[listener] = self._program(name)
        return text

    def _connected(self, e: Connected) -> str:
        return (
            f"{self._stamp}{self._receiver(e.listener)}connect from unknown[{printable(e.client)}]:{e.port}"
            f" session={e.session}{f' proxy={printable(e.proxy)}' if e.proxy else ''}\n"
        )

    def _disconnected(self, e: Disconnected) -> str:
        return (
            f"{self._stamp}{self._receiver(e.listener)}disconnect from unknown[{printable(e.client)}]"
            f" messages={e.messages} errors={e.errors} commands={e.commands}"
            f" reason={printable(e.reason, 40)} seconds={seconds(e.seconds)} session={e.session}\n"
        )

    def _authenticated(self, e: Authenticated) -> str:
        return (
            f"{self._stamp}{self._receiver(e.listener)}unknown[{printable(e.client)}]: SASL {printable(e.mechanism)}"
            f" authentication succeeded: sasl_username={inside(e.user)}, customer={printable(e.customer)}\n"
        )

    def _auth_failed(self, e: AuthFailed) -> str:
        what = "could not be checked" if e.temporary else "failed"
        return (
            f"{self._stamp}{self._receiver(e.listener)}warning: unknown[{printable(e.client)}]:"
            f" SASL {printable(e.mechanism, 20)} authentication {what}: {_replied(e.reply)},"
            f" sasl_username={inside(e.user)}\n"
        )

    def _rejected(self, e: Rejected) -> str:
        stage = _STAGES.get(e.stage) or printable(e.stage, 20).upper()
        client = f"{_host(e.hostname)}[{printable(e.client)}]"
        line = f"{self._stamp}{self._receiver(e.listener)}NOQUEUE: reject: {stage} from {client}: {_replied(e.reply)};"
        if e.stage not in ("connect", "helo"):
            line += f" from=<{inside(e.sender)}>"
            if e.recipient:
                line += f" to=<{inside(e.recipient)}>"
        if e.helo:
            line += f" helo=<{inside(e.helo)}>"
        if e.user:
            line += f" sasl_username={inside(e.user)}"
        if e.limit:
            line += f" customer={printable(e.customer)} limit={printable(e.limit, 40)}"
        return line + "\n"

    def _tls_failed(self, e: TlsFailed) -> str:
        return (
            f"{self._stamp}{self._receiver(e.listener)}SSL_accept error from unknown[{printable(e.client)}]:"
            f" {_replied(e.reason)}\n"
        )

    def _overloaded(self, e: Overloaded) -> str:
        busiest = ", ".join(f"[{printable(client)}] {count}" for client, count in e.clients.items())
        return (
            f"{self._stamp}{self._receiver(e.listener)}warning: overload: refused={e.refused}"
            f" waited={seconds(e.waited)} clients={busiest}\n"
        )

    def _accepted(self, e: Accepted) -> str:
        stamp = self._stamp
        if not e.client:
            first = f"{stamp}{self._program('pickup')}{e.id}: sender=<{inside(e.sender)}>\n"
        elif e.user:
            by = f", sasl_method={printable(e.mechanism)}" if e.mechanism else ""
            first = (
                f"{stamp}{self._receiver(e.listener)}{e.id}: client={_host(e.hostname)}[{printable(e.client)}]{by},"
                f" sasl_username={inside(e.user)}, session={e.session}\n"
            )
        else:
            client = f"{_host(e.hostname)}[{printable(e.client)}]"
            shown = f", ccert_fingerprint={e.certificate}" if e.certificate else ""
            first = f"{stamp}{self._receiver(e.listener)}{e.id}: client={client}{shown}, session={e.session}\n"
        named = inside(e.message_id.removeprefix("<").removesuffix(">"))
        queue = "queue active"
        if e.release:
            queue = f"held until {_utc(e.release)}"
        asked = f" requiretls={printable(e.requiretls)}" if e.requiretls else ""
        if e.deliver_by:
            asked += f" by={_utc(e.deliver_by)};{e.by_mode}"
        if e.priority:
            asked += f" priority={e.priority}"
        return (
            f"{first}{stamp}{self._cleanup}{e.id}: message-id=<{named}>\n"
            f"{stamp}{self._qmgr}{e.id}: from=<{inside(e.sender)}>, size={e.size}, nrcpt={len(e.recipients)}"
            f" ({queue}){asked}\n"
        )

    def _outcome(self, e: Outcome, status: str) -> str:
        original = f" orig_to=<{inside(e.original)}>," if e.original and e.original != e.recipient else ""
        relay = printable(e.relay).replace(",", "\\x2c") or "none"
        waited = e.delay - e.seconds
        program = self._program(e.destination.partition(":")[0])
        return (
            f"{self._stamp}{program}{e.id}: to=<{inside(e.recipient)}>,{original}"
            f" relay={relay}, delay={seconds(e.delay)}, delays=0/{seconds(max(0.0, waited))}/0/{seconds(e.seconds)},"
            f" dsn={printable(e.status, 20)}, status={status} ({_replied(e.reply)})"
        )

    def _delivered(self, e: Delivered) -> str:
        line = self._outcome(e, "sent")
        if e.converted:
            line += f" converted={printable(e.converted, 20)}"
        return f"{line} tls={printable(e.tls).replace(' ', '/')}\n" if e.tls else line + "\n"

    def _deferred(self, e: Deferred) -> str:
        return self._outcome(e, "deferred") + "\n"

    def _bounced(self, e: Bounced) -> str:
        line = self._outcome(e, "bounced") + "\n"
        if e.expired:
            line += f"{self._stamp}{self._qmgr}{e.id}: from=<{inside(e.sender)}>, status=expired, returned to sender\n"
        if not e.report:
            line += f"{self._stamp}{self._bounce}{e.id}: no notification for <{inside(e.recipient)}>: "
            line += f"{_replied(e.fate) or 'null sender'}\n"
        return line

    def _reported(self, e: Reported) -> str:
        kind = _REPORTS.get(e.kind) or printable(e.kind, 40)
        return (
            f"{self._stamp}{self._bounce}{e.about}: {kind} notification: {e.id}\n"
            f"{self._stamp}{self._qmgr}{e.id}: from=<{inside(e.sender)}>, size={e.size}, nrcpt={len(e.recipients)}"
            " (queue active)\n"
        )

    def _operator(self, e: Operator) -> str:
        to = "".join(f", to=<{inside(address)}>" for address in e.recipients[:10])
        more = f" and {len(e.recipients) - 10} more" if len(e.recipients) > 10 else ""
        return f"{self._stamp}{self._program('operator')}{e.id}: {e.action} by {printable(e.who, 60)}{to}{more}\n"

    def _done(self, e: Done) -> str:
        return f"{self._stamp}{self._qmgr}{e.id}: removed\n"

    def _service(self, e: Service) -> str:
        detail = f" -- {_replied(e.detail)}" if e.detail else ""
        return f"{self._stamp}{self._program('master')}{printable(e.what)}{detail}\n"


def _utc(when: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))


def _host(name: str) -> str:
    return printable(name).replace(" ", "_").replace("[", "_") if name else "unknown"
