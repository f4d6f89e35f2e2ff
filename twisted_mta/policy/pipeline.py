"""The pipeline: the stages in their order, made ready to be asked."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from ..directory.interfaces import Resolution
from ..mail.status import Reply
from .interfaces import IPolicy, Peer, Policy, Transaction

Answer = Coroutine[Any, Any, Reply | None]


class Pipeline:
    """For each hook, the bound methods of those stages that override it, in the order of the stages.

    Asking is ``for hook in pipeline.mail: if (reply := await hook(peer, transaction)) is not None: ...``: a stage that
    does not care for a hook, or is idle, costs nothing.  ``closed`` are plain functions, all to be called.
    """

    __slots__ = ("closed", "connect", "content", "data", "helo", "mail", "rcpt", "stages")

    def __init__(self, stages: Sequence[IPolicy]) -> None:
        self.stages = tuple(stages)
        self.connect: tuple[Callable[[Peer], Answer], ...] = self._hooks("connect")
        self.helo: tuple[Callable[[Peer, str], Answer], ...] = self._hooks("helo")
        self.mail: tuple[Callable[[Peer, Transaction], Answer], ...] = self._hooks("mail")
        self.rcpt: tuple[Callable[[Peer, Transaction, str, Resolution], Answer], ...] = self._hooks("rcpt")
        self.data: tuple[Callable[[Peer, Transaction], Answer], ...] = self._hooks("data")
        self.content: tuple[Callable[[Peer, Transaction, Any], Answer], ...] = self._hooks("content")
        self.closed: tuple[Callable[[Peer], None], ...] = self._hooks("closed")

    def _hooks(self, name: str) -> tuple[Any, ...]:
        allows = getattr(Policy, name)
        asked = (stage for stage in self.stages if name == "closed" or not getattr(stage, "idle", False))
        hooks = (getattr(stage, name) for stage in asked)
        return tuple(hook for hook in hooks if getattr(hook, "__func__", hook) is not allows)
