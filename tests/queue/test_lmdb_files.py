"""The LMDB engine's files: their rights, their growth, their end."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, cast
from unittest import mock

import lmdb
from twisted.internet import task
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.python.failure import Failure

from tests.queue.case import REACTOR, LmdbCase
from tests.queue.samples import (
    SETTINGS,
    content_of,
    new,
    send,
)
from twisted_mta.config.settings import Queue, Size
from twisted_mta.mail.events import Service
from twisted_mta.queue import environment as environments
from twisted_mta.queue import records
from twisted_mta.queue import thread_writer as writers
from twisted_mta.queue.environment import Environment
from twisted_mta.queue.interfaces import CHUNK, QueueFilter, StoreUnavailable
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.thread_writer import ThreadWriter
from twisted_mta.queue.writer import InlineWriter


def fill_elsewhere(path: Path, count: int, size: int) -> None:
    """Have another process add messages."""
    subprocess.run([sys.executable, str(Path(__file__).with_name("filler.py")), str(path), str(count), str(size)],
                   check=True, timeout=60)  # fmt: skip


class FilesTest(LmdbCase):
    threaded = False

    async def test_modes(self) -> None:
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o700)
        for name in ("data.mdb", "lock.mdb"):
            self.assertEqual(stat.S_IMODE((self.path / name).stat().st_mode), 0o600)

    async def test_a_new_queue_has_its_names_on_the_disk(self) -> None:
        """A file that is synced may be gone with its name after a loss of power (fsync(2))."""
        synced: list[tuple[int, int]] = []
        fsync = os.fsync

        def record(descriptor: int) -> None:
            synced.append((os.fstat(descriptor).st_dev, os.fstat(descriptor).st_ino))
            fsync(descriptor)

        await self.store.stop()
        shutil.rmtree(self.path)
        self.path = self.path / "state" / "queue"
        self.store = self.make()
        with mock.patch("os.fsync", record):
            await self.store.start()
        for folder in (self.path, self.path.parent, self.path.parent.parent):
            self.assertIn((folder.stat().st_dev, folder.stat().st_ino), synced, folder)

    async def test_what_is_not_a_queue_is_refused_and_left_alone(self) -> None:
        await send(self.store, content=bytes(3 << 20))
        await self.store.stop()
        whole = (self.path / "data.mdb").read_bytes()
        for damage in (b"This is not a database. " * 1000, whole[:5000], b"x", whole[: -(2 << 20)]):
            (self.path / "data.mdb").write_bytes(damage)
            refused = await self.assertFailure(self.store.start(), StoreUnavailable)
            self.assertIn(str(self.path), refused.reply.text)
            self.assertEqual((self.path / "data.mdb").read_bytes(), damage)

    async def test_a_file_without_its_last_pages_never_ends_the_process(self) -> None:
        await send(self.store, content=bytes(3 << 20))
        await self.store.stop()
        size = (self.path / "data.mdb").stat().st_size
        os.truncate(self.path / "data.mdb", size - 8 * 4096)
        try:
            await self.store.start()
            await self.store.verify(False)
            await send(self.store)
        except (StoreUnavailable, lmdb.Error):
            self.flushLoggedErrors(lmdb.Error)
        await self.store.stop()

    async def test_a_newer_schema_is_refused(self) -> None:
        await self.store.stop()
        with lmdb.open(str(self.path), max_dbs=20) as env, env.begin(write=True) as txn:
            txn.put(b"schema", b"99", db=env.open_db(b"meta", txn=txn))
        refused = await self.assertFailure(self.store.start(), StoreUnavailable)
        self.assertIn(f"its schema is 99, and this version of the program knows {records.SCHEMA}", refused.reply.text)

    async def test_someone_elses_database_is_refused(self) -> None:
        await self.store.stop()
        shutil.rmtree(self.path)
        with lmdb.open(str(self.path), max_dbs=20) as env, env.begin(write=True) as txn:
            txn.put(b"their", b"data", db=env.open_db(b"theirs", txn=txn))
        await self.assertFailure(self.store.start(), StoreUnavailable)

    async def test_a_folder_that_cannot_be(self) -> None:
        file = Path(self.mktemp())
        file.write_text("a file")
        store = LmdbStore(file / "queue", self.clock, SETTINGS, InlineWriter())
        await self.assertFailure(store.start(), StoreUnavailable)

    async def test_ids_are_not_given_twice(self) -> None:
        ids = set()
        for _ in range(5):
            ids |= {self.store.new_id() for _ in range(10)}
            await self.restart()
        self.assertEqual(len(ids), 50)


class StopTest(LmdbCase):
    async def test_stop_in_the_middle_of_everything(self) -> None:
        for _ in range(10):
            large = self.store.incoming()
            waiting: list[Deferred[Any]] = self.commit_many(5)
            paused = large.write(b"x" * 5 * CHUNK)
            waiting.append(large.commit(new(large.id)))
            reads = [self.store.read(self.store.new_id(), 0), self.store.verify(False)]
            await task.deferLater(REACTOR, 0, lambda: None)
            stopped = self.store.stop()
            outcomes = await DeferredList([*waiting, *reads], consumeErrors=True)
            if paused is not None:
                paused.addErrback(lambda failure: failure.trap(StoreUnavailable))
            await stopped
            for succeeded, result in outcomes[:-2]:
                self.assertTrue(succeeded or result.check(StoreUnavailable), result)
            self.assertEqual([it for it in threading.enumerate() if it.name.startswith("queue-")], [])
            self.store = self.make()
            await self.store.start()
            self.assertEqual(await self.store.verify(False), [])
            await self.until(lambda: not self.rows("spool"))

    async def test_a_thread_that_could_not_be_started_is_not_waited_for(self) -> None:
        scarce = RuntimeError("can't start new thread")
        with mock.patch.object(writers, "deferToThreadPool", side_effect=scarce), self.assertRaises(RuntimeError):
            await self.store.page(QueueFilter(), "", 10)
        await self.store.stop().addTimeout(10, REACTOR)

    def test_a_process_that_never_stops_its_store_ends(self) -> None:
        code = (
            "import sys; from twisted.internet import reactor\n"
            "from twisted_mta.queue.lmdb_store import LmdbStore\n"
            "store = LmdbStore(sys.argv[1], reactor)\n"
            "store.start().addCallback(lambda _: store.verify(False)).addCallback(lambda _: reactor.stop())\n"
            "reactor.run()\n"
        )
        subprocess.run([sys.executable, "-c", code, self.mktemp()], check=True, timeout=30)

    async def test_start_fails_cleanly(self) -> None:
        with mock.patch.object(Environment, "commit", side_effect=lmdb.Error("mdb_txn_commit", errno.EIO)):
            path = Path(self.mktemp())
            store = LmdbStore(path, self.clock, SETTINGS, ThreadWriter(REACTOR))
            await self.assertFailure(store.start(), StoreUnavailable)
        self.flushLoggedErrors(lmdb.Error)
        await store.start()
        await store.stop()


class GrowthTest(LmdbCase):
    SMALL = Queue(disk_reserve=Size(0), map_size=Size(64 * 4096))

    def make(self, settings: Queue = SMALL) -> LmdbStore:
        return super().make(settings)

    async def test_the_map_grows(self) -> None:
        before = self.store.stats().map_size
        content = os.urandom(50_000)
        await gatherResults(self.commit_many(60, content))
        large = await send(self.store, content=content * 60)
        self.assertGreater(self.store.stats().map_size, before)
        self.assertEqual(self.store.stats().messages, 61)
        self.assertEqual(await content_of(self.store, large), content * 60)
        grown = self.sink.named(Service)
        self.assertEqual({event.what for event in grown}, {"map-grown"})
        self.assertEqual(grown[-1].detail, f"{self.store.stats().map_size} octets")

    async def test_it_grows_while_others_read(self) -> None:
        content = os.urandom(60_000)
        mid = await send(self.store, content=content)
        stop = False
        count = 0

        async def reading() -> None:
            nonlocal count
            while not stop:
                self.assertEqual(await self.store.read(mid, 0), content)
                self.assertEqual(len((await self.store.page(QueueFilter(id=mid))).found), 1)
                count += 1

        readers = [Deferred.fromCoroutine(reading()) for _ in range(4)]
        verifying = [self.store.verify(False) for _ in range(3)]
        for _ in range(20):
            await gatherResults(self.commit_many(5, content))
        stop = True
        await gatherResults(readers)
        self.assertEqual(await gatherResults(verifying), [[], [], []])
        self.assertGreater(count, 4)

    async def test_it_does_not_grow_beyond_the_disk(self) -> None:
        before = self.store.stats().map_size
        with mock.patch.object(environments.Disk, "sample", return_value=1000):
            outcomes = await DeferredList(self.commit_many(60, os.urandom(50_000)), consumeErrors=True)
        refused = [cast(Failure, outcome).value for done, outcome in outcomes if not done]
        self.assertEqual({(it.reply.code, it.reply.enhanced) for it in refused}, {(452, "4.3.1")})
        self.assertEqual(self.store.stats().map_size, before)
        self.assertEqual(self.store.stats().messages, 60 - len(refused))
        self.assertTrue(0 < len(refused) < 60, len(refused))  # as many are taken as there is room for
        self.assertEqual(await self.store.verify(False), [])
        await gatherResults(self.commit_many(60, os.urandom(50_000)))

    async def test_another_process_grew_it(self) -> None:
        fill_elsewhere(self.path, 100, 60_000)
        self.assertEqual(self.store.stats().messages, 100)
        await gatherResults(self.commit_many(3))
        fill_elsewhere(self.path, 200, 60_000)
        await gatherResults(self.commit_many(3))
        fill_elsewhere(self.path, 400, 60_000)
        message, _ = (await self.store.page(QueueFilter(), limit=1)).found[0]
        fill_elsewhere(self.path, 800, 60_000)
        self.assertEqual(len(await self.store.read(message.id, 0)), message.size)
        self.assertEqual(self.store.stats().messages, 1506)
