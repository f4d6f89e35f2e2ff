"""A reactor and a thread pool that do everything at once, or when told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import argon2
from twisted.python.failure import Failure

from twisted_mta.directory.passwords import Hasher

CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
OTHER = argon2.PasswordHasher(time_cost=2, memory_cost=8, parallelism=1)


class Pool:
    """Stands in for both the reactor and the pool.  While ``held``, work waits for :meth:`release`."""

    def __init__(self) -> None:
        self.held = False
        self.waiting: list[Callable[[], None]] = []
        self.running = False
        self.jobs = 0

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False
        self.release()

    def callFromThread(self, work: Callable[..., Any], *args: Any, **named: Any) -> None:
        work(*args, **named)

    def callInThreadWithCallback(
        self, done: Callable[[bool, Any], None], work: Callable[..., Any], *args: Any, **named: Any
    ) -> None:
        self.jobs += 1

        def run() -> None:
            try:
                result = work(*args, **named)
            except Exception:
                done(False, Failure())
            else:
                done(True, result)

        if self.held:
            self.waiting.append(run)
        else:
            run()

    def release(self) -> None:
        self.held = False
        while self.waiting:
            self.waiting.pop(0)()


def hasher(pool: Pool, threads: int = 2, waiting: int = 2, parameters: argon2.PasswordHasher = CHEAP) -> Hasher:
    """A hasher on that pool."""
    return Hasher(pool, pool, threads, waiting, parameters)  # type: ignore[arg-type]
