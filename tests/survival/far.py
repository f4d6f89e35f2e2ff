"""The far side: hosts of all tempers and the name server that knows them, with a journal of all they said 250 to.

    python -m tests.survival.far JOURNAL PORT DNS_PORT [CERTIFICATE]

Each host has an address of its own (``HOSTS``) and the domain ``NAME.far.test``.  The journal has a line of JSON for
each session that begins or ends, and for each message that is about to hear 250: written before the 250 is, so that
whatever a client was promised is in it.  A second line says that the 250 was sent: where the connection was lost before
that, as when the host went away, the client can't know, and has to come again (RFC 1047).  A session that begins is
written down with the process at its other end.
Commands come on standard input: ``down NAME``, ``up NAME``, ``dns dead``, ``dns alive``; each is answered with a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import re
import socket
import ssl
import struct
import sys
import time
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any, cast

import dns.message
import dns.rdatatype
import dns.rrset

HOSTS = {
    "quick1": "127.0.0.11",
    "quick2": "127.0.0.12",
    "tls": "127.0.0.13",
    "slow": "127.0.0.14",
    "defers": "127.0.0.15",
    "refuses": "127.0.0.16",
    "hangs": "127.0.0.17",
    "gone": "127.0.0.18",
    "back": "127.0.0.19",
}
"""``gone`` never listens; ``back`` is where senders have their mailboxes."""

TTL = 2
HANG = 12.0
"""Seconds for which "hangs" says nothing before it closes the connection."""

_TAG = re.compile(rb"^X-Tag: (\S+)", re.MULTILINE)
_DIGEST = re.compile(rb"^X-Digest: (\S+)", re.MULTILINE)
_QUEUE_ID = re.compile(rb"\bid ([0-9A-Za-z]+)")


def domain(host: str) -> str:
    """The domain whose mail a host takes."""
    return f"{host}.far.test"


def digest(body: bytes) -> str:
    """Of a body, however its lines end."""
    return hashlib.sha256(body.replace(b"\r\n", b"\n")).hexdigest()[:16]


def intact(content: bytes) -> bool:
    """Whether the body is the one that was sent (its header section says which); reports have no such field."""
    content = content.replace(b"\r\n", b"\n")
    head, _, body = content.partition(b"\n\n")
    said = _DIGEST.search(head)
    return said is None or said[1].decode() == digest(body)


def reported(content: bytes) -> tuple[str, list[str]]:
    """The tag of the message that a report is about, and the recipients that failed; ("", []) for what is no report."""
    if b"multipart/report" not in content[:4000]:
        return "", []
    tag = _TAG.search(content.replace(b"\r\n", b"\n"))
    failed = [
        str(fields["Final-Recipient"]).partition(";")[2].strip()
        for part in message_from_bytes(content).walk()
        if part.get_content_type() == "message/delivery-status"
        for fields in cast("list[Message]", part.get_payload())
        if str(fields.get("Action", "")).strip() == "failed"
    ]
    return (tag[1].decode() if tag else ""), failed


def peer_process(local: tuple[str, int], peer: tuple[str, int]) -> int:
    """The process that holds the other end of a connection on loopback; 0 where none can be found.

    By the kernel's socket diagnosis (sock_diag(7)), which finds one socket without going through all of them.
    """
    address = struct.pack("!HH", peer[1], local[1]) + socket.inet_aton(peer[0]) + bytes(12)
    address += socket.inet_aton(local[0]) + bytes(12) + struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
    query = struct.pack("=BBBxI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0xFFFFFFFF) + address
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as netlink:  # NETLINK_SOCK_DIAG
        netlink.send(struct.pack("=IHHII", 16 + len(query), 20, 1, 1, 0) + query)  # SOCK_DIAG_BY_FAMILY
        answer = netlink.recv(4096)
    if len(answer) < 16 + 72 or struct.unpack_from("=H", answer, 4)[0] != 20:
        return 0
    wanted = f"socket:[{struct.unpack_from('=I', answer, 16 + 68)[0]}]"
    for process in _processes():
        with contextlib.suppress(OSError):
            for entry in os.scandir(f"/proc/{process}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(entry.path) == wanted:
                        _lately.add(process)
                        return process
    return 0


_lately: set[int] = set()


def _processes() -> list[int]:
    """Those that have connected before, then all, the youngest first."""
    alive = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    _lately.intersection_update(alive)
    return [*_lately, *sorted(set(alive) - _lately, reverse=True)]


class Far:
    """All of it."""

    def __init__(self, journal: str, port: int, certificate: str) -> None:
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._port = port
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if certificate else None
        if self._tls is not None:
            self._tls.load_cert_chain(certificate)
        self._servers: dict[str, asyncio.Server] = {}
        self._open: dict[str, set[asyncio.StreamWriter]] = {name: set() for name in HOSTS}
        self._sessions = 0
        self._attempts: dict[str, int] = {}
        self.dns_dead = False
        self.unanswered = 0

    def note(self, kind: str, **fields: Any) -> None:
        """One line of the journal."""
        line = json.dumps({"kind": kind, "time": time.time(), **fields}) + "\n"
        os.write(self._journal, line.encode())

    async def up(self, host: str) -> None:
        """Have a host listen."""
        self._servers[host] = await asyncio.start_server(
            lambda reader, writer: self._serve(host, reader, writer), HOSTS[host], self._port, limit=64 << 20
        )

    async def down(self, host: str) -> None:
        """Have a host go away, in the middle of its sessions."""
        self._servers.pop(host).close()
        for writer in list(self._open[host]):
            writer.transport.abort()

    async def _serve(self, host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._sessions += 1
        number = self._sessions
        self._open[host].add(writer)
        how = "lost"
        try:
            peer = peer_process(writer.get_extra_info("sockname"), writer.get_extra_info("peername"))
            self.note("begin", session=number, host=host, process=peer)
            how = await self._session(number, host, reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ssl.SSLError) as error:
            how = f"lost: {error}"
        finally:
            self.note("end", session=number, how=how)
            self._open[host].discard(writer)
            writer.close()

    async def _session(self, number: int, host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        async def say(line: str) -> None:
            if host == "slow":
                await asyncio.sleep(random.uniform(0.0, 0.6))
            writer.write(line.encode() + b"\r\n")
            await writer.drain()

        recipients: list[str] = []
        await say("220 far.test ESMTP")
        while True:
            line = (await reader.readuntil(b"\r\n")).decode("utf-8", "replace").strip()
            verb = line[:4].upper()
            if verb == "EHLO":
                offer = (
                    "250-STARTTLS\r\n" if host == "tls" and self._tls and not writer.get_extra_info("cipher") else ""
                )
                await say(f"250-far.test\r\n{offer}250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 50000000")
            elif verb == "STAR" and self._tls is not None:
                await say("220 go on")
                await writer.start_tls(self._tls)
            elif verb == "RCPT":
                address = line.partition("<")[2].partition(">")[0]
                attempt = self._attempts[address] = self._attempts.get(address, 0) + 1
                if host == "refuses" and not address.startswith("good"):
                    await say("550 5.1.1 there is nobody of that name")
                elif host == "defers" and attempt <= 1 + len(address) % 2:
                    await say("450 4.2.0 please come again")
                elif host == "hangs" and attempt == 1:
                    await asyncio.sleep(HANG)
                    return "hung up"
                else:
                    recipients.append(address)
                    await say("250 ok")
            elif verb == "DATA":
                if not recipients:
                    await say("503 5.5.1 no recipients")
                    continue
                await say("354 go on")
                content = (await reader.readuntil(b"\r\n.\r\n"))[:-3].replace(b"\r\n..", b"\r\n.")
                self._took(number, host, recipients, content)
                recipients = []
                await say("250 2.0.0 taken")
                self.note("told", session=number)
            elif verb == "QUIT":
                await say("221 bye")
                return "quit"
            else:
                if verb in {"MAIL", "RSET"}:
                    recipients = []
                await say("250 ok")

    def _took(self, number: int, host: str, recipients: list[str], content: bytes) -> None:
        about, failed = reported(content)
        tag = _TAG.search(content)
        received = _QUEUE_ID.search(content[:2000])
        self.note(
            "took",
            session=number,
            host=host,
            tag=tag[1].decode() if tag and not about else "",
            about=about,
            failed=failed,
            recipients=recipients,
            id=received[1].decode() if received else "",
            size=len(content),
            intact=intact(content),
        )

    async def commands(self) -> None:
        """Obey until standard input ends."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := (await reader.readline()).decode().split():
            what, name = line
            if what == "down" and name in self._servers:
                await self.down(name)
            elif what == "up" and name not in self._servers:
                await self.up(name)
            elif what == "dns":
                self.dns_dead = name == "dead"
            print(f"{what} {name} {self.unanswered}", flush=True)


class Names(asyncio.DatagramProtocol):
    """A name server: each NAME.far.test has one mail host, ``mx.NAME.far.test``, and reverse names are not known."""

    def __init__(self, far: Far) -> None:
        self._far = far

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        if self._far.dns_dead:
            self._far.unanswered += 1
            return
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        [question] = query.question
        labels = question.name.to_text().rstrip(".").lower().split(".")
        host = labels[-3] if len(labels) >= 3 and labels[-2:] == ["far", "test"] else ""
        if host not in HOSTS:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif question.rdtype == dns.rdatatype.MX and len(labels) == 3:
            answer.answer.append(dns.rrset.from_text(question.name, TTL, "IN", "MX", f"10 mx.{domain(host)}."))
        elif question.rdtype == dns.rdatatype.A:
            answer.answer.append(dns.rrset.from_text(question.name, TTL, "IN", "A", HOSTS[host]))
        self._transport.sendto(answer.to_wire(), address)


async def main(journal: str, port: int, dns_port: int, certificate: str) -> None:
    """Serve until standard input ends."""
    far = Far(journal, port, certificate)
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: Names(far), ("127.0.0.1", dns_port))
    for host in HOSTS:
        if host != "gone":
            await far.up(host)
    print("ready", flush=True)
    await far.commands()


if __name__ == "__main__":
    words = sys.argv[1:]
    asyncio.run(main(str(Path(words[0])), int(words[1]), int(words[2]), "".join(words[3:])))
