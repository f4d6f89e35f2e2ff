"""The SMTP agent and hosts that fail, in one way in each test; time; smarthosts."""

from __future__ import annotations

from typing import Any

from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.delivery.sending import PUBLIC, PUBLIC2, TWO, Content, Scene, make_job, outcome, said
from twisted_mta.testing.peer import Behaviour

MX1 = f"mx1.example.org[{PUBLIC}]:25"
MX2 = f"mx2.example.org[{PUBLIC2}]:25"


class HostTests(SynchronousTestCase):
    """Which hosts are tried, RFC 5321 §5.1."""

    def assertNext(self, scene: Scene) -> None:
        (result,) = scene.deliver(make_job())
        self.assertEqual((result.reply.code, result.relay), (250, MX2))

    def test_connection_refused(self) -> None:
        scene = Scene()
        del scene.network.hosts[(PUBLIC, 25)]
        self.assertNext(scene)

    def test_no_route(self) -> None:
        scene = Scene()
        scene.network.hosts[(PUBLIC, 25)] = error.NoRouteError()
        self.assertNext(scene)

    def test_connect_timeout(self) -> None:
        scene = Scene()
        scene.network.hosts[(PUBLIC, 25)] = None
        started = scene.start(make_job())
        scene.wait(30)
        self.assertEqual(outcome(started)[0].relay, MX2)
        self.assertEqual(outcome(scene.start(make_job()))[0].seconds, 0)

    def test_all_refused(self) -> None:
        scene = Scene()
        scene.network.hosts.clear()
        (result,) = scene.deliver(make_job())
        self.assertEqual(
            (result.reply.code, result.reply.enhanced, result.relay, result.host, result.remote),
            (451, "4.4.1", MX2, "", False),
        )
        self.assertEqual(result.reply.text, f"connect to {MX2}: Connection refused")

    def test_greeting_4xx(self) -> None:
        self.assertNext(Scene(Behaviour(replies={"greeting": "450 busy"})))

    def test_greeting_5xx(self) -> None:
        self.assertNext(Scene(Behaviour(replies={"greeting": "554 no"})))
        self.assertNext(Scene(Behaviour(replies={"greeting": "521 5.3.2 no mail here"})))

    def test_greeting_421(self) -> None:
        self.assertNext(Scene(Behaviour(replies={"greeting": "421 4.3.2 too busy"})))

    def test_421_right_behind_the_answer_to_ehlo(self) -> None:
        """It uses the host up, or it would be called again and again."""
        self.assertNext(Scene(Behaviour(replies={"EHLO": "250-peer\r\n250 PIPELINING\r\n421 4.3.2 too busy"})))

    def test_greeting_5xx_everywhere(self) -> None:
        refuses = {"greeting": "554 5.7.1 we do not know you"}
        scene = Scene(Behaviour(replies=refuses), Behaviour(replies=refuses))
        (result,) = scene.deliver(make_job())
        self.assertEqual((result.reply.code, result.host, result.remote), (554, "mx2.example.org", True))

    def test_greeting_5xx_and_another_is_down(self) -> None:
        """While one host may yet answer, nothing bounces."""
        scene = Scene(second=Behaviour(replies={"greeting": "554 5.7.1 no"}))
        del scene.network.hosts[(PUBLIC, 25)]
        self.assertEqual(said(scene.deliver(make_job())), ["451 4.4.1 ours"])

    def test_ehlo_4xx(self) -> None:
        self.assertNext(Scene(Behaviour(replies={"EHLO": "450 4.7.0 later"})))

    def test_disconnect_at_greeting(self) -> None:
        self.assertNext(Scene(Behaviour(disconnect={"greeting"})))

    def test_disconnect_at_mail(self) -> None:
        self.assertNext(Scene(Behaviour(disconnect={"MAIL"})))

    def test_disconnect_in_data(self) -> None:
        """Before the final dot nothing can have been delivered."""
        self.assertNext(Scene(Behaviour(disconnect={"DATA"})))

    def test_disconnect_in_the_body(self) -> None:
        scene = Scene(Behaviour(disconnect={"body"}))
        (result,) = scene.deliver(make_job(content=Content([b"x" * 998 + b"\r\n" for _ in range(500)])))
        self.assertEqual((result.reply.code, result.relay), (250, MX2))
        self.assertEqual(scene.first.mails, [])

    def test_421_at_rcpt(self) -> None:
        self.assertNext(Scene(Behaviour(replies={"RCPT": "421 4.3.2 bye"})))

    def test_garbage(self) -> None:
        self.assertNext(Scene(Behaviour(replies={"greeting": "SSH-2.0-OpenSSH_9.2"})))

    def test_refused_recipient_before_the_connection_is_lost(self) -> None:
        """What was refused for good is not asked of the next host."""
        scene = Scene(Behaviour(replies={"RCPT:x@example.org": "550 5.1.1 no"}, disconnect={"DATA"}))
        self.assertEqual(said(scene.deliver(make_job(*TWO))), ["550 5.1.1", "250 2.0.0"])
        self.assertEqual(scene.second.mails[0].recipients, ("y@example.org",))

    def test_disconnect_after_the_dot(self) -> None:
        """The server may have it: no other host is tried now (RFC 5321 §4.5.3.2.6)."""
        scene = Scene(Behaviour(disconnect={"content"}))
        (result,) = scene.deliver(make_job())
        self.assertEqual((result.reply.code, result.reply.enhanced, result.relay), (451, "4.4.2", MX1))
        self.assertEqual(scene.second.peers, [])

    def test_no_such_domain(self) -> None:
        scene = Scene()
        self.assertEqual(said(scene.deliver(make_job(destination="smtp:none.example"))), ["550 5.1.2 ours"])

    def test_dns_fails(self) -> None:
        scene = Scene()
        scene.resolver.temporary.add("example.org")
        self.assertEqual(said(scene.deliver(make_job())), ["451 4.4.3 ours"])


class TimeTests(SynchronousTestCase):
    """How long is waited for what, RFC 5321 §4.5.3.2."""

    def check(self, key: str, seconds: float, extensions: Any = ("PIPELINING",)) -> Scene:
        scene = Scene(Behaviour(silent={key}, extensions=extensions))
        del scene.network.hosts[(PUBLIC2, 25)]
        started = scene.start(make_job())
        scene.wait(seconds - 1)
        results: list[Any] = []
        started.addCallback(results.append)
        self.assertEqual(results, [], "it did not wait long enough")
        scene.wait(2)
        self.assertTrue(results, "it still waits")
        self.assertEqual(said(results[0])[0][:3], "451")
        return scene

    def test_greeting(self) -> None:
        self.check("greeting", 300)

    def test_ehlo(self) -> None:
        self.check("EHLO", 300)

    def test_mail(self) -> None:
        self.check("MAIL", 300, ())

    def test_rcpt(self) -> None:
        self.check("RCPT", 300, ())

    def test_data(self) -> None:
        self.check("DATA", 120)

    def test_content(self) -> None:
        scene = self.check("content", 600)
        self.assertEqual(scene.second.peers, [])

    def stalled(self) -> tuple[Scene, list[Any]]:
        """A server that said 354 and then reads no more; and where the results will be."""
        scene = Scene()
        del scene.network.hosts[(PUBLIC2, 25)]
        results: list[Any] = []
        started = Deferred.fromCoroutine(
            scene.agent.deliver(make_job(content=Content([b"x" * 998 + b"\r\n" for _ in range(500)])))
        )
        started.addCallback(results.append)
        for _ in range(20):
            scene.network.advance(0)
            for pair in scene.network.connections:
                for one in pair:
                    one.stalled = one.client and bool(scene.first.commands) and scene.first.commands[-1] == "DATA"
                    one.deliver()
        return scene, results

    def test_server_that_takes_no_content(self) -> None:
        """RFC 5321 §4.5.3.2.5: three minutes for some of it to be taken."""
        scene, results = self.stalled()
        scene.wait(179)
        self.assertFalse(scene.network.connections[0][0].aborted)
        scene.wait(2)
        self.assertTrue(scene.network.connections[0][0].aborted)
        self.assertEqual(said(results[0]), ["451 4.4.1 ours"])  # the other host's: it was tried

    def test_lost_while_the_server_takes_no_content(self) -> None:
        """The dot was never sent, though the transport lets go of what waited when it is lost."""
        scene, results = self.stalled()
        near = scene.network.connections[0][0]
        near.stalled = False
        near.abortConnection()
        scene.wait(0)
        self.assertEqual(said(results[0]), ["451 4.4.1 ours"])
        self.assertEqual(scene.network.attempts, [(PUBLIC, 25), (PUBLIC2, 25)])

    def test_in_all(self) -> None:
        """A server that answers each of a hundred recipients after four minutes does not hold us for hours."""
        scene = Scene(Behaviour(extensions=(), silent={"RCPT"}))
        started = scene.start(make_job(*[f"r{number}@example.org" for number in range(100)]))
        results: list[Any] = []
        started.addCallback(results.append)
        for _ in range(10):
            scene.wait(240)
            for _, far in scene.network.connections:
                far.write(b"250 ok\r\n")
            scene.network.flush()
        self.assertEqual(len(results[0]), 100)
        self.assertEqual(said(results[0])[-1], "451 4.4.2 ours")
        self.assertLess(results[0][0].seconds, 2000)

    def test_no_timer_is_left(self) -> None:
        scene = Scene()
        scene.deliver(make_job())
        scene.wait(6)
        self.assertEqual(scene.network.getDelayedCalls(), [])


class SmarthostTests(SynchronousTestCase):
    """Destinations in brackets."""

    def test_smarthost(self) -> None:
        scene = Scene(smarthost="relay.example:587")
        scene.resolver.records["relay.example"] = {"A": ["10.0.0.1"]}
        scene.network.hosts[("10.0.0.1", 587)] = scene.first
        (result,) = scene.deliver(make_job(destination="smtp:[relay.example]:587"))
        self.assertEqual((result.reply.code, result.relay), (250, "relay.example[10.0.0.1]:587"))
        self.assertNotIn(("relay.example", "MX"), scene.resolver.asked)

    def test_unknown_smarthost_does_not_bounce(self) -> None:
        scene = Scene(smarthost="relay.example:587")
        self.assertEqual(said(scene.deliver(make_job(destination="smtp:[relay.example]:587"))), ["451 4.3.5 ours"])

    def test_smarthost_refuses_us(self) -> None:
        scene = Scene(Behaviour(replies={"greeting": "554 5.7.1 who are you"}), smarthost="10.0.0.1:587")
        scene.network.hosts[("10.0.0.1", 587)] = scene.first
        (result,) = scene.deliver(make_job(destination="smtp:[10.0.0.1]:587"))
        self.assertEqual((result.reply.code, result.reply.enhanced, result.remote), (451, "4.3.5", True))
        self.assertIn("who are you", result.reply.text)
