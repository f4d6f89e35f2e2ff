"""The life of one worker as its parent sees it: a state machine, without processes or clocks.

down - begin -> starting - ready -> serving; a worker that ends in between is down for a while (resting) and starts
again; after stop it is ending, and then gone.  A worker that does not answer is killed, which ends it.
"""

from __future__ import annotations

from typing import Literal, Protocol

from automat import TypeMachineBuilder

STEADY = 10.0
"""Seconds after which a worker that served is not held to have died at once."""
FIRST_REST, LAST_REST = 0.25, 30.0
"""Seconds until a worker that died at once is started again: the second time, and at most."""
LOST = 3
"""Deaths at once in a row after which a worker's destinations go over to the others."""

State = Literal["down", "starting", "serving", "resting", "ending", "gone"]


def rest(failures: int) -> float:
    """Seconds to wait after so many deaths at once in a row."""
    return 0.0 if failures <= 1 else float(min(FIRST_REST * 2.0 ** min(failures - 2, 20), LAST_REST))


class ILife(Protocol):
    """What happens to a worker."""

    def begin(self) -> None:
        """It is wanted."""

    def ready(self) -> None:
        """It serves."""

    def ended(self) -> None:
        """Its process has ended."""

    def silent(self) -> None:
        """It has not answered for too long."""

    def again(self) -> None:
        """It has rested."""

    def stop(self) -> None:
        """It is not wanted any more; it has been told, if it is there to hear it."""


class IKeeper(Protocol):
    """What is done about it."""

    state: State

    def spawn(self) -> None:
        """Start the process."""

    def kill(self) -> None:
        """Kill it."""

    def rest(self) -> None:
        """Say ``again`` when it has rested."""

    def over(self) -> None:
        """It is gone for good."""


class Keeper:
    """Does nothing; to be derived from."""

    state: State = "down"

    def spawn(self) -> None:
        """See :class:`IKeeper`."""

    def kill(self) -> None:
        """See :class:`IKeeper`."""

    def rest(self) -> None:
        """See :class:`IKeeper`."""

    def over(self) -> None:
        """See :class:`IKeeper`."""


_machine = TypeMachineBuilder(ILife, Keeper)
_down, _starting, _serving = _machine.state("down"), _machine.state("starting"), _machine.state("serving")
_resting, _ending, _gone = _machine.state("resting"), _machine.state("ending"), _machine.state("gone")


@_down.upon(ILife.begin).to(_starting)
@_resting.upon(ILife.again).to(_starting)
def _spawn(life: ILife, keeper: Keeper) -> None:
    keeper.state = "starting"
    keeper.spawn()


@_starting.upon(ILife.ready).to(_serving)
def _serves(life: ILife, keeper: Keeper) -> None:
    keeper.state = "serving"


@_starting.upon(ILife.ended).to(_resting)
@_serving.upon(ILife.ended).to(_resting)
def _rests(life: ILife, keeper: Keeper) -> None:
    keeper.state = "resting"
    keeper.rest()


@_starting.upon(ILife.silent).loop()
@_serving.upon(ILife.silent).loop()
@_ending.upon(ILife.silent).loop()
def _kill(life: ILife, keeper: Keeper) -> None:
    keeper.kill()


@_starting.upon(ILife.stop).to(_ending)
@_serving.upon(ILife.stop).to(_ending)
def _ends(life: ILife, keeper: Keeper) -> None:
    keeper.state = "ending"


@_down.upon(ILife.stop).to(_gone)
@_resting.upon(ILife.stop).to(_gone)
@_ending.upon(ILife.ended).to(_gone)
def _over(life: ILife, keeper: Keeper) -> None:
    keeper.state = "gone"
    keeper.over()


for _state, _ignored in (
    (_down, (ILife.ready, ILife.ended, ILife.silent, ILife.again)),
    (_starting, (ILife.begin, ILife.again)),
    (_serving, (ILife.begin, ILife.ready, ILife.again)),
    (_resting, (ILife.begin, ILife.ready, ILife.ended, ILife.silent)),
    (_ending, (ILife.begin, ILife.ready, ILife.again, ILife.stop)),
    (_gone, (ILife.begin, ILife.ready, ILife.ended, ILife.silent, ILife.again, ILife.stop)),
):
    for _input in _ignored:
        _state.upon(_input).loop().returns(None)

Life = _machine.build()
"""``Life(keeper)`` is an :class:`ILife`."""
