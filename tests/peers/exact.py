"""A remote that keeps messages octet for octet (aiosmtpd), and a DNS that leads to it."""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType
from typing import Any, NamedTuple, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from .process import LOOPBACK, free_port, wait_for


class Taken(NamedTuple):
    """One message as it arrived: the content is without dot-stuffing, its lines end with CRLF."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes


class ExactSink:
    """An aiosmtpd server in a thread.  ``refuse`` maps recipients to the reply that refuses them."""

    def __init__(self, refuse: dict[str, str] | None = None, *, port: int = 0) -> None:
        self.port = port or free_port()
        self.refuse = refuse or {}
        self.taken: list[Taken] = []
        self._lock = threading.Lock()
        self._controller = Controller(
            self, hostname=LOOPBACK, port=self.port, ready_timeout=10, data_size_limit=1 << 28, enable_SMTPUTF8=False
        )

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """aiosmtpd's hook."""
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """aiosmtpd's hook."""
        content: Any = envelope.content
        with self._lock:
            self.taken.append(Taken(envelope.mail_from or "", tuple(envelope.rcpt_tos), bytes(content)))
        return "250 2.0.0 taken"

    def wait_count(self, count: int, seconds: float = 15.0) -> list[Taken]:
        """The messages, once there are at least ``count``."""
        wait_for(f"{count} messages in the exact sink", lambda: len(self.taken) >= count, seconds)
        return list(self.taken)

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(AssertionError):
            self._controller.stop()
