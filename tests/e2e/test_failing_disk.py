"""A disk that can't sync: what is not on it is not acknowledged, and the service says that it is unwell."""

from __future__ import annotations

import shutil
import smtplib
import subprocess
import urllib.error
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.peers.mta import Mta
from tests.peers.process import LOOPBACK

ANN = "ann@demo.example"


class FailingMta(Mta):
    """With syncs that fail as long as ``self.trigger`` exists."""

    library = ""

    @property
    def trigger(self) -> Path:
        return self.folder / "fail"

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "LD_PRELOAD": self.library, "MTA_FAIL_SYNC": str(self.trigger)}

    def run_cli(self, *words: str, stdin: str = "", seconds: float = 30.0) -> subprocess.CompletedProcess[str]:
        library, self.library = self.library, ""
        try:
            return super().run_cli(*words, stdin=stdin, seconds=seconds)
        finally:
            self.library = library


class FailingDiskTests(SynchronousTestCase):
    def test_eio_on_sync(self) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            raise SkipTest("making a sync fail needs a C compiler (cc: Debian's gcc and libc6-dev)")
        mta = FailingMta()
        self.addCleanup(mta.close)
        mta.library = str(mta.folder / "failing.so")
        source = str(Path(__file__).with_name("failing_sync.c"))
        subprocess.run([compiler, "-shared", "-fPIC", "-o", mta.library, source, "-ldl"], check=True)
        mta.start()
        self.send(mta, "one")
        mta.wait_mailbox(ANN)
        mta.wait_empty()
        mta.trigger.touch()
        with self.assertRaises(smtplib.SMTPResponseException) as refused:
            self.send(mta, "two")
        self.assertEqual(refused.exception.smtp_code, 451)
        mta.trigger.unlink()
        # The disk answers again, and nobody knows what is on it: nothing more is taken.
        with self.assertRaises((smtplib.SMTPResponseException, smtplib.SMTPSenderRefused)) as refused:
            self.send(mta, "three")
        self.assertEqual(refused.exception.smtp_code, 451)
        with self.assertRaises(urllib.error.HTTPError) as unwell:
            mta.http("/healthz")
        self.assertEqual(unwell.exception.code, 503)
        self.assertIn("restart the service", unwell.exception.read().decode())
        self.assertEqual(len(mta.events("service", what="store-failed")), 1)
        mta.stop()
        mta.start()
        self.send(mta, "four")
        mta.wait_mailbox(ANN, 2)
        mta.wait_empty()
        subjects = sorted(line for mail in mta.mailbox(ANN) for line in mail.splitlines() if line.startswith(b"Subj"))
        self.assertEqual(subjects, [b"Subject: four", b"Subject: one"])
        self.assertIn("in order", mta.cli("queue", "verify"))
        mta.stop_cleanly()

    def send(self, mta: Mta, subject: str) -> None:
        with smtplib.SMTP(LOOPBACK, mta.mx, timeout=20) as session:
            session.sendmail("someone@else.example", [ANN], f"Subject: {subject}\r\n\r\nHello\r\n")
