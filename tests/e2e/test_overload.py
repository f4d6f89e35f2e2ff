"""Overload: more sessions than there is room for, and more connections than there is time for.

Three times as much is offered as there is room for: what is taken is taken as fast as ever, the rest hears 421 soon.

The sessions that there is room for are the service's measure, not the machine's, so that the test knows what "three
times" is: a third of the clients fit.  Rates are compared with those of the same service without the other two thirds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import subprocess
import threading
import time
from typing import Any

import attrs
import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.peers import wait_for
from tests.peers.clients import swaks
from tests.peers.mta import Mta
from tests.peers.postfix import SmtpSink
from tests.peers.process import LOOPBACK
from tests.peers.rawsmtp import RawSmtp

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(180)]

ROOM = 16
SECONDS = 5.0
PATIENCE = 5.0
"""Seconds within which everybody has an answer, of whatever kind."""


@attrs.define
class Tally:
    """What the clients saw: times in seconds."""

    accepted: int = 0
    refused: int = 0
    latencies: list[float] = attrs.Factory(list)
    refusals: list[float] = attrs.Factory(list)
    odd: list[str] = attrs.Factory(list)


class Clients:
    """So many clients that hand in one message after the other, five to a connection, until they are told to stop."""

    def __init__(self, mta: Mta, count: int) -> None:
        self.tally = Tally()
        self._port = mta.mx
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> Tally:
        self._over.set()
        for thread in self._threads:
            thread.join(30)
        return self.tally

    def _run(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            with contextlib.suppress(OSError, ValueError), RawSmtp(self._port, timeout=30) as session:
                if session.greeting.code != 220:
                    with self._lock:
                        self.tally.refused += 1
                        self.tally.refusals.append(time.monotonic() - began)
                        if session.greeting.code != 421:
                            self.tally.odd.append(session.greeting.text)
                    self._over.wait(0.05)
                    continue
                session.ehlo()
                for _ in range(5):
                    if not self._over.is_set():
                        self._message(session)

    def _message(self, session: RawSmtp) -> None:
        began = time.monotonic()
        session.send(b"MAIL FROM:<a@source.test>\r\nRCPT TO:<b@remote.test>\r\nDATA\r\n")
        codes = [session.answer().code for _ in range(3)]
        if codes == [250, 250, 354]:
            session.send(b"Subject: x\r\n\r\n" + b"x" * 900 + b"\r\n.\r\n")
            codes = [session.answer().code]
        with self._lock:
            if codes == [250]:
                self.tally.accepted += 1
                self.tally.latencies.append(time.monotonic() - began)
            elif not {421, 451, 452} & set(codes):
                self.tally.odd.append(str(codes))


class OverloadTests(SynchronousTestCase):
    def test_three_times_as_much(self) -> None:
        sink = SmtpSink(capture=False)
        sink.start()
        self.addCleanup(sink.close)
        mta = Mta(
            {
                "smtp": {"connections": ROOM, "connections_per_address": 10 * ROOM},
                "relay": {
                    "networks": ["127.0.0.0/8"],
                    "smarthost": f"127.0.0.1:{sink.port}",
                    "private_addresses": True,
                },
            }
        )
        self.addCleanup(mta.close)
        mta.start()
        rates, sent, tallies = [], [], []
        for clients in (ROOM, 3 * ROOM):
            before, began = mta.metrics().get("mta_messages_done_total", 0.0), time.monotonic()
            load = Clients(mta, clients)
            time.sleep(SECONDS)
            tally = load.stop()
            seconds = time.monotonic() - began
            rates.append(tally.accepted / seconds)
            sent.append((mta.metrics()["mta_messages_done_total"] - before) / seconds)
            tallies.append(tally)
            mta.wait_empty(60)
        usual, over = tallies
        worst = [max(it.latencies) for it in tallies]
        print(
            f"accepted {rates[0]:.0f}/s, then {rates[1]:.0f}/s; delivered meanwhile {sent[0]:.0f}/s, {sent[1]:.0f}/s; "
            f"refused {over.refused}; median {statistics.median(usual.latencies) * 1000:.0f} ms, "
            f"{statistics.median(over.latencies) * 1000:.0f} ms; worst {worst[0]:.2f} s, {worst[1]:.2f} s"
        )
        self.assertEqual((usual.odd, over.odd), ([], []))
        self.assertGreater(over.refused, 0, "there was room for all")
        self.assertGreater(rates[1], rates[0] / 2, "overload costs what could have been taken")
        self.assertLess(max(over.refusals), PATIENCE, "a refusal is early")
        self.assertLess(worst[1], worst[0] + PATIENCE, "who is in does not wait for those who are not")
        self.assertGreater(sent[1], rates[1] / 4, "deliveries are starved")
        self.assertEqual(len(mta.events("accept")), usual.accepted + over.accepted)
        mta.stop_cleanly()


FRIEND = "127.0.0.2"
WAIT = 1.0
"""``smtp.accept_wait``, of which customers have three."""


class StoppedTests(SynchronousTestCase):
    """The process stands still while clients connect, and goes on: for some it is too late, and for others not."""

    def setUp(self) -> None:
        self.sink = SmtpSink(capture=False)
        self.sink.start()
        self.addCleanup(self.sink.close)

    def start(self, **settings: Any) -> Mta:
        mta = Mta(
            {
                "smtp": {"accept_wait": f"{WAIT:.0f}s", "connections_per_address": 1000},
                "defence": {"exempt": [], "greeting_delay": "0s", "connections_per_minute": 10_000},
                "relay": {"networks": [f"{FRIEND}/32"], "smarthost": f"{LOOPBACK}:{self.sink.port}"},
                **settings,
            }
        )
        self.addCleanup(mta.close)
        mta.start()
        self.pids = [mta.pid, *(one["pid"] for one in mta.json("status")["service"]["workers"])]
        self.addCleanup(self.signal, signal.SIGCONT)  # lest it can't be stopped
        return mta

    def signal(self, number: int) -> None:
        """To it, and to its workers."""
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def connect(self, port: int, count: int, source: str = LOOPBACK) -> list[socket.socket]:
        made = []
        for _ in range(count):
            made.append(socket.create_connection((LOOPBACK, port), 10, (source, 0)))
            self.addCleanup(made[-1].close)
        return made

    def heard(self, ones: list[socket.socket]) -> list[bytes]:
        """What each hears first: the code."""
        return [one.recv(1000)[:9] for one in ones]

    def check(self, mta: Mta) -> None:
        with RawSmtp(mta.mx) as before:
            before.ehlo()
            self.signal(signal.SIGSTOP)
            program = subprocess.Popen(
                ["swaks", "--server", LOOPBACK, "--port", str(mta.mx), "--quit-after", "EHLO", "--timeout", "20"],
                stdout=subprocess.PIPE,
                text=True,
            )
            self.addCleanup(program.kill)
            old, friends, tls = (
                self.connect(mta.mx, 500),
                self.connect(mta.mx, 5, FRIEND),
                self.connect(mta.submissions, 1),
            )
            time.sleep(1.7 * WAIT)
            new = self.connect(mta.mx, 5)
            self.signal(signal.SIGCONT)
            began = time.monotonic()
            self.assertEqual(set(self.heard(old)), {b"421 4.3.2"})
            self.assertLess(time.monotonic() - began, WAIT, "a refusal is immediate")
            self.assertEqual({one[:4] for one in self.heard(new)}, {b"220 "}, "the newest are in time")
            self.assertEqual({one[:4] for one in self.heard(friends)}, {b"220 "}, "customers may wait longer")
            self.assertEqual([one.recv(100) for one in old[:3]], [b""] * 3, "a refusal closes")
            said, _ = program.communicate(timeout=30)
            self.assertIn("421 4.3.2", said)
            self.assertNotIn("EHLO", said)
            self.assertEqual(before.cmd("NOOP").code, 250, "nobody who was in is put out")
        tls[0].settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            self.assertNotEqual(tls[0].recv(10)[:1], b"4", "users wait longer, and nothing is said in clear there")
        told = swaks(mta.mx, "--from", "a@source.test", "--to", "ann@demo.example")
        self.assertEqual(told.returncode, 0, told.stdout)
        events = wait_for("the event", lambda: mta.events("overload"), 10)
        self.assertEqual({event["listener"] for event in events}, {"mx"})
        wait_for("all", lambda: sum(event["refused"] for event in mta.events("overload")) == 501, 10)
        self.assertGreater(max(event["waited"] for event in events), WAIT)
        self.assertEqual(set(events[0]["clients"]), {LOOPBACK})
        self.assertEqual(mta.metrics()['mta_overload_refusals_total{listener="mx"}'], 501)
        wait_for("the status", lambda: mta.json("status")["service"]["refused"] == 501, 10)
        self.assertIn("501 connections refused", mta.cli("status"))

    def test_who_has_waited_too_long(self) -> None:
        mta = self.start()
        self.check(mta)
        mta.stop_cleanly()

    def test_with_workers(self) -> None:
        mta = self.start(workers=2)
        self.check(mta)
        mta.stop_cleanly()

    def test_for_ever(self) -> None:
        """Everybody is served, however late."""
        mta = self.start(smtp={"accept_wait": "0s", "connections_per_address": 1000})
        self.signal(signal.SIGSTOP)
        old = self.connect(mta.mx, 50)
        time.sleep(3.5 * WAIT)
        self.signal(signal.SIGCONT)
        self.assertEqual({one[:4] for one in self.heard(old)}, {b"220 "})
        self.assertEqual(mta.events("overload"), [])
