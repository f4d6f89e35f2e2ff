"""The pipeline asks only those who care, and plugins join it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.directory.test_contract import now
from tests.policy.samples import directory, peer, transaction
from twisted_mta.config.settings import Settings
from twisted_mta.mail.status import Reply
from twisted_mta.policy.access import AccessPolicy
from twisted_mta.policy.connections import ConnectionPolicy
from twisted_mta.policy.interfaces import IPolicy, Peer, Policy, Transaction
from twisted_mta.policy.pipeline import Pipeline
from twisted_mta.policy.plugins import configured_policies
from twisted_mta.policy.submission import SubmissionPolicy

HOOKS = ("connect", "helo", "mail", "rcpt", "data", "content", "closed")


class Mail(Policy):
    async def mail(self, peer: Peer, transaction: Transaction) -> Reply | None:
        return Reply(550, "5.7.1", f"{type(self).__name__}")


class Child(Mail):
    def closed(self, peer: Peer) -> None:
        peer.errors += 1


@implementer(IPolicy)
class Whole:
    """Not a child of Policy: all its hooks are its own."""

    async def connect(self, peer: Any) -> None: ...

    async def helo(self, peer: Any, name: str) -> None: ...

    async def mail(self, peer: Any, transaction: Any) -> None: ...

    async def rcpt(self, peer: Any, transaction: Any, recipient: str, resolution: Any) -> None: ...

    async def data(self, peer: Any, transaction: Any) -> None: ...

    async def content(self, peer: Any, transaction: Any, head: Any) -> None: ...

    def closed(self, peer: Any) -> None: ...


class Hooks(SynchronousTestCase):
    """Which methods are asked."""

    def hooks(self, pipeline: Pipeline) -> dict[str, int]:
        return {hook: len(getattr(pipeline, hook)) for hook in HOOKS if getattr(pipeline, hook)}

    def test_only_what_is_overridden(self) -> None:
        self.assertEqual(self.hooks(Pipeline([])), {})
        self.assertEqual(self.hooks(Pipeline([Policy(), Policy()])), {})
        self.assertEqual(self.hooks(Pipeline([Policy(), Mail(), Child()])), {"mail": 2, "closed": 1})
        self.assertEqual(self.hooks(Pipeline([Whole()])), dict.fromkeys(HOOKS, 1))

    def test_order(self) -> None:
        pipeline = Pipeline([Child(), Policy(), Mail()])
        replies = [now(hook(peer(), transaction())) for hook in pipeline.mail]
        self.assertEqual([reply.text for reply in replies if reply is not None], ["Child", "Mail"])
        one = peer()
        for closed in pipeline.closed:
            closed(one)
        self.assertEqual(one.errors, 1)

    def test_idle_stages_are_asked_nothing_but_hear_of_the_end(self) -> None:
        child = Child()
        child.idle = True
        self.assertEqual(self.hooks(Pipeline([child, Mail()])), {"mail": 1, "closed": 1})

    def test_ours_provide_what_they_must(self) -> None:
        here = directory()
        for stage in (
            Policy(),
            AccessPolicy(here, Settings()),
            SubmissionPolicy(here, Settings()),
            ConnectionPolicy(Settings()),
        ):
            verifyObject(IPolicy, stage)


PLUGIN = """
from twisted.plugin import IPlugin
from twisted_mta.policy.interfaces import IPolicyFactory, Policy
from zope.interface import implementer

class Stage(Policy):
    def __init__(self, words):
        self.words = words

@implementer(IPlugin, IPolicyFactory)
class Factory:
    def __init__(self, name, order):
        self.name, self.order = name, order
    def make(self, settings, directory, store, clock):
        if self.name == "{broken}":
            raise ValueError("broken")
        return [Stage(self.name), Stage(settings.hostname)]

late, early = Factory("late", 20), Factory("early", 10)
"""


class Plugins(SynchronousTestCase):
    """Stages of an operator's own."""

    def found(self, broken: str = "") -> list[Any]:
        base = Path(self.mktemp()).resolve()
        name = f"plugins_of_{base.parent.name}"
        (base / name).mkdir(parents=True)
        (base / name / "__init__.py").touch()
        (base / name / "stages.py").write_text(PLUGIN.format(broken=broken))
        self.patch(sys, "path", [str(base), *sys.path])
        self.patch(sys, "modules", dict(sys.modules))
        package = importlib.import_module(name)
        return configured_policies(Settings(hostname="mx1"), directory(), None, Clock(), package)

    def test_found_in_order(self) -> None:
        self.assertEqual([stage.words for stage in self.found()], ["early", "mx1", "late", "mx1"])

    def test_a_broken_one_stops_the_start(self) -> None:
        with self.assertRaisesRegex(ValueError, "broken"):
            self.found("late")

    def test_none(self) -> None:
        self.assertEqual(configured_policies(Settings(), directory(), None, Clock()), [])
