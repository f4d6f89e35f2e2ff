"""Durations, sizes, addresses: strict, and the same there and back."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.config import units
from twisted_mta.config.units import HostPort, UnitError

PARSERS = (
    units.parse_duration,
    units.parse_size,
    units.parse_address,
    units.parse_network,
    units.parse_domain,
    units.parse_host_port,
    units.parse_address_port,
    units.parse_server,
    units.parse_endpoint,
    units.parse_mailbox,
)

LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
DOMAINS = st.tuples(LABELS, st.sampled_from(["example", "test", "com"])).map(".".join)
ADDRESSES = st.ip_addresses().map(str)
PORTS = st.integers(1, 65535)


class RoundTrips(SynchronousTestCase):
    @given(st.integers(0, 100 * 365 * 86_400_000).map(lambda ms: ms / 1000))
    def test_duration(self, seconds: float) -> None:
        self.assertEqual(units.parse_duration(units.format_duration(seconds)), seconds)

    @given(st.integers(0, 1 << 60))
    def test_size(self, octets: int) -> None:
        self.assertEqual(units.parse_size(units.format_size(octets)), octets)

    @given(st.sampled_from([1 << 10, 1 << 20, 1 << 30, 1 << 40, 1000, 10**6, 10**9, 10**12]), st.integers(1, 999))
    def test_round_sizes_are_short(self, unit: int, number: int) -> None:
        text = units.format_size(unit * number)
        self.assertEqual(units.parse_size(text), unit * number)
        self.assertLessEqual(len(text), 6)

    @given(ADDRESSES)
    def test_address(self, address: str) -> None:
        self.assertEqual(units.parse_address(address), address)

    @given(st.ip_addresses(), st.integers(0, 32))
    def test_network(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address, prefix: int) -> None:
        network = str(ipaddress.ip_network((address, prefix), strict=False))
        self.assertEqual(units.parse_network(network), network)

    @given(st.one_of(ADDRESSES, DOMAINS), PORTS)
    def test_host_port(self, host: str, port: int) -> None:
        whole = HostPort(host, port)
        self.assertEqual(units.parse_host_port(str(whole)), whole)
        self.assertEqual(units.parse_endpoint(str(whole)), str(whole))

    @given(DOMAINS)
    def test_domain(self, domain: str) -> None:
        self.assertEqual(units.parse_domain(domain.upper()), domain)


class Strictness(SynchronousTestCase):
    @given(st.one_of(st.text(max_size=40), st.text("0123456789.:[]/wdhmsKMGiB@*-_", max_size=40)))
    def test_only_unit_errors_escape(self, text: str) -> None:
        """Whatever the text, it is accepted in a canonical form that is accepted as itself, or refused with a mend."""
        for parse in PARSERS:
            try:
                once = parse(text)
            except UnitError as error:
                self.assertTrue(error.wrong and error.mend)
            else:
                if not isinstance(once, (int, float)):
                    self.assertEqual(str(parse(str(once))), str(once))

    def refused(self, parse: object, cases: dict[str, tuple[str, str]]) -> None:
        for text, (wrong, mend) in cases.items():
            with self.subTest(text=text):
                error = self.assertRaises(UnitError, parse, text)  # type: ignore[arg-type]
                self.assertIn(wrong, error.wrong)
                self.assertIn(mend, error.mend)

    def test_durations(self) -> None:
        for text, seconds in {
            "90s": 90, "5m": 300, "4h": 14400, "5d": 432000, "1w": 604800, "1h30m": 5400, "250ms": 0.25, "0s": 0,
            "1w2d3h4m5s6ms": 604800 + 2 * 86400 + 3 * 3600 + 4 * 60 + 5 + 0.006,
        }.items():  # fmt: skip
            self.assertEqual(units.parse_duration(text), seconds)
        for seconds, text in {432000: "5d", 604800: "7d", 5400: "1h30m", 0: "0s", 0.25: "250ms", 90: "1m30s"}.items():
            self.assertEqual(units.format_duration(seconds), text)
        self.refused(
            units.parse_duration,
            {
                "": ("is not a duration", '"1h30m"'),
                "90": ("is not a duration", 'write "90s" for seconds'),
                "30m1h": ("is not a duration", "largest first"),
                "1h1h": ("is not a duration", "largest first"),
                "1.5h": ("is not a duration", "largest first"),
                "-5m": ("is not a duration", "largest first"),
                "5 m": ("is not a duration", "largest first"),
                "5M": ("is not a duration", "largest first"),
                "\u0665m": ("is not a duration", "largest first"),
                "101000w": ("longer than a century", "largest first"),
            },
        )

    def test_sizes(self) -> None:
        for text, octets in {
            "50MiB": 50 << 20,
            "10MB": 10**7,
            "1GiB": 1 << 30,
            "2TiB": 2 << 40,
            "7": 7,
            "0": 0,
        }.items():
            self.assertEqual(units.parse_size(text), octets)
        self.refused(
            units.parse_size,
            {
                "50M": ("is not a size", 'write "50MiB"'),
                "50mb": ("is not a size", 'write "50MiB"'),
                "1g": ("is not a size", 'write "1GiB"'),
                "1.5GiB": ("is not a size", '"50MiB"'),
                "50 MiB": ("is not a size", '"50MiB"'),
                "-1": ("is not a size", '"50MiB"'),
                "12parsecs": ("is not a size", '"50MiB"'),
                "9999999TiB": ("exbibyte", '"50MiB"'),
            },
        )

    def test_addresses(self) -> None:
        self.assertEqual(units.parse_address("2001:DB8:0::1"), "2001:db8::1")
        self.refused(
            units.parse_address,
            {
                "*": ("is not an IP address", '"0.0.0.0" for all of IPv4'),
                "[::1]": ("is not an IP address", 'write "::1"'),
                "10.0.0.0/8": ("is not an IP address", "not a network"),
                "127.1": ("is not an IP address", '"192.0.2.1"'),
                "localhost": ("is not an IP address", '"192.0.2.1"'),
            },
        )

    def test_networks(self) -> None:
        self.assertEqual(units.parse_network("192.0.2.7"), "192.0.2.7/32")
        self.assertEqual(units.parse_network("10.0.0.0/255.0.0.0"), "10.0.0.0/8")
        self.refused(
            units.parse_network,
            {
                "10.0.0.1/8": ("bits set behind its prefix", 'write "10.0.0.0/8"'),
                "10.0.0.0/33": ("is not a network", '"192.0.2.0/24"'),
                "isp.example": ("is not a network", '"192.0.2.0/24"'),
            },
        )

    def test_domains(self) -> None:
        self.assertEqual(units.parse_domain("Bücher.Example"), "xn--bcher-kva.example")
        self.refused(
            units.parse_domain,
            {
                "*.isp.example": ("is not a domain name", "no wildcards"),
                "isp.example.": ("is not a domain name", 'leave out the last dot: "isp.example"'),
                "user@isp.example": ("is not a domain name", "behind the @"),
                "192.0.2.1": ("is not a domain name", "write a name, not an address"),
                "isp..example": ("is not a domain name", '"isp.example"'),
                "": ("is not a domain name", '"isp.example"'),
                f"{'a' * 64}.example": ("is not a domain name", '"isp.example"'),
            },
        )

    def test_hosts_and_ports(self) -> None:
        self.assertEqual(units.parse_server("192.0.2.53"), "192.0.2.53")
        self.assertEqual(units.parse_server("[::1]:5353"), "[::1]:5353")
        self.assertEqual(units.parse_endpoint("unix:/run/dovecot/lmtp"), "unix:/run/dovecot/lmtp")
        self.refused(
            units.parse_host_port,
            {
                "relay.example": ("has no port", 'write "relay.example:25"'),
                "[relay.example]:587": ("has brackets around a name", 'write "relay.example:587"'),
                "2001:db8::1": ("has no port", 'write "[2001:db8::1]:25"'),
                "192.0.2.1": ("has no port", 'write "192.0.2.1:25"'),
                "relay.example:0": ("has no port that exists", "from 1 to 65535"),
                "relay.example:65536": ("has no port that exists", "from 1 to 65535"),
                "relay.example:smtp": ("has no port that exists", "from 1 to 65535"),
                "a:b:25": ("is ambiguous", "in brackets"),
                "": ("has no port", '"relay.example:25"'),
            },
        )
        self.refused(units.parse_address_port, {"localhost:8025": ("is not an IP address", '"192.0.2.1"')})
        self.refused(units.parse_server, {"192.0.2.53:0": ("has no port that exists", "from 1")})
        self.refused(
            units.parse_endpoint,
            {
                "/run/dovecot/lmtp": ("is not host:port", 'write "unix:/run/dovecot/lmtp"'),
                "unix:lmtp": ("has no absolute path", '"unix:/run/dovecot/lmtp"'),
            },
        )

    def test_mail_addresses(self) -> None:
        self.assertEqual(units.parse_mailbox("Post.Master@ISP.example"), "Post.Master@isp.example")
        for text in ("postmaster", "@isp.example", "a..b@isp.example", "a b@isp.example", ".a@isp.example"):
            self.refused(units.parse_mailbox, {text: ("is not a mail address", '"hostmaster@isp.example"')})
