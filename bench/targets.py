"""The servers that are measured; here what they have in common, and ours.  The others are in :mod:`bench.peers`.

All take mail for anybody from loopback without a password, relay all of it to one smarthost on loopback over at most
50 connections, log each message, and look nothing up in the DNS.  A second port has TLS from the first octet
(RFC 8314); where a server can do it alike, users log in there (:attr:`Target.logins`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import attrs

from bench.group import Group
from bench.load import LOOPBACK, RECIPIENT, free_port, wait_banner

CONNECTIONS = 50
"""Outgoing connections to the smarthost, at most."""
DOVECOT = "/usr/sbin/dovecot"
USER, PASSWORD = "ann@bench.test", "correct horse"


@attrs.frozen
class Conditions:
    """What a start is for.

    ``logins``: users will log in on the port with TLS.  ``crowd``: more sessions at once will be held than a server
    takes as it comes.  ``wary``: all of loopback but 127.0.0.1 is a stranger to a target that knows strangers.
    """

    logins: bool = False
    crowd: bool = False
    wary: bool = False


@attrs.frozen
class Crowd:
    """How many sessions a target is asked to hold: more than some can is no use to anybody."""

    first: int = 100
    """Those that fill what the heap had to spare, before memory is measured."""
    plain: int = 1000
    """Those whose memory is measured."""
    tls: int = 400
    strangers: int = 1000
    """For "neighbours": silent ones in clear."""
    strangers_tls: int = 200
    slow: int = 20
    window: int = 20
    """How many may be connecting at once; of strangers more, where they are made to wait for the greeting."""
    strangers_window: int = 20


class Target:
    """A server in a folder of its own; ``start`` begins with an empty queue."""

    name = ""
    crowd = Crowd()
    tls = True
    """Whether it serves the port with TLS."""
    logins = False
    """Whether users can log in on the port with TLS, with Dovecot checking the password."""
    resident = RECIPIENT
    """A recipient that strangers may write to."""
    grace = 15.0
    """Seconds to end by itself."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.slug = re.sub(r"\W+", "-", self.name)
        self.folder = base / self.slug
        self.port, self.tls_port = free_port(), free_port()
        self.certificate, self.key = base / "certificate.pem", base / "key.pem"
        self.group: Group | None = None
        self.conditions = Conditions()

    def why_not(self) -> str:
        """Why this target can't be measured here; "" if it can."""
        return ""

    def version(self) -> str:
        """Its name and version."""
        raise NotImplementedError

    def argv(self) -> list[str]:
        """The command that runs it in the foreground."""
        raise NotImplementedError

    def configure(self, smarthost: int) -> None:
        """Writes its configuration into the empty folder."""
        raise NotImplementedError

    def start(self, smarthost: int, conditions: Conditions = Conditions()) -> Group:
        """Starts it with an empty queue; the mail goes to a port of loopback."""
        self.conditions = conditions
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.folder.chmod(0o755)
        if not self.certificate.exists():
            make_certificate(self.certificate, self.key)
        self.configure(smarthost)
        self.group = Group(self.slug)
        try:
            if conditions.logins:
                self.group.spawn(self._dovecot(), self.folder, self.folder / "dovecot.log")
            main = self.group.spawn(self.argv(), self.folder, self.folder / "output.log")
            wait_banner(self.port, main)
        except RuntimeError as error:
            self.stop()
            raise RuntimeError(f"{error}: {(self.folder / 'output.log').read_text()[-200:]}") from error
        except BaseException:
            self.stop()
            raise
        return self.group

    def stop(self) -> None:
        """Ends it."""
        if self.group is not None:
            self.group.end(self.grace)
            self.group = None

    @property
    def auth_socket(self) -> Path:
        """Where Dovecot answers who a user is."""
        return self.folder / "auth"

    def _dovecot(self) -> list[str]:
        """Dovecot with nothing but its auth service, which both sides ask: a salted SHA-512 is all that it reckons."""
        (self.folder / "dovecot").mkdir()
        hashed = subprocess.run(
            ["doveadm", "pw", "-s", "SSHA512", "-p", PASSWORD], capture_output=True, text=True, check=True
        )
        users = self.folder / "users"
        users.write_text(f"{USER}:{hashed.stdout.strip()}\n")
        config = self.folder / "dovecot.conf"
        config.write_text(
            textwrap.dedent(f"""\
                base_dir = {self.folder}/dovecot/run
                state_dir = {self.folder}/dovecot/state
                log_path = /dev/stderr
                protocols =
                ssl = no
                auth_mechanisms = plain login
                auth_cache_size = 0
                service auth {{
                  client_limit = 4000
                  unix_listener {self.auth_socket} {{
                    mode = 0666
                  }}
                }}
                passdb {{
                  driver = passwd-file
                  args = {users}
                }}
                userdb {{
                  driver = static
                  args = uid=65534 gid=65534 home=/nonexistent
                }}
                """)
        )
        return [DOVECOT, "-F", "-c", str(config)]


def make_certificate(certificate: Path, key: Path) -> None:
    """A self-signed one, for P-256 as most have today; the key is for all to read, since servers read it as users."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-days", "2", "-subj", "/CN=mx.bench.test", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    key.chmod(0o644)


class Ours(Target):
    """``twistd mta``."""

    name = "twisted-mta"
    workers = 0
    crowd = Crowd(
        first=1000, plain=10_000, tls=2000, strangers=10_000, strangers_tls=2000, slow=200, strangers_window=2500
    )
    resident = USER

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.logins = os.path.exists(DOVECOT) and os.geteuid() == 0

    def version(self) -> str:
        """See :class:`Target`."""
        ours, twisted = (metadata.version(name) for name in ("twisted-mta", "twisted"))
        return f"twisted-mta {ours}, Twisted {twisted}, Python {sys.version.split()[0]}"

    @property
    def config(self) -> Path:
        """Its settings' file."""
        return self.folder / "mta.toml"

    def configure(self, smarthost: int) -> None:
        """See :class:`Target`."""
        friends = f"{LOOPBACK}/32" if self.conditions.wary else "127.0.0.0/8"
        connections = "connections = 20000" if self.conditions.crowd else ""
        self.config.write_text(
            textwrap.dedent(f"""\
                hostname = "ours.bench.test"
                state_dir = "{self.folder}/state"
                workers = {self.workers}
                [listen.mx]
                port = {self.port}
                role = "mx"
                tls = "none"
                [listen.submissions]
                port = {self.tls_port}
                role = "submission"
                tls = "implicit"
                [tls]
                certificate = "{self.certificate}"
                key = "{self.key}"
                [smtp]
                commands = 10000000
                {connections}
                [defence]
                exempt = ["{friends}"]
                customer_connections_per_minute = "none"
                [submission]
                auth_cache = "0s"
                [checker.dovecot]
                kind = "dovecot"
                server = "unix:{self.auth_socket}"
                [quota.default]
                recipients_per_hour = "none"
                recipients_per_day = "none"
                queued_messages = "none"
                queued_bytes = "none"
                connections = "none"
                [relay]
                networks = ["{friends}"]
                smarthost = "{LOOPBACK}:{smarthost}"
                connections_per_destination = {CONNECTIONS}
                private_addresses = true
                [dns]
                servers = ["{LOOPBACK}:9"]
                [admin]
                listen = ""
                [log]
                file = "{self.folder}/mta.log"
                """)
        )
        self._fill_directory()

    def _fill_directory(self) -> None:
        """One customer with one user, made once and copied from then on."""
        state = self.folder / "state"
        made = self.base / "directory"
        if not made.exists():
            for words in (
                ("customer", "add", "bench"),
                ("domain", "add", "bench.test", "--customer", "bench"),
                ("user", "add", USER, "--no-password"),
            ):
                command = [sys.executable, "-m", "twisted_mta.admin.cli", "--config", str(self.config), *words]
                subprocess.run(command, check=True, capture_output=True)
            shutil.copytree(state / "directory", made)
        shutil.copytree(made, state / "directory", dirs_exist_ok=True)

    def argv(self) -> list[str]:
        """See :class:`Target`."""
        twistd = "from twisted.scripts.twistd import run; run()"
        return [sys.executable, "-c", twistd, "--nodaemon", "--pidfile=", "mta", "--config", str(self.config)]


class OursInProcesses(Ours):
    """``twistd mta`` with a worker for each core: Postfix uses all of them, too."""

    workers = os.cpu_count() or 1
    name = f"twisted-mta, {workers} workers"
