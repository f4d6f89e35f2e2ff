"""Passwords: argon2id, always off the reactor thread, and the same time spent whether or not the user exists.

The parameters are OWASP's first recommendation for argon2id (19 MiB, two passes, one lane; Password Storage Cheat
Sheet).  RFC 9106's second choice (64 MiB, three passes, four lanes) takes five times as long here, and four threads
for each login: more than a mail server can give to a burst of phones that come back from a tunnel.  A password stored
with other parameters is hashed again at its next login.

Passwords are compared as RFC 8265 §4.2 (OpaqueString) has it: other spaces than U+0020 are mapped to it, and the
text is normalised to NFC, so that the same password typed on another system is the same password.
"""

from __future__ import annotations

import base64
import os
import threading
import unicodedata
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import argon2
from argon2.exceptions import Argon2Error, InvalidHashError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from ..mail.status import MailError, Reply
from ..wire import scram

T = TypeVar("T")

MEMORY = 19456  # KiB
PASSES = 2
LANES = 1
MAX_PASSWORD = 1024  # octets
WAITING = 128
"""Logins that may wait for a thread: about two seconds' worth on two cores."""

_argon2 = argon2.PasswordHasher(time_cost=PASSES, memory_cost=MEMORY, parallelism=LANES)
_BUSY = Reply(454, "4.7.0", "Too many logins are being checked just now; try again in a minute")
_STOPPING = Reply(454, "4.7.0", "The service is stopping; try again in a minute")


def prepare(password: str) -> str:
    """A password as it is compared (RFC 8265 §4.2).  Raises ValueError with words for whoever chose it."""
    if not password.isascii():
        spaced = "".join(" " if unicodedata.category(letter) == "Zs" else letter for letter in password)
        password = unicodedata.normalize("NFC", spaced)
    if not password:
        raise ValueError("A password can't be empty")
    if len(password) > MAX_PASSWORD or len(password.encode("utf-8", "surrogatepass")) > MAX_PASSWORD:
        raise ValueError(f"A password can't be longer than {MAX_PASSWORD} octets")
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in password):
        raise ValueError("A password can't have control characters")
    return password


def hash_password(password: str, hasher: argon2.PasswordHasher = _argon2) -> str:
    """The argon2id hash to store for a password.  Takes tens of milliseconds: for the command line, and for threads.
    Raises ValueError for a password that is empty, longer than 1024 octets, or has control characters."""
    return hasher.hash(prepare(password))


def scram_keys(password: str, iterations: int = scram.ITERATIONS) -> str:
    """The SCRAM keys to store for a password.  Takes longer than :func:`hash_password`, and raises like it."""
    return str(scram.Keys.make(prepare(password), iterations=iterations))


def verify_password(password_hash: str, password: str, hasher: argon2.PasswordHasher = _argon2) -> bool:
    """Whether a password fits a hash.  As slow as :func:`hash_password`; a broken hash fits nothing."""
    try:
        return hasher.verify(password_hash, prepare(password))
    except (ValueError, Argon2Error, InvalidHashError):
        return False


def dummy_hash(hasher: argon2.PasswordHasher) -> str:
    """A well-formed hash that no password fits, to spend on unknown users the time that known ones take."""
    salt, digest = (
        base64.b64encode(os.urandom(octets)).rstrip(b"=").decode() for octets in (hasher.salt_len, hasher.hash_len)
    )
    return f"$argon2id$v=19$m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}${salt}${digest}"


class Threads:
    """A bounded pool of threads for work that blocks.

    ``name`` is the threads', ``threads`` how many work at once, ``waiting`` how much more may wait; beyond that,
    :class:`MailError` 454 4.7.0 (RFC 4954 §6).  Whoever calls :meth:`start` calls :meth:`stop`.
    """

    def __init__(
        self,
        reactor: IReactorFromThreads,
        name: str,
        threads: int,
        waiting: int = WAITING,
        pool: ThreadPool | None = None,
    ) -> None:
        self._reactor = reactor
        self._pool = pool if pool is not None else ThreadPool(0, threads, name)
        self._room = threads + waiting
        self._stopped = False

    def start(self) -> None:
        """Be ready."""
        self._stopped = False
        self._pool.start()

    def stop(self) -> None:
        """Let the work under way end, refuse what waits, end the threads.  Blocks for one piece of work at most."""
        self._stopped = True
        self._pool.stop()

    def leave(self) -> None:
        """The same without blocking: the work under way may last as long as it likes, and nobody hears of it."""
        self._stopped = True
        threading.Thread(target=self._pool.stop, daemon=True).start()

    def run(self, work: Callable[[], T]) -> Deferred[T]:
        """Run ``work`` in one of the threads.  Fails with :class:`MailError` 454 4.7.0 when too many wait."""
        if self._stopped:
            raise MailError(_STOPPING)
        if self._room <= 0:
            raise MailError(_BUSY)
        self._room -= 1
        done = cast("Deferred[T]", deferToThreadPool(self._reactor, self._pool, self._work, work))
        return done.addBoth(self._free)

    def _work(self, work: Callable[[], T]) -> T:
        if self._stopped:
            raise MailError(_STOPPING)
        return work()

    def _free(self, result: Any) -> Any:
        self._room += 1
        return result


class Hasher(Threads):
    """Hashes and verifies passwords in a bounded pool of threads of its own.

    ``threads`` is by default one for each core, four at most; each takes 19 MiB while it works.
    """

    def __init__(
        self,
        reactor: IReactorFromThreads,
        pool: ThreadPool | None = None,
        threads: int = 0,
        waiting: int = WAITING,
        hasher: argon2.PasswordHasher = _argon2,
        iterations: int = scram.ITERATIONS,
    ) -> None:
        super().__init__(reactor, "argon2", threads or min(os.cpu_count() or 1, 4), waiting, pool)
        self._hasher = hasher
        self._iterations = iterations
        self._dummy = dummy_hash(hasher)

    async def verify(self, password_hash: str, password: str) -> bool:
        """Whether a password fits a hash; "" (a user who is not there, or has no password) fits nothing, and takes as
        long.  Fails with :class:`MailError` 454 4.7.0 when too many wait."""
        return await self.run(partial(verify_password, password_hash or self._dummy, password, self._hasher))

    async def hash(self, password: str) -> str:
        """The hash to store for a password.  Fails like :meth:`verify`, and with ValueError like
        :func:`hash_password`."""
        return await self.run(partial(hash_password, password, self._hasher))

    async def keys(self, password: str) -> str:
        """The SCRAM keys to store for a password.  Fails like :meth:`hash`."""
        return await self.run(partial(scram_keys, password, self._iterations))

    def outdated(self, password_hash: str) -> bool:
        """Whether a hash was made with other parameters than ours."""
        try:
            return self._hasher.check_needs_rehash(password_hash)
        except InvalidHashError:
            return False

    def outdated_keys(self, keys: str) -> bool:
        """Whether SCRAM keys are missing, or were made with another number of rounds than ours."""
        known = scram.Keys.parse(keys)
        return known is None or known.iterations != self._iterations
