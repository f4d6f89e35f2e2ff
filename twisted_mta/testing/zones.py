"""A small DNS server with made-up zones, for tests and for the demonstration: real packets, nobody's real names.

It runs in threads of its own, so that what asks it may live in any process and on any reactor.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
from collections.abc import Mapping, Sequence
from typing import Self

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset

Zones = Mapping[str, Mapping[str, Sequence[str]]]
"""name -> record type -> records in the text form of a zone file, names with their final dot."""

_UDP_SIZE = 512  # octets without EDNS, RFC 1035 §4.2.1


class ZoneServer:
    """Answers for exactly the names in ``zones``, by UDP and TCP on one port; all others do not exist (RFC 2308).

    The key "*.example.org" answers for every name below it that has no records of its own.  ``broken`` names get
    SERVFAIL, ``silent`` ones no answer at all.  ``queries`` records (name, type, "udp" or "tcp") in order.  All may be
    changed while it runs.  Port 0 takes a free one; ``close`` ends the threads.
    """

    def __init__(self, zones: Zones, *, address: str = "127.0.0.1", port: int = 0) -> None:
        self.zones = {name.rstrip(".").lower(): dict(records) for name, records in zones.items()}
        self.broken: set[str] = set()
        self.silent: set[str] = set()
        self.queries: list[tuple[str, str, str]] = []
        self.address = address
        self.port, self._servers = self._bind(port)
        self._threads = [threading.Thread(target=server.serve_forever, args=(0.05,)) for server in self._servers]
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def _bind(self, port: int) -> tuple[int, tuple[_TcpServer, _UdpServer]]:
        for _ in range(50):
            tcp = _TcpServer((self.address, port), _TcpHandler)
            tcp.zones = self
            number: int = tcp.socket.getsockname()[1]
            try:
                udp = _UdpServer((self.address, number), _UdpHandler)
            except OSError:  # the same number is taken for UDP: with a free choice, choose again
                tcp.server_close()
                if port:
                    raise
                continue
            udp.zones = self
            return number, (tcp, udp)
        raise OSError(f"no port is free for both TCP and UDP on {self.address}")

    @property
    def server(self) -> str:
        """The server as ``dns.servers`` in the settings wants it."""
        return f"{self.address}:{self.port}"

    def answer(self, packet: bytes, transport: str) -> bytes | None:
        """The answer to one question, None for silence."""
        try:
            query = dns.message.from_wire(packet)
        except dns.exception.DNSException:
            return None
        if query.opcode() != dns.opcode.QUERY or not query.question:
            return None
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.queries.append((name, kind, transport))
        if name in self.silent:
            return None
        response = dns.message.make_response(query, recursion_available=True)
        if name in self.broken:
            response.set_rcode(dns.rcode.SERVFAIL)
            return response.to_wire()
        self._fill(response, question.name, name, kind)
        wire = response.to_wire(max_size=65535)
        if transport == "udp" and len(wire) > max(query.payload, _UDP_SIZE):
            response = dns.message.make_response(query, recursion_available=True)
            response.flags |= dns.flags.TC
            wire = response.to_wire()
        return wire

    def _fill(self, response: dns.message.Message, owner: dns.name.Name, name: str, kind: str) -> None:
        records = self._records(name)
        if records is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif kind in records:
            response.answer.append(dns.rrset.from_text_list(owner, 60, "IN", kind, list(records[kind])))
            return
        elif "CNAME" in records:
            target = records["CNAME"][0]
            response.answer.append(dns.rrset.from_text(owner, 60, "IN", "CNAME", target))
            canonical = dns.name.from_text(target)
            self._fill(response, canonical, target.rstrip(".").lower(), kind)
            return
        parent = owner.parent() if len(owner) > 2 else owner
        soa = "ns.invalid. hostmaster.invalid. 1 3600 600 86400 60"
        response.authority.append(dns.rrset.from_text(parent, 60, "IN", "SOA", soa))

    def _records(self, name: str) -> Mapping[str, Sequence[str]] | None:
        found, above = self.zones.get(name), name
        while found is None and "." in above:
            above = above.partition(".")[2]
            found = self.zones.get(f"*.{above}")
        if found is None and any(other.endswith(f".{name}") for other in self.zones):
            return {}  # an empty non-terminal exists, RFC 8020
        return found

    def close(self) -> None:
        """Ends the threads and frees the port."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class _TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    zones: ZoneServer


class _UdpServer(socketserver.UDPServer):
    zones: ZoneServer


class _UdpHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _UdpServer)
        packet, transport = self.request
        answer = self.server.zones.answer(packet, "udp")
        if answer is not None:
            with contextlib.suppress(OSError):
                transport.sendto(answer, self.client_address)


class _TcpHandler(socketserver.StreamRequestHandler):
    timeout = 10

    def handle(self) -> None:
        assert isinstance(self.server, _TcpServer)
        with contextlib.suppress(OSError, struct.error):
            while True:
                (length,) = struct.unpack("!H", self.rfile.read(2))
                answer = self.server.zones.answer(self.rfile.read(length), "tcp")
                if answer is None:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.wfile.write(struct.pack("!H", len(answer)) + answer)
