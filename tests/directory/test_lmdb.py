"""What only a directory on disk has to promise."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import lmdb
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.directory.test_contract import now
from twisted_mta.config.settings import KIB, Local
from twisted_mta.directory import lmdb_directory
from twisted_mta.directory.lmdb_directory import DirectoryUnavailable, LmdbDirectory
from twisted_mta.directory.memory import cheap_hash

OTHER_PROCESS = """
import sys
from twisted.internet.task import Clock
from twisted_mta.config.settings import Local
from twisted_mta.directory.lmdb_directory import LmdbDirectory
from twisted_mta.directory.memory import cheap_hash

directory = LmdbDirectory(sys.argv[1], Local(), Clock(), cheap_hash)
print("ready", flush=True)
for line in sys.stdin:
    eval(line)
    print("done", flush=True)
directory.close()
"""


class LmdbCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp()) / "state" / "directory"
        self.directory = self.open()

    def open(self, map_size: int = 256 * KIB) -> LmdbDirectory:
        directory = LmdbDirectory(self.path, Local(), Clock(), cheap_hash, map_size)
        self.addCleanup(directory.close)
        return directory

    def fill(self) -> None:
        self.directory.add_customer("acme")
        self.directory.add_domain("isp.example", "acme")
        self.directory.add_user("anna@isp.example", "secret")

    def kind(self, address: str) -> str:
        return now(self.directory.resolve(address)).kind


class Files(LmdbCase):
    """The folder and its files."""

    def test_nobody_else_reads_them(self) -> None:
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o700)
        for file in self.path.iterdir():
            self.assertEqual(stat.S_IMODE(os.stat(file).st_mode), 0o600, file)

    def test_what_is_added_stays(self) -> None:
        self.fill()
        self.directory.close()
        self.directory = self.open()
        self.assertEqual(self.kind("anna@isp.example"), "mailbox")

    def test_another_schema_is_refused(self) -> None:
        self.directory.close()
        env = lmdb.open(str(self.path), max_dbs=8)
        with env.begin(write=True, db=env.open_db(b"meta")) as txn:
            txn.put(b"schema", b"99")
        env.close()
        with self.assertRaisesRegex(ValueError, "schema 99"):
            self.open()

    def test_what_is_no_directory_is_refused(self) -> None:
        self.directory.close()
        (self.path / "data.mdb").write_bytes(b"not a database" * 1000)
        with self.assertRaisesRegex(OSError, str(self.path)):
            self.open()

    def test_closed_is_temporary(self) -> None:
        self.fill()
        self.kind("anna@isp.example")
        self.directory.close()
        for question in (
            self.directory.resolve("anna@isp.example"),
            self.directory.user("anna@isp.example"),
            self.directory.is_local("isp.example"),
        ):
            with self.assertRaises(DirectoryUnavailable) as caught:
                now(question)
            self.assertTrue(caught.exception.temporary)


class Growth(LmdbCase):
    """The map grows by itself."""

    def test_it_grows(self) -> None:
        self.fill()
        before = self.directory._env.info()["map_size"]
        targets = tuple(f"somebody{number}@else.example" for number in range(1000))
        for number in range(50):
            self.directory.add_alias(f"list{number}@isp.example", targets)
        self.assertGreater(self.directory._env.info()["map_size"], 2 * before)
        self.assertEqual(len(self.directory.entries("alias", "acme")), 50)
        self.assertEqual(self.kind("list49@isp.example"), "alias")

    def test_reads_while_another_thread_makes_it_grow(self) -> None:
        self.fill()
        errors: list[BaseException] = []

        def write() -> None:
            try:
                for number in range(20):
                    targets = tuple(f"somebody{each}@else.example" for each in range(1000))
                    self.directory.add_alias(f"list{number}@isp.example", targets)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=write)
        thread.start()
        while thread.is_alive():
            self.assertEqual(self.kind("anna@isp.example"), "mailbox")
        thread.join()
        self.assertEqual(errors, [])
        self.assertEqual(self.kind("list19@isp.example"), "alias")


class Memory(LmdbCase):
    """What is remembered is bounded."""

    def test_bounded(self) -> None:
        self.patch(lmdb_directory, "REMEMBERED", 10)
        self.fill()
        for number in range(30):
            self.kind(f"nobody{number}@isp.example")
            self.kind("anna@isp.example")
            now(self.directory.user(f"nobody{number}@isp.example"))
        self.assertEqual(len(self.directory._resolved), 10)
        self.assertIn("anna@isp.example", self.directory._resolved)
        self.assertEqual([len(found) for found in self.directory._found.values()], [0, 10])

    def test_domains_elsewhere_are_bounded(self) -> None:
        self.patch(lmdb_directory, "REMEMBERED", 10)
        for number in range(25):
            self.assertEqual(self.kind(f"bert@host{number}.example"), "remote")
        self.assertEqual(self.directory._elsewhere, {f"host{number}.example" for number in range(20, 25)})
        self.assertEqual(len(self.directory._resolved), 0)

    def test_a_domain_elsewhere_is_looked_up_once(self) -> None:
        self.kind("anna@elsewhere.example")
        view = self.directory._view
        self.patch(self.directory, "_view", None)
        self.assertEqual(self.kind("bert@elsewhere.example"), "remote")
        self.patch(self.directory, "_view", view)
        self.directory.add_customer("acme")
        self.directory.add_domain("elsewhere.example", "acme")
        self.assertEqual(self.kind("bert@elsewhere.example"), "unknown")

    def test_postmaster_without_a_domain_is_of_none_elsewhere(self) -> None:
        self.assertEqual(self.kind("anna@postmaster"), "remote")
        self.assertEqual(self.kind("postmaster"), "unknown")

    def test_it_is_used(self) -> None:
        self.fill()
        self.kind("anna@isp.example")
        self.patch(self.directory, "_view", None)
        self.assertEqual(self.kind("anna@isp.example"), "mailbox")


class TwoProcesses(LmdbCase):
    """The command line changes it while the service reads."""

    def setUp(self) -> None:
        super().setUp()
        self.fill()
        self.other = subprocess.Popen(
            [sys.executable, "-c", OTHER_PROCESS, str(self.path.resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self.addCleanup(self.other.wait, 30)
        self.addCleanup(self.other.stdin.close)
        self.assertEqual(self.other.stdout.readline(), "ready\n")

    def tell(self, line: str) -> None:
        self.other.stdin.write(line + "\n")
        self.other.stdin.flush()
        self.assertEqual(self.other.stdout.readline(), "done\n")

    def test_a_change_is_seen_at_once(self) -> None:
        self.assertEqual(self.kind("bert@isp.example"), "unknown")
        self.assertIsNone(now(self.directory.user("bert@isp.example")))
        self.tell("directory.add_user('bert@isp.example', 'secret')")
        self.assertEqual(self.kind("bert@isp.example"), "mailbox")
        self.assertEqual(now(self.directory.user("bert@isp.example")).customer, "acme")
        self.tell("directory.set_customer('acme', suspended=True)")
        self.assertTrue(now(self.directory.customer("acme")).suspended)
        self.tell("directory.remove('user', 'bert@isp.example')")
        self.assertEqual(self.kind("bert@isp.example"), "unknown")

    def grow(self, prefix: str) -> None:
        targets = "tuple(f'x{m}@y.example' for m in range(2000))"
        self.tell(f"[directory.add_alias(f'{prefix}{{n}}@isp.example', {targets}) for n in range(40)]")

    def test_reading_a_map_that_the_other_has_grown(self) -> None:
        self.grow("list")
        self.assertEqual(self.kind("list39@isp.example"), "alias")
        self.assertEqual(len(self.directory.entries("alias")), 40)

    def test_writing_to_a_map_that_the_other_has_grown(self) -> None:
        self.grow("list")
        self.directory.add_user("bert@isp.example", "secret")
        self.assertEqual(self.kind("list39@isp.example"), "alias")
        self.tell("directory.remove('user', 'bert@isp.example')")
        self.assertEqual(self.kind("bert@isp.example"), "unknown")
