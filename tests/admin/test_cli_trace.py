"""mta trace and mta status."""

from __future__ import annotations

import msgspec

from tests.admin.case import SLOW, CliCase
from twisted_mta.admin.context import result
from twisted_mta.admin.statusfile import ListenerStatus, read_status, write_status
from twisted_mta.config import load
from twisted_mta.mail import events as ev
from twisted_mta.mail.envelope import Message, Recipient
from twisted_mta.queue.interfaces import NewDelivery, NewMessage, Settlement


class Trace(CliCase):
    def fill(self) -> tuple[str, str]:
        """A message with one recipient of each fate, 2 hours old; its id and its report's."""
        self.populate()
        store = self.store()
        message = self.put(
            store,
            {"smtp:remote.example": ("bob@remote.example",), "maildir:acme.example": ("carl@acme.example",),
             "smtp:nowhere.example": ("dave@nowhere.example",),
             "smtp:slow.example": ("erin@slow.example", "fay@slow.example")},
            age=7200,
        )  # fmt: skip
        self.finish(
            store,
            message,
            "maildir:acme.example",
            ev.Delivered,
            "250 2.0.0 delivered to the mailbox",
            "maildir",
            0.02,
            original="sales@acme.example",
            file="/srv/carl/Maildir/new/1.M1.mx1",
        )
        self.finish(
            store,
            message,
            "smtp:remote.example",
            ev.Delivered,
            "250 2.0.0 Ok: queued as 4F1C",
            "mx.remote.example[198.51.100.3]:25",
            0.4,
            tls="TLSv1.3 TLS_AES_256_GCM_SHA384",
        )
        report = store.new_id()
        [delivery] = [d for d in store.deliveries(message.id) if d.destination == "smtp:nowhere.example"]
        at = message.arrived + 0.5
        dsn = Message(id=report, arrived=at, sender="", recipients=1, size=9, chunks=1, expires=at + 9e9, kind="dsn")
        told = ev.Reported(
            time=at, id=report, about=message.id, kind="failed", sender="", recipients=("anna@acme.example",)
        )
        to = ("anna@acme.example",)
        routed = ev.Routed(time=at, id=report, destinations={"maildir:acme.example": to})
        new = NewMessage(
            message=dsn,
            deliveries=(NewDelivery("maildir:acme.example", (Recipient(*to, *to),)),),
            next_attempt=at,
            story=(told, routed),
        )
        reply = "550 5.1.2 nowhere.example does not exist"
        fields = self.outcome(message, delivery, delivery.recipients[0], reply)
        bounce = ev.Bounced(**fields, time=at, attempt=1, report=report)
        result(store.settle([Settlement(delivery=delivery, reports=((new, b"a report."),), story=(bounce,))]))
        self.finish(store, dsn, "maildir:acme.example", ev.Delivered, "250 2.0.0 ok", "maildir", 0.1)
        self.defer(store, message, "smtp:slow.example")
        self.shut(store)
        return message.id, report

    def test_page(self) -> None:
        id_, report = self.fill()
        self.assertEqual(
            self.out("trace", id_),
            f"""\
Message {id_}
  2 delivered, 1 bounced, 2 deferred; in the queue for 2h

  From        anna@acme.example
  To          bob@remote.example, carl@acme.example, dave@nowhere.example,
              erin@slow.example, fay@slow.example
  Message-ID  <1@acme.example>
  Size        86 B
  Customer    acme, user anna@acme.example
  Came from   192.0.2.7 (laptop.example), ESMTPSA, listener submission, TLSv1.3
              X
  Session     s1
  Expires     2026-11-28 10:00:00 (in 4d22h)

Monday, 2026-11-23
  10:00:00.000           accepted   from 192.0.2.7, on disk 12 ms after MAIL
  10:00:00.000           routed     sales@acme.example stands for
                                    carl@acme.example
                                    bob@remote.example → smtp:remote.example
                                    carl@acme.example → maildir:acme.example
                                    dave@nowhere.example → smtp:nowhere.example
                                    erin@slow.example, fay@slow.example →
                                    smtp:slow.example
  10:00:00.020  +20 ms   delivered  carl@acme.example (as sales@acme.example)
                                    /srv/carl/Maildir/new/1.M1.mx1
                                    250 2.0.0 delivered to the mailbox
  10:00:00.400  +400 ms  delivered  bob@remote.example
                                    mx.remote.example[198.51.100.3]:25, TLSv1.3
                                    TLS_AES_256_GCM_SHA384
                                    250 2.0.0 Ok: queued as 4F1C
  10:00:00.500  +500 ms  bounced    dave@nowhere.example
                                    550 5.1.2 nowhere.example does not exist
                                    report {report}
  11:30:00.000  +1h30m   deferred   erin@slow.example, fay@slow.example
                                    451 4.4.1 connect to
                                    mx1.slow.example[198.51.100.9]:25:
                                    Connection timed out
                                    attempt 3, the next in 41m

Recipients
  delivered  bob@remote.example
             mx.remote.example[198.51.100.3]:25
  delivered  carl@acme.example (as sales@acme.example)
             /srv/carl/Maildir/new/1.M1.mx1
  bounced    dave@nowhere.example
             550 5.1.2 nowhere.example does not exist
             report {report} to anna@acme.example: delivered
  deferred   erin@slow.example
  deferred   fay@slow.example
             smtp:slow.example
             tried 3 times, next attempt in 11m (2026-11-23 12:11:40)
             451 4.4.1 connect to mx1.slow.example[198.51.100.9]:25: Connection
             timed out
""".splitlines(),
        )

    def test_after_it_has_left(self) -> None:
        id_, _ = self.fill()
        self.run_mta("queue", "remove", id_)
        lines = self.out("trace", id_)
        self.assertEqual(lines[1], "  2 delivered, 1 bounced, 2 removed; done after 2h")
        self.assertIn("  Message-ID  <1@acme.example>", lines)
        value = self.json("trace", id_)
        self.assertFalse(value["in_queue"])
        self.assertEqual({r["address"]: r["fate"] for r in value["recipients"]}, {
            "bob@remote.example": "delivered", "carl@acme.example": "delivered", "dave@nowhere.example": "bounced",
            "erin@slow.example": "removed", "fay@slow.example": "removed"})  # fmt: skip

    def test_a_report_says_what_it_is_about(self) -> None:
        id_, report = self.fill()
        lines = self.out("trace", report)
        self.assertEqual(lines[1], "  1 delivered; done after 1h59m")
        self.assertIn(f"  Report  failed, about {id_}", lines)
        self.assertEqual(self.json("trace", report)["about"], id_)

    def test_json(self) -> None:
        id_, report = self.fill()
        value = self.json("trace", id_)
        self.assertEqual(set(value), {"id", "in_queue", "message", "recipients", "reports", "about", "events"})
        self.assertEqual((value["in_queue"], value["reports"], value["about"]), (True, [report], None))
        self.assertEqual(value["message"]["client"], "192.0.2.7")
        erin = value["recipients"][3]
        self.assertEqual((erin["fate"], erin["reply"], erin["attempts"]), ("deferred", SLOW, 3))
        kinds = [event["event"] for event in value["events"]]
        self.assertEqual(kinds, ["accept", "route", "deliver", "deliver", "bounce", "defer", "defer"])

    def test_message_id(self) -> None:
        id_, _ = self.fill()
        self.assertEqual(self.json("trace", "<1@acme.example>")["id"], id_)
        self.assertEqual(self.json("trace", "1@acme.example")["id"], id_)
        self.assertEqual(
            self.error("trace", "<2@acme.example>", code=3),
            "mta: no message came with the Message-ID <2@acme.example>, "
            "or it is gone for longer than 7d (queue.history)\n",
        )

    def test_message_id_of_what_has_left(self) -> None:
        """One that was handed in twice is told twice, the older first."""
        store = self.store()
        first, second = (self.put(store, {"smtp:a.example": ("x@a.example",)}, age=age) for age in (60, 30))
        self.shut(store)
        self.run_mta("queue", "remove", first.id)
        told = self.json("trace", "<1@acme.example>")
        self.assertEqual([(one["id"], one["in_queue"]) for one in told], [(first.id, False), (second.id, True)])

    def test_unknown(self) -> None:
        self.fill()
        self.assertEqual(
            self.error("trace", "0000000000000000", code=3),
            "mta: 0000000000000000 is not known: never here, or gone for longer than 7d (queue.history)\n",
        )

    def test_no_width_is_exceeded_but_by_paths(self) -> None:
        id_, _ = self.fill()
        for width in (60, 80, 120):
            for line in self.out("trace", id_, width=width):
                self.assertTrue(len(line) <= width or "/" in line or "[" in line, line)


class Status(CliCase):
    def test_not_running(self) -> None:
        self.populate()
        self.shut(self.store())
        lines = self.out("status", code=4)
        self.assertTrue(lines[0].endswith(" on mx1.isp.example: not running"), lines[0])
        self.assertIn("  Messages    0", lines)
        self.assertNotIn("Busiest destinations", lines)

    def test_running(self) -> None:
        self.populate()
        store = self.store()
        slow = self.put(store, {"smtp:slow.example": ("erin@slow.example", "fay@slow.example")}, age=7500)
        self.defer(store, slow, "smtp:slow.example")
        held = self.put(store, {"smtp:y.example": ("y@y.example",)}, age=20)
        result(store.act("hold", [(held.id, "smtp:y.example")], "root", self.clock.now))
        self.shut(store)
        listeners = [
            ListenerStatus(name="mx", role="mx", tls="starttls", address="0.0.0.0", port=25),
            ListenerStatus(name="submissions", role="submission", tls="implicit", address="::", port=465),
        ]
        file = write_status(load(str(self.config)), listeners, clock=lambda: self.clock.now - 90000)
        self.addCleanup(file.close)
        head, *lines = self.out("status")
        self.assertRegex(head, r"^twisted-mta \S+ on mx1\.isp\.example: running for 1d1h, process \d+$")
        lines = [line for line in lines if not line.startswith("  Store ")]
        self.assertEqual(
            lines,
            [
                "",
                "Listening",
                "  mx           0.0.0.0:25      mx          STARTTLS",
                "  submissions  [::]:465        submission  TLS",
                "  admin        127.0.0.1:8025  HTTP",
                "",
                "Queue",
                "  Messages    2 (1 delivery held)",
                "  Recipients  3 at 2 destinations",
                "  Size        172 B",
                "  Oldest      2h05m",
                "",
                "Busiest destinations",
                "  Destination        Recipients  Oldest  Next  Reason",
                "  smtp:slow.example           2   2h05m   11m  451 4.4.1 connect to mx1.slow.ex…",
                "  smtp:y.example              1     20s  held  -",
            ],
        )
        value = self.json("status")
        self.assertEqual((value["running"], value["uptime"]), (True, 90000))
        self.assertEqual(value["service"]["listeners"][1]["port"], 465)
        self.assertEqual(value["queue"]["recipients"], 3)
        self.assertEqual(value["destinations"][0], {
            "destination": "smtp:slow.example", "deliveries": 1, "recipients": 2, "held": 0, "oldest": slow.arrived,
            "next_attempt": self.clock.now + 700, "reason": SLOW})  # fmt: skip

    def test_overload(self) -> None:
        self.populate()
        self.shut(self.store())
        settings = load(str(self.config))
        file = write_status(settings, [], clock=lambda: self.clock.now - 90000)
        self.addCleanup(file.close)
        self.assertNotIn("Overload", self.out("status"))
        running = read_status(settings)
        assert running is not None
        file.update(msgspec.structs.replace(running, refused=1234, refused_last=self.clock.now - 65))
        lines = self.out("status")
        self.assertEqual(lines[lines.index("Overload") + 1], "  1,234 connections refused, the last 1m05s ago")
        self.assertEqual(self.json("status")["service"]["refused"], 1234)

    def test_nothing_there(self) -> None:
        self.error("status", code=3)
        self.assertFalse(self.state.exists())
