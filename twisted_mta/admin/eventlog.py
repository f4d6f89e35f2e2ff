"""The event log: each event as a line, or lines, of text or JSON.

Diagnostics of the program itself (faults, warnings) are not events: they go to ``twisted.logger``, which is twistd's
own log or standard error.  Events go where ``log.file`` says.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any, cast

import msgspec
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from ..config.settings import Log
from ..mail.events import AnyEvent, Connected, Disconnected, Done, Service
from .logfile import LogFile
from .logtext import TextFormat

BATCH = 64 << 10  # octets, or characters, after which the end of the reactor's turn is not waited for
_RETRY = 0.25  # seconds until what could not be written is tried again
_PAUSE = 0.005  # seconds between two writes, where more comes meanwhile

# Beyond what JSON escapes: what some reader takes for the end of a line, and what a terminal obeys or hides.
_UNSAFE = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_encode = msgspec.json.Encoder().encode


def safe_json(text: bytes) -> bytes:
    """A JSON document with what JSON allows and a terminal obeys, or a reader breaks lines at, escaped."""
    if text.isascii() and b"\x7f" not in text:
        return text
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text.decode()).encode()


def json_line(event: AnyEvent) -> bytes:
    """One event as one line of JSON (UTF-8), whatever a peer put into it."""
    try:
        return safe_json(_encode(event)) + b"\n"
    except UnicodeEncodeError:  # lone surrogates, from bytes that were no UTF-8
        return json.dumps(msgspec.to_builtins(event)).encode() + b"\n"


class EventLog:
    """An :data:`~twisted_mta.mail.events.EventSink` that writes ``settings.file``.  Whoever made it closes it.

    All events of one reactor turn are written with one ``write`` when the turn is over, or sooner when they are more
    than 64 KiB; those of the next turns within 5 ms go together, which is when a write for each would cost most.
    Nothing here raises, and a place that cannot be written costs no more than its lines
    (:class:`~twisted_mta.admin.logfile.LogFile`). For use on the reactor thread.
    """

    _log = Logger(namespace="twisted_mta.admin.eventlog")

    def __init__(self, settings: Log, hostname: str, pid: int | None = None, reactor: IReactorTime | None = None):
        if reactor is None:
            from twisted.internet import reactor as running

            reactor = cast(IReactorTime, running)
        self._reactor = reactor
        self._text_format = TextFormat(hostname, os.getpid() if pid is None else pid)
        self._lines: list[Any] = []
        self._ends: list[Any] = []
        self._events = 0
        self._size = 0
        self._flush_call: IDelayedCall | None = None
        self._faulty = False
        self._written = float("-inf")  # when it was or will be
        self._file: LogFile | None = LogFile(settings.file)
        self._use(settings)

    def _use(self, settings: Log) -> None:
        self._settings = settings
        self._sessions = settings.sessions
        self._text = settings.format == "text"
        self._format: Any = self._text_format if self._text else json_line

    def reconfigure(self, settings: Log) -> None:
        """Take over changed settings; the next event follows them."""
        self.flush()
        if self._file is not None and settings.file != self._settings.file:
            self._file.close()
            self._file = LogFile(settings.file)
        self._use(settings)

    def __call__(self, event: AnyEvent) -> None:
        """Take an event."""
        kind = type(event)
        if not self._sessions and (kind is Connected or kind is Disconnected):
            return
        try:
            line = self._format(event)
        except Exception:
            if not self._faulty:
                self._faulty = True
                self._log.failure("An event of the class {name} could not be written", name=kind.__name__)
            return
        if not line:
            return
        # the store tells that a message is done as it commits, before others tell in the same turn what came last
        (self._ends if kind is Done else self._lines).append(line)
        self._events += 1
        self._size += len(line)
        if self._size > BATCH:
            self.flush()
        elif self._flush_call is None:
            now = self._reactor.seconds()
            since = now - self._written
            self._written = now if not 0 <= since < _PAUSE else self._written + _PAUSE
            self._flush_call = self._reactor.callLater(max(0.0, self._written - now), self._turn)

    def flush(self) -> None:
        """Write what has been gathered now."""
        if self._file is None:
            self._lines.clear()
            self._ends.clear()
            return
        if self._events:
            lines, self._lines, self._ends = self._lines + self._ends, [], []
            data = "".join(lines).encode("utf-8", "backslashreplace") if self._text else b"".join(lines)
            written = self._file.write(data, self._events)
            self._events = self._size = 0
        else:
            written = self._file.drain()
        if not written and self._flush_call is None:
            self._flush_call = self._reactor.callLater(_RETRY, self._turn)

    def reopen(self) -> None:
        """Open the file again under its name: after SIGUSR1, for logrotate."""
        self.flush()
        if self._file is not None:
            self._file.reopen()

    def close(self) -> None:
        """Write what is left and close the file; events that come later are dropped."""
        self.flush()
        if self._flush_call is not None:
            self._flush_call.cancel()
            self._flush_call = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _turn(self) -> None:
        self._flush_call = None
        self.flush()


KEPT = 10_000
"""Events of a command that are kept in memory."""


class CommandLog:
    """The event log of a command: what it does to the queue goes into the service's log file, if there is one.

    Events are kept until :meth:`close`, or until there are :data:`KEPT`, and written with one ``write``; a file that is
    not there is not made.
    """

    def __init__(self, settings: Log, hostname: str) -> None:
        self._settings = settings
        self._text = TextFormat(hostname, os.getpid())
        self._events: list[AnyEvent] = []

    def __call__(self, event: AnyEvent) -> None:
        """Take an event; those of the service itself are none of a command's."""
        if not isinstance(event, Service):
            self._events.append(event)
            if len(self._events) >= KEPT:
                self.close()

    def close(self) -> None:
        """Write what was taken."""
        events, self._events = self._events, []
        path = self._settings.file
        if not events or path == "-" or not os.access(path, os.W_OK):
            return
        events.sort(key=lambda event: isinstance(event, Done))
        if self._settings.format == "text":
            data = "".join(map(self._text, events)).encode("utf-8", "backslashreplace")
        else:
            data = b"".join(map(json_line, events))
        file = LogFile(path)
        file.write(data, len(events))
        file.close()
