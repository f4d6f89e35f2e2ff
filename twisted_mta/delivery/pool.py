"""Connections out: how many there may be, and those that wait idle for the next message of their destination."""

from __future__ import annotations

from collections import OrderedDict, deque

from twisted.internet.defer import Deferred, succeed

from ..smtp.client import NEVER, MtaClient


class Lease:
    """The right to one connection to ``destination``.  ``client`` is an idle one to use, None: open one.

    Whoever has it gives it back with :meth:`Pool.give_back`, once.
    """

    __slots__ = ("client", "destination")

    def __init__(self, destination: str, client: MtaClient | None) -> None:
        self.destination = destination
        self.client = client


class Pool:
    """Bounds connections in all and for each destination, and keeps idle ones.

    ``total``: connections at once, idle ones included; ``each``: to one destination; ``idle``: seconds that one is
    kept; ``messages``: how many one carries.  Who must wait gets a turn in the order of asking, destinations in turn.
    """

    def __init__(self, *, total: int, each: int, idle: float, messages: int) -> None:
        self.configure(total=total, each=each, idle=idle, messages=messages)
        self._leased: dict[str, int] = {}
        self._leases = 0
        self._idle: dict[str, deque[MtaClient]] = {}
        self._ages: OrderedDict[MtaClient, str] = OrderedDict()
        self._waiting: OrderedDict[str, deque[Deferred[Lease]]] = OrderedDict()
        self._stopped: Deferred[None] | None = None
        self._freed = 0
        self._waking = False

    def configure(self, *, total: int, each: int, idle: float, messages: int) -> None:
        """Change the bounds; connections that exist above them end as they are given back."""
        self._total = total
        self._each = each
        self._keep = idle
        self._messages = messages

    @property
    def open(self) -> int:
        """Connections there are or may be, idle ones included."""
        return self._leases + len(self._ages)

    @property
    def idle(self) -> int:
        """Idle connections."""
        return len(self._ages)

    @property
    def stopping(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stopped is not None

    def lease(self, destination: str) -> Lease | Deferred[Lease]:
        """A connection, or room for one; a Deferred where that has to be waited for."""
        if destination not in self._waiting and self._free(destination):
            return self._grant(destination)
        waiting: Deferred[Lease] = Deferred(lambda it: self._leave_line(destination, it))
        self._waiting.setdefault(destination, deque()).append(waiting)
        return waiting

    def _leave_line(self, destination: str, waiting: Deferred[Lease]) -> None:
        """Who waits has been cancelled, and would never give back what they got."""
        line = self._waiting[destination]
        line.remove(waiting)
        if not line:
            del self._waiting[destination]

    def give_back(self, lease: Lease, client: MtaClient | None) -> None:
        """The lease ends; ``client`` is kept if it can take more, and ended otherwise."""
        destination = lease.destination
        self._leases -= 1
        left = self._leased[destination] - 1
        if left:
            self._leased[destination] = left
        else:
            del self._leased[destination]
        if client is not None:
            self._keep_or_end(destination, client)
        self._wake()
        if self._stopped is not None and not self._leases and not self._stopped.called:
            self._stopped.callback(None)

    def exhausted(self, client: MtaClient) -> bool:
        """Whether a connection has carried as many messages as it may."""
        return client.messages >= self._messages or client.spent

    def stop(self) -> Deferred[None]:
        """End idle connections and keep none from now on; fires when no lease is out."""
        if self._stopped is None:
            self._stopped = Deferred()
            for client in list(self._ages):
                self._forget(client)
                client.quit()
            if not self._leases:
                self._stopped.callback(None)
        if self._stopped.called:
            return succeed(None)
        done: Deferred[None] = Deferred()
        self._stopped.addCallback(lambda _: done.callback(None))
        return done

    def _free(self, destination: str) -> bool:
        if self._leased.get(destination, 0) >= self._each:
            return False
        return self.open < self._total or bool(self._ages)

    def _grant(self, destination: str) -> Lease:
        self._leases += 1
        self._leased[destination] = self._leased.get(destination, 0) + 1
        idle = self._idle.get(destination)
        while idle:
            client = idle[-1]  # the one used last: the others may time out
            self._forget(client)
            if client.ready:
                client.keep(None)
                return Lease(destination, client)
        if self.open > self._total and self._ages:
            oldest = next(iter(self._ages))
            self._forget(oldest)
            oldest.quit()
        return Lease(destination, None)

    def _keep_or_end(self, destination: str, client: MtaClient) -> None:
        client.deadline = NEVER
        if not client.ready or self.exhausted(client) or self.stopping or self._keep <= 0:
            client.quit()
            return
        self._idle.setdefault(destination, deque()).append(client)
        self._ages[client] = destination
        client.closed = self._forget
        client.keep(self._keep)

    def _forget(self, client: MtaClient) -> None:
        client.closed = None
        destination = self._ages.pop(client, None)
        if destination is None:
            return
        idle = self._idle[destination]
        idle.remove(client)
        if not idle:
            del self._idle[destination]

    def _wake(self) -> None:
        """Room has come up.  Whoever gets it may give it back before this returns: a loop, so that a thousand who wait
        are not a thousand frames deep."""
        self._freed += 1
        if self._waking:
            return
        self._waking = True
        try:
            while self._freed:
                self._freed -= 1
                self._pass_on()
        finally:
            self._waking = False

    def _pass_on(self) -> None:
        """To the destination that has waited longest for a turn, even if an idle connection to another has to go: else
        one with much mail would keep all others out."""
        for destination, waiting in self._waiting.items():
            if self._free(destination):
                first = waiting.popleft()
                if waiting:
                    self._waiting.move_to_end(destination)
                else:
                    del self._waiting[destination]
                first.callback(self._grant(destination))
                return
