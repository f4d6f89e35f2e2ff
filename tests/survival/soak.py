"""Mixed traffic for long, with all that goes wrong in a month: what should stay flat stays flat, nothing is lost.

    python -m tests.survival.soak [--seconds 40] [--rate 8] [--seed N] [--keep FOLDER]

Messages of 0.5 KiB to 3 MiB with one to forty recipients come in plainly, over STARTTLS and over TLS with a login, one
customer beyond its quota, and go to hosts that are quick, slow, deferring, refusing, hanging or never there, and to
mailboxes.  All the while a worker is killed or hangs, settings are reloaded, a new version takes over, hosts go away,
names can't be looked up, the disk is full, an operator holds, releases and removes mail.  When and what is the seed's.

Memory and descriptors of each worker and the time of commits are sampled throughout.  In the end the ledgers of the
sender, the far side, the mailboxes and the service's own log agree message by message.  The pytest test runs the same
program; MTA_SOAK_SECONDS, MTA_SOAK_RATE and MTA_SOAK_SEED are its options.
"""

from __future__ import annotations

import os
import signal
import statistics
import threading
import time
from pathlib import Path
from typing import TypeVar

import attrs

from tests.peers import wait_for
from tests.survival.far import domain
from tests.survival.ledger import Death
from tests.survival.run import Run, conclude, options_of, seed_of_the_day
from tests.survival.sending import CARA, Mix
from tests.survival.service import verdict

_T = TypeVar("_T")

MIB = 1 << 20
LONG = 600.0
"""Seconds from which on a run is long: all caches are full early in it, and what grows then is a leak."""

KINDS = {"kill": 2.0, "hang": 1.0, "reload": 2.0, "down": 4.0, "dns": 1.5, "full": 1.5, "hold": 1.0, "remove": 0.5}
UPGRADES = (0.06, 0.2, 0.96)
"""At what parts of the time a new version takes over.  Worker 1 is left alone between the last two, and is measured."""


@attrs.frozen
class Sample:
    """One look at a process: seconds since the start, octets of memory but for mapped files, open descriptors."""

    at: float
    memory: int
    files: int


def look(process: int, at: float) -> Sample | None:
    """None where it is gone."""
    try:
        # Without the pages of the queue's file, which are the page cache's.
        status = Path(f"/proc/{process}/status").read_text()
        memory = int(status.partition("RssAnon:")[2].split()[0]) << 10
        return Sample(at, memory, len(os.listdir(f"/proc/{process}/fd")))
    except (OSError, ValueError, IndexError):
        return None


def _thirds(things: list[_T]) -> list[list[_T]]:
    third = len(things) // 3
    return [things[:third], things[third : 2 * third], things[2 * third :]]


class Soak(Run):
    """Faults by a plan."""

    def __init__(self, seconds: float, rate: float, seed: str, keep: str = "") -> None:
        super().__init__(Mix(rate=rate), seed, 50 if seconds >= LONG else 10, keep)
        self.seconds = seconds
        self.samples: dict[int, list[Sample]] = {}
        self.removed: set[tuple[str, str]] = set()
        self.faults: dict[str, int] = {}
        self.stops: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._reloads = 0

    def work(self) -> None:
        """See :class:`Run`."""
        self.senders.start()
        self.began = time.monotonic()
        sampler = threading.Thread(target=self._sample, daemon=True)
        sampler.start()
        for at, kind in self._plan():
            self._over.wait(max(0.0, self.began + at - time.monotonic()))
            self._say(kind)
            self.faults[kind] = self.faults.get(kind, 0) + 1
            getattr(self, f"_{kind}")()
        self._over.wait(max(0.0, self.began + self.seconds - time.monotonic()))
        self.senders.stop()
        self._over.set()
        sampler.join()
        self._settle()
        self._judge()
        self.mta.end()

    def _plan(self) -> list[tuple[float, str]]:
        """When and what: each kind once at least, and then as chance has it."""
        pause = max(4.0, self.seconds / 150)
        times = [at * pause for at in range(1, max(len(KINDS), int(self.seconds / pause) - 1) + 1)]
        kinds = self.chance.sample(list(KINDS), len(KINDS))
        kinds += self.chance.choices(list(KINDS), list(KINDS.values()), k=len(times) - len(kinds))
        upgrades = [(part * self.seconds, "upgrade") for part in UPGRADES]
        return sorted([*zip(times, kinds, strict=True), *upgrades])

    def _say(self, words: str) -> None:
        print(f"{time.monotonic() - self.began:7.1f} s  {words}", flush=True)

    def _victim(self) -> int:
        workers = self.mta.all_workers()
        spared = UPGRADES[-2] < (time.monotonic() - self.began) / self.seconds < UPGRADES[-1]
        return workers[0 if spared else self.chance.choice([0, 1])]

    def _kill(self) -> None:
        self.mta.kill_one(self._victim())

    def _hang(self) -> None:
        self.mta.hang_one(self._victim())

    def _reload(self) -> None:
        self._reloads += 1
        words = f"reloaded {self._reloads} times"
        self.mta.write_config({"smtp": {"banner": words}})
        os.kill(self.mta.now, signal.SIGHUP)

    def _upgrade(self) -> None:
        self.mta.all_workers()
        self.mta.upgrade()
        self.mta.all_workers()

    def _down(self) -> None:
        host = self.chance.choice(["quick1", "quick2", "tls", "slow"])
        self.far.say("down", host)
        self._over.wait(self.chance.uniform(0.5, max(2.0, self.seconds / 300)))
        self.far.say("up", host)

    def _dns(self) -> None:
        self.far.say("dns", "dead")
        self._over.wait(self.chance.uniform(3.0, max(5.0, self.seconds / 150)))
        self.far.say("dns", "alive")

    def _full(self) -> None:
        with self.mta.disk_full():
            self._over.wait(self.chance.uniform(1.0, max(2.0, self.seconds / 300)))

    def _hold(self) -> None:
        where = ["--destination", domain(self.chance.choice(["slow", "defers", "quick1"])), "--yes"]
        self.mta.run_cli("queue", "hold", *where)
        self._over.wait(self.chance.uniform(0.5, 3.0))
        self.mta.run_cli("queue", "release", *where)

    def _remove(self) -> None:
        """An operator gives up on the host that is never there."""
        removed = [
            one
            for one in self.mta.json("queue", "list", "--destination", domain("gone"), "--limit", "100000")
            if self.mta.run_cli("queue", "remove", f"{one['id']}/{one['destination']}").returncode == 0
        ]
        # By now the senders know the id of each, also of what had just come in.
        tags = {it.id: it.tag for it in list(self.senders.sent.values()) if it.id}
        self.removed |= {(tags.get(one["id"], one["id"]), it["address"]) for one in removed for it in one["recipients"]}

    def _sample(self) -> None:
        pause = min(5.0, max(0.5, self.seconds / 720))
        tenth = 0
        last = time.time()
        while not self._over.wait(pause):
            if time.time() - last > pause + 5:  # somebody has stopped all of us: the service's clocks ran on
                self.stops.append((last, time.time()))
                self._say(f"nothing ran for {time.time() - last:.0f} s")
            last = time.time()
            at = time.monotonic() - self.began
            for process in self.mta.workers().values():
                seen = look(process, at)
                if seen is not None:
                    self.samples.setdefault(process, []).append(seen)
            if at > self.seconds * (tenth + 1) / 10:
                tenth += 1
                self._report(at)

    def _report(self, at: float) -> None:
        since = time.time() - self.seconds / 10
        times = sorted(took for when, took in list(self.senders.commits) if when > since) or [0.0]
        now = {process: self.samples[process][-1] for process in self.mta.workers().values() if process in self.samples}
        self._say(
            f"{len(self.senders.sent):,} sent, {self.senders.promised():,} promised; commit median"
            f" {times[len(times) // 2] * 1e3:.1f} ms, 99 % {times[len(times) * 99 // 100] * 1e3:.0f} ms; "
            + ", ".join(f"worker {p}: {it.memory / MIB:.1f} MiB, {it.files} files" for p, it in now.items())
        )

    def _settle(self) -> None:
        """Until nothing is queued but what nobody takes, which an operator removes."""

        def quiet() -> bool:
            self._remove()
            self.mta.run_cli("queue", "release", "--all", "--yes")
            self.mta.run_cli("queue", "retry", "--all", "--yes")
            time.sleep(1)
            return self.mta.queue_length() == 0

        wait_for("an empty queue", quiet, 120)
        time.sleep(1)  # the log is written after the commit

    def _judge(self) -> None:
        died = self.mta.died()
        ours = {death.process for death in self.mta.deaths}
        others = [
            Death(process, self.stops[0][0] if self.stops else 0.0, time.time())
            for process, (when, words) in died.items()
            if process not in ours
        ]
        # Who can't write ends, or does not even begin; who began amid a reload begins anew.
        odd = [
            words
            for process, (when, words) in died.items()
            if process not in ours
            and "before the reload" not in words
            and not any(begin <= when <= end + 10 for begin, end in self.mta.full)
        ]
        if odd and not self.stops:
            self.wrong.append(f"workers died by themselves: {odd}")
        self.mta.full += self.stops
        found = verdict(self.mta, self.far, self.senders, self.removed, others)
        self.wrong += found.wrong
        print(
            f"faults: {self.faults}, {len(others)} workers replaced for other reasons;"
            f" all was stopped {len(self.stops)} times"
        )
        print(f"refusals: {self.senders.refusals}")
        print(
            f"{len(self.senders.sent):,} messages: {found.promised:,} promised, {found.unanswered:,} without an answer;"
            f" recipients: {found.delivered:,} delivered, {found.bounced:,} bounced, {found.removed:,} removed,"
            f" {found.queued:,} queued; {found.twice} twice, at most {found.latest * 1e3:.0f} ms before a death,"
            f" {found.untold} more because the connection was lost before their 250"
        )
        if found.promised < self.seconds * self.mix.rate / 4:
            self.wrong.append(f"only {found.promised} messages were taken")
        if not (found.bounced and found.removed and found.delivered):
            self.wrong.append("there was an end that no message had")
        used = sum(
            len(it.recipients) for it in self.senders.sent.values() if it.state == "promised" and it.sender == CARA
        )
        if used > self.quota * (1 + int(self.seconds / 3600)):
            self.wrong.append(f"a customer with a quota of {self.quota} had {used} recipients")
        self._flat()

    def _flat(self) -> None:
        judged = 0
        for process, seen in self.samples.items():
            if len(seen) < 12 or seen[-1].at - seen[0].at < self.seconds / 3:
                continue
            judged += 1
            parts = _thirds(seen)
            memory = [statistics.median(it.memory for it in part) for part in parts]
            files = [min(it.files for it in part) for part in parts]
            print(
                f"worker {process}, {seen[-1].at - seen[0].at:.0f} s, in thirds: memory, median,"
                f" {' '.join(f'{it / MIB:.1f}' for it in memory)} MiB, then {seen[-1].memory / MIB:.1f};"
                f" files, at least, {' '.join(map(str, files))}"
            )
            # At first it grows by what one argon2 hash takes, by arenas, and by what is kept of each destination.
            if memory[2] - memory[1] > (8 if self.seconds >= LONG else 40) * MIB:
                self.wrong.append(f"the memory of worker {process} grows")
            if files[2] > files[1] + (10 if self.seconds >= LONG else 40):
                self.wrong.append(f"worker {process} leaks descriptors")
        if not judged:
            self.wrong.append("no worker lived for long enough to be measured")
        commits = [statistics.median(took for _, took in part) for part in _thirds(self.senders.commits)]
        print(f"commit, median, in thirds: {' '.join(f'{took * 1e3:.1f}' for took in commits)} ms")
        if commits[2] > 3 * commits[0] + 0.1:
            self.wrong.append("commits take ever longer")


def main() -> None:
    """Run it."""
    parser = options_of(__doc__, rate=8.0)
    parser.add_argument("--seconds", type=float, default=40.0)
    options = parser.parse_args()
    seed = options.seed or seed_of_the_day("MTA_SOAK_SEED")
    print(f"--seconds {options.seconds:g} --rate {options.rate:g} --seed {seed}", flush=True)
    conclude(Soak(options.seconds, options.rate, seed, options.keep).run())


if __name__ == "__main__":
    main()
