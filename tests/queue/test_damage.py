"""A queue whose file is damaged: refused or worked around, never emptied, and always said."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any
from unittest import mock

import lmdb
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.queue.filler import fired
from tests.queue.samples import CUSTOMER, LANE, NOON, SETTINGS, Sink, clock, delivery, new
from twisted_mta.mail.events import Accepted, Operator, Routed, Service
from twisted_mta.mail.ids import id_key
from twisted_mta.queue.damage import Damaged
from twisted_mta.queue.freelist import free_pages
from twisted_mta.queue.interfaces import Limits, QueueFilter, StoreUnavailable
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.pieces import PIECE
from twisted_mta.queue.records import META_SCHEMA, META_TOTALS, delivery_key, lane_key, usage_key
from twisted_mta.queue.writer import InlineWriter

PAGE = 4096
GARBAGE = b"\xc1 no record at all"


class DamageCase(SynchronousTestCase):
    """A store with eight messages for two destinations."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.data = self.path / "data.mdb"
        self.clock = clock()
        self.sink = Sink()
        self.store = self.open()
        self.ids = [self.send(number) for number in range(8)]

    def tearDown(self) -> None:
        fired(self.store.stop())

    def open(self) -> LmdbStore:
        store = LmdbStore(self.path, self.clock, SETTINGS, InlineWriter(), self.sink)
        self.successResultOf(store.start())
        return store

    def send(self, number: int, size: int = 100) -> str:
        incoming = self.store.incoming()
        incoming.write(b"%c" % (65 + number) * size)
        to = f"user{number}@example.org"
        story = (
            Accepted(time=NOON, id=incoming.id, session="s", client="192.0.2.1", listener="mx", helo="x.example",
                     protocol="ESMTP", sender="sender@acme.example", recipients=(to,), size=size, customer=CUSTOMER),
            Routed(time=NOON, id=incoming.id, destinations={LANE.destination: (to,)}),
        )  # fmt: skip
        fired(incoming.commit(new(incoming.id, delivery(LANE.destination, to), limits=Limits(), story=story)))
        return incoming.id

    def put(self, table: str, key: bytes, raw: bytes = GARBAGE) -> None:
        """Overwrite a row, which must be there."""
        environment = self.store._environment
        assert environment is not None
        with environment.begin() as txn:
            self.assertIsNotNone(txn.get(key, db=getattr(environment.tables, table)))
            txn.put(key, raw, db=getattr(environment.tables, table))

    def claim(self, limit: int = 100) -> list[str]:
        """The ids that are claimed of what is due."""
        found = []
        now = self.clock.seconds()
        for lane in self.store.due(now, 10):
            claims = self.successResultOf(self.store.claim(lane, now, limit, lambda _: now + 60))
            found += [claim.message.id for claim in claims]
        return found

    def told(self) -> str:
        """What was said of damage."""
        return "\n".join(event.detail for event in self.sink.named(Service) if event.what == "queue-damaged")

    def mend(self) -> list[str]:
        """The discrepancies that are found, and mended."""
        found: list[str] = fired(self.store.verify(False))
        fired(self.store.verify(True))
        self.assertEqual(fired(self.store.verify(False)), [])
        return found

    def states(self) -> dict[str, str]:
        found = self.successResultOf(self.store.page(QueueFilter())).found
        return {message.id: delivery.state for message, delivery in found}


class OpenTests(DamageCase):
    """What is refused as it is opened: in words, and the file is left byte for byte as it was."""

    def refused(self, damage: bytes) -> str:
        self.data.write_bytes(damage)
        refused = self.failureResultOf(LmdbStore(self.path, self.clock, SETTINGS, InlineWriter()).start())
        assert isinstance(refused.value, StoreUnavailable)
        self.assertEqual(self.data.read_bytes(), damage)
        self.assertIn(str(self.path), refused.value.reply.text)
        return refused.value.reply.text

    def setUp(self) -> None:
        super().setUp()
        fired(self.store.stop())
        self.whole = self.data.read_bytes()

    def tearDown(self) -> None:
        self.data.write_bytes(self.whole)
        self.store = self.open()
        self.assertEqual(len(self.states()), 8)
        super().tearDown()

    def test_an_empty_file(self) -> None:
        words = self.refused(b"")
        self.assertIn("it is empty, and there was a queue in it", words)
        self.assertIn("restore it from a backup", words)

    def test_an_empty_file_where_there_was_no_queue(self) -> None:
        """Who was first to open it died before LMDB had written anything."""
        path = Path(self.mktemp())
        path.mkdir()
        (path / "data.mdb").touch()
        store = LmdbStore(path, self.clock, SETTINGS, InlineWriter())
        self.successResultOf(store.start())
        fired(store.stop())

    def test_a_truncated_file(self) -> None:
        for length in (1, PAGE, 2 * PAGE - 1):
            self.assertIn("it is cut short", self.refused(self.whole[:length]))
        for length in (2 * PAGE, 3 * PAGE, len(self.whole) // 2):
            words = self.refused(self.whole[:length] + b"")
            self.assertIn("damaged", words)
            self.assertIn("restore it from a backup", words)

    def test_garbage_in_a_meta_page(self) -> None:
        for page in (0, 1):
            damage = bytearray(self.whole)
            damage[page * PAGE : (page + 1) * PAGE] = os.urandom(PAGE)
            words = self.refused(bytes(damage))
            self.assertIn("restore it from a backup", words)

    def test_another_byte_order(self) -> None:
        """The magic number, as the other kind of machine has it."""
        magic = struct.pack("=I", 0xBEEFC0DE)
        self.assertGreaterEqual(self.whole.count(magic), 2)
        self.assertIn("restore it from a backup", self.refused(self.whole.replace(magic, magic[::-1])))

    def test_another_version_of_lmdb(self) -> None:
        version = struct.pack("=II", 0xBEEFC0DE, *struct.unpack_from("=I", self.whole, 20))
        words = self.refused(self.whole.replace(version, struct.pack("=II", 0xBEEFC0DE, 77)))
        self.assertIn("another version of LMDB wrote its file", words)
        self.assertIn("mta queue export", words)

    def test_another_schema(self) -> None:
        for found, expected in ((b"99", "its schema is 99, and this version"), (b"x", "it is not a mail queue")):
            self.schema(found)
            self.assertIn(expected, self.refused(self.data.read_bytes()))

    def test_no_queue_at_all(self) -> None:
        self.schema(None)
        self.assertIn("it is not a mail queue", self.refused(self.data.read_bytes()))

    def schema(self, found: bytes | None) -> None:
        self.data.write_bytes(self.whole)
        with lmdb.open(str(self.path), max_dbs=40) as env, env.begin(write=True) as txn:
            meta = env.open_db(b"meta", txn=txn)
            if found is None:
                txn.delete(META_SCHEMA, db=meta)
            else:
                txn.put(META_SCHEMA, found, db=meta)


class RowTests(DamageCase):
    """A row that can't be read holds up its own message, and nothing else."""

    def test_a_message(self) -> None:
        bad = self.ids[0]
        self.put("message", id_key(bad))
        self.assertEqual(self.store.stats().messages, 8)
        page = self.successResultOf(self.store.page(QueueFilter()))
        self.assertEqual(([it.id for it, _ in page.found], page.damaged), (self.ids[1:], (bad,)))
        self.assertRaises(Damaged, self.store.message, bad)
        self.assertEqual(self.claim(), self.ids[1:])
        self.assertIn(f"{bad} to {LANE.destination} can't be read, and is not delivered", self.told())
        self.clock.advance(3600)
        self.assertNotIn(bad, self.claim())  # and nobody tries again and again
        self.assertEqual(self.told().count(bad), 1)
        found = self.mend()
        self.assertIn(f"message {bad} can't be read", found[0])
        self.assertIn("--repair", found[0])
        message = self.store.message(bad)
        assert message is not None
        self.assertEqual((message.sender, message.size, message.customer), ("sender@acme.example", 100, CUSTOMER))
        self.assertEqual(fired(self.store.read(bad, 0)), b"A" * 100)
        self.assertEqual(self.states()[bad], "held")
        self.assertEqual(set(self.states()), set(self.ids))
        record = [event for event in self.store.history(bad) if isinstance(event, Operator)]
        self.assertEqual([(event.action, event.who) for event in record], [("hold", "mta queue verify")])

    def test_a_delivery(self) -> None:
        bad = self.ids[3]
        self.put("delivery", delivery_key(id_key(bad), LANE.destination))
        self.assertEqual(self.claim(), [it for it in self.ids if it != bad])
        self.assertIn(bad, self.told())
        self.assertIn(f"a delivery of {bad} can't be read", self.mend()[0])
        (rebuilt,) = self.store.deliveries(bad)
        self.assertEqual((rebuilt.state, rebuilt.destination), ("held", LANE.destination))
        self.assertEqual([it.address for it in rebuilt.recipients], ["user3@example.org"])
        self.assertEqual(rebuilt.customer, CUSTOMER)
        fired(self.store.act("release", [(bad, LANE.destination)], "root", self.clock.seconds()))
        self.assertEqual(self.claim(), [bad])

    def test_a_message_and_its_delivery(self) -> None:
        bad = self.ids[3]
        self.put("message", id_key(bad))
        self.put("delivery", delivery_key(id_key(bad), LANE.destination))
        self.assertEqual(len(self.claim()), 7)
        self.mend()
        self.assertEqual(self.states()[bad], "held")

    def test_what_no_history_knows(self) -> None:
        """It is removed when that is asked for, on record, and not before."""
        bad = self.ids[2]
        environment = self.store._environment
        assert environment is not None
        with environment.begin() as txn, txn.cursor(environment.tables.history) as cursor:
            while cursor.set_range(id_key(bad)) and cursor.key().startswith(id_key(bad)):
                cursor.delete()
        self.put("message", id_key(bad))
        self.assertEqual(len(self.claim()), 7)
        self.mend()
        self.assertNotIn(bad, self.states())
        (event,) = [it for it in self.sink.named(Operator) if it.id == bad]
        self.assertEqual((event.action, event.who), ("remove", "mta queue verify"))

    def test_what_a_process_had_in_memory(self) -> None:
        """It died with two deliveries of which one can't be read: the other is delivered."""
        self.assertEqual(len(self.claim(2)), 2)
        fired(self.store.stop())
        self.store = self.open()
        self.put("delivery", delivery_key(id_key(self.ids[0]), LANE.destination))
        self.assertEqual(self.successResultOf(self.store.reclaim()), 1)
        self.assertEqual(self.claim(), self.ids[1:])
        self.assertIn(self.ids[0], self.told())
        self.mend()
        self.assertEqual(self.states()[self.ids[0]], "held")

    def test_counters(self) -> None:
        """Of lanes, customers and the queue: mail comes and goes all the same, and they are made anew."""
        lane = lane_key(LANE.destination, LANE.customer)
        damages: list[tuple[str, bytes, str]] = [
            ("lanes", lane, "the counters of a lane can't be read"),
            ("usage", usage_key(CUSTOMER), "the counters of a customer can't be read"),
            ("meta", META_TOTALS, "the queue's counters can't be read"),
        ]
        for table, key, words in damages:
            self.put(table, key)
            self.assertIn(words, " ".join(fired(self.store.verify(False))))
            self.store.stats()
            self.store.usage(CUSTOMER)
            more = self.send(9)
            self.assertEqual(self.store.due(self.clock.seconds(), 10), [LANE])
            self.assertIn("begin anew", self.told())
            self.put(table, key)
            self.mend()
            self.ids.append(more)
        self.assertEqual(self.store.stats().messages, len(self.ids))
        self.assertEqual(self.claim(), self.ids)

    def test_content_that_is_coming_in(self) -> None:
        incoming = self.store.incoming()
        incoming.write(bytes(300_000))
        self.put("spool", id_key(incoming.id))
        fired(self.store.stop())
        self.store = self.open()
        self.assertEqual(fired(self.store.verify(False)), [])


class PageTests(DamageCase):
    """A page of LMDB's that is none any more."""

    def setUp(self) -> None:
        super().setUp()
        self.large = [self.send(number, 40_000) for number in range(12)]
        fired(self.store.stop())

    def pages(self, marker: bytes) -> list[int]:
        """The pages in use in which something stands, perhaps in the part of a page that is not used."""
        free, whole = free_pages(self.data, PAGE), self.data.read_bytes()
        return [at for at in range(2, len(whole) // PAGE) if marker in whole[at * PAGE :][:PAGE] and at not in free]

    def damage(self, page: int) -> None:
        """Overwrite a page."""
        with self.data.open("r+b") as file:
            file.seek(page * PAGE)
            file.write(b"\xff" * PAGE)

    def test_the_content_of_one_message(self) -> None:
        """It is set aside; all others are claimed, and mail is taken."""
        bad = self.large[4]
        self.damage(self.pages(b"E" * PIECE)[-1])
        self.store = self.open()
        self.assertEqual(set(self.claim()), {*self.ids, *self.large} - {bad})
        self.assertIn(f"{bad} to {LANE.destination} can't be read", self.told())
        self.assertEqual(self.store.problem(), "")
        self.send(1)

    def test_what_is_written_to(self) -> None:
        """Where commits fail of it they are refused, the words say what to do, and it is no loss of the store."""
        self.store = self.open()
        with mock.patch(
            "twisted_mta.queue.environment.Environment.commit",
            side_effect=lambda txn: _raise(txn, lmdb.CorruptedError("mdb_txn_commit: MDB_CORRUPTED")),
            autospec=False,
        ):
            incoming = self.store.incoming()
            refused = self.failureResultOf(incoming.commit(new(incoming.id)), Damaged)
        self.assertEqual(refused.value.reply.code, 451)
        for words in ("the queue's file is damaged", "mta queue export DIR", "restore the queue from a backup"):
            self.assertIn(words, self.store.problem())
            self.assertIn(words, self.told())
        self.assertFalse(self.store.lost())
        self.send(1)
        self.assertEqual(self.store.problem(), "")

    def test_what_a_walk_passes(self) -> None:
        """Verify says so in words instead of ending the process; the ids of all messages are found."""
        whole, found = self.data.read_bytes(), 0
        for page in self.pages(self.ids[3].encode()):
            self.data.write_bytes(whole)
            self.damage(page)
            store = LmdbStore(self.path, self.clock, SETTINGS, InlineWriter(), self.sink)
            started: list[Any] = []
            store.start().addBoth(started.append)
            if started == [None]:
                verified: list[Any] = []
                store.verify(False).addBoth(verified.append)
                if isinstance(verified[0], Failure):
                    self.assertIn("MDB_", verified[0].trap(Damaged) and verified[0].value.how)
                    self.assertEqual(set(store.ids()), {*self.ids, *self.large})
                    found += 1
            fired(store.stop())
        self.assertGreater(found, 1)
        self.data.write_bytes(whole)


def _raise(txn: Any, error: Exception) -> None:
    txn.abort()
    raise error
