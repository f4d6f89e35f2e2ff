"""A parent and its workers, as real processes: they share the work, and each may die or hang at any moment."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
import urllib.error
from collections import Counter
from typing import Any

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.peers import wait_for
from tests.peers.mta import Mta
from tests.peers.postfix import SmtpSink
from tests.peers.rawsmtp import RawSmtp

pytestmark = pytest.mark.slow

QUICK = {"worker_timeout": "4s", "queue": {"retry": ["2s"], "delay_warning": "0s"}}


def workers(mta: Mta) -> dict[int, int]:
    """The process ids of the workers that serve, by their places."""
    found = mta.json("status")["service"]["workers"]
    return {one["slot"]: one["pid"] for one in found if one["state"] == "serving"}


def alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Load:
    """Clients that send one message after the other, each with a tag of its own, over new connections when they must.

    ``promised`` are the tags that had their 250; ``open`` those of which nobody knows.
    """

    def __init__(self, mta: Mta, clients: int = 4, domains: int = 8) -> None:
        self.promised: set[str] = set()
        self.open: set[str] = set()
        self._port = mta.mx
        self._domains = domains
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send, args=(number,), daemon=True) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def _send(self, client: int) -> None:
        number = 0
        while not self._over.is_set():
            try:
                with RawSmtp(self._port, timeout=10) as session:
                    session.ehlo()
                    for _ in range(10):
                        number += 1
                        self._message(session, f"c{client}n{number}", number % self._domains)
                        if self._over.is_set():
                            return
            except (OSError, ValueError):
                self._over.wait(0.02)

    def _message(self, session: RawSmtp, tag: str, domain: int) -> None:
        with self._lock:
            self.open.add(tag)
        to = f"{tag}@d{domain}.example"
        session.send(f"MAIL FROM:<{tag}@source.test>\r\nRCPT TO:<{to}>\r\nDATA\r\n".encode())
        if [session.answer().code for _ in range(3)] != [250, 250, 354]:
            raise ConnectionError("refused")
        session.send(f"Subject: {tag}\r\nX-Tag: {tag}\r\n\r\n{'x' * 900}\r\n.\r\n".encode())
        if session.answer().code == 250:
            with self._lock:
                self.promised.add(tag)
                self.open.discard(tag)

    def wait(self, more: int) -> None:
        """Until so many more messages have been accepted."""
        count = len(self.promised) + more
        wait_for(f"{more} more messages", lambda: len(self.promised) >= count, 30)

    def stop(self) -> None:
        """No more."""
        self._over.set()
        for thread in self._threads:
            thread.join(30)


def tags(sink: SmtpSink) -> Counter[str]:
    """How often each tag has arrived."""
    return Counter(re.search(rb"X-Tag: (\S+)", message)[1].decode() for message in sink.messages())  # type: ignore[index]


class ProcessCase(SynchronousTestCase):
    """``self.mta`` with two workers, relaying to ``self.sink``."""

    settings: dict[str, Any] = {"workers": 2, **QUICK}

    def setUp(self) -> None:
        self.sink = SmtpSink()
        self.sink.start()
        self.addCleanup(self.sink.close)
        relay = {"smarthost": "", "networks": ["127.0.0.0/8"], "private_addresses": True}
        self.mta = Mta({**self.settings, "relay": relay})
        self.mta.write_config({"relay": {"smarthost": f"127.0.0.1:{self.sink.port}"}})
        self.addCleanup(self.mta.close)
        self.mta.start()

    def balance(self, load: Load, under_way: int = 40) -> None:
        """Everything promised has arrived, and soon; nothing else; and twice only what was under way at a death."""
        load.stop()
        # Less than the minute for which a fresh delivery is armed; the process that was started first may have ended.
        wait_for("an empty queue", lambda: not self.mta.queue_length(), 20)
        found = tags(self.sink)
        self.assertEqual(load.promised - set(found), set(), "acknowledged, and lost")
        self.assertEqual(set(found) - load.promised - load.open, set(), "never sent")
        twice = [tag for tag, count in found.items() if count > 1]
        self.assertLessEqual(len(twice), under_way)
        self.assertEqual(self.mta.cli("queue", "verify").strip().count("\n"), 0)


@pytest.mark.peer
class DeathTests(ProcessCase):
    """kill -9."""

    def test_a_worker_is_killed_under_load(self) -> None:
        load = Load(self.mta)
        for slot in (0, 1, 0):
            load.wait(60)
            before = workers(self.mta)
            os.kill(before[slot], signal.SIGKILL)
            wait_for("a new worker", lambda b=before, s=slot: workers(self.mta).get(s, b[s]) != b[s], 20)
        load.wait(60)
        self.balance(load)
        self.assertEqual(len(self.mta.events("service", what="worker-died")), 3)
        self.assertEqual(self.mta.http("/healthz").strip(), "ok")
        self.mta.stop_cleanly()

    def test_a_worker_that_hangs_is_replaced(self) -> None:
        load = Load(self.mta)
        load.wait(30)
        before = workers(self.mta)
        os.kill(before[1], signal.SIGSTOP)
        wait_for("a new worker", lambda: workers(self.mta).get(1, before[1]) != before[1], 30)
        self.assertFalse(alive(before[1]))
        load.wait(30)
        self.balance(load)
        self.assertIn("no answer", self.mta.wait_event("service", what="worker-died")["detail"])

    def test_a_worker_that_cannot_be_started_again(self) -> None:
        """It is tried later and later, and named; the other has its destinations until it is back."""
        load = Load(self.mta)
        load.wait(30)
        before = workers(self.mta)
        lock = self.mta.state / "queue" / "lock.mdb"
        lock.rename(lock.with_name("kept"))
        lock.mkdir()  # whoever opens the queue from now on can't
        try:
            os.kill(before[1], signal.SIGKILL)
            wait_for("deaths", lambda: len(self.mta.events("service", what="worker-died")) >= 5, 60)
            words = self.mta.events("service", what="worker-died")[-1]["detail"]
            self.assertIn("worker 1", words)
            self.assertIn("can't be opened", words)
            times = [event["time"] for event in self.mta.events("service", what="worker-died")]
            self.assertGreater(times[-1] - times[-2], 0.9, "it is not tried later and later")
            with self.assertRaises(urllib.error.HTTPError) as caught:
                self.mta.http("/healthz")
            self.assertEqual(caught.exception.code, 503)
            self.assertIn("worker 1 is ", caught.exception.read().decode())
            arrived = len(self.sink.messages())
            load.wait(60)
            self.assertTrue(alive(before[0]), "the other went with it")
            # Of eight destinations some were the missing one's: all go out.
            wait_for("mail of all destinations", lambda: len(self.sink.messages()) >= arrived + 50, 30)
        finally:
            lock.rmdir()
            lock.with_name("kept").rename(lock)
        wait_for("both workers", lambda: len(workers(self.mta)) == 2, 60)
        load.wait(30)
        self.balance(load)
        self.assertEqual(self.mta.http("/healthz").strip(), "ok")

    def test_the_parent_is_killed(self) -> None:
        load = Load(self.mta)
        load.wait(60)
        left = workers(self.mta)
        # A message that is under way then is taken all the same.
        with RawSmtp(self.mta.mx) as session:
            session.ehlo()
            session.send(b"MAIL FROM:<late@source.test>\r\nRCPT TO:<late@d1.example>\r\nDATA\r\n")
            self.assertEqual([session.answer().code for _ in range(3)], [250, 250, 354])
            os.kill(self.mta.pid, signal.SIGKILL)
            self.mta.wait()
            session.send(b"X-Tag: late\r\n\r\nx\r\n.\r\n")
            self.assertEqual(session.answer().code, 250)
        load.promised.add("late")
        wait_for("the workers' end", lambda: not any(alive(pid) for pid in left.values()), 30)
        self.mta.process = None
        self.mta.start()
        load.wait(30)
        self.balance(load)

    def test_a_worker_asked_to_stop_is_replaced_and_loses_nothing(self) -> None:
        load = Load(self.mta)
        load.wait(30)
        before = workers(self.mta)
        os.kill(before[0], signal.SIGTERM)
        wait_for("a new worker", lambda: workers(self.mta).get(0, before[0]) != before[0], 30)
        self.balance(load, under_way=0)


class TogetherTests(SynchronousTestCase):
    """What holds over all workers."""

    def start(self, **settings: Any) -> Mta:
        mta = Mta({"workers": 2, **QUICK, **settings})
        self.addCleanup(mta.close)
        return mta.start()

    def test_all_serve_deliver_and_are_counted_as_one(self) -> None:
        mta = self.start()
        for number in range(20):
            with RawSmtp(mta.mx) as session:
                session.ehlo()
                session.send(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<ann@demo.example>\r\nDATA\r\n")
                self.assertEqual([session.answer().code for _ in range(3)], [250, 250, 354])
                session.send(b"Subject: %d\r\n\r\nx\r\n.\r\n" % number)
                self.assertEqual(session.answer().code, 250)
        mta.wait_mailbox("ann@demo.example", 20)
        mta.wait_empty()
        metrics = mta.metrics()
        self.assertEqual(metrics['mta_messages_accepted_total{listener="mx"}'], 20)
        self.assertEqual(metrics["mta_messages_done_total"], 20)
        self.assertEqual(metrics["mta_queue_messages"], 0)
        self.assertEqual(len(mta.events("accept")), 20)
        self.assertNotIn("worker", mta.http("/metrics").split("mta_service_events_total")[0])

    def test_connections_are_limited_over_all(self) -> None:
        mta = self.start(smtp={"connections": 12})
        sessions = []

        def greeting() -> int:
            session = RawSmtp(mta.mx)
            if session.greeting.code == 220:
                sessions.append(session)
                self.addCleanup(session.socket.close)
            else:
                session.socket.close()
            return session.greeting.code

        wait_for("a refusal", lambda: greeting() == 421)
        self.assertIn(len(sessions), (12, 13))  # one may come to each worker at the same instant
        for session in sessions[:4]:
            session.cmd("QUIT")
            session.socket.close()
        wait_for("another session", lambda: greeting() == 220)

    def test_rates_hold_over_all(self) -> None:
        limit = 30
        mta = self.start(
            defence={"exempt": ["192.0.2.1"], "connections_per_minute": limit, "tarpit": "0s", "greeting_delay": "0s"}
        )
        stranger = ("127.0.0.66", 0)
        count = 0
        while True:
            with socket.create_connection(("127.0.0.1", mta.mx), 10, stranger) as one:
                if not one.recv(100).startswith(b"220"):
                    break
                one.sendall(b"QUIT\r\n")
                one.recv(100)
            count += 1
            self.assertLess(count, 3 * limit, "each worker counts for itself")
            time.sleep(0.02)  # so that what is gathered is small beside the limit
        self.assertGreaterEqual(count, 2 * limit - 1)

    def test_a_reload_reaches_all_or_none(self) -> None:
        mta = self.start()

        def banners() -> set[str]:
            found = set()
            for _ in range(30):
                with RawSmtp(mta.mx) as session:
                    found.add(session.greeting.text)
            return found

        mta.write_config({"smtp": {"banner": "changed"}})
        mta.signal(signal.SIGHUP)
        mta.wait_event("service", what="reload")
        self.assertEqual(banners(), {"mta.demo.example changed"})
        # A worker that does not answer takes part in no reload, so that nobody else may either.
        pid = workers(mta)[1]
        os.kill(pid, signal.SIGSTOP)
        mta.write_config({"smtp": {"banner": "again"}})
        mta.signal(signal.SIGHUP)
        mta.wait_event("service", 30, what="reload-failed")
        wait_for("a new worker", lambda: workers(mta).get(1, pid) != pid, 30)
        self.assertEqual(banners(), {"mta.demo.example changed"})
        mta.signal(signal.SIGHUP)
        wait_for("a reload", lambda: len(mta.events("service", what="reload")) == 2)
        self.assertEqual(banners(), {"mta.demo.example again"})

    def test_a_start_that_fails_says_why(self) -> None:
        mta = Mta({"workers": 2})
        self.addCleanup(mta.close)
        queue = mta.state / "queue"
        queue.mkdir(exist_ok=True)
        (queue / "data.mdb").write_bytes(b"x" * 100000)
        self.assertRaises(AssertionError, mta.start)
        self.assertIn("Not started", mta.output())

    def test_the_log_is_opened_again_by_all(self) -> None:
        mta = self.start()
        path = mta.folder / "events.log"
        mta.stop()
        mta.write_config({"log": {"file": str(path)}})
        mta.process = None
        mta.start()
        path.rename(mta.folder / "events.1")
        mta.signal(signal.SIGUSR1)
        wait_for("a new log", path.exists)

        def all_write() -> bool:
            with RawSmtp(mta.mx) as session:
                session.ehlo()
            return (
                len({line.split('"session":"')[1][:9] for line in path.read_text().splitlines() if "session" in line})
                > 1
            )

        wait_for("lines of both workers", all_write)
        mta.stop_cleanly()
