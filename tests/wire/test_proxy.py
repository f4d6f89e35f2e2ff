"""The PROXY protocol's header, against the headers that others publish and against aiosmtpd's reader."""

from __future__ import annotations

import asyncio
import ipaddress
import struct

from aiosmtpd.proxy_protocol import get_proxy
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.wire.proxy import MAX_V2, SIGNATURE, Proxied, ProxyError, ProxyHeader

PUBLISHED = {
    b"PROXY TCP4 222.222.22.222 111.11.11.111 33504 25": ("222.222.22.222", 33504),
    b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443": ("192.168.0.1", 56324),
    b"PROXY TCP4 192.0.2.0 192.0.2.255 42300 443": ("192.0.2.0", 42300),
    b"PROXY TCP6 2001:db8:: 2001:db8:ffff:ffff:ffff:ffff:ffff:ffff 42300 443": ("2001:db8::", 42300),
    b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535": ("255.255.255.255", 65535),
    b"PROXY UNKNOWN": ("", 0),
    b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535": ("", 0),
}


def version_2(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", 0x20 | command, family, len(body)) + body


def read(data: bytes) -> tuple[Proxied | None, bytes]:
    header = ProxyHeader()
    return header.receive(data), header.rest


async def by_aiosmtpd(data: bytes) -> Proxied | None:
    """What aiosmtpd makes of it; None: it refuses."""
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    found = await get_proxy(reader)
    if not found.valid:
        return None
    known = found.family in (1, 2) if found.version == 2 else found.family != 0
    if not known or (found.version == 2 and found.command == 0):
        return Proxied()
    return Proxied(str(found.src_addr), found.src_port)


ADDRESSES = st.one_of(
    st.tuples(st.just(4), st.ip_addresses(v=4), st.ip_addresses(v=4)),
    st.tuples(st.just(6), st.ip_addresses(v=6), st.ip_addresses(v=6)),
)
PORTS = st.integers(0, 65535)


class ProxyTests(SynchronousTestCase):
    def refused(self, data: bytes) -> None:
        self.assertRaises(ProxyError, read, data)

    def test_published(self) -> None:
        for line, (address, port) in PUBLISHED.items():
            self.assertEqual(read(line + b"\r\nEHLO x\r\n"), (Proxied(address, port), b"EHLO x\r\n"))

    def test_version_1_refused(self) -> None:
        for line in (
            b"EHLO x",
            b"PROXY1 UNKNOWN whatever",
            b"PROXY TCP5 123.123.123.123 231.231.231.231 80 90",
            b"PROXY UDP4 123.123.123.123 231.231.231.231 80 90",
            b"PROXY TCP4 256.1.1.1 1.1.1.1 80 90",
            b"PROXY TCP4 01.1.1.1 1.1.1.1 80 90",
            b"PROXY TCP4 ::1 ::1 80 90",
            b"PROXY TCP6 1.1.1.1 1.1.1.1 80 90",
            b"PROXY TCP6 fe80::1%eth0 ::1 80 90",
            b"PROXY TCP4 1.1.1.1 1.1.1.1 65536 90",
            b"PROXY TCP4 1.1.1.1 1.1.1.1 80 65536",
            b"PROXY TCP4 1.1.1.1 1.1.1.1 080 90",
            b"PROXY TCP4 1.1.1.1 1.1.1.1 -1 90",
            b"PROXY TCP4 1.1.1.1 1.1.1.1 80",
            b"PROXY TCP4 1.1.1.1 1.1.1.1 80 90 ",
            b"PROXY  TCP4 1.1.1.1 1.1.1.1 80 90",
            b"PROXY UNKNOWN " + b"*" * 100,
            b"PROXY UNKNOWNX",
            b"PROXY TCP4 1.1.1.1 1.1.1.1 80 90\n",
        ):
            self.refused(line + b"\r\n")
        self.refused(b"PROXY " + b"x" * 101)

    def test_version_2(self) -> None:
        body = bytes([192, 0, 2, 7, 10, 0, 0, 1]) + struct.pack("!HH", 40000, 25)
        extended = body + b"\x04\0\x03abc"
        for header, proxied in (
            (version_2(1, 0x11, body), Proxied("192.0.2.7", 40000)),
            (version_2(1, 0x11, extended), Proxied("192.0.2.7", 40000)),
            (version_2(0, 0x11, body), Proxied()),
            (version_2(0, 0x00, b""), Proxied()),
            (version_2(1, 0x00, b"x" * 9), Proxied()),
            (version_2(1, 0x31, b"\0" * 216), Proxied()),
        ):
            self.assertEqual(read(header + b"EHLO x\r\n"), (proxied, b"EHLO x\r\n"))

    def test_version_2_refused(self) -> None:
        body = bytes(12)
        for header in (
            version_2(2, 0x11, body),
            version_2(1, 0x12, body),
            version_2(1, 0x11, body[:11]),
            version_2(1, 0x21, body),
            version_2(1, 0x51, body),
            version_2(1, 0x11, bytes(MAX_V2 + 1))[:16],
            SIGNATURE + b"\x11\x11\0\x0c" + body,
            SIGNATURE[:11] + b"x",
        ):
            self.refused(header)

    @given(ADDRESSES, PORTS, PORTS, st.booleans(), st.binary(max_size=20), st.data())
    def test_every_split_and_aiosmtpd(
        self, ends: tuple, port: int, own: int, old: bool, rest: bytes, data: st.DataObject
    ) -> None:  # type: ignore[type-arg]
        version, source, destination = ends
        if old:
            header = f"PROXY TCP{version} {source} {destination} {port} {own}\r\n".encode()
        else:
            packed = source.packed + destination.packed + struct.pack("!HH", port, own)
            header = version_2(1, 0x11 if version == 4 else 0x21, packed)
        expected = Proxied(str(source), port)
        self.assertEqual(asyncio.run(by_aiosmtpd(header)), expected)
        whole = header + rest
        cut = data.draw(st.integers(0, len(whole)))
        reader = ProxyHeader()
        found = reader.receive(whole[:cut])
        if found is None:
            found = reader.receive(whole[cut:])
            self.assertEqual(reader.rest, rest)
        else:
            self.assertEqual(reader.rest, whole[len(header) : cut])
        self.assertEqual(found, expected)

    @given(
        st.one_of(
            st.binary(max_size=40), st.binary(max_size=40).map(SIGNATURE.__add__), st.binary().map(b"PROXY ".__add__)
        )
    )
    def test_only_proxy_error_escapes(self, data: bytes) -> None:
        try:
            found, rest = read(data)
        except ProxyError:
            return
        if found is not None and found.address:
            ipaddress.ip_address(found.address)
        self.assertLessEqual(len(rest), len(data))

    def test_bounded_octet_by_octet(self) -> None:
        """Whatever is sent, a reader holds no more than a header."""
        for endless in (b"PROXY " + b"x" * 200, version_2(1, 0x11, bytes(MAX_V2)) + b"!"):
            header, taken = ProxyHeader(), 0
            try:
                for octet in endless:
                    taken += 1
                    if header.receive(bytes([octet])) is not None:
                        break
            except ProxyError:
                pass
            self.assertLessEqual(taken, 16 + MAX_V2)
