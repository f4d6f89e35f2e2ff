"""The SMTP agent's connections: kept for the next message, and ended."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.delivery.sending import PUBLIC, Scene, make_job, outcome, said
from twisted_mta.testing.peer import Behaviour

MX1 = f"mx1.example.org[{PUBLIC}]:25"


class ReuseTests(SynchronousTestCase):
    """A connection carries several messages."""

    def test_reused(self) -> None:
        scene = Scene()
        self.assertEqual([scene.deliver(make_job())[0].reused for _ in range(3)], [False, True, True])
        self.assertEqual(len(scene.first.peers), 1)
        self.assertEqual(len(scene.first.mails), 3)

    def test_other_destination_does_not_share(self) -> None:
        scene = Scene()
        scene.resolver.records["example.net"] = {"A": [PUBLIC]}
        scene.deliver(make_job())
        scene.deliver(make_job(destination="smtp:example.net"))
        self.assertEqual(len(scene.first.peers), 2)

    def test_idle(self) -> None:
        scene = Scene(idle=7.0)
        scene.deliver(make_job())
        scene.wait(6.9)
        self.assertEqual(scene.agent.connections, (1, 1))
        scene.wait(0.2)
        self.assertEqual(scene.first.commands[-1], "QUIT")
        self.assertEqual(scene.agent.connections, (0, 0))

    def test_idle_zero(self) -> None:
        scene = Scene(idle=0.0)
        scene.deliver(make_job())
        self.assertEqual(scene.first.commands[-1], "QUIT")

    def test_server_that_ignores_quit(self) -> None:
        scene = Scene(Behaviour(silent={"QUIT"}))
        scene.first.behaviour.silent = {"QUIT"}
        scene.deliver(make_job())
        scene.wait(6)
        scene.wait(11)
        self.assertTrue(scene.network.connections[0][0].disconnected)
        self.assertEqual(scene.network.getDelayedCalls(), [])

    def test_messages_per_connection(self) -> None:
        scene = Scene(messages_per_connection=2)
        self.assertEqual([scene.deliver(make_job())[0].reused for _ in range(4)], [False, True, False, True])
        self.assertEqual(len(scene.first.peers), 2)

    def test_messages_per_connection_inside_a_job(self) -> None:
        scene = Scene(messages_per_connection=2, recipients_per_transaction=1)
        many = [f"r{number}@example.org" for number in range(5)]
        self.assertEqual(said(scene.deliver(make_job(*many))), ["250 2.0.0"] * 5)
        self.assertEqual(len(scene.first.peers), 3)

    def test_stale(self) -> None:
        """A connection that the server has given up meanwhile is replaced, for the same host."""
        scene = Scene()
        scene.deliver(make_job())
        scene.network.connections[0][1].stalled = True  # the end has not arrived yet
        scene.network.connections[0][1].loseConnection()
        scene.first.peers[0]._gone = True
        started = scene.start(make_job())
        scene.network.connections[0][1].stalled = False
        scene.network.flush()
        (result,) = outcome(started)
        self.assertEqual((result.reply.code, result.relay, result.reused), (250, MX1, False))
        self.assertEqual(len(scene.first.peers), 2)

    def test_stale_with_421(self) -> None:
        scene = Scene(Behaviour(replies={"MAIL": ["250 ok", "421 4.4.2 you were idle"]}))
        scene.deliver(make_job())
        (result,) = scene.deliver(make_job())
        self.assertEqual((result.reply.code, result.relay, result.reused), (250, MX1, False))

    def test_closed_by_the_server_while_idle(self) -> None:
        scene = Scene()
        scene.deliver(make_job())
        scene.network.connections[0][1].write(b"421 4.4.2 idle\r\n")
        scene.network.flush()
        self.assertEqual(scene.agent.connections, (0, 0))
        self.assertFalse(scene.deliver(make_job())[0].reused)

    def test_speaks_while_idle(self) -> None:
        """What a server says unasked can't be taken for the answer to the next message."""
        scene = Scene()
        scene.deliver(make_job())
        scene.network.connections[0][1].write(b"250 ok\r\n250 ok\r\n354 go\r\n250 ok\r\n")
        scene.network.flush()
        self.assertEqual(scene.agent.connections, (0, 0))


class StopTests(SynchronousTestCase):
    """Stopping, and bounds on connections."""

    def test_idle_connections_end(self) -> None:
        scene = Scene()
        scene.deliver(make_job())
        self.successResultOf(scene.agent.stop())
        scene.network.flush()
        self.assertEqual(scene.first.commands[-1], "QUIT")

    def test_a_transaction_is_finished(self) -> None:
        scene = Scene(Behaviour(silent={"content"}))
        started = scene.start(make_job())
        stopped = scene.agent.stop()
        self.assertNoResult(stopped)
        scene.network.connections[0][1].write(b"250 2.0.0 ok\r\n")
        scene.network.flush()
        self.assertEqual(said(outcome(started)), ["250 2.0.0"])
        self.successResultOf(stopped)

    def test_connecting_is_given_up(self) -> None:
        scene = Scene()
        scene.network.hosts[(PUBLIC, 25)] = None
        started = scene.start(make_job())
        stopped = scene.agent.stop()
        scene.network.flush()
        self.assertEqual(said(outcome(started))[0][:3], "451")
        self.successResultOf(stopped)
        self.assertEqual(scene.network.getDelayedCalls(), [])

    def test_waiting_for_the_greeting_is_given_up(self) -> None:
        scene = Scene(Behaviour(silent={"greeting"}))
        started = scene.start(make_job())
        stopped = scene.agent.stop()
        scene.network.flush()
        self.assertEqual(said(outcome(started)), ["451 4.3.2 ours"])
        self.successResultOf(stopped)

    def test_nothing_begins_after(self) -> None:
        scene = Scene()
        scene.agent.stop()
        self.assertEqual(said(scene.deliver(make_job())), ["451 4.3.2 ours"])
        self.assertEqual(scene.network.attempts, [])

    def test_connections_per_destination(self) -> None:
        scene = Scene(Behaviour(silent={"content"}), connections_per_destination=2)
        started = [scene.start(make_job()) for _ in range(5)]
        self.assertEqual(len(scene.first.peers), 2)
        scene.first.behaviour.silent = set()
        for _, far in list(scene.network.connections):
            far.write(b"250 2.0.0 ok\r\n")
        scene.network.flush()
        self.assertEqual([said(outcome(one)) for one in started], [["250 2.0.0"]] * 5)
        self.assertEqual(len(scene.first.peers), 2)

    def test_many_who_wait_while_it_stops(self) -> None:
        scene = Scene(Behaviour(silent={"content"}), connections_per_destination=1)
        started = [scene.start(make_job()) for _ in range(2000)]
        stopped = scene.agent.stop()
        scene.network.connections[0][1].write(b"250 2.0.0 ok\r\n")
        scene.network.flush()
        self.assertEqual(said(outcome(started[0])), ["250 2.0.0"])
        self.assertEqual({said(outcome(one))[0] for one in started[1:]}, {"451 4.3.2 ours"})
        self.successResultOf(stopped)
