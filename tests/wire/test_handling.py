"""HOLDFOR, HOLDUNTIL, BY and MT-PRIORITY: their values and the commands that carry them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.wire import commands as c
from twisted_mta.wire import verbs as v
from twisted_mta.wire.handling import (
    LATEST,
    parse_by,
    parse_date,
    parse_interval,
    parse_priority,
    write_by,
    write_date,
)
from twisted_mta.wire.server import ServerConnection

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC).timestamp()


class ValueTests(SynchronousTestCase):
    """The values themselves."""

    def test_interval(self) -> None:
        self.assertEqual((parse_interval("1"), parse_interval("999999999")), (1, LATEST))
        for value in ("", "0", "01", "-1", "+1", "1000000000", "1s", "1.5", "\u0661"):
            self.assertIsNone(parse_interval(value), value)

    def test_date(self) -> None:
        for value in (
            "2026-11-23T12:00:00Z",
            "2026-11-23t12:00:00z",
            "2026-11-23T13:00:00+01:00",
            "2026-11-23T06:30:00-05:30",
            "2026-11-23T12:00:00.000Z",
            "2026-11-23T11:59:60Z",
        ):
            self.assertEqual(parse_date(value), NOON, value)
        self.assertEqual(parse_date("2026-11-23T12:00:00.25Z"), NOON + 0.25)

    def test_no_date(self) -> None:
        for value in (
            "",
            "2026-11-23",
            "2026-11-23 12:00:00Z",
            "2026-11-23T12:00:00",
            "2026-11-23T12:00Z",
            "2026-02-30T12:00:00Z",
            "2026-13-01T12:00:00Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T12:60:00Z",
            "2026-11-23T12:00:61Z",
            "0000-01-01T00:00:00Z",
            "2026-11-23T12:00:00+24:00",
            "2026-11-23T12:00:00+01:60",
            "2026-11-23T12:00:00.Z",
            "2026-W48-1T12:00:00Z",
            "20261123T120000Z",
            "2026-11-23T12:00:00Z\n",
        ):
            self.assertIsNone(parse_date(value), value)

    @given(
        st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(9998, 12, 31)),
        st.integers(-23 * 60, 23 * 60),
    )
    def test_dates_are_as_python_reads_them(self, when: datetime, offset: int) -> None:
        zoned = when.replace(microsecond=0, tzinfo=timezone(timedelta(minutes=offset)))
        self.assertEqual(parse_date(zoned.isoformat()), zoned.timestamp())
        self.assertEqual(parse_date(write_date(zoned.timestamp())), zoned.timestamp())

    @given(st.text())
    def test_nothing_raises(self, value: str) -> None:
        parse_interval(value), parse_date(value), parse_by(value), parse_priority(value)

    def test_by(self) -> None:
        self.assertEqual(parse_by("120;R"), (120, "R", False))
        self.assertEqual(parse_by("+120;nt"), (120, "N", True))
        self.assertEqual(parse_by("-5;N"), (-5, "N", False))
        self.assertEqual(parse_by("0;N"), (0, "N", False))
        for value in ("", "120", "120;", "120;X", "120;T", "0;R", "-5;R", "1234567890;N", "120;RTT", "120 ;R", "--1;N"):
            self.assertIsNone(parse_by(value), value)

    @given(st.floats(-2e9, 2e9), st.sampled_from(["N", "R"]), st.booleans())
    def test_by_as_it_is_passed_on(self, seconds: float, mode: str, trace: bool) -> None:
        """Never more than what is left, and always well formed, but for a time of mode R that is over."""
        parsed = parse_by(write_by(seconds, mode, trace))  # type: ignore[arg-type]
        if mode == "R" and seconds < 1:
            self.assertIsNone(parsed)
            return
        assert parsed is not None
        self.assertLessEqual(parsed[0], max(seconds, -LATEST))
        self.assertEqual(parsed[1:], (mode, trace))

    def test_priority(self) -> None:
        self.assertEqual([parse_priority(str(one)) for one in range(-9, 10)], list(range(-9, 10)))
        for value in ("", "10", "-10", "+1", "-0", "00", "1 ", "high"):
            self.assertIsNone(parse_priority(value), value)


class MailTests(SynchronousTestCase):
    """MAIL with them."""

    def test_parameters(self) -> None:
        line = "FROM:<a@b.example> HOLDFOR=60 BY=120;RT MT-PRIORITY=-4"
        self.assertEqual(v.mail(line).params, {"HOLDFOR": "60", "BY": "120;RT", "MT-PRIORITY": "-4"})
        self.assertEqual(v.mail("FROM:<> holduntil=2026-11-23T12:00:00+01:00").params["HOLDUNTIL"][-6:], "+01:00")

    def test_refused(self) -> None:
        for param in ("HOLDFOR=0", "HOLDFOR", "HOLDUNTIL=tomorrow", "BY=0;R", "BY=60", "MT-PRIORITY=10", "MT-PRIORITY"):
            with self.assertRaises(c.CommandError) as caught:
                v.mail(f"FROM:<a@b.example> {param}")
            reply = caught.exception.reply
            self.assertEqual((reply.code, reply.enhanced), (501, "5.5.4"), param)
            self.assertTrue(reply.text.startswith(param.partition("=")[0]), reply.text)

    def test_twice(self) -> None:
        with self.assertRaises(c.CommandError) as caught:
            v.mail("FROM:<a@b.example> BY=60;N BY=60;N")
        self.assertEqual(caught.exception.reply.code, 501)

    def test_the_longest_line_is_taken(self) -> None:
        """Each extension makes MAIL longer by what its RFC says."""
        params = " HOLDUNTIL=2030-12-31T23:59:00.123Z BY=+999999999;NT MT-PRIORITY=-9"
        wire = ServerConnection(1000)
        wire.next_event()
        wire.answer(c.Reply(220, "", "x"))
        wire.receive(b"EHLO x\r\n")
        wire.next_event()
        wire.answer(c.Reply(250, "", "x"))
        route = "@" + "r" * (512 - len("MAIL FROM:<@:a@b.example>\r\n")) + ":"
        wire.receive(f"MAIL FROM:<{route}a@b.example>{params}\r\n".encode())
        self.assertIsInstance(wire.next_event(), c.Mail)
