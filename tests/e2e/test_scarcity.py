"""A process that runs out of file descriptors or of memory: it refuses, says so, and loses nothing.

Each is a real service in a process of its own with a hard limit, and each ends with books that balance: what was
acknowledged is delivered, once the scarcity is over.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.peers import wait_for
from tests.peers.mta import Mta
from tests.peers.process import LOOPBACK
from tests.peers.rawsmtp import RawSmtp

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

ANN, BEN = "ann@demo.example", "ben@demo.example"
MIB = 1 << 20


def lowest_free(pid: int) -> int:
    """The smallest number that no descriptor of a process has: with it as the limit none can be opened."""
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    return next(number for number in range(len(taken) + 1) if number not in taken)


def address_space(pid: int) -> int:
    """Octets of a process' address space."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


class ScarcityCase(SynchronousTestCase):
    """``self.promised`` are the subjects that had their 250."""

    def setUp(self) -> None:
        self.promised: set[str] = set()
        self.refusals: list[int] = []

    def start(self, **settings: Any) -> Mta:
        mta = Mta({"queue": {"retry": ["1s"]}, "smtp": {"connections_per_address": 1000}, **settings})
        self.addCleanup(mta.close)
        return mta.start()

    def send(self, session: RawSmtp, subject: str, size: int = 1000) -> int:
        """Hand in one message; the last code that was said."""
        answer = session.cmd("MAIL FROM:<a@b.test>")
        for command in (f"RCPT TO:<{ANN}>", "DATA"):
            if answer.code != 250:
                break
            answer = session.cmd(command)
        if answer.code == 354:
            session.send(f"Subject: {subject}\r\n\r\nx\r\n".encode())
            line = b"y" * 998 + b"\r\n"
            for _ in range(size // len(line)):
                session.send(line)
            session.send(b".\r\n")
            answer = session.answer()
        if answer.code == 250:
            self.promised.add(subject)
        else:
            self.refusals.append(answer.code)
            with contextlib.suppress(OSError, ValueError):
                session.cmd("RSET")
        return answer.code

    def assert_balanced(self, mta: Mta) -> None:
        """accepted = delivered: nothing bounced, nothing is left, nothing is there that was not promised."""
        mta.wait_empty(90)
        found = [re.search(rb"^Subject: (\S+)", mail, re.MULTILINE) for mail in mta.mailbox(ANN)]
        subjects = [match[1].decode() for match in found if match is not None]
        self.assertEqual(set(subjects), self.promised)
        self.assertEqual(len(subjects), len(set(subjects)), "delivered twice")
        self.assertEqual(mta.events("bounce"), [])
        self.assertEqual(len(mta.events("accept")), len(self.promised))
        self.assertEqual(len(mta.events("deliver")), len(self.promised))
        self.assertEqual(mta.json("queue", "verify")["discrepancies"], [])


class DescriptorTests(ScarcityCase):
    """EMFILE, by a limit that is lowered on the running service."""

    def test_in_maildir_and_relay(self) -> None:
        """None is free while mail comes in by a session that is open: it is taken, put off, and delivered later."""
        mta = self.start()
        with RawSmtp(mta.mx) as session:
            session.ehlo()
            self.assertEqual(self.send(session, "before"), 250)
            mta.wait_mailbox(ANN)
            mta.wait_empty()
            soft, hard = resource.prlimit(mta.pid, resource.RLIMIT_NOFILE)
            for number in range(5):
                # Anew each time: what was still open at the time before (the mailbox, the commands' socket) has
                # been closed since, and would be free.
                resource.prlimit(mta.pid, resource.RLIMIT_NOFILE, (lowest_free(mta.pid), hard))
                self.assertIn(self.send(session, f"scarce{number}"), (250, 421, 451, 452))
            self.assertTrue(self.promised - {"before"}, "what needs no descriptor goes on")
            mta.wait_event("defer", 20)
            self.assertTrue(all(event["status"].startswith("4.") for event in mta.events("defer")))
            mta.check_alive()
            resource.prlimit(mta.pid, resource.RLIMIT_NOFILE, (soft, hard))
            self.assertEqual(self.send(session, "after"), 250)
        self.assert_balanced(mta)
        mta.stop_cleanly()

    def test_accepting_goes_on_afterwards(self) -> None:
        mta = self.start()
        soft, hard = resource.prlimit(mta.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(mta.pid, resource.RLIMIT_NOFILE, (lowest_free(mta.pid), hard))
        waiting = [socket.create_connection((LOOPBACK, mta.mx), 5) for _ in range(10)]
        for one in waiting:
            self.addCleanup(one.close)
        mta.check_alive()
        resource.prlimit(mta.pid, resource.RLIMIT_NOFILE, (soft, hard))

        def greeted() -> bool:
            with contextlib.suppress(OSError), RawSmtp(mta.mx, timeout=5) as session:
                if session.greeting.code == 220:
                    session.ehlo()
                    return self.send(session, "later") == 250
            return False

        wait_for("a session", greeted, 20, mta.check_alive)
        self.assert_balanced(mta)

    def test_a_start_that_cannot_open_the_queue(self) -> None:
        """It ends with words, and the queue is as it was."""
        mta = self.start()
        with RawSmtp(mta.mx) as session:
            session.ehlo()
            self.assertEqual(self.send(session, "kept"), 250)
        mta.wait_mailbox(ANN)
        mta.stop()
        for files in range(8, 40, 4):
            mta._files = files
            try:
                mta.start()
            except AssertionError:
                mta.kill()
            else:
                mta.stop()
                break
        mta._files = 0
        mta.start()
        with RawSmtp(mta.mx) as session:
            session.ehlo()
            self.assertEqual(self.send(session, "more"), 250)
        self.assert_balanced(mta)


class MemoryTests(ScarcityCase):
    """RLIMIT_AS, lowered on the running service to what it has and a little."""

    def many_at_once(self, mta: Mta) -> int:
        """Messages that are all under way at one time, and more than the queue's map has room for.

        Gives how many ended without an answer, which promises nothing.
        """
        ended = 0
        sessions: list[tuple[str, RawSmtp]] = []
        with contextlib.suppress(OSError, ValueError):
            for number in range(24):
                session = RawSmtp(mta.mx, timeout=20)
                self.addCleanup(session.socket.close)
                session.ehlo()
                sessions.append((f"scarce{number}", session))
        line = b"y" * 998 + b"\r\n"
        for part in ("begin", "middle", "end"):
            for subject, session in list(sessions):
                try:
                    if part == "begin":
                        session.send(f"MAIL FROM:<a@b.test>\r\nRCPT TO:<{ANN}>\r\nDATA\r\n".encode())
                        if [session.answer().code for _ in range(3)] != [250, 250, 354]:
                            raise ConnectionError("refused")
                        session.send(f"Subject: {subject}\r\n\r\n".encode())
                    if part == "middle":
                        session.send(line * 1200)
                    if part == "end":
                        session.send(b".\r\n")
                        code = session.answer().code
                        (self.promised.add(subject) if code == 250 else self.refusals.append(code))
                except (OSError, ValueError):
                    ended += 1
                    sessions.remove((subject, session))
        return ended

    def test_it_refuses_and_loses_nothing(self) -> None:
        mta = self.start(queue={"retry": ["1s"], "map_size": "16MiB"}, smtp={"connections_per_address": 1000})
        with RawSmtp(mta.mx) as session:
            session.ehlo()
            for number in range(5):
                self.assertEqual(self.send(session, f"before{number}"), 250)
        mta.wait_mailbox(ANN, 5)
        _, hard = resource.prlimit(mta.pid, resource.RLIMIT_AS)
        resource.prlimit(mta.pid, resource.RLIMIT_AS, (address_space(mta.pid), hard))
        ended = self.many_at_once(mta)
        assert mta.process is not None
        died = mta.process.poll() is not None
        if died:
            mta.start()  # what it dies of, it comes back from
        else:
            resource.prlimit(mta.pid, resource.RLIMIT_AS, (hard, hard))
            if not mta.healthy():
                mta.stop()
                mta.start()
        print(f"refused {sorted(self.refusals)}, {ended} without an answer, died: {died}")
        self.assertTrue(self.refusals or ended or died, "memory was never scarce")
        with RawSmtp(mta.mx) as session:
            session.ehlo()
            self.assertEqual(self.send(session, "after"), 250)
        mta.wait_empty(90)
        found = [re.search(rb"^Subject: (\S+)", mail, re.MULTILINE) for mail in mta.mailbox(ANN)]
        subjects = {match[1].decode() for match in found if match is not None}
        self.assertEqual(self.promised - subjects, set(), "acknowledged, and lost")
        self.assertEqual(mta.json("queue", "verify")["discrepancies"], [])
        mta.process.send_signal(signal.SIGTERM)
        mta.wait(70)  # what was broken off in the middle is waited for
