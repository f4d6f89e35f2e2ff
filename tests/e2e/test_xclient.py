"""XCLIENT from swaks: for whom a trusted host speaks."""

from __future__ import annotations

import pytest

from tests.e2e.case import ANN, BEN, ServiceCase
from tests.peers.clients import swaks
from tests.peers.rawsmtp import RawSmtp

pytestmark = pytest.mark.peer

PROXY, CLIENT = "127.0.0.25", "192.0.2.77"


class XclientTests(ServiceCase):
    settings = {"listen": {name: {"xclient": [PROXY]} for name in ("mx", "submission")}}

    def test_swaks(self) -> None:
        before = len(self.mta.mailbox(ANN))
        claims = ("--xclient-addr", CLIENT, "--xclient-name", "mail.far.example", "--xclient-helo", "mail.far.example")
        more = ("--xclient-port", "4711", "--xclient-destaddr", "192.0.2.1", "--xclient-destport", "25")
        done = swaks(self.mta.mx, "-f", "x@far.example", "-t", ANN, "--local-interface", PROXY, *claims, *more)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn(" -> XCLIENT ", done.stdout)
        message = self.mta.wait_mailbox(ANN, before + 1)[-1]
        self.assertTrue(any(b"(mail.far.example [192.0.2.77])" in one for one in self.mta.mailbox(ANN)), message)
        found = self.mta.wait_event("connect", client=CLIENT, proxy=PROXY, port=4711)
        self.assertEqual(found["here"], "[192.0.2.1]:25")
        self.assertEqual(self.mta.wait_event("accept", client=CLIENT)["session"], found["session"])

    def test_swaks_login(self) -> None:
        before = len(self.mta.mailbox(BEN))
        claims = ("--xclient-addr", CLIENT, "--xclient-login", ANN)
        done = swaks(self.mta.submission, "-f", ANN, "-t", BEN, "--local-interface", PROXY, *claims)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.mta.wait_mailbox(BEN, before + 1)
        self.mta.wait_event("auth", client=CLIENT, user=ANN, mechanism="XCLIENT")

    def test_elsewhere(self) -> None:
        """It is not offered, so swaks gives up; who says it all the same hears 550."""
        done = swaks(self.mta.mx, "-f", "x@far.example", "-t", ANN, "--xclient-addr", CLIENT)
        self.assertEqual(done.returncode, 33, done.stdout + done.stderr)
        with RawSmtp(self.mta.mx) as session:
            session.ehlo()
            self.assertEqual(session.cmd(f"XCLIENT ADDR={CLIENT}").code, 550)
