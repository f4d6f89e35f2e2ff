"""Many SMTP clients in one process, for what smtp-source can't do: TLS, AUTH, offering more than is taken, being slow.

``python -m bench.clients JSON`` does one :class:`Job` and prints JSON lines; :mod:`bench.drive` starts it.  One
thread, epoll, and a generator for each session that says what to send and how many replies to wait for.  MAIL, RCPT and
DATA are pipelined (RFC 2920), as other MTAs send them.
"""

from __future__ import annotations

import base64
import gc
import json
import os
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable, Generator
from typing import Any

import attrs

from bench.load import LOOPBACK, RECIPIENT, SENDER, allow_many_files

Steps = Generator[tuple[bytes, int], list[int], str]
"""Yields octets to send and the number of replies to wait for, is sent their codes, and returns the outcome."""

IN, OUT = select.EPOLLIN, select.EPOLLOUT
OPENING = 90.0
"""Seconds in which all sessions of a "hold" have to be open."""
_BIND_ADDRESS_NO_PORT = 24
"""IP_BIND_ADDRESS_NO_PORT (ip(7)): the port is chosen at connect, so that it need not be free for all peers."""


@attrs.frozen
class Job:
    """What a process of clients does.

    ``kind`` is "load" (``messages`` over ``sessions`` at once, ``per_session`` each), "flood" (``rate`` new sessions a
    second for ``seconds``, whatever becomes of the earlier ones), "hold" (``sessions`` that have said EHLO and are
    silent) or "slow" (``sessions`` that send one octet of a message each second).  ``sources`` is from how many
    addresses of loopback; 0: from 127.0.0.1.  ``window`` bounds how many sessions of "hold" or "slow" are being opened
    at once.  ``patience``: seconds after which a session is given up.
    """

    kind: str
    port: int
    sessions: int = 50
    messages: int = 0
    per_session: int = 1
    length: int = 4096
    rate: float = 0.0
    seconds: float = 0.0
    tls: bool = False
    user: str = ""
    password: str = ""
    sender: str = SENDER
    recipient: str = RECIPIENT
    sources: int = 0
    offset: int = 0
    window: int = 50
    patience: float = 30.0


def replies(buffer: bytes) -> tuple[list[int], bytes]:
    """The codes of the whole replies in a buffer (RFC 5321 §4.2.1), and what is left of it."""
    if not buffer.endswith(b"\n"):
        whole, _, left = buffer.rpartition(b"\n")
    else:
        whole, left = buffer[:-1], b""
    lines = whole.split(b"\n") if whole else []
    last = max((at for at, line in enumerate(lines) if line[3:4] != b"-"), default=-1)
    codes = [int(line[:3]) for line in lines[: last + 1] if line[3:4] != b"-"]
    return codes, b"\n".join([*lines[last + 1 :], left]) if last + 1 < len(lines) else left


def source_address(number: int) -> str:
    """One of many addresses of loopback."""
    return f"127.1.{number // 250 % 250}.{number % 250 + 1}"


def content(length: int) -> bytes:
    """A message of so many octets, with the end of the data."""
    header = b"From: <%s>\r\nTo: <%s>\r\nSubject: a message\r\n\r\n" % (SENDER.encode(), RECIPIENT.encode())
    lines, rest = divmod(max(0, length - len(header)), 72)
    return header + (b"x" * 70 + b"\r\n") * lines + (b"x" * (rest - 2) + b"\r\n" if rest > 2 else b"") + b".\r\n"


class Client:
    """One connection, in the hands of its steps."""

    __slots__ = ("buffer", "codes", "loop", "mask", "out", "shaking", "sock", "started", "steps", "wanted")

    def __init__(self, loop: Loop, steps: Steps, number: int) -> None:
        self.loop, self.steps = loop, steps
        self.started = time.monotonic()
        self.buffer = self.out = b""
        self.codes: list[int] = []
        self.wanted = 0
        self.shaking: bool | None = None  # None: not connected yet
        self.mask = OUT
        job = loop.job
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if job.sources:
            self.sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
            self.sock.bind((source_address(job.offset + number % job.sources), 0))
        loop.clients[self.sock.fileno()] = self
        loop.poll.register(self.sock.fileno(), OUT)
        self.sock.connect_ex((LOOPBACK, job.port))

    def ready(self, mask: int) -> None:
        """The socket can be read or written."""
        try:
            if self.shaking is None:
                self._connected()
            if self.shaking:
                self._shake()
            elif mask & OUT:
                self._send()
            if not self.shaking and mask & ~OUT:
                self._receive()
        except (ssl.SSLWantReadError, BlockingIOError):
            self._watch(IN | OUT if self.out else IN)
        except ssl.SSLWantWriteError:
            self._watch(IN | OUT)
        except OSError:
            self.end("refused" if self.codes and self.codes[-1] // 100 == 4 else "lost")

    def _connected(self) -> None:
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        self.shaking = self.loop.tls is not None
        if self.loop.tls is not None:
            descriptor = self.sock.fileno()
            self.sock = self.loop.tls.wrap_socket(self.sock, do_handshake_on_connect=False)
            assert self.sock.fileno() == descriptor
        else:
            self._begin()

    def _shake(self) -> None:
        assert isinstance(self.sock, ssl.SSLSocket)
        self.sock.do_handshake()
        self.shaking = False
        self._begin()

    def _begin(self) -> None:
        self.out, self.wanted = next(self.steps)
        self._watch(IN)

    def _watch(self, mask: int) -> None:
        if mask != self.mask:
            self.mask = mask
            self.loop.poll.modify(self.sock.fileno(), mask)

    def _send(self) -> None:
        if self.out:
            sent = self.sock.send(self.out)
            self.out = self.out[sent:]
        self._watch(IN | OUT if self.out else IN)

    def _receive(self) -> None:
        while True:  # to the end, for TLS may hold decrypted octets back
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionError
            codes, self.buffer = replies(self.buffer + data)
            self.codes += codes
            if self.wanted and len(self.codes) >= self.wanted and not self._step():
                return
            if not self.loop.tls:
                return

    def _step(self) -> bool:
        """Hand the codes over and send what comes next; whether the session goes on."""
        codes, self.codes = self.codes, []
        try:
            self.out, self.wanted = self.steps.send(codes)
        except StopIteration as done:
            self.end(done.value)
            return False
        self.give(self.out)
        return True

    def give(self, data: bytes) -> None:
        """Send octets, now if the socket takes them."""
        try:
            sent = self.sock.send(data) if data else 0
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            sent = 0
        self.out = data[sent:]
        if self.out:
            self._watch(IN | OUT)

    def end(self, outcome: str) -> None:
        """Close, and tell."""
        if self.loop.clients.pop(self.sock.fileno(), None) is not None:
            self.sock.close()
            self.loop.ended(self, outcome)


class Loop:
    """The epoll loop of one job.  ``ended`` is told of each session's outcome."""

    def __init__(self, job: Job, ended: Callable[[Client, str], None]) -> None:
        self.job, self.ended = job, ended
        self.poll = select.epoll()
        self.clients: dict[int, Client] = {}
        self.tls: ssl.SSLContext | None = None
        if job.tls:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE  # it is made up

    def turn(self, timeout: float) -> None:
        """Wait once, and serve who is ready."""
        for descriptor, mask in self.poll.poll(max(0.0, timeout), 1000):
            if client := self.clients.get(descriptor):
                client.ready(mask)

    def give_up(self) -> None:
        """End those that have taken longer than ``patience``; the oldest come first."""
        limit = time.monotonic() - self.job.patience
        for client in [client for client in self.clients.values() if client.started < limit]:
            client.end("late")


class Tally:
    """What became of the sessions and messages."""

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(("done", "refused", "lost", "late"), 0)
        self.latencies: list[float] = []
        self.refusals: list[float] = []
        self.times: list[float] = []
        self.began = time.monotonic()
        self.last = self.began

    def accepted(self, since: float) -> None:
        """A message had its 250."""
        self.last = time.monotonic()
        self.latencies.append(self.last - since)
        self.times.append(self.last - self.began)

    def ended(self, client: Client, outcome: str) -> None:
        """A session is over."""
        self.outcomes[outcome] += 1
        if outcome == "refused":
            self.refusals.append(time.monotonic() - client.started)

    def report(self) -> dict[str, Any]:
        """All of it, for the one who started us."""
        return {
            "outcomes": self.outcomes,
            "latencies": self.latencies,
            "refusals": self.refusals,
            "times": self.times,
            "began": self.began,
            "last": self.last,
            "cpu": time.process_time(),
        }


def opening(job: Job) -> Generator[tuple[bytes, int], list[int], bool]:
    """Greeting, EHLO, and AUTH where there is a user; whether all was granted."""
    codes = yield b"", 1
    if codes[-1] != 220:
        return False
    codes = yield b"EHLO bench.test\r\n", 1
    if job.user and codes[-1] == 250:
        secret = base64.b64encode(f"\0{job.user}\0{job.password}".encode())
        codes = yield b"AUTH PLAIN " + secret + b"\r\n", 1
    return codes[-1] // 100 == 2


def hand_in(job: Job, body: bytes, tally: Tally, began: float) -> Steps:
    """A session that hands in its messages."""
    envelope = f"MAIL FROM:<{job.sender}>\r\nRCPT TO:<{job.recipient}>\r\nDATA\r\n".encode()
    if not (yield from opening(job)):
        return "refused"
    for number in range(job.per_session):
        since = time.monotonic() if number else began
        codes = yield envelope, 3
        if codes[-1] != 354:
            return "refused"
        codes = yield body, 1
        if codes[-1] != 250:
            return "refused"
        tally.accepted(since)
    yield b"QUIT\r\n", 1
    return "done"


def load(job: Job) -> None:
    """See :class:`Job`."""
    body, tally = content(job.length), Tally()
    loop = Loop(job, tally.ended)
    left = job.messages // job.per_session
    number = 0
    while left or loop.clients:
        while left and len(loop.clients) < job.sessions:
            left, number = left - 1, number + 1
            Client(loop, hand_in(job, body, tally, time.monotonic()), number)
        loop.turn(1.0)
        loop.give_up()
    print(json.dumps(tally.report()), flush=True)


def flood(job: Job) -> None:
    """See :class:`Job`."""
    body, tally = content(job.length), Tally()
    loop = Loop(job, tally.ended)
    number, total = 0, int(job.rate * job.seconds)
    looked = tally.began
    while number < total or loop.clients:
        now = time.monotonic()
        due = min(total, int((now - tally.began) * job.rate))
        while number < due:
            number += 1
            Client(loop, hand_in(job, body, tally, now), number)
        loop.turn(tally.began + (number + 1) / job.rate - now if number < total else 0.1)
        if now - looked > 0.2:
            looked = now
            loop.give_up()
    print(json.dumps(tally.report()), flush=True)


def stay(job: Job, opened: Callable[[], None]) -> Steps:
    """A session that stays, silent or in the middle of a message."""
    if not (yield from opening(job)):
        return "refused"
    if job.kind == "slow":
        codes = yield f"MAIL FROM:<{job.sender}>\r\nRCPT TO:<{job.recipient}>\r\nDATA\r\n".encode(), 3
        if codes[-1] != 354:
            return "refused"
    opened()
    yield (b"Subject: slow\r\n\r\n" if job.kind == "slow" else b""), 1
    return "refused"


def hold(job: Job) -> None:
    """See :class:`Job`.  Says when all are there, and after the end of standard input how many still were."""
    tally, ready = Tally(), [0]
    loop = Loop(job, tally.ended)

    def opened() -> None:
        ready[0] += 1

    number = 0
    end = time.monotonic() + OPENING
    while ready[0] + sum(tally.outcomes.values()) < job.sessions and time.monotonic() < end:
        while number < job.sessions and number - ready[0] - sum(tally.outcomes.values()) < job.window:
            number += 1
            Client(loop, stay(job, opened), number)
        loop.turn(1.0)
    print(json.dumps({"open": ready[0], "outcomes": tally.outcomes}), flush=True)
    loop.poll.register(sys.stdin.fileno(), IN)
    octet = time.monotonic()
    while not select.select([sys.stdin], [], [], 0)[0]:
        loop.turn(1.0)
        if job.kind == "slow" and time.monotonic() - octet >= 1:
            octet = time.monotonic()
            for client in list(loop.clients.values()):
                client.give(b"x")
    print(json.dumps({"open": len(loop.clients), "outcomes": tally.outcomes}), flush=True)


def main() -> None:
    """The command."""
    job = Job(**json.loads(sys.argv[1]))
    allow_many_files()
    gc.disable()
    {"load": load, "flood": flood, "hold": hold, "slow": hold}[job.kind](job)


if __name__ == "__main__":
    main()
