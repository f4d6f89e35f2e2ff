"""mta queue: looking at it and acting on it."""

from __future__ import annotations

import os
import re
from unittest import mock

from tests.admin.case import CONTENT, SLOW, CliCase
from twisted_mta.admin.context import operator_name, result
from twisted_mta.mail.envelope import Message


class Looking(CliCase):
    def fill(self) -> list[Message]:
        self.populate()
        store = self.store()
        slow = self.put(store, {"smtp:slow.example": ("erin@slow.example", "fay@slow.example")}, age=7500)
        self.defer(store, slow, "smtp:slow.example")
        news = self.put(
            store,
            {"smtp:big.example": tuple(f"r{n}@big.example" for n in range(40))},
            age=300,
            content=CONTENT + b"x" * 45000,
        )
        evil = self.put(
            store, {"smtp:y.example": ("y@y.example",)}, sender="e\x1b[31m@x.example", customer="globex", age=20
        )
        result(store.act("hold", [(evil.id, "smtp:y.example")], "root", self.clock.now))
        self.shut(store)
        return [slow, news, evil]

    def test_list_at_80_columns(self) -> None:
        slow, news, evil = (message.id for message in self.fill())
        self.assertEqual(
            self.out("queue", "list"),
            [
                "ID                  Age      Size  From                 To",
                f"{slow}  2h05m      86 B  anna@acme.example    erin@slow.example +1",
                "                  smtp:slow.example",
                "                  deferred, tried 3 times, next in 11m: 451 4.4.1 connect to mx…",
                f"{news}     5m  44.0 KiB  anna@acme.example    r0@big.example +39",
                "                  smtp:big.example  new, due now",
                f"{evil}    20s      86 B  e\\x1b[31m@x.example  y@y.example",
                "                  smtp:y.example  held, not tried yet",
                "",
                "3 deliveries",
            ],
        )

    def test_list_at_120_columns(self) -> None:
        self.fill()
        lines = self.out("queue", "list", width=120)
        self.assertEqual(
            lines[2],
            "                  smtp:slow.example  deferred, tried 3 times, next in 11m:"
            " 451 4.4.1 connect to mx1.slow.example[198.51…",
        )
        for width in (60, 80, 100, 120, 200):
            self.assertLessEqual(max(map(len, self.out("queue", "list", width=width))), width)

    def test_nothing_is_cut_in_a_pipe(self) -> None:
        self.fill()
        self.assertIn(SLOW, self.run_mta("queue", "list", width=None).stdout)

    def test_json(self) -> None:
        slow, *_ = self.fill()
        found = self.json("queue", "list")
        self.assertEqual(len(found), 3)
        self.assertEqual(found[0], {
            "id": slow.id, "destination": "smtp:slow.example", "customer": "acme", "state": "queued",
            "sender": "anna@acme.example",
            "recipients": [
                {"address": "erin@slow.example", "original": "erin@slow.example", "notify": "", "orcpt": ""},
                {"address": "fay@slow.example", "original": "fay@slow.example", "notify": "", "orcpt": ""},
            ],
            "size": 86, "arrived": slow.arrived, "expires": slow.expires, "attempts": 3,
            "last_attempt": self.clock.now - 1800, "next_attempt": self.clock.now + 700, "last_reply": SLOW,
            "last_status": "4.4.1", "last_host": "", "message_id": "<1@acme.example>",
            "priority": 0, "release": None, "overdue": False,
        })  # fmt: skip

    def test_json_reaches_no_terminal_raw(self) -> None:
        self.fill()
        text = self.run_mta("queue", "list", "--json").stdout
        self.assertNotIn("\x1b", text)
        self.assertIn("e\\u001b[31m@x.example", text)

    def test_filters(self) -> None:
        slow, news, evil = (message.id for message in self.fill())
        cases = {
            ("--destination", "slow.example"): [slow],
            ("--destination", "smtp:slow.example"): [slow],
            ("--customer", "globex"): [evil],
            ("--sender", "@acme.example"): [slow, news],
            ("--recipient", "r7@big.example"): [news],
            ("--older-than", "1h"): [slow],
            ("--reason", "timed OUT"): [slow],
            ("--state", "held"): [evil],
            ("--sender", "@acme.example", "--recipient", "@big.example"): [news],
        }
        for args, ids in cases.items():
            self.assertEqual([one["id"] for one in self.json("queue", "list", *args)], ids, args)
        self.assertEqual(self.out("queue", "list", "--customer", "x"), ["Nothing in the queue matches."])

    def test_pages(self) -> None:
        ids = [message.id for message in self.fill()]
        lines = self.out("queue", "list", "--limit", "2")
        self.assertEqual(lines[-1], f"2 deliveries of 3. The next page: --after {ids[1]}/smtp:big.example")
        after = lines[-1].rpartition(" ")[2]
        self.assertEqual([one["id"] for one in self.json("queue", "list", "--after", after)], ids[2:])
        self.assertIn("--after takes", self.error("queue", "list", "--after", "zzz", code=2))

    def test_show(self) -> None:
        slow, *_ = self.fill()
        self.assertEqual(
            self.out("queue", "show", slow.id.upper()),
            [
                f"Message {slow.id}",
                "  From        anna@acme.example",
                "  Message-ID  <1@acme.example>",
                "  Size        86 B",
                "  Customer    acme, user anna@acme.example",
                "  Came from   192.0.2.7 (laptop.example), ESMTPSA, listener submission",
                "  Arrived     2026-11-23 09:55:00 (2h05m ago)",
                "  Expires     2026-11-28 09:55:00 (in 4d21h)",
                "",
                "smtp:slow.example",
                "  State         deferred, tried 3 times, next in 11m",
                "  Last attempt  2026-11-23 11:30:00",
                "  Next attempt  2026-11-23 12:11:40",
                "  Last reply    451 4.4.1 connect to mx1.slow.example[198.51.100.9]:25:",
                "                Connection timed out",
                "  To            erin@slow.example",
                "                fay@slow.example",
            ],
        )
        value = self.json("queue", "show", slow.id)
        self.assertEqual((value["id"], len(value["deliveries"])), (slow.id, 1))

    def test_cat(self) -> None:
        slow, news, _ = self.fill()
        self.assertEqual(self.run_mta("queue", "cat", slow.id).stdout_bytes, CONTENT)
        self.assertEqual(
            self.run_mta("queue", "cat", news.id, "--header").stdout_bytes,
            CONTENT.partition(b"\r\n\r\n")[0] + b"\r\n\r\n",
        )

    def test_unknown_ids(self) -> None:
        self.fill()
        for command in ("show", "cat"):
            self.error("queue", command, "0000000000000000", code=3)
        self.assertIn("16 characters", self.error("queue", "show", "x", code=3))

    def test_empty_and_absent(self) -> None:
        said = self.error("queue", "list", code=3)
        self.assertIn(f"there is no queue in {self.state} yet", said)
        self.assertFalse(self.state.joinpath("queue").exists())
        self.shut(self.store())
        self.assertEqual(self.out("queue", "list"), ["The queue is empty."])


class Acting(CliCase):
    def setUp(self) -> None:
        super().setUp()
        self.populate()
        store = self.store()
        self.both = self.put(store, {"smtp:a.example": ("x@a.example",), "smtp:b.example": ("y@b.example",)})
        self.one = self.put(store, {"smtp:a.example": ("z@a.example",)}, customer="globex")
        self.shut(store)

    def states(self) -> dict[str, str]:
        return {f"{d['id']}/{d['destination']}": d["state"] for d in self.json("queue", "list")}

    def test_hold_and_release(self) -> None:
        self.assertEqual(self.out("queue", "hold", self.both.id), ["2 deliveries put on hold."])
        self.assertEqual(sorted(self.states().values()), ["held", "held", "queued"])
        self.assertEqual(
            self.out("queue", "release", f"{self.both.id}/smtp:a.example"), ["1 delivery released from hold."]
        )
        self.assertEqual(self.states()[f"{self.both.id}/smtp:b.example"], "held")
        self.assertEqual(self.states()[f"{self.both.id}/smtp:a.example"], "queued")

    def test_retry_by_filter(self) -> None:
        self.clock.now += 5
        self.assertEqual(
            self.json("queue", "retry", "--destination", "a.example"),
            {"action": "retry", "deliveries": 2, "unchanged": 0},
        )
        due = {d["recipients"][0]["address"]: d["next_attempt"] for d in self.json("queue", "list")}
        self.assertEqual(due["x@a.example"], self.clock.now)
        self.assertGreater(due["y@b.example"], self.clock.now)

    def test_what_stays_as_it_is_is_not_said_to_be_done(self) -> None:
        self.run_mta("queue", "hold", self.one.id)
        self.assertEqual(
            self.out("queue", "retry", "--all"),
            ["2 deliveries will be tried again now.", "1 delivery is on hold and stays so until released."],
        )
        self.assertEqual(
            self.out("queue", "hold", "--destination", "a.example"),
            ["1 delivery put on hold.", "1 delivery is on hold already."],
        )
        self.assertEqual(self.out("queue", "release", f"{self.both.id}/smtp:b.example"), ["1 delivery is not on hold."])
        self.assertEqual(self.json("queue", "release", "--all"), {"action": "release", "deliveries": 2, "unchanged": 1})

    def test_an_empty_filter_chooses_nothing(self) -> None:
        """A variable of a script that is empty must not make a removal wider."""
        for option in ("--destination", "--sender", "--recipient", "--reason"):
            for command in ("list", "remove", "bounce", "hold"):
                said = self.error("queue", command, "--customer", "acme", option, "", code=2)
                self.assertIn(f"'{option}': it is empty", said)
        self.assertEqual(len(self.states()), 3)

    def test_ids_and_filters_together(self) -> None:
        self.run_mta("queue", "hold", self.both.id, "--destination", "b.example")
        self.assertEqual(
            [key for key, state in self.states().items() if state == "held"], [f"{self.both.id}/smtp:b.example"]
        )

    def test_remove_is_on_record(self) -> None:
        self.run_mta("queue", "remove", self.one.id)
        self.assertNotIn(self.one.id, " ".join(self.states()))
        [operator] = [e for e in self.json("trace", self.one.id)["events"] if e["event"] == "operator"]
        self.assertEqual((operator["action"], operator["recipients"]), ("remove", ["z@a.example"]))
        self.assertTrue(operator["who"])

    def test_removing_by_filter_asks(self) -> None:
        said = self.error("queue", "remove", "--customer", "acme", code=2)
        self.assertIn("Remove 2 deliveries with 2 recipients? Nobody is there to answer: add --yes.", said)
        self.assertEqual(len(self.states()), 3)
        self.assertEqual(self.out("queue", "remove", "--customer", "acme", "--yes"), ["2 deliveries removed."])
        self.assertEqual(len(self.states()), 1)

    def test_a_person_may_say_no(self) -> None:
        with mock.patch("twisted_mta.admin.context.sys") as fake:
            fake.stdin.isatty.return_value = True
            with mock.patch("twisted_mta.admin.context.click.confirm", side_effect=SystemExit(1)) as asked:
                self.run_mta("queue", "remove", "--all", code=1)
        self.assertEqual(asked.call_args[0][0], "Remove 3 deliveries with 3 recipients?")
        self.assertEqual(len(self.states()), 3)

    def test_all_must_be_said(self) -> None:
        for action in ("retry", "hold", "release", "remove", "bounce"):
            self.error("queue", action, code=2)
        self.error("queue", "hold", "--all", self.one.id, code=2)
        self.assertEqual(self.out("queue", "hold", "--all"), ["3 deliveries put on hold."])

    def test_nothing_matches(self) -> None:
        self.error("queue", "hold", "--destination", "zzz.example", code=3)
        self.error("queue", "hold", "0000000000000000", code=3)
        self.error("queue", "remove", "--destination", "zzz.example", code=3)

    def test_bounce_reports_to_the_sender(self) -> None:
        self.assertEqual(
            self.out("queue", "bounce", self.both.id, "--text", "No such luck"),
            ["2 deliveries returned to the sender."],
        )
        reports = self.json("queue", "list", "--sender", "<>")
        self.assertEqual([r["recipients"][0]["address"] for r in reports], ["anna@acme.example"] * 2)
        self.assertEqual({r["destination"] for r in reports}, {"maildir:acme.example"})
        text = self.run_mta("queue", "cat", reports[0]["id"]).stdout
        self.assertIn("message/delivery-status", text)
        self.assertIn("No such luck", text)
        self.assertIn("Message-ID: <1@acme.example>", text)
        story = self.json("trace", self.both.id)
        self.assertEqual(
            {r["address"]: r["fate"] for r in story["recipients"]}, {"x@a.example": "bounced", "y@b.example": "bounced"}
        )
        self.assertEqual(sorted(story["reports"]), sorted(r["id"] for r in reports))
        self.assertFalse(story["in_queue"])
        self.assertIn("operator", [e["event"] for e in story["events"]])
        self.assertEqual([e["event"] for e in story["events"]][-1], "done")
        self.assertEqual(self.out("queue", "verify"), ["The queue is in order."])

    def test_a_bounce_leaves_alone_what_is_being_delivered(self) -> None:
        store = self.store()
        lane = store.deliveries(self.one.id)[0].lane
        claims = result(store.claim(lane, self.clock.now + 86400, 10, lambda it: self.clock.now + 86400))
        with mock.patch.object(store._owners, "leave"):  # its process lives
            self.shut(store)
        names = {f"{it.message.id}/{it.delivery.destination}" for it in claims}
        said = self.json("queue", "bounce", "--all", "--yes")
        self.assertEqual((said["deliveries"], said["unchanged"]), (3 - len(names), len(names)))
        self.assertLessEqual(names, set(self.states()))
        self.assertEqual(
            self.out("queue", "bounce", self.one.id),
            ["1 delivery is being delivered now, or changed meanwhile, and left alone."],
        )
        assert store._owners._own is not None
        os.close(store._owners._own[1])

    def test_a_bounce_tells_the_running_service(self) -> None:
        store = self.store()
        before = store.changes()
        self.shut(store)
        self.run_mta("queue", "bounce", self.one.id)
        store = self.store()
        self.addCleanup(self.shut, store)
        self.assertGreater(store.changes(), before)

    def test_what_operators_do_is_in_the_log(self) -> None:
        log = self.base / "events.log"
        self.configure(f'[log]\nfile = "{log}"\n')
        self.run_mta("queue", "hold", self.one.id)
        self.assertFalse(log.exists())
        log.touch()
        self.run_mta("queue", "hold", self.both.id)
        self.run_mta("queue", "bounce", self.both.id)
        self.run_mta("send", "--from", "a@b.example", "--to", "x@c.example", input="Hello\n")
        lines = [re.sub(r"\[\d+\]", "", line).partition(" mta/")[2] for line in log.read_text().splitlines()]
        who = operator_name()
        self.assertIn(f"operator: {self.both.id}: hold by {who}, to=<x@a.example>", lines)
        self.assertIn(f"operator: {self.both.id}: bounce by {who}, to=<y@b.example>", lines)
        self.assertEqual(len([line for line in lines if "status=bounced (550 5.0.0 The admin" in line]), 2)
        self.assertEqual(len([line for line in lines if "sender non-delivery notification" in line]), 2)
        self.assertEqual(lines.count(f"qmgr: {self.both.id}: removed"), 1)
        self.assertIn("pickup", lines[-3])

    def test_verify(self) -> None:
        self.assertEqual(self.json("queue", "verify"), {"discrepancies": [], "repaired": False})

    def test_verify_finds_and_mends(self) -> None:
        import lmdb

        from twisted_mta.queue.records import META_TOTALS

        env = lmdb.open(str(self.state / "queue"), max_dbs=20)
        with env.begin() as txn:
            meta = env.open_db(b"meta", txn=txn, create=False)
        with env.begin(write=True) as txn:
            meta = env.open_db(b"meta", txn=txn)
            txn.delete(META_TOTALS, db=meta)
        env.close()
        wrong = self.out("queue", "verify", code=1)
        self.assertIn("--repair mends them", wrong[-1])
        self.assertIn("mended", self.out("queue", "verify", "--repair")[-1])
        self.assertEqual(self.out("queue", "verify"), ["The queue is in order."])


class Terminal(CliCase):
    def test_terminal_gets_no_control_characters_from_content(self) -> None:
        store = self.store()
        message = self.put(
            store, {"smtp:a.example": ("x@a.example",)}, content=b"Subject: \x1b[31m\r\n\r\n\x1b]0;pwned\x07 \xff\r\n"
        )
        self.shut(store)
        with mock.patch("twisted_mta.admin.commands.queue.sys") as fake:
            fake.stdout.isatty.return_value = True
            text = self.run_mta("queue", "cat", message.id).stdout
        self.assertEqual(text, "Subject: \\x1b[31m\n\n\\x1b]0;pwned\\x07 \\xff\n")
