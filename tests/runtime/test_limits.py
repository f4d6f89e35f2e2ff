"""Open files."""

from __future__ import annotations

import resource
from unittest import mock

import attrs
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.config import Settings
from twisted_mta.config.settings import Relay, Smtp
from twisted_mta.runtime.limits import descriptors_needed, raise_descriptors

SETTINGS = Settings(smtp=Smtp(connections=3000), relay=Relay(connections=500))


class Limits(SynchronousTestCase):
    def raised(self, soft: int, hard: int, settings: Settings = SETTINGS) -> tuple[list[tuple[int, int]], str]:
        with (
            mock.patch("resource.getrlimit", return_value=(soft, hard)),
            mock.patch("resource.setrlimit") as setrlimit,
        ):
            problem = raise_descriptors(settings)
        return [call.args[1] for call in setrlimit.call_args_list], str(problem or "")

    def test_raised_as_far_as_needed(self) -> None:
        self.assertEqual(self.raised(1024, 524288), ([(3756, 524288)], ""))
        self.assertEqual(self.raised(1024, resource.RLIM_INFINITY), ([(3756, resource.RLIM_INFINITY)], ""))

    def test_enough(self) -> None:
        self.assertEqual(self.raised(4096, 4096), ([], ""))
        self.assertEqual(self.raised(resource.RLIM_INFINITY, resource.RLIM_INFINITY), ([], ""))

    def test_too_few(self) -> None:
        calls, warning = self.raised(1024, 2048)
        self.assertEqual(calls, [(2048, 2048)])
        self.assertEqual(
            warning,
            "smtp.connections: warning: 3000 and relay.connections may need 3756 open files, but the process may have "
            "2048; raise LimitNOFILE= of the unit (ulimit -Hn) to 3756, or lower the connections",
        )

    def test_forbidden(self) -> None:
        with (
            mock.patch("resource.getrlimit", return_value=(1024, 4096)),
            mock.patch("resource.setrlimit", side_effect=PermissionError),
        ):
            self.assertIn("the process may have 1024", str(raise_descriptors(SETTINGS)))

    def test_needed(self) -> None:
        more = attrs.evolve(SETTINGS, smtp=Smtp(connections=3001))
        self.assertEqual(descriptors_needed(more), descriptors_needed(SETTINGS) + 1)
