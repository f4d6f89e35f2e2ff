"""The resolver: cache, retries, what failed how.  Its sockets are in test_dns_transport."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from twisted_mta.config.settings import Dns, Duration
from twisted_mta.delivery.dns import (
    DnsNoData,
    DnsNoName,
    DnsTemporary,
    IResolver,
    Mx,
    Resolver,
    parse_server,
    system_servers,
)
from twisted_mta.testing.dns import FakeResolver

ONE, TWO = ("192.0.2.53", 53), ("192.0.2.54", 53)
SOA = "d.example. 300 IN SOA ns. root. 1 2 3 4 60"

Answer = Callable[[dns.message.Message], dns.message.Message | None]


def answer(*records: str, rcode: int = dns.rcode.NOERROR, authority: str = "", flags: int = 0) -> Answer:
    """A server that says this to everything."""

    def reply(query: dns.message.Message) -> dns.message.Message:
        message = dns.message.make_response(query)
        message.set_rcode(dns.rcode.Rcode(rcode))
        message.flags |= flags
        for record in records:
            name, ttl, _, kind, data = record.split(None, 4)
            message.answer.append(dns.rrset.from_text(name, int(ttl), "IN", kind, data))
        if authority:
            name, ttl, _, kind, data = authority.split(None, 4)
            message.authority.append(dns.rrset.from_text(name, int(ttl), "IN", kind, data))
        return dns.message.from_wire(message.to_wire())

    return reply


def silence(query: dns.message.Message) -> None:
    """A server that says nothing in time."""


GOOD = answer("d.example. 60 IN MX 1 f.")


class Wire:
    """An Exchange: each server's answers, the last of which repeats; questions wait while ``held``."""

    def __init__(self, **servers: list[Answer]) -> None:
        self.answers = {ONE: servers.get("one", [silence]), TWO: servers.get("two", [silence])}
        self.asked: list[tuple[str, str, str, bool]] = []
        self.edns: list[int] = []
        self.held: list[Deferred[None]] | None = None

    async def __call__(
        self, server: tuple[str, int], query: dns.message.Message, timeout: float, tcp: bool
    ) -> dns.message.Message | None:
        question = query.question[0]
        self.asked.append((question.name.to_text(), dns.rdatatype.to_text(question.rdtype), server[0], tcp))
        self.edns.append(query.payload if query.edns >= 0 else 0)
        if self.held is not None:
            waiting: Deferred[None] = Deferred()
            self.held.append(waiting)
            await waiting
        answers = self.answers[server]
        return (answers.pop(0) if len(answers) > 1 else answers[0])(query)


class Case(SynchronousTestCase):
    """A resolver on a clock."""

    def resolver(self, wire: Wire, *, servers: int = 2, attempts: int = 3, cache: int = 100) -> Resolver:
        self.clock = Clock()
        addresses = ("192.0.2.53", "192.0.2.54:53")[:servers]
        settings = Dns(servers=addresses, attempts=attempts, cache=cache, timeout=Duration(5.0))
        return Resolver(settings, self.clock, wire)

    def get(self, coroutine: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def fails(self, coroutine: Any, kind: type[Exception]) -> Any:
        return self.failureResultOf(Deferred.fromCoroutine(coroutine), kind).value.reply


class AnswerTests(Case):
    """What an answer means."""

    def test_interface(self) -> None:
        verifyObject(IResolver, self.resolver(Wire()))
        verifyObject(IResolver, FakeResolver({}))

    def test_mx(self) -> None:
        resolver = self.resolver(Wire(one=[answer("d.example. 60 IN MX 10 A.Example.", "d.example. 60 IN MX 5 b.")]))
        self.assertEqual(self.get(resolver.mx("D.example.")), [Mx(10, "a.example"), Mx(5, "b")])

    def test_authentic_mx(self) -> None:
        """The AD bit counts where the settings say so, and must be in the answer for each link of a chain."""

        def signed(*records: str) -> Answer:
            def made(query: dns.message.Message) -> dns.message.Message | None:
                response = answer(*records)(query)
                assert response is not None
                response.flags |= dns.flags.AD
                return response

            return made

        mx, alias = "d.example. 60 IN MX 1 f.", "a.example. 60 IN CNAME d.example."
        for trust, answers, authentic in (
            (True, [signed(mx)], True),
            (True, [answer(mx)], False),
            (False, [signed(mx)], False),
            (True, [signed(alias), signed(mx)], True),
            (True, [answer(alias), signed(mx)], False),
            (True, [signed(alias), answer(mx)], False),
        ):
            resolver = self.resolver(Wire(one=list(answers)))
            resolver.reconfigure(Dns(servers=("192.0.2.53",), trust_ad=trust))
            for _ in range(2):  # the second time from the cache
                name = "d.example" if len(answers) == 1 else "a.example"
                self.assertEqual(self.get(resolver.mx(name)), [Mx(1, "f", authentic)], (trust, authentic))

    def test_null_mx(self) -> None:
        resolver = self.resolver(Wire(one=[answer("d.example. 60 IN MX 0 .")]))
        self.assertEqual(self.get(resolver.mx("d.example")), [Mx(0, "")])

    def test_no_mx(self) -> None:
        self.assertEqual(self.get(self.resolver(Wire(one=[answer(authority=SOA)])).mx("d.example")), ())

    def test_no_name(self) -> None:
        resolver = self.resolver(Wire(one=[answer(rcode=dns.rcode.NXDOMAIN, authority=SOA)]))
        self.assertEqual(self.fails(resolver.mx("d.example"), DnsNoName).enhanced, "5.1.2")

    def test_addresses(self) -> None:
        wire = Wire(one=[answer("d.example. 60 IN AAAA 2001:db8::1"), answer("d.example. 60 IN A 192.0.2.1")])
        self.assertEqual(self.get(self.resolver(wire).addresses("d.example")), ["2001:db8::1", "192.0.2.1"])
        self.assertEqual([kind for _, kind, _, _ in wire.asked], ["AAAA", "A"])

    def test_one_family_fails(self) -> None:
        wire = Wire(one=[answer(rcode=dns.rcode.SERVFAIL), answer("d.example. 60 IN A 192.0.2.1")])
        self.assertEqual(self.get(self.resolver(wire, servers=1).addresses("d.example")), ["192.0.2.1"])

    def test_one_family_fails_and_the_other_has_none(self) -> None:
        """Not knowing is temporary: the failed one might have had an address."""
        wire = Wire(one=[answer(rcode=dns.rcode.SERVFAIL), answer(authority=SOA)])
        self.fails(self.resolver(wire, servers=1).addresses("d.example"), DnsTemporary)

    def test_no_addresses(self) -> None:
        resolver = self.resolver(Wire(one=[answer(authority=SOA)]))
        self.assertEqual(self.fails(resolver.addresses("d.example"), DnsNoData).enhanced, "5.4.4")

    def test_nxdomain_for_one_family_only(self) -> None:
        """A server that is wrong about AAAA does not make the name unknown."""
        wire = Wire(one=[answer(rcode=dns.rcode.NXDOMAIN), answer(authority=SOA)])
        self.fails(self.resolver(wire).addresses("d.example"), DnsNoData)

    def test_localhost(self) -> None:
        wire = Wire()
        self.assertEqual(self.get(self.resolver(wire).addresses("localhost")), ["::1", "127.0.0.1"])
        self.assertEqual(wire.asked, [])

    def test_ptr(self) -> None:
        wire = Wire(one=[answer("1.2.0.192.in-addr.arpa. 60 IN PTR Host.example.")])
        self.assertEqual(self.get(self.resolver(wire).ptr("192.0.2.1")), ["host.example"])

    def test_cname(self) -> None:
        wire = Wire(one=[answer("d.example. 60 IN CNAME e.example.", "e.example. 60 IN MX 1 f.")])
        self.assertEqual(self.get(self.resolver(wire).mx("d.example")), [Mx(1, "f")])

    def test_cname_left_to_us(self) -> None:
        wire = Wire(one=[answer("d.example. 60 IN CNAME e.example."), answer("e.example. 60 IN MX 1 f.")])
        self.assertEqual(self.get(self.resolver(wire).mx("d.example")), [Mx(1, "f")])
        self.assertEqual([name for name, *_ in wire.asked], ["d.example.", "e.example."])

    def test_cname_to_nothing(self) -> None:
        wire = Wire(one=[answer("d.example. 60 IN CNAME e.example.", rcode=dns.rcode.NXDOMAIN)])
        self.fails(self.resolver(wire).mx("d.example"), DnsNoName)

    def test_cname_loop(self) -> None:
        def around(query: dns.message.Message) -> dns.message.Message | None:
            name = query.question[0].name.to_text()
            return answer(f"{name} 60 IN CNAME {'b.' if name == 'a.' else 'a.'}")(query)

        wire = Wire(one=[around])
        self.fails(self.resolver(wire).mx("a"), DnsTemporary)
        self.assertLess(len(wire.asked), 20)

    def test_name_that_cannot_be(self) -> None:
        wire = Wire()
        for name in ("x" * 64, ".".join(["x" * 60] * 5), "a..b"):
            self.fails(self.resolver(wire).mx(name), DnsNoName)
        self.assertEqual(wire.asked, [])


class FailureTests(Case):
    """Servers that do not answer as they should."""

    def test_next_server_after_silence(self) -> None:
        wire = Wire(one=[silence], two=[GOOD])
        self.assertEqual(self.get(self.resolver(wire).mx("d.example")), [Mx(1, "f")])

    def test_next_server_after_a_failure(self) -> None:
        for rcode in (dns.rcode.SERVFAIL, dns.rcode.REFUSED):
            wire = Wire(one=[answer(rcode=rcode)], two=[GOOD])
            self.assertEqual(self.get(self.resolver(wire).mx("d.example")), [Mx(1, "f")])

    def test_all_silent(self) -> None:
        wire = Wire()
        reply = self.fails(self.resolver(wire).mx("d.example"), DnsTemporary)
        self.assertEqual((reply.code, reply.enhanced), (451, "4.4.3"))
        self.assertEqual([server for *_, server, _ in wire.asked], [ONE[0], TWO[0], ONE[0]])

    def test_all_refuse(self) -> None:
        """A server that said no is not asked again for the same."""
        wire = Wire(one=[answer(rcode=dns.rcode.SERVFAIL)], two=[answer(rcode=dns.rcode.REFUSED)])
        self.assertIn("REFUSED", self.fails(self.resolver(wire).mx("d.example"), DnsTemporary).text)
        self.assertEqual(len(wire.asked), 2)

    def test_truncated(self) -> None:
        wire = Wire(one=[answer(flags=dns.flags.TC), GOOD])
        self.assertEqual(self.get(self.resolver(wire).mx("d.example")), [Mx(1, "f")])
        self.assertEqual([tcp for *_, tcp in wire.asked], [False, True])

    def test_without_edns(self) -> None:
        wire = Wire(one=[answer(rcode=dns.rcode.FORMERR), GOOD])
        self.assertEqual(self.get(self.resolver(wire).mx("d.example")), [Mx(1, "f")])
        self.assertEqual(wire.edns, [1232, 0])


class CacheTests(Case):
    """What is kept, and how long."""

    def test_kept_for_its_ttl(self) -> None:
        wire = Wire(one=[answer("d.example. 60 IN MX 1 f.")])
        resolver = self.resolver(wire)
        for wait, asked in ((0, 1), (59, 1), (2, 2)):
            self.clock.advance(wait)
            self.get(resolver.mx("d.example"))
            self.assertEqual(len(wire.asked), asked)

    def test_the_least_ttl_of_a_chain(self) -> None:
        wire = Wire(one=[answer("d.example. 10 IN CNAME e.example.", "e.example. 600 IN MX 1 f.")])
        resolver = self.resolver(wire)
        self.get(resolver.mx("d.example"))
        self.clock.advance(11)
        self.get(resolver.mx("d.example"))
        self.assertEqual(len(wire.asked), 2)

    def test_a_week_is_a_day(self) -> None:
        wire = Wire(one=[answer("d.example. 604800 IN MX 1 f.")])
        resolver = self.resolver(wire)
        self.get(resolver.mx("d.example"))
        self.clock.advance(86401)
        self.get(resolver.mx("d.example"))
        self.assertEqual(len(wire.asked), 2)

    def test_negative(self) -> None:
        """RFC 2308 §5: as long as the SOA's minimum says."""
        wire = Wire(one=[answer(rcode=dns.rcode.NXDOMAIN, authority=SOA)])
        resolver = self.resolver(wire)
        for wait, asked in ((0, 1), (59, 1), (2, 2)):
            self.clock.advance(wait)
            self.fails(resolver.mx("d.example"), DnsNoName)
            self.assertEqual(len(wire.asked), asked)

    def test_what_is_kept_does_not_grow_with_each_who_asks(self) -> None:
        """An exception that is raised again holds the frames of each that raised it, and all that was theirs."""
        wire = Wire(one=[answer(rcode=dns.rcode.NXDOMAIN, authority=SOA)])
        resolver = self.resolver(wire)
        told = set()
        for ask in (resolver.mx, resolver.addresses, resolver.texts):
            for _ in range(5):
                self.fails(ask("d.example"), DnsNoName)
        for kept in resolver._cache.values():
            assert kept.error is not None
            self.assertIsNone(kept.error.__traceback__)
            told.add(str(kept.error))
            self.assertEqual((type(kept.error.anew()), str(kept.error.anew())), (DnsNoName, str(kept.error)))
        self.assertEqual(told, {"550 5.1.2 d.example: the domain does not exist"})

    def test_failure_is_kept_shortly(self) -> None:
        wire = Wire()
        resolver = self.resolver(wire, attempts=1)
        for wait, asked in ((0, 1), (14, 1), (2, 2)):
            self.clock.advance(wait)
            self.fails(resolver.mx("d.example"), DnsTemporary)
            self.assertEqual(len(wire.asked), asked)

    def test_bounded(self) -> None:
        """The answers used longest ago go first."""
        wire = Wire(one=[lambda query: answer(f"{query.question[0].name} 600 IN MX 1 f.")(query)])
        resolver = self.resolver(wire, cache=3)
        for name in ("a", "b", "c", "a", "d", "a"):
            self.get(resolver.mx(name))
        self.assertEqual([name for name, *_ in wire.asked], ["a.", "b.", "c.", "d."])
        self.assertEqual(len(resolver._cache), 3)

    def test_same_question_at_the_same_time(self) -> None:
        wire = Wire(one=[answer("d.example. 60 IN MX 1 f.")])
        wire.held = []
        resolver = self.resolver(wire)
        asking = [Deferred.fromCoroutine(resolver.mx(name)) for name in ("d.example", "D.EXAMPLE.", "d.example")]
        self.assertEqual(len(wire.held), 1)
        wire.held[0].callback(None)
        self.assertEqual([self.successResultOf(one) for one in asking], [[Mx(1, "f")]] * 3)

    def test_same_question_whose_asking_breaks(self) -> None:
        """A fault of ours reaches all who wait, and the next who ask start anew."""
        wire = Wire(one=[lambda query: [][0]])
        wire.held = []
        resolver = self.resolver(wire)
        asking = [Deferred.fromCoroutine(resolver.mx("d.example")) for _ in range(2)]
        wire.held[0].callback(None)
        for one in asking:
            self.failureResultOf(one, IndexError)
        wire.held = None
        wire.answers[ONE] = [answer("d.example. 60 IN MX 1 f.")]
        self.assertEqual(self.get(resolver.mx("d.example")), [Mx(1, "f")])


class SettingsTests(SynchronousTestCase):
    """Which servers are asked."""

    def test_parse(self) -> None:
        for text, server in (
            ("192.0.2.1", ("192.0.2.1", 53)),
            ("192.0.2.1:5353", ("192.0.2.1", 5353)),
            ("2001:db8::1", ("2001:db8::1", 53)),
            ("[2001:db8::1]:5353", ("2001:db8::1", 5353)),
            ("[2001:db8::1]", ("2001:db8::1", 53)),
        ):
            self.assertEqual(parse_server(text), server)

    def test_parse_refuses(self) -> None:
        for text in ("ns.example", "", "192.0.2.1:x", "192.0.2.300"):
            self.assertRaises(ValueError, parse_server, text)

    def test_system(self) -> None:
        path = Path(self.mktemp())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("# ours\nnameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch example\n")
        self.assertEqual(system_servers(path), [("192.0.2.1", 53), ("2001:db8::1", 53)])

    def test_system_without(self) -> None:
        self.assertEqual(system_servers(Path("/nonexistent/resolv.conf")), [("127.0.0.1", 53)])
