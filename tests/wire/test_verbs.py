"""The grammar of commands (RFC 5321 §4.1.1, §4.1.2; RFC 1870; RFC 6152; RFC 4954)."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.wire import commands as c
from twisted_mta.wire import verbs as v


class Case(SynchronousTestCase):
    def code(self, parse: object, argument: str) -> tuple[int, str]:
        reply = self.assertRaises(c.CommandError, parse, argument).reply
        return reply.code, reply.enhanced


class MailTests(Case):
    def test_senders(self) -> None:
        for argument, sender in (
            ("FROM:<ann@isp.example>", "ann@isp.example"),
            ("from:<Ann@ISP.Example>", "Ann@isp.example"),
            ("FROM: <ann@isp.example>", "ann@isp.example"),
            ("FROM:<>", ""),
            ('FROM:<"a b>c"@isp.example>', '"a b>c"@isp.example'),
            ('FROM:<"ann"@isp.example>', "ann@isp.example"),
            ("FROM:<@a.example,@b.example:ann@isp.example>", "ann@isp.example"),
            ("FROM:<ann@[192.0.2.1]>", "ann@[192.0.2.1]"),
            ("FROM:<ann@[IPv6:2001:db8::1]>", "ann@[IPv6:2001:db8::1]"),
        ):
            self.assertEqual(v.mail(argument).sender, sender, argument)

    def test_malformed(self) -> None:
        for argument in (
            "",
            "FROM",
            "FROM:",
            "FROM:ann@isp.example",
            "FROM:<ann@isp.example",
            "FROM:ann@isp.example>",
            "FROM:<<ann@isp.example>>",
            "FROM:<ann@isp.example>>",
            "FROM:<ann@isp.example>SIZE=1",
            "FROM :<ann@isp.example>",
            "TO:<ann@isp.example>",
            "FROM:<ann>",
            "FROM:<ann @isp.example>",
            "FROM:<ann@isp.example >",
            "FROM:<@isp.example>",
            "FROM:<a@b@isp.example>",
            "FROM:<a..b@isp.example>",
            "FROM:<.a@isp.example>",
            "FROM:<ann@isp..example>",
            "FROM:<ann@-isp.example>",
            'FROM:<"ann@isp.example>',
            "FROM:<a\\b@isp.example>",
            "FROM:<@:ann@isp.example>",
            "FROM:<@a.example:>",
            "FROM:<ann@[1.2.3]>",
            "FROM:<" + "a" * 65 + "@isp.example>",
            "FROM:<a@" + "b" * 64 + ".example>",
            "FROM:<\x01@isp.example>",
        ):
            self.assertEqual(self.code(v.mail, argument)[0], 501, argument)

    def test_parameters(self) -> None:
        command = v.mail("FROM:<ann@isp.example> size=1000 BODY=8bitmime AUTH=ann+40isp.example")
        self.assertEqual((command.size, command.body), (1000, "8BITMIME"))
        self.assertEqual(command.params, {"SIZE": "1000", "BODY": "8bitmime", "AUTH": "ann+40isp.example"})
        self.assertEqual(v.mail("FROM:<a@b.example> BODY=7BIT AUTH=<>").body, "7BIT")
        self.assertEqual(v.mail("FROM:<a@b.example> BODY=binarymime").body, "BINARYMIME")

    def test_what_to_return_in_reports(self) -> None:
        command = v.mail("FROM:<ann@isp.example> ret=full envid=QQ+2B314159")
        self.assertEqual(command.params, {"RET": "full", "ENVID": "QQ+2B314159"})

    def test_parameters_refused(self) -> None:
        for words, code in (
            ("FOO=bar", 555),
            ("FOO", 555),
            ("SMTPUTF8=", 501),
            ("SMTPUTF8=yes", 501),
            ("RET=ALL", 501),
            ("RET", 501),
            ("RET=FULL RET=HDRS", 501),
            ("ENVID", 501),
            ("ENVID=a+4", 501),
            ("ENVID=a+0D+0A", 501),
            ("ENVID=" + "x" * 101, 501),
            ("NOTIFY=NEVER", 555),
            ("SIZE=1 SIZE=1", 501),
            ("SIZE=1 size=2", 501),
            ("SIZE", 501),
            ("SIZE=", 501),
            ("SIZE=-1", 501),
            ("SIZE=1x", 501),
            ("SIZE=" + "9" * 21, 501),
            ("BODY=BINARY", 501),
            ("BODY", 501),
            ("AUTH=a=b", 501),
            ("AUTH=+zz", 501),
            ("=1", 501),
            ("SIZE==1", 501),
            ("-A=1", 501),
        ):
            self.assertEqual(self.code(v.mail, f"FROM:<a@b.example> {words}"), (code, "5.5.4"), words)


class RcptTests(Case):
    def test_recipients(self) -> None:
        self.assertEqual(v.rcpt("TO:<ann@isp.example>"), c.Rcpt("ann@isp.example", False))
        self.assertEqual(v.rcpt("to: <ann@isp.example>"), c.Rcpt("ann@isp.example", False))

    def test_postmaster_needs_no_domain(self) -> None:
        for path in ("postmaster", "Postmaster", "POSTMASTER"):
            self.assertEqual(v.rcpt(f"TO:<{path}>"), c.Rcpt("postmaster", False))

    def test_reports(self) -> None:
        command = v.rcpt("TO:<bob@isp.example> notify=delay,Success ORCPT=rfc822;Bob+40old.example")
        self.assertEqual((command.notify, command.orcpt), ("SUCCESS,DELAY", "rfc822;Bob+40old.example"))
        command = v.rcpt("TO:<postmaster> NOTIFY=NEVER")
        self.assertEqual((command.recipient, command.notify, command.orcpt), ("postmaster", "NEVER", ""))

    def test_reports_about_addresses_beyond_ascii(self) -> None:
        """RFC 6533 §3: however it is value, it is kept in a form that may stand anywhere."""
        for value in ("utf-8;bj\u00f6rn@b.example", "utf-8;bj\\x{F6}rn@b.example"):
            command = v.rcpt(f"TO:<bob@isp.example> ORCPT={value}")
            self.assertEqual(command.orcpt, "utf-8;bj\\x{F6}rn@b.example")
        self.assertEqual(self.code(v.rcpt, "TO:<bob@isp.example> ORCPT=rfc822;bj\u00f6rn@b.example")[0], 501)
        self.assertEqual(self.code(v.rcpt, "TO:<bob@isp.example> ORCPT=utf-8;bj\u202ern@b.example")[0], 501)

    def test_source_route(self) -> None:
        self.assertEqual(v.rcpt("TO:<@a.example,@[192.0.2.1]:joe@far.example>"), c.Rcpt("joe@far.example", True))

    def test_percent_and_bang_are_letters(self) -> None:
        """They mean nothing here: what is behind the @ is the domain, and all before it a local part."""
        self.assertEqual(v.rcpt("TO:<joe%far.example@isp.example>").recipient, "joe%far.example@isp.example")
        self.assertEqual(v.rcpt("TO:<far.example!joe@isp.example>").recipient, "far.example!joe@isp.example")

    def test_refused(self) -> None:
        for argument, code in (
            ("TO:<>", 501),
            ("TO:<ann>", 501),
            ("TO:<joe@far.example@isp.example>", 501),
            ("TO:<far.example!joe>", 501),
            ("TO:<joe%far.example>", 501),
            ("TO:ann@isp.example", 501),
            ("FROM:<ann@isp.example>", 501),
            ("TO:<ann@isp.example> NOTIFY=NEVER,SUCCESS", 501),
            ("TO:<ann@isp.example> NOTIFY=SUCCESS,SUCCESS", 501),
            ("TO:<ann@isp.example> NOTIFY=SUCCESS,", 501),
            ("TO:<ann@isp.example> NOTIFY=ALWAYS", 501),
            ("TO:<ann@isp.example> NOTIFY", 501),
            ("TO:<ann@isp.example> NOTIFY=DELAY NOTIFY=DELAY", 501),
            ("TO:<ann@isp.example> ORCPT=ann@isp.example", 501),
            ("TO:<ann@isp.example> ORCPT=rfc822;", 501),
            ("TO:<ann@isp.example> ORCPT=rfc822;a+0Ab", 501),
            ("TO:<ann@isp.example> ORCPT=-;a", 501),
            ("TO:<ann@isp.example> ORCPT=rfc822;" + "a" * 500, 501),
            ("TO:<ann@isp.example> RET=FULL", 555),
        ):
            self.assertEqual(self.code(v.rcpt, argument)[0], code, argument)


class OtherTests(Case):
    def test_hello(self) -> None:
        for name in ("mx.far.example", "[192.0.2.1]", "my_pc", "localhost"):
            self.assertEqual(v.hello("EHLO", name), c.Hello(name, True))
        for name in ("", "two words", "x" * 256):
            self.assertEqual(self.code(lambda argument: v.hello("HELO", argument), name), (501, "5.5.4"))

    def test_auth(self) -> None:
        self.assertEqual(v.auth("plain"), c.Auth("PLAIN", None))
        self.assertEqual(v.auth("PLAIN AGE="), c.Auth("PLAIN", b"AGE="))
        self.assertEqual(v.auth("LOGIN ="), c.Auth("LOGIN", b"="))
        for argument in ("", "PLAIN a b", "PL\x00AIN", "X" * 21):
            self.assertEqual(self.code(v.auth, argument), (501, "5.5.4"))

    def test_arguments_where_none_belong(self) -> None:
        for name in (b"DATA", b"RSET", b"QUIT", b"STARTTLS"):
            self.assertEqual(self.code(v.VERBS[name].parse, "x"), (501, "5.5.4"))
        self.assertEqual(v.VERBS[b"NOOP"].parse("anything"), c.Noop())
        self.assertEqual(self.code(v.VERBS[b"VRFY"].parse, ""), (501, "5.5.4"))


class FuzzTests(SynchronousTestCase):
    @given(
        st.sampled_from(sorted(v.VERBS)),
        st.one_of(
            st.text(st.characters(max_codepoint=127), max_size=200),
            st.lists(
                st.sampled_from(
                    ["FROM:", "TO:", "<", ">", "@", ":", ",", '"', "\\", "a.b", "[", "]", " ", "SIZE=", "%", "!"]
                ),
                max_size=20,
            ).map("".join),
        ),
    )
    def test_only_command_error_escapes(self, verb: bytes, argument: str) -> None:
        try:
            command = v.VERBS[verb].parse(argument)
        except c.CommandError as error:
            self.assertIn(error.reply.code, (501, 553, 555))
            return
        for text in (getattr(command, "sender", ""), getattr(command, "recipient", "")):
            self.assertTrue(text.isprintable() and text.isascii(), text)

    def test_no_input_takes_long(self) -> None:
        """What would make a careless expression try every way to read it."""
        before = time.process_time()
        for argument in (
            "TO:<" + "a" * 5000,
            "TO:<" + '""' * 3000,
            "TO:<" + "@a," * 2000,
            "TO:<" + '"\\"' * 2000,
            "TO:" + " " * 5000,
        ):
            self.assertRaises(c.CommandError, v.rcpt, argument)
        self.assertLess(time.process_time() - before, 1.0)
