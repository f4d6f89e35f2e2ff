"""The books themselves: whatever is not right is found, and what is right is not."""

from __future__ import annotations

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tests.survival.far import digest, intact, reported
from tests.survival.ledger import SETTLING, Copy, Death, Sent, Verdict, judge

BOB, EVE = "bob@far.test", "eve@far.test"


def sent(state: str = "promised", *recipients: str) -> Sent:
    return Sent("t1", "a@b.test", recipients or (BOB,), 100.0, state, "id1")


def copy(time: float = 200.0, process: int = 7, recipient: str = BOB, good: bool = True) -> Copy:
    return Copy("t1", recipient, time, process, good)


class JudgeTests(SynchronousTestCase):
    def right(self, verdict: Verdict) -> Verdict:
        self.assertEqual(verdict.wrong, [])
        return verdict

    def wrong(self, verdict: Verdict, words: str) -> None:
        self.assertEqual(len(verdict.wrong), 1, verdict.wrong)
        self.assertIn(words, verdict.wrong[0])

    def test_each_end(self) -> None:
        for state in ("promised", "open"):
            self.assertEqual(self.right(judge([sent(state)], [copy()], [])).delivered, 1)
            self.assertEqual(self.right(judge([sent(state)], [], [copy()])).bounced, 1)
            self.assertEqual(self.right(judge([sent(state)], [], [], [("t1", BOB)])).removed, 1)
            self.assertEqual(self.right(judge([sent(state)], [], [], [], [("t1", BOB)])).queued, 1)
            self.wrong(judge([sent(state)], [copy()], [copy()]), "bounced and delivered")
            self.wrong(judge([sent(state)], [copy()], [], [], [("t1", BOB)]), "delivered and queued")
        self.right(judge([sent("open")], [], []))
        self.right(judge([sent("refused")], [], []))

    def test_what_must_not_be(self) -> None:
        self.wrong(judge([sent()], [], []), "promised and is lost")
        self.wrong(judge([sent("promised", BOB, EVE)], [copy()], []), EVE)
        self.wrong(judge([sent("refused")], [copy()], []), "was refused")
        self.wrong(judge([], [copy()], []), "never sent")
        self.wrong(judge([sent()], [copy(), copy(recipient=EVE)], []), "never sent")
        self.wrong(judge([sent()], [copy(good=False)], []), "another content")
        self.wrong(judge([sent()], [copy()], [], settled={("id1", BOB): 2}), "settled 2 times")

    def test_a_second_copy_needs_the_death_of_who_had_the_first(self) -> None:
        twice = [copy(200.0, 7), copy(230.0, 8)]
        for copies, things in ((twice, []), ([], twice)):
            self.wrong(judge([sent()], copies, things), "nobody died")
            self.wrong(judge([sent()], copies, things, deaths=[Death(8, 200.1, 200.2)]), "nobody died")
            self.wrong(judge([sent()], copies, things, deaths=[Death(7, 190.0, 194.9)]), "nobody died")
            late = Death(7, 200.1 + SETTLING, 201.0 + SETTLING)
            self.wrong(judge([sent()], copies, things, deaths=[late]), "nobody died")
            self.right(judge([sent()], copies, things, deaths=[late], slack=[(199.0, 201.0)]))
            self.right(judge([sent()], copies, things, deaths=[Death(7, 199.0, 199.9)]))
            found = self.right(judge([sent()], copies, things, deaths=[Death(7, 200.5, 201.0)]))
            self.assertEqual((found.twice, found.latest), (1, 0.5))

    def test_who_says_that_it_could_not_be_written_down(self) -> None:
        twice = [copy(200.0, 7), copy(230.0, 8)]
        self.right(judge([sent()], twice, [], lost={(7, "t1")}))
        self.wrong(judge([sent()], twice, [], lost={(8, "t1"), (7, "t2")}), "nobody died")

    def test_who_was_not_told_comes_again(self) -> None:
        lost = attrs.evolve(copy(200.0, 7), told=False)
        found = self.right(judge([sent()], [lost, copy(230.0, 7)], []))
        self.assertEqual((found.untold, found.twice), (1, 0))
        self.wrong(judge([sent()], [copy(200.0, 7), attrs.evolve(copy(230.0, 7), told=False)], []), "nobody died")
        self.wrong(judge([sent()], [lost, copy(230.0, 7), copy(240.0, 7)], []), "3 times")

    def test_each_copy_but_the_last_is_explained(self) -> None:
        three = [copy(230.0, 8), copy(200.0, 7), copy(240.0, 9)]
        self.wrong(judge([sent()], three, [], deaths=[Death(7, 200.5, 201.0)]), "3 times")
        self.right(judge([sent()], three, [], deaths=[Death(7, 200.5, 201.0), Death(8, 230.0, 231.0)]))


class ContentTests(SynchronousTestCase):
    def test_intact(self) -> None:
        body = b"one\r\n.two\r\n"
        content = b"X-Digest: %s\r\n\r\n%s" % (digest(body).encode(), body)
        self.assertTrue(intact(content))
        self.assertTrue(intact(content.replace(b"\r\n", b"\n")))
        self.assertFalse(intact(content[:-2]))
        self.assertFalse(intact(content.replace(b"two", b"too")))

    def test_reports(self) -> None:
        report = (
            b'Content-Type: multipart/report; report-type=delivery-status; boundary="x"\n\n--x\n\nFailed.\n'
            b"--x\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; a.test\n\n"
            b"Final-Recipient: rfc822; bob@far.test\nAction: failed\n\n"
            b"Final-Recipient: rfc822; eve@far.test\nAction: delayed\n"
            b"--x\nContent-Type: text/rfc822-headers\n\nX-Tag: t1\n--x--\n"
        )
        self.assertEqual(reported(report), ("t1", [BOB]))
        self.assertEqual(reported(report.replace(b"\n", b"\r\n")), ("t1", [BOB]))
        self.assertEqual(reported(b"X-Tag: t1\n\nbody\n"), ("", []))
