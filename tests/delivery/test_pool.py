"""How many connections there may be, and which wait idle."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.delivery.pool import Lease, Pool
from twisted_mta.smtp.client import MtaClient


class FakeClient:
    """What the pool sees of an MtaClient."""

    def __init__(self, messages: int = 1) -> None:
        self.messages = messages
        self.spent = False
        self.ready = True
        self.deadline = 0.0
        self.closed: object = None
        self.kept: float | None = None
        self.quits = 0

    def keep(self, idle: float | None) -> None:
        self.kept = idle

    def quit(self) -> None:
        self.quits += 1
        self.ready = False


def make(total: int = 10, each: int = 10, idle: float = 5.0, messages: int = 100) -> Pool:
    return Pool(total=total, each=each, idle=idle, messages=messages)


class PoolTests(SynchronousTestCase):
    """Leases."""

    def now(self, pool: Pool, destination: str = "a") -> Lease:
        lease = pool.lease(destination)
        assert isinstance(lease, Lease)
        return lease

    def later(self, pool: Pool, destination: str = "a") -> Deferred[Lease]:
        lease = pool.lease(destination)
        assert isinstance(lease, Deferred)
        self.assertNoResult(lease)
        return lease

    def give(self, pool: Pool, lease: Lease, client: FakeClient | None = None) -> FakeClient:
        client = client or FakeClient()
        given: MtaClient = client  # type: ignore[assignment]
        pool.give_back(lease, given)
        return client

    def test_nothing_idle(self) -> None:
        pool = make()
        self.assertIsNone(self.now(pool).client)
        self.assertEqual((pool.open, pool.idle), (1, 0))

    def test_kept_and_used_again(self) -> None:
        pool = make()
        client = self.give(pool, self.now(pool))
        self.assertEqual((client.kept, client.quits, pool.open, pool.idle), (5.0, 0, 1, 1))
        self.assertIs(self.now(pool).client, client)
        self.assertEqual((client.kept, pool.open, pool.idle), (None, 1, 0))

    def test_the_one_used_last(self) -> None:
        pool = make()
        leases = [self.now(pool), self.now(pool)]
        clients = [self.give(pool, lease) for lease in leases]
        self.assertIs(self.now(pool).client, clients[1])

    def test_closed_while_idle(self) -> None:
        pool = make()
        client = self.give(pool, self.now(pool))
        assert callable(client.closed)
        client.closed(client)
        self.assertEqual(pool.open, 0)
        self.assertIsNone(self.now(pool).client)

    def test_no_more_ready(self) -> None:
        pool = make()
        client = self.give(pool, self.now(pool))
        client.ready = False
        self.assertIsNone(self.now(pool).client)

    def test_worn_out(self) -> None:
        pool = make(messages=3)
        client = self.give(pool, self.now(pool), FakeClient(messages=3))
        self.assertEqual((client.quits, pool.open), (1, 0))

    def test_lost(self) -> None:
        pool = make()
        pool.give_back(self.now(pool), None)
        self.assertEqual(pool.open, 0)

    def test_each(self) -> None:
        pool = make(each=2)
        first, _ = self.now(pool), self.now(pool)
        waiting = self.later(pool)
        self.assertIsNone(self.now(pool, "b").client)
        client = self.give(pool, first)
        self.assertIs(self.successResultOf(waiting).client, client)

    def test_total(self) -> None:
        pool = make(total=2)
        first, _ = self.now(pool, "a"), self.now(pool, "b")
        waiting = self.later(pool, "c")
        client = self.give(pool, first)
        self.assertIsNone(self.successResultOf(waiting).client)
        self.assertEqual(client.quits, 1)  # an idle one makes room
        self.assertEqual((pool.open, pool.idle), (2, 0))

    def test_the_oldest_idle_one_makes_room(self) -> None:
        pool = make(total=2)
        leases = [self.now(pool, "a"), self.now(pool, "b")]
        clients = [self.give(pool, lease) for lease in leases]
        self.now(pool, "c")
        self.assertEqual([client.quits for client in clients], [1, 0])

    def test_in_the_order_of_asking(self) -> None:
        pool = make(each=1)
        lease = self.now(pool)
        waiting = [self.later(pool) for _ in range(3)]
        for one in waiting:
            self.assertNoResult(one)
            self.give(pool, lease)
            lease = self.successResultOf(one)

    def test_who_waits_no_more_gets_nothing(self) -> None:
        pool = make(total=1)
        lease = self.now(pool)
        first, second = self.later(pool), self.later(pool, "b")
        first.addErrback(lambda failure: None)
        first.cancel()
        self.give(pool, lease)
        self.give(pool, self.successResultOf(second))
        self.successResultOf(pool.stop())

    def test_destinations_in_turn(self) -> None:
        """Each that waits gets its turn, however many wait for one of them."""
        pool = make(total=1)
        lease = self.now(pool, "a")
        waiting = [self.later(pool, name) for name in ("b", "b", "b", "c", "d")]
        order = []
        for _ in waiting:
            self.give(pool, lease)
            (lease,) = [self.successResultOf(one) for one in waiting if one.called]
            waiting = [one for one in waiting if not one.called]
            order.append(lease.destination)
        self.assertEqual(order, ["b", "c", "d", "b", "b"])

    def test_a_destination_with_work_does_not_starve_another(self) -> None:
        pool = make(total=1)
        lease = self.now(pool, "a")
        more = [self.later(pool, "a") for _ in range(20)]
        other = self.later(pool, "b")
        turns = 0
        while not other.called:
            self.give(pool, lease)
            turns += 1
            lease = self.successResultOf(more[turns - 1]) if not other.called else lease
            self.assertLess(turns, 5)

    def test_new_bounds(self) -> None:
        pool = make()
        leases = [self.now(pool), self.now(pool)]
        pool.configure(total=1, each=1, idle=0, messages=1)
        clients = [self.give(pool, lease) for lease in leases]
        self.assertEqual([client.quits for client in clients], [1, 1])

    def test_stop(self) -> None:
        pool = make()
        lease = self.now(pool)
        idle = self.give(pool, self.now(pool, "b"))
        stopped = [pool.stop(), pool.stop()]
        self.assertEqual(idle.quits, 1)
        self.assertNoResult(stopped[0])
        client = self.give(pool, lease)
        self.assertEqual(client.quits, 1)
        for one in (*stopped, pool.stop()):
            self.successResultOf(one)
