"""The load generator: what it makes of replies, how it shares out work, and that it hands in what it says."""

from __future__ import annotations

import itertools
import socket

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bench.clients import Job, Tally, content, hand_in, replies, source_address
from bench.drive import Held, Outcome, Running, percentile
from bench.load import RecipientSink
from bench.workloads import LEAST, SECONDS, fitting

STREAM = b"220 hello\r\n250-one\r\n250-two\r\n250 three\r\n250 2.1.0 ok\r\n354\r\n421 4.3.2 busy\r\n"


class Replies(SynchronousTestCase):
    """RFC 5321 §4.2.1."""

    @given(st.lists(st.integers(0, len(STREAM)), max_size=8))
    def test_any_split(self, cuts: list[int]) -> None:
        places = sorted({0, len(STREAM), *cuts})
        found: list[int] = []
        buffer = b""
        for start, end in itertools.pairwise(places):
            codes, buffer = replies(buffer + STREAM[start:end])
            found += codes
        self.assertEqual(found, [220, 250, 250, 354, 421])
        self.assertEqual(buffer, b"")

    def test_half_a_reply_stays(self) -> None:
        self.assertEqual(replies(b"250-one\r\n25"), ([], b"250-one\r\n25"))
        self.assertEqual(replies(b"250 one\r\n250-two\r\n"), ([250], b"250-two\r\n"))


class Dialogue(SynchronousTestCase):
    """The steps of a session."""

    def test_session(self) -> None:
        tally = Tally()
        steps = hand_in(Job("load", 25, per_session=2, user="ann", password="x"), b"body\r\n.\r\n", tally, 0.0)
        sent = [next(steps)[0]]
        for codes in ([220], [250], [235], [250, 250, 354], [250], [250, 250, 354], [250]):
            octets, wanted = steps.send(codes)
            sent.append(octets)
            self.assertEqual(wanted, 3 if octets.startswith(b"MAIL") else 1)
        self.assertEqual(
            [octets[:4] for octets in sent[1:]], [b"EHLO", b"AUTH", b"MAIL", b"body", b"MAIL", b"body", b"QUIT"]
        )
        self.assertEqual(self.outcome(steps, [221]), "done")
        self.assertEqual(len(tally.latencies), 2)

    def outcome(self, steps: object, codes: list[int]) -> str:
        with self.assertRaises(StopIteration) as stopped:
            steps.send(codes)  # type: ignore[attr-defined]
        return str(stopped.exception.value)

    def test_refusals(self) -> None:
        for codes in ([[421]], [[220], [502]], [[220], [250], [250, 452, 503]], [[220], [250], [250, 250, 354], [452]]):
            tally = Tally()
            steps = hand_in(Job("load", 25), b".\r\n", tally, 0.0)
            next(steps)
            for some in codes[:-1]:
                steps.send(some)
            self.assertEqual(self.outcome(steps, codes[-1]), "refused")
            self.assertEqual(tally.latencies, [])

    def test_content(self) -> None:
        for length in (1024, 4096, 65536):
            made = content(length)
            self.assertTrue(made.endswith(b"\r\n.\r\n"))
            self.assertIn(len(made) - len(b".\r\n"), range(length - 2, length + 1))

    def test_addresses(self) -> None:
        made = {source_address(number) for number in range(10_000)}
        self.assertEqual(len(made), 10_000)
        for address in made:
            socket.inet_aton(address)


class Sharing(SynchronousTestCase):
    """Figures of several processes."""

    def report(self, began: float, last: float, latencies: list[float]) -> dict[str, object]:
        outcomes = {"done": 1, "refused": 2, "lost": 3, "late": 4}
        return {
            "outcomes": outcomes,
            "latencies": latencies,
            "refusals": [0.5],
            "times": latencies,
            "began": began,
            "last": last,
            "cpu": 0.25,
        }

    def test_merge(self) -> None:
        outcome = Outcome.merge([self.report(10.0, 12.0, [1.0, 2.0]), self.report(11.0, 14.0, [3.0])])
        self.assertEqual((outcome.done, outcome.refused, outcome.lost, outcome.late), (2, 4, 6, 8))
        self.assertEqual((outcome.accepted, outcome.seconds, outcome.rate, outcome.cpu), (3, 4.0, 0.75, 0.5))
        self.assertEqual(outcome.rate_within(2.0), 1.0)

    def test_percentile(self) -> None:
        values = [float(number) for number in range(100, 0, -1)]
        self.assertEqual([percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)], [1, 51, 100, 100])
        self.assertEqual(percentile([], 0.5), 0.0)

    def test_fitting(self) -> None:
        self.assertEqual(fitting(5000, 10_000), 5000)
        self.assertEqual(fitting(5000, 200), 200 * SECONDS)
        self.assertEqual(fitting(5000, 1), LEAST)
        self.assertEqual(fitting(20, 1), 20)


class Generator(SynchronousTestCase):
    """Processes of clients against the bench's own sink."""

    def setUp(self) -> None:
        self.sink = RecipientSink()
        self.addCleanup(self.sink.close)

    def arrived(self, count: int) -> None:
        for _ in range(500):
            if self.sink.poll() >= count:
                break
            with socket.create_connection(("127.0.0.1", self.sink.port)) as probe:
                probe.recv(100)
        self.assertEqual(self.sink.poll(), count)

    def test_load(self) -> None:
        outcome = Running(Job("load", self.sink.port, messages=40, sessions=6, per_session=5, length=9000)).outcome(30)
        self.assertEqual((outcome.done, outcome.accepted), (8, 40))
        self.arrived(40)

    def test_flood(self) -> None:
        job = Job("flood", self.sink.port, rate=100.0, seconds=0.5, sources=3)
        outcome = Running(job).outcome(30)
        self.assertEqual((outcome.done, outcome.lost, outcome.late), (50, 0, 0))
        self.arrived(50)

    def test_nobody_there(self) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            outcome = Running(Job("load", closed.getsockname()[1], messages=4)).outcome(30)
        self.assertEqual((outcome.accepted, outcome.lost), (0, 4))

    def test_held(self) -> None:
        for kind in ("hold", "slow"):
            with Held(Job(kind, self.sink.port, sessions=7, window=2)) as held:
                self.assertEqual(held.opened, 7)
                self.assertEqual(held.close(), 7)
