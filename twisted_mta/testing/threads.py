"""Threads that are none: what the server gives to a pool is done at once, by whoever asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import argon2
from twisted.internet.defer import Deferred, execute
from twisted.python.failure import Failure

from ..directory.passwords import Hasher, hash_password

CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
"""argon2id at its cheapest: microseconds, and of no use against anybody."""


def call_inline(function: Callable[..., Any], *args: Any) -> Deferred[Any]:
    """Call a function now; a Deferred that has fired with what it returned, or failed with what it raised."""
    return execute(function, *args)


class InlinePool:
    """As much of a ``ThreadPool``, and of a reactor's side of one, as ``deferToThreadPool`` asks for."""

    def start(self) -> None:
        """There is nothing to start."""

    def stop(self) -> None:
        """There is nothing to stop."""

    def callFromThread(self, work: Callable[..., Any], *args: Any, **named: Any) -> None:  # noqa: N802
        """See ``IReactorFromThreads``."""
        work(*args, **named)

    def callInThreadWithCallback(  # noqa: N802
        self, done: Callable[[bool, Any], None], work: Callable[..., Any], *args: Any, **named: Any
    ) -> None:
        """See ``IThreadPool``."""
        try:
            result = work(*args, **named)
        except Exception:
            done(False, Failure())  # type: ignore[no-untyped-call]
        else:
            done(True, result)


def inline_hasher() -> Hasher:
    """A hasher that answers at once, with :data:`CHEAP`."""
    pool: Any = InlinePool()
    return Hasher(pool, pool, threads=1, waiting=1, hasher=CHEAP, iterations=4096)


def cheap_hash(password: str) -> str:
    """The hash of a password with :data:`CHEAP`."""
    return hash_password(password, CHEAP)
