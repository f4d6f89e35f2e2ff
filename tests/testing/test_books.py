"""Promise 2 under whatever other hosts, operators, restarts and the clock may do: the books balance.

What is delivered is compared with what the other hosts and the Maildirs really have, copy by copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.testing.world import ANNA, BERT, people
from twisted_mta.mail.events import Bounced, Delayed, Delivered, Reported
from twisted_mta.testing.client import Refused
from twisted_mta.testing.remote import FAILURES
from twisted_mta.testing.server import TestServer

CONFIG = """
[queue]
lifetime = "2h"
dsn_lifetime = "1h"
delay_warning = "30m"
[relay]
connections_per_destination = 2
recipients_per_transaction = 2
[quota.default]
queued_messages = 12
[local]
postmaster = "bert@isp.example"
"""

HOSTS = ("one.example", "two.example", "three.example")
LOCAL = (ANNA, BERT, "team@isp.example", "anna+list@isp.example")
ADDRESSES = (*LOCAL, *(f"{user}@{host}" for host in HOSTS for user in ("x", "y", "z")), "x@gone.example")
STEPS = ("greeting", "EHLO", "MAIL", "RCPT", "RCPT:x@one.example", "RCPT:y@two.example", "DATA", "content")
WORDS = ("421 4.3.2 busy", "450 4.2.0 later", "452 4.5.3 too many", "550 5.1.1 no", "554 5.7.1 never", "250 2.0.0 fine")


@attrs.frozen
class Does:
    """One thing that happens, written so that a failing example reads well."""

    what: str
    how: tuple[Any, ...]


def _does(what: str, *how: st.SearchStrategy[Any]) -> st.SearchStrategy[Does]:
    return st.builds(Does, st.just(what), st.tuples(*how))


_hosts = st.sampled_from(HOSTS)
_replies = st.dictionaries(
    st.sampled_from(STEPS), st.sampled_from(WORDS) | st.lists(st.sampled_from(WORDS), max_size=3)
)
_steps = st.frozensets(st.sampled_from((*STEPS, "body")), max_size=2)
_actions = st.one_of(
    _does("submit", st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=6, unique=True), st.integers(0, 2)),
    _does(
        "receive",
        st.lists(st.sampled_from(LOCAL), min_size=1, max_size=3, unique=True),
        st.sampled_from(["", "w@one.example"]),
    ),
    _does("advance", st.sampled_from([0.0, 1.0, 30.0, 70.0, 600.0, 3600.0])),
    _does("behave", _hosts, _replies, _steps, _steps),
    _does("fail", _hosts, st.sampled_from(sorted(FAILURES))),
    _does("recover", _hosts),
    _does("operate", st.sampled_from(["retry", "hold", "release", "remove"]), st.sampled_from(["", *ADDRESSES])),
    _does("block", st.sampled_from([ANNA, BERT])),
    _does("unblock", st.sampled_from([ANNA, BERT])),
    _does("forward", st.lists(st.sampled_from([ANNA, *ADDRESSES[4:]]), min_size=1, max_size=3, unique=True)),
    _does("return"),
    _does("restart"),
)


class World:
    """The server, and what its surroundings really got."""

    def __init__(self, server: TestServer) -> None:
        self.server = server
        people(server)
        self.remotes = {host: server.remote(host) for host in HOSTS}
        self.forwarded = False
        self.refused: list[int] = []
        server.add_alias("team@isp.example", ANNA, "x@one.example")

    def do(self, it: Does) -> None:
        actions: dict[str, Callable[..., Any]] = {
            "submit": self.submit,
            "receive": self.receive,
            "advance": self.server.advance,
            "behave": self.behave,
            "fail": lambda host, how: self.remotes[host].fail(how),
            "recover": lambda host: self.remotes[host].recover(),
            "operate": lambda action, recipient: self.server.operate(action, recipient=recipient),
            "block": self.block,
            "unblock": self.unblock,
            "forward": self.forward,
            "return": self.come_back,
            "restart": self.server.restart,
        }
        actions[it.what](*it.how)

    def submit(self, recipients: list[str], chunks: int) -> None:
        content = b"Subject: x\r\n\r\n" + b"yyyyyyy\r\n" * 8000 * chunks
        try:
            self.server.send(ANNA, recipients, content, auth=ANNA)
        except Refused as refused:
            self.refused.append(refused.reply.code)

    def receive(self, recipients: list[str], sender: str) -> None:
        self.server.send(sender, recipients)

    def behave(self, host: str, replies: dict[str, Any], disconnect: frozenset[str], silent: frozenset[str]) -> None:
        behaviour = self.remotes[host].behaviour
        behaviour.replies = {step: list(words) if isinstance(words, list) else words for step, words in replies.items()}
        behaviour.disconnect, behaviour.silent = disconnect, silent

    def block(self, user: str) -> None:
        """The mailbox can't be written."""
        home = self.server.folder / "mail" / "isp.example" / user.partition("@")[0]
        home.parent.mkdir(parents=True, exist_ok=True)
        if not home.is_file():
            if home.exists():
                home.rename(home.with_suffix(".away"))
            home.write_bytes(b"")

    def unblock(self, user: str) -> None:
        home = self.server.folder / "mail" / "isp.example" / user.partition("@")[0]
        if home.is_file():
            home.unlink()
            if home.with_suffix(".away").exists():
                home.with_suffix(".away").rename(home)

    def forward(self, targets: list[str]) -> None:
        """Bert is an alias from now on, also for his mail that waits."""
        if not self.forwarded:
            self.server.parts.directory.remove("user", BERT)
            self.server.add_alias(BERT, *targets)
            self.forwarded = True

    def come_back(self) -> None:
        if self.forwarded:
            self.server.parts.directory.remove("alias", BERT)
            self.server.add_user(BERT)
            self.forwarded = False

    def settle(self) -> None:
        """Everybody is well again, and time passes."""
        for host, remote in self.remotes.items():
            remote.recover()
            self.behave(host, {}, frozenset(), frozenset())
        self.unblock(ANNA)
        self.unblock(BERT)
        self.server.operate("release")
        self.server.advance(86400)

    def check(self) -> None:
        """What was told is what happened."""
        self.server.assert_balanced()
        assert set(self.refused) <= {452}, self.refused  # a full quota, and nothing else
        delivered = Counter(event.recipient for event in self.server.told(Delivered))
        taken = Counter(recipient for remote in self.remotes.values() for _, recipient in remote.taken)
        for user in (ANNA, BERT):
            for content in self.server.maildir(user):
                lines = content.split(b"\n", 5)
                (to,) = [line[14:].decode() for line in lines if line.startswith(b"Delivered-To: ")]
                taken[to] += 1
        assert taken == delivered, (taken - delivered, delivered - taken)
        bounces = self.server.told(Bounced)
        assert all(event.report or not event.sender for event in bounces), bounces  # no sender is left without word
        warned = Counter((event.id, one) for event in self.server.told(Delayed) for one in event.recipients)
        assert all(count == 1 for count in warned.values()), warned
        reported = {event.id for event in self.server.told(Reported)}
        named = {event.report for event in (*bounces, *self.server.told(Delayed)) if event.report}
        assert reported == named, (reported, named)


class BooksTests(SynchronousTestCase):
    """Random lives of a server."""

    @given(st.lists(_actions, min_size=5, max_size=30), st.integers(0, 1 << 16))
    @settings(max_examples=40, report_multiple_bugs=False)
    def test_they_balance(self, actions: list[Does], seed: int) -> None:
        with TestServer(CONFIG, seed=seed) as server:
            world = World(server)
            for action in actions:
                world.do(action)
                server.assert_balanced()
            world.settle()
            world.check()
            self.assertEqual(server.queue(), [])
            self.assertEqual(server.accounting().queued, 0)
            usage = server.store.usage("acme")
            self.assertEqual((usage.queued_messages, usage.queued_bytes), (0, 0))
