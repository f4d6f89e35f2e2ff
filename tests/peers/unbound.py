"""unbound, a resolver that validates DNSSEC, over zones that dnspython signs."""

from __future__ import annotations

import datetime
import textwrap
from collections.abc import Mapping

import dns.dnssec
import dns.dnssectypes
import dns.message
import dns.name
import dns.query
import dns.zone
from cryptography.hazmat.primitives.asymmetric import ec

from .process import LOOPBACK, Daemon, free_port, require, wait_for


class Unbound(Daemon):
    """Answers for ``zones`` (name -> lines of a zone file), and says that those in ``signed`` are authentic.

    ``server`` is "address:port".  Nothing else is asked of anybody: there is no name outside of the zones.
    """

    name = "unbound"

    def __init__(self, zones: Mapping[str, str], signed: frozenset[str]) -> None:
        self._program = require("unbound", "/usr/sbin/unbound")
        super().__init__()
        self.port = free_port()
        self.server = f"{LOOPBACK}:{self.port}"
        self._zone = next(iter(zones))
        self.config = self.folder / "unbound.conf"
        anchors = "".join(self._write(name, text, name in signed) for name, text in zones.items())
        places = "".join(
            f'auth-zone:\n  name: "{name}"\n  zonefile: "{self.folder}/{name}.zone"\n'
            "  for-downstream: no\n  for-upstream: yes\n  fallback-enabled: no\n"
            for name in zones
        )
        head = f"""\
            server:
              interface: {LOOPBACK}
              port: {self.port}
              do-daemonize: no
              use-syslog: no
              chroot: ""
              username: ""
              directory: "{self.folder}"
              pidfile: ""
              do-not-query-localhost: no
              module-config: "validator iterator"
            """
        self.config.write_text(textwrap.dedent(head) + anchors + places + "remote-control:\n  control-enable: no\n")

    def _write(self, name: str, text: str, signed: bool) -> str:
        """Writes the zone's file; gives the trust anchor as a line of the configuration, "" for an unsigned one."""
        soa = f"@ 300 IN SOA ns.{name}. hostmaster.{name}. 1 300 300 300 300\n@ 300 IN NS ns.{name}.\n"
        zone = dns.zone.from_text(f"{soa}ns 300 IN A {LOOPBACK}\n{textwrap.dedent(text)}", name, relativize=False)
        anchor = ""
        if signed:
            private = ec.generate_private_key(ec.SECP256R1())
            public = dns.dnssec.make_dnskey(private.public_key(), dns.dnssectypes.Algorithm.ECDSAP256SHA256, flags=257)
            expiration = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=2)
            dns.dnssec.sign_zone(zone, keys=[(private, public)], add_dnskey=True, expiration=expiration)
            anchor = f'  trust-anchor: "{name}. 300 IN DNSKEY {public.to_text()}"\n'
        zone.to_file(str(self.folder / f"{name}.zone"), relativize=False)
        return anchor

    def argv(self) -> list[str]:
        """See :class:`Daemon`."""
        return [self._program, "-d", "-c", str(self.config)]

    def _answers(self) -> bool:
        query = dns.message.make_query(self._zone, "SOA")
        try:
            return bool(dns.query.udp(query, LOOPBACK, timeout=1, port=self.port).answer)
        except (OSError, dns.exception.DNSException):
            return False

    def ready(self) -> None:
        """See :class:`Daemon`."""
        wait_for("unbound's answer", self._answers, alive=self.check_alive)
