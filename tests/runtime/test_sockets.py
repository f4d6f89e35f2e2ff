"""Listening sockets on loopback."""

from __future__ import annotations

import errno
import socket
from unittest import mock

from twisted.internet.protocol import ServerFactory
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from twisted_mta.runtime.sockets import adopt, bind
from twisted_mta.runtime.unix_sockets import BindError


class Bind(SynchronousTestCase):
    def bound(self, address: str, port: int = 0) -> socket.socket:
        sock = bind(address, port)
        self.addCleanup(sock.close)
        return sock

    def test_listens(self) -> None:
        sock = self.bound("127.0.0.1")
        with socket.create_connection(sock.getsockname()):
            pass
        self.assertFalse(sock.getblocking())
        self.assertFalse(sock.get_inheritable())

    def test_both_families_on_one_port(self) -> None:
        """What [listen.mx] address = ["0.0.0.0", "::"] asks for."""
        if not socket.has_dualstack_ipv6():
            raise SkipTest("no IPv6 here")
        port = self.bound("0.0.0.0").getsockname()[1]
        self.assertEqual(self.bound("::", port).getsockname()[1], port)

    def test_taken(self) -> None:
        port = self.bound("127.0.0.1").getsockname()[1]
        error = self.assertRaises(BindError, bind, "127.0.0.1", port)
        self.assertIn(f"127.0.0.1:{port} cannot be listened on: another program has it", str(error))
        self.assertIn(f"ss -ltnp sport = :{port}", str(error))

    def test_not_ours(self) -> None:
        error = self.assertRaises(BindError, bind, "192.0.2.1", 2525)
        self.assertIn(
            '192.0.2.1:2525 cannot be listened on: this machine has no such address; "ip address"', str(error)
        )

    def test_not_allowed(self) -> None:
        with mock.patch("socket.socket.bind", side_effect=OSError(errno.EACCES, "Permission denied")):
            error = self.assertRaises(BindError, bind, "::1", 25)
        self.assertIn("[::1]:25 cannot be listened on: ports below 1024 need root or CAP_NET_BIND_SERVICE", str(error))

    def test_no_ipv6(self) -> None:
        with mock.patch("socket.socket", side_effect=OSError(errno.EAFNOSUPPORT, "Address family not supported")):
            error = self.assertRaises(BindError, bind, "::", 25)
        self.assertIn("this machine has no IPv6; leave the IPv6 addresses out", str(error))

    def test_adopted(self) -> None:
        """The reactor has a descriptor of its own, and ours is closed."""
        from twisted.internet import reactor

        sock = bind("127.0.0.1", 0)
        place = sock.getsockname()
        port = adopt(reactor, sock, ServerFactory())
        self.addCleanup(port.stopListening)
        self.assertEqual(sock.fileno(), -1)
        self.assertEqual((port.getHost().host, port.getHost().port), place)
