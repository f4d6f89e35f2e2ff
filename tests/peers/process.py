"""What all peers share: finding the program, a port, a folder, a daemon that is surely gone afterwards."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

LOOPBACK = "127.0.0.1"
T = TypeVar("T")

_PORTS = range(11000, 31000)  # below the kernel's range for outgoing connections, which would race us for a port
_SLOTS = 10
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class PeerFailed(AssertionError):
    """A peer did not start, did not become ready, or ended too early; the words hold the end of its log."""


def require(package: str, path: str = "", how: str = "") -> str:
    """The path of a peer's program.

    Where it is missing the test is skipped with the name of the Debian package, or with ``how`` to get it, or fails if
    MTA_REQUIRE_PEERS is set.
    """
    program = path or package
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/sbin")
    if found:
        return found
    words = f"{program} is not installed: {how or f'apt-get install {package}'}"
    if os.environ.get("MTA_REQUIRE_PEERS", "") not in {"", "0"}:
        raise PeerFailed(words)
    raise unittest.SkipTest(words)


def require_root(what: str) -> None:
    """Skips the test (or fails it, with MTA_REQUIRE_PEERS) unless we are root."""
    if os.geteuid() == 0:
        return
    if os.environ.get("MTA_REQUIRE_PEERS", "") not in {"", "0"}:
        raise PeerFailed(f"{what} needs root")
    raise unittest.SkipTest(f"{what} needs root")


@functools.cache
def _port_sequence() -> Iterator[int]:
    """Ports of this test process alone: pytest-xdist's workers each have a share of the range."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    slot = int(worker.removeprefix("gw")) % (_SLOTS - 1) + 1 if worker.startswith("gw") else 0
    share = len(_PORTS) // _SLOTS
    mine = _PORTS[slot * share : (slot + 1) * share]
    start = random.randrange(share)
    return itertools.cycle([*mine[start:], *mine[:start]])


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens, by TCP or UDP, and which is not given out again soon."""
    for port in itertools.islice(_port_sequence(), 1000):
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                tcp.bind((LOOPBACK, port))
                udp.bind((LOOPBACK, port))
                return port
    raise PeerFailed("no free port on 127.0.0.1")


def wait_for(what: str, check: Callable[[], T], seconds: float = 15.0, alive: Callable[[], None] | None = None) -> T:
    """The first true value of ``check``, asked again and again for ``seconds``.  ``alive`` may raise to give up."""
    deadline = time.monotonic() + seconds
    pause = 0.005
    while True:
        value = check()
        if value:
            return value
        if alive is not None:
            alive()
        if time.monotonic() > deadline:
            raise PeerFailed(f"waited {seconds:g} s in vain for {what}; last seen: {value!r}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


def banner(port: int, host: str = LOOPBACK) -> bytes:
    """The greeting of an SMTP server, b"" when there is none (yet)."""
    try:
        with socket.create_connection((host, port), 2) as connection:
            connection.settimeout(2)
            greeting = connection.recv(512)
            with contextlib.suppress(OSError):
                connection.sendall(b"QUIT\r\n")
                connection.recv(512)
            return greeting
    except OSError:
        return b""


def wait_for_banner(port: int, seconds: float = 20.0, alive: Callable[[], None] | None = None) -> None:
    """Waits until an SMTP server greets with 220."""
    wait_for(f"a 220 greeting on port {port}", lambda: banner(port).startswith(b"220"), seconds, alive)


def peer_dir(name: str) -> Path:
    """A new folder that other users can enter, as Postfix and Dovecot need it; the caller removes it."""
    folder = Path(tempfile.mkdtemp(prefix=f"mta-{name}-"))
    folder.chmod(0o755)
    return folder


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Daemon:
    """A program in a session of its own, with its output in a file; at the end its whole process group is gone.

    Subclasses fill in ``argv`` and ``ready``.  The folder is removed with it, unless it was given.
    """

    name = "daemon"

    def __init__(self, folder: Path | None = None) -> None:
        self._own_folder = folder is None
        self.folder = folder if folder is not None else peer_dir(self.name)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / f"{self.name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def argv(self) -> Sequence[str]:
        """The command line."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str] | None:
        """The environment; None: ours."""
        return None

    def ready(self) -> None:
        """Returns when the daemon can be used, or raises :class:`PeerFailed`."""

    def start(self) -> Self:
        """Starts it and waits until it is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self.environment(),
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        try:
            self.ready()
        except BaseException:
            self.kill()
            raise
        return self

    def check_alive(self) -> None:
        """Raises :class:`PeerFailed` with the end of the log when the program has ended."""
        if self.process is None or self.process.poll() is not None:
            status = None if self.process is None else self.process.returncode
            raise PeerFailed(f"{self.name} ended with {status}:\n{self.output()[-3000:]}")

    @property
    def pid(self) -> int:
        """The process id of the running program."""
        assert self.process is not None
        return self.process.pid

    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def signal(self, number: int) -> None:
        """Sends a signal to the main process."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, seconds: float = 20.0) -> int:
        """The exit status, once it has ended by itself."""
        assert self.process is not None
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise PeerFailed(f"{self.name} did not end in {seconds:g} s:\n{self.output()[-3000:]}") from None

    def stop(self, seconds: float = 20.0) -> int:
        """SIGTERM, and the exit status; what is left of its group is killed."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.wait(seconds)
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole group."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """Ends it and removes its folder."""
        self.kill()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        if self.process is None:
            try:
                self.start()
            except BaseException:
                self.close()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
