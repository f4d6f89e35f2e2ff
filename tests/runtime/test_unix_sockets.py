"""Listening Unix sockets: who may open them, what a start finds, and who takes them away."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from pathlib import Path
from unittest import mock

from twisted.internet.protocol import ServerFactory
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from twisted_mta.runtime import privileges, sockets
from twisted_mta.runtime.unix_sockets import BindError, adopt, bind, remove


class UnixSockets(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = str(Path(folder.name) / "run" / "lmtp")

    def bound(self, mode: int = 0o660, owner: privileges.Account | None = None) -> socket.socket:
        sock = bind(self.path, mode, owner)
        self.addCleanup(sock.close)
        return sock

    def mode(self) -> int:
        return stat.S_IMODE(os.stat(self.path).st_mode)

    def test_listens(self) -> None:
        sock = self.bound()
        self.assertEqual(self.mode(), 0o660)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.path)
        self.assertFalse(sock.getblocking())
        self.assertFalse(sock.get_inheritable())

    def test_nobody_else_before_its_mode_is_set(self) -> None:
        Path(self.path).parent.mkdir()
        with mock.patch.object(Path, "chmod", side_effect=lambda mode: self.seen.append(self.mode())):
            self.seen: list[int] = []
            self.bound(0o666)
        self.assertEqual(self.seen, [0])

    def test_owner(self) -> None:
        if os.geteuid() != 0:
            raise SkipTest("only root gives files away")
        self.bound(owner=privileges.Account(name="nobody", uid=65534, gid=65533, home=""))
        found = os.stat(self.path)
        self.assertEqual((found.st_uid, found.st_gid), (65534, 65533))

    def test_a_group_that_is_not_ours(self) -> None:
        with mock.patch("os.chown", side_effect=PermissionError(1, "Operation not permitted")):
            error = self.assertRaises(BindError, bind, self.path, 0o660, privileges.own_account("root"))
        self.assertIn("make the user a member of socket_group", str(error))
        self.assertFalse(Path(self.path).exists())

    def test_what_a_dead_process_left(self) -> None:
        self.bound().close()
        self.bound()

    def test_taken(self) -> None:
        self.bound()
        error = self.assertRaises(BindError, bind, self.path, 0o660)
        self.assertIn(f"unix:{self.path} cannot be listened on: another program has it", str(error))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.path)

    def test_something_else_is_there(self) -> None:
        Path(self.path).parent.mkdir()
        Path(self.path).write_text("precious")
        error = self.assertRaises(BindError, bind, self.path, 0o660)
        self.assertIn("something that is no socket is there already", str(error))
        self.assertEqual(Path(self.path).read_text(), "precious")

    def test_removed(self) -> None:
        self.bound()
        remove(self.path)
        self.assertFalse(Path(self.path).exists())
        remove(self.path)

    def test_adopted(self) -> None:
        """Twisted's own port would open the file to everybody, and take it away while others still accept."""
        from twisted.internet import reactor

        first = self.bound(0o600)
        for take in (
            lambda: adopt(reactor, first, ServerFactory()),
            lambda: sockets.adopt(reactor, first.dup(), ServerFactory()),
        ):  # type: ignore[arg-type]
            port = take()
            self.assertEqual(self.mode(), 0o600)
            port.stopReading()  # type: ignore[attr-defined]
            port.connectionLost(None)  # type: ignore[attr-defined]
            self.assertTrue(Path(self.path).exists())
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.path)
