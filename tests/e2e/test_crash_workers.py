"""250 means on disk, whoever dies: any process of a parent with workers is killed at random moments under load.

As in ``test_crash.py``, but the service goes on: a worker that dies is replaced while the others serve, and when the
parent dies its workers end what is under way.  MTA_CRASH_ROUNDS sets the number of kills, MTA_CRASH_SEED their moments
and victims.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.e2e.test_crash import arrivals
from tests.peers import wait_for
from tests.peers.mta import Mta
from tests.peers.postfix import SmtpSink
from tests.workers.test_processes import Load, alive

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(3600)]

ROUNDS = int(os.environ.get("MTA_CRASH_ROUNDS", "6"))
WORKERS = 2
CONNECTIONS = 10


def workers(mta: Mta) -> dict[int, int]:
    """The process ids of the workers that serve, by their places, as the service writes them down each second."""
    try:
        status = json.loads((mta.state / "run" / "mta.json").read_text())
    except (OSError, ValueError):  # met half-way, or the parent has ended
        return {}
    return {one["slot"]: one["pid"] for one in status["workers"] if one["state"] == "serving"}


class WorkersCrashTests(SynchronousTestCase):
    """SIGKILL of a worker (mostly), of all workers, or of the parent."""

    def test_nothing_promised_is_lost_whichever_process_is_killed(self) -> None:
        seed = os.environ.get("MTA_CRASH_SEED") or str(random.randrange(1 << 32))
        print(f"MTA_CRASH_ROUNDS={ROUNDS} MTA_CRASH_SEED={seed}")
        chance = random.Random(seed)
        kills: list[float] = []
        victims = {"worker": 0, "workers": 0, "parent": 0}
        with SmtpSink() as sink:
            settings = {
                "workers": WORKERS,
                "worker_timeout": "5s",
                "relay": {
                    "networks": ["127.0.0.0/8"],
                    "smarthost": f"127.0.0.1:{sink.port}",
                    "connections_per_destination": CONNECTIONS,
                    "private_addresses": True,
                },
                "queue": {"retry": ["1s", "1s", "2s"]},
                "smtp": {"connections_per_address": 1000},
            }
            with Mta(settings) as mta:
                load = Load(mta, clients=5, domains=5)
                for number in range(ROUNDS):
                    load.wait(10)
                    time.sleep(chance.uniform(0.0, 0.5))  # the moment of the kill is what is random here
                    victim = "parent" if number % 5 == 4 else "workers" if number % 5 == 2 else "worker"
                    victims[victim] += 1
                    kills.append(time.time())
                    self.kill(mta, victim, chance)
                load.wait(10)
                load.stop()
                mta.wait_empty(150)  # what several have died with is armed for a while
                arrived = arrivals(sink)
                twice = {tag: times for tag, times in arrived.items() if len(times) > 1}
                print(
                    f"{len(kills)} kills {victims}: {len(load.promised)} promised, {len(load.open)} open, "
                    f"{len(arrived)} arrived, {len(twice)} twice"
                )
                self.assertEqual(sorted(load.promised - set(arrived)), [], "promised and lost")
                self.assertEqual(sorted(set(arrived) - load.promised - load.open), [], "arrived and never sent")
                for tag, times in twice.items():
                    near = [kill for kill in kills if kill - 5.0 <= times[0] <= kill + 5.0]
                    self.assertTrue(near, f"{tag} arrived twice, and nobody died: {times}")
                self.assertLessEqual(len(twice), 4 * CONNECTIONS * WORKERS * len(kills))
                self.assertEqual(mta.events("bounce"), [])
                self.assertEqual(mta.json("queue", "verify")["discrepancies"], [])

    def kill(self, mta: Mta, victim: str, chance: random.Random) -> None:
        """And wait until all serve again."""
        before = wait_for("all workers", lambda: len(found := workers(mta)) == WORKERS and found, 20)
        if victim == "parent":
            os.kill(mta.pid, signal.SIGKILL)
            mta.wait()
            mta.process = None
            wait_for("the workers' end", lambda: not any(alive(pid) for pid in before.values()), 40)
            mta.start()
            return
        doomed = list(before) if victim == "workers" else [chance.choice(list(before))]
        for slot in doomed:
            os.kill(before[slot], signal.SIGKILL)

        def replaced() -> bool:
            assert mta.process is not None
            if mta.process.poll() is not None:  # it gives up when all have died at once too often
                mta.process = None
                mta.start()
                return True
            now = workers(mta)
            return len(now) == WORKERS and all(now[slot] != before[slot] for slot in doomed)

        wait_for("new workers", replaced, 40)
