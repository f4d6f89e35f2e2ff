"""A mail sink that counts recipients, where smtp-sink counts messages: ``python bench/sink.py PORT``.

Writes ``mesg=COUNT`` and a CR to standard output a hundred times a second while the count moves, as smtp-sink does for
each message.
"""

from __future__ import annotations

import asyncio
import sys

EHLO = b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 50000000\r\n"
END = b"\r\n.\r\n"
PAUSE = 0.01


class Session(asyncio.Protocol):
    """One connection.  ``arrived`` is the count over all of them."""

    arrived = 0

    def __init__(self) -> None:
        self._buffer = b""
        self._content = False
        self._recipients = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(b"220 sink ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        """Commands in whole buffers, and content up to its end."""
        self._buffer += data
        replies: list[bytes] = []
        while self._buffer and (self._finish(replies) if self._content else self._commands(replies)):
            pass
        if replies:
            self._transport.write(b"".join(replies))
        if self._recipients < 0:
            self._transport.close()

    def _finish(self, replies: list[bytes]) -> bool:
        """Whether the content under way has ended."""
        at = self._buffer.find(END)
        if at < 0:
            self._buffer = self._buffer[-len(END) :] if len(self._buffer) > 65536 else self._buffer
            return False
        self._buffer = self._buffer[at + len(END) :]
        self._content = False
        Session.arrived += self._recipients
        self._recipients = 0
        replies.append(b"250 ok\r\n")
        return True

    def _commands(self, replies: list[bytes]) -> bool:
        """Answer the whole lines in the buffer, up to a DATA; whether there may be more to do."""
        lines = self._buffer.split(b"\n")
        for number, line in enumerate(lines[:-1]):
            verb = line[:4].upper()
            if verb == b"RCPT":
                self._recipients += 1
                replies.append(b"250 ok\r\n")
            elif verb == b"DATA":
                self._content = True
                self._buffer = b"\n".join(lines[number + 1 :])
                replies.append(b"354 go\r\n")
                return True
            elif verb == b"QUIT":
                self._recipients = -1
                replies.append(b"221 bye\r\n")
                return False
            else:
                if verb in {b"MAIL", b"RSET"}:
                    self._recipients = 0
                replies.append(EHLO if verb == b"EHLO" else b"250 ok\r\n")
        self._buffer = lines[-1]
        return False


async def main(port: int) -> None:
    """Serve until somebody ends us."""
    await asyncio.get_running_loop().create_server(Session, "127.0.0.1", port, backlog=1000)
    said = -1
    while True:
        if Session.arrived != said:
            said = Session.arrived
            sys.stdout.write(f"mesg={said}\r")
            sys.stdout.flush()
        await asyncio.sleep(PAUSE)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
