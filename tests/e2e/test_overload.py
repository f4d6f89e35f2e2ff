"""Three times as much is offered as there is room for: what is taken is taken as fast as ever, the rest hears 421 soon.

The sessions that there is room for are the service's measure, not the machine's, so that the test knows what "three
times" is: a third of the clients fit.  Rates are compared with those of the same service without the other two thirds.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time

import attrs
import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.peers.mta import Mta
from tests.peers.postfix import SmtpSink
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
