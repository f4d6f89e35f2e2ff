"""More connections than the process has file descriptors for, from real sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import time

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.e2e.case import ANN
from tests.peers.mta import Mta
from tests.peers.process import LOOPBACK, wait_for
from tests.peers.rawsmtp import Answer, RawSmtp

pytestmark = pytest.mark.peer

FILES = 400
"""Open files that the service may have."""
FLOOD = 600
STRANGER = "127.0.0.66"
"""An address that the settings know nothing of; loopback is not exempt here but for 127.0.0.1."""


def connect(port: int) -> socket.socket:
    """A stranger's connection."""
    return socket.create_connection((LOOPBACK, port), 10, (STRANGER, 0))


def heard(one: socket.socket) -> bytes:
    """The beginning of what a connection has heard so far."""
    one.setblocking(False)
    with contextlib.suppress(OSError):
        return one.recv(200)
    return b""


class FloodTests(SynchronousTestCase):
    """Strangers take all that there is, and stay silent."""

    def setUp(self) -> None:
        self.mta = Mta(
            {
                "defence": {"exempt": ["127.0.0.1"], "greeting_delay": "0s", "connections_per_minute": "none"},
                "smtp": {"connections_per_address": 10000, "overload_timeout": "5m"},
            },
            files=FILES,
        )
        self.addCleanup(self.mta.close)
        self.mta.start()

    def processor_seconds(self) -> float:
        with open(f"/proc/{self.mta.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def flood(self) -> list[socket.socket]:
        strangers = [connect(self.mta.mx) for _ in range(FLOOD)]
        self.addCleanup(lambda: [one.close() for one in strangers])
        return strangers

    def test_the_flood_hears_421_and_customers_get_in(self) -> None:
        strangers = self.flood()
        answers = [b""] * FLOOD

        def all_heard() -> bool:
            for at, one in enumerate(strangers):
                answers[at] = answers[at] or heard(one)
            return all(answers)

        wait_for("an answer for each", all_heard, 20)
        codes = [answer[:3] for answer in answers]
        self.assertEqual(set(codes), {b"220", b"421"})
        self.assertGreater(codes.count(b"220"), FILES // 2)
        self.assertLess(codes.count(b"220"), FILES)
        with RawSmtp(self.mta.submissions, implicit_tls=True) as user:
            user.ehlo()
            self.assertEqual(user.auth_plain(ANN, self.mta.password).code, 235)
            self.assertEqual(user.message(ANN, [ANN], b"Subject: in the flood\r\n\r\nx").code, 250)
        self.mta.wait_mailbox(ANN)
        with RawSmtp(self.mta.mx) as friend:
            self.assertIsInstance(friend.ehlo(), Answer)
        self.assertTrue(self.mta.events("disconnect", reason="overload"))

    def test_nothing_spins_while_it_lasts_and_all_is_well_after_it(self) -> None:
        strangers = self.flood()
        time.sleep(1)
        began = self.processor_seconds()
        time.sleep(2)
        self.assertLess(self.processor_seconds() - began, 0.5)
        for one in strangers:
            one.close()
        wait_for("room again", lambda: heard_first(self.mta.mx).startswith(b"220"), 10)
        self.assertTrue(self.mta.healthy())


def heard_first(port: int) -> bytes:
    """What a new stranger hears first."""
    with connect(port) as one:
        return one.recv(200)
