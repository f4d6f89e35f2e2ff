"""The far side writes down what it was given before it answers, and that it has answered when it has."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from tests.peers import free_port
from tests.survival import far
from tests.survival.service import FarSide

LINES = ("EHLO a.test", "MAIL FROM:<a@b.test>", "RCPT TO:<c@slow.far.test>", "DATA")


class ToldTests(SynchronousTestCase):
    def copies(self, cut: bool) -> list[bool]:
        """Whether the 250 of each copy was sent, where the host goes away before that or does not."""
        journal = Path(self.mktemp())
        asyncio.run(self.session(journal, cut))
        side = FarSide()
        self.addCleanup(side.close)
        side.journal = journal
        copies, reports = side.read()
        self.assertEqual(reports, [])
        return [copy.told for copy in copies]

    async def session(self, journal: Path, cut: bool) -> None:
        one = far.Far(str(journal), free_port(), "")
        with mock.patch("tests.survival.far.random.uniform", return_value=0.0):
            await one.up("slow")
            reader, writer = await asyncio.open_connection(far.HOSTS["slow"], one._port)
            await reader.readline()
            for line in LINES:
                writer.write(f"{line}\r\n".encode())
                while (await reader.readline())[3:4] == b"-":
                    pass
        with mock.patch("tests.survival.far.random.uniform", return_value=60.0 if cut else 0.0):
            writer.write(b"X-Tag: t1\r\n\r\nbody\r\n.\r\n")
            while '"took"' not in journal.read_text():
                await asyncio.sleep(0.001)
            if not cut:
                self.assertTrue((await reader.readline()).startswith(b"250"))
            await one.down("slow")
            self.assertEqual(await reader.read(), b"")
        writer.close()
        ended = [json.loads(line)["kind"] for line in journal.read_text().splitlines()]
        self.assertEqual(ended[:2], ["begin", "took"])

    def test_answered(self) -> None:
        self.assertEqual(self.copies(cut=False), [True])

    def test_cut_before_the_answer(self) -> None:
        self.assertEqual(self.copies(cut=True), [False])
