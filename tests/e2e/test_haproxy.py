"""The real HAProxy in front, with both versions of its header, before STARTTLS and before implicit TLS."""

from __future__ import annotations

import contextlib
import socket
import textwrap
from typing import ClassVar

import pytest

from tests.e2e.case import ANN, BEN, ServiceCase
from tests.peers.clients import swaks
from tests.peers.mta import Mta
from tests.peers.process import LOOPBACK, Daemon, free_port, require, wait_for

pytestmark = pytest.mark.peer

CLIENT = "127.0.0.77"


class Haproxy(Daemon):
    """Carries ports of its own to those of a service: ``v1`` and ``v2`` to submission, ``tls`` to submissions."""

    name = "haproxy"

    def __init__(self, mta: Mta) -> None:
        self._program = require("haproxy", "/usr/sbin/haproxy")
        super().__init__()
        self.v1, self.v2, self.tls = free_port(), free_port(), free_port()
        ways = ((self.v1, mta.submission, ""), (self.v2, mta.submission, "-v2"), (self.tls, mta.submissions, "-v2"))
        self.config = self.folder / "haproxy.cfg"
        self.config.write_text(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n"
            + "".join(
                textwrap.dedent(f"""\
                    listen way{number}
                      bind {LOOPBACK}:{port}
                      server mta {LOOPBACK}:{target} send-proxy{version}
                    """)
                for number, (port, target, version) in enumerate(ways)
            )
        )

    def argv(self) -> list[str]:
        """See :class:`Daemon`."""
        return [self._program, "-db", "-f", str(self.config)]

    def ready(self) -> None:
        """See :class:`Daemon`."""

        def listens() -> bool:
            try:
                socket.create_connection((LOOPBACK, self.tls), 2).close()
            except OSError:
                return False
            return True

        wait_for("HAProxy", listens, alive=self.check_alive)


class HaproxyTests(ServiceCase):
    proxy: ClassVar[Haproxy]

    @classmethod
    def prepare(cls) -> None:
        cls.certify()
        names = ("submission", "submissions")
        cls.settings = {**cls.settings, "listen": {name: {"proxies": [LOOPBACK]} for name in names}}

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.proxy = Haproxy(cls.mta)
        cls.addClassCleanup(cls.proxy.close)
        cls.proxy.start()

    def send(self, port: int, *options: str) -> None:
        before = len(self.mta.mailbox(BEN))
        done = swaks(
            port, "-f", ANN, "-t", BEN, "-au", ANN, "-ap", self.mta.password, "--local-interface", CLIENT, *options
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        message = self.mta.wait_mailbox(BEN, before + 1)[-1]
        self.assertTrue(any(b"[127.0.0.77]" in found for found in self.mta.mailbox(BEN)), message)

    def test_version_1_and_starttls(self) -> None:
        self.send(self.proxy.v1, "--tls")
        self.mta.wait_event("connect", client=CLIENT, listener="submission")

    def test_version_2_and_starttls(self) -> None:
        self.send(self.proxy.v2, "--tls")

    def test_version_2_and_implicit_tls(self) -> None:
        self.send(self.proxy.tls, "--tls-on-connect")
        self.mta.wait_event("connect", client=CLIENT, listener="submissions")

    def test_without_the_proxy(self) -> None:
        """From the proxy's address there has to be a header; from any other one is no command."""
        with socket.create_connection((LOOPBACK, self.mta.submission), 10) as client:
            client.sendall(b"EHLO x\r\n")
            with contextlib.suppress(ConnectionResetError):
                self.assertEqual(client.recv(100), b"")
        with socket.create_connection((LOOPBACK, self.mta.submission), 10, (CLIENT, 0)) as client:
            self.assertEqual(client.recv(100)[:3], b"220")
            client.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 25\r\n")
            self.assertEqual(client.recv(100)[:3], b"500")
