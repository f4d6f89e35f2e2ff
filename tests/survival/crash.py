"""250 means on disk, whoever dies: processes of a service with workers are killed at random moments, very often.

    python -m tests.survival.crash [--rounds 60] [--seconds 0] [--rate 30] [--seed N] [--keep FOLDER]

The sender and the far side go on throughout.  Each round kills, with SIGKILL and at a moment of the seed's, one worker,
several, the parent, or all at once, whether they serve, deliver, commit or have not even begun; the next round comes
as soon as mail has been taken since, by whoever serves, and sometimes before.  Every so many rounds the queue's
counters are recounted.  In the end everything promised has arrived or bounced, and a second copy is right only where
the process that had the far side's 250 for the first was killed before it could commit that: both are known by process
and time, not guessed (``ledger``).

The pytest test runs the same program; MTA_SURVIVAL_ROUNDS and MTA_CRASH_SEED are its options.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time

from tests.peers import wait_for
from tests.survival.ledger import Death
from tests.survival.run import Run, conclude, options_of, seed_of_the_day
from tests.survival.sending import Mix
from tests.survival.service import alive, verdict

VICTIMS = {"worker": 8.0, "workers": 3.0, "parent": 1.0, "all": 2.0}
WORKERS = 4
VERIFY = 100
"""Rounds between two counts of the queue."""

NO_WAIT = 0.15
"""In how many of the rounds mail is not waited for: they come in the middle of a start."""

HOSTS = {"quick1": 40.0, "quick2": 30.0, "tls": 8.0, "slow": 10.0, "defers": 6.0, "refuses": 4.0}


class Crash(Run):
    """Rounds of kills."""

    workers = WORKERS
    settings = {
        "worker_timeout": "30s",  # nobody hangs here, and a start beside other work may take long
        "queue": {"retry": ["1s", "2s", "4s"], "delay_warning": "0s"},
    }

    def __init__(self, rounds: int, rate: float, seed: str, seconds: float = 0.0, keep: str = "") -> None:
        super().__init__(
            Mix(rate=rate, senders=8, largest=200 << 10, many=0.03, most=10, hosts=HOSTS), seed, 10**6, keep
        )
        self.rounds, self.seconds = rounds, seconds
        self.kills = dict.fromkeys(VICTIMS, 0)
        self.killed = 0
        self.starts = 0

    def work(self) -> None:
        """See :class:`Run`."""
        self.senders.start()
        self.began = time.monotonic()
        try:
            for number in range(self.rounds):
                self._round(number)
                if number % VERIFY == VERIFY - 1:
                    self._look(number)
                if self.seconds and time.monotonic() - self.began > self.seconds:
                    self.rounds = number + 1
                    break
        finally:
            self.senders.stop()
        self._serving()
        wait_for("an empty queue", self._quiet, 300)
        time.sleep(1)
        self._judge()
        self.mta.end()

    def _round(self, number: int) -> None:
        """Kill; mostly when mail flows, sometimes in the middle of a start."""
        if self.chance.random() >= NO_WAIT:
            count = self.senders.promised()
            wait_for("mail", lambda: self._again() or self.senders.promised() > count, 180)
        time.sleep(self.chance.uniform(0.0, 0.5))  # the moment of the kill is what is random here
        victim = self.chance.choices(list(VICTIMS), list(VICTIMS.values()))[0]
        parent = self.mta.process.pid if self.mta.process is not None else 0
        workers = sorted(set(self._left()) - {parent})  # those, too, that do not serve yet
        if victim in {"worker", "workers"} and not workers:
            victim = "all"
        self.kills[victim] += 1
        if victim == "worker":
            self._kill([self.chance.choice(workers)])
        elif victim == "workers":
            self._kill(self.chance.sample(workers, self.chance.randint(min(2, len(workers)), len(workers))))
        elif victim == "parent":
            self._kill([parent])
            # What is under way is finished; a service manager would kill those that take too long.
            deadline = time.monotonic() + self.chance.uniform(0.0, 1.0)
            while (left := self._left()) and time.monotonic() < deadline:
                time.sleep(0.02)
            self._kill(left)
        else:
            self._kill([parent, *self._left()])
        self._again()

    def _again(self) -> None:
        """Start a service that is not there; it may also have given up, after many deaths at once."""
        assert self.mta.process is not None
        if self.mta.process.poll() is not None:
            self._start()

    def _serving(self) -> None:
        """Wait until all serve."""

        def serving() -> bool:
            self._again()
            return len(self.mta.workers()) == WORKERS and all(map(alive, self.mta.workers().values()))

        wait_for("all workers", serving, 180)

    def _left(self) -> list[int]:
        """The processes of the service's group that are there."""
        assert self.mta.process is not None
        found = subprocess.run(["pgrep", "-g", str(self.mta.process.pid)], capture_output=True, text=True)
        return [int(line) for line in found.stdout.split() if alive(int(line))]

    def _kill(self, processes: list[int]) -> None:
        since = time.time()
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
                self.killed += 1
        for process in processes:
            wait_for("its end", lambda one=process: self._gone(one), 60)
            self.mta.deaths.append(Death(process, since, time.time()))

    def _gone(self, process: int) -> bool:
        if self.mta.process is not None:
            self.mta.process.poll()
        return not alive(process)

    def _start(self) -> None:
        """Begin anew, without waiting for it to be ready."""
        self.starts += 1
        (self.mta.state / "run" / "mta.json").unlink(missing_ok=True)
        with self.mta.log.open("ab") as log:
            self.mta.process = subprocess.Popen(
                self.mta.argv(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.mta.folder,
                env=self.mta.environment(),
                start_new_session=True,
            )

    def _look(self, number: int) -> None:
        self._serving()
        problems = self.mta.json("queue", "verify")["discrepancies"]
        self.wrong += [f"after round {number}: {it}" for it in problems]
        print(
            f"{time.monotonic() - self.began:7.1f} s  {number + 1} rounds {self.kills}, {self.killed} processes killed;"
            f" {len(self.senders.sent):,} sent, {self.senders.promised():,} promised",
            flush=True,
        )

    def _quiet(self) -> bool:
        self.mta.run_cli("queue", "retry", "--all", "--yes")
        time.sleep(1)
        return self.mta.queue_length() == 0

    def _judge(self) -> None:
        ours = {death.process for death in self.mta.deaths}
        odd = [words for process, (_, words) in self.mta.died().items() if process not in ours]
        if odd:
            self.wrong.append(f"workers died by themselves: {odd}")
        found = verdict(self.mta, self.far, self.senders, set())
        self.wrong += found.wrong
        print(
            f"{self.rounds} rounds {self.kills}, {self.killed} processes killed, {self.starts} starts in"
            f" {time.monotonic() - self.began:.0f} s: {found.promised:,} promised, {found.unanswered:,} open;"
            f" recipients: {found.delivered:,} delivered, {found.bounced:,} bounced; {found.twice} twice, the 250"
            f" of which came at most {found.latest * 1e3:.0f} ms before the kill of who had it,"
            f" {found.untold} more because the connection was lost before their 250"
        )
        if found.promised < 2 * self.rounds:
            self.wrong.append(f"only {found.promised} messages were taken")


def main() -> None:
    """Run it."""
    parser = options_of(__doc__, rate=30.0)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=0.0, help="no more rounds after so long; 0: all")
    options = parser.parse_args()
    seed = options.seed or seed_of_the_day("MTA_CRASH_SEED")
    print(f"--rounds {options.rounds} --rate {options.rate:g} --seed {seed}", flush=True)
    conclude(Crash(options.rounds, options.rate, seed, options.seconds, options.keep).run())


if __name__ == "__main__":
    main()
