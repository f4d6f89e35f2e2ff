"""RFC 5321: sessions, the order of commands, and the form of replies (§3.1, §3.2, §3.5, §3.8, §4.1.1, §4.1.4, §4.2,
§4.3).  Each test begins with the section that it is about; ``docs/rfc5321.md`` has the rule."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from tests.conformance.case import JOE, RELAYED, STRANGER, TEXT, ListeningClient, RuleCase, codes
from tests.testing.world import ANNA
from twisted_mta.config import ConfigError
from twisted_mta.mail.events import Disconnected
from twisted_mta.mail.status import Reply
from twisted_mta.policy.interfaces import IPolicy, Peer, Policy
from twisted_mta.testing.settings import layered
from twisted_mta.wire.verbs import VERBS

REQUIRED = ("EHLO", "HELO", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "QUIT", "VRFY")  # §4.5.1
KEYWORDS = {"BDAT": "CHUNKING"}  # of commands whose keyword has another name
ARGUMENTS = {
    **dict.fromkeys(("EHLO", "HELO"), " client.example"),
    "MAIL": f" FROM:<{JOE}>",
    "RCPT": f" TO:<{ANNA}>",
    "VRFY": " anna",
    "EXPN": " anna",
    "BDAT": " 0",
    "AUTH": " PLAIN",
    "ETRN": " far.example",
}


def line(verb: str) -> str:
    """A command that is well formed."""
    return verb + ARGUMENTS.get(verb, "")


class NobodyPolicy(Policy):
    """Refuses everybody at the greeting."""

    async def connect(self, peer: Peer) -> Reply | None:
        return Reply(554, "5.3.2", "No mail is taken here: see https://isp.example/")


class RefusedSessionTests(RuleCase):
    """A server that greets with 554."""

    def make_policies(self) -> Sequence[IPolicy]:
        return [NobodyPolicy()]

    def test_554_waits_for_quit(self) -> None:
        """§3.1"""
        client = self.server.connect("mx", STRANGER)
        self.assertEqual(codes(client.replies), [554])
        said = client.say(*(line(verb) for verb in REQUIRED if verb != "QUIT"))
        self.assertEqual((codes(said), client.closed), ([503] * 8, False))
        self.server.advance(60)
        self.assertFalse(client.closed)
        self.assertEqual((client.quit().code, client.closed), (221, True))


class HelloTests(RuleCase):
    """EHLO and HELO."""

    def test_helo_gets_a_plain_reply(self) -> None:
        """§3.2"""
        client = self.client("HELO client.example")
        self.assertEqual(client.replies[-1], Reply(250, "", "mx.isp.example"))

    def test_helo_is_enough_for_a_transaction(self) -> None:
        """§4.1.1.1"""
        client = self.client("HELO client.example", f"MAIL FROM:<{JOE}>", f"RCPT TO:<{ANNA}>")
        self.assertEqual(self.hand_in(client).code, 250)
        self.assertIn(b" with SMTP id ", self.arrived()[0])

    def test_no_transaction_without_hello(self) -> None:
        """§4.1.4"""
        client = self.server.connect("mx", STRANGER)
        self.assertEqual(codes(client.say(line("MAIL"), line("RCPT"), "DATA")), [503, 503, 503])

    def test_parameters_in_any_case(self) -> None:
        """§4.1.1.1"""
        client = self.client()
        for command in (f"mail from:<{JOE}> size=100 Body=8bitmime", f"Rcpt To:<{ANNA}> notify=Never", "data"):
            self.assertTrue(client.ask(command).positive, command)

    def test_every_optional_command_is_listed(self) -> None:
        """§4.1.1.1"""
        for listener in ("mx", "submission", "submissions"):
            for verb in sorted(name.decode() for name in VERBS):
                client = self.client(listener=listener)
                listed = {text.split()[0] for text in client.replies[-1].text.split("\n")[1:]}
                if verb not in REQUIRED and not verb.startswith("X") and KEYWORDS.get(verb, verb) not in listed:
                    self.assertGreaterEqual(client.ask(line(verb)).code, 500, f"{verb} is served, and not listed")
                client.drop()

    def test_everything_listed_is_served(self) -> None:
        """§4.2.4"""
        commands = {KEYWORDS.get(verb, verb): verb for verb in (name.decode() for name in VERBS)}
        for listener in ("mx", "submissions"):
            words = [text.split()[0] for text in self.client(listener=listener).replies[-1].text.split("\n")[1:]]
            self.assertIn("HELP", words)
            for word in words:
                if word in commands:
                    reply = self.client(listener=listener).ask(line(commands[word]))
                    self.assertNotIn(reply.code, (500, 502), word)

    def test_ehlo_is_a_reset(self) -> None:
        """§4.1.4"""
        for prefix in ((line("MAIL"),), (line("MAIL"), line("RCPT")), (line("MAIL"), line("RCPT"), "BDAT 2\r\n")):
            client = self.client()
            client.say(*prefix)
            self.assertEqual(client.ask("EHLO again.example").code, 250)
            self.assertEqual(codes(client.say(line("RCPT"), "DATA", line("MAIL"))), [503, 503, 250])

    def test_a_refused_ehlo_changes_nothing(self) -> None:
        """§4.1.4"""
        client = self.client("EHLO client.example", line("MAIL"), line("RCPT"))
        for name in ("", " a b", " \u00e4", " [192.0.2.999]", " [198.51.100.1]", " mx.isp.example", " \x01", " -x-"):
            self.assertIn(client.ask(f"EHLO{name}").code, (500, 501, 502, 550), name)
        self.assertEqual(self.hand_in(client).code, 250)

    def test_a_name_of_another_address_is_let_pass(self) -> None:
        """§4.1.4"""
        self.server.resolver.records["liar.example"] = {"A": ["198.51.100.77"]}
        client = self.client("EHLO liar.example", line("MAIL"), line("RCPT"))
        self.assertEqual(self.hand_in(client).code, 250)

    def test_our_name_has_letters_digits_and_hyphens(self) -> None:
        """§4.1.2"""
        for name in ("mx_1.isp.example", "mx+.isp.example", "-mx.isp.example"):
            with self.assertRaises(ConfigError, msg=name):
                layered(self.server.folder, f'hostname = "{name}"')


class VerifyTests(RuleCase):
    """VRFY and EXPN, whichever of their answers is chosen."""

    def test_250_means_verified(self) -> None:
        """§3.5.3"""
        for verb in ("VRFY", "EXPN"):
            for name in ("nobody", "nobody@isp.example", "bob@else.example", "<nobody@isp.example>"):
                self.assertNotEqual(self.client().ask(f"{verb} {name}").code, 250, name)

    def test_local_mailboxes_are_user_names(self) -> None:
        """§3.5.1"""
        for address in (STRANGER, RELAYED):
            for name in (ANNA, "anna", f"<{ANNA}>"):
                self.assertIn(self.client(address=address).ask(f"VRFY {name}").code, (250, 252), name)

    def test_normal_replies_name_the_mailbox(self) -> None:
        """§3.5.2"""
        for verb in ("VRFY", "EXPN"):
            for address in (STRANGER, RELAYED):
                reply = self.client(address=address).ask(f"{verb} {ANNA}")
                for text in reply.text.split("\n") if reply.code in (250, 551) else ():
                    self.assertRegex(text, r"^([^<>@]+ )?<[^<>@:,]+@[a-z0-9.-]+>$", verb)

    def test_expn_is_listed_if_served(self) -> None:
        """§3.5.2"""
        for address in (STRANGER, RELAYED):
            client = self.client(address=address)
            listed = "\nEXPN" in client.replies[-1].text
            self.assertEqual(listed, client.ask(f"EXPN {ANNA}").code not in (500, 502, 550))


class OrderTests(RuleCase):
    """Commands out of order, and the states that they leave."""

    def test_rcpt_before_mail(self) -> None:
        """§3.3"""
        self.assertEqual(self.client().ask(line("RCPT")).code, 503)

    def test_out_of_order_is_503_and_changes_nothing(self) -> None:
        """§4.1.4"""
        client = self.client()
        for wrong in ("RCPT", "DATA"):
            self.assertEqual(client.ask(line(wrong)).code, 503)
        client.ask(line("MAIL"))
        self.assertEqual(client.ask("MAIL FROM:<other@far.example>").code, 503)
        self.assertEqual(client.ask("DATA").code, 554)
        client.ask(line("RCPT"))
        self.assertEqual(client.ask("MAIL FROM:<other@far.example>").code, 503)
        self.assertEqual(self.hand_in(client).code, 250)
        self.assertIn(f"Return-Path: <{JOE}>".encode(), self.arrived()[0])

    def test_a_bad_mail_is_501_and_changes_nothing(self) -> None:
        """§4.1.4"""
        client = self.client()
        for argument in ("", " FROM", " FROM:", " FROM:a@b.example", " FROM:<a@b.example", " TO:<a@b.example>"):
            self.assertEqual(client.ask(f"MAIL{argument}").code, 501, argument)
        for path in ("a", "a@", "@b.example", "a@b@c.example", "a b@c.example", "a..b@c.example", "a@b..example"):
            self.assertEqual(client.ask(f"MAIL FROM:<{path}>").code, 501, path)
        self.assertEqual(codes(client.say(line("RCPT"), line("MAIL"))), [503, 250])

    def test_rset_discards_everything(self) -> None:
        """§4.1.1.5"""
        for commands in (
            (),
            (line("MAIL"),),
            (line("MAIL"), line("RCPT")),
            (line("MAIL"), line("RCPT"), "BDAT 3\r\nX"),
        ):
            client = self.client()
            client.say(*commands)
            self.assertEqual(codes(client.say("RSET", line("RCPT"), "DATA", line("MAIL"))), [250, 503, 503, 250])
        self.assertEqual(self.server.queue(), [])

    def test_rset_never_closes(self) -> None:
        """§4.1.1.5"""
        client = self.server.connect("mx", STRANGER)
        for commands in ((), (line("EHLO"),), (line("MAIL"),), (line("MAIL"), line("RCPT")), ("FOO",)):
            client.say(*commands)
            self.assertEqual((codes(client.say("RSET", "RSET")), client.closed), ([250, 250], False))

    def test_all_required_commands(self) -> None:
        """§4.5.1"""
        for verb in REQUIRED:
            self.assertNotIn(self.begun().ask(line(verb)).code, (500, 502), verb)


class ReplyTests(RuleCase):
    """One command, one reply, of the right form."""

    def test_one_reply_each(self) -> None:
        """§4.2"""
        lines = [line(name.decode()) for name in VERBS if name not in (b"QUIT", b"STARTTLS", b"BDAT", b"DATA", b"AUTH")]
        lines += ["FOO", "", "NOOP x", "RSET x", "MAIL", "EHLO", "HELP MAIL", "VRFY", "x" * 600, "MAIL FROM:<\u00e4>"]
        for address in (STRANGER, RELAYED):
            client = self.client(address=address)
            self.assertEqual(len(client.say(*lines)), len(lines))
            self.assertEqual([len(client.say(one)) for one in lines], [1] * len(lines))

    def test_the_form_of_replies(self) -> None:
        """§4.3.2"""
        heard = self.hear_everything()
        self.assertGreater(len(heard), 60)
        for said in heard:
            self.assertRegex(said, rb"^[2-5][0-5][0-9][ -][\t -~]*$")

    def test_the_first_digit_of_replies(self) -> None:
        """§4.2"""
        self.assertLessEqual({said[:1] for said in self.hear_everything()}, {b"2", b"3", b"4", b"5"})

    def test_lines_of_one_reply_have_one_code(self) -> None:
        """§4.2.1"""
        heard = self.hear_everything()
        several = [(one, after) for one, after in itertools.pairwise(heard) if one[3:4] == b"-"]
        self.assertGreater(len(several), 5)
        for one, after in several:
            self.assertEqual(one[:3], after[:3])

    def test_reply_lines_are_short(self) -> None:
        """§4.5.3.1"""
        self.assertLessEqual(max(map(len, self.hear_everything())), 510)

    def test_codes_mean_what_they_say(self) -> None:
        """§4.3.1"""
        client = self.client()
        for command, code in (
            ("NOOP", 250),
            ("HELP", 214),
            (f"MAIL FROM:<{JOE}> FOO=BAR", 555),
            (line("MAIL"), 250),
            ("RCPT TO:<nobody@isp.example>", 550),
            ("RCPT TO:<bob@else.example>", 550),
            (line("RCPT"), 250),
            ("DATA", 354),
        ):
            self.assertEqual(client.ask(command).code, code, command)
        self.assertEqual(codes(client.send_raw(TEXT + b".\r\n")), [250])
        self.assertEqual(client.quit().code, 221)

    def test_the_greeting_names_us(self) -> None:
        """§4.2"""
        self.assertEqual(self.server.connect("mx", STRANGER).replies[0].text.split()[0], "mx.isp.example")

    def hear_everything(self) -> list[bytes]:
        """The lines of the replies to all sorts of commands."""
        long = "x" * 255
        lines = [line(name.decode()) for name in VERBS if name not in (b"QUIT", b"DATA", b"STARTTLS")]
        lines += [f"{verb} {long}" for verb in ("EHLO", "MAIL", "RCPT", "DATA", "BDAT", "AUTH", "VRFY", "EXPN", "X")]
        lines += [f"MAIL FROM:<{JOE}> {long}={long}", f"MAIL FROM:<{'x' * 64}@{'y.' * 90}example>", "RSET"]
        lines += [line("MAIL"), f"RCPT TO:<{'x' * 64}@{'y.' * 90}example>", f"RCPT TO:<{ANNA}> {long}={long}"]
        lines += [f"RCPT TO:<nobody-{'x' * 50}@isp.example>", "\x01\x7f", "NOOP \x01", "EHLO \x1b[1m", "FOO\0", "\t"]
        heard = b""
        for listener in ("mx", "submission"):
            factory = self.server.parts.factories[listener]
            client = ListeningClient(self.server.clock.flush)
            self.server.clock.accept(client, factory.listening(), (STRANGER, 4025), factory.listener.port)
            client.say("EHLO client.example", *lines)
            for one in lines:
                client.say(one)
            client.say("RSET", line("MAIL"), line("RCPT"), "DATA")
            client.send_raw(TEXT + b".\r\n")
            client.say("QUIT")
            self.assertTrue(client.closed)
            heard += client.heard
        self.assertTrue(heard.endswith(b"\r\n"))
        self.assertIsNone(re.search(rb"(?<!\r)\n|\r(?!\n)", heard))
        return heard[:-2].split(b"\r\n")


class EndTests(RuleCase):
    """How sessions end."""

    def test_quit_is_221_and_the_end(self) -> None:
        """§4.1.1.10"""
        for prefix in ((), (line("EHLO"),), (line("EHLO"), line("MAIL"), line("RCPT"))):
            client = self.server.connect("mx", STRANGER)
            client.say(*prefix)
            self.assertEqual((client.quit().code, client.closed), (221, True))
        self.assertEqual(self.server.queue(), [])

    def test_errors_do_not_close(self) -> None:
        """§4.1.1.10"""
        client = self.client()
        for wrong in ("FOO", "MAIL", "RCPT TO:<nobody@isp.example>", "DATA", "\u00e4", "x" * 1000, "GRÜSS GOTT"):
            self.assertGreaterEqual(client.ask(wrong).code, 500)
            self.assertFalse(client.closed, wrong)
        self.assertEqual(client.ask("NOOP").code, 250)

    def test_unknown_commands_are_500_and_do_not_close(self) -> None:
        """§3.8"""
        client = self.client()
        for unknown in ("FOO", "XFOO bar", "SEND FROM:<a@b.example>", "TURN", ""):
            self.assertEqual((client.ask(unknown).code, client.closed), (500, False), unknown)

    def test_closed_for_a_timeout_or_a_stop_alone(self) -> None:
        """§3.8"""
        silent = self.client()
        self.server.advance(299)
        self.assertFalse(silent.closed)
        self.server.advance(10)
        self.assertEqual((silent.replies[-1].code, silent.closed), (421, True))
        stopped = self.client()
        self.server.stop()
        self.assertEqual((stopped.replies[-1].code, stopped.closed), (421, True))
        self.assertEqual([event.reason for event in self.server.told(Disconnected)], ["timeout", "shutdown"])

    def test_a_lost_connection_cancels_what_is_pending_and_no_more(self) -> None:
        """§4.1.1.10"""
        client = self.begun()
        self.assertEqual(self.hand_in(client, b"Subject: whole\r\n\r\n").code, 250)
        client.say(line("MAIL"), line("RCPT"), "DATA")
        client.send_raw(b"Subject: cut\r\n\r\nOnly half of i")
        client.drop()
        (message,) = self.arrived()
        self.assertIn(b"Subject: whole", message)
        self.assertEqual(self.server.queue(), [])

    def test_five_minutes_of_silence_are_allowed(self) -> None:
        """§4.5.3.2.7"""
        client = self.client()
        self.server.advance(299)
        self.assertEqual(client.ask(line("MAIL")).code, 250)
        self.server.advance(299)
        self.assertEqual(client.ask(line("RCPT")).code, 250)
