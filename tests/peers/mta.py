"""Our own service as an operator runs it: ``twistd mta`` in a process of its own, and the ``mta`` command beside it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .process import LOOPBACK, Daemon, PeerFailed, free_port, wait_for, wait_for_banner

TWISTD = str(Path(sys.executable).with_name("twistd"))
MTA = str(Path(sys.executable).with_name("mta"))
LATE = 0.01
"""Seconds that an event may be late in the log: it is written at most once in 5 ms."""

Tree = Mapping[str, Any]


def to_toml(tree: Tree, prefix: str = "") -> str:
    """Nested dicts as TOML: scalars first, then tables; strings, numbers, booleans and lists of them."""
    lines = [f"{key} = {_value(value)}" for key, value in tree.items() if not isinstance(value, Mapping)]
    tables = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            tables.append(f"\n[{prefix}{key}]\n{to_toml(value, f'{prefix}{key}.')}")
    return "\n".join(lines) + "\n" + "".join(tables)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value) if isinstance(value, str) else repr(value)


def merge(base: Tree, changes: Tree) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it, table by table."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


class CommandFailed(PeerFailed):
    """An ``mta`` command ended with another status than 0."""


class Mta(Daemon):
    """``twistd -n mta --config FILE`` on ports of its own, with a customer ``demo`` and its domain and users.

    ``settings`` are laid over the test's defaults; ``users`` are addresses, all with the password ``password`` and in
    domains of customer "demo".  With ``folder`` the state outlives the object, for restarts.
    """

    name = "mta"
    password = "correct horse"

    def __init__(
        self,
        settings: Tree | None = None,
        *,
        users: Sequence[str] = ("ann@demo.example", "ben@demo.example"),
        folder: Path | None = None,
        files: int = 0,
    ) -> None:
        super().__init__(folder)
        self.mx, self.submission, self.submissions, self.admin = (free_port() for _ in range(4))
        self.state = self.folder / "state"
        self.config = self.folder / "mta.toml"
        self.users = tuple(users)
        self._files = files
        self.settings = merge(self._defaults(), settings or {})
        self.write_config()
        if not self.state.exists():
            self._fill_directory()

    def _defaults(self) -> dict[str, Any]:
        def listener(port: int, role: str, tls: str) -> dict[str, Any]:
            return {"address": [LOOPBACK], "port": port, "role": role, "tls": tls}

        return {
            "hostname": "mta.demo.example",
            "state_dir": str(self.state),
            "listen": {
                "mx": listener(self.mx, "mx", "starttls"),
                "submission": listener(self.submission, "submission", "starttls"),
                "submissions": listener(self.submissions, "submission", "implicit"),
            },
            # Names are looked up on a closed port unless a test says otherwise: nothing leaves this machine.
            "dns": {"servers": [f"{LOOPBACK}:9"], "timeout": "1s", "attempts": 1},
            "relay": {"private_addresses": True},
            "admin": {"listen": f"{LOOPBACK}:{self.admin}"},
            "log": {"format": "json"},
        }

    def write_config(self, changes: Tree | None = None) -> None:
        """Writes the settings' file, with ``changes`` kept from now on."""
        self.settings = merge(self.settings, changes or {})
        self.config.write_text(to_toml(self.settings))

    def _fill_directory(self) -> None:
        self.cli("customer", "add", "demo")
        for domain in dict.fromkeys(user.rpartition("@")[2] for user in self.users):
            self.cli("domain", "add", domain, "--customer", "demo")
        for user in self.users:
            self.add_user(user)

    def add_user(self, address: str) -> None:
        """Adds a user with the common password."""
        self.cli("user", "add", address, "--password-stdin", stdin=self.password + "\n")

    def argv(self) -> list[str]:
        """See :class:`Daemon`."""
        twistd = [TWISTD, "--nodaemon", "--pidfile=", "mta", "--config", str(self.config)]
        return ["prlimit", f"--nofile={self._files}", *twistd] if self._files else twistd

    def environment(self) -> dict[str, str]:
        """See :class:`Daemon`."""
        return {key: value for key, value in os.environ.items() if not key.startswith("MTA_")}

    def ready(self) -> None:
        """See :class:`Daemon`."""
        wait_for("/healthz", self.healthy, 30, self.check_alive)
        wait_for_banner(self.mx, alive=self.check_alive)

    def stop_cleanly(self) -> None:
        """SIGTERM; the service says that it has stopped, and ends as twistd does: by the same signal again."""
        status = self.stop()
        told = [len(self.events("service", what=what)) for what in ("start", "stopped")]
        if status not in {0, -signal.SIGTERM} or told[0] != told[1]:
            raise PeerFailed(f"ended with {status}:\n{self.output()[-3000:]}")

    def healthy(self) -> bool:
        """Whether the operator's HTTP side says that all is well."""
        try:
            return self.http("/healthz") != ""
        except OSError:
            return False

    def http(self, path: str) -> str:
        """A page of the operator's HTTP side.  Raises OSError."""
        with urllib.request.urlopen(f"http://{LOOPBACK}:{self.admin}{path}", timeout=5) as answer:
            return answer.read().decode()

    def metrics(self) -> dict[str, float]:
        """The metrics: name with labels -> value."""
        lines = [line for line in self.http("/metrics").splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def run_cli(self, *words: str, stdin: str = "", seconds: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Runs ``mta`` with this service's configuration."""
        return subprocess.run(
            [MTA, *words],
            input=stdin,
            capture_output=True,
            text=True,
            env={**self.environment(), "MTA_CONFIG": str(self.config), "COLUMNS": "120"},
            timeout=seconds,
            check=False,
            cwd=self.folder,
        )

    def cli(self, *words: str, stdin: str = "") -> str:
        """What an ``mta`` command prints; raises :class:`CommandFailed` when it fails."""
        done = self.run_cli(*words, stdin=stdin)
        if done.returncode:
            raise CommandFailed(f"mta {' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def json(self, *words: str) -> Any:
        """What an ``mta`` command prints with ``--json``, parsed."""
        return json.loads(self.cli(*words, "--json"))

    def events(self, kind: str = "", **fields: Any) -> list[dict[str, Any]]:
        """The events in the log, of one kind and with these fields if given."""
        time.sleep(LATE)
        found = []
        for line in self.output().splitlines():
            if not line.startswith("{"):
                continue
            try:
                event = json.loads(line)
            except ValueError:
                continue  # the last line, still being written
            if (not kind or event.get("event") == kind) and all(event.get(k) == v for k, v in fields.items()):
                found.append(event)
        return found

    def wait_event(self, kind: str, seconds: float = 15.0, **fields: Any) -> dict[str, Any]:
        """The first such event, once it is in the log."""
        return wait_for(f"event {kind} {fields}", lambda: self.events(kind, **fields), seconds, self.check_alive)[0]

    def trace(self, message: str) -> list[dict[str, Any]]:
        """The story of a message as ``mta trace`` tells it."""
        return self.json("trace", message)["events"]

    def queue_length(self) -> int:
        """Deliveries still queued, by the command line."""
        return len(self.json("queue", "list"))

    def wait_empty(self, seconds: float = 20.0) -> None:
        """Waits until nothing is queued."""
        wait_for("an empty queue", lambda: self.queue_length() == 0, seconds, self.check_alive)

    def maildir(self, address: str) -> Path:
        """Where a user's Maildir lies."""
        user, _, domain = address.rpartition("@")
        return self.state / "mail" / domain / user / "Maildir"

    def mailbox(self, address: str) -> list[bytes]:
        """The new messages of a user."""
        new = self.maildir(address) / "new"
        return [path.read_bytes() for path in sorted(new.iterdir())] if new.exists() else []

    def wait_mailbox(self, address: str, count: int = 1, seconds: float = 15.0) -> list[bytes]:
        """The new messages of a user, once there are at least ``count``."""
        wait_for(
            f"{count} messages for {address}", lambda: len(self.mailbox(address)) >= count, seconds, self.check_alive
        )
        return self.mailbox(address)

    def give_to(self, user: str) -> None:
        """Hands all mailboxes over to a system user, for a program that reads them as that user."""
        mail = self.state / "mail"
        for path in (mail, *mail.rglob("*")):
            shutil.chown(path, user)
        for folder in (self.folder, self.state, mail):
            folder.chmod(folder.stat().st_mode | 0o011)
