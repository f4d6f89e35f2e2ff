"""RFC 5321: transactions, addresses, content, trace and sizes (§3.3, §3.7.2, §3.9, §4.1.1, §4.1.2, §4.2.5, §4.4, §4.5).
Each test begins with the section that it is about; ``docs/rfc5321.md`` has the rule."""

from __future__ import annotations

import re
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Any

from tests.conformance.case import JOE, RELAYED, SECOND, TEXT, RuleCase, codes
from tests.testing.world import ANNA, BERT, BOB
from twisted_mta.mail.events import Accepted, Delivered
from twisted_mta.mail.status import Reply
from twisted_mta.policy.interfaces import IPolicy, Peer, Policy, Transaction
from twisted_mta.testing.case import configured

DOT_END = b"\r\n.\r\n"


class ChoosyPolicy(Policy):
    """Refuses senders, and the content of messages, for now or for good, as they ask for."""

    async def mail(self, peer: Peer, transaction: Transaction) -> Reply | None:
        return self._judge(transaction.sender, "for-now@", "for-good@")

    async def content(self, peer: Peer, transaction: Transaction, head: Any) -> Reply | None:
        return self._judge(transaction.sender, "content-for-now@", "content-for-good@")

    def _judge(self, sender: str, for_now: str, for_good: str) -> Reply | None:
        if sender.startswith(for_now):
            return Reply(450, "4.7.1", "Not now")
        return Reply(550, "5.7.1", "Never") if sender.startswith(for_good) else None


class EnvelopeTests(RuleCase):
    """MAIL and RCPT."""

    def make_policies(self) -> Sequence[IPolicy]:
        return [ChoosyPolicy()]

    def test_a_refused_sender_learns_for_how_long(self) -> None:
        """§3.3"""
        client = self.client()
        for sender, kind in (("for-now@far.example", 4), ("for-good@far.example", 5), (f"{'x' * 65}@far.example", 5)):
            self.assertEqual(client.ask(f"MAIL FROM:<{sender}>").code // 100, kind, sender)

    def test_source_routes_are_recognized(self) -> None:
        """§4.1.1.3"""
        for route in ("@a.example:", "@a.example,@b.example:", "@isp.example:", "@[192.0.2.1],@b.example:"):
            self.assertEqual(self.hand_in(self.begun(f"{route}{ANNA}")).code, 250, route)
        self.assertEqual(len(self.arrived()), 4)

    def test_source_routes_of_relayed_mail_are_no_surprise(self) -> None:
        """§3.3"""
        remote = self.server.remote("else.example")
        client = self.client("EHLO client.example", f"MAIL FROM:<{JOE}>", address=RELAYED)
        self.assertEqual(client.ask(f"RCPT TO:<@a.example,@b.example:{BOB}>").code, 550)
        self.assertEqual((client.ask(f"RCPT TO:<{BOB}>").code, self.hand_in(client).code), (250, 250))
        self.server.advance(1)
        self.assertEqual(remote.taken, [(JOE, BOB)])

    def test_route_names_stay_out_of_the_reverse_path(self) -> None:
        """§4.1.1.3"""
        remote = self.server.remote("else.example")
        self.assertEqual(self.hand_in(self.begun(f"@mx.isp.example:{ANNA}")).code, 250)
        self.assertEqual(self.hand_in(self.begun(ANNA, sender=f"@a.example,@b.example:{JOE}")).code, 250)
        self.assertEqual(self.hand_in(self.begun(BOB, sender=f"@a.example:{JOE}", address=RELAYED)).code, 250)
        self.assertEqual([one.split(b"\r\n")[0] for one in self.arrived()], [b"Return-Path: <%b>" % JOE.encode()] * 2)
        self.assertEqual(remote.taken, [(JOE, BOB)])

    def test_quoted_forms_are_equal(self) -> None:
        """§4.1.2"""
        self.server.add_user('"a b"@isp.example')
        for path in (ANNA, '"anna"@isp.example', '"an\\na"@isp.example', '"\\a\\n\\n\\a"@ISP.example'):
            self.assertEqual(self.hand_in(self.begun(path)).code, 250, path)
        for path in ('"a b"@isp.example', '"a\\ b"@isp.example', '"\\a b"@isp.example'):
            self.assertEqual(self.hand_in(self.begun(path)).code, 250, path)
        self.server.advance(1)
        self.assertEqual({event.recipient for event in self.server.told(Delivered)}, {ANNA, '"a b"@isp.example'})
        self.assertEqual(len(self.server.told(Delivered)), 7)

    def test_no_mailbox_needs_control_characters(self) -> None:
        """§4.1.2"""
        for name in ("an\x01na", '"an\x01na"', "an\x7fna", '"an\tna"', "an\r\nna"):
            with self.assertRaises(ValueError, msg=name):
                self.server.add_user(f"{name}@isp.example")
            client = self.client("EHLO client.example", f"MAIL FROM:<{JOE}>")
            self.assertEqual(client.say(f"RCPT TO:<{name}@isp.example>")[0].code // 100, 5)

    def test_wrong_octets_are_501(self) -> None:
        """§4.1.2"""
        client = self.client("EHLO client.example", f"MAIL FROM:<{JOE}>")
        for line in (
            b"EHLO \xe4.example",
            b"EHLO a\x01b",
            b"RCPT TO:<an\x01na@isp.example>",
            b"RCPT TO:<anna@isp\x7f.example>",
            b"RCPT TO:<anna@isp_.example>",
            b"RSET \0",
            b"NOOP \xff",
            b"MAIL FROM:<a\rb@far.example>",
            b"DATA\0",
        ):
            self.assertEqual(client.ask(line).code, 501, line)
        self.assertEqual(client.ask(f"RCPT TO:<{ANNA}>").code, 250)

    def test_postmaster(self) -> None:
        """§4.5.1"""
        self.server.add_domain(SECOND, "acme")
        for name in ("postmaster@isp.example", f"postmaster@{SECOND}"):
            for local in ("postmaster", "Postmaster", "POSTMASTER"):
                self.assertEqual(self.hand_in(self.begun(name.replace("postmaster", local))).code, 250)
            self.assertEqual(len(self.arrived(name)), 3)

    @configured('[local]\npostmaster = "anna@isp.example"')
    def test_postmaster_without_a_domain(self) -> None:
        """§4.5.1"""
        for local in ("postmaster", "Postmaster", "POSTMASTER"):
            self.assertEqual(self.hand_in(self.begun(local)).code, 250)
        self.assertEqual(len(self.arrived()), 3)

    def test_refused_content_is_never_delivered(self) -> None:
        """§4.2.5"""
        remote = self.server.remote("else.example")
        for name, code in (("content-for-now", 450), ("content-for-good", 550)):
            client = self.begun(ANNA, BOB, sender=f"{name}@far.example", address=RELAYED)
            self.assertEqual(self.hand_in(client).code, code)
        self.server.advance(86400)
        self.assertEqual((self.arrived(), remote.attempts, self.server.queue()), ([], 0, []))


class SizeTests(RuleCase):
    """§4.5.3.1: what everybody has to take."""

    def test_local_parts_domains_and_paths(self) -> None:
        """§4.5.3.1"""
        longest = f"{'l' * 64}@isp.example"
        self.server.add_user(longest)
        domain = ".".join(["d" * 60] * 4) + ".example"
        sender = f"a@{domain}"
        self.assertEqual(len(sender), 253)
        sender = f"{'a' * 2}@{domain}"
        client = self.client(f"EHLO {domain}.xx", f"MAIL FROM:<{sender}>", f"RCPT TO:<{longest}>")
        self.assertEqual((len(f"{domain}.xx"), len(f"<{sender}>")), (254, 256))
        self.assertEqual(self.hand_in(client).code, 250)
        self.assertIn(sender.encode(), self.arrived(longest)[0])

    def test_command_lines(self) -> None:
        """§4.5.3.1"""
        routes = ",".join(["@" + "r" * 60 + ".example"] * 6)
        line = f"RCPT TO:<{routes}:{ANNA}>"
        line += " " * (510 - len(line))
        client = self.client("EHLO client.example", f"MAIL FROM:<{JOE}>", line)
        self.assertEqual(self.hand_in(client).code, 250)

    def test_text_lines(self) -> None:
        """§4.5.3.1"""
        lines = [b"x" * 998, b"." + b"x" * 997, b"\xe4" * 998]
        body = b"".join(line + b"\r\n" for line in lines)
        self.assertEqual(self.hand_in(self.begun(), TEXT + body.replace(b"\r\n.", b"\r\n..")).code, 250)
        self.assertTrue(self.arrived()[0].endswith(body))

    def test_content(self) -> None:
        """§4.5.3.1"""
        body = b"".join(b"%06d .......................................................\r\n" % n for n in range(1200))
        self.assertGreater(len(body), 1 << 16)
        self.assertEqual(self.hand_in(self.begun(), TEXT + body).code, 250)
        self.assertTrue(self.arrived()[0].endswith(body))

    @configured("[smtp]\nrecipients = 100")
    def test_recipients(self) -> None:
        """§4.5.3.1.8"""
        client = self.begun(*(f"anna+{n}@isp.example" for n in range(100)))
        self.assertEqual(codes(client.say(*[f"RCPT TO:<{BERT}>"] * 3)), [452] * 3)
        self.assertEqual(self.hand_in(client).code, 250)
        self.server.advance(1)
        self.assertEqual(len(self.server.told(Delivered)), 100)
        self.assertEqual(self.arrived(BERT), [])

    @configured("[smtp]\nrecipients = 100")
    def test_one_recipient_too_many_is_452(self) -> None:
        """§4.5.3.1.10"""
        client = self.begun(*(f"anna+{n}@isp.example" for n in range(100)))
        self.assertEqual(client.ask(f"RCPT TO:<{BERT}>").code, 452)


class ContentTests(RuleCase):
    """DATA."""

    def test_ok_or_failure(self) -> None:
        """§4.1.1.4"""
        self.assertEqual(self.hand_in(self.begun()).code, 250)
        self.assertEqual(self.hand_in(self.begun(), b"X: y\0\r\n").code // 100, 5)
        self.assertEqual(self.hand_in(self.begun(), b"Received: by x\r\n" * 101).code // 100, 5)
        self.assertEqual(len(self.arrived()), 1)

    def test_no_line_is_added(self) -> None:
        """§4.1.1.4"""
        bodies = (b"", b"\r\n", b"x\r\n", b"x\r\n\r\n", b"\r\n\r\n\r\n", b" \r\n", b"..\r\n")
        for body in bodies:
            self.assertEqual(self.hand_in(self.begun(), TEXT + body).code, 250)
        wanted = [b"Hello.\r\n" + body.replace(b"..", b".") for body in bodies]
        self.assertEqual(sorted(self.fields_and_rest(message)[1] for message in self.arrived()), sorted(wanted))

    def test_a_line_feed_ends_no_line(self) -> None:
        """§4.1.1.4"""
        for mode in ("reject", "replace"):
            self.server.reload(f'[smtp]\nbare_newline = "{mode}"')
            client = self.client()
            self.assertEqual(client.send_raw(b"NOOP\n"), [])
            self.assertEqual(client.send_raw(b"RSET\n"), [])
            self.assertEqual(codes(client.send_raw(b"\r\n")), [501])
            client = self.begun()
            client.ask("DATA")
            self.assertEqual(client.send_raw(b"Subject: x\n\nHello\n"), [])
            self.assertEqual(len(client.send_raw(DOT_END)), 1)

    def test_line_feed_dot_line_feed_is_no_end(self) -> None:
        """§4.1.1.4"""
        for mode in ("reject", "replace"):
            self.server.reload(f'[smtp]\nbare_newline = "{mode}"')
            for trap in (
                b"\n.\n",
                b"\r\n.\n",
                b"\n.\r\n",
                b"\r.\r",
                b"\r\n.\r",
                b"\n.\r",
                b"\r.\r\n",
                b"\r\r\n.\r\r\n",
            ):
                client = self.begun()
                client.ask("DATA")
                smuggled = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<%b>\r\nDATA\r\nSubject: smuggled\r\n" % ANNA.encode()
                self.assertEqual(client.send_raw(TEXT[:-2] + trap + smuggled), [], trap)
                self.assertEqual(len(client.send_raw(DOT_END)), 1, trap)
        self.assertFalse([one for one in self.server.told(Accepted) if one.sender != JOE])

    def test_later_errors_are_mailed(self) -> None:
        """§4.1.1.4"""
        self.server.remote("else.example", replies={"RCPT": "550 5.1.1 no such user"})
        self.assertEqual(self.hand_in(self.begun(BOB, sender=ANNA, address=RELAYED)).code, 250)
        (report,) = self.arrived()
        self.assertIn(b"Final-Recipient: rfc822; %b\r\n" % BOB.encode(), report)

    def test_every_ascii_character_arrives(self) -> None:
        """§4.5.2"""
        odd = bytes(code for code in range(1, 128) if code not in b"\r\n")
        body = odd + b"\r\n." + odd + b"\r\n..\r\n.\t\r\n. \r\n...\r\n"
        self.assertEqual(self.hand_in(self.begun(), TEXT + body.replace(b"\r\n.", b"\r\n..")).code, 250)
        self.assertTrue(self.arrived()[0].endswith(b"Hello.\r\n" + body))

    def test_resent_fields_are_not_judged(self) -> None:
        """§3.3"""
        for fields in (
            b"Resent-From: a@b.example\r\n" * 2,
            b"Resent-To: a@b.example\r\n",
            b"Resent-To: a@b.example\r\nResent-Date: x\r\n" * 3 + b"Resent-From: c@d.example\r\n",
        ):
            self.assertEqual(self.hand_in(self.begun(), fields + TEXT).code, 250)

    def test_trace_fields_are_not_judged(self) -> None:
        """§3.7.2"""
        for field in (b"Received:", b"Received: \xff\xfe", b"Received: from by with id;;; ,", b"Return-Path: nonsense"):
            self.assertEqual(self.hand_in(self.begun(), field + b"\r\n" + TEXT).code, 250, field)

    def test_addresses_in_the_header_are_not_counted(self) -> None:
        """§4.5.3.1.8"""
        to = b"To: " + b",\r\n ".join(b"user%d@far.example" % n for n in range(2000)) + b"\r\n"
        self.assertEqual(self.hand_in(self.begun(), to + TEXT).code, 250)

    def test_an_alias_leaves_the_header_alone(self) -> None:
        """§3.9"""
        self.server.add_alias("team@isp.example", ANNA, BERT)
        fields = b"From: x@y.example\r\nSender: z@y.example\r\nTo: team@isp.example\r\n"
        self.assertEqual(self.hand_in(self.begun("team@isp.example"), fields + TEXT).code, 250)
        for user in (ANNA, BERT):
            (message,) = self.arrived(user)
            self.assertTrue(message.endswith(b"\r\n" + fields + TEXT))
            self.assertTrue(message.startswith(b"Return-Path: <%b>\r\n" % JOE.encode()))


RECEIVED = re.compile(
    rb"Received: from client\.example \((?:[a-z.-]+ )?\[203\.0\.113\.9\]\)"
    rb" by mx\.isp\.example with ESMTP id [A-Za-z0-9]+(?: for <[^<> ]+>)?;"
    rb" (?P<date>(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4})"
)


class TraceTests(RuleCase):
    """§4.4."""

    OLD = (
        b"Received: from c by d; x\r\nReceived: from a by\r\n\tb (odd; 1 Jan 99)\r\nSubject: old\r\nReceived: last\r\n"
    )

    def received(self, message: bytes) -> list[bytes]:
        return [field for field in self.fields_and_rest(message)[0] if field.startswith(b"Received:")]

    def test_a_received_field_in_its_form(self) -> None:
        """§4.4"""
        self.hand_in(self.begun())
        (field,) = self.received(self.arrived()[0])
        match = RECEIVED.fullmatch(field)
        assert match is not None, field
        self.assertEqual(
            parsedate_to_datetime(match["date"].decode()).timestamp() // 60, self.server.told(Accepted)[0].time // 60
        )

    def test_from_has_name_and_address(self) -> None:
        """§4.4"""
        client = self.client(
            "EHLO [IPv6:2001:db8::1]", f"MAIL FROM:<{JOE}>", f"RCPT TO:<{ANNA}>", address="2001:db8::1"
        )
        self.hand_in(client)
        (field,) = self.received(self.arrived()[0])
        self.assertTrue(field.startswith(b"Received: from [IPv6:2001:db8::1] (unknown [IPv6:2001:db8::1]) by "), field)

    def test_for_has_one_path_at_most(self) -> None:
        """§4.4"""
        fields = []
        for recipients in ((ANNA,), (ANNA, BERT)):
            remote = self.server.maildir(ANNA)
            self.hand_in(self.begun(*recipients))
            fields += [
                self.received(message)[0] for message in self.arrived() if message.replace(b"\r\n", b"\n") not in remote
            ]
        one, two = fields
        self.assertEqual((one.count(b" for "), two.count(b" for ")), (1, 0))
        self.assertIn(b" for <anna@isp.example>;", one)

    def test_received_is_prepended_and_the_others_stay(self) -> None:
        """§4.4"""
        self.hand_in(self.begun(), self.OLD + TEXT)
        (message,) = self.arrived()
        self.assertTrue(message.endswith(self.OLD + TEXT))
        before = self.fields_and_rest(message.removesuffix(self.OLD + TEXT) + b"\r\n")[0]
        self.assertEqual([field.split(b":")[0] for field in before], [b"Return-Path", b"Delivered-To", b"Received"])

    def test_return_path(self) -> None:
        """§4.4"""
        senders = (JOE, '"odd, >sender"@far.example', "")
        for sender in senders:
            self.hand_in(self.begun(sender=sender))
        first = sorted(message.split(b"\r\n")[0].decode() for message in self.arrived())
        self.assertEqual(first, sorted(f"Return-Path: <{sender}>" for sender in senders))

    def test_one_return_path(self) -> None:
        """§4.4"""
        self.hand_in(
            self.begun(), b"Return-Path: <old@far.example>\r\nX: y\r\nReturn-path: <older@far.example>\r\n" + TEXT
        )
        self.assertEqual(self.arrived()[0].lower().count(b"return-path:"), 1)

    def test_part_of_the_recipients_is_ok_and_a_report(self) -> None:
        """§4.4"""
        self.server.remote("else.example", replies={"RCPT:bob@else.example": "550 5.1.1 no"})
        self.server.remote("picky.example", replies={"MAIL": "554 5.7.1 not from you"})
        recipients = (BERT, BOB, "bill@else.example", "x@picky.example")
        client = self.begun(*recipients, sender=ANNA, address=RELAYED)
        self.assertEqual(self.hand_in(client).code, 250)
        reports = self.arrived()
        failed = [line for one in reports for line in one.split(b"\r\n") if line.startswith(b"Final-Recipient:")]
        self.assertEqual(
            sorted(failed), [b"Final-Recipient: rfc822; bob@else.example", b"Final-Recipient: rfc822; x@picky.example"]
        )
        self.assertEqual(len(self.arrived(BERT)), 1)

    def test_reports_go_to_the_reverse_path_and_have_none(self) -> None:
        """§4.4"""
        self.server.remote("else.example", replies={"RCPT": "550 5.1.1 no"})
        far = self.server.remote("far.example")
        content = b"From: other@isp.example\r\nReply-To: bert@isp.example\r\nReturn-Path: <anna@isp.example>\r\n" + TEXT
        self.hand_in(self.begun(BOB, sender=JOE, address=RELAYED), content)
        self.server.advance(5)
        self.assertEqual(far.taken, [("", JOE)])
        self.assertIn("MAIL FROM:<>", " ".join(far.commands))
        self.assertEqual((self.arrived(), self.arrived(BERT)), ([], []))

    def test_loops_are_stopped(self) -> None:
        """§6.3"""
        self.assertEqual(self.hand_in(self.begun(), b"Received: x\r\n" * 100 + TEXT).code, 250)
        refused = self.hand_in(self.begun(), b"Received: x\r\n" * 101 + TEXT)
        self.assertEqual((refused.code, refused.enhanced), (554, "5.4.6"))
