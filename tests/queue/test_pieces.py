"""Long values in pieces of a page, and the room that is free in single pages."""

from __future__ import annotations

from pathlib import Path
from random import Random

import lmdb
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.queue.case import LmdbCase
from tests.queue.samples import NOON, new, send
from twisted_mta.mail.events import Accepted
from twisted_mta.queue.interfaces import CHUNK
from twisted_mta.queue.pieces import PIECE, in_pieces, joined, whole
from twisted_mta.queue.records import chunk_key, id_key

SIZES = st.one_of(st.integers(0, 4 * PIECE), st.sampled_from([PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, CHUNK]))


class PiecesTests(SynchronousTestCase):
    """Rows of one table, as LMDB has them."""

    def setUp(self) -> None:
        path = Path(self.mktemp())
        path.mkdir()
        self.env = lmdb.open(str(path), map_size=1 << 26, max_dbs=1)
        self.addCleanup(self.env.close)
        self.table = self.env.open_db(b"content")

    @given(st.lists(SIZES, min_size=1, max_size=6), st.randoms(use_true_random=False))
    def test_what_is_cut_is_joined(self, sizes: list[int], random: Random) -> None:
        values = [random.randbytes(size) for size in sizes]
        keys = [b"messageid_" + number.to_bytes(2, "big") for number in range(len(values))]
        with self.env.begin(write=True) as txn:
            txn.drop(self.table, delete=False)
            rows = [row for key, value in zip(keys, values, strict=True) for row in in_pieces(key, value)]
            self.assertEqual(rows, sorted(rows))
            txn.cursor(self.table).putmulti(rows, append=True)
            for key, value in zip(keys, values, strict=True):
                self.assertEqual(whole(txn, self.table, key), value)
            self.assertEqual(list(joined(txn.cursor(self.table), 12)), values)
            self.assertIsNone(whole(txn, self.table, b"messageid_\xff\xff"))
            stat = txn.stat(self.table)
            self.assertLessEqual(stat["overflow_pages"], sum(size // 2000 + 1 for size in sizes))

    @given(st.sampled_from([PIECE, PIECE + 1, CHUNK]))
    def test_what_an_earlier_schema_stored_is_whole(self, size: int) -> None:
        value = b"x" * size
        with self.env.begin(write=True) as txn:
            txn.drop(self.table, delete=False)
            txn.put(b"messageid_\0\0", value, db=self.table)
            txn.put(b"messageid_\0\1", b"next", db=self.table)
            self.assertEqual(whole(txn, self.table, b"messageid_\0\0"), value)
            self.assertEqual(list(joined(txn.cursor(self.table), 12)), [value, b"next"])


class RoomTest(LmdbCase):
    """What is free in single pages, everywhere in the file, is used for whatever comes."""

    threaded = False

    async def test_content_needs_no_pages_in_a_row(self) -> None:
        ids = [await send(self.store, content=b"x" * 3 * PIECE) for _ in range(200)]
        # One page of three becomes free, as here and there it does where messages leave between others.
        with self.environment.begin() as txn:
            for mid in ids:
                key = chunk_key(id_key(mid), 0) + b"\0\1"
                self.assertTrue(txn.delete(key, db=self.environment.tables.content))
        await send(self.store)  # and what its commit frees may be used by the next one
        used = self.environment.map_used
        more = [await send(self.store, content=b"y" * 5000) for _ in range(90)]
        self.assertLessEqual(self.environment.map_used - used, 10 * 4096)
        for mid in more:
            self.assertEqual(len(await self.store.read(mid, 0)), 5000)
        await self.store.act("remove", [(mid, "smtp:example.org") for mid in ids], "root", NOON)

    async def test_a_message_of_earlier_times(self) -> None:
        """Its content is one row, whatever its size: it is read, claimed, checked and removed."""
        mid, large = await send(self.store, content=b"x" * 30_000), await send(self.store, content=b"x" * (CHUNK + 9))
        with self.environment.begin() as txn:
            for one, number in ((mid, 0), (large, 0), (large, 1)):
                key = chunk_key(id_key(one), number)
                value = whole(txn, self.environment.tables.content, key)
                assert value is not None
                with txn.cursor(self.environment.tables.content) as cursor:
                    for row in [row for row, _ in cursor if row.startswith(key)]:
                        txn.delete(row, db=self.environment.tables.content)
                txn.put(key, value, db=self.environment.tables.content)
        self.assertEqual(await self.store.verify(False), [])
        self.assertEqual([len(await self.store.read(large, number)) for number in (0, 1)], [CHUNK, 9])
        self.assertEqual(len(await self.store.read(mid, 0)), 30_000)
        await self.store.act("remove", [(one, "smtp:example.org") for one in (mid, large)], "root", NOON)
        self.assertEqual(self.rows("content"), [])

    async def test_a_long_history(self) -> None:
        """Of a message for many: it is read, and forgotten, as one."""
        incoming = self.store.incoming()
        many = tuple(f"somebody{number}@a-long-name-of-a-domain.example" for number in range(2000))
        event = Accepted(
            time=NOON, id=incoming.id, session="s", client="192.0.2.1", listener="mx", helo="c.example",
            protocol="ESMTP", sender="s@acme.example", recipients=many, size=4, customer="acme",
        )  # fmt: skip
        incoming.write(b"body")
        await incoming.commit(new(incoming.id, story=(event,)))
        self.assertGreater(len(self.rows("history")), 10)
        self.assertEqual(self.store.history(incoming.id), [event])
        await self.store.act("remove", [(incoming.id, "smtp:example.org")], "root", NOON)
        self.assertEqual(len(self.store.history(incoming.id)), 3)
        self.assertEqual(await self.store.expire_history(NOON + 10, 100), 1)
        self.assertEqual(self.rows("history"), [])
