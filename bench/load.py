"""Measuring a mail server from outside: its processor time, its memory, and how fast mail goes in and comes out."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

SMTP_SOURCE, SMTP_SINK = "/usr/sbin/smtp-source", "/usr/sbin/smtp-sink"
LOOPBACK = "127.0.0.1"
SENDER, RECIPIENT = "from@bench.test", "to@example.test"
TIMEOUT = 180.0
"""Seconds for one workload to come to its end."""


def allow_many_files() -> None:
    """Raises our own limit of open files as far as it goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def free_port() -> int:
    """A port of loopback on which nobody listens."""
    with socket.socket() as trial:
        trial.bind((LOOPBACK, 0))
        return trial.getsockname()[1]


def wait_banner(port: int, process: subprocess.Popen | None = None, seconds: float = 30.0) -> None:
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


class Group:
    """All processes of one target.  In a cgroup of their own where that can be had, else found by their session."""

    def __init__(self, name: str) -> None:
        self.path: Path | None = None
        for root in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")):
            if (root / "cgroup.procs").exists():
                with contextlib.suppress(OSError):
                    path = root / f"mtabench-{name}-{os.getpid()}"
                    path.mkdir(exist_ok=True)
                    if (path / "cpu.stat").exists():
                        self.path = path
                        break
        self.main: subprocess.Popen | None = None

    def spawn(self, argv: list[str], folder: Path, log: Path) -> subprocess.Popen:
        """Starts the target's main process."""

        def enter() -> None:
            if self.path is not None:
                (self.path / "cgroup.procs").write_text("0")

        with log.open("ab") as output:
            self.main = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                preexec_fn=enter,
                start_new_session=True,
            )
        return self.main

    def pids(self) -> list[int]:
        """The processes that are alive."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                return [int(pid) for pid in (self.path / "cgroup.procs").read_text().split()]
            return []
        assert self.main is not None
        found = []
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if os.getsid(int(entry.name)) == self.main.pid and _state(int(entry.name)) != "Z":
                        found.append(int(entry.name))
        return found

    def cpu(self) -> float:
        """Seconds of processor time so far, of those that have exited too."""
        if self.path is not None:
            fields = dict(line.split() for line in (self.path / "cpu.stat").read_text().splitlines())
            return int(fields["usage_usec"]) / 1e6
        ticks = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                ticks += sum(int(field) for field in _stat(pid)[11:15])  # own and waited-for children's
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> tuple[float, int]:
        """KiB of memory in use (PSS: shared pages are divided among those who share), and how many processes."""
        total, count = 0, 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
                total += int(found.group(1)) if found else 0
                count += 1
        return total, count

    def end(self, grace: float = 15.0) -> None:
        """SIGTERM to the main process; what is left after a while is killed, one process at a time."""
        if self.main is None:
            return
        if self.main.poll() is None:
            self.main.terminate()
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            for pid in self.pids() if number is not None else ():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            end = time.monotonic() + grace
            while time.monotonic() < end:
                self.main.poll()
                if not self.pids():
                    break
                time.sleep(0.05)
            else:
                continue
            break
        self.main.wait()
        for _ in range(20):
            if self.path is None:
                return
            try:
                self.path.rmdir()
                return
            except OSError:
                time.sleep(0.1)


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def _state(pid: int) -> str:
    return _stat(pid)[0]


class Sink:
    """smtp-sink, which counts what arrives; the count is read from a pipe."""

    def __init__(self) -> None:
        self.port = free_port()
        self.count = 0
        self._tail = b""
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        self._process = subprocess.Popen(
            [SMTP_SINK, *user, "-c", "-m", "5000", f"inet:{LOOPBACK}:{self.port}", "1000"],
            stdout=write,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )
        os.close(write)
        wait_banner(self.port, self._process)

    def poll(self) -> int:
        """How many messages have arrived."""
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


class SilentHop:
    """A next hop that takes connections and never says a word: mail for it stays queued, whoever holds it.

    Both sides schedule, connect and wait alike, so that accepting is measured and not how mail is put on hold.
    """

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.bind((LOOPBACK, 0))
        self._listener.listen(1000)
        self.port = self._listener.getsockname()[1]

    def close(self) -> None:
        """Ends it."""
        self._listener.close()


def load(
    port: int, group: Group, sink: Sink | None, *, messages: int, sessions: int, length: int, reuse: bool
) -> dict[str, float]:
    """One workload by smtp-source; with a sink, until everything has arrived there.

    Gives ``accept_rate`` and ``relay_rate`` (messages a second), ``cpu`` (seconds per 1,000 messages).
    """
    start = sink.poll() if sink else 0
    cpu = group.cpu()
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        source = subprocess.Popen(
            [
                *(SMTP_SOURCE, "-4", "-C", "20", "-s", str(sessions), "-m", str(messages), "-l", str(length)),
                *("-M", "bench.test", "-f", SENDER, "-t", RECIPIENT),
                *(["-d"] if reuse else []),
                f"{LOOPBACK}:{port}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        accepted, arrived, last = 0.0, began, -1
        while True:
            now = time.perf_counter()
            count = sink.poll() - start if sink else messages
            if count != last:
                last, arrived = count, now
            if not accepted and source.poll() is not None:
                accepted = now
                if source.returncode:
                    errors.seek(0)
                    raise RuntimeError(f"smtp-source failed: {errors.read()[-300:]}")
            if accepted and count >= messages:
                break
            if now - began > TIMEOUT:
                source.kill()
                source.wait()
                raise RuntimeError(f"only {count} of {messages} messages in {TIMEOUT:g} s")
            time.sleep(0.005)
    time.sleep(0.7)  # what is cleaned up after the last message is part of its price
    result = {"accept_rate": messages / (accepted - began), "cpu": (group.cpu() - cpu) * 1000 / messages}
    if sink:
        result["relay_rate"] = messages / (arrived - began)
    return result


def idle_sessions(port: int, count: int) -> list[socket.socket]:
    """Opens sessions that have said EHLO and then nothing, and waits until each has had its reply."""
    opened: list[socket.socket] = []
    try:
        for _ in range(count):
            connection = socket.create_connection((LOOPBACK, port), 20)
            connection.settimeout(20)
            opened.append(connection)
            _reply(connection)
            connection.sendall(b"EHLO bench.test\r\n")
            _reply(connection)
    except OSError:
        for connection in opened:
            connection.close()
        raise
    return opened


def _reply(connection: socket.socket) -> None:
    received = b""
    while not re.search(rb"^\d{3} .*\n", received, re.MULTILINE):
        data = connection.recv(4096)
        if not data:
            raise ConnectionError("closed")
        received += data
    if not received.startswith(b"2"):
        raise ConnectionError(received.decode("ascii", "replace"))
