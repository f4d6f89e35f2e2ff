"""What an operator relies on: quotas that survive a restart, reloads, stops and starts that lose nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import ClassVar

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.e2e.case import ANN, BEN, parse
from tests.peers import free_port, wait_for
from tests.peers.mta import Mta
from tests.peers.postfix import SmtpSink
from tests.peers.process import require_root
from tests.peers.rawsmtp import Answer, Closed, RawSmtp

pytestmark = pytest.mark.peer


def as_ann(mta: Mta) -> RawSmtp:
    """An authenticated session."""
    client = RawSmtp(mta.submissions, implicit_tls=True)
    client.ehlo()
    answer = client.auth_plain(ANN, mta.password)
    assert answer.code == 235, answer
    return client


class QuotaTests(SynchronousTestCase):
    """Limits of a customer."""

    def recipients_taken(self, mta: Mta, messages: int) -> tuple[int, Answer]:
        """How many of some messages with one recipient each were taken, and the last reply."""
        taken, answer = 0, Answer(0, "")
        with as_ann(mta) as client:
            for _ in range(messages):
                answer = client.message(ANN, [BEN], b"Subject: q\r\n\r\nx")
                taken += answer.code == 250
                client.cmd("RSET")
        return taken, answer

    def test_recipients_per_hour_are_counted_and_a_restart_keeps_the_count(self) -> None:
        with Mta({"quota": {"default": {"recipients_per_hour": 5}}}) as mta:
            taken, _ = self.recipients_taken(mta, 3)
            self.assertEqual(taken, 3)
            mta.stop()
            mta.start()
            taken, answer = self.recipients_taken(mta, 4)
            self.assertEqual(taken, 2)
            self.assertEqual(answer.code, 452)
            self.assertIn("4.5.3", answer.text)
            self.assertRegex(answer.text, "60 minutes")
            mta.kill()
            mta.start()
            taken, answer = self.recipients_taken(mta, 1)
            self.assertEqual((taken, answer.code), (0, 452))

    def test_a_customers_own_limit_overrides_and_needs_no_restart(self) -> None:
        with Mta({"quota": {"default": {"recipients_per_hour": 1}}}) as mta:
            self.assertEqual(self.recipients_taken(mta, 2)[0], 1)
            mta.cli("customer", "set", "demo", "--recipients-per-hour", "3")
            wait_for("the new limit", lambda: self.recipients_taken(mta, 1)[0], 10)
            usage = mta.json("usage", "demo")["usage"]
            self.assertEqual(usage["recipients_per_hour"]["used"], 2)

    def test_racing_sessions_never_get_more_than_the_limit(self) -> None:
        with Mta({"quota": {"default": {"recipients_per_hour": 10}}}) as mta:
            taken: list[int] = []

            def race() -> None:
                taken.append(self.recipients_taken(mta, 4)[0])

            racers = [threading.Thread(target=race) for _ in range(8)]
            for racer in racers:
                racer.start()
            for racer in racers:
                racer.join()
            self.assertEqual(sum(taken), 10)
            self.assertEqual(len(mta.events("accept")), 10)

    def test_a_message_too_large_is_refused_at_mail(self) -> None:
        with Mta({"quota": {"default": {"message_bytes": "10KiB"}}}) as mta, as_ann(mta) as client:
            answer = client.cmd(f"MAIL FROM:<{ANN}> SIZE=20000")
            self.assertEqual(answer.code, 552)
            self.assertIn("5.3.4", answer.text)
            undeclared = client.message(ANN, [BEN], b"Subject: x\r\n\r\n" + b"y" * 70 + b"\r\n" * 6000)
            self.assertEqual(undeclared.code, 552)
            self.assertEqual(mta.events("accept"), [])


class ReloadTests(SynchronousTestCase):
    """SIGHUP."""

    mta: ClassVar[Mta]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.mta = Mta()
        cls.addClassCleanup(cls.mta.close)
        cls.mta.start()

    def size(self) -> str:
        """The SIZE a new session is told."""
        with RawSmtp(self.mta.mx) as client:
            return next(line for line in client.ehlo().text.split("\n") if line.startswith("SIZE"))

    def test_a_reload_changes_new_sessions_and_keeps_old_ones(self) -> None:
        with RawSmtp(self.mta.mx) as client:
            client.ehlo()
            self.mta.write_config({"smtp": {"message_bytes": "1234KiB"}})
            self.mta.signal(signal.SIGHUP)
            wait_for("the new SIZE", lambda: self.size() == f"SIZE {1234 * 1024}")
            self.assertEqual(client.message("a@b.example", [BEN], b"Subject: old\r\n\r\nx").code, 250)

    def test_a_broken_file_keeps_the_old_settings_and_says_so(self) -> None:
        before = self.size()
        good = self.mta.config.read_text()
        self.mta.config.write_text(good + "\n[nonsense]\nx = 1\n")
        try:
            failures = len(self.mta.events("service", what="reload-failed"))
            self.mta.signal(signal.SIGHUP)
            wait_for(
                "reload-failed in the log",
                lambda: len(self.mta.events("service", what="reload-failed")) > failures,
                alive=self.mta.check_alive,
            )
            self.assertIn("nonsense", self.mta.events("service", what="reload-failed")[-1]["detail"])
            self.assertEqual(self.size(), before)
        finally:
            self.mta.config.write_text(good)


class CheckTests(SynchronousTestCase):
    """``mta check`` and a start say the same of a bad file."""

    def test_an_open_relay_is_refused_at_start_and_by_check(self) -> None:
        mta = Mta()
        self.addCleanup(mta.close)
        mta.write_config({"relay": {"networks": ["0.0.0.0/0"]}})
        checked = mta.run_cli("check")
        self.assertNotEqual(checked.returncode, 0)
        words = checked.stdout + checked.stderr
        for part in (str(mta.config), "relay.networks", "0.0.0.0/0"):
            self.assertIn(part, words)
        started = subprocess.run(mta.argv(), capture_output=True, text=True, timeout=20, cwd=mta.folder, check=False)
        self.assertNotEqual(started.returncode, 0)
        self.assertIn("relay.networks", started.stdout + started.stderr)
        self.assertNotIn("Traceback", started.stdout + started.stderr)

    def test_a_busy_port_is_said_in_words(self) -> None:
        with Mta() as mta:
            other = Mta()
            self.addCleanup(other.close)
            other.write_config({"listen": {"mx": {"port": mta.mx}}})
            started = subprocess.run(
                other.argv(), capture_output=True, text=True, timeout=20, cwd=other.folder, check=False
            )
            self.assertNotEqual(started.returncode, 0)
            self.assertIn(str(mta.mx), started.stdout + started.stderr)

    def test_a_damaged_queue_ends_the_start(self) -> None:
        """With status 1 and a line of words, whether it is found at once or by a worker: never a process that waits."""
        for workers in (0, 2):
            with self.subTest(workers=workers):
                mta = Mta({"workers": workers})
                self.addCleanup(mta.close)
                queue = mta.state / "queue"
                queue.mkdir(exist_ok=True)
                (queue / "data.mdb").write_bytes(b"x" * 100000)
                started = subprocess.run(
                    mta.argv(), capture_output=True, text=True, timeout=60, cwd=mta.folder, check=False
                )
                words = started.stdout + started.stderr
                self.assertEqual(started.returncode, 1, words)
                self.assertIn("its file is damaged", words)
                self.assertIn("restore it from a backup, or move it away to begin anew", words)
                self.assertNotIn("Traceback", words)
                self.assertEqual((queue / "data.mdb").read_bytes(), b"x" * 100000)


class StopTests(SynchronousTestCase):
    """A clean stop under load."""

    def test_sigterm_under_load_loses_nothing_and_repeats_nothing(self) -> None:
        with (
            SmtpSink() as sink,
            Mta(
                {
                    "relay": {"networks": ["127.0.0.0/8"], "smarthost": f"127.0.0.1:{sink.port}"},
                    "queue": {"retry": ["1s"]},
                }
            ) as mta,
        ):
            acknowledged: list[str] = []
            stop = threading.Event()

            def send(number: int) -> None:
                count = 0
                while not stop.is_set():
                    tag = f"stop-{number}-{count}"
                    count += 1
                    try:
                        with RawSmtp(mta.mx) as client:
                            client.ehlo()
                            content = f"Subject: {tag}\r\n\r\nx".encode()
                            if client.message("a@b.example", ["c@remote.example"], content).code == 250:
                                acknowledged.append(tag)
                    except OSError:
                        return

            senders = [threading.Thread(target=send, args=(number,)) for number in range(8)]
            for sender in senders:
                sender.start()
            wait_for("a hundred messages", lambda: len(acknowledged) >= 100)
            mta.stop_cleanly()
            stop.set()
            for sender in senders:
                sender.join()
            mta.start()
            mta.wait_empty(20)  # nothing was left armed for its minute
            arrived = sorted(str(parse(message)["Subject"]) for message in sink.messages())
            self.assertEqual(sorted(set(acknowledged) - set(arrived)), [])
            self.assertEqual(len(arrived), len(set(arrived)))

    def test_an_idle_session_is_told_why_it_ends(self) -> None:
        with Mta() as mta, RawSmtp(mta.mx) as client:
            client.ehlo()
            mta.signal(signal.SIGTERM)
            try:
                self.assertEqual(client.answer().code, 421)
            except Closed:
                self.fail("closed without 421")
            mta.stop_cleanly()


class CompactTests(SynchronousTestCase):
    """`mta queue compact`, around a service of two workers."""

    def test_after_a_flood(self) -> None:
        nobody = f"127.0.0.1:{free_port()}"
        with (
            SmtpSink() as sink,
            Mta({"workers": 2, "relay": {"networks": ["127.0.0.0/8"], "smarthost": nobody}}) as mta,
        ):
            with RawSmtp(mta.mx) as client:
                client.ehlo()
                for number in range(12):
                    body = b"Subject: %d\r\n\r\n" % number + (b"x" * 998 + b"\r\n") * 700
                    self.assertEqual(client.message("a@b.example", ["c@remote.example"], body).code, 250)
            data = mta.state / "queue" / "data.mdb"
            kept, *others = [row["id"] for row in mta.json("queue", "list")]
            mta.cli("queue", "remove", *others)
            self.assertGreater(mta.json("queue", "compact", "--dry-run")["file"], 8 << 20)
            refused = mta.run_cli("queue", "compact")
            self.assertEqual(refused.returncode, 4)
            self.assertRegex(refused.stderr, r"process \d+ has it open; stop the service for it")
            mta.stop()
            done = mta.json("queue", "compact")
            self.assertEqual(done["after"], data.stat().st_size)
            self.assertLess(done["after"], 2 << 20)
            mta.write_config({"relay": {"smarthost": f"127.0.0.1:{sink.port}"}})
            mta.start()
            self.assertEqual(mta.queue_length(), 1)
            mta.cli("queue", "retry", kept)
            mta.wait_empty()
            told = [event["event"] for event in mta.trace(kept)]
            self.assertEqual((told[0], told[-1]), ("accept", "done"), told)
            self.assertEqual(mta.cli("queue", "verify").strip(), "The queue is in order.")


class PrivilegeTests(SynchronousTestCase):
    """Started by root, run as somebody else."""

    def test_the_log_belongs_to_the_user_or_nothing_starts(self) -> None:
        require_root("dropping privileges")
        log = Path(tempfile.mkdtemp()).resolve()
        self.addCleanup(shutil.rmtree, log)
        log.chmod(0o755)  # nobody may look, and make no file
        with Mta({"user": "nobody", "log": {"file": str(log / "mta.log")}}) as mta:
            self.assertIn('"ready"', (log / "mta.log").read_text())
            mta.stop()
            os.chown(log / "mta.log", 0, 0)
            started = subprocess.run(
                mta.argv(), capture_output=True, text=True, timeout=20, cwd=mta.folder, check=False
            )
            self.assertEqual(started.returncode, 1)
            self.assertIn(f'log.file: "{log}/mta.log" cannot be written by user nobody', started.stdout)

    def test_becomes_the_user_named_and_delivers(self) -> None:
        require_root("dropping privileges")
        with Mta({"user": "nobody"}) as mta:
            status = Path(f"/proc/{mta.pid}/status").read_text()
            uids = next(line.split()[1:] for line in status.splitlines() if line.startswith("Uid:"))
            self.assertEqual(set(uids), {"65534"})
            with as_ann(mta) as client:
                self.assertEqual(client.message(ANN, [BEN], b"Subject: x\r\n\r\nx").code, 250)
            mta.wait_mailbox(BEN)
            mta.stop()
            mta.start()
