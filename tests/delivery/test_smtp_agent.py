"""The SMTP agent against a peer in memory: one way of failing in each test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.delivery.sending import BODY, PUBLIC, PUBLIC2, Content, Scene, make_job, outcome
from twisted_mta.delivery.interfaces import IDeliveryAgent, Result
from twisted_mta.mail.envelope import Recipient
from twisted_mta.mail.status import Reply
from twisted_mta.queue.interfaces import CHUNK, StoreUnavailable
from twisted_mta.testing.peer import Behaviour

MX1 = f"mx1.example.org[{PUBLIC}]:25"
MX2 = f"mx2.example.org[{PUBLIC2}]:25"
TWO = ("x@example.org", "y@example.org")


def said(results: Sequence[Result]) -> list[str]:
    """The codes, and whose they are."""
    return [f"{one.reply.code} {one.reply.status}{'' if one.remote else ' ours'}" for one in results]


class DeliverTests(SynchronousTestCase):
    """What works."""

    def test_interface(self) -> None:
        verifyObject(IDeliveryAgent, Scene().agent)

    def test_delivered(self) -> None:
        scene = Scene()
        (result,) = scene.deliver(make_job())
        self.assertEqual(result.reply, Reply(250, "2.0.0", "Ok: queued"))
        self.assertEqual((result.relay, result.host, result.remote), (MX1, "mx1.example.org", True))
        self.assertEqual((result.tls, result.reused), ("", False))
        (mail,) = scene.first.mails
        self.assertEqual((mail.sender, mail.recipients), ("sender@isp.example", ("rcpt@example.org",)))
        self.assertEqual(mail.content, BODY)

    def test_null_sender(self) -> None:
        scene = Scene()
        scene.deliver(make_job(sender=""))
        self.assertIn("MAIL FROM:<> SIZE=23", scene.first.commands)

    def test_wishes_for_reports_are_passed_on(self) -> None:
        """RFC 3461 §5.2.1."""
        job = make_job(*TWO, ret="HDRS", envid="e+2B1")
        wish = Recipient(TWO[1], TWO[1], "SUCCESS,DELAY", "rfc822;y+40old.example")
        job = msgspec.structs.replace(
            job, delivery=msgspec.structs.replace(job.delivery, recipients=(job.delivery.recipients[0], wish))
        )
        for extensions in (("PIPELINING", "DSN"), ("DSN",)):
            scene = Scene(Behaviour(extensions=extensions))
            self.assertEqual([result.action for result in scene.deliver(job)], ["passed"] * 2)
            commands = scene.first.commands
            self.assertIn("MAIL FROM:<sender@isp.example> RET=HDRS ENVID=e+2B1", commands)
            self.assertIn("RCPT TO:<x@example.org>", commands)
            self.assertIn("RCPT TO:<y@example.org> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;y+40old.example", commands)

    def test_wishes_for_reports_stay_here(self) -> None:
        """RFC 3461 §5.2.2: to a server without DSN it is relayed."""
        job = make_job(ret="HDRS", envid="e")
        wish = Recipient("rcpt@example.org", "rcpt@example.org", "SUCCESS", "rfc822;y")
        job = msgspec.structs.replace(job, delivery=msgspec.structs.replace(job.delivery, recipients=(wish,)))
        scene = Scene()
        self.assertEqual([result.action for result in scene.deliver(job)], ["relayed"])
        self.assertIn("MAIL FROM:<sender@isp.example> SIZE=23", scene.first.commands)
        self.assertIn("RCPT TO:<rcpt@example.org>", scene.first.commands)

    def test_utf8_goes_to_those_who_offer_it(self) -> None:
        """RFC 6531 §3.4: and the parameter is there only where it is needed."""
        for sender, recipient, utf8, parameter in (
            ("bj\u00f6rn@isp.example", "rcpt@example.org", False, " SMTPUTF8"),
            ("sender@isp.example", "\u7528\u6237@example.org", False, " SMTPUTF8"),
            ("sender@isp.example", '"\u00e4 b"@example.org', False, " SMTPUTF8"),
            ("sender@isp.example", "rcpt@example.org", True, " SMTPUTF8"),
            ("", "rcpt@example.org", False, ""),
        ):
            scene = Scene(Behaviour(extensions=("SMTPUTF8", "8BITMIME")))
            self.assertEqual(said(scene.deliver(make_job(recipient, sender=sender, utf8=utf8))), ["250 2.0.0"])
            self.assertEqual(scene.first.commands[1], f"MAIL FROM:<{sender}>{parameter}")
            self.assertIn(f"RCPT TO:<{recipient}>", scene.first.commands)

    def test_limits_are_kept(self) -> None:
        """RFC 9422: no more recipients or messages than the server has said it takes."""
        scene = Scene(Behaviour(extensions=("PIPELINING", "LIMITS RCPTMAX=2 MAILMAX=2 RCPTDOMAINMAX=x")))
        many = [f"r{number}@example.org" for number in range(5)]
        self.assertEqual(said(scene.deliver(make_job(*many))), ["250 2.0.0"] * 5)
        self.assertEqual([len(mail.recipients) for mail in scene.first.mails], [2, 2, 1])
        scene.deliver(make_job())
        scene.deliver(make_job())
        sessions = [[line for line in peer.commands if line.startswith("MAIL")] for peer in scene.first.peers]
        self.assertEqual([len(mails) for mails in sessions], [2, 2, 1])

    def test_limits_that_are_nonsense(self) -> None:
        for limits in ("", "RCPTMAX", "RCPTMAX=0", "RCPTMAX=-1", "MAILMAX=1e3", "RCPTMAX=9999999"):
            scene = Scene(Behaviour(extensions=(f"LIMITS {limits}",)))
            self.assertEqual(said(scene.deliver(make_job(*TWO))), ["250 2.0.0"] * 2)
            self.assertEqual(len(scene.first.mails), 1, limits)

    def test_utf8_goes_to_nobody_else(self) -> None:
        job = make_job("\u7528\u6237@example.org", "plain@example.org")
        scene = Scene()
        self.assertEqual(said(scene.deliver(job)), ["553 5.6.7 ours", "250 2.0.0"])
        self.assertEqual(said(Scene().deliver(make_job(sender="bj\u00f6rn@isp.example"))), ["553 5.6.7 ours"])
        self.assertEqual(said(Scene().deliver(make_job(utf8=True))), ["554 5.6.9 ours"])

    def test_few_writes(self) -> None:
        """A small message takes two writes: the envelope, and the content with its dot."""
        scene = Scene()
        scene.deliver(make_job())
        near, _ = scene.network.connections[0]
        before = len(near.writes)
        scene.deliver(make_job(*TWO))
        self.assertEqual(len(near.writes) - before, 2)
        self.assertTrue(near.writes[-1].endswith(b"Hello.\r\n.\r\n"))

    def test_several_recipients_in_one_transaction(self) -> None:
        scene = Scene()
        self.assertEqual(said(scene.deliver(make_job(*TWO))), ["250 2.0.0"] * 2)
        self.assertEqual(scene.first.mails[0].recipients, TWO)
        self.assertEqual(scene.first.commands.count("DATA"), 1)

    def test_recipients_per_transaction(self) -> None:
        scene = Scene(recipients_per_transaction=2)
        many = [f"r{number}@example.org" for number in range(5)]
        self.assertEqual(said(scene.deliver(make_job(*many))), ["250 2.0.0"] * 5)
        self.assertEqual(
            [mail.recipients for mail in scene.first.mails], [tuple(many[:2]), tuple(many[2:4]), (many[4],)]
        )
        self.assertEqual(len(scene.first.peers), 1)

    def test_too_many_recipients(self) -> None:
        """RFC 5321 §4.5.3.1.10: who did not fit goes into the next transaction, now."""
        scene = Scene(Behaviour(max_recipients=2))
        many = [f"r{number}@example.org" for number in range(5)]
        self.assertEqual(said(scene.deliver(make_job(*many))), ["250 2.0.0"] * 5)
        self.assertEqual([len(mail.recipients) for mail in scene.first.mails], [2, 2, 1])

    def test_too_many_recipients_from_the_first(self) -> None:
        """A server that never takes one does not make a loop."""
        scene = Scene(Behaviour(max_recipients=0))
        self.assertEqual(said(scene.deliver(make_job(*TWO))), ["452 4.5.3"] * 2)

    def test_without_pipelining(self) -> None:
        scene = Scene(Behaviour(extensions=()))
        self.assertEqual(said(scene.deliver(make_job(*TWO))), ["250 2.0.0"] * 2)
        self.assertEqual(scene.first.mails[0].content, BODY)
        self.assertEqual(scene.first.mails[0].parameters, "")

    def test_helo_only(self) -> None:
        scene = Scene(Behaviour(replies={"EHLO": "500 what"}))
        self.assertEqual(said(scene.deliver(make_job())), ["250 2.0.0"])

    def test_large_content_is_streamed(self) -> None:
        """No more than two chunks wait in memory, and dots at the start of chunks are doubled."""
        scene = Scene()
        line = b"." + b"x" * 76 + b"\r\n"
        whole = (line * (12 * CHUNK // len(line)))[: 12 * CHUNK - 2] + b"\r\n"
        content = Content([whole[at : at + CHUNK] for at in range(0, len(whole), CHUNK)])
        self.assertEqual(said(scene.deliver(make_job(content=content))), ["250 2.0.0"])
        self.assertEqual(scene.first.mails[0].content, whole)
        self.assertLess(scene.network.connections[0][0].peak, 2 * CHUNK + CHUNK // 50)

    def test_large_content_waits_for_the_transport(self) -> None:
        scene = Scene()
        job = make_job(content=Content([b"x" * 998 + b"\r\n" for _ in range(1000)]))
        scene.start(job)
        scene = Scene()
        started = Deferred.fromCoroutine(scene.agent.deliver(job))
        while not scene.first.commands or scene.first.commands[-1] != "DATA":
            scene.network.advance(0)
            for pair in scene.network.connections:
                for one in pair:
                    one.deliver()
        near = scene.network.connections[0][0]
        near.stalled = True
        content = job.content
        assert isinstance(content, Content)
        content.reads = 0
        scene.network.flush()
        self.assertLess(content.reads, 80)
        near.stalled = False
        scene.network.flush()
        self.assertEqual(said(outcome(started)), ["250 2.0.0"])

    def test_smuggling(self) -> None:
        """Content with false ends arrives as one message."""
        scene = Scene()
        body = b"Subject: a\r\n\r\nb\n.\nMAIL FROM:<evil@example.org>\r\n\n.\r\n\r\n.\r\nDATA\r.\r\r\n"
        scene.deliver(make_job(content=body))
        self.assertEqual(len(scene.first.mails), 1)
        self.assertEqual(scene.first.mails[0].content.count(b"\r\n.\r\n"), 4)

    def test_eight_bit(self) -> None:
        scene = Scene()
        scene.deliver(make_job(content="Subject: ä\r\n".encode(), body="8BITMIME"))
        self.assertEqual(scene.first.mails[0].parameters, "SIZE=13 BODY=8BITMIME")

    def test_eight_bit_undeclared(self) -> None:
        scene = Scene()
        scene.deliver(make_job(content="Subject: ä\r\n".encode()))
        self.assertEqual(scene.first.mails[0].parameters, "SIZE=13 BODY=8BITMIME")

    def test_eight_bit_not_taken(self) -> None:
        """RFC 6152 §3: such content must not be sent to this server."""
        scene = Scene(Behaviour(extensions=()))
        for content in (Content(["Subject: ä\r\n".encode()]), Content([b"Subject: ", "ä\r\n".encode()])):
            (result,) = scene.deliver(make_job(content=content, body="8BITMIME"))
            self.assertEqual((result.reply.code, result.reply.enhanced, result.remote), (554, "5.6.3", False))
        self.assertNotIn("DATA", scene.first.commands)

    def test_eight_bit_declared_but_absent(self) -> None:
        scene = Scene(Behaviour(extensions=()))
        for content in (Content([b"Subject: a\r\n"]), Content([b"Subject: ", b"a\r\n"])):
            self.assertEqual(said(scene.deliver(make_job(content=content, body="8BITMIME"))), ["250 2.0.0"])

    def test_larger_than_the_server_takes(self) -> None:
        scene = Scene(Behaviour(extensions=("SIZE 10",)))
        self.assertEqual(said(scene.deliver(make_job())), ["552 5.3.4 ours"])
        self.assertFalse(any(one.startswith("MAIL") for one in scene.first.commands))

    def test_address_that_cannot_be_sent(self) -> None:
        scene = Scene()
        results = scene.deliver(make_job("ä@example.org", "x@example.org"))
        self.assertEqual(said(results), ["553 5.6.7 ours", "250 2.0.0"])


class RefusalTests(SynchronousTestCase):
    """What the server says no to: one outcome for each recipient."""

    def check(self, replies: dict[str, str | list[str]], *expected: str, extensions: Any = None) -> Scene:
        behaviour = Behaviour(replies=replies)
        if extensions is not None:
            behaviour.extensions = extensions
        scene = Scene(behaviour)
        self.assertEqual(said(scene.deliver(make_job(*TWO))), list(expected))
        return scene

    def test_mail_5xx(self) -> None:
        self.check({"MAIL": "550 5.7.1 no"}, "550 5.7.1", "550 5.7.1")

    def test_mail_4xx(self) -> None:
        scene = self.check({"MAIL": "451 4.7.1 greylisted"}, "451 4.7.1", "451 4.7.1")
        self.assertEqual(scene.second.peers, [])

    def test_rcpt_5xx(self) -> None:
        scene = self.check({"RCPT:y@example.org": "550 5.1.1 who?"}, "250 2.0.0", "550 5.1.1")
        self.assertEqual(scene.first.mails[0].recipients, ("x@example.org",))

    def test_rcpt_4xx(self) -> None:
        self.check({"RCPT:x@example.org": "450 4.2.1 later"}, "450 4.2.1", "250 2.0.0")

    def test_all_rcpt_refused(self) -> None:
        scene = self.check({"RCPT": "550 5.1.1 who?"}, "550 5.1.1", "550 5.1.1")
        self.assertEqual(scene.first.commands[-1], "RSET")
        self.assertEqual(scene.agent.connections, (1, 1))

    def test_all_rcpt_refused_and_data_taken(self) -> None:
        scene = self.check({"RCPT": "550 5.1.1 who?", "DATA": "354 go on"}, "550 5.1.1", "550 5.1.1")
        self.assertEqual(scene.first.mails, [])

    def test_all_rcpt_refused_in_lock_step(self) -> None:
        scene = self.check({"RCPT": "550 5.1.1 who?"}, "550 5.1.1", "550 5.1.1", extensions=())
        self.assertNotIn("DATA", scene.first.commands)

    def test_data_4xx(self) -> None:
        self.check({"DATA": "451 4.3.0 no"}, "451 4.3.0", "451 4.3.0")

    def test_content_5xx(self) -> None:
        self.check({"content": "554 5.7.1 spam"}, "554 5.7.1", "554 5.7.1")

    def test_next_message_after_a_refusal(self) -> None:
        scene = self.check({"RCPT": ["550 5.1.1 who?"] * 2}, "550 5.1.1", "550 5.1.1")
        (result,) = scene.deliver(make_job())
        self.assertEqual((result.reply.code, result.reused), (250, True))
        self.assertEqual(len(scene.first.peers), 1)

    def test_words_of_the_server_are_kept_printable(self) -> None:
        scene = Scene(Behaviour(replies={"MAIL": "550 5.7.1 \x1b[2Jno\x07"}))
        (result,) = scene.deliver(make_job())
        self.assertEqual(result.reply.text, "\\x1b[2Jno\\x07")


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


class ContentTests(SynchronousTestCase):
    """Content that the store does not give."""

    def test_gone(self) -> None:
        scene = Scene()
        (result,) = scene.deliver(make_job(content=Content([b"a\r\n", b"b\r\n"], broken=KeyError("gone"))))
        self.assertEqual(said([result]), ["451 4.3.0 ours"])
        self.assertEqual(scene.first.mails + scene.second.mails, [])
        self.assertEqual(scene.second.peers, [])
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_store_unavailable(self) -> None:
        scene = Scene()
        broken = StoreUnavailable(Reply(451, "4.3.1", "stopping"))
        (result,) = scene.deliver(make_job(content=Content([b"a\r\n", b"b\r\n"], broken=broken)))
        self.assertEqual(said([result]), ["451 4.3.1 ours"])
        self.flushLoggedErrors(StoreUnavailable)

    def test_gone_while_looked_through(self) -> None:
        scene = Scene(Behaviour(extensions=()))
        content = Content([b"a\r\n", b"b\r\n"], broken=KeyError("gone"))
        self.assertEqual(said(scene.deliver(make_job(content=content, body="8BITMIME"))), ["451 4.3.0 ours"])


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


class BinaryTests(SynchronousTestCase):
    """BINARYMIME (RFC 3030 §3)."""

    OFFERS = ("PIPELINING", "SIZE 10240000", "8BITMIME", "CHUNKING", "BINARYMIME")
    CONTENT = b"MIME-Version: 1.0\r\n\r\n" + bytes(range(256)) + b"\r\n.\r\nQUIT\r\n\n.\n"

    def test_octet_for_octet(self) -> None:
        for content in (
            Content([self.CONTENT]),
            Content([self.CONTENT[:40], self.CONTENT[40:], b"\r"]),
            Content([b""]),
        ):
            scene = Scene(Behaviour(extensions=self.OFFERS))
            job = make_job(*TWO, content=content, body="BINARYMIME")
            self.assertEqual(said(scene.deliver(job)), ["250 2.0.0"] * 2)
            (mail,) = scene.first.mails
            self.assertEqual(mail.content, b"".join(content.pieces))
            self.assertEqual(mail.parameters, f"SIZE={content.size} BODY=BINARYMIME")
            self.assertEqual(said(scene.deliver(make_job())), ["250 2.0.0"])
            self.assertEqual([line[:4] for line in scene.first.commands[-3:]], ["MAIL", "RCPT", "DATA"])
            self.assertEqual(len(scene.first.peers), 1)

    def test_paced_by_the_server(self) -> None:
        """The next chunk is read when the transport has room for it."""
        content = Content([b"\0" * CHUNK] * 8)
        scene = Scene(Behaviour(extensions=self.OFFERS))
        self.assertEqual(said(scene.deliver(make_job(content=content, body="BINARYMIME"))), ["250 2.0.0"])
        self.assertEqual(content.reads, 8)
        self.assertEqual(scene.first.mails[0].content, b"\0" * 8 * CHUNK)

    def test_less_than_announced(self) -> None:
        """What would follow would be taken for content: the connection goes."""

        class Short(Content):
            size = 100

        content = Short([b"\0" * 30] * 2)
        scene = Scene(Behaviour(extensions=self.OFFERS))
        (result,) = scene.deliver(make_job(content=content, body="BINARYMIME"))
        self.flushLoggedErrors(ValueError)
        self.assertEqual((result.reply.code, result.reply.enhanced, result.remote), (451, "4.3.0", False))
        self.assertEqual(scene.first.mails, [])
        self.assertFalse(scene.agent.connections[0])
