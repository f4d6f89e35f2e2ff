"""The scheduler over the project's own stores, instead of the tests' small one."""

from __future__ import annotations

from unittest.mock import patch

import attrs
import msgspec

from tests.delivery.fakes import BUSY, CONTENT, OK, UNKNOWN, Harness
from twisted_mta.delivery import claims
from twisted_mta.delivery.scheduler import Scheduler
from twisted_mta.mail.events import Bounced, Deferred, Delivered, Done, HistoryEvent, Reported, Routed
from twisted_mta.queue.interfaces import NewMessage
from twisted_mta.queue.memory import MemoryStore


class OverMemory(Harness):
    """With the in-memory twin of the LMDB store."""

    def setUp(self) -> None:
        super().setUp()
        self.successResultOf(self.scheduler.stop())
        self.events.clear()
        self.memory = MemoryStore(self.clock, self.settings.queue, self.events.append)
        self.successResultOf(self.memory.start())
        self.store = self.memory  # type: ignore[assignment]
        self.scheduler: Scheduler = self.make()
        self.scheduler.start()

    def commit(self, *recipients: str, offer: bool = True, **more: str) -> NewMessage:
        incoming = self.memory.incoming()
        incoming.write(CONTENT)
        new = self.message(*recipients, **more)
        new = msgspec.structs.replace(new, message=msgspec.structs.replace(new.message, id=incoming.id))
        armed = self.scheduler.room(new.deliveries) if offer else None
        if armed is not None:
            new = msgspec.structs.replace(new, next_attempt=armed)
        self.successResultOf(incoming.commit(new))
        if armed is not None:
            self.scheduler.offer(new, CONTENT)
        return new

    def story(self, new: NewMessage) -> list[type[HistoryEvent]]:
        return [type(event) for event in self.memory.history(new.message.id)]

    def test_fresh(self) -> None:
        new = self.commit("carl@example.org", "dora@example.org", "ann@isp.example")
        self.turns()
        self.assertEqual(self.story(new), [Delivered, Delivered, Delivered, Done])
        self.assertEqual(len(self.of(Done)), 1)
        self.assertEqual(self.memory.stats().messages, 0)

    def test_retried_and_bounced(self) -> None:
        answers = {"carl@example.org": [BUSY, BUSY, OK], "dora@example.org": [BUSY, UNKNOWN], "bob@example.net": [OK]}
        self.agent.answer = lambda job, recipient: answers[recipient.address].pop(0)
        new = self.commit("carl@example.org", "dora@example.org", sender="bob@example.net")
        self.run_for(600, 5)
        self.assertEqual(self.story(new), [Deferred, Deferred, Deferred, Bounced, Delivered, Done])
        [reported] = self.of(Reported)
        self.assertEqual(
            [type(event) for event in self.memory.history(reported.id)], [Reported, Routed, Delivered, Done]
        )
        self.assertEqual(self.memory.stats().messages, 0)

    def test_two_routes_become_one(self) -> None:
        new = self.commit("carl@example.org", "dora@example.net", offer=False)
        relay = attrs.evolve(self.settings.relay, smarthost="relay.example:587")
        self.scheduler._router.reconfigure(attrs.evolve(self.settings, relay=relay))
        self.run_for(5)
        self.assertEqual({job.delivery.destination for job in self.agent.jobs}, {"smtp:[relay.example]:587"})
        self.assertEqual({event.recipient for event in self.of(Delivered)}, {"carl@example.org", "dora@example.net"})
        self.assertEqual(len(self.of(Delivered)), 2)
        self.assertEqual(self.memory.deliveries(new.message.id), [])

    def test_what_is_moved_does_not_wait_behind_what_is_to_be_moved(self) -> None:
        for number in range(300):
            self.commit(f"carl@example{number}.org", offer=False)
        relay = attrs.evolve(self.settings.relay, smarthost="relay.example:587")
        self.scheduler._router.reconfigure(attrs.evolve(self.settings, relay=relay))
        with patch.multiple(claims, LANES=10, MOST_LANES=10):
            self.run_for(2)
            self.assertGreater(len(self.of(Delivered)), 5)
            self.assertLess(len(self.of(Delivered)), 100)
        self.run_for(10)
        self.assertEqual(len(self.of(Delivered)), 300)

    def test_two_ways_to_one_address_are_one_copy(self) -> None:
        self.directory.mailboxes.add("kim@isp.example")
        self.mailboxes.answer = lambda job, recipient: BUSY
        self.agent.answer = lambda job, recipient: BUSY
        self.commit("kim@isp.example", "carl@example.org")
        self.turns()
        self.directory.mailboxes.discard("kim@isp.example")
        self.directory.aliases["kim@isp.example"] = ("carl@example.org", "dora@example.org")
        self.agent.answer = lambda job, recipient: OK if job.delivery.attempts > 2 else BUSY
        self.run_for(1800, 5)
        self.assertEqual(
            sorted(event.recipient for event in self.of(Delivered)), ["carl@example.org", "dora@example.org"]
        )
        self.assertEqual(self.memory.stats().messages, 0)

    def test_many_lanes_at_once(self) -> None:
        for number in range(800):
            self.commit(f"x@example{number}.org", offer=False)
        self.run_for(5)
        self.assertEqual(len(self.of(Delivered)), 800)

    def test_held_under_way(self) -> None:
        self.agent.holding = True
        new = self.commit("carl@example.org")
        self.turns()
        key = (new.message.id, "smtp:example.org")
        self.assertEqual(self.successResultOf(self.memory.act("hold", [key], "root", self.clock.seconds())), 1)
        self.agent.answer = lambda job, recipient: BUSY
        self.agent.let_go()
        self.run_for(600, 5)
        self.assertEqual(len(self.agent.jobs), 1)
        self.assertEqual([it.state for it in self.memory.deliveries(new.message.id)], ["held"])
        self.agent.holding = False
        self.agent.answer = lambda job, recipient: OK
        self.successResultOf(self.memory.act("release", [key], "root", self.clock.seconds()))
        self.run_for(3)
        self.assertEqual(len(self.of(Delivered)), 1)
