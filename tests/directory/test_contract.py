"""What every directory promises, held against each of them."""

from __future__ import annotations

import string
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from twisted_mta.config.settings import Local
from twisted_mta.directory.base import BaseDirectory
from twisted_mta.directory.interfaces import IDirectoryAdmin, Resolution
from twisted_mta.directory.lmdb_directory import LmdbDirectory
from twisted_mta.directory.memory import MemoryDirectory, cheap_hash
from twisted_mta.directory.passwords import verify_password
from twisted_mta.directory.records import address_key

T = TypeVar("T")
_Case = SynchronousTestCase if TYPE_CHECKING else object

LOCAL = Local(domains=("Settings.example",), postmaster="")

# address -> what it is, in the directory that `fill` makes
RESOLUTIONS = {
    "anna@isp.example": Resolution(kind="mailbox", mailbox="anna@isp.example", customer="acme"),
    "ANNA@isp.example": Resolution(kind="mailbox", mailbox="anna@isp.example", customer="acme"),
    "anna+News@isp.example": Resolution(kind="mailbox", mailbox="anna@isp.example", detail="News", customer="acme"),
    "anna+a+b@isp.example": Resolution(kind="mailbox", mailbox="anna@isp.example", detail="a+b", customer="acme"),
    '"anna+two words"@isp.example': Resolution(
        kind="mailbox", mailbox="anna@isp.example", detail="two words", customer="acme"
    ),
    "anna+@isp.example": Resolution(kind="mailbox", mailbox="anna@isp.example", customer="acme"),
    "anna+fixed@isp.example": Resolution(kind="alias", targets=("bert@isp.example",), customer="acme"),
    "+anna@isp.example": Resolution(kind="unknown", customer="acme"),
    "sales@isp.example": Resolution(kind="alias", targets=("anna@isp.example", "Out@else.example"), customer="acme"),
    "Sales+x@isp.example": Resolution(kind="alias", targets=("anna@isp.example", "Out@else.example"), customer="acme"),
    '"odd one"@isp.example': Resolution(kind="mailbox", mailbox='"odd one"@isp.example', customer="acme"),
    "nobody@isp.example": Resolution(kind="unknown", customer="acme"),
    "anna@sub.isp.example": Resolution(kind="remote"),
    "anna@else.example": Resolution(kind="remote"),
    "postmaster@else.example": Resolution(kind="remote"),
    "anna@[127.0.0.1]": Resolution(kind="remote"),
    # RFC 5321 §4.5.1
    "postmaster@isp.example": Resolution(kind="mailbox", mailbox="postmaster@isp.example", customer="acme"),
    "PostMaster@isp.example": Resolution(kind="mailbox", mailbox="postmaster@isp.example", customer="acme"),
    "postmaster+x@isp.example": Resolution(kind="mailbox", mailbox="postmaster@isp.example", customer="acme"),
    "postmaster@settings.example": Resolution(kind="mailbox", mailbox="postmaster@settings.example"),
    "Postmaster": Resolution(kind="mailbox", mailbox="postmaster@settings.example"),
    # a domain that only the settings name
    "anna@settings.example": Resolution(kind="unknown"),
    "info@settings.example": Resolution(kind="alias", targets=("anna@isp.example",)),
    # a catch-all
    "whoever@catch.example": Resolution(kind="alias", targets=("anna@isp.example",), customer="acme"),
    "who+x@catch.example": Resolution(kind="alias", targets=("anna@isp.example",), customer="acme"),
    "bert@catch.example": Resolution(kind="mailbox", mailbox="bert@catch.example", customer="acme"),
    "bert+y@catch.example": Resolution(kind="mailbox", mailbox="bert@catch.example", detail="y", customer="acme"),
    "postmaster@catch.example": Resolution(kind="alias", targets=("anna@isp.example",), customer="acme"),
    # percent hack, bang path and their like are nobody, catch-all or not, unless just they exist
    "anna%else.example@isp.example": Resolution(kind="unknown", customer="acme"),
    "else.example!anna@isp.example": Resolution(kind="unknown", customer="acme"),
    '"anna@else.example"@isp.example': Resolution(kind="unknown", customer="acme"),
    '"@isp.example:anna@else.example"@isp.example': Resolution(kind="unknown", customer="acme"),
    "anna+x%else.example@isp.example": Resolution(kind="unknown", customer="acme"),
    "x%else.example@catch.example": Resolution(kind="unknown", customer="acme"),
    "else.example!x@catch.example": Resolution(kind="unknown", customer="acme"),
    '"x@else.example"@catch.example': Resolution(kind="unknown", customer="acme"),
    "fifty%off@catch.example": Resolution(kind="mailbox", mailbox="fifty%off@catch.example", customer="acme"),
}


def now(question: Coroutine[Any, Any, T]) -> T:
    """The answer of a coroutine that waits for nothing."""
    answers: list[Any] = []
    Deferred.fromCoroutine(question).addBoth(answers.append)
    (answer,) = answers
    if hasattr(answer, "raiseException"):
        answer.raiseException()
    return answer


def fill(directory: BaseDirectory) -> None:
    directory.add_customer("acme")
    directory.add_customer("Bolt", {"recipients_per_day": 10, "queued_bytes": None})
    directory.add_domain("ISP.example", "acme")
    directory.add_domain("catch.example", "Acme")
    directory.add_domain("bolt.example", "bolt")
    directory.add_user("Anna@isp.example", "secret", ("@bolt.example", "Friend@else.example"))
    directory.add_user("bert@isp.example", "secret")
    directory.add_user('"odd one"@isp.example', "secret")
    directory.add_user("bert@catch.example", "secret")
    directory.add_user("fifty%off@catch.example", "secret")
    directory.add_user("bolt@bolt.example", "secret")
    directory.add_alias("sales@isp.example", ("anna@isp.example", "Out@else.example", "ANNA@isp.example"))
    directory.add_alias("anna+fixed@isp.example", ("bert@isp.example",))
    directory.add_alias("@catch.example", ("anna@isp.example",))
    directory.add_alias("team@isp.example", ("sales@isp.example", "bert+team@isp.example"))
    directory.add_alias("info@settings.example", ("anna@isp.example",))


class Contract(_Case):
    """The promises; each storage runs them."""

    directory: BaseDirectory
    clock: Clock

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.directory = self.make(LOCAL)
        fill(self.directory)

    def make(self, local: Local) -> BaseDirectory:
        raise NotImplementedError

    def test_provides(self) -> None:
        verifyObject(IDirectoryAdmin, self.directory)

    def test_resolve(self) -> None:
        for address, expected in RESOLUTIONS.items():
            for _ in range(2):  # the second may come from memory
                self.assertEqual(now(self.directory.resolve(address)), expected, address)

    def test_postmaster_of_the_settings(self) -> None:
        self.directory.reconfigure(Local(domains=("settings.example",), postmaster="Anna@isp.example"))
        sent = Resolution(kind="alias", targets=("anna@isp.example",))
        self.assertEqual(now(self.directory.resolve("postmaster@settings.example")), sent)
        self.assertEqual(now(self.directory.resolve("postmaster")), sent)
        self.directory.reconfigure(Local(domains=("settings.example",), postmaster="postmaster@settings.example"))
        own = Resolution(kind="mailbox", mailbox="postmaster@settings.example")
        self.assertEqual(now(self.directory.resolve("postmaster@settings.example")), own)
        self.directory.reconfigure(Local())
        self.assertEqual(now(self.directory.resolve("postmaster")).kind, "unknown")

    def test_postmaster_who_exists(self) -> None:
        self.directory.reconfigure(Local(postmaster="anna@isp.example"))
        self.directory.add_user("Postmaster@isp.example", "secret")
        found = now(self.directory.resolve("postmaster@isp.example"))
        self.assertEqual(found.mailbox, "postmaster@isp.example")

    def test_delimiter(self) -> None:
        self.directory.reconfigure(Local(detail_delimiter="-"))
        self.assertEqual(now(self.directory.resolve("anna-x@isp.example")).detail, "x")
        self.assertEqual(now(self.directory.resolve("anna+x@isp.example")).kind, "unknown")
        self.directory.reconfigure(Local(detail_delimiter=""))
        self.assertEqual(now(self.directory.resolve("anna-x@isp.example")).kind, "unknown")

    def test_domain_of_the_settings_must_be_one(self) -> None:
        with self.assertRaisesRegex(ValueError, "not a domain"):
            self.directory.reconfigure(Local(domains=("not a domain",)))

    def test_is_local(self) -> None:
        for domain in ("isp.example", "ISP.Example", "settings.example", "bolt.example"):
            self.assertTrue(now(self.directory.is_local(domain)), domain)
        for domain in ("else.example", "example", "sub.isp.example", "", "[127.0.0.1]", "x" * 600):
            self.assertFalse(now(self.directory.is_local(domain)), domain)

    def test_records(self) -> None:
        directory = self.directory
        acme, domain, anna = (
            now(directory.customer("Acme")),
            now(directory.domain("isp.example")),
            now(directory.user("ANNA@isp.example")),
        )
        assert acme is not None
        assert domain is not None
        assert anna is not None
        self.assertEqual((acme.name, acme.limits, acme.suspended, acme.created), ("acme", {}, False, 1000.0))
        self.assertEqual((domain.name, domain.customer), ("isp.example", "acme"))
        self.assertEqual((anna.address, anna.customer), ("anna@isp.example", "acme"))
        self.assertEqual(anna.senders, ("@bolt.example", "friend@else.example"))
        self.assertTrue(verify_password(anna.password_hash, "secret"))
        self.assertNotIn(anna.password_hash, repr(anna))
        self.assertIsNone(now(directory.customer("nobody")))
        self.assertIsNone(now(directory.customer("")))
        self.assertIsNone(now(directory.domain("settings.example")))
        self.assertIsNone(now(directory.user("sales@isp.example")))
        self.assertIsNone(now(directory.user("anna")))
        self.assertIsNone(now(directory.user("a" * 600 + "@isp.example")))
        bolt = now(directory.customer("BOLT"))
        assert bolt is not None
        self.assertEqual(bolt.limits, {"recipients_per_day": 10, "queued_bytes": None})

    def test_may_send_as(self) -> None:
        anna, bert = now(self.directory.user("anna@isp.example")), now(self.directory.user("bert@isp.example"))
        assert anna is not None
        assert bert is not None
        allowed = {
            "anna@isp.example",
            "ANNA@isp.example",
            "anna+news@isp.example",
            "sales@isp.example",
            "team@isp.example",  # by way of sales
            "info@settings.example",
            "whatever@catch.example",
            "whoever@bolt.example",
            "friend@else.example",
        }
        refused = {
            "",
            "bert@isp.example",
            "anna+fixed@isp.example",  # bert's
            "anna@else.example",
            "nobody@isp.example",
            "bert@catch.example",
            "out@else.example",
            "x%y@catch.example",
        }
        for sender in allowed:
            self.assertTrue(now(self.directory.may_send_as(anna, sender)), sender)
        for sender in refused:
            self.assertFalse(now(self.directory.may_send_as(anna, sender)), sender)
        self.assertTrue(now(self.directory.may_send_as(bert, "team@isp.example")))
        self.assertTrue(now(self.directory.may_send_as(bert, "anna+fixed@isp.example")))
        self.assertFalse(now(self.directory.may_send_as(bert, "sales@isp.example")))

    def test_may_send_as_no_alias_that_stands_for_itself(self) -> None:
        directory = self.directory
        directory.add_domain("round.example", "Bolt")
        directory.add_user("about@round.example", "")
        directory.add_alias("@round.example", ("about@round.example",))
        directory.remove("user", "about@round.example")
        anna = now(directory.user("anna@isp.example"))
        assert anna is not None
        self.assertFalse(now(directory.may_send_as(anna, "any@round.example")))

    def test_change_customer(self) -> None:
        directory = self.directory
        directory.set_customer("bolt", suspended=True, messages_per_hour=5)
        bolt = now(directory.customer("Bolt"))
        assert bolt is not None
        self.assertTrue(bolt.suspended)
        self.assertEqual(bolt.limits, {"recipients_per_day": 10, "queued_bytes": None, "messages_per_hour": 5})
        self.assertEqual(directory.set_customer("bolt", limits={"connections": 3}).limits, {"connections": 3})
        self.assertEqual(bolt.created, 1000.0)
        for changes in ({"limits": {"speed": 1}}, {"connections": -1}, {"connections": True}, {"suspended": "yes"}):
            with self.assertRaises(ValueError):
                directory.set_customer("bolt", **changes)
        with self.assertRaisesRegex(ValueError, "colour"):
            directory.set_customer("bolt", colour="red")
        with self.assertRaises(KeyError):
            directory.set_customer("nobody", suspended=True)
        self.assertEqual(now(directory.customer("bolt")).limits, {"connections": 3})

    def test_change_user(self) -> None:
        directory = self.directory
        old = now(directory.user("anna@isp.example"))
        new = directory.set_user("Anna@isp.example", password="other", senders=("X@else.example",), suspended=True)
        assert old is not None
        self.assertEqual(now(directory.user("anna@isp.example")), new)
        self.assertEqual((new.senders, new.suspended), (("x@else.example",), True))
        self.assertTrue(verify_password(new.password_hash, "other"))
        self.assertFalse(directory.replace_hash("anna@isp.example", old.password_hash, "stale"))
        self.assertFalse(directory.replace_hash("nobody@isp.example", "", "new"))
        self.assertTrue(directory.replace_hash("anna@isp.example", new.password_hash, "new"))
        self.assertEqual(now(directory.user("anna@isp.example")).password_hash, "new")
        with self.assertRaises(KeyError):
            directory.set_user("nobody@isp.example", suspended=True)
        for bad in ({"password": "a\0b"}, {"senders": ("no address",)}, {"suspended": 1}, {"hat": "red"}):
            with self.assertRaises(ValueError):
                directory.set_user("anna@isp.example", **bad)

    def test_certificates(self) -> None:
        self.directory.add_user("cert@isp.example", "secret")
        self.directory.add_user("other@isp.example", "secret")
        one, two = "0a" * 32, "f" * 64
        user = self.directory.set_user("cert@isp.example", certificates=(":".join(["0A"] * 32), two, two))
        self.assertEqual(user.certificates, (one, two))
        self.assertEqual(now(self.directory.certified(one)), user)
        self.assertIsNone(now(self.directory.certified("b" * 64)))
        self.assertIsNone(now(self.directory.certified("")))
        self.assertRaises(ValueError, self.directory.set_user, "other@isp.example", certificates=(two,))
        for bad in ("", "x" * 64, "a" * 40, "a" * 65):
            self.assertRaises(ValueError, self.directory.set_user, "other@isp.example", certificates=(bad,))
        self.assertEqual(self.directory.set_user("cert@isp.example", certificates=(one,)).certificates, (one,))
        self.assertIsNone(now(self.directory.certified(two)))
        self.directory.set_user("other@isp.example", certificates=(two,))
        self.directory.set_user("cert@isp.example", suspended=True)
        self.assertEqual(now(self.directory.certified(one)).address, "cert@isp.example")
        self.directory.remove("user", "cert@isp.example")
        self.assertIsNone(now(self.directory.certified(one)))

    def test_refused_additions(self) -> None:
        directory = self.directory
        for name in ("", "-", "a b", "a/b", "é", "a\n", "x" * 65, ".hidden", "a\0"):
            with self.assertRaisesRegex(ValueError, "no name for a customer"):
                directory.add_customer(name)
        for name in ("acme", "ACME"):
            with self.assertRaisesRegex(ValueError, "exists already"):
                directory.add_customer(name)
        for name in ("", "not a domain", "[127.0.0.1]", "a..b"):
            with self.assertRaisesRegex(ValueError, "domain"):
                directory.add_domain(name, "acme")
        with self.assertRaisesRegex(ValueError, "exists already"):
            directory.add_domain("Isp.Example", "bolt")
        with self.assertRaisesRegex(ValueError, "no customer 'nobody'"):
            directory.add_domain("new.example", "nobody")
        for address in ("", "anna", "@isp.example", "a b@isp.example", "anna@[127.0.0.1]"):
            with self.assertRaises(ValueError):
                directory.add_user(address, "secret")
        for address in ("anna@else.example", "anna@settings.example"):
            with self.assertRaisesRegex(ValueError, "add the domain first"):
                directory.add_user(address, "secret")
        with self.assertRaisesRegex(ValueError, "exists already"):
            directory.add_user("ANNA@isp.example", "secret")
        with self.assertRaisesRegex(ValueError, "is an alias"):
            directory.add_user("sales@isp.example", "secret")
        for password in ("x" * 1025, "tab\t"):
            with self.assertRaisesRegex(ValueError, "password"):
                directory.add_user("new@isp.example", password)
        with self.assertRaisesRegex(ValueError, "not a domain of ours"):
            directory.add_alias("x@else.example", ("anna@isp.example",))
        with self.assertRaisesRegex(ValueError, "is a user"):
            directory.add_alias("anna@isp.example", ("bert@isp.example",))
        with self.assertRaisesRegex(ValueError, "exists already"):
            directory.add_alias("sales@isp.example", ("bert@isp.example",))
        for targets in ((), ("",), ("nobody",), ("x@isp.example",)):
            with self.assertRaisesRegex(ValueError, "target"):
                directory.add_alias("x@isp.example", targets)

    def test_alias_that_reaches_nobody(self) -> None:
        """Whatever brings mail back to the alias: another alias, a catch-all, a detail, or where postmaster goes."""
        add = self.directory.add_alias
        add("a@isp.example", ("b@isp.example",))
        add("b@isp.example", ("c@isp.example",))
        with self.assertRaisesRegex(ValueError, r"mail for c@isp\.example would come back to it by a@isp\.example, b"):
            add("C@isp.example", ("a@isp.example", "B+list@isp.example"))
        with self.assertRaisesRegex(ValueError, "come back to it by nobody@catch2.example and reach nobody"):
            self.directory.add_domain("catch2.example", "Bolt")
            add("@catch2.example", ("nobody@catch2.example",))
        with self.assertRaisesRegex(ValueError, r"by lost\+x@isp\.example"):
            add("lost@isp.example", ("lost+x@isp.example",))
        self.assertEqual(now(self.directory.resolve("c@isp.example")).kind, "unknown")
        # A circle with a way out loses nothing: the second time an address is met it is passed over.
        add("c@isp.example", ("a@isp.example", "anna@isp.example"))
        # Nor does one that ends where nobody is: the sender hears of it.
        add("d@isp.example", ("nobody@isp.example",))

    def test_user_without_a_password(self) -> None:
        self.assertEqual(self.directory.add_user("ldap@isp.example", "").password_hash, "")

    def test_entries(self) -> None:
        entries = self.directory.entries
        self.assertEqual([customer.name for customer in entries("customer")], ["acme", "Bolt"])
        self.assertEqual([customer.name for customer in entries("customer", "BOLT")], ["Bolt"])
        self.assertEqual(entries("customer", "nobody"), [])
        self.assertEqual([domain.name for domain in entries("domain", "acme")], ["catch.example", "isp.example"])
        self.assertEqual(len(entries("domain")), 3)
        users = [user.address for user in entries("user", "acme")]
        self.assertEqual(users, sorted(users))
        self.assertEqual(len(users), 5)
        self.assertEqual([user.address for user in entries("user", "bolt")], ["bolt@bolt.example"])
        self.assertIn("@catch.example", [alias.address for alias in entries("alias", "acme")])
        self.assertNotIn("info@settings.example", [alias.address for alias in entries("alias", "acme")])
        self.assertIn("info@settings.example", [alias.address for alias in entries("alias")])
        self.assertEqual(entries("user", "acm"), [])
        with self.assertRaisesRegex(ValueError, "none of customer, domain, user, alias"):
            entries("planet")

    def test_remove(self) -> None:
        directory = self.directory
        with self.assertRaisesRegex(ValueError, "1 domain, 1 user"):
            directory.remove("customer", "bolt")
        with self.assertRaisesRegex(ValueError, "1 user"):
            directory.remove("domain", "bolt.example")
        with self.assertRaisesRegex(ValueError, "2 users, 1 alias"):
            directory.remove("domain", "catch.example")
        directory.remove("user", "Bolt@bolt.example")
        self.assertIsNone(now(directory.user("bolt@bolt.example")))
        directory.remove("domain", "bolt.example")
        self.assertEqual(now(directory.resolve("bolt@bolt.example")).kind, "remote")
        directory.remove("customer", "bolt")
        self.assertIsNone(now(directory.customer("bolt")))
        directory.remove("alias", "@catch.example")
        self.assertEqual(now(directory.resolve("whoever@catch.example")).kind, "unknown")
        for kind, name in (("user", "bolt@bolt.example"), ("customer", "bolt"), ("alias", "@catch.example")):
            with self.assertRaises(KeyError):
                directory.remove(kind, name)
        with self.assertRaises(ValueError):
            directory.remove("planet", "earth")
        directory.add_customer("bolt")
        self.assertEqual(directory.entries("user", "bolt"), [])

    def test_a_customer_s_name_that_starts_like_another_s(self) -> None:
        self.directory.add_customer("acme.two")
        self.assertEqual(self.directory.entries("domain", "acme.two"), [])
        self.directory.remove("customer", "acme.two")

    def test_failed_change_leaves_nothing(self) -> None:
        before = self.directory.entries("user")

        def fail(change: Any) -> None:
            for user in before:
                change.delete(address_key(user.address), user)
            raise RuntimeError("changed my mind")

        with self.assertRaises(RuntimeError):
            self.directory._change(fail)
        self.assertEqual(self.directory.entries("user"), before)
        self.assertEqual(len(self.directory.entries("user", "acme")), 5)


class Memory(Contract, SynchronousTestCase):
    """In memory."""

    def make(self, local: Local) -> BaseDirectory:
        return MemoryDirectory(local, self.clock)


class Lmdb(Contract, SynchronousTestCase):
    """In LMDB."""

    def make(self, local: Local) -> BaseDirectory:
        directory = LmdbDirectory(self.mktemp(), local, self.clock, cheap_hash)
        self.addCleanup(directory.close)
        return directory


words = st.text(string.ascii_letters + string.digits, min_size=1, max_size=12)


class Properties(SynchronousTestCase):
    """For any name."""

    @given(words, words, words)
    def test_case_and_detail_never_matter(self, local: str, detail: str, domain: str) -> None:
        directory = MemoryDirectory(Local(), Clock())
        directory.add_customer("c")
        directory.add_domain(f"{domain}.example", "c")
        user = directory.add_user(f"{local}@{domain}.example", "secret")
        found = now(directory.resolve(f"{local.swapcase()}+{detail}@{domain}.example".replace(domain, domain.lower())))
        self.assertEqual((found.kind, found.mailbox, found.detail.lower()), ("mailbox", user.address, detail.lower()))
        self.assertTrue(now(directory.may_send_as(user, f"{local.upper()}+{detail}@{domain.lower()}.example")))

    @given(st.text(st.characters(codec="ascii", categories=["P", "S", "N", "L"]), min_size=1, max_size=20))
    @settings(max_examples=200)
    def test_route_like_addresses_are_nobody(self, text: str) -> None:
        directory = MemoryDirectory(Local(), Clock())
        directory.add_customer("c")
        directory.add_domain("c.example", "c")
        directory.add_user("anna@c.example", "secret")
        directory.add_alias("@c.example", ("anna@c.example",))
        for address in (f"{text}%else.example@c.example", f"else.example!{text}@c.example"):
            try:
                found = now(directory.resolve(address))
            except Exception as error:
                self.assertEqual(type(error).__name__, "AddressError")  # not an address at all
            else:
                self.assertEqual(found.kind, "unknown", address)
