"""twistd's pid file, in the hands of a service that may not remove it."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.runtime.pidfile import GONE, PidFile


class PidFiles(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.path = self.folder / "mta.pid"
        self.path.write_text("123456\n")
        self.file = PidFile(str(self.path))

    def opened(self) -> PidFile:
        self.file.open()
        self.addCleanup(os.close, self.file.descriptor)
        return self.file

    def test_none(self) -> None:
        none = PidFile("")
        for step in (none.open, none.write, none.leave):
            step()
        self.assertEqual(none.descriptor, -1)

    def test_twistd_removes_its_own(self) -> None:
        self.opened().leave()
        self.assertEqual(self.path.read_text(), "123456\n")

    def test_where_it_may_not_it_names_no_process(self) -> None:
        self.opened()
        with mock.patch("twisted_mta.runtime.pidfile.os.access", return_value=False):
            self.file.leave()
        self.assertEqual(self.path.read_text(), f"{GONE}\n")
        self.assertRaises(ProcessLookupError, os.kill, GONE, 0)

    def test_an_heir_names_itself_and_removes_it(self) -> None:
        self.opened()
        heir = PidFile(str(self.path))
        heir.inherit(self.file.descriptor)
        heir.write()
        self.assertEqual(self.path.read_text(), f"{os.getpid()}\n")
        with mock.patch.object(Path, "unlink", side_effect=PermissionError):
            heir.leave()
        self.assertEqual(self.path.read_text(), f"{GONE}\n")
        heir.leave()
        self.assertFalse(self.path.exists())

    def test_an_heir_makes_one_where_it_is_gone(self) -> None:
        self.opened()
        self.path.unlink()
        heir = PidFile(str(self.path))
        heir.inherit(self.file.descriptor)
        heir.write()
        self.assertEqual(self.path.read_text(), f"{os.getpid()}\n")

    def test_no_link_is_followed(self) -> None:
        self.path.unlink()
        (self.folder / "other").write_text("precious")
        self.path.symlink_to(self.folder / "other")
        self.file.open()
        self.assertEqual(self.file.descriptor, -1)
