"""Walking through what matches, where much of the queue is passed over."""

from __future__ import annotations

from unittest.mock import Mock, call

from twisted.internet.defer import succeed
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.admin.selection import LOOK, walk
from twisted_mta.queue.interfaces import Page, QueueFilter


class WalkTests(SynchronousTestCase):
    def test_each_look_is_bounded_and_an_empty_page_is_no_end(self) -> None:
        pair, match = Mock(), QueueFilter(sender="a@x")
        pages = [Page(more="one"), Page(more="two"), Page(found=[pair])]
        store = Mock(page=Mock(side_effect=[succeed(page) for page in pages]))
        self.assertEqual(list(walk(store, match, limit=5)), [pair])
        self.assertEqual(store.page.mock_calls, [call(match, after, 5, LOOK) for after in ("", "one", "two")])
