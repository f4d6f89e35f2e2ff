"""mta queue remove of a great many, and mta queue removals."""

from __future__ import annotations

from unittest import mock

from tests.admin.case import CliCase
from twisted_mta.admin.commands import removal
from twisted_mta.admin.context import operator_name


class Removing(CliCase):
    def setUp(self) -> None:
        super().setUp()
        self.populate()
        store = self.store()
        for number in range(7):
            self.put(store, {"smtp:a.example": (f"u{number}@a.example",)})
        self.other = self.put(store, {"smtp:b.example": ("x@b.example",)})
        self.shut(store)
        self.patch(removal, "PROMPT", 0.0)

    def test_more_than_is_worked_off_at_once(self) -> None:
        said = self.out("queue", "remove", "--destination", "a.example", "--yes")
        self.assertEqual(said[0], "Removed as of now (removal 1): none of it is sent or listed any more.")
        self.assertIn("once the service runs, or by this command with --wait", said[1])
        self.assertEqual([it["id"] for it in self.json("queue", "list")], [self.other.id])
        [first, *_] = self.json("queue", "removals")
        self.assertEqual((first["removal"], first["ended"], first["deliveries"]), (1, None, 0))
        self.assertEqual(first["filter"], {"destination": "smtp:a.example"})
        self.assertIn("so far", self.out("queue", "removals")[1])
        status = self.run_mta("status", code=4).stdout
        self.assertRegex(status, r"Being removed +0 deliveries of it so far: see mta queue removals")

    def test_waiting_for_its_end(self) -> None:
        value = self.json("queue", "remove", "--destination", "a.example", "--yes", "--wait")
        self.assertEqual((value["deliveries"], value["removal"]), (7, 1))
        self.assertIsNotNone(value["ended"])
        self.assertEqual(len(self.json("queue", "list")), 1)
        head, line = self.out("queue", "removals", width=120)
        self.assertIn("Deliveries", head)
        for words in ("destination smtp:a.example", "7", operator_name(), "in "):
            self.assertIn(words, line)

    def test_who_runs_is_told_to_have_the_rest(self) -> None:
        slept: list[float] = []
        with (
            mock.patch.object(removal, "read_status", return_value=object()),
            mock.patch.object(removal, "sleep", slept.append),
        ):
            said = self.out("queue", "remove", "--destination", "a.example", "--yes")
        self.assertIn("the service works off the rest", said[1])
        self.assertEqual(slept, [removal.NOTICED], "by then the service has seen it")

    def test_a_great_many_are_not_counted_before_it_is_asked(self) -> None:
        with mock.patch("twisted_mta.admin.commands.actions.COUNTED", 5), mock.patch.object(removal, "COUNTED", 5):
            said = self.error("queue", "remove", "--destination", "a.example", code=2)
        self.assertIn("Remove more than 5 deliveries?", said)

    def test_none_so_far(self) -> None:
        self.assertEqual(self.out("queue", "removals"), ["Nothing has been removed by a filter."])
