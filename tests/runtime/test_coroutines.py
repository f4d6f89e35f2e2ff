"""Coroutines that are driven without a Deferred of their own."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.runtime.coroutines import run


class RunTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.done: list[Any] = []
        self.failed: list[BaseException] = []

    def run_it(self, coroutine: Any) -> None:
        run(coroutine, self.done.append, self.failed.append)

    def test_at_once(self) -> None:
        async def answer() -> int:
            return 1

        self.run_it(answer())
        self.assertEqual((self.done, self.failed), ([1], []))

    def test_fails_at_once(self) -> None:
        async def answer() -> int:
            raise KeyError(1)

        self.run_it(answer())
        self.assertEqual(self.done, [])
        self.assertIsInstance(self.failed[0], KeyError)

    def test_waits(self) -> None:
        first: Deferred[int] = Deferred()
        second: Deferred[int] = Deferred()

        async def inner() -> int:
            return await first

        async def answer() -> tuple[int, str]:
            number = await inner()
            try:
                await second
            except KeyError:
                return number, "caught"
            return number, "no"

        self.run_it(answer())
        self.assertEqual(self.done, [])
        first.callback(3)
        self.assertEqual(self.done, [])
        second.errback(KeyError("x"))
        self.assertEqual((self.done, self.failed), ([(3, "caught")], []))
        self.assertIsNone(self.successResultOf(first))

    def test_deferreds_that_have_fired(self) -> None:
        async def answer() -> int:
            total = 0
            for number in range(2000):
                total += await succeed(number)
            return total

        self.run_it(answer())
        self.assertEqual(self.done, [sum(range(2000))])

    def test_failure_of_a_deferred(self) -> None:
        later: Deferred[int] = Deferred()

        async def answer(waiting: Deferred[int]) -> int:
            return await waiting

        self.run_it(answer(fail(KeyError(1))))
        self.run_it(answer(later))
        later.errback(KeyError(2))
        self.assertEqual([error.args for error in self.failed], [(1,), (2,)])
        self.assertEqual(self.flushLoggedErrors(), [])
