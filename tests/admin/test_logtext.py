"""The text form of the event log."""

# ruff: noqa: E501 - log lines are as long as they are

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.admin.samples import NOON, SAMPLES, STORY, bounced, delivered
from twisted_mta.admin.logtext import TextFormat, inside, seconds
from twisted_mta.mail import events as ev

HOSTILE = "a\r\nNov 23 12:00:00 mx1 mta/qmgr[1]: X: removed\x1b[2J\x9b31m\u2028b\u2029\u202e\u2066\x00"
HOSTILE += "\udc80>, status=sent (250 x)"


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def text(event: ev.AnyEvent) -> str:
    return TextFormat("mx1.isp.example", 123)(event)


class Golden(SynchronousTestCase):
    """Line by line, beside what Postfix would write."""

    maxDiff = None

    def test_story(self) -> None:
        write = TextFormat("mx1.isp.example", 123)
        got = "".join(write(event) for event in STORY)
        self.assertEqual(
            got.splitlines(),
            """\
Nov 23 12:00:00 mx1 mta/master[123]: ready -- 3 listeners
Nov 23 12:00:00 mx1 mta/submission/smtpd[123]: connect from unknown[192.0.2.7]:40112 session=s1
Nov 23 12:00:00 mx1 mta/submission/smtpd[123]: unknown[192.0.2.7]: SASL PLAIN authentication succeeded: sasl_username=anna@isp.example, customer=acme
Nov 23 12:00:00 mx1 mta/submission/smtpd[123]: 0h7x2k9m4p8q1r3s: client=unknown[192.0.2.7], sasl_method=PLAIN, sasl_username=anna@isp.example, session=s1
Nov 23 12:00:00 mx1 mta/cleanup[123]: 0h7x2k9m4p8q1r3s: message-id=<1@isp.example>
Nov 23 12:00:00 mx1 mta/qmgr[123]: 0h7x2k9m4p8q1r3s: from=<anna@isp.example>, size=4096, nrcpt=3 (queue active)
Nov 23 12:00:01 mx1 mta/smtp[123]: 0h7x2k9m4p8q1r3s: to=<bob@remote.example>, relay=mx.remote.example[198.51.100.3]:25, delay=1.2, delays=0/0.95/0/0.3, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 4F) tls=TLSv1.3/TLS_AES_256_GCM_SHA384
Nov 23 12:00:01 mx1 mta/maildir[123]: 0h7x2k9m4p8q1r3s: to=<carl@isp.example>, orig_to=<sales@isp.example>, relay=maildir, delay=0.03, delays=0/0.02/0/0.01, dsn=2.0.0, status=sent (250 2.0.0 delivered to the mailbox)
Nov 23 12:00:02 mx1 mta/smtp[123]: 0h7x2k9m4p8q1r3s: to=<erin@slow.example>, relay=none, delay=30, delays=0/0/0/30, dsn=4.4.1, status=deferred (451 4.4.1 connect to mx.slow.example[198.51.100.9]:25: timed out)
Nov 23 12:00:03 mx1 mta/smtp[123]: 0h7x2k9m4p8q1r3s: to=<dave@nowhere.example>, relay=none, delay=432000, delays=0/432000/0/0, dsn=4.4.1, status=bounced (451 4.4.1 timed out)
Nov 23 12:00:03 mx1 mta/qmgr[123]: 0h7x2k9m4p8q1r3s: from=<anna@isp.example>, status=expired, returned to sender
Nov 23 12:00:03 mx1 mta/bounce[123]: 0h7x2k9m4p8q1r3s: sender non-delivery notification: 0h7x2k9m4p8q1r4t
Nov 23 12:00:03 mx1 mta/qmgr[123]: 0h7x2k9m4p8q1r4t: from=<>, size=2100, nrcpt=1 (queue active)
Nov 23 12:00:04 mx1 mta/operator[123]: 0h7x2k9m4p8q1r3s: remove by root, to=<erin@slow.example>
Nov 23 12:00:04 mx1 mta/qmgr[123]: 0h7x2k9m4p8q1r3s: removed
Nov 23 12:00:05 mx1 mta/submission/smtpd[123]: disconnect from unknown[192.0.2.7] messages=1 errors=0 commands=9 reason=quit seconds=5.3 session=s1
""".splitlines(),
        )

    def test_refusals(self) -> None:
        write = TextFormat("mx1", 9)
        base = {"time": NOON, "session": "s2", "client": "2001:db8::1", "listener": "mx"}
        self.assertEqual(
            write(
                ev.Rejected(
                    **base,
                    stage="rcpt",
                    reply="550 5.1.1 <x@isp.example>: User unknown",
                    helo="h.example",
                    sender="",
                    recipient="x@isp.example",
                )
            ),
            "Nov 23 12:00:00 mx1 mta/smtpd[9]: NOQUEUE: reject: RCPT from unknown[2001:db8::1]: 550 5.1.1"
            " <x@isp.example>: User unknown; from=<> to=<x@isp.example> helo=<h.example>\n",
        )
        self.assertEqual(
            write(ev.Rejected(**base, stage="connect", reply="421 4.7.0 Too many connections")),
            "Nov 23 12:00:00 mx1 mta/smtpd[9]: NOQUEUE: reject: CONNECT from unknown[2001:db8::1]: 421 4.7.0"
            " Too many connections;\n",
        )
        self.assertEqual(
            write(ev.AuthFailed(**base, user="anna@isp.example", mechanism="LOGIN", reply="535 5.7.8 Wrong")),
            "Nov 23 12:00:00 mx1 mta/smtpd[9]: warning: unknown[2001:db8::1]: SASL LOGIN authentication failed:"
            " 535 5.7.8 Wrong, sasl_username=anna@isp.example\n",
        )
        self.assertIn(
            "could not be checked",
            write(ev.AuthFailed(**base, user="a", mechanism="PLAIN", reply="454 4.7.0 Later", temporary=True)),
        )
        self.assertEqual(
            write(ev.TlsFailed(**base, reason="no shared cipher")),
            "Nov 23 12:00:00 mx1 mta/smtpd[9]: SSL_accept error from unknown[2001:db8::1]: no shared cipher\n",
        )

    def test_overload(self) -> None:
        event = ev.Overloaded(time=NOON, listener="mx", refused=812, waited=0.6, clients={"192.0.2.1": 800, "::1": 12})
        self.assertEqual(
            text(event),
            "Nov 23 12:00:00 mx1 mta/smtpd[123]: warning: overload: refused=812 waited=0.6"
            " clients=[192.0.2.1] 800, [::1] 12\n",
        )

    def test_bounce_without_a_report_says_why(self) -> None:
        lines = text(bounced(time=NOON, report="", fate="double bounce, dropped")).splitlines()
        self.assertEqual(
            lines[1],
            "Nov 23 12:00:00 mx1 mta/bounce[123]: 0h7x2k9m4p8q1r3s: no notification for <dave@nowhere.example>: double bounce, dropped",
        )
        self.assertEqual(len(text(bounced()).splitlines()), 1)

    def test_local_mail(self) -> None:
        event = ev.Accepted(
            time=NOON,
            id="I",
            session="",
            client="",
            listener="",
            helo="",
            protocol="",
            sender="r@h",
            recipients=("a@b",),
            size=1,
        )
        self.assertEqual(text(event).splitlines()[0], "Nov 23 12:00:00 mx1 mta/pickup[123]: I: sender=<r@h>")


class Values(SynchronousTestCase):
    def test_seconds(self) -> None:
        cases = {0: "0", 0.004: "0", 0.006: "0.01", 0.034: "0.03", 0.35: "0.35", 0.3: "0.3", 0.999: "1", 1.0: "1"}
        cases |= {1.26: "1.3", 9.96: "10", 10.7: "10", 20.0: "20", 3600.2: "3600"}
        self.assertEqual({value: seconds(value) for value in cases}, cases)

    def test_day_is_padded_as_in_syslog(self) -> None:
        self.assertTrue(text(delivered(time=NOON - 20 * 86400)).startswith("Nov  3 12:00:00 mx1 "))

    def test_second_changes(self) -> None:
        write = TextFormat("h", 1)
        self.assertEqual(
            [write(delivered(time=NOON + n))[:15] for n in (0.0, 0.9, 1.0, 0.5)],
            ["Nov 23 12:00:00", "Nov 23 12:00:00", "Nov 23 12:00:01", "Nov 23 12:00:00"],
        )

    def test_inside(self) -> None:
        self.assertEqual(inside('"a>b"@c'), '"a\\x3eb"@c')


class Injection(SynchronousTestCase):
    """Nobody outside makes a line, ends a field or reaches the terminal."""

    def check(self, event: ev.AnyEvent) -> None:
        out = text(event)
        lines = out.split("\n")
        self.assertEqual(lines.pop(), "")
        for line in lines:
            self.assertTrue(line.startswith("Nov 23 12:00:0"), line)
            self.assertTrue(line.isprintable(), repr(line))
            line.encode()
        self.assertEqual(out.splitlines(), lines)
        self.assertLessEqual(len(lines), 3)

    def test_every_text_field_of_every_event(self) -> None:
        seen = 0
        for event in SAMPLES:
            for name in event.__struct_fields__:
                value = getattr(event, name)
                if isinstance(value, str) and name in PEER_FIELDS:
                    self.check(type(event)(**{**fields(event), name: HOSTILE}))
                    seen += 1
                elif name == "recipients":
                    self.check(type(event)(**{**fields(event), name: (HOSTILE, HOSTILE)}))
        self.assertGreater(seen, 40)

    def test_a_field_cannot_be_closed_from_inside(self) -> None:
        line = text(delivered(original="", recipient='"x>, relay=evil, status=sent (250 z)"@a.example'))
        self.assertEqual(line.count(">"), 1)

    def test_relay_holds_no_comma(self) -> None:
        self.assertIn("relay=a\\x2c status=sent, delay=", text(delivered(relay="a, status=sent")))


PEER_FIELDS = {
    "client",
    "user",
    "customer",
    "mechanism",
    "reply",
    "helo",
    "sender",
    "recipient",
    "reason",
    "protocol",
    "message_id",
    "tls",
    "relay",
    "original",
    "fate",
    "who",
    "detail",
    "what",
    "kind",
    "file",
    "limit",
    "status",
    "stage",
    "listener",
    "destination",
}


def fields(event: ev.AnyEvent) -> dict[str, object]:
    return {name: getattr(event, name) for name in event.__struct_fields__}


@given(st.text(), st.text())
def test_any_address_and_reply_make_one_printable_line(address: str, reply: str) -> None:
    line = text(delivered(recipient=address, reply=reply))
    assert line.endswith("\n")
    assert line[:-1].splitlines() in ([line[:-1]], [])
    assert not any(0x7F <= ord(c) < 0xA0 or ord(c) < 0x20 for c in line[:-1])
    line.encode()
