"""The machine's name."""

from __future__ import annotations

from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.runtime.names import machine_name


class Names(SynchronousTestCase):
    def named(self, plain: str, full: str) -> str:
        with mock.patch("socket.gethostname", return_value=plain), mock.patch("socket.getfqdn", return_value=full):
            return machine_name()

    def test_names(self) -> None:
        self.assertEqual(self.named("MX1.isp.example", "localhost.localdomain"), "mx1.isp.example")
        self.assertEqual(self.named("mx1", "MX1.isp.example"), "mx1.isp.example")
        self.assertEqual(self.named("mx1", "localhost"), "mx1")
