"""Dropping privileges, tried in processes of their own, as root."""

from __future__ import annotations

import json
import os
import pwd
import stat
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from twisted_mta.runtime.privileges import (
    Account,
    PrivilegeError,
    check_log,
    drop,
    find_account,
    give,
    make_folder,
    make_log,
    make_state,
)

DROP = """
import json, os
from twisted_mta.runtime.privileges import drop, find_account
changed = drop(find_account("nobody"))
try:
    os.seteuid(0)
    back = True
except PermissionError:
    back = False
print(json.dumps([changed, back, os.getresuid(), os.getresgid(), os.getgroups(), os.environ["USER"], os.umask(0)]))
"""


def nobody() -> pwd.struct_passwd:
    if os.geteuid() != 0:
        raise SkipTest("needs root")
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        raise SkipTest("there is no user nobody") from None


class Find(SynchronousTestCase):
    def test_none(self) -> None:
        self.assertIsNone(find_account(""))

    def test_known(self) -> None:
        account = find_account("root")
        self.assertEqual(account, Account(name="root", uid=0, gid=0, home=pwd.getpwuid(0).pw_dir))

    def test_unknown(self) -> None:
        error = self.assertRaises(PrivilegeError, find_account, "no-such-user")
        self.assertEqual(str(error), 'user: "no-such-user" is no user of this machine')
        error = self.assertRaises(PrivilegeError, find_account, "root", "no-such-group")
        self.assertEqual(str(error), 'group: "no-such-group" is no group of this machine')


class Drop(SynchronousTestCase):
    def test_for_good(self) -> None:
        account = nobody()
        done = subprocess.run([sys.executable, "-c", DROP], capture_output=True, text=True, check=True)
        changed, back, uids, gids, groups, user, umask = json.loads(done.stdout)
        self.assertEqual((changed, back), (True, False))
        self.assertEqual((uids, gids), ([account.pw_uid] * 3, [account.pw_gid] * 3))
        self.assertEqual(groups, os.getgrouplist("nobody", account.pw_gid))
        self.assertEqual((user, umask), ("nobody", 0o077))

    def test_the_same_user_is_no_change(self) -> None:
        self.addCleanup(os.umask, os.umask(0))
        us = pwd.getpwuid(os.geteuid())
        self.assertFalse(drop(find_account(us.pw_name)))
        self.assertFalse(drop(None))


class Folders(SynchronousTestCase):
    def test_made_with_what_is_above(self) -> None:
        base = Path(self.mktemp())
        make_folder(str(base / "lib" / "mta"))
        self.assertEqual(stat.S_IMODE((base / "lib" / "mta").stat().st_mode), 0o700)
        self.assertEqual(stat.S_IMODE((base / "lib").stat().st_mode), 0o755)

    def test_one_that_is_there_is_left_alone(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir(mode=0o750)
        make_folder(str(folder))
        self.assertEqual(stat.S_IMODE(folder.stat().st_mode), 0o750)

    def test_belongs_to_the_account(self) -> None:
        entry = nobody()
        account = find_account("nobody")
        folder = Path(self.mktemp()) / "state"
        make_folder(str(folder), account)
        self.assertEqual((folder.stat().st_uid, folder.stat().st_gid), (entry.pw_uid, entry.pw_gid))

    def test_a_state_that_cannot_be_made(self) -> None:
        error = self.assertRaises(PrivilegeError, make_state, "/dev/null/state")
        self.assertIn('state_dir: "/dev/null/state" cannot be made: ', str(error))

    def test_links_are_not_followed(self) -> None:
        nobody()
        base = Path(self.mktemp())
        base.mkdir()
        (base / "file").touch()
        (base / "link").symlink_to(base / "file")
        give(base / "link", find_account("nobody"))
        self.assertEqual((base / "file").stat().st_uid, 0)


class Files(SynchronousTestCase):
    def test_made_for_the_account(self) -> None:
        entry = nobody()
        file = Path(self.mktemp()) / "log" / "mta.log"
        make_log(str(file), find_account("nobody"))
        self.assertEqual((file.stat().st_uid, file.stat().st_gid), (entry.pw_uid, entry.pw_gid))
        self.assertEqual(stat.S_IMODE(file.stat().st_mode) & 0o137, 0)
        check_log(str(file))

    def test_one_that_is_there_is_left_alone(self) -> None:
        file = Path(self.mktemp())
        file.write_text("what was said\n")
        make_log(str(file), find_account("nobody"))
        self.assertEqual((file.read_text(), file.stat().st_uid), ("what was said\n", os.geteuid()))

    def test_in_words(self) -> None:
        error = self.assertRaises(PrivilegeError, make_log, "/dev/null/mta.log")
        self.assertIn('"/dev/null/mta.log" cannot be made', str(error))
        folder = Path(self.mktemp())
        folder.mkdir()
        error = self.assertRaises(PrivilegeError, check_log, str(folder))
        self.assertIn("cannot be written by user", str(error))
