"""Whatever the agents answer and the store does, the books balance."""

from __future__ import annotations

import itertools
from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.delivery.fakes import BUSY, OK, REFUSED, UNKNOWN, Harness, unavailable
from twisted_mta.delivery.interfaces import Job
from twisted_mta.mail.envelope import Recipient
from twisted_mta.mail.events import Bounced, Delivered, Done, Reported
from twisted_mta.mail.status import Reply

DOMAINS = ("example.org", "example.net", "dead.example", "isp.example")
ADDRESSES = st.builds("{}@{}".format, st.sampled_from("abc"), st.sampled_from(DOMAINS))
ANSWERS = st.lists(st.sampled_from((OK, OK, BUSY, UNKNOWN, REFUSED, None)), min_size=1, max_size=30)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.lists(ADDRESSES, min_size=1, max_size=4, unique=True)),
        st.tuples(st.just("store"), st.lists(ADDRESSES, min_size=1, max_size=4, unique=True)),
        st.tuples(st.just("wait"), st.sampled_from((0.0, 1.0, 70.0, 3600.0))),
        st.tuples(st.just("break"), st.booleans()),
        st.tuples(st.just("remove"), st.integers(0, 20)),
        st.tuples(st.just("restart"), st.none()),
        st.tuples(st.just("kill"), st.none()),
    ),
    max_size=25,
)


class Accounting(Harness):
    """accepted = delivered + bounced + queued + removed, recipient by recipient."""

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(steps=STEPS, answers=ANSWERS, senders=st.lists(st.sampled_from(("", "ann@isp.example", "b@example.net"))))
    def test_balance(self, steps: list, answers: list[Reply | None], senders: list[str]) -> None:
        self.setUp()
        self.directory.mailboxes |= {f"{letter}@isp.example" for letter in "abc"}
        replies = itertools.cycle(answers)

        def answer(job: Job, recipient: Recipient) -> Reply:
            reply = next(replies)
            if reply is None:
                raise ZeroDivisionError
            return reply

        self.agent.answer = self.mailboxes.answer = answer
        accepted: Counter[tuple[str, str]] = Counter()
        removed: Counter[tuple[str, str]] = Counter()
        killed = False
        people = itertools.cycle(senders or ["ann@isp.example"])
        for what, value in steps:
            if what in ("send", "store"):
                put = self.send if what == "send" else self.store_only
                new = put(*value, sender=next(people))
                accepted.update((new.message.id, address) for address in value)
            elif what == "wait":
                self.run_for(value, max(1.0, value / 20))
            elif what == "break":
                self.store.broken = unavailable() if value else None
            elif what == "remove":
                # What is in memory may end within the second before the removal is noticed; that has tests of its own.
                idle = [key for key in self.store.queue if key not in self.scheduler.active.entries]
                if idle and not self.scheduler._claims.outstanding:
                    key = idle[value % len(idle)]
                    removed.update((key[0], it.address) for it in self.store.queue[key].recipients)
                    self.store.act("remove", key)
            else:
                if what == "kill":
                    killed = True
                    for call in list(self.clock.getDelayedCalls()):
                        call.cancel()
                else:
                    self.store.broken = None
                    stopped = self.scheduler.stop()
                    self.turns()
                    self.successResultOf(stopped)
                self.scheduler = self.make()
                self.scheduler.start()
        self.store.broken = None
        self.run_for(120, 5)
        self.flushLoggedErrors(ZeroDivisionError)
        ended: Counter[tuple[str, str]] = Counter()
        reports = {event.id for story in self.store.stories.values() for event in story if type(event) is Reported}
        for story in self.store.stories.values():
            for event in story:
                if type(event) in (Delivered, Bounced):
                    ended[event.id, event.recipient] += 1
        queued = Counter((it.id, recipient.address) for it in self.store.queue.values() for recipient in it.recipients)
        for key in accepted:
            total = ended[key] + queued[key] + removed[key]
            self.assertEqual(total, 1, (key, ended[key], queued[key], removed[key], killed))
        # A report exists exactly if something that bounced names it.
        named = {e.report for story in self.store.stories.values() for e in story if type(e) is Bounced and e.report}
        self.assertEqual(named - reports, set())
        for message in {key[0] for key in accepted} - {key[0] for key in queued}:
            done = [event for event in self.store.stories.get(message, []) if type(event) is Done]
            everything = all(not removed[key] for key in accepted if key[0] == message)
            if everything:
                self.assertEqual(len(done), 1, message)
        self.assertEqual(self.scheduler.active.octets, 0)
        self.assertEqual(self.scheduler.active.fresh, 0)
        self.assertEqual(self.scheduler.active.claimed, 0)
        self.assertEqual(self.scheduler.under_way, 0)
