"""An operator removes what is being sent: nothing of it is begun once he has his answer."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.peers import wait_for
from tests.peers.mta import Mta
from tests.peers.postfix import SmtpSink, smtp_source

pytestmark = pytest.mark.peer

SENT, AT_ONCE = 300, 2

BEGIN = """
import sys, time
from twisted_mta.config.settings import Queue
from twisted_mta.queue.interfaces import QueueFilter
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.writer import InlineWriter
class Wall:
    def seconds(self):
        return time.time()
def fired(deferred):
    found = []
    deferred.addCallback(found.append)
    return found[0]
store = LmdbStore(sys.argv[1], Wall(), Queue(), InlineWriter())
fired(store.start())
assert fired(store.remove(QueueFilter(sender="spam@source.test"), "root", time.time(), 0.0)).ended is None
fired(store.stop())
"""
"""A command that ends as soon as the removal is in force."""


class RemovingTests(SynchronousTestCase):
    """Two workers, and a destination that takes a second over a message, two at once."""

    def test_while_the_other_side_is_slow(self) -> None:
        with (
            SmtpSink(["-W", "DATA:1"]) as sink,
            Mta(
                {
                    "workers": 2,
                    "relay": {
                        "networks": ["127.0.0.0/8"],
                        "smarthost": f"127.0.0.1:{sink.port}",
                        "connections_per_destination": AT_ONCE,
                    },
                }
            ) as mta,
        ):
            smtp_source(mta.mx, sender="spam@source.test", recipient="c@remote.example", messages=SENT, sessions=10)
            smtp_source(mta.mx, sender="ham@source.test", recipient="d@remote.example", messages=3)
            sink.wait_count(1)
            subprocess.run([sys.executable, "-c", BEGIN, str(mta.state / "queue")], check=True, timeout=30)
            time.sleep(0.1)  # by then the service has seen it, as the command makes sure
            under_way = sink.count() + AT_ONCE
            self.assertEqual({row["sender"] for row in mta.json("queue", "list")} - {"ham@source.test"}, set())
            wait_for("the end of the removal", lambda: mta.json("queue", "removals")[-1]["ended"], 30)
            mta.wait_empty()
            subjects = Counter(b"spam@source.test" in it for it in sink.messages())
            self.assertLessEqual(subjects[True], under_way)
            self.assertEqual(subjects[False], 3, "what nobody removed goes on")
            (removal,) = mta.json("queue", "removals")
            self.assertGreaterEqual(removal["deliveries"], SENT - under_way)
            gone = [event["id"] for event in mta.events("operator", action="remove")]
            self.assertEqual((len(gone), len(set(gone))), (removal["deliveries"],) * 2)
            delivered = {event["id"] for event in mta.events("deliver")}
            self.assertEqual(len(delivered | set(gone)), SENT + 3)
            self.assertLessEqual(
                len(delivered & set(gone)), 2 * AT_ONCE, "under way, or begun just before that was seen"
            )
            self.assertEqual(mta.trace(gone[-1])[-1]["event"], "done")
            self.assertEqual(mta.cli("queue", "verify").strip(), "The queue is in order.")
            self.assertEqual(mta.json("status")["queue"]["recipients"], 0)
