"""What large messages cost small ones: how long 4 KiB wait for their 250, alone and while 50 MiB messages come in.

    python bench/mixed.py [--seconds 10] [--sessions 4] [--size 52428800] [--rounds 2] [--dir PATH]

The service on loopback; what it takes stays in its queue.  One client hands in small messages, one after the other,
each from MAIL to the 250 after its content; others, in a process of their own, a large one after the other.  Printed
are, for each round, both sides' rates, how long small ones took, and by how much the service's memory (without pages of
files) grew for each session of a large one.  Clients and server share the processors.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.load import LOOPBACK, SilentHop
from bench.targets import Ours

SMALL = 4096
PACE = 0.01
"""Seconds between two small messages."""
ENVELOPE = b"MAIL FROM:<from@bench.test>\r\nRCPT TO:<to@example.test>\r\nDATA\r\n"


def body(size: int) -> bytes:
    """Content of so many octets, but for what a server adds, with its end."""
    size -= min(size, 4096) // 2
    line = b"x" * 76 + b"\r\n"
    return b"Subject: bench\r\n\r\n" + line * (size // len(line)) + b".\r\n"


class Client:
    """One session, kept."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((LOOPBACK, port), 60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = self._socket.makefile("rb")
        self._reply(b"220")
        self._socket.sendall(b"EHLO client.test\r\n")
        while self._read.readline()[3:4] == b"-":
            pass

    def _reply(self, code: bytes) -> None:
        line = self._read.readline()
        if not line.startswith(code):
            raise RuntimeError(f"answered {line!r}")

    def send(self, content: bytes) -> float:
        """Hand in a message; the seconds that it took."""
        began = time.perf_counter()
        self._socket.sendall(ENVELOPE)
        for code in (b"250", b"250", b"354"):
            self._reply(code)
        self._socket.sendall(content)
        self._reply(b"250")
        return time.perf_counter() - began

    def close(self) -> None:
        """End it."""
        self._socket.close()


def crowd(port: int, sessions: int, size: int, seconds: float, count: multiprocessing.Queue[int]) -> None:
    """Large messages, one after the other in each session, in a process of its own."""
    content, end = body(size), time.monotonic() + seconds
    done = [0] * sessions

    def one(number: int) -> None:
        client = Client(port)
        while time.monotonic() < end:
            client.send(content)
            done[number] += 1
        client.close()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    count.put(sum(done))


def anonymous(pids: list[int]) -> int:
    """KiB of memory that is no mapped file."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    total += int(line.split()[1])
    return total


def read(target: Ours, hop: SilentHop, sessions: int, options: argparse.Namespace) -> str:
    """One reading, beside so many sessions of large messages; a line of it."""
    group = target.start(hop.port)
    large = context = None
    try:
        client, content = Client(target.port), body(SMALL)
        for _ in range(200):
            client.send(content)
        before = most = anonymous(group.pids())
        count: multiprocessing.Queue[int] = multiprocessing.Queue()
        if sessions:
            context = (target.port, sessions, options.size, options.seconds, count)
            large = multiprocessing.Process(target=crowd, args=context)
            large.start()
            time.sleep(1)
        times: list[float] = []
        end = time.monotonic() + options.seconds - (1 if sessions else 0)
        while time.monotonic() < end:
            times.append(client.send(content))
            time.sleep(PACE)
            if len(times) % 10 == 0:
                most = max(most, anonymous(group.pids()))
        client.close()
        rate = count.get(timeout=60) * options.size / options.seconds / (1 << 20) if sessions else 0.0
        if sessions and not rate:
            raise RuntimeError("no large message was taken")
        times.sort()
        p50, p99 = times[len(times) // 2] * 1e3, times[len(times) * 99 // 100] * 1e3
        grew = f", {(most - before) / 1024 / sessions:4.1f} MiB more for each" if sessions else ""
        return (
            f"beside {sessions} large ({rate:5.1f} MiB/s): {len(times):5} small ones, median {p50:5.1f} ms,"
            f" 99 % {p99:6.1f} ms, longest {times[-1] * 1e3:6.1f} ms{grew}"
        )
    finally:
        if large is not None:
            large.join(60)
        target.stop()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each reading")
    parser.add_argument("--sessions", type=int, default=4, help="of large messages")
    parser.add_argument("--size", type=int, default=50 << 20, help="octets of a large message")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dir", default="", help="where the queue is made; by default a temporary directory")
    options = parser.parse_args()
    base = Path(options.dir or tempfile.mkdtemp(prefix="mta-mixed-"))
    base.mkdir(exist_ok=True)
    os.chmod(base, 0o755)
    hop = SilentHop()
    try:
        for _ in range(options.rounds):
            for sessions in (0, 1, options.sessions):
                print(read(Ours(base), hop, sessions, options), flush=True)
    finally:
        hop.close()
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()
