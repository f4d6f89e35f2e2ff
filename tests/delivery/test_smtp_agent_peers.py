"""The SMTP agent over real sockets, against Postfix's smtp-sink and aiosmtpd."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tests.delivery.sending import BODY, Content, make_job, settings
from tests.peers.exact import ExactSink
from tests.peers.postfix import SmtpSink
from tests.peers.process import free_port
from twisted_mta.delivery.interfaces import Job, Result
from twisted_mta.delivery.smtp_agent import SmtpAgent
from twisted_mta.queue.interfaces import CHUNK
from twisted_mta.testing.dns import FakeResolver

reactor: Any = _reactor

pytestmark = pytest.mark.peer


class Case(TestCase):
    """An agent whose smarthost is the peer."""

    def agent(self, port: int, **relay: Any) -> SmtpAgent:
        self.destination = f"smtp:[127.0.0.1]:{port}"
        agent = SmtpAgent(settings(smarthost=f"127.0.0.1:{port}", **relay), FakeResolver({}), reactor)
        self.addCleanup(self.stop, agent)
        return agent

    @staticmethod
    def stop(agent: SmtpAgent) -> Deferred[None]:
        async def stop() -> None:
            await agent.stop()
            gone: Deferred[None] = Deferred()
            reactor.callLater(0.05, gone.callback, None)  # the answers to QUIT
            await gone

        return Deferred.fromCoroutine(stop())

    def job(self, *recipients: str, **more: Any) -> Job:
        return make_job(*recipients, destination=self.destination, **more)

    @staticmethod
    def codes(results: Any) -> list[int]:
        taken: list[Result] = list(results)
        return [result.reply.code for result in taken]


class SinkTests(Case):
    """smtp-sink, as strict or as odd as its options make it."""

    def sink(self, *options: str) -> SmtpSink:
        sink = SmtpSink(options)
        sink.__enter__()
        self.addCleanup(sink.__exit__, None, None, None)
        return sink

    def test_messages_on_one_connection(self) -> Deferred[None]:
        sink = self.sink()
        agent = self.agent(sink.port)

        async def scenario() -> None:
            results = [(await agent.deliver(self.job("x@example.org", "y@example.org")))[0] for _ in range(5)]
            self.assertEqual([result.reply.code for result in results], [250] * 5)
            self.assertEqual([result.reused for result in results], [False] + [True] * 4)
            sink.wait_count(5)
            for message in sink.messages():
                self.assertIn(BODY.replace(b"\r\n", b"\n"), message)

        return Deferred.fromCoroutine(scenario())

    def test_old_server(self) -> Deferred[None]:
        """Without EHLO (smtp-sink -e) and so in lock step."""
        sink = self.sink("-e")
        agent = self.agent(sink.port)

        async def scenario() -> None:
            self.assertEqual(self.codes(await agent.deliver(self.job("x@example.org", "y@example.org"))), [250, 250])

        return Deferred.fromCoroutine(scenario())

    def test_refusals(self) -> Deferred[None]:
        """RCPT, DATA and the content refused for good and for now (smtp-sink -f and -r)."""

        async def one(option: str, command: str, code: int) -> None:
            agent = self.agent(self.sink(option, command).port)
            (result,) = await agent.deliver(self.job("x@example.org"))
            self.assertEqual((result.reply.code // 100, result.remote), (code, True), command)

        async def scenario() -> None:
            for option, code in (("-f", 5), ("-r", 4)):
                for command in ("MAIL", "RCPT", "DATA", "."):
                    await one(option, command, code)

        return Deferred.fromCoroutine(scenario())

    def test_disconnects(self) -> Deferred[None]:
        """smtp-sink -q ends the connection at a command."""

        async def one(command: str) -> None:
            agent = self.agent(self.sink("-q", command).port)
            (result,) = await agent.deliver(self.job("x@example.org"))
            self.assertEqual((result.reply.code // 100, result.reply.enhanced), (4, "4.4.2"), command)

        async def scenario() -> None:
            for command in ("EHLO", "MAIL", "RCPT", "DATA", "."):
                await one(command)

        return Deferred.fromCoroutine(scenario())


class ExactTests(Case):
    """aiosmtpd shows each octet of what arrived."""

    def check(self, content: Content) -> Deferred[None]:
        sink = ExactSink()
        sink.__enter__()
        self.addCleanup(sink.__exit__, None, None, None)
        agent = self.agent(sink.port)

        async def scenario() -> None:
            self.assertEqual(self.codes(await agent.deliver(self.job("x@example.org", content=content))), [250])
            (taken,) = sink.wait_count(1)
            self.assertEqual(taken.content, b"".join(content.pieces))

        return Deferred.fromCoroutine(scenario())

    def test_large(self) -> Deferred[None]:
        """Three MiB over a socket whose buffer fills: every dot, wherever a chunk ends."""
        line = b".." + b"x" * 67 + b"\r\n"
        whole = line * (48 * CHUNK // len(line))
        return self.check(Content([whole[at : at + CHUNK] for at in range(0, len(whole), CHUNK)]))

    def test_dots_at_every_boundary(self) -> Deferred[None]:
        """Chunks that end in each place of CRLF dot CRLF."""
        whole = b"a\r\n.\r\n..\r\n.b\r\n" * 20
        return self.check(Content([whole[at : at + 1] for at in range(len(whole))]))

    def test_stock_client_lets_this_out(self) -> Deferred[None]:
        """A line end as the last octets of a chunk and a lone dot as the first of the next."""
        return self.check(Content([(b"x" * 70 + b"\r\n") * (CHUNK // 72), b".\r\nMAIL FROM:<evil@example.org>\r\n"]))


class TlsTests(Case):
    """STARTTLS of aiosmtpd, that is of Python's ssl."""

    def test_large_content_under_tls(self) -> Deferred[None]:
        taken: list[bytes] = []

        class Handler:
            """aiosmtpd's hook."""

            async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
                taken.append(envelope.content)
                return "250 2.0.0 taken"

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("sink.example").configure_cert(context)
        controller = Controller(
            Handler(), hostname="127.0.0.1", port=free_port(), tls_context=context, require_starttls=True
        )
        controller.start()
        self.addCleanup(controller.stop)
        agent = self.agent(controller.port, tls="encrypt")
        pieces = [(b"." + b"x" * 69 + b"\r\n") * (CHUNK // 72)] * 10

        async def scenario() -> None:
            for reused in (False, True):
                (result,) = await agent.deliver(self.job("x@example.org", content=Content(pieces)))
                self.assertEqual((result.reply.code, result.reused), (250, reused))
                self.assertTrue(result.tls.startswith("TLSv1.3 "))
            self.assertEqual(taken, [b"".join(pieces)] * 2)

        return Deferred.fromCoroutine(scenario())
