"""The SMTP agent against a peer in memory: what it sends, and what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.delivery.sending import BODY, PUBLIC, TWO, Content, Scene, make_job, outcome, said
from twisted_mta.delivery.interfaces import IDeliveryAgent
from twisted_mta.mail.envelope import Recipient
from twisted_mta.mail.status import Reply
from twisted_mta.queue.interfaces import CHUNK, StoreUnavailable
from twisted_mta.testing.peer import Behaviour

MX1 = f"mx1.example.org[{PUBLIC}]:25"


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
