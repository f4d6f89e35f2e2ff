"""The command line run in the tests' process, on real LMDB environments, at a standing clock."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import msgspec
from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from tests.admin.samples import NOON
from twisted_mta.admin.cli import cli
from twisted_mta.admin.context import Context, WallClock, result
from twisted_mta.config.settings import Local, Queue
from twisted_mta.directory.lmdb_directory import LmdbDirectory
from twisted_mta.mail import events as ev
from twisted_mta.mail.envelope import Delivery, Message, Recipient
from twisted_mta.queue.interfaces import Charge, Limits, NewDelivery, NewMessage, Settlement
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.writer import InlineWriter

CONTENT = b"From: <anna@acme.example>\r\nSubject: A message\r\nMessage-ID: <1@acme.example>\r\n\r\nHello\r\n"
SLOW = "451 4.4.1 connect to mx1.slow.example[198.51.100.9]:25: Connection timed out"


class StandingClock(WallClock):
    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def seconds(self) -> float:
        return self.now


class CliCase(SynchronousTestCase):
    """``self.run_mta("queue", "list")`` is ``mta queue list``; the state is in ``self.state``."""

    maxDiff = None

    def setUp(self) -> None:
        self.base = Path(self.mktemp()).absolute()
        self.base.mkdir(parents=True)
        self.state = self.base / "state"
        self.config = self.base / "mta.toml"
        self.configure()
        self.clock = StandingClock()
        self.addCleanup(os.umask, os.umask(0o022))
        self.patch(os, "environ", {**os.environ, "TZ": "UTC"})
        self.addCleanup(time.tzset)
        time.tzset()

    def configure(self, more: str = "") -> None:
        self.config.write_text(
            f'hostname = "mx1.isp.example"\nstate_dir = "{self.state}"\n{more}\n[queue]\nsync = "never"\n'
        )

    def run_mta(self, *args: str, code: int = 0, width: int | None = 80, input: str | bytes | None = None) -> Result:  # noqa: A002
        """Run a command, which ends with ``code``."""
        context = Context(clock=self.clock, width=width)
        words = ["--config", str(self.config), *args]
        done = CliRunner().invoke(cli, words, obj=context, input=input, env={"COLUMNS": None})
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        self.assertEqual(done.exit_code, code, done.output)
        return done

    def out(self, *args: str, **more: Any) -> list[str]:
        """What a command prints, by line."""
        return self.run_mta(*args, **more).stdout.splitlines()

    def json(self, *args: str, **more: Any) -> Any:
        """What a command prints with --json."""
        return json.loads(self.run_mta("--json", *args, **more).stdout)

    def error(self, *args: str, code: int, **more: Any) -> str:
        """What a command that ends with ``code`` says on standard error."""
        return self.run_mta(*args, code=code, **more).stderr

    # What is there

    def populate(self) -> None:
        """A customer with a domain, two users and an alias."""
        directory = LmdbDirectory(self.state / "directory", Local(), self.clock, hash_password=lambda p: f"hash:{p}")  # type: ignore[arg-type]
        directory.add_customer("acme", {"recipients_per_day": 100})
        directory.add_domain("acme.example", "acme")
        directory.add_user("anna@acme.example", "secret")
        directory.add_user("carl@acme.example", "secret")
        directory.add_alias("sales@acme.example", ("carl@acme.example",))
        directory.close()

    def store(self) -> LmdbStore:
        """The queue, open until :meth:`shut`."""
        store = LmdbStore(self.state / "queue", self.clock, Queue(sync="never"), writer=InlineWriter())  # type: ignore[arg-type]
        result(store.start())
        return store

    def shut(self, store: LmdbStore) -> None:
        result(store.stop())

    def put(
        self, store: LmdbStore, destinations: dict[str, tuple[str, ...]], sender: str = "anna@acme.example",
        customer: str = "acme", age: float = 0.0, content: bytes = CONTENT,
    ) -> Message:  # fmt: skip
        """One message, ``age`` seconds old."""
        now, self.clock.now = self.clock.now, self.clock.now - age
        arrived = self.clock.now
        incoming = store.incoming()
        incoming.write(content)
        to = tuple(address for addresses in destinations.values() for address in addresses)
        message = Message(
            id=incoming.id, arrived=arrived, sender=sender, recipients=len(to), size=incoming.size, chunks=1,
            expires=arrived + 5 * 86400, customer=customer, user=sender if customer else "", client="192.0.2.7",
            helo="laptop.example", protocol="ESMTPSA", listener="submission", message_id="<1@acme.example>",
        )  # fmt: skip
        accepted = ev.Accepted(
            time=arrived, id=message.id, session="s1", client=message.client, listener=message.listener,
            helo=message.helo, protocol=message.protocol, sender=sender, recipients=to, size=message.size,
            seconds=0.0123, user=message.user, customer=customer, message_id=message.message_id, tls="TLSv1.3 X",
        )  # fmt: skip
        expanded = {"sales@acme.example": ("carl@acme.example",)} if "carl@acme.example" in to else {}
        routed = ev.Routed(time=arrived, id=message.id, destinations=destinations, expanded=expanded)
        charge = (
            Charge(customer=customer, recipients=len(to), bytes=message.size, limits=Limits()) if customer else None
        )
        deliveries = tuple(
            NewDelivery(name, tuple(Recipient(address, address) for address in addresses))
            for name, addresses in destinations.items()
        )
        new = NewMessage(message=message, deliveries=deliveries, next_attempt=arrived + 60, charge=charge,
                         story=(accepted, routed), lane_customer=customer)  # fmt: skip
        result(incoming.commit(new))
        self.clock.now = now
        return message

    def defer(self, store: LmdbStore, message: Message, destination: str, reply: str = SLOW, attempts: int = 3) -> None:
        """A delivery that has been tried in vain, the last time half an hour ago."""
        [delivery] = [d for d in store.deliveries(message.id) if d.destination == destination]
        now = self.clock.now
        remaining = msgspec.structs.replace(
            delivery, attempts=attempts, last_attempt=now - 1800, next_attempt=now + 700, last_reply=reply,
            last_status=reply.split()[1],
        )  # fmt: skip
        story = tuple(
            ev.Deferred(**self.outcome(message, delivery, r, reply), time=now - 1800, attempt=attempts,
                        next_attempt=now + 700)
            for r in delivery.recipients
        )  # fmt: skip
        result(store.settle([Settlement(delivery=delivery, remaining=(remaining,), story=story)]))

    def finish(self, store: LmdbStore, message: Message, destination: str, kind: type[ev.Outcome], reply: str,
               relay: str, after: float, **more: Any) -> None:  # fmt: skip
        """A delivery that has come to its end ``after`` seconds."""
        [delivery] = [d for d in store.deliveries(message.id) if d.destination == destination]
        story = tuple(
            kind(**{**self.outcome(message, delivery, r, reply, relay), "time": message.arrived + after, "attempt": 1,
                    **more})
            for r in delivery.recipients
        )  # fmt: skip
        result(store.settle([Settlement(delivery=delivery, story=story)]))  # type: ignore[arg-type]

    def outcome(
        self, message: Message, delivery: Delivery, recipient: Recipient, reply: str, relay: str = ""
    ) -> dict[str, Any]:
        return {
            "id": message.id, "recipient": recipient.address, "destination": delivery.destination, "relay": relay,
            "status": reply.split()[1], "reply": reply, "delay": 1.0, "seconds": 0.3, "sender": message.sender,
            "customer": message.customer, "size": message.size,
        }  # fmt: skip
