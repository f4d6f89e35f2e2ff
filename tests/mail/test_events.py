"""Events as the event log and the history keep them."""

from __future__ import annotations

import typing

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.mail import events


class TagTests(SynchronousTestCase):
    def test_tags_are_unique(self) -> None:
        kinds = typing.get_args(events.AnyEvent)
        tags = [kind.__struct_config__.tag for kind in kinds]
        self.assertEqual(len(set(tags)), len(tags))

    def test_history_is_part_of_all(self) -> None:
        self.assertTrue(set(typing.get_args(events.HistoryEvent)) < set(typing.get_args(events.AnyEvent)))

    def test_round_trip(self) -> None:
        """A story that is stored comes back as the same values, in both forms that are used."""
        story = [
            events.Accepted(
                time=1.0,
                id="1",
                session="s",
                client="192.0.2.1",
                listener="mx",
                helo="x",
                protocol="ESMTP",
                sender="",
                recipients=("ann@isp.example",),
                size=10,
            ),
            events.Routed(time=1.0, id="1", destinations={"maildir:isp.example": ("ann@isp.example",)}),
            events.Done(time=2.0, id="1", seconds=1.0),
        ]
        wanted = list[events.HistoryEvent]
        self.assertEqual(msgspec.msgpack.decode(msgspec.msgpack.encode(story), type=wanted), story)
        self.assertEqual(msgspec.json.decode(msgspec.json.encode(story), type=wanted), story)

    def test_sink_that_drops(self) -> None:
        self.assertIsNone(events.no_events(events.Done(time=1.0, id="1")))
