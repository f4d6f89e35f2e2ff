"""``mta backup``, and messages as files: what is written is what comes back."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lmdb
import msgspec

from tests.admin.case import CONTENT, CliCase
from twisted_mta.admin.context import result
from twisted_mta.mail.envelope import Handling, Message, Recipient
from twisted_mta.mail.ids import id_key
from twisted_mta.queue.access import InUse
from twisted_mta.queue.damage import Damaged
from twisted_mta.queue.interfaces import CHUNK, NewDelivery, NewMessage, QueueFilter
from twisted_mta.queue.reading import Reader
from twisted_mta.queue.searching import Search

BOB, EVE = "bob@one.example", "eve@two.example"


class FilesCase(CliCase):
    def setUp(self) -> None:
        super().setUp()
        self.populate()
        store = self.store()
        self.large = os.urandom(2 * CHUNK + 7).replace(b"\r", b" ")
        self.first = self.put(store, {"smtp:one.example": (BOB,), "smtp:two.example": (EVE,)}, age=7200)
        self.second = self.put(store, {"smtp:one.example": (BOB,)}, sender="", customer="", content=self.large)
        result(store.act("hold", [(self.first.id, "smtp:two.example")], "root", self.clock.now))
        self.shut(store)


class BackupTests(FilesCase):
    def test_a_copy_can_be_put_in_place(self) -> None:
        running = self.store()  # the service goes on meanwhile
        folder = self.base / "copies" / "monday"
        folder.parent.mkdir()
        with patch("twisted_mta.queue.copying.lmdb", _InAnotherProcess()):
            said = self.json("backup", str(folder))
        self.assertEqual(set(said["copies"]), {"queue", "directory"})
        self.assertEqual((folder / "queue" / "data.mdb").stat().st_size, said["copies"]["queue"])
        self.assertEqual((folder / "queue" / "data.mdb").stat().st_mode & 0o777, 0o600)
        self.assertEqual(folder.stat().st_mode & 0o777, 0o700)
        self.put(running, {"smtp:three.example": ("later@three.example",)})
        self.shut(running)
        for name in ("queue", "directory"):
            shutil.rmtree(self.state / name)
            shutil.copytree(folder / name, self.state / name)
        self.assertEqual({row["id"] for row in self.json("queue", "list")}, {self.first.id, self.second.id})
        self.assertEqual(self.run_mta("queue", "cat", self.second.id).stdout_bytes, self.large)
        self.assertEqual(self.out("queue", "verify"), ["The queue is in order."])
        self.assertEqual(self.json("user", "list")[0]["address"], "anna@acme.example")

    def test_what_is_there_is_left_alone(self) -> None:
        folder = self.base / "monday"
        folder.mkdir()
        self.assertIn("is there already", self.error("backup", str(folder), code=1))
        self.assertEqual(list(folder.iterdir()), [])

    def test_a_backup_that_fails_leaves_nothing(self) -> None:
        folder = self.base / "monday"
        # not copying's own "sync": what the command imports meanwhile would keep the one that fails
        with patch("os.fsync", side_effect=OSError(28, "No space left on device")):
            self.assertIn("No space left on device", self.error("backup", str(folder), code=1))
        self.assertEqual([path.name for path in self.base.iterdir() if "monday" in path.name], [])

    def test_the_folder_above_has_to_be_there(self) -> None:
        said = self.error("backup", str(self.base / "no" / "monday"), code=1)
        self.assertEqual(said, f"mta: {self.base}/no is no folder: make it first, owned by the user of the service\n")

    def test_nothing_to_back_up(self) -> None:
        shutil.rmtree(self.state / "queue")
        self.error("backup", str(self.base / "monday"), "--only", "queue", code=3)


class CompactTests(FilesCase):
    def test_the_file_is_made_smaller(self) -> None:
        data = self.state / "queue" / "data.mdb"
        self.run_mta("queue", "remove", self.second.id)
        before = data.stat().st_size
        found = self.json("queue", "compact", "--dry-run")
        self.assertEqual(found["file"], before)
        self.assertEqual(self.json("queue", "compact"), {"before": before, "after": found["used"]})
        self.assertEqual(data.stat().st_size, found["used"])
        (said,) = self.out("queue", "compact")
        self.assertRegex(said, r"^The queue's file has \S+ KiB instead of \S+ KiB\.$")
        (said,) = self.out("queue", "compact", "--dry-run")
        self.assertRegex(
            said,
            r"^Compacted, the queue's file would have .* instead of .* Nothing was changed\.$",
        )
        self.assertEqual(self.out("queue", "verify"), ["The queue is in order."])

    def test_in_use(self) -> None:
        with patch("twisted_mta.queue.compacting.alone", side_effect=InUse("process 7 has it open")):
            said = self.error("queue", "compact", code=4)
        self.assertIn("can't be compacted now: process 7 has it open; try again when that has ended", said)

    def test_no_room(self) -> None:
        with patch("twisted_mta.queue.compacting._check_free", side_effect=OSError("the copy needs 9 octets")):
            self.assertIn("the copy needs 9 octets", self.error("queue", "compact", code=4))

    def test_no_queue(self) -> None:
        shutil.rmtree(self.state / "queue")
        self.assertIn("there is no queue", self.error("queue", "compact", code=3))


class _InAnotherProcess:
    """LMDB as another process has it: one must not have an environment open twice."""

    Error = lmdb.Error

    def open(self, path: str, **settings: object) -> _InAnotherProcess:
        self.path = path
        return self

    def copy(self, target: str, compact: bool) -> None:
        import subprocess
        import sys

        code = "import lmdb, sys; lmdb.open(sys.argv[1], readonly=True).copy(sys.argv[2], compact=True)"
        subprocess.run([sys.executable, "-c", code, self.path, target], check=True)

    def close(self) -> None:
        pass


class DamageTests(FilesCase):
    """A queue of which something can't be read."""

    def damage(self) -> None:
        store = self.store()
        environment = store._environment
        assert environment is not None
        with environment.begin() as txn:
            txn.put(id_key(self.first.id), b"\xc1", db=environment.tables.message)
        self.shut(store)

    def test_a_message_that_cannot_be_read(self) -> None:
        """The others are listed and exported, and each command says which is missing, or why it can't."""
        self.damage()
        listed = self.run_mta("queue", "list")
        self.assertIn(self.second.id, listed.stdout)
        self.assertIn(f"{self.first.id} is passed, for it can't be read; mta queue verify", listed.stderr)
        for command in ("show", "cat"):
            words = self.error("queue", command, self.first.id, code=1)
            self.assertIn("the queue's file is damaged", words)
            self.assertIn("mta queue verify", words)
        folder = self.base / "files"
        self.assertIn(f"{self.first.id} is passed", self.run_mta("queue", "export", str(folder)).stderr)
        self.assertEqual({path.stem for path in folder.iterdir()}, {self.second.id})
        found = self.json("queue", "verify", code=1)["discrepancies"]
        self.assertIn(f"message {self.first.id} can't be read", found[0])
        self.run_mta("queue", "verify", "--repair")
        self.assertEqual(self.out("queue", "verify"), ["The queue is in order."])
        self.assertIn(self.first.id, " ".join(self.out("queue", "list", "--state", "held")))

    def test_a_page_that_cannot_be_read(self) -> None:
        """Export writes what can be, and names what can't."""
        walk, damage = Search.page, Damaged("MDB_CORRUPTED: Located page was wrong type")
        self.patch(Search, "page", lambda *args: _raise(damage))
        read = Reader.chunk

        def chunk(reader: Reader, mid: str, number: int) -> bytes:
            return _raise(damage) if mid == self.first.id else read(reader, mid, number)

        self.patch(Reader, "chunk", chunk)
        folder = self.base / "files"
        done = self.run_mta("queue", "export", str(folder), code=1)
        self.assertIn("the queue's file is damaged (MDB_CORRUPTED", done.stderr)
        self.assertIn(f"1 message can't be read: {self.first.id}", done.stdout)
        self.assertEqual({path.name for path in folder.iterdir()}, {f"{self.second.id}.{it}" for it in ("eml", "json")})
        self.assertIn("without filters", self.error("queue", "export", str(folder), "--sender", "x@y.example", code=1))
        self.assertIn("mta queue export DIR", self.error("queue", "list", code=1))
        self.patch(Search, "page", walk)


def _raise(error: Exception) -> Any:
    raise error


class ExportTests(FilesCase):
    def exported(self, *args: str) -> Path:
        folder = self.base / "files"
        self.run_mta("queue", "export", str(folder), *args)
        return folder

    def test_there_and_back(self) -> None:
        folder = self.exported()
        names = {f"{mid}.{kind}" for mid in (self.first.id, self.second.id) for kind in ("eml", "json")}
        self.assertEqual({path.name for path in folder.iterdir()}, names)
        self.assertEqual((folder / f"{self.first.id}.eml").read_bytes(), CONTENT)
        self.run_mta("queue", "remove", "--all", "--yes")
        imported = self.json("queue", "import", str(folder))["imported"]
        self.assertEqual(set(imported), {self.first.id, self.second.id})
        store = self.store()
        self.addCleanup(self.shut, store)
        message = store.message(imported[self.first.id])
        assert message is not None
        for name in ("sender", "arrived", "expires", "customer", "user", "size", "recipients", "protocol"):
            self.assertEqual(getattr(message, name), getattr(self.first, name), name)
        one, two = sorted(store.deliveries(message.id), key=lambda it: it.destination)
        self.assertEqual((one.state, two.state), ("queued", "held"))
        self.assertEqual((one.customer, one.next_attempt, one.attempts), ("acme", self.clock.now, 0))
        self.assertEqual([to.address for to in (*one.recipients, *two.recipients)], [BOB, EVE])
        content = b"".join(result(store.read(imported[self.second.id], n)) for n in range(3))
        self.assertEqual(content, self.large)
        self.assertEqual(store.usage("acme").queued_messages, 1)
        self.assertEqual(result(store.verify(False)), [])
        story = [getattr(event, "action", type(event).__name__) for event in store.history(message.id)]
        self.assertEqual(story, ["import", "Routed", "hold", "retry"])

    def test_all_of_an_envelope(self) -> None:
        """Each field there is goes out and in, by its name."""
        handling = Handling(release=9e9, request="for;60", deliver_by=8e9, by_mode="R", trace=True, priority=-3)
        wishes = {"handling": handling, "ret": "HDRS", "envid": "x+2Dy", "utf8": True, "requiretls": "required"}
        facts = {"body": "BINARYMIME", "kind": "local", "helo": "h", "listener": "l", "message_id": "<m@x>"}
        recipients = (Recipient(BOB, "list@acme.example", "DELAY", "rfc822;list@acme.example"),)
        full = msgspec.structs.replace(self.first, id="", client="192.0.2.1", **wishes, **facts)
        store = self.store()
        incoming = store.incoming()
        deliveries = (NewDelivery("smtp:far.example", recipients),)
        message = msgspec.structs.replace(full, id=incoming.id)
        result(incoming.commit(NewMessage(message=message, deliveries=deliveries, next_attempt=9e9)))
        self.shut(store)
        folder = self.exported(incoming.id)
        written = json.loads((folder / f"{incoming.id}.json").read_text())
        self.assertEqual(written["message"]["handling"]["by_mode"], "R")
        self.assertEqual(set(written["message"]), set(Message.__struct_fields__))
        self.assertEqual(written["deliveries"][0]["recipients"][0]["notify"], "DELAY")
        mid = self.json("queue", "import", str(folder))["imported"][incoming.id]
        store = self.store()
        self.addCleanup(self.shut, store)
        message = store.message(mid)
        assert message is not None
        self.assertEqual(message, msgspec.structs.replace(full, id=mid, size=0, chunks=0, recipients=1))
        self.assertEqual([it.recipients for it in store.deliveries(mid)], [recipients])

    def test_on_the_disk(self) -> None:
        """What was exported is often removed next."""
        with patch("os.sync") as sync:
            self.exported()
        sync.assert_called_once_with()

    def test_some(self) -> None:
        folder = self.exported("--sender", "anna@acme.example")
        self.assertEqual(len(list(folder.iterdir())), 2)
        self.error("queue", "export", str(folder), "--sender", "nobody@acme.example", code=3)

    def test_on_hold(self) -> None:
        self.run_mta("queue", "import", str(self.exported()), "--hold")
        store = self.store()
        self.addCleanup(self.shut, store)
        self.assertEqual(len(result(store.page(QueueFilter(state="held"))).found), 4)

    def test_one_wrong_file_and_nothing_is_imported(self) -> None:
        folder = self.exported()
        path = folder / f"{self.second.id}.json"
        good = json.loads(path.read_text())
        for change in (
            {"format": 1},
            {"message": {**good["message"], "sender": "no address"}},
            {"message": {**good["message"], "handling": [0.0]}},
            {"message": {**good["message"], "surprise": 1}},
            {"deliveries": []},
            {"deliveries": [{**good["deliveries"][0], "destination": "nowhere"}]},
            {"surprise": 1},
        ):
            path.write_text(json.dumps({**good, **change}))
            self.assertIn("nothing was imported", self.error("queue", "import", str(folder), code=1))
        path.write_text(json.dumps(good))
        (folder / f"{self.second.id}.eml").unlink()
        self.assertIn("nothing was imported", self.error("queue", "import", str(folder), code=1))
        self.assertEqual(len(self.json("queue", "list")), 3)
