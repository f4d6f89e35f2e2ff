"""A minute under load with everything that goes wrong in a month: what should stay flat stays flat.

The far side goes away in mid-session and comes back, names can't be looked up, a worker is killed.  All the while
memory, descriptors and the time of a commit are sampled; in the end the ledgers of the sender and of the sink agree
message by message.
MTA_SOAK_SECONDS sets how long, MTA_SOAK_SEED what happens when.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import statistics
import threading
import time
from collections import Counter
from pathlib import Path

import attrs
import dns.message
import dns.rdatatype
import dns.rrset
import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.peers import wait_for
from tests.peers.mta import Mta
from tests.peers.postfix import SmtpSink
from tests.peers.process import LOOPBACK, free_port
from tests.peers.rawsmtp import RawSmtp
from tests.workers.test_processes import Load, alive, workers

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(1800)]

SECONDS = float(os.environ.get("MTA_SOAK_SECONDS", "40"))
MIB = 1 << 20
GROWTH = 24 * MIB
"""Octets by which a worker may grow after it has warmed up: what is kept of 100,000 destinations, and arenas."""


@attrs.frozen
class Sample:
    """One look at one worker: octets of memory, open descriptors."""

    pid: int
    memory: int
    files: int


def look(pid: int) -> Sample | None:
    """None where it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # Without the pages of the queue's file, which are the page cache's.
        memory = int(Path(f"/proc/{pid}/status").read_text().partition("RssAnon:")[2].split()[0]) << 10
        return Sample(pid, memory, len(os.listdir(f"/proc/{pid}/fd")))
    return None


class Names:
    """A name server that knows one host, for a second; ``dead``: it does not answer."""

    def __init__(self) -> None:
        self.port = free_port()
        self.dead = False
        self.unanswered = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((LOOPBACK, self.port))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                data, client = self._socket.recvfrom(4096)
            except OSError:
                return
            if self.dead:
                self.unanswered += 1
                continue
            query = dns.message.from_wire(data)
            answer = dns.message.make_response(query)
            [question] = query.question
            if question.rdtype == dns.rdatatype.A:
                answer.answer.append(dns.rrset.from_text(question.name, 1, "IN", "A", LOOPBACK))
            self._socket.sendto(answer.to_wire(), client)

    def close(self) -> None:
        self._socket.close()


class SoakTests(SynchronousTestCase):
    """Two workers."""

    def setUp(self) -> None:
        seed = os.environ.get("MTA_SOAK_SEED") or str(random.randrange(1 << 32))
        print(f"MTA_SOAK_SECONDS={SECONDS:g} MTA_SOAK_SEED={seed}")
        self.chance = random.Random(seed)
        self.samples: dict[int, list[Sample]] = {}
        self.commits: list[float] = []

    def test_a_month_in_a_minute(self) -> None:
        sink = SmtpSink()
        sink.start()
        self.addCleanup(sink.close)
        names = Names()
        self.addCleanup(names.close)
        settings = {
            "workers": 2,
            "dns": {"servers": [f"{LOOPBACK}:{names.port}"], "timeout": "1s", "attempts": 1},
            "worker_timeout": "5s",
            "relay": {"networks": ["127.0.0.0/8"], "smarthost": f"relay.test:{sink.port}", "private_addresses": True},
            "queue": {"retry": ["1s", "2s"], "delay_warning": "0s"},
            "smtp": {"connections_per_address": 1000},
        }
        mta = Mta(settings)
        self.addCleanup(mta.close)
        mta.start()
        load = Load(mta, clients=3, domains=6)
        load.wait(50)
        self.pids = list(workers(mta).values())
        began = time.monotonic()
        killed = False
        down = 0.0
        while (passed := time.monotonic() - began) < SECONDS:
            self.sample(mta)
            if sink.process is not None and self.chance.random() < 0.08:  # the far side goes away in mid-session
                sink.kill()
                sink.process = None
                down = passed
            elif sink.process is None and passed - down > 2:
                sink.start()
            # At least 4 s, and until a name is asked for: sessions that are reused need none, new workers' do.
            names.dead = passed > SECONDS * 0.25 and (passed < SECONDS * 0.25 + 4 or not names.unanswered)
            if not killed and passed > SECONDS * 0.4:
                victim = self.chance.choice(self.pids)
                os.kill(victim, signal.SIGKILL)
                killed = True
                wait_for("a new worker", lambda v=victim: not alive(v) and len(workers(mta)) == 2, 30)
                self.pids = list(workers(mta).values())
            time.sleep(0.5)
        names.dead = False
        if sink.process is None:
            sink.start()
        load.stop()
        self.assertGreater(names.unanswered, 0)
        # What is put off for a dead destination is probed after a minute at most; an operator need not wait.
        wait_for("the rest", lambda: mta.run_cli("queue", "retry", "--all") and not mta.queue_length(), 90)
        self.ledger(mta, load, sink)
        self.flat(mta)
        mta.stop_cleanly()

    def sample(self, mta: Mta) -> None:
        for pid in self.pids:
            seen = look(pid)
            if seen is not None:
                self.samples.setdefault(pid, []).append(seen)
        before = time.monotonic()
        with contextlib.suppress(OSError, ValueError), RawSmtp(mta.mx, timeout=10) as session:
            session.ehlo()
            session.send(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<ann@demo.example>\r\nDATA\r\n")
            if [session.answer().code for _ in range(3)] == [250, 250, 354]:
                before = time.monotonic()
                session.send(b"Subject: probe\r\n\r\nx\r\n.\r\n")
                if session.answer().code == 250:
                    self.commits.append(time.monotonic() - before)

    def ledger(self, mta: Mta, load: Load, sink: SmtpSink) -> None:
        marks = [re.search(rb"^X-Tag: (\S+)", message, re.MULTILINE) for message in sink.messages()]
        found = Counter(mark[1].decode() for mark in marks if mark is not None)  # it may have died over one
        twice = [tag for tag, count in found.items() if count > 1]
        print(f"{len(load.promised)} promised, {len(load.open)} open, {len(found)} arrived, {len(twice)} twice")
        self.assertEqual(load.promised - set(found), set(), "acknowledged, and lost")
        self.assertEqual(set(found) - load.promised - load.open, set(), "never sent")
        self.assertGreater(len(load.promised), SECONDS)
        self.assertEqual(mta.events("bounce"), [])
        self.assertEqual(mta.json("queue", "verify")["discrepancies"], [])
        self.assertEqual(len(mta.mailbox("ann@demo.example")), len(self.commits))

    def flat(self, mta: Mta) -> None:
        judged = 0
        for pid, seen in self.samples.items():
            if len(seen) < 12:
                continue
            judged += 1
            third = len(seen) // 3
            first, last = seen[third : 2 * third], seen[2 * third :]
            grown = statistics.median(it.memory for it in last) - statistics.median(it.memory for it in first)
            print(f"worker {pid}: {seen[-1].memory / MIB:.1f} MiB, {grown / MIB:+.1f} MiB, {seen[-1].files} files")
            self.assertLess(grown, GROWTH, "memory grows")
            files = [min(it.files for it in part) for part in (first, last)]
            self.assertLessEqual(files[1], files[0] + 40, "descriptors leak")
        self.assertGreater(judged, 0)
        half = len(self.commits) // 2
        early, late = (statistics.median(part) for part in (self.commits[:half], self.commits[half:]))
        print(f"commit: {early * 1000:.1f} ms, then {late * 1000:.1f} ms")
        self.assertLess(late, 3 * early + 0.1, "commits take ever longer")
