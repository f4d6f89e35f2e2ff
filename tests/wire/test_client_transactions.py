"""Transactions of the client's state machine: what it says, and what replies come to for the recipients."""

from __future__ import annotations

from tests.wire.connection import PIPELINING, PLAIN, TWO, Case, codes, kinds
from twisted_mta.mail.status import Reply
from twisted_mta.wire.client import ClientConnection
from twisted_mta.wire.exchange import Closed, Finished, Ready, SendContent, State, Transfer


class TransactionTests(Case):
    """MAIL, RCPT, DATA."""

    def test_pipelined(self) -> None:
        connection = self.opened()
        connection.begin(TWO)
        self.assertEqual(
            connection.take(),
            b"MAIL FROM:<a@isp.example> SIZE=10\r\nRCPT TO:<x@example.org>\r\nRCPT TO:<y@example.org>\r\nDATA\r\n",
        )
        self.assertEqual(connection.timeout, 300)
        events = connection.receive(b"250 ok\r\n250 ok\r\n250 ok\r\n")
        self.assertEqual(events, [])
        self.assertEqual(connection.timeout, 120)
        self.assertEqual(connection.receive(b"354 go\r\n"), [SendContent()])
        self.assertEqual(connection.timeout, 180)
        connection.content_sent()
        self.assertEqual(connection.timeout, 600)
        events = connection.receive(b"250 2.0.0 queued\r\n")
        self.assertEqual(kinds(events), ["Finished", "Ready"])
        self.assertEqual(codes(events[0]), ["250", "250"])
        self.assertEqual(connection.take(), b"")  # RFC 5321 §4.1.1.4: no RSET is needed

    def test_lock_step(self) -> None:
        connection = self.opened(b"250 mx\r\n")
        connection.begin(TWO)
        said = [connection.take()]
        for reply in (b"250 ok\r\n", b"250 ok\r\n", b"550 5.1.1 no\r\n"):
            self.assertEqual(connection.receive(reply), [])
            said.append(connection.take())
        self.assertEqual(
            said,
            [
                b"MAIL FROM:<a@isp.example>\r\n",
                b"RCPT TO:<x@example.org>\r\n",
                b"RCPT TO:<y@example.org>\r\n",
                b"DATA\r\n",
            ],
        )
        self.assertEqual(connection.receive(b"354 go\r\n"), [SendContent()])
        connection.content_sent()
        self.assertEqual(codes(connection.receive(b"250 ok\r\n")[0]), ["250", "550"])

    def test_second_message(self) -> None:
        connection = self.begun()
        connection.receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
        connection.content_sent()
        connection.receive(b"250 ok\r\n")
        self.assertEqual(connection.begin(PLAIN), [])
        self.assertTrue(connection.take().startswith(b"MAIL"))

    def test_null_sender(self) -> None:
        connection = self.opened()
        connection.begin(Transfer("", ("x@example.org",), 10))
        self.assertTrue(connection.take().startswith(b"MAIL FROM:<> SIZE=10\r\n"))

    def test_eight_bit(self) -> None:
        connection = self.opened()
        connection.begin(Transfer("", ("x@example.org",), 10, eight_bit=True))
        self.assertTrue(connection.take().startswith(b"MAIL FROM:<> SIZE=10 BODY=8BITMIME\r\n"))

    def test_eight_bit_not_offered(self) -> None:
        connection = self.opened(b"250 mx\r\n")
        events = connection.begin(Transfer("", ("x@example.org",), 10, eight_bit=True))
        self.assertEqual(kinds(events), ["Finished", "Ready"])
        assert isinstance(events[0], Finished)
        self.assertEqual(events[0].outcomes[0].reply.enhanced, "5.6.3")
        self.assertEqual(connection.take(), b"")

    def test_too_big(self) -> None:
        connection = self.opened()
        events = connection.begin(Transfer("", ("x@example.org", "y@example.org"), 1001))
        self.assertEqual(codes(events[0]), ["552 ours", "552 ours"])
        self.assertEqual(connection.take(), b"")

    def test_mail_refused_pipelined(self) -> None:
        connection = self.begun(TWO)
        events = connection.receive(b"550 5.7.1 no\r\n503 a\r\n503 b\r\n503 c\r\n")
        self.assertEqual(kinds(events), ["Finished", "Ready"])
        self.assertEqual(codes(events[0]), ["550", "550"])

    def test_mail_refused_lock_step(self) -> None:
        connection = self.begun(TWO, b"250 mx\r\n")
        events = connection.receive(b"451 4.7.1 greylisted\r\n")
        self.assertEqual(codes(events[0]), ["451", "451"])
        self.assertEqual(connection.take(), b"")

    def test_mail_refused_rcpt_taken(self) -> None:
        """A server that confused must not get an empty message from us."""
        connection = self.begun()
        events = connection.receive(b"550 no\r\n250 yes\r\n354 go\r\n")
        self.assertEqual(kinds(events), ["Finished", "Closed"])
        self.assertEqual(codes(events[0]), ["550"])
        self.assertEqual(connection.take(), b"")

    def test_rcpt_4xx(self) -> None:
        connection = self.begun(TWO)
        connection.receive(b"250 ok\r\n451 4.2.1 later\r\n250 ok\r\n354 go\r\n")
        connection.content_sent()
        self.assertEqual(codes(connection.receive(b"250 ok\r\n")[0]), ["451", "250"])

    def test_all_refused_pipelined_data_refused(self) -> None:
        connection = self.begun(TWO)
        events = connection.receive(b"250 ok\r\n550 a\r\n550 b\r\n554 no valid recipients\r\n")
        self.assertEqual(kinds(events), ["Finished"])
        self.assertEqual(connection.take(), b"RSET\r\n")
        self.assertEqual(connection.receive(b"250 ok\r\n"), [Ready()])

    def test_all_refused_pipelined_data_taken(self) -> None:
        """RFC 2920 §3.1: then the dot alone is sent."""
        connection = self.begun(TWO)
        self.assertEqual(connection.receive(b"250 ok\r\n550 a\r\n550 b\r\n354 go\r\n"), [])
        self.assertEqual(connection.take(), b".\r\n")
        events = connection.receive(b"554 no valid recipients\r\n")
        self.assertEqual(kinds(events), ["Finished", "Ready"])
        self.assertEqual(codes(events[0]), ["550", "550"])

    def test_all_refused_lock_step(self) -> None:
        connection = self.begun(TWO, b"250 mx\r\n")
        connection.receive(b"250 ok\r\n")
        connection.receive(b"550 a\r\n")
        connection.take()
        self.assertEqual(codes(connection.receive(b"551 b\r\n")[0]), ["550", "551"])
        self.assertEqual(connection.take(), b"RSET\r\n")

    def test_data_4xx(self) -> None:
        connection = self.begun(TWO)
        events = connection.receive(b"250 ok\r\n250 ok\r\n550 no\r\n451 4.3.0 disk\r\n")
        self.assertEqual(codes(events[0]), ["451", "550"])
        self.assertEqual(connection.take(), b"RSET\r\n")

    def test_data_answered_250(self) -> None:
        events = self.begun().receive(b"250 ok\r\n250 ok\r\n250 ok\r\n")
        self.assertEqual(kinds(events), ["Finished", "Closed"])
        self.assertEqual(codes(events[0]), ["451 ours"])

    def test_rset_refused(self) -> None:
        connection = self.begun()
        connection.receive(b"250 ok\r\n550 a\r\n554 no\r\n")
        self.assertClosed(connection.receive(b"502 what?\r\n")[0], 502, "", True)

    def test_content_refused(self) -> None:
        connection = self.begun(TWO)
        connection.receive(b"250 ok\r\n250 ok\r\n550 no\r\n354 go\r\n")
        connection.content_sent()
        events = connection.receive(b"554 5.7.1 spam\r\n")
        self.assertEqual(codes(events[0]), ["554", "550"])
        self.assertEqual(kinds(events), ["Finished", "Ready"])

    def test_content_refused_half_way(self) -> None:
        connection = self.begun()
        connection.receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
        events = connection.receive(b"552 5.3.4 too big\r\n")
        self.assertEqual(kinds(events), ["Finished", "Closed"])
        self.assertEqual(codes(events[0]), ["552"])

    def test_content_accepted_half_way(self) -> None:
        """A 250 before the dot is no acceptance."""
        connection = self.begun()
        connection.receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
        events = connection.receive(b"250 thanks\r\n")
        self.assertEqual(codes(events[0]), ["451 ours"])

    def test_421_at_rcpt(self) -> None:
        connection = self.begun(TWO)
        events = connection.receive(b"250 ok\r\n550 no\r\n421 4.3.2 bye\r\n")
        self.assertEqual(codes(events[0]), ["550", "421"])
        self.assertEqual(kinds(events), ["Finished", "Closed"])

    def test_too_many_recipients_552(self) -> None:
        """RFC 5321 §4.5.3.1.10: an old server's 552 is taken for 452."""
        connection = self.begun(TWO)
        connection.receive(b"250 ok\r\n250 ok\r\n552 Too many recipients\r\n354 go\r\n")
        connection.content_sent()
        self.assertEqual(codes(connection.receive(b"250 ok\r\n")[0]), ["250", "452"])

    def test_mailbox_full_552(self) -> None:
        connection = self.begun(TWO)
        connection.receive(b"250 ok\r\n250 ok\r\n552 5.2.2 mailbox full\r\n354 go\r\n")
        connection.content_sent()
        self.assertEqual(codes(connection.receive(b"250 ok\r\n")[0]), ["250", "552"])

    def test_lost_before_the_dot(self) -> None:
        connection = self.begun(TWO)
        connection.receive(b"250 ok\r\n550 no\r\n")
        events = connection.connection_lost(Reply(451, "4.4.2", "lost"))
        assert isinstance(events[0], Finished)
        self.assertEqual(codes(events[0]), ["550", "451 ours"])
        self.assertEqual((events[0].lost, events[0].dot_sent), (True, False))

    def test_lost_after_the_dot(self) -> None:
        connection = self.begun()
        connection.receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
        connection.content_sent()
        events = connection.connection_lost(Reply(451, "4.4.2", "lost"))
        assert isinstance(events[0], Finished)
        self.assertEqual((events[0].lost, events[0].dot_sent), (True, True))

    def test_quit(self) -> None:
        connection = self.opened()
        connection.quit()
        self.assertEqual(connection.take(), b"QUIT\r\n")
        self.assertEqual(connection.receive(b"221 bye\r\n"), [Closed(None)])

    def test_wrong_moment(self) -> None:
        connection = self.begun()
        self.assertRaises(RuntimeError, connection.begin, PLAIN)
        self.assertRaises(RuntimeError, connection.quit)
        self.assertRaises(RuntimeError, connection.content_sent)
        self.assertRaises(RuntimeError, connection.secured)


class LmtpTests(Case):
    """RFC 2033."""

    def test_one_reply_for_each_recipient(self) -> None:
        connection = ClientConnection("mta", lmtp=True)
        connection.receive(b"220 lmtp\r\n")
        self.assertEqual(connection.take(), b"LHLO mta\r\n")
        connection.receive(PIPELINING)
        connection.begin(Transfer("a@b", ("x@c", "y@c", "z@c"), 10))
        connection.receive(b"250 ok\r\n250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n")
        connection.content_sent()
        self.assertEqual(connection.receive(b"250 2.1.5 stored\r\n"), [])
        events = connection.receive(b"452 4.2.2 full\r\n")
        self.assertEqual(kinds(events), ["Finished", "Ready"])
        self.assertEqual(codes(events[0]), ["250", "550", "452"])

    def test_lost_between_replies(self) -> None:
        connection = self.begun(TWO, lmtp=True)
        connection.receive(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
        connection.content_sent()
        connection.receive(b"250 stored\r\n")
        self.assertEqual(codes(connection.connection_lost(Reply(451, "4.4.2", "x"))[0]), ["250", "451 ours"])

    def test_no_helo(self) -> None:
        connection = ClientConnection("mta", lmtp=True)
        connection.receive(b"220 lmtp\r\n")
        self.assertEqual(kinds(connection.receive(b"500 what?\r\n")), ["Closed"])

    def test_all_refused_data_taken(self) -> None:
        """Nothing would answer the dot of an empty message: RFC 2033 §4.2 has one reply for each recipient."""
        events = self.begun(TWO, lmtp=True).receive(b"250 ok\r\n550 a\r\n550 b\r\n354 go\r\n")
        self.assertEqual(kinds(events), ["Finished", "Closed"])
        self.assertEqual(codes(events[0]), ["550", "550"])


class BinaryTests(Case):
    """BINARYMIME (RFC 3030 §3): by BDAT, to whom offers it."""

    OFFERS = b"250-mx\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 BINARYMIME\r\n"
    ONE = Transfer("a@isp.example", ("x@example.org",), 10, binary=True)
    TWO = Transfer("a@isp.example", ("x@example.org", "y@example.org"), 10, binary=True)

    def test_pipelined(self) -> None:
        connection = self.opened(self.OFFERS)
        connection.begin(self.TWO)
        self.assertEqual(
            connection.take(),
            b"MAIL FROM:<a@isp.example> BODY=BINARYMIME\r\nRCPT TO:<x@example.org>\r\nRCPT TO:<y@example.org>\r\n",
        )
        self.assertEqual(connection.receive(b"250 ok\r\n550 no\r\n"), [])
        self.assertEqual(connection.receive(b"250 ok\r\n"), [SendContent(chunk=True)])
        self.assertEqual((connection.take(), connection.state), (b"", State.CONTENT))
        connection.content_sent()
        events = connection.receive(b"250 queued\r\n")
        self.assertEqual((kinds(events), codes(events[0])), (["Finished", "Ready"], ["550", "250"]))

    def test_lock_step(self) -> None:
        connection = self.begun(self.ONE, self.OFFERS.replace(b"250-PIPELINING\r\n", b""))
        self.assertEqual(connection.receive(b"250 ok\r\n"), [])
        self.assertEqual(connection.take(), b"RCPT TO:<x@example.org>\r\n")
        self.assertEqual(connection.receive(b"250 ok\r\n"), [SendContent(chunk=True)])
        self.assertEqual(connection.take(), b"")

    def test_lmtp(self) -> None:
        connection = self.begun(self.TWO, self.OFFERS, lmtp=True)
        self.assertEqual(connection.receive(b"250 ok\r\n250 ok\r\n250 ok\r\n"), [SendContent(chunk=True)])
        connection.content_sent()
        self.assertEqual(codes(connection.receive(b"250 ok\r\n452 full\r\n")[0]), ["250", "452"])

    def test_all_refused(self) -> None:
        events = self.begun(self.TWO, self.OFFERS).receive(b"250 ok\r\n550 a\r\n550 b\r\n")
        self.assertEqual((kinds(events), codes(events[0])), (["Finished"], ["550", "550"]))
        connection = self.begun(self.TWO, self.OFFERS)
        self.assertEqual(kinds(connection.receive(b"501 what?\r\n503 a\r\n503 b\r\n")), ["Finished", "Ready"])

    def test_mail_refused_rcpt_taken(self) -> None:
        connection = self.begun(self.ONE, self.OFFERS)
        events = connection.receive(b"501 no\r\n250 ok\r\n")
        self.assertEqual(kinds(events), ["Finished", "Closed"])

    def test_not_offered(self) -> None:
        """RFC 3030 §3: under no circumstances."""
        for offers in (PIPELINING, b"250-mx\r\n250 BINARYMIME\r\n", b"250-mx\r\n250 CHUNKING\r\n"):
            connection = self.opened(offers)
            (finished, _) = connection.begin(self.ONE)
            assert isinstance(finished, Finished)
            self.assertEqual(str(finished.outcomes[0].reply)[:9], "554 5.6.1")
            self.assertEqual(connection.take(), b"")
