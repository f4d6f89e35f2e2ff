"""One copy and no more, whatever is done to a delivery whose content has gone out and is not answered yet."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred

from tests.testing.world import ANNA, BOB, WorldCase
from twisted_mta.admin.bounce import Bouncer
from twisted_mta.delivery.scheduler import TICK
from twisted_mta.mail.envelope import Delivery, Message
from twisted_mta.mail.events import Bounced, Delivered
from twisted_mta.testing.accounting import Accounting
from twisted_mta.testing.remote import Remote

HOUR, DAY = 3600.0, 86400.0
TAKEN = b"250 2.0.0 Ok: queued\r\n"


def contents(remote: Remote) -> int:
    """How many contents a remote was given."""
    return remote.commands.count("DATA")


class UnderWayCase(WorldCase):
    """``self.remote`` has a message from ANNA to BOB and says nothing until :meth:`answer`.  ``self.second`` is the
    domain's other host."""

    def setUp(self) -> None:
        super().setUp()
        self.remote = self.server.remote("else.example", silent={"content"})
        self.second = self.server.remote("else.example", host="mx2.else.example", preference=20)
        self.mid = self.server.send(ANNA, BOB, auth=ANNA)
        self.assert_under_way()

    def assert_under_way(self) -> None:
        self.assertEqual((contents(self.remote), self.server.parts.scheduler.under_way), (1, 1))

    def peer(self) -> Any:
        return self.remote.peers[0].transport

    def answer(self) -> None:
        self.remote.behaviour.silent = frozenset()
        self.peer().write(TAKEN)
        self.server.clock.flush()

    def assert_one_copy(self, *others: Remote) -> None:
        self.server.advance(DAY)
        self.assertEqual([contents(it) for it in (self.remote, self.second, *others)], [1, *[0] * (1 + len(others))])
        self.assertEqual(self.server.queue(), [])
        self.assertEqual(len(self.server.told(Delivered, self.mid)), 1)
        self.server.assert_balanced()


class OperatorTests(UnderWayCase):
    """What an operator, or a sender by ETRN, wants of it."""

    def test_hold_and_release(self) -> None:
        for _ in range(3):
            self.server.operate("hold")
            self.server.operate("release")
            self.server.advance(70)  # longer than it is armed for
            self.assert_under_way()
        self.answer()
        self.assert_one_copy()

    def test_hold_alone(self) -> None:
        self.server.operate("hold")
        self.server.advance(300)
        self.assert_under_way()
        self.answer()
        self.assert_one_copy()

    def test_released_once_it_was_taken(self) -> None:
        self.server.operate("hold")
        self.answer()
        self.server.operate("release")
        self.assert_one_copy()

    def test_retry(self) -> None:
        for _ in range(3):
            self.server.operate("retry")
            self.server.advance(70)
            self.assert_under_way()
        self.answer()
        self.assert_one_copy()

    def test_run(self) -> None:
        lane = self.server.queue()[0][1].lane
        for _ in range(3):
            self.server.operate("run")
            self.server.parts.scheduler.run([lane])
            self.server.advance(70)
            self.assert_under_way()
        self.answer()
        self.assert_one_copy()

    def test_remove(self) -> None:
        self.server.operate("remove")
        self.answer()
        self.server.advance(DAY)
        self.assertEqual(contents(self.remote), 1)
        self.assertEqual([type(it) for it in self.server.history(self.mid)].count(Delivered), 1)  # it was, all the same
        self.assertEqual(self.server.queue(), [])

    def bounce(self, page: list[tuple[Message, Delivery]] | None = None) -> int:
        """As ``mta queue bounce`` does, on this store."""
        server = self.server
        context: Any = SimpleNamespace(
            store=lambda: server.store,
            settings=server.settings,
            directory=lambda make: server.parts.directory,
            clock=server.clock,
            done=server.wait,
            events=server.events.append,
            who="operator",
            now=server.clock.seconds,
        )
        bouncer = Bouncer(context)
        count = bouncer.bounce(server.queue() if page is None else page)
        bouncer.close()
        server.advance(TICK)
        return count

    def test_bounce(self) -> None:
        self.assertEqual(self.bounce(), 0)
        self.assert_under_way()
        self.answer()
        self.assert_one_copy()
        self.assertEqual(self.server.told(Bounced), [])

    def test_bounce_of_what_has_been_delivered_since_it_was_read(self) -> None:
        page = self.server.queue()
        self.answer()
        before = self.server.history(self.mid)
        self.assertEqual(self.bounce(page), 0)
        self.assertEqual(self.server.history(self.mid), before)
        self.assert_one_copy()

    def test_bounce_once_the_attempt_has_ended(self) -> None:
        self.server.operate("hold")
        self.assertEqual(self.bounce(), 0)
        self.peer().abortConnection()
        self.server.advance(1)
        self.assertEqual(self.bounce(), 1)
        [bounced] = self.server.told(Bounced, self.mid)
        self.assertEqual(bounced.recipient, BOB)
        self.server.advance(DAY)
        self.assertEqual(contents(self.remote), 1)
        self.assertEqual(self.server.queue(), [])
        self.server.assert_balanced()

    def test_an_answer_just_behind_each_action(self) -> None:
        """Before the scheduler has looked at what was done."""
        places = [(self.mid, "smtp:else.example")]
        now = self.server.clock.seconds()
        for action in ("hold", "release", "retry"):
            self.server.wait(self.server.store.act(action, places, "operator", now))
        self.answer()
        self.assert_one_copy()


class SettingsTests(UnderWayCase):
    """It belongs elsewhere meanwhile."""

    def test_another_route(self) -> None:
        smarthost = self.server.remote("", host="smart.example", addresses=["198.51.100.200"])
        self.server.reload('[relay]\nsmarthost = "smart.example:25"')
        self.server.operate("retry")
        self.server.advance(70)
        self.assert_under_way()
        self.answer()
        self.assert_one_copy(smarthost)

    def test_another_process_has_the_destination(self) -> None:
        shares = self.server.parts.scheduler.shares
        shares.divide(lambda destination: False)
        self.server.operate("retry")
        self.server.advance(70)
        self.assert_under_way()
        self.assertEqual(self.server.store.due(self.server.clock.seconds() + DAY, 10), [], "nobody else may have it")
        shares.divide(None)
        self.server.advance(70)
        self.answer()
        self.assert_one_copy()

    def test_a_stop_that_waits_for_the_answer(self) -> None:
        stopped: Deferred[None] = self.server.begin_stop()
        self.server.advance(5)
        self.answer()
        self.server.wait(stopped, 60)
        self.server.start()
        self.assert_one_copy()


class ConnectionTests(UnderWayCase):
    """The answer, and then the connection's end, in whatever way."""

    def test_closed_right_behind_the_answer(self) -> None:
        self.peer().write(TAKEN)
        self.peer().loseConnection()
        self.server.clock.flush()
        self.remote.behaviour.silent = frozenset()
        self.assert_one_copy()

    def test_a_goodbye_right_behind_the_answer(self) -> None:
        self.peer().write(TAKEN + b"421 4.3.2 closing\r\n")
        self.peer().loseConnection()
        self.server.clock.flush()
        self.remote.behaviour.silent = frozenset()
        self.assert_one_copy()

    def test_cut_right_behind_the_answer(self) -> None:
        self.answer()
        self.peer().abortConnection()
        self.server.clock.flush()
        self.assert_one_copy()

    def test_without_an_answer_it_has_to_come_again(self) -> None:
        """RFC 1047: nobody but the other side knows whether it has the message, and losing it would be worse."""
        self.peer().abortConnection()
        self.server.clock.flush()
        self.remote.behaviour.silent = frozenset()
        self.server.advance(1)
        self.assertEqual((contents(self.remote), contents(self.second)), (1, 0), "not at once, nor from another host")
        self.server.advance(DAY)
        self.assertEqual((contents(self.remote), contents(self.second)), (2, 0))
        self.assertEqual(self.server.accounting(), Accounting(accepted=1, delivered=1))


class LmtpTests(WorldCase):
    """An answer for each recipient (RFC 2033 §4.2): who has had theirs is not given another copy."""

    config = '[local]\nlmtp = "unix:/run/lmtp"'

    def test_lost_between_two_answers(self) -> None:
        server = self.server
        remote = server.remote_socket("/run/lmtp", lmtp=True, disconnect={"content:bert@isp.example"})
        server.send(ANNA, [ANNA, "bert@isp.example"], auth=ANNA)
        server.advance(1)
        self.assertEqual([recipient for _, recipient in remote.taken], [ANNA])
        remote.behaviour.disconnect = frozenset()
        server.advance(HOUR)
        self.assertEqual([recipient for _, recipient in remote.taken], [ANNA, "bert@isp.example"])
        server.assert_balanced()
