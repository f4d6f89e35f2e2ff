"""250 means on disk: the whole service is killed at random moments under load, and a ledger proves the promise.

The ledger is kept by the sending side alone: every message has a tag of its own, written down as "promised" when its
250 has been read, and as "open" while it is unknown whether one was given.  After the last round everything promised
has arrived, nothing arrived that was never sent, and what arrived twice was under way when the service was killed.
MTA_CRASH_ROUNDS sets the number of kills, MTA_CRASH_SEED their moments.
"""

from __future__ import annotations

import collections
import os
import random
import re
import threading
import time

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.peers import wait_for
from tests.peers.mta import Mta
from tests.peers.postfix import SmtpSink
from tests.peers.rawsmtp import RawSmtp

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(1800)]

ROUNDS = int(os.environ.get("MTA_CRASH_ROUNDS", "20"))
SENDERS = 6
BATCH = 5
WINDOW = 3.0
"""Seconds before a kill in which a first copy may have arrived whose 250 was not committed yet."""

CONNECTIONS = 10
IN_FLIGHT = 4 * CONNECTIONS
"""Messages that may have been delivered, or be in delivery, and not settled at a kill: some for each connection."""


class Ledger:
    """What the sending side knows.  ``promised`` have had their 250; ``open`` may or may not have been taken."""

    def __init__(self) -> None:
        self.promised: set[str] = set()
        self.open: set[str] = set()
        self.sent = 0
        self.lock = threading.Lock()

    def send_until_dead(self, port: int, sender: int, round_number: int) -> None:
        """Pipelines messages in batches, one connection after the other, until the service is gone."""
        number = 0
        while True:
            try:
                with RawSmtp(port, timeout=10) as client:
                    client.ehlo()
                    for _ in range(4):
                        tags = [f"r{round_number}s{sender}n{number + k}" for k in range(BATCH)]
                        number += BATCH
                        self._batch(client, tags)
            except (OSError, ValueError):
                return

    def _batch(self, client: RawSmtp, tags: list[str]) -> None:
        with self.lock:
            self.open.update(tags)
            self.sent += len(tags)
        for tag in tags:
            client.send(f"MAIL FROM:<{tag}@source.test>\r\nRCPT TO:<{tag}@remote.example>\r\nDATA\r\n".encode())
            if [client.answer().code for _ in range(3)] != [250, 250, 354]:
                raise ConnectionError("refused")
            client.send(f"Subject: {tag}\r\nX-Tag: {tag}\r\n\r\n{'x' * 900}\r\n.\r\n".encode())
            if client.answer().code == 250:
                with self.lock:
                    self.promised.add(tag)
                    self.open.discard(tag)


def arrivals(sink: SmtpSink) -> dict[str, list[float]]:
    """When each tag arrived at the sink, earliest first."""
    found = collections.defaultdict(list)
    for path in sink.messages_dir.iterdir():
        tag = re.search(rb"^X-Tag: (\S+)", path.read_bytes(), re.MULTILINE)
        if tag:
            found[tag.group(1).decode()].append(path.stat().st_mtime)
    return {tag: sorted(times) for tag, times in found.items()}


class CrashTests(SynchronousTestCase):
    """SIGKILL under load, again and again on one queue."""

    def test_nothing_promised_is_lost_whenever_the_service_is_killed(self) -> None:
        seed = os.environ.get("MTA_CRASH_SEED") or str(random.randrange(1 << 32))
        print(f"MTA_CRASH_ROUNDS={ROUNDS} MTA_CRASH_SEED={seed}")
        chance = random.Random(seed)
        ledger = Ledger()
        kills: list[float] = []
        with SmtpSink() as sink:
            settings = {
                "relay": {
                    "networks": ["127.0.0.0/8"],
                    "smarthost": f"127.0.0.1:{sink.port}",
                    "connections_per_destination": CONNECTIONS,
                },
                "queue": {"retry": ["1s", "1s", "2s"]},
                "smtp": {"connections_per_address": 1000},
            }
            with Mta(settings) as mta:
                for number in range(ROUNDS):
                    self.one_round(mta, ledger, number, chance)
                    kills.append(time.time())
                    mta.start()
                mta.wait_empty(150)  # what was under way at a kill is armed for a while, lest a crash repeats itself
                self.balance(mta, ledger, arrivals(sink), kills)

    def one_round(self, mta: Mta, ledger: Ledger, number: int, chance: random.Random) -> None:
        """Load, then SIGKILL at a random moment after the first promise of this round."""
        before = len(ledger.promised)
        senders = [
            threading.Thread(target=ledger.send_until_dead, args=(mta.mx, sender, number)) for sender in range(SENDERS)
        ]
        for sender in senders:
            sender.start()
        wait_for("a promise", lambda: len(ledger.promised) > before, 20, mta.check_alive)
        time.sleep(chance.uniform(0.0, 0.7))  # the moment of the kill is what is random here
        mta.kill()
        for sender in senders:
            sender.join()

    def balance(self, mta: Mta, ledger: Ledger, arrived: dict[str, list[float]], kills: list[float]) -> None:
        """The books: what was promised arrived; nothing else did but what was open; duplicates are explained."""
        twice = {tag: times for tag, times in arrived.items() if len(times) > 1}
        print(
            f"{ledger.sent} sent, {len(ledger.promised)} promised, {len(ledger.open)} open, "
            f"{len(arrived)} arrived, {len(twice)} twice, {len(kills)} kills"
        )
        self.assertGreater(len(ledger.promised), 10 * ROUNDS)
        self.assertEqual(sorted(ledger.promised - set(arrived)), [], "promised and lost")
        self.assertEqual(sorted(set(arrived) - ledger.promised - ledger.open), [], "arrived and never sent")
        for tag, times in twice.items():
            self.assertTrue(
                any(kill - WINDOW <= times[0] <= kill + 0.5 for kill in kills), f"{tag} arrived twice: {times}"
            )
            self.assertLessEqual(len(times), 1 + len(kills))
        self.assertLessEqual(len(twice), IN_FLIGHT * len(kills))
        self.assertEqual(mta.queue_length(), 0)
        self.assertEqual(mta.events("bounce"), [])
        self.assertEqual(mta.json("queue", "verify")["discrepancies"], [])
