"""The service under test with its far side: processes that may be killed, hung, upgraded, and a disk that may fail."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import trustme
from twisted.trial.unittest import SkipTest

from tests.peers import wait_for
from tests.peers.mta import Mta
from tests.peers.process import LOOPBACK, Daemon, PeerFailed, free_port
from tests.survival.far import HOSTS, domain, intact, reported
from tests.survival.ledger import Copy, Death, Verdict, judge
from tests.survival.sending import USERS, Senders

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
_TAG = re.compile(rb"^X-Tag: (\S+)", re.MULTILINE)
_TO = re.compile(rb"^Delivered-To: (\S+)", re.MULTILINE)
_PROCESS = re.compile(r"P(\d+)Q")
_DIED = re.compile(r"process (\d+)")
_LOST = re.compile(r"process (\d+): (\S+) to ")


def state(process: int) -> str:
    """What proc(5) says of a process, "Z" where it is not there."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def alive(process: int) -> bool:
    """Whether a process is there, and no zombie."""
    return state(process) != "Z"


def library(folder: Path) -> str:
    """Compiles ``faults.c``.  Skips where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise SkipTest("making a disk fail needs a C compiler (cc: Debian's gcc and libc6-dev)")
    made = folder / "faults.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", made, HERE / "faults.c", "-ldl"], check=True)
    return str(made)


class FarSide(Daemon):
    """``far.py``, with its journal."""

    name = "far"

    def __init__(self) -> None:
        super().__init__()
        self.port, self.dns_port = free_port(), free_port()
        self.journal = self.folder / "journal"
        self.certificate = self.folder / "certificate.pem"
        issued = trustme.CA().issue_cert("far.test")
        issued.private_key_and_cert_chain_pem.write_to_path(str(self.certificate))
        self._pipe: IO[bytes] | None = None
        self.told = 0

    def start(self) -> FarSide:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.survival.far", str(self.journal)),
                    *(str(self.port), str(self.dns_port), str(self.certificate)),
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                start_new_session=True,
            )
        self._pipe = self.process.stdin
        wait_for("the far side", lambda: "ready" in self.output(), 20, self.check_alive)
        return self

    def say(self, what: str, name: str) -> None:
        """A command, such as "down", "quick1", which is done when this returns."""
        assert self._pipe is not None
        self.told += 1
        self._pipe.write(f"{what} {name}\n".encode())
        self._pipe.flush()
        wait_for("an answer", lambda: self.output().count("\n") > self.told, 30, self.check_alive)

    def read(self) -> tuple[list[Copy], list[Copy]]:
        """What arrived, and the reports on what failed."""
        processes: dict[int, int] = {}
        untold: dict[int, dict[str, Any]] = {}
        took: list[dict[str, Any]] = []
        with self.journal.open() as lines:
            for line in lines:
                entry = json.loads(line)
                if entry["kind"] == "begin":
                    processes[entry["session"]] = entry["process"]
                elif entry["kind"] == "took":
                    took.append(entry)
                    untold[entry["session"]] = entry
                elif entry["kind"] == "told":
                    untold.pop(entry["session"])["told"] = True
        copies: list[Copy] = []
        reports: list[Copy] = []
        for it in took:
            about, recipients = (it["about"], it["failed"]) if it["about"] else (it["tag"], it["recipients"])
            (reports if it["about"] else copies).extend(
                Copy(about, whom, it["time"], processes[it["session"]], it["intact"], "told" in it)
                for whom in recipients
                if about
            )
        return copies, reports

    def close(self) -> None:
        if self._pipe is not None:
            with contextlib.suppress(OSError):
                self._pipe.close()
        super().close()


class Preloaded(Mta):
    """With a disk that fails on demand, by ``fault`` and as long as ``trigger`` is there."""

    library = ""

    def __init__(self, settings: dict[str, Any], **more: Any) -> None:
        super().__init__(settings, **more)
        self.library = library(self.folder)
        self.trigger = self.folder / "faults"

    def environment(self) -> dict[str, str]:
        found = super().environment()
        return {**found, "LD_PRELOAD": self.library, "MTA_FAULTS": str(self.trigger)} if self.library else found

    def run_cli(self, *words: str, stdin: str = "", seconds: float = 300.0) -> subprocess.CompletedProcess[str]:
        kept, self.library = self.library, ""
        try:
            return super().run_cli(*words, stdin=stdin, seconds=seconds)
        finally:
            self.library = kept

    def fault(self, error: int, text: str, calls: str, first: int = 0, count: int = 0) -> None:
        """See ``faults.c``."""
        made = self.trigger.with_suffix(".new")
        made.write_text(f"{error} {text} {calls} {first} {count}\n")
        made.replace(self.trigger)

    def status(self) -> dict[str, Any]:
        """What the service writes down about itself each second; {} where it can't be read now."""
        try:
            found: dict[str, Any] = json.loads((self.state / "run" / "mta.json").read_text())
        except (OSError, ValueError):
            return {}
        return found

    def workers(self) -> dict[int, int]:
        """The workers that serve, by their places."""
        return {one["slot"]: one["pid"] for one in self.status().get("workers", ()) if one["state"] == "serving"}


class Service(Preloaded):
    """With workers; ``deaths`` are those that we made.  ``now`` is the process that serves, or the workers' parent."""

    def __init__(self, far: FarSide, workers: int = 2, settings: dict[str, Any] | None = None) -> None:
        self.deaths: list[Death] = []
        self.full: list[tuple[float, float]] = []
        self._settings = {
            "workers": workers,
            "worker_timeout": "15s",  # who has no turn for a while, beside other work, is not one that hangs
            "dns": {"servers": [f"{LOOPBACK}:{far.dns_port}"], "timeout": "1s", "attempts": 1},
            "relay": {
                "networks": ["127.0.0.0/8"],
                "port": far.port,
                "private_addresses": True,
                "connections_per_destination": 10,
            },
            "queue": {"retry": ["2s", "4s", "10s"], "delay_warning": "0s"},
            "smtp": {"connections_per_address": 1000},
            "quota": {
                "default": {
                    **dict.fromkeys(("recipients_per_hour", "recipients_per_day", "queued_messages"), 10**8),
                    "queued_bytes": "100GiB",
                }
            },
            **(settings or {}),
        }
        super().__init__(self._settings, users=USERS[:2])

    def tight(self, recipients: int) -> None:
        """A customer with a quota, and its user."""
        self.cli("customer", "add", "tight", "--recipients-per-hour", str(recipients))
        self.cli("domain", "add", "tight.example", "--customer", "tight")
        self.add_user(USERS[2])

    @property
    def now(self) -> int:
        return int(wait_for("the status file", lambda: self.status().get("pid"), 20))

    def all_workers(self, seconds: float = 60.0) -> dict[int, int]:
        """All of them, once all serve."""

        def found() -> dict[int, int]:
            serving = self.workers()
            return serving if len(serving) == self._settings["workers"] and all(map(alive, serving.values())) else {}

        return wait_for("all workers", found, seconds)

    def kill_one(self, process: int) -> None:
        """SIGKILL, on record."""
        since = time.time()
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        wait_for("its end", lambda: not alive(process), 30)
        self.deaths.append(Death(process, since, time.time()))

    def hang_one(self, process: int, seconds: float = 60.0) -> None:
        """SIGSTOP, until its parent has killed it, on record, or somebody else has it go on."""
        since = time.time()
        os.kill(process, signal.SIGSTOP)
        wait_for("the stop", lambda: state(process) in {"T", "t", "Z"})  # it may be at work for a moment yet
        wait_for("the end of what hangs", lambda: state(process) not in {"T", "t"}, seconds)
        with contextlib.suppress(PeerFailed):  # who is killed runs for a moment, in which to die
            wait_for("its end", lambda: not alive(process), 3)
            self.deaths.append(Death(process, since, time.time()))

    @contextlib.contextmanager
    def disk_full(self, calls: str = "w") -> Iterator[None]:
        """A time in which nothing can be written into the state directory."""
        self.fault(errno.ENOSPC, "/state/", calls)
        began = time.time()
        try:
            yield
        finally:
            self.trigger.unlink()
            self.full.append((began, time.time() + 2))  # what has failed is tried again after a while

    def upgrade(self) -> None:
        """Hand over to a new version of the same program, and wait for the old one's end."""
        old = self.now
        self.cli("upgrade")
        wait_for("the old one's end", lambda: not alive(old), 90)
        if self.process is not None:
            self.process.poll()

    def end(self, seconds: float = 60.0) -> None:
        """SIGTERM to the process that serves."""
        process = self.now
        os.kill(process, signal.SIGTERM)
        wait_for("the service's end", lambda: self._gone(process), seconds)

    def _gone(self, process: int) -> bool:
        if self.process is not None:
            self.process.poll()
        return not alive(process)

    def mailboxes(self) -> tuple[list[Copy], list[Copy]]:
        """What is in the mailboxes: messages, and reports on what failed."""
        copies: list[Copy] = []
        reports: list[Copy] = []
        for user in USERS:
            new = self.maildir(user) / "new"
            for entry in os.scandir(new) if new.is_dir() else ():
                content = Path(entry.path).read_bytes()
                writer = _PROCESS.search(entry.name)
                process, when = int(writer[1]) if writer else 0, entry.stat().st_mtime
                about, failed = reported(content)
                tag, to = _TAG.search(content), _TO.search(content)
                if about:
                    reports += [Copy(about, it, when, process) for it in failed]
                elif tag is None or to is None:
                    raise PeerFailed(f"a message without a tag is in {entry.path}")
                else:
                    copies.append(Copy(tag[1].decode(), to[1].decode(), when, process, intact(content)))
        return copies, reports

    def log_events(self, *kinds: str) -> Iterator[dict[str, Any]]:
        """Events of the log, line by line: it may be long."""
        wanted = tuple(f'"{kind}"' for kind in kinds)
        with self.log.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("{") and any(kind in line for kind in wanted):
                    with contextlib.suppress(ValueError):
                        event = json.loads(line)
                        if event.get("event") in kinds:
                            yield event

    def died(self) -> dict[int, tuple[float, str]]:
        """The processes whose death the service has seen, which it did not wish for: when, and its words."""
        found = [(it["time"], it["detail"]) for it in self.log_events("service") if it["what"] == "worker-died"]
        return {int(match[1]): (when, words) for when, words in found if (match := _DIED.search(words))}

    def lost(self) -> set[tuple[int, str]]:
        """What processes said of themselves that they delivered and could not put on record, by process and queue id:
        their store had failed, and they had to end."""
        found = (_LOST.match(it["detail"]) for it in self.log_events("service") if it["what"] == "settlement-lost")
        return {(int(match[1]), match[2]) for match in found if match}


def verdict(
    mta: Service, far: FarSide, senders: Senders, removed: set[tuple[str, str]], others: list[Death] | None = None
) -> Verdict:
    """All ledgers held against each other; ``others`` are deaths that were not ours.  The queue must be quiet."""
    copies, reports = far.read()
    local, local_reports = mta.mailboxes()
    tags = {it.id: it.tag for it in senders.sent.values() if it.id}
    settled: Counter[tuple[str, str]] = Counter()
    for event in mta.log_events("deliver", "bounce"):
        settled[event["id"], event["recipient"]] += 1
    queued = {
        (tags.get(one["id"], one["id"]), recipient["address"])
        for one in mta.json("queue", "list", "--limit", "1000000")
        for recipient in one["recipients"]
    }
    found = judge(
        senders.sent.values(),
        copies + local,
        reports + local_reports,
        removed,
        queued,
        mta.deaths + (others or []),
        mta.full,
        settled,
        {(process, tags.get(one, one)) for process, one in mta.lost()},
    )
    problems = mta.json("queue", "verify")["discrepancies"]
    found.wrong += [f"the queue's counters: {it}" for it in problems]
    return found


__all__ = ["HOSTS", "FarSide", "Service", "alive", "domain", "library", "verdict"]
