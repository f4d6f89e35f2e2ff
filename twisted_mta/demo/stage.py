"""What the demonstration runs: two services, a DNS server, and what an operator would have set up in them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

from ..testing.zones import ZoneServer

LOOPBACK = "127.0.0.1"
CUSTOMER, DOMAIN, HOST = "demo", "demo.example", "mta.demo.example"
ANN, BEN = f"ann@{DOMAIN}", f"ben@{DOMAIN}"
REMOTE_DOMAIN, REMOTE_HOST = "remote.example", "mx.remote.example"
BOB, NOBODY = f"bob@{REMOTE_DOMAIN}", f"nobody@{REMOTE_DOMAIN}"

USUAL_PORTS = {"mx": 2525, "submission": 2587, "submissions": 2465, "admin": 8025, "remote": 2526, "remote admin": 8026}

_SERVICE = """\
# Written by the demonstration; a real service wants far fewer words, see conf/mta.toml.
hostname = "{host}"
state_dir = "{state}"

[listen.mx]
port = {mx}
role = "mx"
[listen.submission]
port = {submission}
role = "submission"
tls = "starttls"
[listen.submissions]
port = {submissions}
role = "submission"
tls = "implicit"

[relay]
port = {remote}             # where the MX of other domains listens; 25 in real life
private_addresses = true    # here even the Internet is 127.0.0.1
[local]
mailbox = "{{state_dir}}/mail/{{user}}"
[dns]
servers = ["{dns}"]
[admin]
listen = "127.0.0.1:{admin}"
[log]
file = "{log}"
"""
_REMOTE = """\
# The other host of the demonstration: takes mail for {domain}, knows nobody but bob.
hostname = "{host}"
state_dir = "{state}"
[listen.mx]
port = {mx}
role = "mx"
[local]
mailbox = "{{state_dir}}/mail/{{user}}"
[dns]
servers = ["{dns}"]
[admin]
listen = "127.0.0.1:{admin}"
[log]
file = "{log}"
"""


class DemoFailed(Exception):
    """The demonstration can't go on; the words say why and where to look."""


def port(preferred: int, taken: set[int]) -> int:
    """``preferred`` if nobody listens there, else a free one."""
    for number in (preferred, *([0] * 20)):
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                trial.bind((LOOPBACK, number))
                found: int = trial.getsockname()[1]
                if found not in taken:
                    taken.add(found)
                    return found
    raise DemoFailed("no port of 127.0.0.1 is free")


def until(what: str, check: Callable[[], Any], seconds: float, process: Process | None = None) -> Any:
    """The first true value of ``check``.  Raises :class:`DemoFailed` when time is up or the process has ended."""
    deadline = time.monotonic() + seconds
    while not (value := check()):
        if process is not None and process.ended:
            raise DemoFailed(f"{process.name} has ended by itself:\n{process.last_words()}")
        if time.monotonic() > deadline:
            raise DemoFailed(f"waited {seconds:g} seconds in vain for {what}; the logs are in {short(Path.cwd())}")
        time.sleep(0.05)
    return value


def _die_with_parent() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: killing the demonstration leaves nothing


def short(path: Path) -> str:
    """A path as seen from here."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


class Process:
    """One ``twistd mta`` with its settings in ``folder``; ``admin`` is the port of its HTTP side."""

    def __init__(self, name: str, folder: Path, settings: str, admin: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.folder, self.admin = name, folder, admin
        self.config = folder / "mta.toml"
        self.config.write_text(settings)
        self._output = folder / "twistd.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it; see :meth:`ready`."""
        twistd = "from twisted.scripts.twistd import run; run()"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", twistd, "--nodaemon", "--pidfile=", "mta", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C is ours: we end it, and say so
                preexec_fn=_die_with_parent,
            )

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process is None or self._process.poll() is not None

    def last_words(self) -> str:
        """The end of what it wrote."""
        return self._output.read_text("utf-8", "replace")[-2000:] or f"nothing was written to {self._output}"

    def ready(self) -> None:
        """Waits until it says that it is well."""

        def healthy() -> bool:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://{LOOPBACK}:{self.admin}/healthz", timeout=2).close()
                return True
            return False

        until(f"{self.name} to be ready", healthy, 30, self)

    def mta(self, *words: str, stdin: str = "", shown: bool = False) -> str:
        """What an ``mta`` command prints; with ``shown`` it prints to the audience."""
        program = "import sys; from twisted_mta.admin.cli import main; sys.argv[0] = 'mta'; main()"
        done = subprocess.run(
            [sys.executable, "-c", program, *words],
            input=stdin,
            stdout=None if shown else subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "MTA_CONFIG": str(self.config)},
            check=False,
            timeout=60,
        )
        if done.returncode:
            raise DemoFailed(f"mta {' '.join(words)} failed:\n{done.stdout or ''}{done.stderr}")
        return done.stdout or ""

    def stop(self) -> None:
        """Ends it cleanly; after ten seconds by force."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@attrs.frozen(kw_only=True)
class Stage:
    """All that runs, and what the audience needs to know of it."""

    service: Process
    remote: Process
    ports: dict[str, int]
    passwords: dict[str, str]
    certificate: Path

    def mailbox(self, process: Process, address: str) -> Path:
        """The Maildir of an address."""
        return process.folder / "mail" / address.partition("@")[0]

    def arrived(self, process: Process, address: str) -> list[Path]:
        """The new messages of a mailbox."""
        new = self.mailbox(process, address) / "new"
        return sorted(new.iterdir()) if new.is_dir() else []


def _provide(process: Process, domain: str, users: dict[str, str]) -> None:
    """A customer with a domain and its users, by the commands that an operator types."""
    process.mta("customer", "add", CUSTOMER)
    process.mta("domain", "add", domain, "--customer", CUSTOMER)
    for address, password in users.items():
        process.mta("user", "add", address, "--password-stdin", stdin=f"{password}\n")


def _in_parallel(*jobs: Callable[[], None]) -> None:
    failures: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@contextlib.contextmanager
def staged(home: Path) -> Iterator[Stage]:
    """Everything up and ready; at the end of the block everything is down."""
    taken: set[int] = set()
    ports = {name: port(usual, taken) for name, usual in USUAL_PORTS.items()}
    zones = {REMOTE_DOMAIN: {"MX": [f"10 {REMOTE_HOST}."]}, REMOTE_HOST: {"A": [LOOPBACK]}}
    passwords = {address: _password() for address in (ANN, BEN)}
    with ZoneServer(zones) as dns:
        here, there = home, home / "remote"
        words = {"state": here, "log": here / "mta.log", "dns": dns.server, "host": HOST, **ports}
        service = Process("the service", here, _SERVICE.format(**words), ports["admin"])
        words |= {"state": there, "log": there / "mta.log", "host": REMOTE_HOST, "domain": REMOTE_DOMAIN}
        words |= {"mx": ports["remote"], "admin": ports["remote admin"]}
        remote = Process("the remote host", there, _REMOTE.format(**words), ports["remote admin"])
        try:
            for process in (service, remote):
                process.start()
            _in_parallel(
                lambda: _provide(service, DOMAIN, passwords),
                lambda: _provide(remote, REMOTE_DOMAIN, {BOB: _password()}),
            )
            for process in (service, remote):
                process.ready()
            yield Stage(
                service=service,
                remote=remote,
                ports=ports,
                passwords=passwords,
                certificate=here / "tls" / "self-signed.pem",
            )
        finally:
            _in_parallel(service.stop, remote.stop)


def _password() -> str:
    alphabet = "abcdefghjkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
    return "".join(secrets.choice(alphabet) for _ in range(12))
