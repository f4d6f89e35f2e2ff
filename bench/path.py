"""``python bench/path.py [ROUNDS]``: the processor time of accepting 4 KiB, in one thread and without sockets or syncs.

Fifty sessions hand in a message each, step by step, to the real parts and a real queue; their messages are one commit.
What is left out (the kernel's part, the writer's thread, the caches that both spoil) is about as much again, but is
nothing that our code does; so this tells one version from another where the noise of a machine hides it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport

from twisted_mta.admin.eventlog import EventLog
from twisted_mta.admin.metrics import Metrics
from twisted_mta.parts import assemble, fan_out
from twisted_mta.queue.writer import InlineWriter
from twisted_mta.runtime.tuning import settle
from twisted_mta.testing.dns import FakeResolver
from twisted_mta.testing.reactor import MemoryReactor
from twisted_mta.testing.settings import layered

SESSIONS = 50
ROUNDS = 100
CONFIG = """
hostname = "mx.test.example"
[relay]
networks = ["127.0.0.0/8"]
smarthost = "127.0.0.1:3697"
private_addresses = true
[queue]
sync = "never"
[smtp]
commands = 100000000
[log]
file = "{folder}/log"
"""
STEPS = (
    b"MAIL FROM:<a@bench.test>\r\n",
    b"RCPT TO:<b@example.test>\r\n",
    b"DATA\r\n",
    b"From: <a@bench.test>\r\nTo: <b@example.test>\r\nDate: Mon, 1 Jan 2026 00:00:00 +0000\r\n"
    b"Message-Id: <1234.1@bench.test>\r\n\r\n" + (b"X" * 78 + b"\r\n") * 49 + b".\r\n",
)


class _Writer(InlineWriter):
    """Commits when it is told to, what has come until then."""

    def _run(self) -> None:
        """Not yet."""

    def commit(self) -> None:
        super()._run()


class _Transport(StringTransport):
    last = b""

    def write(self, data: bytes) -> None:
        self.last = data


def measure(folder: Path, rounds: int) -> list[float]:
    """Microseconds of processor time for a message, of each round."""
    settings = layered(folder, CONFIG.format(folder=folder))
    settings = attrs.evolve(settings, listen={"mx": settings.listen["mx"]})
    clock, writer = MemoryReactor(time.time()), _Writer()
    log = EventLog(settings.log, settings.hostname, reactor=clock)
    parts = assemble(settings, clock, fan_out(log, Metrics()), writer=writer, resolver=FakeResolver({}))
    started = Deferred.fromCoroutine(parts.start())
    while not started.called:
        writer.commit()
        clock.advance(0)
    sessions: list[tuple[Any, Any]] = []
    make: Any = _Transport
    for _ in range(SESSIONS):
        protocol: Any = parts.factories["mx"].buildProtocol(IPv4Address("TCP", "127.0.0.1", 4000))
        transport: Any = make(IPv4Address("TCP", "127.0.0.1", 25), IPv4Address("TCP", "127.0.0.1", 4000))
        protocol.makeConnection(transport)
        protocol.dataReceived(b"EHLO bench.test\r\n")
        sessions.append((protocol, transport))
    settle()
    found = []
    for _ in range(rounds + 10):
        began = time.thread_time()
        for step in STEPS:
            for protocol, _transport in sessions:
                protocol.dataReceived(step)
        writer.commit()
        log.flush()
        found.append((time.thread_time() - began) / SESSIONS * 1e6)
        if not all(b" queued as " in transport.last for _, transport in sessions):
            raise RuntimeError(f"not accepted: {sessions[0][1].last!r}")
    return sorted(found[10:])


def main(rounds: int = ROUNDS) -> None:
    folder = Path(tempfile.mkdtemp(prefix="mta-path-"))
    try:
        found = measure(folder, rounds)
    finally:
        shutil.rmtree(folder)
    quartile, median = found[len(found) // 4], found[len(found) // 2]
    print(f"us a message: least {found[0]:.1f}, quartile {quartile:.1f}, median {median:.1f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
