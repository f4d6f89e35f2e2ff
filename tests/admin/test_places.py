"""``mta check`` tries whether the service can write what it has to, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.admin.case import CliCase


class PlacesCase(CliCase):
    """A configuration, with places that others can reach."""

    def setUp(self) -> None:
        super().setUp()
        self.base = Path(tempfile.mkdtemp()).resolve()
        self.addCleanup(shutil.rmtree, self.base)
        self.base.chmod(0o755)
        self.state, self.config = self.base / "state", self.base / "mta.toml"

    def write(self, more: str = "") -> None:
        self.config.write_text(f'hostname = "mx1.isp.example"\nstate_dir = "{self.state}"\n{more}\n')

    def found(self, code: int = 0) -> list[dict[str, Any]]:
        """The problems; whatever they are, nothing is made, and we are who we were."""
        before, who = sorted(self.base.rglob("*")), (os.geteuid(), os.getegid(), os.getgroups())
        value = self.json("check", code=code)
        self.assertEqual(sorted(self.base.rglob("*")), before)
        self.assertEqual((os.geteuid(), os.getegid(), os.getgroups()), who)
        problems: list[dict[str, Any]] = value["problems"]
        return problems

    def one(self, code: int = 0) -> dict[str, Any]:
        (problem,) = self.found(code)
        self.assertEqual(problem["severity"], "error" if code else "warning")
        self.assertEqual(problem["file"], str(self.config))
        return problem


class Ours(PlacesCase):
    """As whoever runs the tests."""

    def test_nothing_is_made(self) -> None:
        self.write(f'[log]\nfile = "{self.state}/log"')
        self.assertEqual(self.found(), [])
        self.state.mkdir()
        self.assertEqual(self.found(), [])
        (self.state / "log").write_text("kept")
        self.assertEqual(self.found(), [])
        self.assertEqual((self.state / "log").read_text(), "kept")

    def test_a_disk_that_is_full_is_no_reason_not_to_reload(self) -> None:
        self.state.mkdir()
        self.write()
        full = OSError(errno.ENOSPC, "No space left on device")
        with mock.patch("twisted_mta.admin.places.tempfile.TemporaryFile", side_effect=full):
            found = self.found()
        self.assertEqual([(it["key"], it["severity"]) for it in found],
                         [("state_dir", "warning"), ("local.mailbox", "warning")])  # fmt: skip
        self.assertIn("No space left on device", found[0]["wrong"])

    def test_a_file_system_that_is_read_only(self) -> None:
        self.write()
        failed = OSError(errno.EROFS, "Read-only file system")
        with mock.patch("twisted_mta.admin.places.tempfile.TemporaryFile", side_effect=failed):
            (found,) = self.found(code=78 if os.geteuid() == 0 else 0)
        self.assertEqual((found["key"], found["line"], found["value"]), ("state_dir", 2, str(self.state)))
        self.assertRegex(found["wrong"], r"^is not there, and user \S+ cannot make it in .*: Read-only file system$")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another")
class AsAnother(PlacesCase):
    """As root, for a service that will be nobody."""

    def setUp(self) -> None:
        super().setUp()
        self.nobody = pwd.getpwnam("nobody")
        self.write('user = "nobody"')

    def give(self, *paths: Path) -> None:
        for path in paths:
            os.chown(path, self.nobody.pw_uid, self.nobody.pw_gid)

    def make(self) -> None:
        self.populate()
        self.shut(self.store())
        self.give(self.state, *self.state.rglob("*"))

    def test_well(self) -> None:
        self.assertEqual(self.found(), [])
        self.make()
        self.assertEqual(self.found(), [])

    def test_the_state_is_somebody_elses(self) -> None:
        self.state.mkdir(mode=0o700)
        found = self.found(code=78)
        self.assertEqual((found[0]["key"], found[0]["line"], found[0]["value"]), ("state_dir", 2, str(self.state)))
        self.assertEqual(found[0]["wrong"], "cannot be written by user nobody: Permission denied")
        self.assertEqual(found[0]["mend"], f'"chown nobody {self.state}" makes it theirs; or name another')

    def test_the_way_to_it_is_closed(self) -> None:
        self.make()
        self.base.chmod(0o700)
        problem = self.one(code=78)
        wrong = f"is below {self.base}, which cannot be passed by user nobody: Permission denied"
        self.assertEqual((problem["key"], problem["wrong"]), ("state_dir", wrong))
        self.assertEqual(problem["mend"], f'"chmod o+x {self.base}" lets everybody pass; or name another')

    def test_a_file_in_it_is_roots(self) -> None:
        self.make()
        file = self.state / "queue" / "lock.mdb"
        os.chown(file, 0, 0)
        problem = self.one(code=78)
        self.assertEqual(problem["wrong"], f"has {file}, which cannot be written by user nobody: Permission denied")
        self.assertIn(f'"chown nobody {file}"', problem["mend"])

    def test_without_a_user_the_owner_of_the_state(self) -> None:
        """Which a unit's User= names."""
        self.make()
        self.write()
        self.assertEqual(self.found(), [])
        os.chown(self.state / "directory", 0, 0)
        self.assertIn("user nobody", self.one(code=78)["wrong"])

    def test_the_log(self) -> None:
        log = self.base / "events.log"
        self.write(f'user = "nobody"\n[log]\nfile = "{log}"')
        self.assertEqual(self.found(), [], "root makes it")
        log.touch(0o600)
        problem = self.one(code=78)
        self.assertEqual((problem["key"], problem["line"], problem["value"]), ("log.file", 5, str(log)))
        self.assertEqual(problem["wrong"], "cannot be written by user nobody: Permission denied")
        self.give(log)
        self.assertEqual(self.found(), [])

    def test_the_mailboxes(self) -> None:
        mail = self.base / "mail"
        mail.mkdir()
        place = f"{mail}/{{domain}}/{{user}}"
        self.write(f'user = "nobody"\n[local]\ndomains = ["isp.example"]\nmailbox = "{place}"')
        problem = self.one()
        self.assertEqual((problem["key"], problem["value"]), ("local.mailbox", place))
        self.assertIn(f"{mail} cannot be written by user nobody: Permission denied", problem["wrong"])
        self.give(mail)
        self.assertEqual(self.found(), [])
        box = mail / "isp.example" / "postmaster" / "new"
        box.mkdir(parents=True)
        self.assertIn(f"{box} cannot be written", self.one()["wrong"])

    def test_somebody_who_can_stand_for_nobody(self) -> None:
        """Another user than the service's can't know."""
        self.state.mkdir()
        self.write('user = "root"')
        with mock.patch("twisted_mta.admin.places.os.geteuid", return_value=self.nobody.pw_uid):
            value = self.json("check")
        (problem,) = value["problems"]
        self.assertEqual((problem["key"], problem["severity"]), ("state_dir", "warning"))
        self.assertIn("is for another user than nobody", problem["wrong"])
        self.assertIn("run mta check as root or as that user", problem["mend"])
