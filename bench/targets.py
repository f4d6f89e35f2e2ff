"""The servers that are measured: ours and Postfix, configured alike.

Both take mail for anybody from loopback without a password, relay all of it to one smarthost on loopback over at most
50 connections, sync before they acknowledge, log each message, and look nothing up in the DNS.
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

from measure import LOOPBACK, Group, free_port, wait_banner

CONNECTIONS = 50
"""Outgoing connections to the smarthost, at most."""
MASTER = "/usr/lib/postfix/sbin/master"


class Target:
    """A server in a folder of its own; ``start`` begins with an empty queue."""

    name = ""
    first_sessions = 100
    """Idle sessions that fill what the heap had to spare, before memory is measured."""
    idle_sessions = 1000
    """Idle sessions whose memory is measured."""

    def __init__(self, base: Path) -> None:
        self.slug = re.sub(r"\W+", "-", self.name)
        self.folder = base / self.slug
        self.port = free_port()
        self.group: Group | None = None

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

    def start(self, smarthost: int) -> Group:
        """Starts it with an empty queue; the mail goes to a port of loopback."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.folder.chmod(0o755)
        self.configure(smarthost)
        self.group = Group(self.slug)
        try:
            main = self.group.spawn(self.argv(), self.folder, self.folder / "output.log")
            wait_banner(self.port, main)
        except BaseException:
            self.stop()
            raise
        return self.group

    def stop(self) -> None:
        """Ends it."""
        if self.group is not None:
            self.group.end()
            self.group = None


class Ours(Target):
    """``twistd mta``."""

    name = "twisted-mta"
    workers = 0
    first_sessions = 1000
    idle_sessions = 5000  # so many are needed to see anything beside the heap's own movements

    def version(self) -> str:
        ours, twisted = (metadata.version(name) for name in ("twisted-mta", "twisted"))
        return f"twisted-mta {ours}, Twisted {twisted}, Python {sys.version.split()[0]}"

    def configure(self, smarthost: int) -> None:
        (self.folder / "mta.toml").write_text(
            textwrap.dedent(f"""\
                hostname = "ours.bench.test"
                state_dir = "{self.folder}/state"
                workers = {self.workers}
                [listen.mx]
                port = {self.port}
                role = "mx"
                tls = "none"
                [smtp]
                connections = 10000
                [relay]
                networks = ["127.0.0.0/8"]
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

    def argv(self) -> list[str]:
        twistd = "from twisted.scripts.twistd import run; run()"
        config = str(self.folder / "mta.toml")
        return [sys.executable, "-c", twistd, "--nodaemon", "--pidfile=", "mta", "--config", config]


class OursInProcesses(Ours):
    """``twistd mta`` with a worker for each core: Postfix uses all of them, too."""

    workers = os.cpu_count() or 1
    name = f"twisted-mta, {workers} workers"


class Postfix(Target):
    """A Postfix of its own, beside whatever the machine runs."""

    name = "postfix"

    def why_not(self) -> str:
        if not os.path.exists(MASTER):
            return "Postfix is not installed (apt-get install postfix)"
        return "" if os.geteuid() == 0 else "Postfix needs root"

    def version(self) -> str:
        done = subprocess.run(["postconf", "-d", "-h", "mail_version"], capture_output=True, text=True, check=True)
        return f"Postfix {done.stdout.strip()}"

    def configure(self, smarthost: int) -> None:
        etc = self.folder / "etc"
        for name in ("etc", "queue", "data", "log"):
            (self.folder / name).mkdir()
        shutil.chown(self.folder / "data", "postfix")
        (etc / "main.cf").write_text(
            textwrap.dedent(f"""\
                compatibility_level = 3.6
                queue_directory = {self.folder}/queue
                data_directory = {self.folder}/data
                command_directory = /usr/sbin
                daemon_directory = /usr/lib/postfix/sbin
                mail_owner = postfix
                setgid_group = postdrop
                maillog_file = {self.folder}/log/maillog
                maillog_file_prefixes = {self.folder}
                inet_interfaces = {LOOPBACK}
                inet_protocols = ipv4
                myhostname = postfix.bench.test
                mydestination =
                local_recipient_maps =
                alias_maps =
                alias_database =
                mynetworks = 127.0.0.0/8
                smtpd_relay_restrictions = permit_mynetworks, reject
                smtpd_recipient_restrictions =
                relayhost = [{LOOPBACK}]:{smarthost}
                disable_dns_lookups = yes
                smtp_host_lookup = native
                smtpd_peername_lookup = no
                smtpd_client_connection_count_limit = 0
                smtpd_client_connection_rate_limit = 0
                smtpd_client_message_rate_limit = 0
                smtpd_client_recipient_rate_limit = 0
                default_destination_concurrency_limit = {CONNECTIONS}
                default_process_limit = 100
                in_flow_delay = 0
                """)
        )
        services = """\
            pickup unix n - n 60 1 pickup
            cleanup unix n - n - 0 cleanup
            qmgr unix n - n 300 1 qmgr
            tlsmgr unix - - n 1000? 1 tlsmgr
            rewrite unix - - n - - trivial-rewrite
            bounce unix - - n - 0 bounce
            defer unix - - n - 0 bounce
            trace unix - - n - 0 bounce
            verify unix - - n - 1 verify
            flush unix n - n 1000? 0 flush
            proxymap unix - - n - - proxymap
            smtp unix - - n - - smtp
            relay unix - - n - - smtp
            error unix - - n - - error
            retry unix - - n - - error
            discard unix - - n - - discard
            anvil unix - - n - 1 anvil
            scache unix - - n - 1 scache
            postlog unix-dgram n - n - 1 postlogd
            """
        listener = f"{LOOPBACK}:{self.port} inet n - n - 1500 smtpd\n"
        (etc / "master.cf").write_text(listener + textwrap.dedent(services))
        subprocess.run(["postfix", "-c", etc, "check"], check=True, capture_output=True)

    def argv(self) -> list[str]:
        return [MASTER, "-c", str(self.folder / "etc"), "-d"]
