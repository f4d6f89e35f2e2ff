"""Where recipients go."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.delivery.fakes import FakeDirectory, unavailable
from twisted_mta.config.settings import Local, Relay, Settings
from twisted_mta.delivery.router import MAX_DEPTH, MAX_TARGETS, Router, split_host_port
from twisted_mta.mail.address import AddressError
from twisted_mta.mail.envelope import Recipient
from twisted_mta.mail.status import MailError, Reply
from twisted_mta.queue.interfaces import IRouter, Routing


class Case(SynchronousTestCase):
    """A router over a small directory."""

    def setUp(self) -> None:
        self.directory = FakeDirectory()

    def route(self, *addresses: str, relay: Relay | None = None, local: Local | None = None) -> Routing:
        router = Router(Settings(relay=relay or Relay(), local=local or Local()), self.directory)
        recipients = [Recipient(address, address) for address in addresses]
        return self.successResultOf(Deferred.fromCoroutine(router.route(recipients, "")))

    def pairs(self, routing: Routing) -> list[tuple[str, list[str]]]:
        return [(it.destination, [recipient.address for recipient in it.recipients]) for it in routing.deliveries]


class Remote(Case):
    """Mail for others."""

    def test_provides_the_interface(self) -> None:
        verifyObject(IRouter, Router(Settings(), self.directory))

    def test_by_domain(self) -> None:
        self.assertEqual(self.pairs(self.route("carl@example.org")), [("smtp:example.org", ["carl@example.org"])])

    def test_grouped_in_order(self) -> None:
        routing = self.route("b@y.example", "a@x.example", "c@y.example", "ann@isp.example")
        self.assertEqual(
            self.pairs(routing),
            [
                ("smtp:y.example", ["b@y.example", "c@y.example"]),
                ("smtp:x.example", ["a@x.example"]),
                ("maildir:isp.example", ["ann@isp.example"]),
            ],
        )
        self.assertEqual(routing, self.route("b@y.example", "a@x.example", "c@y.example", "ann@isp.example"))

    def test_the_local_part_keeps_its_case(self) -> None:
        routing = self.route("Carl@example.org", "carl@example.org")
        self.assertEqual(self.pairs(routing), [("smtp:example.org", ["Carl@example.org", "carl@example.org"])])

    def test_smarthost(self) -> None:
        for setting, destination in {
            "relay.example:587": "smtp:[relay.example]:587",
            "Relay.example": "smtp:[relay.example]:25",
            "192.0.2.1:25": "smtp:[192.0.2.1]:25",
            "[2001:db8::1]:26": "smtp:[2001:db8::1]:26",
        }.items():
            routing = self.route("a@x.example", "b@[192.0.2.9]", "c@y.example", relay=Relay(smarthost=setting))
            self.assertEqual(self.pairs(routing), [(destination, ["a@x.example", "b@[192.0.2.9]", "c@y.example"])])

    def test_address_literals(self) -> None:
        relay = Relay(port=2500)
        self.assertEqual(self.route("a@[192.0.2.9]", relay=relay).deliveries[0].destination, "smtp:[192.0.2.9]:2500")
        self.assertEqual(
            self.route("a@[IPv6:2001:db8::9]", relay=relay).deliveries[0].destination, "smtp:[2001:db8::9]:2500"
        )

    def test_reconfigured(self) -> None:
        router = Router(Settings(), self.directory)
        router.reconfigure(attrs.evolve(Settings(), relay=Relay(smarthost="relay.example:587")))
        recipient = Recipient("a@x.example", "a@x.example")
        routing = self.successResultOf(Deferred.fromCoroutine(router.route([recipient], "")))
        self.assertEqual(routing.deliveries[0].destination, "smtp:[relay.example]:587")

    def test_one_question_for_one_recipient(self) -> None:
        self.route("carl@example.org")
        self.assertEqual(self.directory.asked, 1)


class Mailboxes(Case):
    """Mail for us."""

    def test_maildir(self) -> None:
        self.assertEqual(self.pairs(self.route("ann@isp.example")), [("maildir:isp.example", ["ann@isp.example"])])

    def test_lmtp(self) -> None:
        routing = self.route("ann@isp.example", local=Local(lmtp="unix:/run/dovecot/lmtp"))
        self.assertEqual(routing.deliveries[0].destination, "lmtp:unix:/run/dovecot/lmtp")

    def test_the_address_becomes_the_mailbox_s(self) -> None:
        [delivery] = self.route("Ann@isp.example").deliveries
        self.assertEqual(delivery.recipients, (Recipient("ann@isp.example", "Ann@isp.example"),))

    def test_detail_is_kept(self) -> None:
        [delivery] = self.route("ann+lists@isp.example").deliveries
        self.assertEqual(delivery.recipients, (Recipient("ann+lists@isp.example", "ann+lists@isp.example"),))

    def test_the_same_mailbox_once(self) -> None:
        routing = self.route("ann@isp.example", "ANN@isp.example")
        self.assertEqual(self.pairs(routing), [("maildir:isp.example", ["ann@isp.example"])])

    def test_unknown(self) -> None:
        routing = self.route("nobody@isp.example", "carl@example.org")
        self.assertEqual(self.pairs(routing), [("smtp:example.org", ["carl@example.org"])])
        [(recipient, reply)] = routing.refused
        self.assertEqual((recipient.address, reply.code, reply.enhanced), ("nobody@isp.example", 550, "5.1.1"))
        self.assertEqual(self.route("nobody@isp.example").refused[0][1], reply)


class Aliases(Case):
    """Addresses that stand for others."""

    def test_expanded(self) -> None:
        self.directory.aliases["sales@isp.example"] = ("ann@isp.example", "carl@example.org")
        routing = self.route("sales@isp.example")
        self.assertEqual(
            self.pairs(routing),
            [("maildir:isp.example", ["ann@isp.example"]), ("smtp:example.org", ["carl@example.org"])],
        )
        self.assertEqual(routing.expanded, {"sales@isp.example": ("ann@isp.example", "carl@example.org")})
        originals = {it.original for delivery in routing.deliveries for it in delivery.recipients}
        self.assertEqual(originals, {"sales@isp.example"})

    def test_wishes_for_reports_follow(self) -> None:
        """RFC 3461 §5.2.7: and where two ways lead to one address, whoever wants a report gets it."""
        self.directory.aliases = {"info@isp.example": ("c@x.example",), "sales@isp.example": ("c@x.example",)}
        router = Router(Settings(), self.directory)

        def recipients(*wishes: tuple[str, str]) -> Recipient:
            given = [
                Recipient(*(f"{name}@isp.example",) * 2, *wish)
                for name, wish in zip(("info", "sales"), wishes, strict=False)
            ]
            routing = self.successResultOf(Deferred.fromCoroutine(router.route(given, "")))
            ((recipient,),) = [delivery.recipients for delivery in routing.deliveries]
            return recipient

        found = recipients(("SUCCESS", "rfc822;one"))
        self.assertEqual((found.original, found.notify, found.orcpt), ("info@isp.example", "SUCCESS", "rfc822;one"))
        self.assertEqual(recipients(("NEVER", ""), ("", "")).notify, "FAILURE,DELAY")
        self.assertEqual(recipients(("SUCCESS", ""), ("DELAY", "")).notify, "SUCCESS,DELAY")
        self.assertEqual(recipients(("NEVER", ""), ("NEVER", "")).notify, "NEVER")

    def test_of_aliases(self) -> None:
        self.directory.aliases |= {"a@isp.example": ("b@isp.example",), "b@isp.example": ("ann@isp.example",)}
        [delivery] = self.route("a@isp.example").deliveries
        self.assertEqual(delivery.recipients, (Recipient("ann@isp.example", "a@isp.example"),))

    def test_each_target_once(self) -> None:
        self.directory.aliases |= {
            "a@isp.example": ("ann@isp.example", "b@isp.example"),
            "b@isp.example": ("ann@isp.example",),
        }
        routing = self.route("a@isp.example", "ann@isp.example", "b@isp.example")
        self.assertEqual(self.pairs(routing), [("maildir:isp.example", ["ann@isp.example"])])

    def test_a_circle(self) -> None:
        self.directory.aliases |= {"a@isp.example": ("b@isp.example",), "b@isp.example": ("A@isp.example",)}
        routing = self.route("a@isp.example")
        self.assertEqual(routing.deliveries, ())
        [(recipient, reply)] = routing.refused
        self.assertEqual((recipient.address, reply.enhanced), ("a@isp.example", "5.4.6"))

    def test_a_circle_with_a_way_out(self) -> None:
        self.directory.aliases |= {
            "a@isp.example": ("b@isp.example", "ann@isp.example"),
            "b@isp.example": ("a@isp.example",),
        }
        routing = self.route("a@isp.example")
        self.assertEqual(self.pairs(routing), [("maildir:isp.example", ["ann@isp.example"])])
        self.assertEqual(routing.refused, ())

    def test_a_mailbox_that_keeps_a_copy(self) -> None:
        self.directory.aliases["ann@isp.example"] = ("ann@isp.example", "carl@example.org")
        self.assertEqual(
            self.pairs(self.route("ann@isp.example")),
            [("maildir:isp.example", ["ann@isp.example"]), ("smtp:example.org", ["carl@example.org"])],
        )

    def test_too_deep(self) -> None:
        for number in range(MAX_DEPTH + 1):
            self.directory.aliases[f"a{number}@isp.example"] = (f"a{number + 1}@isp.example",)
        self.directory.aliases[f"a{MAX_DEPTH + 1}@isp.example"] = ("ann@isp.example",)
        [(recipient, reply)] = self.route("a0@isp.example").refused
        self.assertEqual((recipient.address, reply.enhanced), ("a0@isp.example", "5.4.6"))
        self.assertEqual(len(self.route(f"a{2}@isp.example").deliveries), 1)

    def test_too_many(self) -> None:
        self.directory.aliases["all@isp.example"] = tuple(f"x{number}@example.org" for number in range(MAX_TARGETS + 1))
        routing = self.route("all@isp.example", "carl@example.org")
        [(recipient, reply)] = routing.refused
        self.assertEqual((recipient.address, reply.enhanced), ("all@isp.example", "5.2.4"))
        self.assertEqual(self.pairs(routing), [("smtp:example.org", ["carl@example.org"])])

    def test_a_target_that_is_unknown(self) -> None:
        self.directory.aliases["a@isp.example"] = ("gone@isp.example", "ann@isp.example")
        routing = self.route("a@isp.example")
        self.assertEqual(len(routing.deliveries), 1)
        [(recipient, reply)] = routing.refused
        self.assertEqual(recipient, Recipient("gone@isp.example", "a@isp.example"))
        self.assertEqual(reply.enhanced, "5.1.1")

    @given(
        aliases=st.dictionaries(
            st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdefxyz"), min_size=1, max_size=4), max_size=6
        ),
        recipients=st.lists(st.sampled_from("abcdefxyz"), min_size=1, max_size=5),
    )
    def test_nobody_vanishes(self, aliases: dict[str, list[str]], recipients: list[str]) -> None:
        self.setUp()
        self.directory.mailboxes = {"x@isp.example", "y@isp.example"}
        for name, targets in aliases.items():
            self.directory.aliases[f"{name}@isp.example"] = tuple(f"{it}@isp.example" for it in targets)
        routing = self.route(*(f"{name}@isp.example" for name in recipients))
        addresses = [it.address for delivery in routing.deliveries for it in delivery.recipients]
        self.assertEqual(len(addresses), len(set(addresses)))
        reached = {name[0] for name in addresses}

        def ends(name: str, seen: frozenset[str]) -> set[str]:
            if name in seen or name not in aliases:
                return set() if name in seen else {name}
            return set().union(*(ends(it, seen | {name}) for it in aliases[name]))

        wanted = set().union(*(ends(name, frozenset()) for name in recipients))
        self.assertEqual(reached, wanted & {"x", "y"})
        refused = {recipient.address[0] for recipient, _ in routing.refused}
        self.assertEqual(refused & set("z"), wanted & {"z"})
        for name in recipients:
            if not ends(name, frozenset()):
                self.assertIn(name, refused)


class Trouble(Case):
    """A directory that can't say."""

    def test_a_directory_that_is_down(self) -> None:
        self.directory.broken = unavailable()
        router = Router(Settings(), self.directory)
        for count in (1, 2):
            recipients = [Recipient(f"x{n}@example.org", "") for n in range(count)]
            failure = self.failureResultOf(Deferred.fromCoroutine(router.route(recipients, "")))
            self.assertTrue(failure.value.temporary)
            self.assertIsInstance(failure.value, MailError)

    def test_an_address_that_is_none(self) -> None:
        self.directory.broken = AddressError(Reply(553, "5.1.3", "bad"))
        for addresses in (("a",), ("a", "b")):
            routing = self.route(*addresses)
            self.assertEqual(routing.deliveries, ())
            self.assertEqual([reply.code for _, reply in routing.refused], [553] * len(addresses))


class HostPort(SynchronousTestCase):
    """``split_host_port``."""

    def test_forms(self) -> None:
        for text, expected in {
            "Host.example": ("host.example", 25),
            "host.example:587": ("host.example", 587),
            "[host.example]:587": ("host.example", 587),
            "[2001:DB8::1]": ("2001:db8::1", 25),
            "[2001:db8::1]:26": ("2001:db8::1", 26),
            "2001:db8::1": ("2001:db8::1", 25),
            "[IPv6:2001:db8::1]": ("2001:db8::1", 25),
        }.items():
            self.assertEqual(split_host_port(text, 25), expected, text)

    def test_nonsense(self) -> None:
        for text in ("", ":25", "host:", "host:0", "host:70000", "host:x", "[]:25", "[host", "host]:25"):
            self.assertRaises(ValueError, split_host_port, text, 25)
