"""Stages of an operator's own, found as ``twisted.plugin`` plugins.

A plugin is a module in a folder ``twisted/plugins/`` on Python's path (without ``__init__.py``) with an object that
provides :class:`~.interfaces.IPolicyFactory`::

    from twisted.plugin import IPlugin
    from twisted_mta.mail.status import Reply
    from twisted_mta.policy.interfaces import IPolicyFactory, Policy
    from zope.interface import implementer

    class NoDots(Policy):
        async def mail(self, peer, transaction):
            if transaction.sender.startswith("."):
                return Reply(550, "5.7.1", "No dots here")

    @implementer(IPlugin, IPolicyFactory)
    class Factory:
        name = "no-dots"
        order = 100

        def make(self, settings, directory, store, clock):
            return [NoDots()]

    factory = Factory()

All that are found are used, after our own stages, in the order of ``order`` and then ``name``.  A module that can't
be imported is logged by Twisted, and left out.
"""

from __future__ import annotations

from types import ModuleType

from twisted.internet.interfaces import IReactorTime
from twisted.plugin import getPlugins

from twisted import plugins

from ..config.settings import Settings
from ..directory.interfaces import IDirectory
from ..queue.interfaces import IMessageStore
from .interfaces import IPolicy, IPolicyFactory


def configured_policies(
    settings: Settings,
    directory: IDirectory,
    store: IMessageStore,
    clock: IReactorTime,
    package: ModuleType = plugins,
) -> list[IPolicy]:
    """The stages of all plugins found.  What a plugin raises is passed on: a service does not start without a policy
    that its operator has asked for."""
    factories = sorted(getPlugins(IPolicyFactory, package), key=lambda factory: (factory.order, factory.name))
    return [stage for factory in factories for stage in factory.make(settings, directory, store, clock)]
