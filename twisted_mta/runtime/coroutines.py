"""Coroutines that mostly have their answer at once."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

_T = TypeVar("_T")
_Awaits = Coroutine[Deferred[Any], Any, _T]


def run(
    coroutine: _Awaits[_T], done: Callable[[_T], object], failed: Callable[[BaseException], object]
) -> Running[_T] | None:
    """Run ``coroutine`` to its end, then call ``done`` with what it returned or ``failed`` with what it raised.

    As ``Deferred.fromCoroutine`` does, but with no Deferred of its own: where nothing is waited for, which is nearly
    always, this costs a fifth.  The coroutine may wait for Deferreds only.  None: it is over already.
    """
    try:
        waiting = coroutine.send(None)
    except StopIteration as stop:
        result = stop.value
    except Exception as error:
        failed(error)
        return None
    else:
        return Running(coroutine, waiting, done, failed)
    done(result)
    return None


class Running(Generic[_T]):
    """A coroutine that waits for something."""

    __slots__ = ("_coroutine", "_done", "_failed", "_waiting")

    def __init__(
        self,
        coroutine: _Awaits[_T],
        waiting: Deferred[Any],
        done: Callable[[_T], object],
        failed: Callable[[BaseException], object],
    ) -> None:
        self._coroutine = coroutine
        self._done = done
        self._failed = failed
        self._waiting: Deferred[Any] | None = waiting
        waiting.addBoth(self._resume)

    def cancel(self) -> None:
        """Cancel what it waits for, which raises ``CancelledError`` in it; nothing happens once it is over."""
        if self._waiting is not None:
            self._waiting.cancel()

    def _resume(self, result: object) -> None:
        try:
            if isinstance(result, Failure):
                following = self._coroutine.throw(cast(BaseException, result.value))
            else:
                # What is awaited takes its result out of the Deferred itself, where it still is while this runs.
                following = self._coroutine.send(None)
        except StopIteration as stop:
            end = stop.value
        except Exception as error:
            self._waiting = None
            self._failed(error)
            return
        else:
            self._waiting = following
            following.addBoth(self._resume)
            return
        self._waiting = None
        self._done(end)
