"""Passwords checked by Dovecot, over its authentication socket.

Source: Dovecot's authentication protocol, version 1.1 and up (doc.dovecot.org, "Dovecot Authentication Protocol v1").
One connection, made when it is needed and kept, carries all requests at once.
"""

# ruff: noqa: N802 - the names are Twisted's

from __future__ import annotations

import os
from base64 import b64encode
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from ..config.settings import Checker
from ..config.units import parse_host_port
from .answers import NoAnswer, one_of_many

PENDING = 256
"""Requests that may wait for Dovecot's answer at once."""


class DovecotProtocol(LineOnlyReceiver):
    """The client's side of one connection.  ``ready`` fires when the server has said who it is, or fails."""

    transport: Any
    delimiter = b"\n"
    MAX_LENGTH = 16384

    def __init__(self) -> None:
        self.ready: Deferred[DovecotProtocol] = Deferred()
        self.up = False
        self._waiting: dict[int, Deferred[bool]] = {}
        self._last = 0
        self._plain = False

    def connectionMade(self) -> None:
        """Say who we are; the server need not be waited for.  The process id only has to be ours alone."""
        self.transport.write(b"VERSION\t1\t1\nCPID\t%d\n" % (int.from_bytes(os.urandom(4), "big") >> 1 or 1))

    def lineReceived(self, line: bytes) -> None:
        """A line of the handshake, or an answer."""
        command, *parameters = line.split(b"\t")
        if command in (b"OK", b"FAIL", b"CONT"):
            if parameters and parameters[0].isdigit():
                self._answer(command, int(parameters[0]), parameters[1:])
        elif command == b"VERSION" and parameters[:1] != [b"1"]:
            self._give_up("it speaks another major version of the protocol")
        elif command == b"MECH" and parameters[:1] == [b"PLAIN"]:
            self._plain = True
        elif command == b"DONE" and not self.ready.called:
            if not self._plain:
                self._give_up("it does not offer PLAIN: see auth_mechanisms")
                return
            self.up = True
            self.ready.callback(self)

    def _give_up(self, why: str) -> None:
        self.transport.loseConnection()
        if not self.ready.called:
            self.ready.errback(NoAnswer(why))

    def _answer(self, command: bytes, number: int, parameters: list[bytes]) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is None:
            return
        if command == b"FAIL" and (b"temp" in parameters or b"code=temp_fail" in parameters):
            waiting.errback(NoAnswer("it has failed for now"))
        else:
            waiting.callback(command == b"OK")

    def ask(self, address: str, password: str) -> Deferred[bool]:
        """Whether it is the password."""
        if len(self._waiting) >= PENDING:
            raise NoAnswer("too many requests wait for its answer")
        self._last = number = self._last % 0x7FFFFFFF + 1
        response = b64encode(b"\0%b\0%b" % (address.encode(), password.encode()))
        request = b"AUTH\t%d\tPLAIN\tservice=smtp\tsecured\tnologin\tno-penalty\tresp=%b\n" % (number, response)

        def forget(_: object) -> None:
            self._waiting.pop(number, None)

        waiting: Deferred[bool] = Deferred(forget)
        self._waiting[number] = waiting
        self.transport.write(request)
        return waiting

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Nothing more is answered."""
        self.up = False
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            one.errback(NoAnswer("it has closed the connection"))
        if not self.ready.called:
            self.ready.errback(NoAnswer("it has closed the connection"))


class DovecotSource:
    """See :class:`~.outside.Source`."""

    def __init__(self, name: str, settings: Checker, reactor: Any) -> None:
        self._reactor = reactor
        self._timeout = settings.timeout
        if settings.server.startswith("unix:"):
            path = settings.server.removeprefix("unix:")
            self._endpoint: Any = UNIXClientEndpoint(reactor, path, settings.timeout)  # type: ignore[no-untyped-call]
        else:
            place = parse_host_port(settings.server)
            self._endpoint = HostnameEndpoint(reactor, place.host, place.port, settings.timeout)
        self._protocol: DovecotProtocol | None = None
        self._connecting: list[Deferred[Any]] | None = None

    def start(self) -> None:
        """Nothing is opened before it is needed."""

    def stop(self) -> None:
        """Close the connection."""
        protocol, self._protocol = self._protocol, None
        if protocol is not None and protocol.transport is not None:
            protocol.transport.loseConnection()

    async def good(self, address: str, password: str) -> bool:
        """See :class:`~.outside.Source`."""
        return bool(await Deferred.fromCoroutine(self._ask(address, password)).addTimeout(self._timeout, self._reactor))

    async def _ask(self, address: str, password: str) -> bool:
        protocol = self._protocol
        if protocol is None or not protocol.up:
            protocol = await self._connect()
        return await protocol.ask(address, password)

    async def _connect(self) -> DovecotProtocol:
        """One connection for all who want one at once."""
        if self._connecting is not None:
            return await one_of_many(self._connecting)
        self._connecting = []
        result: Any
        try:
            made = await self._endpoint.connect(Factory.forProtocol(DovecotProtocol))
            self._protocol = made
            result = await made.ready.addTimeout(self._timeout, self._reactor)
        except Exception as error:
            if self._protocol is not None:
                self._protocol.transport.abortConnection()
            result = error
        waiting, self._connecting = self._connecting, None
        for one in waiting:
            one.errback(result) if isinstance(result, Exception) else one.callback(result)
        if isinstance(result, Exception):
            raise result
        assert isinstance(result, DovecotProtocol)
        return result
