"""Load by Postfix's smtp-source, and the sinks in which the mail ends."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import attrs

from bench.group import Group
from bench.machine import Times

SMTP_SOURCE, SMTP_SINK = "/usr/sbin/smtp-source", "/usr/sbin/smtp-sink"
LOOPBACK = "127.0.0.1"
SENDER, RECIPIENT = "from@bench.test", "to@example.test"
TIMEOUT = 60.0
"""Seconds for one load to come to its end."""
AFTER = 0.7
"""Seconds that a server gets to clean up after the last message, which is part of its price."""


def allow_many_files() -> None:
    """Raises our own limit of open files as far as it goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def free_port() -> int:
    """A port of loopback on which nobody listens."""
    with socket.socket() as trial:
        trial.bind((LOOPBACK, 0))
        port: int = trial.getsockname()[1]
        return port


def wait_banner(port: int, process: subprocess.Popen[bytes] | None = None, seconds: float = 30.0) -> None:
    """Waits for an SMTP greeting."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), 2) as connection:
            connection.settimeout(5)
            if connection.recv(512).startswith(b"220"):
                connection.sendall(b"QUIT\r\n")
                connection.recv(512)
                return
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"ended with status {process.returncode} before it greeted on port {port}")
        time.sleep(0.05)
    raise RuntimeError(f"no greeting on port {port} in {seconds:g} s")


class Sink:
    """smtp-sink, which counts the messages that arrive; the count is read from a pipe."""

    def __init__(self) -> None:
        self.port = free_port()
        self.count = 0
        self._tail = b""
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        self._process = subprocess.Popen(self._argv(), stdout=write, stderr=subprocess.DEVNULL, cwd="/")
        os.close(write)
        wait_banner(self.port, self._process)

    def _argv(self) -> list[str]:
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        return [SMTP_SINK, *user, "-c", "-m", "5000", f"inet:{LOOPBACK}:{self.port}", "1000"]

    def poll(self) -> int:
        """How many have arrived."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._read, 1 << 20):
                self._tail = (self._tail + data)[-300:]
        found = re.findall(rb"mesg=(\d+)\r", self._tail)
        if found:
            self.count = int(found[-1])
        return self.count

    def close(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait()
        os.close(self._read)


class RecipientSink(Sink):
    """One that counts recipients, for one message may come in several copies (:mod:`bench.sink`)."""

    def _argv(self) -> list[str]:
        return [sys.executable, str(Path(__file__).with_name("sink.py")), str(self.port)]


class SilentHop:
    """A next hop that takes connections and never says a word: mail for it stays queued, whoever holds it.

    Both sides schedule, connect and wait alike, so that accepting is measured and not how mail is put on hold.
    """

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.bind((LOOPBACK, 0))
        self._listener.listen(1000)
        self.port: int = self._listener.getsockname()[1]

    def close(self) -> None:
        """Ends it."""
        self._listener.close()


@attrs.frozen
class Load:
    """What smtp-source is to hand in: over ``sessions`` at once, which end after each message unless ``reuse``."""

    messages: int
    sessions: int = 50
    length: int = 4096
    reuse: bool = True
    recipients: int = 1

    def argv(self, port: int) -> list[str]:
        """The command line."""
        return [
            *(SMTP_SOURCE, "-4", "-C", "20", "-s", str(self.sessions), "-m", str(self.messages)),
            *("-l", str(self.length), "-M", "bench.test", "-f", SENDER, "-t", RECIPIENT, "-r", str(self.recipients)),
            *(["-d"] if self.reuse else []),
            f"{LOOPBACK}:{port}",
        ]


def run(load: Load, port: int, group: Group, sink: Sink | None) -> dict[str, float]:
    """One load; with a sink, until everything has arrived there.

    Gives ``accept_rate`` and ``relay_rate`` (messages a second; of a :class:`RecipientSink`, recipients), ``cpu``
    (seconds of the server per 1,000 messages), ``source_cpu`` (those of smtp-source), and what part of the time the
    machine was busy, idle and so on.  Raises RuntimeError when something was refused, or took too long.
    """
    each = load.recipients if isinstance(sink, RecipientSink) else 1
    expected, start, cpu = load.messages * each, sink.poll() if sink else 0, group.cpu()
    before, began = Times.now(), time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        source = subprocess.Popen(load.argv(port), stdout=subprocess.DEVNULL, stderr=errors)
        accepted, arrived, last, spent = 0.0, began, -1, 0.0
        while True:
            now = time.perf_counter()
            count = sink.poll() - start if sink else expected
            if count != last:
                last, arrived = count, now
            if not accepted:
                ended, status, usage = os.wait4(source.pid, os.WNOHANG)
                if ended:
                    accepted, spent = now, usage.ru_utime + usage.ru_stime
                    source.returncode = os.waitstatus_to_exitcode(status)
                    if source.returncode:
                        errors.seek(0)
                        raise RuntimeError(f"smtp-source failed: {errors.read()[-300:].strip()}")
            if accepted and count >= expected:
                break
            if now - began > TIMEOUT:
                if not accepted:
                    source.kill()
                    source.wait()
                raise RuntimeError(f"only {count} of {expected} had arrived after {TIMEOUT:g} s")
            time.sleep(0.005)
    shares = Times.now().since(before)
    time.sleep(AFTER)
    result = {
        **shares,
        "accept_rate": expected / (accepted - began),
        "cpu": (group.cpu() - cpu) * 1000 / load.messages,
        "source_cpu": spent * 1000 / load.messages,
    }
    if sink:
        result["relay_rate"] = expected / (arrived - began)
    return result
