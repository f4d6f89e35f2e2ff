"""SMTP by hand over a socket: for what no decent mail program can be made to say."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
from types import TracebackType
from typing import NamedTuple, Self

from .process import LOOPBACK


class Answer(NamedTuple):
    """One reply: its code, and what followed the code in each of its lines."""

    code: int
    text: str

    @property
    def refused(self) -> bool:
        """A 4yz or 5yz reply."""
        return self.code >= 400


class Closed(ConnectionError):
    """The server closed the connection where a reply was due."""


class RawSmtp:
    """A client connection whose every byte is chosen by the test.  ``greeting`` is the server's first reply."""

    def __init__(self, port: int, *, timeout: float = 10.0, implicit_tls: bool = False, host: str = LOOPBACK) -> None:
        self.socket: socket.socket = socket.create_connection((host, port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        if implicit_tls:
            self.handshake()
        self.greeting = self.answer()

    def handshake(self) -> None:
        """TLS from here on; any certificate will do.  Raises ssl.SSLError or ConnectionError."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.socket = context.wrap_socket(self.socket)

    @property
    def tls(self) -> bool:
        """Whether TLS is up."""
        return isinstance(self.socket, ssl.SSLSocket)

    def send(self, data: bytes) -> None:
        """Sends exactly these bytes."""
        self.socket.sendall(data)

    def line(self) -> bytes:
        """The next line, without its CRLF.  Raises :class:`Closed`."""
        while b"\r\n" not in self._buffer:
            try:
                more = self.socket.recv(65536)
            except ConnectionError as error:
                raise Closed(str(error)) from error
            if not more:
                raise Closed(f"closed after {self._buffer!r}")
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def answer(self) -> Answer:
        """The next reply, all of its lines."""
        texts = []
        while True:
            line = self.line().decode("utf-8", "replace")
            texts.append(line[4:])
            if line[3:4] != "-":
                return Answer(int(line[:3]), "\n".join(texts))

    def cmd(self, command: str | bytes) -> Answer:
        """Sends a command with CRLF, and gives its reply."""
        self.send((command.encode() if isinstance(command, str) else command) + b"\r\n")
        return self.answer()

    def ehlo(self, name: str = "client.test") -> Answer:
        """EHLO."""
        return self.cmd(f"EHLO {name}")

    def starttls(self) -> Answer:
        """STARTTLS, the handshake (any certificate), and EHLO again; gives the reply to the latter."""
        answer = self.cmd("STARTTLS")
        if answer.code != 220:
            return answer
        assert self._buffer == b"", "the server spoke in clear after its 220"
        self.handshake()
        return self.ehlo()

    def auth_plain(self, user: str, password: str) -> Answer:
        """AUTH PLAIN with an initial response."""
        return self.cmd(f"AUTH PLAIN {base64.b64encode(f'{chr(0)}{user}{chr(0)}{password}'.encode()).decode()}")

    def message(self, sender: str, recipients: list[str], content: bytes) -> Answer:
        """One transaction with CRLF content that needs no dot-stuffing; gives the last reply."""
        for command in (f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{recipient}>" for recipient in recipients), "DATA"):
            answer = self.cmd(command)
            if answer.refused:
                return answer
        self.send(content + b"\r\n.\r\n")
        return self.answer()

    def rest(self) -> bytes:
        """All that still comes until the server closes, or falls silent for the timeout."""
        with contextlib.suppress(OSError):
            while more := self.socket.recv(65536):
                self._buffer += more
        taken, self._buffer = self._buffer, b""
        return taken

    def close(self) -> None:
        """Closes without a word."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
