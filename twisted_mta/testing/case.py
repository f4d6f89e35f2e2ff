"""Test cases that have a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from twisted.trial.unittest import SynchronousTestCase

from ..delivery.interfaces import IDeliveryAgent
from ..policy.interfaces import IPolicy, IPolicyFactory
from .server import TestServer

_Method = TypeVar("_Method", bound=Callable[..., Any])


def configured(config: str) -> Callable[[_Method], _Method]:
    """A decorator of one test method: ``config`` is one more layer of TOML for its server."""

    def decorate(method: _Method) -> _Method:
        method.mta_config = config  # type: ignore[attr-defined]
        return method

    return decorate


class MtaTestCase(SynchronousTestCase):
    """Each test has a server of its own, ``self.server``, which is stopped after it.

    ``config`` is TOML over :data:`~.settings.DEFAULTS`; :func:`configured` adds to it for one method.  ``store`` is as
    for :class:`~.server.TestServer`, and so is what :meth:`make_policies` and :meth:`make_agents` give.  Once a test
    is over the books must balance, unless ``balanced`` says no, and nothing may be left in the reactor.
    """

    config: str = ""
    store: Literal["lmdb", "memory"] = "lmdb"
    balanced: bool = True
    server: TestServer

    def make_policies(self) -> Sequence[IPolicy | IPolicyFactory]:
        """Stages, or factories of them, that follow the server's own."""
        return ()

    def make_agents(self) -> Mapping[str, IDeliveryAgent]:
        """Further delivery agents by name."""
        return {}

    def setUp(self) -> None:
        """Start the server."""
        super().setUp()
        method = getattr(self, self._testMethodName)
        layers = [self.config, getattr(method, "mta_config", "")]
        self.server = TestServer(
            *layers,
            folder=self.mktemp(),  # type: ignore[no-untyped-call]
            store=self.store,
            policies=self.make_policies(),
            agents=self.make_agents(),
        )
        self.addCleanup(self.server.close)
        self.addCleanup(self._balance)

    def _balance(self) -> None:
        if self.balanced and self.server.running:
            self.server.assert_balanced()
