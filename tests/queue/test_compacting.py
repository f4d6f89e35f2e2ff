"""Compacting the queue's file: nobody else may have it open, and whatever happens it is the same queue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import lmdb
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.queue.samples import LANE, NOON, SETTINGS, claim, clock, content_of, delivery, send, settlement
from twisted_mta.queue import compacting
from twisted_mta.queue.access import InUse, alone, opening
from twisted_mta.queue.compacting import STEPS, compact, room
from twisted_mta.queue.copying import COPY, DATA, copy_environment
from twisted_mta.queue.interfaces import QueueFilter, StoreUnavailable
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.schema import schema_of
from twisted_mta.queue.writer import InlineWriter

BIG = os.urandom(300_000)


class CompactCase(SynchronousTestCase):
    """A queue of which most is free; ``self.kept`` is what is in it."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        store = self.open()
        first = self.wait(send(store, delivery("smtp:first.example")))
        for _ in range(20):
            self.wait(send(store, content=BIG))
        for it in self.wait(claim(store)):
            self.successResultOf(store.settle([settlement(it.delivery)]))
        self.kept = [first, self.wait(send(store, content=BIG))]
        self.successResultOf(store.stop())

    def open(self) -> LmdbStore:
        store = LmdbStore(self.path, clock(), SETTINGS, InlineWriter())
        self.successResultOf(store.start())
        return store

    def wait(self, coroutine: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def assert_whole(self) -> None:
        """It opens, is in order, and has what was in it."""
        store = self.open()
        self.assertEqual(self.successResultOf(store.verify(False)), [])
        self.assertEqual([it.id for it, _ in self.successResultOf(store.page(QueueFilter())).found], self.kept)
        self.assertEqual(self.wait(content_of(store, self.kept[1])), BIG)
        self.successResultOf(store.stop())
        self.assertEqual(sorted(path.name for path in self.path.iterdir()), [DATA, "lock.mdb", "owners"])

    def in_child(self, act: Any) -> int:
        """How a process ends that does this."""
        child = os.fork()
        if not child:
            try:
                act()
            finally:
                os._exit(0)
        return os.waitpid(child, 0)[1]


class CompactTests(CompactCase):
    def test_what_is_free_is_given_back(self) -> None:
        before = room(self.path)
        self.assertEqual(before.file, (self.path / DATA).stat().st_size)
        done = compact(self.path)
        self.assertEqual(done.file, before.file)
        self.assertEqual(done.used, (self.path / DATA).stat().st_size)
        self.assertEqual(done.used, before.used)
        self.assertLess(done.used, before.file / 5)
        self.assertEqual((self.path / DATA).stat().st_mode & 0o777, 0o600)
        self.assert_whole()

    def test_killed_at_each_step(self) -> None:
        for step in STEPS:
            size = (self.path / DATA).stat().st_size

            def reached(at: str, step: str = step) -> None:
                if at == step:
                    os.kill(os.getpid(), signal.SIGKILL)

            self.assertEqual(self.in_child(lambda reached=reached: compact(self.path, reached)), signal.SIGKILL)
            left = (self.path / COPY).exists()
            self.assertEqual(left, STEPS.index(step) < STEPS.index("renamed"))
            if left:
                self.assertEqual((self.path / DATA).stat().st_size, size)
            self.assert_whole()

    def test_all_is_synced_before_its_name(self) -> None:
        order: list[str] = []
        real = compacting.sync

        def sync(path: Path) -> None:
            order.append(path.name)
            real(path)

        with mock.patch.object(compacting, "sync", sync):
            compact(self.path, order.append)
        self.assertEqual(
            order, ["begun", "copied", COPY, "synced", "compared", "renamed", self.path.resolve().name, "done"]
        )

    def test_one_that_fails_changes_nothing(self) -> None:
        size = (self.path / DATA).stat().st_size

        def fail(*args: Any, **more: Any) -> NoReturn:
            raise OSError(28, "No space left on device")

        for name in ("sync", "_compare", "_copy"):
            with mock.patch.object(compacting, name, fail), self.assertRaisesRegex(OSError, "No space"):
                compact(self.path)
            self.assertEqual((self.path / DATA).stat().st_size, size)
            self.assert_whole()

    def test_a_disk_without_room_for_the_copy(self) -> None:
        free = os.statvfs(self.path)
        with (
            mock.patch.object(compacting.os, "statvfs", return_value=mock.Mock(f_bavail=10, f_frsize=free.f_frsize)),
            self.assertRaisesRegex(OSError, r"needs \d+ octets, and 40960 are free"),
        ):
            compact(self.path)
        self.assert_whole()

    def test_a_copy_that_lacks_rows_replaces_nothing(self) -> None:
        real = compacting._rows
        answers = iter([1, 2])
        with (
            mock.patch.object(compacting, "_rows", lambda env: {**real(env), b"message": next(answers)}),
            self.assertRaisesRegex(OSError, "nothing was changed"),
        ):
            compact(self.path)
        self.assert_whole()

    def test_a_file_that_is_cut_short(self) -> None:
        os.truncate(self.path / DATA, 1 << 20)
        with self.assertRaisesRegex(OSError, "is damaged: it lacks"):
            compact(self.path)

    def test_what_came_before_stays_before_what_comes(self) -> None:
        """LMDB numbers the transactions of a copy anew, and the order of a history is theirs."""
        for copied in (compact, self.restored, compact):
            copied(self.path)
            store = self.open()
            last = store.history(self.kept[0])
            self.successResultOf(store.act("retry", [(self.kept[0], "smtp:first.example")], "root", NOON))
            self.successResultOf(store.act("hold", [(self.kept[0], "smtp:first.example")], "root", NOON))
            self.successResultOf(store.act("release", [(self.kept[0], "smtp:first.example")], "root", NOON))
            told = store.history(self.kept[0])
            self.assertEqual(told[:-3], last)
            self.assertEqual([event.action for event in told[-3:]], ["retry", "hold", "release"])  # type: ignore[union-attr]
            self.successResultOf(store.stop())

    def restored(self, path: Path) -> None:
        """Put a backup in its place."""
        copy = path.with_name("copy")
        copy_environment(path, copy)
        (copy / DATA).rename(path / DATA)

    def test_mail_goes_on(self) -> None:
        compact(self.path)
        store = self.open()
        self.assertEqual([it.message.id for it in self.wait(claim(store, LANE))], [self.kept[1]])
        self.wait(send(store, content=BIG))
        self.assertEqual(self.successResultOf(store.verify(False)), [])
        self.successResultOf(store.stop())


class AloneTests(CompactCase):
    def test_nobody_may_have_it_open(self) -> None:
        filler = Path(__file__).with_name("filler.py")
        with subprocess.Popen([sys.executable, filler, self.path, "hold"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE) as other:  # fmt: skip
            assert other.stdout is not None
            self.assertEqual(other.stdout.readline(), b"held\n")
            with self.assertRaisesRegex(InUse, f"^process {other.pid} has it open$"):
                compact(self.path)
            self.assertLess(room(self.path).used, 1 << 20)
            other.communicate(b"\n")
        compact(self.path)
        self.assert_whole()

    def test_nobody_may_open_it(self) -> None:
        def reached(step: str) -> None:
            if step == "copied":
                failure = self.failureResultOf(LmdbStore(self.path, clock(), SETTINGS, InlineWriter()).start())
                self.assertRegex(str(failure.trap(StoreUnavailable) and failure.value), "being compacted")
                for use in (schema_of, room, compact, lambda path: copy_environment(path, path / "copy")):
                    with self.assertRaisesRegex(InUse, "compact(s|ed)"):
                        use(self.path)

        compact(self.path, reached)
        self.assert_whole()

    def test_another_program_waits_and_then_sees_the_new_file(self) -> None:
        """mdb_stat and others know nothing of our lock on the folder."""
        read = (
            "import lmdb, sys; print('begun', flush=True)\n"
            "with lmdb.open(sys.argv[1], max_dbs=9) as env, env.begin(write=True) as txn:\n"
            " print(txn.id(), txn.stat(env.open_db(b'message', txn=txn))['entries'])"
        )
        others: list[subprocess.Popen[bytes]] = []

        def reached(step: str) -> None:
            if step == "copied":
                other = subprocess.Popen([sys.executable, "-c", read, self.path], stdout=subprocess.PIPE)
                others.append(other)
                assert other.stdout is not None
                other.stdout.readline()
                while f" {other.pid} " not in Path("/proc/locks").read_text():  # until it waits
                    self.assertIsNone(other.poll())

        compact(self.path, reached)
        said, _ = others[0].communicate()
        self.assertEqual(said.split(), [b"2", b"2"])
        self.assert_whole()

    def test_no_lock_is_left(self) -> None:
        for _ in range(2):
            with alone(self.path):
                self.assertEqual(self.in_child(lambda: os.kill(os.getpid(), self._opened())), signal.SIGUSR1)
            with opening(self.path), lmdb.open(str(self.path)):
                pass

    def _opened(self) -> int:
        """The signal that says whether another process may open it."""
        try:
            with opening(self.path):
                return signal.SIGUSR2
        except InUse:
            return signal.SIGUSR1
