"""Both directories, given the same changes, say the same."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.internet.task import Clock

from tests.directory.test_contract import now
from twisted_mta.config.settings import KIB, Local
from twisted_mta.directory.lmdb_directory import LmdbDirectory
from twisted_mta.directory.memory import MemoryDirectory
from twisted_mta.directory.records import KINDS

CUSTOMERS = st.sampled_from(("a", "A", "ab", "a.b"))
DOMAINS = st.sampled_from(("x.example", "X.example", "x.examples", "settings.example"))
LOCALS = st.sampled_from(("u", "U", "u+d", "v", '"a b"', "w%y"))
ADDRESSES = st.builds("{}@{}".format, LOCALS, DOMAINS)
ALIASES = ADDRESSES | st.builds("@{}".format, DOMAINS)


class Twins(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        clock, local = Clock(), Local(domains=("settings.example",))
        self.lmdb = LmdbDirectory(self.folder, local, clock, lambda password: password, 128 * KIB)
        self.twin = MemoryDirectory(local, clock, lambda password: password)

    def teardown(self) -> None:
        self.lmdb.close()
        shutil.rmtree(self.folder)

    def both(self, method: str, *args: Any, **named: Any) -> None:
        answers: list[Any] = []
        for directory in (self.lmdb, self.twin):
            try:
                answers.append(getattr(directory, method)(*args, **named))
            except (ValueError, KeyError) as error:
                answers.append((type(error), str(error)))
        assert answers[0] == answers[1], answers

    @initialize()
    def begin(self) -> None:
        self.both("add_customer", "a")
        self.both("add_customer", "ab")
        self.both("add_domain", "x.example", "a")
        self.both("add_user", "u@x.example", "secret")

    @rule(name=CUSTOMERS)
    def add_customer(self, name: str) -> None:
        self.both("add_customer", name)

    @rule(name=CUSTOMERS, limit=st.none() | st.integers(0, 5), suspended=st.booleans())
    def set_customer(self, name: str, limit: int | None, suspended: bool) -> None:
        self.both("set_customer", name, connections=limit, suspended=suspended)

    @rule(name=DOMAINS, customer=CUSTOMERS)
    def add_domain(self, name: str, customer: str) -> None:
        self.both("add_domain", name, customer)

    @rule(address=ADDRESSES, password=st.sampled_from(("", "secret")))
    def add_user(self, address: str, password: str) -> None:
        self.both("check_user", address)
        self.both("add_user", address, password)

    @rule(address=ADDRESSES, senders=st.lists(ALIASES, max_size=2))
    def set_user(self, address: str, senders: list[str]) -> None:
        self.both("set_user", address, senders=tuple(senders))

    @rule(address=ADDRESSES, digits=st.lists(st.sampled_from("abc"), max_size=2))
    def certify(self, address: str, digits: list[str]) -> None:
        self.both("set_user", address, certificates=tuple(digit * 64 for digit in digits))

    @rule(address=ALIASES, ends=st.lists(ADDRESSES, max_size=3))
    def add_alias(self, address: str, ends: list[str]) -> None:
        self.both("add_alias", address, tuple(ends))

    @rule(kind=st.sampled_from(tuple(KINDS)), name=CUSTOMERS | DOMAINS | ALIASES)
    def remove(self, kind: str, name: str) -> None:
        self.both("remove", kind, name)

    @precondition(lambda self: self.twin.entries("customer"))
    @rule()
    def fill(self) -> None:
        """So much at once that the map has to grow."""
        self.both("add_domain", "list.example", self.twin.entries("customer")[0].name)
        self.both("add_alias", "all@list.example", tuple(f"target{number}@y.example" for number in range(5000)))

    @rule(address=ALIASES.filter(lambda address: address[0] != "@"), sender=ADDRESSES)
    def look_up(self, address: str, sender: str) -> None:
        found = [now(directory.resolve(address.lower())) for directory in (self.lmdb, self.twin)]
        assert found[0] == found[1], found
        users = [now(directory.user(address)) for directory in (self.lmdb, self.twin)]
        assert users[0] == users[1], users
        if users[0] is not None and users[1] is not None:
            assert now(self.lmdb.may_send_as(users[0], sender)) == now(self.twin.may_send_as(users[1], sender))
            for fingerprint in users[0].certificates:
                assert now(self.lmdb.certified(fingerprint)) == now(self.twin.certified(fingerprint)) == users[0]
            assert now(self.lmdb.domain(users[0].address.rpartition("@")[2])) is not None

    @invariant()
    def certificates_are_their_users(self) -> None:
        owners = {each: user for user in self.lmdb.entries("user") for each in user.certificates}
        for fingerprint in ("a" * 64, "b" * 64, "c" * 64):
            for directory in (self.lmdb, self.twin):
                assert now(directory.certified(fingerprint)) == owners.get(fingerprint)

    @invariant()
    def same_entries(self) -> None:
        for kind in KINDS:
            self.both("entries", kind)
            for customer in ("a", "ab", "a.b"):
                self.both("entries", kind, customer)
                everything = self.lmdb.entries(kind)
                owned = [each for each in everything if (getattr(each, "customer", None) or "").lower() == customer]
                if kind != "customer":
                    assert self.lmdb.entries(kind, customer) == owned


TestTwins = Twins.TestCase
TestTwins.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
