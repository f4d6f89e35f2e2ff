"""Delivery into Maildirs, read back by the standard library."""

from __future__ import annotations

import errno
import mailbox
import os
import stat
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred, execute, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from twisted_mta.config.settings import Local, Settings
from twisted_mta.delivery import maildir_files as files
from twisted_mta.delivery.interfaces import IDeliveryAgent, Job, Result
from twisted_mta.delivery.maildir import THREADS, WRITE_TIME, MaildirAgent
from twisted_mta.mail.envelope import Delivery, Message, Recipient
from twisted_mta.mail.status import MailError

NOW = 1_800_000_000.25
CONTENT = b"Received: x\r\nFrom: bob@isp.example\r\nSubject: Hello\r\n\r\nHello\r\n.\r\nFrom here\r\n"


class AbortTests(SynchronousTestCase):
    """A delivery that is cancelled while a thread is at work on its file."""

    def test_the_file_is_not_closed_in_the_middle_of_a_step(self) -> None:
        """Its descriptor would be another file's by the time that the rest is written."""
        folder = Path(self.mktemp())
        files.make_maildir(folder)
        copy = files.Copy(files.Box(Recipient("a@b.example", "a@b.example"), str(folder), "", b""), "one")
        writing, go = threading.Event(), threading.Event()
        write = os.write
        done: list[bool] = []
        closed: list[int] = []

        def slow(fd: int, data: bytes) -> int:
            writing.set()
            go.wait(10)
            done.append(not closed)
            return write(fd, data)

        close = os.close
        with mock.patch("os.write", slow), mock.patch("os.close", lambda fd: (closed.append(fd), close(fd))):
            thread = threading.Thread(target=copy.write, args=(b"x\r\n",))
            thread.start()
            writing.wait(10)
            aborting = threading.Thread(target=copy.abort)
            aborting.start()
            aborting.join(0.2)
            go.set()
            thread.join(10)
            aborting.join(10)
        self.assertEqual((done, len(closed)), ([True], 1))
        self.assertRaises(OSError, copy.write, b"more")
        self.assertRaises(OSError, copy.finish)
        self.assertEqual([path.name for kind in ("tmp", "new") for path in (folder / kind).iterdir()], [])


class FakeContent:
    """A content in memory, or one that comes in pieces."""

    plain = False

    def __init__(self, data: bytes, piece: int = 0) -> None:
        self.size = len(data)
        self.whole = None if piece else data
        self.pieces = [data[at : at + piece] for at in range(0, len(data), piece)] if piece else [data]
        self.chunks = len(self.pieces)
        self.reads = 0
        self.broken_at = -1

    def read(self, chunk: int) -> Deferred:
        self.reads += 1
        return fail(KeyError("gone")) if chunk == self.broken_at else succeed(self.pieces[chunk])


def job(content: FakeContent, *recipients: Recipient | str, sender: str = "bob@isp.example") -> Job:
    people = tuple(it if isinstance(it, Recipient) else Recipient(it, it) for it in recipients)
    message = Message(
        id="m", arrived=NOW, sender=sender, recipients=len(people), size=content.size, chunks=1, expires=NOW + 9
    )
    delivery = Delivery(
        id="m", destination="maildir:isp.example", customer="", recipients=people, next_attempt=NOW, attempts=1
    )
    return Job(message, delivery, content)


class Case(SynchronousTestCase):
    """An agent whose threads are the test's own."""

    local: dict[str, str] = {}

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = NOW
        self.state = Path(self.mktemp())
        self.in_thread: Callable[..., Deferred] = execute
        self.agent = MaildirAgent(
            Settings(state_dir=str(self.state), local=Local(**self.local)),
            "mx1.isp.example",
            self.clock,
            lambda function, *args: self.in_thread(function, *args),
        )

    def deliver(
        self, *recipients: Recipient | str, content: FakeContent | None = None, sender: str = "bob@isp.example"
    ) -> Sequence[Result]:
        return self.successResultOf(
            Deferred.fromCoroutine(self.agent.deliver(job(content or FakeContent(CONTENT), *recipients, sender=sender)))
        )

    def maildir(self, user: str, domain: str = "isp.example") -> Path:
        return self.state / "mail" / domain / user / "Maildir"

    def read(self, user: str) -> bytes:
        [path] = (self.maildir(user) / "new").iterdir()
        return path.read_bytes()


class Delivering(Case):
    """The file and what is in it."""

    def test_provides_the_interface(self) -> None:
        verifyObject(IDeliveryAgent, self.agent)

    def test_read_back(self) -> None:
        [result] = self.deliver("ann@isp.example")
        self.assertEqual((result.reply.code, result.reply.enhanced, result.relay), (250, "2.0.0", "maildir"))
        [message] = mailbox.Maildir(self.maildir("ann"), create=False)
        self.assertEqual(message["Subject"], "Hello")
        self.assertEqual(message["Return-Path"], "<bob@isp.example>")
        self.assertEqual(message["Delivered-To"], "ann@isp.example")
        self.assertIsNone(message["X-Original-To"])
        self.assertEqual(message.get_payload(), "Hello\n.\nFrom here\n")
        self.assertEqual(message.keys()[0], "Return-Path", "RFC 5321 §4.4: at the beginning")

    def test_maildir_that_was_being_made(self) -> None:
        """A process that died, or another at the same moment: what is missing is made, whatever is there already."""
        for made in range(3):
            user = f"ann{made}"
            done: list[Path] = []

            def stop(path: Path, mode: int = 0o777, *args: Any, **more: Any) -> None:
                if len(done) == made:  # noqa: B023
                    raise OSError(errno.EIO, "")
                done.append(path)  # noqa: B023
                os.mkdir(path, mode)

            self.maildir(user).mkdir(parents=True)
            with mock.patch.object(Path, "mkdir", stop), self.assertRaises(OSError):
                files.make_maildir(self.maildir(user))
            [result] = self.deliver(f"{user}@isp.example")
            self.assertEqual(result.reply.code, 250, made)

    def test_octets(self) -> None:
        self.deliver("ann@isp.example")
        before = b"Return-Path: <bob@isp.example>\nDelivered-To: ann@isp.example\n"
        self.assertEqual(self.read("ann"), before + CONTENT.replace(b"\r\n", b"\n"))

    def test_file(self) -> None:
        [result] = self.deliver("ann@isp.example")
        path = Path(result.file)
        self.assertEqual(path.parent, self.maildir("ann") / "new")
        self.assertRegex(path.name, r"^1800000000\.M250000P\d+Q1R[0-9a-f]{16}\.mx1\.isp\.example,S=\d+,W=\d+$")
        size = path.stat().st_size
        self.assertIn(f",S={size},W={size + path.read_bytes().count(10)}", path.name)
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        self.assertEqual(list((self.maildir("ann") / "tmp").iterdir()), [])

    def test_binary(self) -> None:
        """RFC 3030 §3: octet for octet, behind our own fields."""
        data = b"Return-Path: <x@y>\r\nSubject: x\r\n\r\n" + bytes(range(256)) + b"\r\n\n\r"
        for piece in (0, 40, 7):
            content = FakeContent(data, piece)
            whole = job(content, "ann@isp.example")
            whole = msgspec.structs.replace(whole, message=msgspec.structs.replace(whole.message, body="BINARYMIME"))
            (result,) = self.successResultOf(Deferred.fromCoroutine(self.agent.deliver(whole)))
            written = Path(result.file).read_bytes()
            head, _, rest = written.partition(b"Subject: x\r\n")
            self.assertEqual(rest, data.partition(b"Subject: x\r\n")[2])
            self.assertTrue(head.startswith(b"Return-Path: <bob@isp.example>\r\nDelivered-To: ann@isp.example\r\n"))
            self.assertTrue(result.file.endswith(f",S={len(written)}"), result.file)

    def test_folders_are_the_owner_s_alone(self) -> None:
        self.deliver("ann@isp.example")
        folder = self.maildir("ann") / "cur"
        while folder != self.state.parent:
            self.assertEqual(stat.S_IMODE(folder.stat().st_mode), 0o700, folder)
            folder = folder.parent

    def test_the_null_sender(self) -> None:
        self.deliver("ann@isp.example", sender="")
        self.assertTrue(self.read("ann").startswith(b"Return-Path: <>\n"))

    def test_an_alias_is_named(self) -> None:
        self.deliver(Recipient("ann@isp.example", "sales@isp.example"))
        self.assertIn(b"\nX-Original-To: sales@isp.example\nDelivered-To: ann@isp.example\n", self.read("ann"))

    def test_several_recipients(self) -> None:
        results = self.deliver("ann@isp.example", "kim@isp.example")
        self.assertEqual([it.recipient.address for it in results], ["ann@isp.example", "kim@isp.example"])
        self.assertIn(b"Delivered-To: ann@isp.example\n", self.read("ann"))
        self.assertIn(b"Delivered-To: kim@isp.example\n", self.read("kim"))

    def test_names_differ(self) -> None:
        names = {Path(self.deliver("ann@isp.example")[0].file).name.partition(",")[0] for _ in range(50)}
        self.assertEqual(len(names), 50)

    def test_only_one_return_path(self) -> None:
        old = b"X: y\r\nReturn-Path: <forged@example.org>\r\n folded\r\nReturn-path: <b>\r\nSubject: s\r\n\r\n"
        self.deliver("ann@isp.example", content=FakeContent(old + b"Return-Path: in the body\r\n"))
        self.assertEqual(
            self.read("ann"),
            b"Return-Path: <bob@isp.example>\nDelivered-To: ann@isp.example\nX: y\nSubject: s\n\n"
            b"Return-Path: in the body\n",
        )

    def test_synced_before_it_is_there(self) -> None:
        log: list[str] = []
        real_sync, real_link = os.fsync, Path.hardlink_to

        def fsync(fd: int) -> None:
            log.append(f"sync {Path(os.readlink(f'/proc/self/fd/{fd}')).parent.name}")
            real_sync(fd)

        def link(new: Path, old: Path) -> None:
            log.append("link")
            real_link(new, old)

        self.deliver("ann@isp.example")
        with mock.patch("os.fsync", fsync), mock.patch.object(Path, "hardlink_to", link):
            self.deliver("ann@isp.example")
        self.assertEqual(log, ["sync tmp", "link", "sync Maildir"])

    def test_new_folders_are_synced(self) -> None:
        synced: list[Path] = []
        with mock.patch.object(files, "sync_folder", synced.append):
            self.deliver("ann@isp.example")
        folder = self.maildir("ann")
        for above in (folder, folder.parent, folder.parent.parent, self.state / "mail", self.state):
            self.assertIn(above, synced)

    def test_without_hard_links(self) -> None:
        with mock.patch.object(Path, "hardlink_to", side_effect=OSError(errno.EPERM, "no links here")):
            [result] = self.deliver("ann@isp.example")
        self.assertTrue(result.reply.positive)
        self.assertTrue(Path(result.file).exists())
        self.assertEqual(list((self.maildir("ann") / "tmp").iterdir()), [])


class Details(Case):
    """user+detail."""

    def test_without_a_folder(self) -> None:
        self.deliver("ann+lists@isp.example")
        self.assertIn(b"Delivered-To: ann+lists@isp.example\n", self.read("ann"))

    def test_with_a_folder(self) -> None:
        self.maildir("ann").parent.mkdir(parents=True)
        box = mailbox.Maildir(self.maildir("ann"), create=True)
        box.add_folder("lists")
        [result] = self.deliver("ann+lists@isp.example")
        self.assertEqual(Path(result.file).parent, self.maildir("ann") / ".lists" / "new")
        self.assertEqual(len(box.get_folder("lists")), 1)

    def test_never_out_of_the_mailbox(self) -> None:
        self.maildir("ann").mkdir(parents=True)
        (self.maildir("ann").parent / "new").mkdir()
        for detail in (".", "..", "/..", "../../kim/Maildir"):
            [result] = self.deliver(f'"ann+{detail}"@isp.example')
            self.assertEqual(Path(result.file).parent, self.maildir("ann") / "new", detail)


class OtherDelimiter(Case):
    """``local.detail_delimiter``."""

    local = {"detail_delimiter": "", "mailbox": "{state_dir}/{domain}/{user}"}

    def test_none(self) -> None:
        [result] = self.deliver("ann+lists@isp.example")
        self.assertEqual(Path(result.file).parent, self.state / "isp.example" / "ann+lists" / "new")


class Paths(SynchronousTestCase):
    """No address leaves the place where mail is kept."""

    def path(self, address: str) -> str:
        return files.mailbox_path("{state_dir}/{domain}/{user}", "/mail", address, "+")[0]

    def test_plain(self) -> None:
        self.assertEqual(self.path("Ann.Lee@isp.example"), "/mail/isp.example/ann.lee")

    def test_hostile(self) -> None:
        for local, name in {
            '"../../etc"': "%2E.%2F..%2Fetc",
            '".."': "%2E.",
            '"."': "%2E",
            '"a/b"': "a%2Fb",
            '"a%2Fb"': "a%252fb",
            '"{domain}"': "{domain}",
            '"a b"': "a%20b",
            "-rf": "%2Drf",
        }.items():
            self.assertEqual(self.path(f"{local}@isp.example"), f"/mail/isp.example/{name}", local)

    def test_empty(self) -> None:
        self.assertRaises(MailError, self.path, '""@isp.example')

    @given(st.text(min_size=1))
    def test_one_component(self, text: str) -> None:
        name = files.safe_name(text)
        self.assertNotIn("/", name)
        self.assertNotIn("\0", name)
        self.assertFalse(name.startswith("."))
        self.assertTrue(name.isascii() and name.isprintable())

    @given(st.text(min_size=1), st.text(min_size=1))
    def test_different_for_different_users(self, one: str, other: str) -> None:
        self.assertEqual(files.safe_name(one) == files.safe_name(other), one == other)


class Loops(Case):
    """Delivered-To."""

    def test_back_again(self) -> None:
        content = FakeContent(b"X: y\r\nDelivered-To: ANN@isp.example\r\n\r\nbody\r\n")
        results = self.deliver("ann@isp.example", "kim@isp.example", content=content)
        self.assertEqual([(it.reply.code, it.reply.enhanced) for it in results], [(554, "5.4.6"), (250, "2.0.0")])
        self.assertFalse(self.maildir("ann").exists())

    def test_not_by_the_body_or_another_address(self) -> None:
        content = FakeContent(b"Delivered-To: joann@isp.example\r\n\r\nDelivered-To: ann@isp.example\r\n")
        self.assertTrue(self.deliver("ann@isp.example", content=content)[0].reply.positive)

    def test_in_chunks(self) -> None:
        content = FakeContent(b"Delivered-To: ann@isp.example\r\n\r\n" + b"x\r\n" * 500, piece=100)
        self.assertEqual(self.deliver("ann@isp.example", content=content)[0].reply.enhanced, "5.4.6")


class Chunks(Case):
    """Content that is too large for memory."""

    def test_same_octets_however_it_is_cut(self) -> None:
        self.deliver("whole@isp.example")
        expected = self.read("whole").replace(b"whole@", b"ann@")
        for piece in range(1, len(CONTENT)):
            self.deliver("ann@isp.example", content=FakeContent(CONTENT, piece))
            [path] = (self.maildir("ann") / "new").iterdir()
            self.assertEqual(path.read_bytes(), expected, piece)
            self.assertIn(f",S={len(expected)},W={len(expected) + expected.count(10)}", path.name)
            path.unlink()

    def test_many_recipients(self) -> None:
        content = FakeContent(CONTENT, 50)
        people = [f"u{number}@isp.example" for number in range(40)]
        results = self.deliver(*people, content=content)
        self.assertEqual([it.recipient.address for it in results], people)
        for number in range(40):
            self.assertIn(b"Subject: Hello\n", self.read(f"u{number}"))
        self.assertEqual(content.reads, 3 * content.chunks, "sixteen copies at a time")

    def test_content_that_is_gone(self) -> None:
        for chunk in (0, 1):
            content = FakeContent(CONTENT, 50)
            content.broken_at = chunk
            [result] = self.deliver("ann@isp.example", content=content)
            self.assertEqual((result.reply.code, result.reply.enhanced), (451, "4.3.0"))
        self.assertEqual([path for path in self.state.rglob("*") if path.is_file()], [])


class Trouble(Case):
    """The file system says no."""

    def test_errors(self) -> None:
        for number, code, enhanced in (
            (errno.ENOSPC, 452, "4.3.1"),
            (errno.EDQUOT, 452, "4.2.2"),
            (errno.EACCES, 451, "4.3.0"),
            (errno.EROFS, 451, "4.3.0"),
            (errno.EIO, 451, "4.3.0"),
        ):
            for name in ("write", "fsync", "open"):
                real = getattr(os, name)

                def broken(*args: Any, number: int = number, real: Any = real, name: str = name) -> Any:
                    if name == "open" and "/tmp/18" not in str(args[0]):
                        return real(*args)
                    raise OSError(number, os.strerror(number), "/secret/path")

                with mock.patch.object(files.os, name, broken):
                    [result] = self.deliver("ann@isp.example")
                self.assertEqual((result.reply.code, result.reply.enhanced), (code, enhanced), name)
                self.assertNotIn("secret", result.reply.text)
                left = [path for path in self.state.rglob("*") if path.is_file()]
                self.assertEqual(left, [], name)

    def test_one_mailbox_does_not_fail_another(self) -> None:
        self.maildir("ann").parent.mkdir(parents=True)
        self.maildir("ann").write_text("in the way")
        results = self.deliver("ann@isp.example", "kim@isp.example")
        self.assertEqual([it.reply.code for it in results], [451, 250])

    def test_no_space_for_some_chunk(self) -> None:
        real, count = os.write, [0]

        def write(fd: int, data: bytes) -> int:
            count[0] += 1
            if count[0] == 3:
                raise OSError(errno.ENOSPC, "full")
            return real(fd, data)

        with mock.patch.object(files.os, "write", write):
            results = self.deliver("ann@isp.example", "kim@isp.example", content=FakeContent(CONTENT, 30))
        self.assertEqual([it.reply.code for it in results], [452, 250])
        self.assertFalse(any(path.is_file() for path in self.maildir("ann").rglob("*")))

    def test_a_link_that_can_not_be_synced_is_taken_back(self) -> None:
        self.deliver("ann@isp.example")
        with mock.patch.object(files, "sync_folder", side_effect=OSError(errno.EIO, "bad disk")):
            [result] = self.deliver("ann@isp.example")
        self.assertEqual(result.reply.code, 451)
        self.assertEqual(len(list((self.maildir("ann") / "new").iterdir())), 1)

    def test_short_writes(self) -> None:
        real = os.write
        with mock.patch.object(files.os, "write", lambda fd, data: real(fd, data[:7])):
            self.deliver("ann@isp.example")
        self.assertTrue(self.read("ann").endswith(b"From here\n"))


class Stopping(Case):
    """The end of the service."""

    def test_waits_for_what_is_under_way(self) -> None:
        gates: list[Deferred] = []

        def later(function: Callable[..., Any], *args: Any) -> Deferred:
            gates.append(Deferred())
            return gates[-1].addCallback(lambda _: function(*args))

        self.in_thread = later
        delivering = Deferred.fromCoroutine(self.agent.deliver(job(FakeContent(CONTENT), "ann@isp.example")))
        stopped = self.agent.stop()
        self.assertNoResult(stopped)
        refused = Deferred.fromCoroutine(self.agent.deliver(job(FakeContent(CONTENT), "kim@isp.example")))
        self.assertEqual(self.successResultOf(refused)[0].reply.code, 451)
        gates[0].callback(None)
        self.assertTrue(self.successResultOf(delivering)[0].reply.positive)
        self.successResultOf(stopped)
        self.successResultOf(self.agent.stop())


class Threads(TestCase):
    """With the real pool."""

    async def test_many_at_once(self) -> None:
        state = Path(self.mktemp())
        agent = MaildirAgent(Settings(state_dir=str(state)), "mx1", reactor)
        jobs = [
            Deferred.fromCoroutine(agent.deliver(job(FakeContent(CONTENT, piece), f"u{number % 3}@isp.example")))
            for number in range(20)
            for piece in (0, 40)
        ]
        for delivering in jobs:
            [result] = await delivering
            self.assertTrue(result.reply.positive)
        await agent.stop()
        self.assertEqual(len([path for path in state.rglob("*") if path.is_file()]), 40)


class ThreadsClock(Clock):
    """A clock to which threads can answer."""

    callFromThread = staticmethod(reactor.callFromThread)  # type: ignore[attr-defined]  # noqa: N815


class Hanging(TestCase):
    """A file system that does not answer."""

    async def test_other_threads_take_the_places(self) -> None:
        state = Path(self.mktemp())
        clock = ThreadsClock()
        agent = MaildirAgent(Settings(state_dir=str(state)), "mx1", clock)  # type: ignore[arg-type]
        answer = threading.Event()
        self.addCleanup(answer.set)
        deliver = files.deliver_whole

        def hang(boxes: Sequence[files.Box], names: Sequence[str], content: bytes) -> Any:
            if b"slow" in content:
                answer.wait(60)
            return deliver(boxes, names, content)

        self.patch(files, "deliver_whole", hang)
        slow = FakeContent(b"slow\r\n\r\n")
        stuck = [Deferred.fromCoroutine(agent.deliver(job(slow, "ann@isp.example"))) for _ in range(THREADS)]
        waiting = Deferred.fromCoroutine(agent.deliver(job(FakeContent(CONTENT), "kim@isp.example")))
        clock.advance(WRITE_TIME)
        for attempt in [*stuck, waiting]:
            [result] = await attempt
            self.assertEqual((result.reply.code, result.reply.enhanced), (451, "4.3.0"))
        [result] = await Deferred.fromCoroutine(agent.deliver(job(FakeContent(CONTENT), "kim@isp.example")))
        self.assertTrue(result.reply.positive)
        self.assertEqual(len(list((state / "mail/isp.example/kim/Maildir/new").iterdir())), 1, "given up is given up")
        await agent.stop()  # and none of them is waited for
