"""A disk that fails under the whole service: nothing that was acknowledged is lost, and nothing else arrives.

Calls on the service's files fail for real (``faults.c``), in LMDB's own code too.  Each test ends with books that
balance.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import threading
from collections import Counter

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.peers import wait_for
from tests.peers.mta import Mta
from tests.peers.rawsmtp import RawSmtp
from tests.survival.service import Preloaded, alive, state

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ANN = "ann@demo.example"


class DiskCase(SynchronousTestCase):
    """``promised`` are the subjects that had their 250; ``codes`` the refusals."""

    workers = 2
    timeout = "60s"

    def setUp(self) -> None:
        self.promised: set[str] = set()
        self.open: set[str] = set()
        self.codes: Counter[int] = Counter()
        self.ended: set[int] = set()
        self.mta = Preloaded(
            {
                "workers": self.workers,
                "worker_timeout": self.timeout,
                "queue": {"retry": ["1s"]},
                "smtp": {"connections_per_address": 1000},
            }
        )
        self.addCleanup(self.mta.close)
        self.mta.start()

    def send(self, subject: str, size: int = 1000) -> int:
        """Hand in one message; the last code, 0 where there is no answer."""
        code = 0
        with contextlib.suppress(OSError, ValueError), RawSmtp(self.mta.mx, timeout=20) as session:
            session.ehlo()
            for command in ("MAIL FROM:<a@b.test>", f"RCPT TO:<{ANN}>", "DATA"):
                code = session.cmd(command).code
                if code not in {250, 354}:
                    self.codes[code] += 1
                    return code
            self.open.add(subject)
            code = 0
            session.send(f"Subject: {subject}\r\n\r\n".encode() + (b"y" * 98 + b"\r\n") * (size // 100) + b".\r\n")
            code = session.answer().code
            self.open.discard(subject)
            if code == 250:
                self.promised.add(subject)
            else:
                self.codes[code] += 1
        return code

    def sends(self, subject: str) -> None:
        """Until one such message is taken."""
        count = iter(range(1000))
        wait_for("mail to be taken", lambda: self.send(f"{subject}-{next(count)}") == 250, 60)

    def assert_balanced(self, mta: Mta) -> None:
        """accepted = delivered; nothing bounced, nothing is queued, nothing else is there.

        Twice is only what the process that wrote the first copy could not put on record before its end.
        """
        mta.wait_empty(90)
        found: dict[str, list[int]] = {}
        for path in sorted((mta.maildir(ANN) / "new").iterdir(), key=lambda it: it.stat().st_mtime):
            subject = re.search(rb"^Subject: (\S+)", path.read_bytes(), re.MULTILINE)
            writer = re.search(r"P(\d+)Q", path.name)
            assert subject is not None
            assert writer is not None
            found.setdefault(subject[1].decode(), []).append(int(writer[1]))
        subjects = set(found)
        ended = {
            int(it["detail"].split("process ")[1].split(":")[0]) for it in mta.events("service", what="worker-died")
        }
        self.assertEqual(self.promised - subjects, set(), "acknowledged, and lost")
        self.assertEqual(subjects - self.promised - self.open, set(), "refused, and delivered")
        twice = {subject: writers for subject, writers in found.items() if not set(writers[:-1]) <= ended | self.ended}
        self.assertEqual(twice, {}, "delivered twice, and nobody ended over it")
        self.assertEqual(mta.events("bounce"), [])
        self.assertEqual(mta.json("queue", "verify")["discrepancies"], [])


class WorkersTests(DiskCase):
    """Two workers."""

    def test_disk_full_for_a_while(self) -> None:
        """Refused with 452 while it is; all goes on afterwards by itself, and what the service says of itself, too."""
        self.assertEqual(self.send("before"), 250)
        self.mta.fault(errno.ENOSPC, "/state/", "w")
        before = self.mta.workers()
        os.kill(before[0], signal.SIGKILL)
        for number in range(20):
            self.assertIn(self.send(f"full{number}"), (0, 421, 451, 452))
        self.assertGreater(self.codes[452], 0)
        self.mta.trigger.unlink()
        self.sends("after")

        def told() -> bool:
            now = self.mta.workers()
            return len(now) == 2 and now[0] != before[0] and all(map(alive, now.values()))

        wait_for("the status of today", told, 60)
        self.assert_balanced(self.mta)
        self.assertEqual(self.mta.http("/healthz").strip(), "ok")

    def test_disk_full_at_every_write(self) -> None:
        """Each write of LMDB's to the queue fails in its turn; after that of the meta page a process is lost."""
        for first in range(16):
            self.mta.fault(errno.ENOSPC, "/queue/data.mdb", "w", first, 1)
            for number, size in enumerate((300, 60_000, 300)):
                self.assertIn(self.send(f"w{first}n{number}", size), (0, 250, 421, 451, 452))
            self.mta.trigger.unlink()
            self.sends(f"after{first}")
        self.assertGreater(sum(self.codes.values()), 5, "no write has failed")
        self.assert_balanced(self.mta)

    def test_eio_on_sync(self) -> None:
        """The message is not acknowledged.  Who saw it fail takes nothing more, and another takes its place."""
        self.assertEqual(self.send("before"), 250)
        before = set(self.mta.workers().values())
        self.mta.fault(errno.EIO, "/queue/data.mdb", "s", 0, 1)
        for number in range(10):
            self.assertIn(self.send(f"bad{number}"), (0, 250, 421, 451))
        failed = self.mta.wait_event("service", what="store-failed")
        self.assertIn("Input/output error", failed["detail"])
        self.mta.trigger.unlink()
        wait_for("another worker", lambda: len(now := set(self.mta.workers().values())) == 2 and now != before, 60)
        self.sends("after")
        self.assertGreater(self.codes[451], 0)
        self.assertIn("its disk failed", self.mta.wait_event("service", what="worker-died")["detail"])
        self.assert_balanced(self.mta)
        wait_for("health", self.mta.healthy)
        self.mta.stop_cleanly()

    def test_a_mailbox_that_cannot_be_synced(self) -> None:
        """The delivery is put off, and made once it can be: no copy of the attempts before is left."""
        self.mta.fault(errno.EIO, "/Maildir/", "s")
        self.assertEqual(self.send("one"), 250)
        self.assertEqual(self.send("large", 300_000), 250)
        wait_for("attempts", lambda: len(self.mta.events("defer")) >= 4, 30)
        self.assertEqual(self.mta.mailbox(ANN), [])
        self.mta.trigger.unlink()
        self.assert_balanced(self.mta)
        self.assertEqual(list((self.mta.maildir(ANN) / "tmp").iterdir()), [])


class CommitTests(DiskCase):
    """What happens to a worker inside of a commit, where it has LMDB's write lock."""

    timeout = "12s"

    def died(self) -> list[str]:
        """How workers have ended."""
        return [event["detail"] for event in self.mta.events("service", what="worker-died")]

    def living(self) -> set[int]:
        """Both workers, as soon as both serve."""
        now = set(self.mta.workers().values())
        return now if len(now) == 2 and all(map(alive, now)) else set()

    def test_killed_in_a_commit(self) -> None:
        """Before a write or sync of the queue's file, that of the meta page too."""
        for first in range(3):
            before = wait_for("both workers", self.living, 60)
            self.mta.fault(-signal.SIGKILL, "/queue/data.mdb", "ws", first, 1)

            def spare(before: set[int] = before) -> None:
                """Once one has died, its successor is not to die as it starts."""
                wait_for("a death", lambda: not all(map(alive, before)), 30)
                self.mta.trigger.unlink()

            sparing = threading.Thread(target=spare)
            sparing.start()
            self.assertIn(self.send(f"k{first}"), (0, 250, 421, 451))
            sparing.join(40)
            self.sends(f"after{first}")
        self.assertTrue(all("signal 9" in words for words in self.died()), self.died())
        self.assertGreaterEqual(len(self.died()), 3)
        self.assert_balanced(self.mta)

    def test_hanging_with_the_write_lock(self) -> None:
        """Nobody else can commit, until the parent misses its answers and kills it: the lock is the next one's then."""
        before = set(self.mta.workers().values())
        self.mta.fault(-signal.SIGSTOP, "/queue/data.mdb", "s", 0, 1)
        with RawSmtp(self.mta.mx, timeout=5) as session:
            session.ehlo()
            session.send(f"MAIL FROM:<a@b.test>\r\nRCPT TO:<{ANN}>\r\nDATA\r\n".encode())
            self.assertEqual([session.answer().code for _ in range(3)], [250, 250, 354])
            self.open.add("hung")
            session.send(b"Subject: hung\r\n\r\nx\r\n.\r\n")
            wait_for("a process that hangs", lambda: any(state(it) in {"T", "t"} for it in before), 20)
            self.mta.trigger.unlink()
        wait_for("its end", lambda: any("no answer" in words for words in self.died()), 60)
        self.sends("after")
        wait_for("both workers", lambda: len(self.mta.workers()) == 2, 60)
        self.assert_balanced(self.mta)
        wait_for("health", self.mta.healthy)


class OneProcessTests(DiskCase):
    """No workers: nobody else can begin anew."""

    workers = 0

    def test_disk_full_at_every_write(self) -> None:
        """Where the meta page can't be written it says that it must be started again, and takes nothing until then."""
        restarts = 0
        for first in range(60):  # a commit's writes are as many as its pages lie apart: the last is the meta page's
            if restarts and first >= 12:
                break
            self.mta.fault(errno.ENOSPC, "/queue/data.mdb", "w", first, 1)
            for number, size in enumerate((300, 60_000, 300)):
                self.assertIn(self.send(f"w{first}n{number}", size), (250, 421, 451, 452))
            self.mta.trigger.unlink()
            if not self.mta.healthy():
                self.assertIn(self.send("unwell"), (421, 451))
                restarts += 1
                self.ended.add(self.mta.pid)
                self.mta.stop()
                self.mta.start()
        self.assertGreater(restarts, 0, "the meta page was written each time")
        self.assertGreater(self.codes[452], 0)
        self.sends("after")
        self.assert_balanced(self.mta)
