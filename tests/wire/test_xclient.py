"""XCLIENT, octet by octet."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.wire.dialogue import GREETING, NO, OK, fitting
from twisted_mta.mail.status import Reply
from twisted_mta.wire import commands as c
from twisted_mta.wire.server import ServerConnection
from twisted_mta.wire.xclient import Claims, XclientError, parse


def talk(wire: bytes, answer: Reply = Reply(220, "", "mx"), allowed: bool = True) -> list[int]:  # noqa: B008
    """The codes of all replies."""
    connection = ServerConnection(10_000)
    connection.xclient = allowed
    connection.answer(GREETING)
    connection.receive(wire)
    said = b""
    while (event := connection.next_event()) is not None:
        if not isinstance(event, c.Content):
            said += connection.answer(answer if isinstance(event, c.XClient) else fitting(event))
    return [int(line[:3]) for line in said.split(b"\r\n") if line[3:4] == b" "]


class ParseTests(SynchronousTestCase):
    def test_all(self) -> None:
        words = "NAME=mail.far.example addr=192.0.2.7 Port=4321 PROTO=esmtp HELO=[192.0.2.7] LOGIN=ann@isp.example"
        self.assertEqual(
            parse(f"{words} DESTADDR=IPV6:2001:db8:0::1 DESTPORT=25"),
            Claims(
                name="mail.far.example",
                address="192.0.2.7",
                port=4321,
                protocol="ESMTP",
                helo="[192.0.2.7]",
                login="ann@isp.example",
                here="2001:db8::1",
                here_port=25,
            ),
        )

    def test_what_is_not_known(self) -> None:
        claims = parse(
            "NAME=[UNAVAILABLE] ADDR=[unavailable] PORT=[TempUnavail] HELO=[UNAVAILABLE] LOGIN=[UNAVAILABLE]"
        )
        self.assertEqual(claims, Claims(name="", address="", port=0, helo="", login=""))

    def test_xtext(self) -> None:
        self.assertEqual(parse("HELO=a+3Db+2B").helo, "a=b+")
        self.assertEqual(parse("NAME=+5BUNAVAILABLE+5D").name, "")

    def test_an_ipv4_address_in_ipv6(self) -> None:
        """Else whoever speaks for others could have two addresses for one client."""
        self.assertEqual(parse("ADDR=IPV6:::ffff:192.0.2.7").address, "192.0.2.7")

    def test_refused(self) -> None:
        for argument in (
            "", "NAME", "NAME=", "=x", "FOO=x", "ADDR=mail.far.example", "ADDR=192.0.2.7 ADDR=192.0.2.8", "PORT=-1",
            "PORT=65536", "PORT=x", "PROTO=QMTP", "PROTO=[UNAVAILABLE]", "HELO=a+20b", "HELO=a+0D+0Ab", "HELO=+",
            "HELO=a=b", "NAME=" + "x" * 256, "ADDR=fe80::1%eth0", "ADDR=[192.0.2.7]", "DESTADDR=x",
        ):  # fmt: skip
            self.assertRaises(XclientError, parse, argument)

    @given(
        st.text(st.characters(codec="ascii"), max_size=60), st.sampled_from(["", "ADDR=", "NAME=", "PORT=", "LOGIN="])
    )
    def test_only_its_error_escapes(self, text: str, head: str) -> None:
        try:
            claims = parse(head + text)
        except XclientError:
            return
        for value in (claims.name, claims.helo, claims.login):
            self.assertTrue(value is None or (value.isascii() and (value.isprintable() or not value)))


class OrderTests(SynchronousTestCase):
    def test_the_session_begins_anew(self) -> None:
        for between in (b"", b"EHLO x\r\n"):
            wire = between + b"XCLIENT ADDR=192.0.2.7\r\nMAIL FROM:<>\r\nEHLO y\r\nMAIL FROM:<>\r\n"
            self.assertEqual(talk(wire)[-4:], [220, 503, 250, 250])

    def test_with_helo_mail_may_follow(self) -> None:
        self.assertEqual(talk(b"XCLIENT HELO=x\r\nMAIL FROM:<>\r\n"), [220, 250])

    def test_not_in_a_transaction(self) -> None:
        claim = b"XCLIENT HELO=x\r\n"
        wire = (b"EHLO x\r\nMAIL FROM:<>\r\n", b"RCPT TO:<a@isp.example>\r\n", b"RSET\r\n", b"")
        self.assertEqual(talk(claim.join(wire)), [250, 250, 503, 250, 503, 250, 220])

    def test_not_everybody(self) -> None:
        self.assertEqual(talk(b"XCLIENT ADDR=192.0.2.7\r\nEHLO x\r\n", allowed=False), [550, 250])

    def test_syntax(self) -> None:
        self.assertEqual(talk(b"EHLO x\r\nXCLIENT FOO=x\r\nMAIL FROM:<>\r\n"), [250, 501, 250])

    def test_a_client_that_is_refused(self) -> None:
        """As if it had been refused with the greeting."""
        self.assertEqual(talk(b"XCLIENT ADDR=192.0.2.7\r\nEHLO x\r\nQUIT\r\n", NO), [550, 503, 221])
        self.assertEqual(talk(b"XCLIENT ADDR=192.0.2.7\r\nEHLO x\r\n", Reply(421, "4.7.0", "No")), [421])

    def test_what_is_wrong_with_the_command_changes_nothing(self) -> None:
        self.assertEqual(
            talk(b"EHLO x\r\nXCLIENT LOGIN=x\r\nMAIL FROM:<>\r\n", Reply(501, "5.5.4", "x")), [250, 501, 250]
        )

    def test_long_names(self) -> None:
        name = b"+41" * 255
        self.assertEqual(talk(b"XCLIENT NAME=%b HELO=%b\r\nNOOP\r\n" % (name, name)), [220, OK.code])
