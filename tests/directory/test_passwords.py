"""Hashing and verifying passwords."""

from __future__ import annotations

import threading
import time

import argon2
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase

from tests.directory.inline import CHEAP, OTHER, Pool, hasher
from twisted_mta.directory.passwords import (
    Hasher,
    dummy_hash,
    hash_password,
    prepare,
    verify_password,
)
from twisted_mta.mail.status import MailError


class Functions(SynchronousTestCase):
    """Without threads."""

    def test_argon2id_as_documented(self) -> None:
        password_hash = hash_password("secret")
        self.assertTrue(password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$"))
        self.assertTrue(verify_password(password_hash, "secret"))
        self.assertFalse(verify_password(password_hash, "Secret"))
        self.assertNotEqual(hash_password("secret"), password_hash)

    def test_broken_hashes_fit_nothing(self) -> None:
        for broken in ("", "secret", "$argon2id$", "$argon2id$v=19$m=8,t=1,p=1$AAAA$", "$2b$12$abc"):
            self.assertFalse(verify_password(broken, "secret"), broken)

    def test_dummy_is_well_formed(self) -> None:
        for parameters in (CHEAP, OTHER, argon2.PasswordHasher()):
            dummy = dummy_hash(parameters)
            self.assertFalse(parameters.check_needs_rehash(dummy))
            with self.assertRaises(argon2.exceptions.VerifyMismatchError):
                parameters.verify(dummy, "secret")

    def test_prepared(self) -> None:
        for given_, prepared in (
            ("secret word", "secret word"),
            ("pass\u00a0word", "pass word"),
            ("pass\u3000word", "pass word"),
            ("A\u030angstro\u0308m", "\u00c5ngstr\u00f6m"),
            ("\u2168", "\u2168"),  # NFC, not NFKC
        ):
            self.assertEqual(prepare(given_), prepared)
        for refused in ("", "a\0b", "a\x1fb", "\x7f", "x" * 1025, "é" * 513, "\ud800"):
            with self.assertRaises(ValueError):
                prepare(refused)
        self.assertEqual(len(prepare("x" * 1024)), 1024)

    @given(st.text())
    def test_prepared_once_is_prepared(self, password: str) -> None:
        try:
            once = prepare(password)
        except ValueError:
            return
        self.assertEqual(prepare(once), once)


class Bounded(SynchronousTestCase):
    """The pool takes so much and no more."""

    def setUp(self) -> None:
        self.pool = Pool()
        self.hasher = hasher(self.pool, threads=1, waiting=2)
        self.secret = CHEAP.hash("secret")

    def verify(self, password_hash: str, password: str) -> Deferred[bool]:
        return Deferred.fromCoroutine(self.hasher.verify(password_hash, password))

    def test_verify(self) -> None:
        self.assertTrue(self.successResultOf(self.verify(self.secret, "secret")))
        self.assertFalse(self.successResultOf(self.verify(self.secret, "wrong")))

    def test_nobody_takes_as_long(self) -> None:
        verified: list[str] = []

        class Spy(argon2.PasswordHasher):
            def verify(self, *args: str) -> bool:
                verified.append(args[0])
                return super().verify(*args)

        self.hasher = hasher(self.pool, parameters=Spy(1, 8, 1))
        self.assertFalse(self.successResultOf(self.verify("", "secret")))
        (dummy,) = verified
        self.assertEqual(argon2.extract_parameters(dummy), argon2.extract_parameters(CHEAP.hash("x")))

    def test_too_many(self) -> None:
        self.pool.held = True
        accepted = [self.verify(self.secret, "secret") for _ in range(3)]
        error = self.failureResultOf(self.verify(self.secret, "secret"), MailError).value
        self.assertEqual((error.reply.code, error.reply.enhanced), (454, "4.7.0"))
        self.assertEqual(self.pool.jobs, 3)
        self.pool.release()
        for each in accepted:
            self.assertTrue(self.successResultOf(each))
        self.assertTrue(self.successResultOf(self.verify(self.secret, "secret")))

    def test_a_failure_makes_room(self) -> None:
        for _ in range(10):
            self.failureResultOf(self.hasher.run(lambda: 1 // 0), ZeroDivisionError)
        self.assertTrue(self.successResultOf(self.verify(self.secret, "secret")))

    def test_stop(self) -> None:
        self.hasher.start()
        self.pool.held = True
        waiting = self.verify(self.secret, "secret")
        self.hasher.stop()
        self.assertTrue(self.failureResultOf(waiting, MailError).value.temporary)
        self.assertTrue(self.failureResultOf(self.verify(self.secret, "secret"), MailError).value.temporary)
        self.hasher.start()
        self.assertTrue(self.successResultOf(self.verify(self.secret, "secret")))

    def test_outdated(self) -> None:
        self.assertFalse(self.hasher.outdated(self.secret))
        self.assertTrue(self.hasher.outdated(OTHER.hash("secret")))
        self.assertFalse(self.hasher.outdated("broken"))


class Threads(SynchronousTestCase):
    """With a real pool: not on the caller's thread."""

    def test_off_the_thread(self) -> None:
        calls: list[object] = []

        class Reactor(Clock):
            def callFromThread(self, work: object, *args: object) -> None:
                calls.append((work, args))

        pool = ThreadPool(0, 1, "test")
        hashes = Hasher(Reactor(), pool)  # type: ignore[arg-type]
        hashes.start()
        self.addCleanup(hashes.stop)
        done = hashes.run(threading.get_ident)
        deadline = time.monotonic() + 10
        while not calls and time.monotonic() < deadline:
            time.sleep(0.001)
        ((work, args),) = calls
        self.assertNoResult(done)
        work(*args)
        self.assertNotEqual(self.successResultOf(done), threading.get_ident())
