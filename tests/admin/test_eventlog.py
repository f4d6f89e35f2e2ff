"""The event log: batching, both forms, and places that cannot be written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from tests.admin.samples import ID, SAMPLES, delivered
from twisted_mta.admin import logfile
from twisted_mta.admin.eventlog import BATCH, EventLog, json_line
from twisted_mta.admin.logfile import LogFile
from twisted_mta.config.settings import Log
from twisted_mta.mail.events import Done, HistoryEvent, Service

NOISY = "a\r\nb\x1b[2J\x7f\x9b31m\u2028c\u2029\u202e\u2066\ufeff\x00"


class LogCase(TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.path = Path(self.mktemp()) / "log" / "events"

    def make(self, form: str = "json", **more: bool) -> EventLog:
        log = EventLog(Log(format=form, file=str(self.path), **more), "mx1", 7, self.clock)  # type: ignore[arg-type]
        self.addCleanup(log.close)
        return log

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines()


class Batches(LogCase):
    def test_one_write_for_a_turn(self) -> None:
        log = self.make()
        with mock.patch.object(logfile.os, "write", wraps=os.write) as write:
            for event in SAMPLES:
                log(event)
            self.assertEqual(write.call_count, 0)
            self.clock.advance(0)
            self.assertEqual(write.call_count, 1)
        self.assertEqual(len(self.lines()), len(SAMPLES))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_turns_that_follow_at_once(self) -> None:
        """The first is written when it is over, those of the next 5 ms together, and then the same again."""
        log = self.make()
        counts = []
        with mock.patch.object(logfile.os, "write", wraps=os.write) as write:
            for _ in range(16):
                log(delivered())
                self.clock.advance(0.001)
                counts.append(write.call_count)
            self.clock.advance(0.005)
            self.assertEqual(write.call_count, 5)
            self.clock.advance(1)
            log(delivered())
            self.clock.advance(0)
            self.assertEqual(write.call_count, 6)
        self.assertEqual((counts[0], counts[3], counts[5], counts[15]), (1, 1, 2, 4))
        self.assertEqual(len(self.lines()), 17)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_much_is_written_within_the_turn(self) -> None:
        log = self.make()
        for _ in range(BATCH // 300):
            log(delivered(reply="250 " + "x" * 400))
        self.assertGreater(self.path.stat().st_size, BATCH)

    def test_done_comes_last_in_its_turn(self) -> None:
        log = self.make()
        log(Done(time=1.0, id=ID))
        log(delivered())
        self.clock.advance(0)
        self.assertEqual([json.loads(line)["event"] for line in self.lines()], ["deliver", "done"])

    def test_close_writes_what_is_left(self) -> None:
        log = self.make()
        log(delivered())
        log.close()
        self.assertEqual(len(self.lines()), 1)
        log(delivered())
        self.clock.advance(0)
        self.assertEqual(len(self.lines()), 1)

    def test_sessions_can_be_left_out(self) -> None:
        log = self.make(sessions=False)
        for event in SAMPLES:
            log(event)
        log.flush()
        kinds = [json.loads(line)["event"] for line in self.lines()]
        self.assertNotIn("connect", kinds)
        self.assertNotIn("disconnect", kinds)
        self.assertIn("accept", kinds)

    def test_reopen_after_logrotate(self) -> None:
        log = self.make("text")
        log(delivered())
        log.flush()
        moved = self.path.with_suffix(".1")
        self.path.rename(moved)
        log(delivered())
        log.reopen()
        log(delivered())
        log.flush()
        self.assertEqual((len(moved.read_text().splitlines()), len(self.lines())), (2, 1))

    def test_reconfigure(self) -> None:
        log = self.make("text")
        log(delivered())
        other = self.path.with_name("other")
        log.reconfigure(Log(format="json", file=str(other)))
        log(delivered())
        self.clock.advance(0.01)
        self.assertIn("status=sent", self.path.read_text())
        self.assertEqual(json.loads(other.read_text())["event"], "deliver")

    def test_log_is_not_for_all_eyes(self) -> None:
        self.make()
        self.assertEqual(self.path.stat().st_mode & 0o777 & ~0o640, 0)

    def test_an_event_that_cannot_be_written_is_a_fault_not_an_exception(self) -> None:
        log = self.make("text")
        log(Service(time="noon", what="x"))  # type: ignore[arg-type]
        log(Service(time="noon", what="x"))  # type: ignore[arg-type]
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class Json(LogCase):
    def test_the_line_is_the_event(self) -> None:
        import msgspec

        line = json_line(delivered(file="f"))
        self.assertEqual(msgspec.json.decode(line, type=HistoryEvent), delivered(file="f"))
        self.assertEqual(json.loads(line)["event"], "deliver")
        self.assertEqual(json.loads(line)["id"], ID)

    def test_nothing_a_terminal_or_a_reader_obeys(self) -> None:
        line = json_line(delivered(reply=NOISY)).decode()
        self.assertEqual(line.splitlines(), [line[:-1]])
        self.assertTrue(line[:-1].isprintable(), repr(line))
        self.assertEqual(json.loads(line)["reply"], NOISY)

    def test_bytes_that_were_no_utf8(self) -> None:
        self.assertEqual(json.loads(json_line(delivered(recipient="\udc80@x")))["recipient"], "\udc80@x")

    def test_words_beyond_ascii_stay_readable(self) -> None:
        self.assertIn("grüße".encode(), json_line(delivered(reply="250 grüße")))


@given(st.text(alphabet=st.characters(), max_size=60))
def test_any_text_is_one_json_line(text: str) -> None:
    line = json_line(delivered(reply=text)).decode()
    assert len(line.splitlines()) == 1
    assert line.endswith("\n")
    assert json.loads(line)["reply"] == text


class Faults(LogCase):
    """A place that cannot be written costs its lines and nothing else."""

    def faults(self) -> int:
        return len(self.flushLoggedErrors())

    def test_full_disk_then_room(self) -> None:
        log = self.make()
        log(delivered(reply="250 before"))
        log.flush()
        full = OSError(errno.ENOSPC, "No space left on device")
        with mock.patch.object(logfile.os, "write", side_effect=[20, full, full]) as write:
            log(delivered(reply="250 during"))
            self.clock.advance(0.01)
            self.clock.advance(0.3)
            self.assertEqual(write.call_count, 3)
        log(delivered(reply="250 after"))
        self.clock.advance(1)
        kept = self.path.read_text()
        first, second = kept.split("\n", 1)
        self.assertIn("before", first)
        # the 20 octets that the pretended disk took are missing here; nothing is written twice
        self.assertEqual(
            second, (json_line(delivered(reply="250 during"))[20:] + json_line(delivered(reply="250 after"))).decode()
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_waits_is_bounded_and_the_rest_is_counted(self) -> None:
        log = self.make()
        with mock.patch.object(logfile.os, "write", side_effect=OSError(errno.ENOSPC, "full")):
            for _ in range(60):
                for _ in range(60):
                    log(delivered(reply="250 " + "x" * 400))
                log.flush()
            file = log._file
            assert file is not None
            self.assertLessEqual(file.waiting, logfile.PENDING)
            lost = file.lost
        self.assertGreater(lost, 100)
        log.flush()
        self.assertEqual(len(self.lines()), 60 * 60 - lost)
        self.assertEqual(file.lost, 0)

    def test_a_reader_that_stalls_does_not_stop_us(self) -> None:
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        with mock.patch.object(logfile.os, "open", return_value=writer):
            log = self.make()
        for _ in range(1000):
            log(delivered(reply="250 " + "x" * 400))
        log.flush()
        assert log._file is not None
        self.assertGreater(log._file.waiting, 0)
        got = b""
        for _ in range(100):
            got += os.read(reader, 1 << 16)
            self.clock.advance(0.25)
            if log._file.waiting == 0:
                break
        log.close()
        while piece := os.read(reader, 1 << 16):
            got += piece
        self.assertEqual(len([json.loads(line) for line in got.splitlines()]), 1000)

    def test_reader_gone(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        with mock.patch.object(logfile.os, "open", return_value=writer):
            log = self.make("text")
        for _ in range(5):
            log(delivered())
            self.clock.advance(0.25)
        log.close()

    def test_no_such_place(self) -> None:
        blocked = Path(self.mktemp())
        blocked.write_text("a file, not a folder")
        file = LogFile(str(blocked / "events"))
        self.assertFalse(file.write(b"x\n", 1))
        blocked.unlink()
        self.assertTrue(file.write(b"y\n", 1))
        file.close()
        self.assertEqual((blocked / "events").read_bytes(), b"x\ny\n")
