"""LMTP into the real service, through TCP and a Unix socket, from programs that others wrote."""

from __future__ import annotations

import os
import shutil
import smtplib
import stat
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.e2e.case import ANN, BEN, ServiceCase
from tests.peers import peer_dir
from tests.peers.clients import swaks
from tests.peers.dovecot import DovecotService
from tests.peers.postfix import Postfix
from tests.peers.process import LOOPBACK, free_port, wait_for, wait_for_banner

pytestmark = pytest.mark.peer

LOOP = "loop@loop.example"
MESSAGE = "From: x@far.example\r\nTo: ann@demo.example\r\nSubject: by LMTP\r\n\r\nHello.\r\n"


class LmtpCase(ServiceCase):
    """A service with LMTP on ``port`` and at ``path``."""

    port: ClassVar[int]
    path: ClassVar[Path]
    processes: ClassVar[int] = 0

    @classmethod
    def prepare(cls) -> None:
        cls.port = free_port()
        folder = peer_dir("socket")  # a path of a socket has 107 octets at most
        cls.addClassCleanup(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        cls.path = folder / "lmtp"
        listener = {"role": "lmtp", "address": [LOOPBACK, f"unix:{cls.path}"], "port": cls.port, "socket_mode": "0666"}
        cls.settings = {**cls.settings, "workers": cls.processes, "listen": {"lmtp": listener}}

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.mta.cli("domain", "add", "loop.example", "--customer", "demo")
        cls.mta.cli("user", "add", LOOP, "--no-password")
        cls.mta.cli("alias", "add", "@loop.example", LOOP)
        cls.mta.cli("user", "remove", LOOP)  # what caught all that is unknown is unknown itself now

    def count(self) -> int:
        return len(self.mta.mailbox(ANN))


class ClientTests(LmtpCase):
    """Programs that hand in one message."""

    def test_smtplib_tcp(self) -> None:
        before = self.count()
        with smtplib.LMTP(LOOPBACK, self.port, timeout=20) as client:
            self.assertEqual(client.helo("x")[0], 500)
            self.assertEqual(client.ehlo("client.test")[0], 250)
            self.assertTrue(client.has_extn("pipelining"))
        with smtplib.LMTP(LOOPBACK, self.port, local_hostname="client.test", timeout=20) as client:
            self.assertEqual(client.sendmail("x@far.example", [ANN], MESSAGE), {})
        message = self.mta.wait_mailbox(ANN, before + 1)[-1]
        self.assertTrue(any(b"with LMTP id" in one for one in self.mta.mailbox(ANN)), message)

    def test_smtplib_unix(self) -> None:
        before = self.count()
        with smtplib.LMTP(str(self.path), local_hostname="client.test", timeout=20) as client:
            refused = client.sendmail("x@far.example", [ANN, "nobody@demo.example", "joe@far.example"], MESSAGE)
        self.assertEqual({one: reply[0] for one, reply in refused.items()}, {
            "nobody@demo.example": 550, "joe@far.example": 550,
        })  # fmt: skip
        self.mta.wait_mailbox(ANN, before + 1)
        self.mta.wait_event("accept", client="unix", listener="lmtp")

    def test_one_of_three_is_refused_at_the_end(self) -> None:
        before = len(self.mta.mailbox(BEN))
        with smtplib.LMTP(str(self.path), local_hostname="client.test", timeout=20) as client:
            client.ehlo()
            client.mail("x@far.example")
            self.assertEqual([client.rcpt(one)[0] for one in (ANN, LOOP, BEN)], [250, 250, 250])
            replies = [client.data(MESSAGE)[0], *(client.getreply()[0] for _ in range(2))]
            self.assertEqual(replies, [250, 550, 250])
            self.assertEqual(client.noop()[0], 250)
        self.mta.wait_mailbox(BEN, before + 1)
        self.mta.wait_event("reject", stage="content", recipient=LOOP)

    def test_swaks(self) -> None:
        before = self.count()
        done = swaks(self.port, "--protocol", "LMTP", "-f", "x@far.example", "-t", ANN)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn(" -> LHLO client.test", done.stdout)
        self.mta.wait_mailbox(ANN, before + 1)

    def test_the_socket(self) -> None:
        found = os.stat(self.path)
        self.assertTrue(stat.S_ISSOCK(found.st_mode))
        self.assertEqual(stat.S_IMODE(found.st_mode), 0o666)
        self.assertIn(f"unix:{self.path}", self.mta.cli("status"))


class WorkersTests(LmtpCase):
    """The socket is that of all workers, of the next version, and of nobody once the service has stopped."""

    processes = 2

    def deliver(self) -> None:
        before = self.count()
        with smtplib.LMTP(str(self.path), local_hostname="client.test", timeout=20) as client:
            self.assertEqual(client.sendmail("x@far.example", [ANN], MESSAGE), {})
        wait_for("the message", lambda: self.count() > before, 15)

    def test_life(self) -> None:
        for _ in range(4):
            self.deliver()
        self.mta.cli("upgrade")
        new = self.mta.json("status")["service"]["pid"]
        self.deliver()
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o666)
        os.kill(new, 15)
        wait_for("the socket's end", lambda: not self.path.exists(), 30)


class PostfixTests(LmtpCase):
    """Postfix's lmtp(8) delivers to us, as it does to an IMAP server."""

    def test_delivers(self) -> None:
        before = self.count()
        postfix = Postfix(
            ("demo.example", "loop.example"),
            ("ann",),
            settings=f"""
                virtual_mailbox_maps = static:x
                virtual_transport = lmtp:inet:{LOOPBACK}:{self.port}
                transport_maps = inline:{{ {{ ben@demo.example = lmtp:unix:{self.path} }} }}
                lmtp_destination_recipient_limit = 50
                """,
        )
        lmtp = "lmtp unix - - n - - lmtp\n"
        master = postfix.folder / "etc" / "master.cf"
        master.write_text(master.read_text() + lmtp)
        self.addCleanup(postfix.close)
        postfix.start()
        names = [ANN, LOOP, "ann+tag@demo.example", "nobody@demo.example"]
        with smtplib.SMTP(LOOPBACK, postfix.port, timeout=20) as client:
            client.sendmail("", [*names, BEN], MESSAGE)
        self.mta.wait_mailbox(ANN, before + 1)
        self.mta.wait_mailbox(BEN, 1)

        def said(recipient: str, status: str) -> bool:
            return any(f"to=<{recipient}>" in line and f"status={status}" in line for line in log())

        def log() -> list[str]:
            return postfix.output().splitlines()

        for recipient, status in ((ANN, "sent"), (BEN, "sent"), (LOOP, "bounced"), ("nobody@demo.example", "bounced")):
            wait_for(f"{recipient} {status}", lambda r=recipient, s=status: said(r, s), 20)  # type: ignore[misc]
        accepted = self.mta.events("accept", client=LOOPBACK, listener="lmtp")
        self.assertTrue(any(LOOP not in event["recipients"] and ANN in event["recipients"] for event in accepted))
        self.assertTrue(self.mta.events("accept", client="unix"))


class DovecotProxy(DovecotService):
    """Dovecot's LMTP server, which hands all mail on to ours."""

    name = "dovecot-lmtp"

    def __init__(self, target: int) -> None:
        super().__init__("dovecot-lmtpd", "/usr/lib/dovecot/lmtp")
        self.port = free_port()
        self.configure(
            f"""\
                protocols = lmtp
                lmtp_proxy = yes
                mail_location = maildir:{self.folder}/home/%u
                service lmtp {{
                  inet_listener lmtp {{
                    address = {LOOPBACK}
                    port = {self.port}
                  }}
                }}
                passdb {{
                  driver = static
                  args = nopassword=y proxy=y host={LOOPBACK} port={target} protocol=lmtp
                }}
                userdb {{
                  driver = static
                  args = uid=65534 gid=65534 home={self.folder}/home/%u
                }}
                """,
            "home",
        )

    def ready(self) -> None:
        """See :class:`Daemon`."""
        wait_for_banner(self.port, alive=self.check_alive)


class DovecotTests(LmtpCase):
    """Dovecot's LMTP proxy delivers to us."""

    def test_proxied(self) -> None:
        before = self.count()
        proxy = DovecotProxy(self.port)
        self.addCleanup(proxy.close)
        proxy.start()
        with smtplib.LMTP(LOOPBACK, proxy.port, local_hostname="client.test", timeout=20) as client:
            client.ehlo()
            client.mail("x@far.example")
            self.assertEqual([client.rcpt(one)[0] for one in (ANN, BEN)], [250, 250])
            self.assertEqual(client.rcpt("nobody@demo.example")[0], 550)
            replies: list[Any] = [client.data(MESSAGE)[0], client.getreply()[0]]
        self.assertEqual(replies, [250, 250], proxy.output())
        self.mta.wait_mailbox(ANN, before + 1)
        self.mta.wait_event("accept", listener="lmtp", protocol="LMTP")
