"""Whether the service runs."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.admin.statusfile import (
    AlreadyRunning,
    ListenerStatus,
    read_status,
    status_path,
    version,
    write_status,
)
from twisted_mta.config.settings import Settings

LISTENERS = (ListenerStatus(name="mx", role="mx", tls="starttls", address="127.0.0.1", port=2525),)


class Running(SynchronousTestCase):
    def setUp(self) -> None:
        self.settings = Settings(state_dir=self.mktemp(), hostname="mx1.isp.example")

    def test_nobody(self) -> None:
        self.assertIsNone(read_status(self.settings))

    def test_somebody(self) -> None:
        file = write_status(self.settings, LISTENERS, clock=lambda: 100.0)
        status = read_status(self.settings)
        assert status is not None
        self.assertEqual((status.pid, status.started, status.version), (os.getpid(), 100.0, version()))
        self.assertEqual((status.hostname, status.listeners), ("mx1.isp.example", LISTENERS))
        file.close()
        self.assertIsNone(read_status(self.settings))
        self.assertFalse(status_path(self.settings).exists())
        file.close()

    def test_what_a_dead_process_left_behind_is_not_a_service(self) -> None:
        pid = os.fork()
        if pid == 0:
            write_status(self.settings, LISTENERS)
            os._exit(0)
        os.waitpid(pid, 0)
        self.assertTrue(status_path(self.settings).exists())
        self.assertIsNone(read_status(self.settings))
        write_status(self.settings, LISTENERS).close()

    def test_a_second_service_is_refused(self) -> None:
        file = write_status(self.settings, LISTENERS)
        self.addCleanup(file.close)
        with self.assertRaises(AlreadyRunning) as caught:
            write_status(self.settings, LISTENERS)
        self.assertIn(f"process {os.getpid()}", str(caught.exception))

    def test_update_to_something_shorter(self) -> None:
        file = write_status(self.settings, LISTENERS * 5)
        self.addCleanup(file.close)
        before = read_status(self.settings)
        assert before is not None
        import msgspec

        file.update(msgspec.structs.replace(before, listeners=()))
        after = read_status(self.settings)
        assert after is not None
        self.assertEqual(after.listeners, ())

    def test_modes(self) -> None:
        write_status(self.settings, LISTENERS)
        self.assertEqual(status_path(self.settings).stat().st_mode & 0o007, 0)
        self.assertEqual(Path(self.settings.state_dir, "run").stat().st_mode & 0o007, 0)

    def test_state_dir_that_is_a_file(self) -> None:
        path = Path(self.mktemp())
        path.write_text("")
        self.assertIsNone(read_status(attrs.evolve(self.settings, state_dir=str(path))))
