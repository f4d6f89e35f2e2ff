"""PLAIN and LOGIN (RFC 4954 §4, RFC 4616)."""

from __future__ import annotations

from base64 import b64encode

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.mail.status import Reply
from twisted_mta.wire import sasl
from twisted_mta.wire.sasl import Credentials, Login, Plain, SaslError


class DecodeTests(SynchronousTestCase):
    def refused(self, line: bytes, initial: bool = False) -> Reply:
        return self.assertRaises(SaslError, sasl.decode, line, initial).reply

    def test_base64(self) -> None:
        self.assertEqual(sasl.decode(b"AGFubgBzZWNyZXQ="), b"\0ann\0secret")
        self.assertEqual(sasl.decode(b""), b"")

    def test_equals_is_an_empty_initial_response(self) -> None:
        self.assertEqual(sasl.decode(b"=", True), b"")
        self.assertEqual(self.refused(b"=").code, 501)

    def test_cancel(self) -> None:
        self.assertEqual(self.refused(b"*"), sasl.CANCELLED)

    def test_strict(self) -> None:
        """Nothing but the alphabet, the right padding, and no stray bits in the last letter."""
        for line in (
            b"AGFubgBzZWNyZXQ",
            b"AGFu bgBz",
            b"AGFu\tbg==",
            b"AA=A",
            b"====",
            b"AGE!",
            b"AGF-",
            b"AB==",
            b"A",
        ):
            reply = self.refused(line)
            self.assertEqual((reply.code, reply.enhanced), (501, "5.5.2"), line)

    @given(st.binary(max_size=60), st.booleans())
    def test_only_sasl_error_escapes(self, line: bytes, initial: bool) -> None:
        try:
            decoded = sasl.decode(line, initial)
        except SaslError:
            return
        self.assertIn(b64encode(decoded), (line, b""))


class PlainTests(SynchronousTestCase):
    def test_with_initial_response(self) -> None:
        self.assertEqual(Plain().step(b"\0ann@x\0pass word"), Credentials("PLAIN", "ann@x", b"pass word"))

    def test_without(self) -> None:
        self.assertEqual(Plain().step(None), b"")

    def test_own_identity(self) -> None:
        self.assertEqual(Plain().step(b"ann\0ann\0s"), Credentials("PLAIN", "ann", b"s"))

    def test_refusals(self) -> None:
        for response, code in (
            (b"", 501),
            (b"ann\0secret", 501),
            (b"\0ann\0", 501),
            (b"\0\0secret", 501),
            (b"\0a\0b\0c", 501),
            (b"\0\xff\0secret", 501),
            (b"boss\0ann\0secret", 535),
            (b"\0" + b"a" * 2000 + b"\0s", 500),
            (b"\0a\0" + b"s" * 2000, 500),
        ):
            self.assertEqual(self.assertRaises(SaslError, Plain().step, response).reply.code, code, response[:20])


class LoginTests(SynchronousTestCase):
    def test_whole_exchange(self) -> None:
        login = Login()
        self.assertEqual(login.step(None), b"Username:")
        self.assertEqual(login.step(b"ann"), b"Password:")
        self.assertEqual(login.step(b"s"), Credentials("LOGIN", "ann", b"s"))

    def test_initial_response_is_the_name(self) -> None:
        login = Login()
        self.assertEqual(login.step(b"ann"), b"Password:")
        self.assertEqual(login.step(b"s"), Credentials("LOGIN", "ann", b"s"))

    def test_nul(self) -> None:
        login = Login()
        login.step(b"a\0b")
        self.assertEqual(self.assertRaises(SaslError, login.step, b"s").reply.code, 501)


class SecretTests(SynchronousTestCase):
    def test_password_is_not_shown(self) -> None:
        self.assertNotIn("hunter2", repr(Credentials("PLAIN", "ann", b"hunter2")))

    def test_challenge(self) -> None:
        self.assertEqual(sasl.challenge(b"Username:").encode(), b"334 VXNlcm5hbWU6\r\n")
        self.assertEqual(sasl.challenge(b"").encode(), b"334 \r\n")
