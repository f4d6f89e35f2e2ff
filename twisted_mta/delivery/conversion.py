"""The content of a message, converted for a server that takes less, as agents read it.

Source: RFC 6152 §3, RFC 3030 §3.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from zope.interface import implementer

from ..mail.conversion import Converter, Plan, Survey, Target
from ..mail.envelope import Body
from ..mail.mime import Unclear
from ..mail.status import MailError, Reply
from .interfaces import IContent, Job

TURN = 8
"""Chunks that are looked at in one turn of the reactor."""


@implementer(IContent)
class Converted:
    """A content as a plan has it.  To be read from the start, chunk by chunk; ``size`` is about right, and exact where
    the whole is in memory."""

    __slots__ = ("_content", "_converter", "_next", "_plan", "chunks", "size", "target", "whole")

    plain = False

    def __init__(self, content: IContent, plan: Plan) -> None:
        self._content = content
        self._plan = plan
        self._converter = Converter(plan)
        self._next = 0
        self.target: Target = plan.target
        self.chunks = content.chunks
        self.size = plan.size
        self.whole: bytes | None = None
        if content.whole is not None:
            self.whole = self._converter.convert(content.whole) + self._converter.close()
            self.size = len(self.whole)

    def read(self, chunk: int) -> Deferred[bytes]:
        """See :class:`IContent`.  Raises IndexError out of order."""
        if self.whole is not None:
            return succeed(self.whole)
        if chunk == 0:
            self._converter, self._next = Converter(self._plan), 0
        if chunk != self._next:
            raise IndexError(f"chunk {self._next} is next, not {chunk}")
        self._next += 1
        return self._content.read(chunk).addCallback(self._convert, chunk == self.chunks - 1)

    def _convert(self, data: bytes, last: bool) -> bytes:
        converted = self._converter.convert(data)
        return converted + self._converter.close() if last else converted


async def convert(content: IContent, target: Target, clock: Any) -> Converted:
    """The content as a server takes it.  ``clock`` is the reactor, which gets a turn now and then.

    Raises :class:`~twisted_mta.mail.status.MailError`: 554 5.6.3 where it cannot be converted, or what reading raises.
    """
    survey = Survey(target)
    try:
        if content.whole is not None:
            survey.feed(content.whole)
        else:
            for chunk in range(content.chunks):
                if chunk and chunk % TURN == 0:
                    await deferLater(clock, 0)
                survey.feed(await content.read(chunk))
        survey.finish()
    except Unclear as error:
        what = "8-bit" if target == "7bit" else "binary"
        words = f"The server takes no {what} content, and the message cannot be converted: it {error}"
        raise MailError(Reply(554, "5.6.3", words)) from None
    return Converted(content, survey.plan())


async def fit(job: Job, eight_bit: bool, binary: bool, before: Converted | None, clock: Any) -> tuple[IContent, Body]:
    """The content of a job as a server takes it that offers ``eight_bit`` and ``binary`` or not, and its body type.

    ``before`` is what an earlier transaction was given, to be used again.  Raises as :func:`convert` does.
    """
    content, body = job.content, job.message.body
    target: Target = "8bit" if eight_bit else "7bit"
    if body == "BINARYMIME":
        if binary:
            return content, body
    else:
        if body == "7BIT" and (content.whole is None or content.whole.isascii()):
            return content, body
        if eight_bit:
            return content, "8BITMIME"
        # What was declared may be more than what is there: only octets beyond ASCII need the extension.
        if not await _has_eight_bit(content):
            return content, "7BIT"
    if before is None or before.target != target:
        before = await convert(content, target, clock)
    return before, "7BIT" if target == "7bit" else "8BITMIME"


async def _has_eight_bit(content: IContent) -> bool:
    if content.whole is not None:
        return not content.whole.isascii()
    for chunk in range(content.chunks):
        if not (await content.read(chunk)).isascii():
            return True
    return False
