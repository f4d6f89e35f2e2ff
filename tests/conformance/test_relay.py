"""RFC 5321: what a relay does, and how it speaks to others (§3.3, §3.6, §4.1.1, §4.2, §4.3, §4.5.4).  Each test begins
with the section that it is about; ``docs/rfc5321.md`` has the rule."""

from __future__ import annotations

from typing import Any

from tests.conformance.case import JOE, RELAYED, TEXT, RuleCase
from tests.testing.world import ANNA, BOB
from twisted_mta.mail.events import Bounced, Deferred, Delivered
from twisted_mta.testing.case import configured
from twisted_mta.testing.remote import Remote

BILL = "bill@else.example"
ODD = (
    b"Bcc: secret@isp.example\r\nresent-to:x\r\nRECEIVED :a by b\r\nSubject: =?x\r\n\r\n"
    b" \t\x01 odd \xe4 \x7f\r\n..\r\n.\r\n\r\nFrom nobody\r\n\r\n"
)
ENDS = ("greeting", "EHLO", "MAIL", "RCPT", "DATA", "content")


class RelayTests(RuleCase):
    """Mail of RELAYED for "else.example"."""

    def relay(self, *recipients: str, sender: str = JOE, content: bytes = TEXT) -> None:
        """Has mail taken that goes on to another host."""
        client = self.begun(*recipients or (BOB,), sender=sender, address=RELAYED)
        wire = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]
        self.assertEqual(self.hand_in(client, wire).code, 250)

    def outcome(self, kind: type[Any]) -> list[str]:
        """To whom this has happened."""
        return [event.recipient for event in self.server.told(kind)]

    # §3: procedures

    def test_no_content_without_354(self) -> None:
        """§3.3"""
        for extensions in ((), ("PIPELINING",)):
            for reply in ("550 5.7.1 no", "451 4.3.0 not now", "250 2.0.0 what for?", "221 2.0.0 bye"):
                remote = self.server.remote(f"d{len(extensions)}{reply[:3]}.example", extensions=extensions)
                remote.behaviour.replies = {"DATA": reply}
                self.relay(f"x@{remote.name.removeprefix('mx.')}")
                self.server.advance(1)
                self.assertEqual(remote.mails, [])
                self.assertFalse([one for one in remote.commands if "Subject" in one], reply)

    def test_undeliverable_mail_is_notified(self) -> None:
        """§3.6.3"""
        self.server.remote("else.example", replies={"RCPT": "550 5.1.1 no such user"})
        self.relay(sender=ANNA)
        (report,) = self.arrived()
        self.assertIn(b"multipart/report", report)
        self.assertIn(b"550 5.1.1 no such user", report)

    def test_notifications_have_a_null_reverse_path(self) -> None:
        """§3.6.3"""
        self.server.remote("else.example", replies={"RCPT": "550 5.1.1 no such user"})
        far = self.server.remote("far.example")
        self.relay()
        self.server.advance(5)
        self.assertEqual(far.taken, [("", JOE)])

    def test_no_notification_about_a_notification(self) -> None:
        """§3.6.3"""
        remote = self.server.remote("else.example", replies={"RCPT": "550 5.1.1 no such user"})
        far = self.server.remote("far.example", replies={"RCPT": "550 5.1.1 nor here"})
        self.relay(sender="")
        self.server.advance(86400)
        self.assertEqual(
            (self.outcome(Bounced), self.arrived(), self.arrived("postmaster@isp.example")), ([BOB], [], [])
        )
        self.relay()
        self.server.advance(86400)
        self.assertEqual((self.outcome(Bounced), self.server.queue()), ([BOB, BOB, JOE], []))
        self.assertEqual((remote.attempts, far.attempts), (2, 1))

    def test_a_relay_adds_its_received_field_and_nothing_else(self) -> None:
        """§3.6.3"""
        remote = self.server.remote("else.example")
        self.relay(content=ODD)
        (mail,) = remote.mails
        self.assertTrue(mail.content.endswith(ODD), mail.content)
        self.assertRegex(mail.content.removesuffix(ODD), rb"\AReceived: [^\r\n]+\r\n(?:\t[^\r\n]+\r\n)+\Z")

    def test_no_source_routes_are_made(self) -> None:
        """§3.6.1"""
        remote = self.server.remote("else.example")
        self.relay(BOB, BILL)
        paths = [one for one in remote.commands if one[:4] in ("MAIL", "RCPT")]
        self.assertEqual([path.split()[1] for path in paths], [f"FROM:<{JOE}>", f"TO:<{BOB}>", f"TO:<{BILL}>"])

    # §4.1: commands

    def test_hello_first(self) -> None:
        """§4.1.1.1"""
        remote = self.server.remote("else.example")
        old = self.server.remote("old.example", replies={"EHLO": "500 5.5.1 what?"})
        self.relay(BOB, "x@old.example")
        self.assertEqual(remote.commands[0], "EHLO mx.isp.example")
        self.assertEqual(old.commands[:2], ["EHLO mx.isp.example", "HELO mx.isp.example"])
        self.assertEqual((len(remote.mails), len(old.mails)), (1, 1))

    def test_our_name_in_ehlo(self) -> None:
        """§4.1.4"""
        remote = self.server.remote("else.example")
        self.relay()
        self.assertEqual(remote.commands[0], f"EHLO {self.server.settings.hostname}")

    def test_keywords_in_any_case(self) -> None:
        """§4.1.1.1"""
        remote = self.server.remote("else.example", extensions=("pipelining", "size 100000", "8bitMime", "Dsn"))
        self.relay(content=TEXT + b"\xe4\r\n")
        (mail,) = remote.mails
        self.assertRegex(mail.parameters, r"\ASIZE=\d+ BODY=8BITMIME\Z")

    def test_no_parameter_that_is_not_offered(self) -> None:
        """§4.1.1.3"""
        remote = self.server.remote("else.example", extensions=())
        client = self.client(
            "EHLO client.example",
            f"MAIL FROM:<{JOE}> SIZE=100 BODY=7BIT RET=HDRS ENVID=x",
            f"RCPT TO:<{BOB}> NOTIFY=FAILURE ORCPT=rfc822;x@y.example",
            address=RELAYED,
        )
        self.assertEqual(self.hand_in(client).code, 250)
        self.assertEqual(remote.commands[1:3], [f"MAIL FROM:<{JOE}>", f"RCPT TO:<{BOB}>"])

    def test_a_lacking_line_end_is_added(self) -> None:
        """§4.1.1.4"""
        remote = self.server.remote("else.example")
        client = self.begun(BOB, address=RELAYED)
        self.assertEqual(client.send_raw(b"BDAT 19 LAST\r\nSubject: x\r\n\r\nHello")[0].code, 250)
        self.assertTrue(remote.mails[0].content.endswith(b"\r\n\r\nHello\r\n"))

    def test_quit_at_the_end(self) -> None:
        """§4.1.1.10"""
        remote = self.server.remote("else.example")
        refusing = self.server.remote("no.example", replies={"greeting": "554 5.3.2 no mail here"})
        self.relay(BOB, "x@no.example")
        self.server.advance(60)
        self.assertEqual((remote.commands[-1], refusing.commands), ("QUIT", ["QUIT"]))

    def test_transactions_do_not_overlap(self) -> None:
        """§4.1.4"""
        remote = self.server.remote("else.example", replies={"RCPT": ["550 5.1.1 no"]})
        self.relay()
        self.relay()
        self.server.advance(1)
        mails = [at for at, one in enumerate(remote.commands) if one.startswith("MAIL")]
        self.assertEqual(len(mails), 2)
        between = remote.commands[mails[0] : mails[1]]
        self.assertTrue({"RSET", "EHLO mx.isp.example", "DATA"} & set(between), between)

    # §4.2 and §4.3: replies

    def test_unknown_codes_go_by_their_first_digit(self) -> None:
        """§4.3.2"""
        for code, kind in (("259", Delivered), ("459", Deferred), ("569", Bounced)):
            for command in ("MAIL", "RCPT", "content"):
                domain = f"{command.lower()}{code}.example"
                self.server.remote(domain, replies={command: f"{code} whatever"})
                self.relay(f"x@{domain}", sender=ANNA)
                self.server.advance(1)
                self.assertIn(f"x@{domain}", self.outcome(kind), (code, command))

    def test_any_text_will_do(self) -> None:
        """§4.2"""
        for number, words in enumerate(("", " ", " 5.1.1 no such user", "-one\r\n250-\r\n250 550 no", " \xe4\t\x01")):
            replies = dict.fromkeys(("MAIL", "RCPT", "content"), f"250{words}")
            remote = self.server.remote(
                f"d{number}.example", replies={**replies, "greeting": f"220{words[:1].strip('-')}"}
            )
            self.relay(f"x@d{number}.example")
            self.server.advance(1)
            self.assertEqual(len(remote.mails), 1, words)

    def test_the_space_behind_the_code_may_be_missing(self) -> None:
        """§4.2.1"""
        replies = {"greeting": "220", "MAIL": "250", "RCPT": "250", "DATA": "354", "content": "250"}
        remote = self.server.remote("else.example", replies=replies)
        self.relay()
        self.assertEqual(len(remote.mails), 1)

    def test_each_reply_is_waited_for(self) -> None:
        """§4.3.1"""
        said = ("EHLO mx.isp.example", f"MAIL FROM:<{JOE}>", f"RCPT TO:<{BOB}>", "DATA")
        for count, end in enumerate(ENDS[:-1]):
            remote = self.server.remote(f"d{count}.example", extensions=(), silent={end})
            self.relay(f"bob@d{count}.example")
            self.server.advance(100)
            self.assertEqual(remote.commands, [one.replace("else", f"d{count}") for one in said[:count]], end)

    # §4.5: time-outs, retries

    def test_timeouts_are_those_of_each_command(self) -> None:
        """§4.5.3.2"""
        for end, seconds in zip(ENDS, (300, 300, 300, 300, 120, 600), strict=True):
            remote = self.server.remote(f"{end.lower()}.example", extensions=(), silent={end})
            self.relay(f"bob@{end.lower()}.example")
            self.server.advance(seconds - 5)
            self.assertEqual(self.outcome(Deferred)[-1:], [] if end == "greeting" else self.outcome(Deferred)[-1:])
            self.assertNotIn(f"bob@{end.lower()}.example", self.outcome(Deferred), end)
            self.server.advance(10)
            self.assertIn(f"bob@{end.lower()}.example", self.outcome(Deferred), end)
            remote.behaviour.silent = frozenset()

    @configured('[queue]\nretry = ["30m", "1h"]')
    def test_retries_wait_as_they_are_configured(self) -> None:
        """§4.5.4.1"""
        remote = self.server.remote("else.example", failure="refused")
        self.relay()
        self.server.advance(30 * 60 - 1)
        self.assertEqual((remote.attempts, len(self.server.queue())), (1, 1))
        self.server.advance(7 * 60)
        self.assertEqual(remote.attempts, 2)
        self.server.advance(60 * 60 - 7 * 60)
        self.assertEqual(remote.attempts, 2)
        remote.recover()
        self.server.advance(30 * 60)
        self.assertEqual((remote.attempts, remote.taken), (3, [(JOE, BOB)]))

    def test_a_refused_mail_command_is_not_remembered(self) -> None:
        """§4.5.4.1"""
        remote = self.server.remote("else.example", replies={"MAIL": ["550 5.7.1 no"]})
        self.relay(sender=ANNA)
        self.relay(sender=ANNA)
        self.server.advance(1)
        self.assertEqual((self.outcome(Bounced), remote.taken), ([BOB], [(ANNA, BOB)]))

    def test_a_lost_connection_is_a_temporary_failure(self) -> None:
        """§3.8"""
        remotes: list[Remote] = []
        for end in ("greeting", "EHLO", "MAIL", "RCPT", "DATA", "body", "content"):
            remotes.append(self.server.remote(f"{end.lower()}.example", disconnect={end}))
            self.relay(f"bob@{end.lower()}.example")
        self.server.advance(1)
        self.assertEqual((len(self.outcome(Deferred)), self.outcome(Bounced)), (7, []))
        for remote in remotes:
            remote.behaviour.disconnect = frozenset()
        self.server.advance(3600)
        self.assertEqual([len(remote.mails) for remote in remotes], [1] * 7)
