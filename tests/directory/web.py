"""A web server in memory, and a reactor to ask it with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet._resolver import HostResolution
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IReactorPluggableNameResolver
from twisted.internet.protocol import Factory, Protocol
from zope.interface import alsoProvides

from twisted_mta.testing.network import MemoryNetwork

Answer = tuple[int, bytes] | bytes | None
"""A status and a body, the octets of an answer, or silence."""


class Request:
    """What came."""

    def __init__(self, head: bytes, body: bytes) -> None:
        first, *fields = head.decode().split("\r\n")
        self.method, self.path, _ = first.split(" ")
        self.headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        self.body = body.decode()


class Web(Protocol):
    """One connection."""

    transport: Any
    factory: Any

    def __init__(self) -> None:
        self._data = b""

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        if not end:
            return
        length = next((int(f[15:]) for f in head.lower().split(b"\r\n") if f.startswith(b"content-length:")), 0)
        if len(body) < length:
            return
        self._data = b""
        request = Request(head, body)
        self.factory.requests.append(request)
        answer = self.factory.answer(request)
        if isinstance(answer, tuple):
            status, content = answer
            answer = b"HTTP/1.1 %d Words\r\nContent-Length: %d\r\n\r\n%b" % (status, len(content), content)
        if answer is not None:
            self.transport.write(answer)
        if self.factory.hangs_up:
            self.transport.loseConnection()


class WebServer(Factory):
    """A server on 127.0.0.1:8080 of ``net``, which answers by ``answer``."""

    protocol = Web
    noisy = False

    def __init__(self, answer: Callable[[Request], Answer]) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.hangs_up = False
        self.net = MemoryNetwork({("127.0.0.1", 8080): self})
        self.net.rightNow = 1_790_000_000.0
        self.net.nameResolver = _Resolver()  # type: ignore[attr-defined]
        alsoProvides(self.net, IReactorPluggableNameResolver)


class _Resolver:
    """Finds every name on this machine."""

    def resolveHostName(self, receiver: Any, name: str, portNumber: int = 0, *_: Any, **__: Any) -> Any:  # noqa: N803
        resolution = HostResolution(name)
        receiver.resolutionBegan(resolution)
        receiver.addressResolved(IPv4Address("TCP", "127.0.0.1", portNumber))
        receiver.resolutionComplete()
        return resolution
