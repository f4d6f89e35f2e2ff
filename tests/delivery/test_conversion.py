"""What the agents do where a server takes no 8-bit or binary content (RFC 6152 §3, RFC 3030 §3)."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.trial.unittest import SynchronousTestCase

from tests.delivery.sending import TWO, Content, Scene, make_job, outcome, said, settings
from tests.mail.test_conversion import EIGHT, MIME, convert, leaves, multipart, part
from twisted_mta.delivery.conversion import TURN
from twisted_mta.delivery.smtp_agent import LmtpAgent
from twisted_mta.mail.envelope import Body
from twisted_mta.queue.interfaces import CHUNK
from twisted_mta.testing.dns import FakeResolver
from twisted_mta.testing.network import MemoryNetwork
from twisted_mta.testing.peer import Behaviour, PeerFactory

SEVEN = ("PIPELINING", "SIZE 10240000")
BINARY = bytes(range(256)) * 4
MESSAGE = MIME + multipart("one", part("text/plain; charset=utf-8", EIGHT), part("image/png", BINARY, "binary"))

LARGE = MIME + part("text/plain; charset=utf-8", EIGHT * (CHUNK * 40 // len(EIGHT)))
CHUNKS = [LARGE[at : at + CHUNK] for at in range(0, len(LARGE), CHUNK)]


class ConversionTests(SynchronousTestCase):
    def sent(self, content: Content, body: Body, *extensions: str) -> tuple[bytes, str]:
        scene = Scene(Behaviour(extensions=extensions))
        self.assertEqual(said(scene.deliver(make_job(content=content, body=body))), ["250 2.0.0"])
        (mail,) = scene.first.mails
        return mail.content, mail.parameters

    def test_on_record(self) -> None:
        for offers, content, converted in ((SEVEN, MESSAGE, "7bit"), ((*SEVEN, "8BITMIME"), MESSAGE, "8bit")):
            (result,) = Scene(Behaviour(extensions=offers)).deliver(make_job(content=content, body="BINARYMIME"))
            self.assertEqual(result.converted, converted)
        scene = Scene(Behaviour(extensions=(*SEVEN, "8BITMIME")))
        self.assertEqual(scene.deliver(make_job(content=EIGHT, body="8BITMIME"))[0].converted, "")

    def test_whole(self) -> None:
        text = MIME + part("text/plain; charset=utf-8", EIGHT)
        content, parameters = self.sent(Content([text]), "8BITMIME", *SEVEN)
        self.assertEqual((content, parameters), (convert(text), f"SIZE={len(content)}"))

    def test_in_chunks(self) -> None:
        pieces = [MESSAGE[:50], MESSAGE[50:700], MESSAGE[700:]]
        content, parameters = self.sent(Content(pieces), "BINARYMIME", *SEVEN)
        self.assertEqual(content, convert(MESSAGE))
        self.assertEqual(leaves(content), [EIGHT, BINARY])
        self.assertNotIn("BODY", parameters)

    def test_binary_to_who_takes_8bit(self) -> None:
        """Whether or not it offers CHUNKING."""
        for more in ((), ("CHUNKING",)):
            content, parameters = self.sent(Content([MESSAGE]), "BINARYMIME", *SEVEN, "8BITMIME", *more)
            self.assertEqual(content, convert(MESSAGE, "8bit"))
            self.assertIn(EIGHT, content)
            self.assertEqual(leaves(content), [EIGHT, BINARY])
            self.assertEqual(parameters, f"SIZE={len(content)} BODY=8BITMIME")

    def test_several_transactions(self) -> None:
        scene = Scene(Behaviour(extensions=SEVEN, max_recipients=1))
        content = Content([MESSAGE[:50], MESSAGE[50:]])
        self.assertEqual(said(scene.deliver(make_job(*TWO, content=content, body="BINARYMIME"))), ["250 2.0.0"] * 2)
        self.assertEqual([mail.content for mail in scene.first.mails], [convert(MESSAGE)] * 2)

    def test_another_host_takes_more(self) -> None:
        scene = Scene(Behaviour(extensions=SEVEN, disconnect={"MAIL"}), Behaviour(extensions=(*SEVEN, "8BITMIME")))
        (result,) = scene.deliver(make_job(content=MESSAGE, body="BINARYMIME"))
        self.assertEqual((result.reply.code, result.host), (250, "mx2.example.org"))
        self.assertEqual(scene.second.mails[0].content, convert(MESSAGE, "8bit"))

    def test_what_cannot_be_converted(self) -> None:
        signed = MIME + multipart("one", part("text/plain", EIGHT), part("x/y", b"s"), subtype="signed")
        for content in (Content([signed]), Content([signed[:60], signed[60:]])):
            scene = Scene(Behaviour(extensions=SEVEN))
            (result,) = scene.deliver(make_job(content=content, body="8BITMIME"))
            self.assertEqual(said([result]), ["554 5.6.3 ours"])
            self.assertIn("signature", result.reply.text)
            self.assertNotIn("MAIL", "".join(scene.first.commands))
            self.assertEqual(said(scene.deliver(make_job())), ["250 2.0.0"])
            self.assertEqual(len(scene.first.peers), 1)

    def test_large(self) -> None:
        """Others have their turn meanwhile."""
        scene = Scene(Behaviour(extensions=SEVEN))
        turns: list[float] = []
        call_later = scene.network.callLater

        def counted(delay: float, *args: Any, **kwargs: Any) -> IDelayedCall:
            turns.append(delay)
            return call_later(delay, *args, **kwargs)

        scene.network.callLater = counted  # type: ignore[method-assign]
        (result,) = scene.deliver(make_job(content=Content(CHUNKS), body="8BITMIME"))
        self.assertEqual(result.reply.code, 250)
        self.assertEqual(scene.first.mails[0].content, convert(LARGE))
        self.assertGreaterEqual(turns.count(0), len(CHUNKS) // TURN - 1)

    def test_the_server_leaves_meanwhile(self) -> None:
        scene = Scene(Behaviour(extensions=SEVEN), Behaviour(extensions=SEVEN))

        class Leaving(Content):
            def read(self, chunk: int) -> Deferred[bytes]:
                if chunk == 20 and self.reads < 100:
                    for peer in scene.first.peers:
                        peer.transport.loseConnection()  # type: ignore[union-attr]
                return super().read(chunk)

        (result,) = scene.deliver(make_job(content=Leaving(CHUNKS), body="8BITMIME"))
        self.assertEqual((result.reply.code, result.host), (250, "mx2.example.org"))
        self.assertEqual(scene.second.mails[0].content, convert(LARGE))
        self.assertEqual(scene.first.mails, [])

    def test_lmtp(self) -> None:
        server = PeerFactory(Behaviour(extensions=SEVEN, lmtp=True))
        network = MemoryNetwork({"/lmtp": server})
        agent = LmtpAgent(settings(), FakeResolver({}), network)
        job = make_job(*TWO, destination="lmtp:unix:/lmtp", content=MESSAGE, body="BINARYMIME")
        started = Deferred.fromCoroutine(agent.deliver(job))
        network.flush()
        self.assertEqual(said(outcome(started)), ["250 2.0.0"] * 2)
        self.assertEqual(leaves(server.mails[0].content), [EIGHT, BINARY])
