"""Postfix: smtp-sink and smtp-source, and a whole instance of its own as the remote MTA."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from .process import LOOPBACK, Daemon, free_port, require, require_root, wait_for, wait_for_banner

_MASTER_SERVICES = """\
pickup    unix  n - n 60    1 pickup
cleanup   unix  n - n -     0 cleanup
qmgr      unix  n - n 300   1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n -     - trivial-rewrite
bounce    unix  - - n -     0 bounce
defer     unix  - - n -     0 bounce
trace     unix  - - n -     0 bounce
verify    unix  - - n -     1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n -     - proxymap
smtp      unix  - - n -     - smtp
relay     unix  - - n -     - smtp
error     unix  - - n -     - error
retry     unix  - - n -     - error
discard   unix  - - n -     - discard
virtual   unix  - n n -     - virtual
anvil     unix  - - n -     1 anvil
scache    unix  - - n -     1 scache
postlog   unix-dgram n - n - 1 postlogd
"""


class SmtpSink(Daemon):
    """Postfix's smtp-sink: takes every message; with ``capture`` each is a file, else they are only counted.

    ``options`` are further options of smtp-sink, such as ``("-f", "RCPT")`` to refuse a command.
    """

    name = "smtp-sink"

    def __init__(self, options: Sequence[str] = (), *, port: int = 0, capture: bool = True) -> None:
        self._program = require("postfix", "/usr/sbin/smtp-sink")
        super().__init__()
        self.port = port or free_port()
        self.options = options
        self.capture = capture
        self.messages_dir = self.folder / "messages"
        self.messages_dir.mkdir()
        self.messages_dir.chmod(0o777)

    def argv(self) -> list[str]:
        """See :class:`Daemon`."""
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        dump = ["-d", f"{self.messages_dir}/%H%M%S."] if self.capture else ["-c"]
        return [self._program, *user, *dump, "-m", "500", *self.options, f"inet:{LOOPBACK}:{self.port}", "500"]

    def ready(self) -> None:
        """See :class:`Daemon`."""
        wait_for_banner(self.port, alive=self.check_alive)

    def count(self) -> int:
        """How many messages have arrived."""
        if self.capture:
            return sum(1 for entry in os.scandir(self.messages_dir) if entry.stat().st_size)
        found = re.findall(r"mesg=(\d+)", self.output()[-400:])
        return int(found[-1]) if found else 0

    def messages(self) -> list[bytes]:
        """The messages, each with smtp-sink's own ``X-`` and ``Received`` lines before it, in no special order.

        smtp-sink writes LF for CRLF.
        """
        return [path.read_bytes() for path in sorted(self.messages_dir.iterdir()) if path.stat().st_size]

    def wait_count(self, count: int, seconds: float = 15.0) -> None:
        """Waits until at least ``count`` messages are there."""
        wait_for(f"{count} messages in smtp-sink", lambda: self.count() >= count, seconds, self.check_alive)


def smtp_source(
    port: int,
    *,
    sender: str,
    recipient: str,
    messages: int = 1,
    sessions: int = 1,
    length: int = 4096,
    reuse: bool = True,
    recipients: int = 1,
    seconds: float = 60.0,
) -> None:
    """Runs Postfix's load generator to its end; every message must have been accepted, or this raises."""
    subprocess.run(
        [
            require("postfix", "/usr/sbin/smtp-source"),
            *("-4", "-C", "10", "-M", "source.test", "-s", str(sessions), "-m", str(messages), "-l", str(length)),
            *("-f", sender, "-t", recipient, "-r", str(recipients)),
            *(["-d"] if reuse else []),
            f"{LOOPBACK}:{port}",
        ],
        check=True,
        timeout=seconds,
        capture_output=True,
    )


class Postfix(Daemon):
    """A whole Postfix with its own configuration, queue and log: the MX of ``domains`` with the users named.

    Delivers to Maildirs below ``mail``; other recipients of those domains get 550 5.1.1, everything else 554 5.7.1.
    ``settings`` are lines of main.cf that come last.
    """

    name = "postfix"

    def __init__(
        self, domains: Iterable[str] = ("remote.example",), users: Iterable[str] = ("bob",), settings: str = ""
    ) -> None:
        require_root("running Postfix")
        self._master = require("postfix", "/usr/lib/postfix/sbin/master")
        super().__init__()
        self.port = free_port()
        self.domains, self.users = tuple(domains), tuple(users)
        self.mail = self.folder / "mail"
        self.maillog = self.folder / "log" / "maillog"
        self._write(settings)

    def _write(self, settings: str) -> None:
        etc, queue, data = (self.folder / name for name in ("etc", "queue", "data"))
        for path in (etc, queue, data, self.mail, self.maillog.parent):
            path.mkdir()
        shutil.chown(data, "postfix")
        shutil.chown(self.mail, "nobody")
        key, certificate = etc / "key.pem", etc / "cert.pem"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
                *("-days", "2", "-subj", "/CN=mx.remote.example", "-keyout", key, "-out", certificate),
            ],
            check=True,
            capture_output=True,
        )
        boxes = ", ".join(f"{{{user}@{domain} = {domain}/{user}/}}" for domain in self.domains for user in self.users)
        main = f"""\
            compatibility_level = 3.6
            queue_directory = {queue}
            data_directory = {data}
            command_directory = /usr/sbin
            daemon_directory = {Path(self._master).parent}
            mail_owner = postfix
            setgid_group = postdrop
            maillog_file = {self.maillog}
            maillog_file_prefixes = {self.folder}
            inet_interfaces = {LOOPBACK}
            inet_protocols = ipv4
            myhostname = mx.remote.example
            mydestination =
            local_recipient_maps =
            alias_maps =
            alias_database =
            mynetworks = 192.0.2.1/32
            smtpd_relay_restrictions = reject_unauth_destination
            virtual_mailbox_domains = {" ".join(self.domains)}
            virtual_mailbox_base = {self.mail}
            virtual_mailbox_maps = inline:{{ {boxes} }}
            virtual_uid_maps = static:65534
            virtual_gid_maps = static:65534
            smtpd_tls_security_level = may
            smtpd_tls_cert_file = {certificate}
            smtpd_tls_key_file = {key}
            smtpd_tls_received_header = yes
            smtpd_peername_lookup = no
            smtpd_client_connection_count_limit = 0
            smtp_host_lookup = native
            disable_dns_lookups = yes
            in_flow_delay = 0
            """
        (etc / "main.cf").write_text(textwrap.dedent(main) + textwrap.dedent(settings))
        (etc / "master.cf").write_text(f"{LOOPBACK}:{self.port} inet n - n - 200 smtpd\n{_MASTER_SERVICES}")

    def argv(self) -> list[str]:
        """See :class:`Daemon`."""
        return [self._master, "-c", str(self.folder / "etc"), "-d"]

    def ready(self) -> None:
        """See :class:`Daemon`."""
        wait_for_banner(self.port, alive=self.check_alive)

    def start(self) -> Postfix:
        """See :class:`Daemon`."""
        subprocess.run(["postfix", "-c", self.folder / "etc", "check"], check=True, capture_output=True)
        return super().start()

    def output(self) -> str:
        """What master wrote, and the mail log."""
        maillog = self.maillog.read_text("utf-8", "replace") if self.maillog.exists() else ""
        return super().output() + maillog

    def messages(self, user: str = "bob", domain: str = "") -> list[bytes]:
        """The messages in a mailbox, as Postfix wrote them: LF ends the lines."""
        box = self.mail / (domain or self.domains[0]) / user / "new"
        return [path.read_bytes() for path in sorted(box.iterdir())] if box.exists() else []

    def wait_messages(self, count: int, user: str = "bob", domain: str = "", seconds: float = 15.0) -> list[bytes]:
        """The messages in a mailbox, once there are at least ``count``."""
        wait_for(
            f"{count} messages for {user} in Postfix",
            lambda: len(self.messages(user, domain)) >= count,
            seconds,
            self.check_alive,
        )
        return self.messages(user, domain)
