"""The peers themselves, run against each other: what the end-to-end tests stand on is known to work without us."""

from __future__ import annotations

import os
import shutil
import socket
import unittest
from unittest import mock

import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.peers import PeerFailed, free_port, peer_dir, require
from tests.peers.clients import curl_smtp, swaks
from tests.peers.dovecot import Dovecot
from tests.peers.exact import ExactSink, Taken
from tests.peers.postfix import Postfix, SmtpSink, smtp_source
from tests.peers.process import banner, require_root
from tests.peers.rawsmtp import RawSmtp
from twisted_mta.testing.zones import ZoneServer

pytestmark = pytest.mark.peer


class RequireTests(SynchronousTestCase):
    """A missing program skips, or fails where it must be there."""

    def test_missing_program_skips_with_the_packages_name(self) -> None:
        with mock.patch.dict(os.environ, {"MTA_REQUIRE_PEERS": ""}), self.assertRaises(unittest.SkipTest) as caught:
            require("some-package", "/usr/sbin/no-such-program")
        self.assertIn("apt-get install some-package", str(caught.exception))

    def test_missing_program_fails_where_peers_are_required(self) -> None:
        with mock.patch.dict(os.environ, {"MTA_REQUIRE_PEERS": "1"}), self.assertRaises(PeerFailed):
            require("some-package", "/usr/sbin/no-such-program")

    def test_ports_are_not_given_out_twice(self) -> None:
        ports = [free_port() for _ in range(50)]
        self.assertEqual(len(set(ports)), 50)


class SinkTests(SynchronousTestCase):
    """smtp-sink as the remote."""

    def test_smtp_source_into_a_capturing_sink(self) -> None:
        with SmtpSink() as sink:
            smtp_source(sink.port, sender="a@x.test", recipient="b@y.test", messages=20, sessions=4, length=500)
            sink.wait_count(20)
            self.assertEqual(len(sink.messages()), 20)
            self.assertIn(b"X-Rcpt-Args: <b@y.test>", sink.messages()[0])

    def test_a_counting_sink_counts(self) -> None:
        with SmtpSink(capture=False) as sink:
            smtp_source(sink.port, sender="a@x.test", recipient="b@y.test", messages=30, sessions=3)
            sink.wait_count(30)
            self.assertEqual(sink.count(), 30)

    def test_nothing_is_left_after_the_block(self) -> None:
        with SmtpSink() as sink:
            self.assertTrue(banner(sink.port))
        self.assertEqual(banner(sink.port), b"")
        self.assertFalse(sink.folder.exists())

    def test_a_daemon_that_dies_at_once_says_why(self) -> None:
        with self.assertRaisesRegex(PeerFailed, "usage"), SmtpSink(["--no-such-option"]):
            self.fail("started")

    def test_curl_hands_a_message_to_a_sink(self) -> None:
        with SmtpSink() as sink:
            message = sink.folder / "message"
            message.write_bytes(b"Subject: hi\r\n\r\nby curl\r\n")
            done = curl_smtp(
                f"smtp://127.0.0.1:{sink.port}/client.test",
                sender="a@x.test",
                recipients=("b@y.test",),
                message=message,
            )
            self.assertEqual(done.returncode, 0, done.stderr)
            sink.wait_count(1)
            self.assertIn(b"by curl", sink.messages()[0])


class PostfixTests(SynchronousTestCase):
    """A whole Postfix as the remote's MX."""

    def test_delivers_refuses_and_is_gone(self) -> None:
        with Postfix() as postfix:
            body = "one\n..two dots\nthree"
            done = swaks(postfix.port, "-f", "a@x.test", "-t", "bob@remote.example", "--body", body, "--tls")
            self.assertEqual(done.returncode, 0, done.stdout)
            [message] = postfix.wait_messages(1)
            self.assertIn(body.encode(), message)
            self.assertIn(b"using TLSv1.3", message)
            refused = swaks(postfix.port, "-f", "a@x.test", "-t", "nobody@remote.example")
            self.assertIn("550 5.1.1", refused.stdout)
            relay = swaks(postfix.port, "-f", "a@x.test", "-t", "x@elsewhere.example")
            self.assertIn("554 5.7.1", relay.stdout)
        self.assertEqual(banner(postfix.port), b"")


class DovecotTests(SynchronousTestCase):
    """Dovecot's IMAP over a Maildir that was written by hand."""

    def test_fetches_what_is_in_the_maildir(self) -> None:
        require_root("running Dovecot")
        mail = peer_dir("dovecot-mail")
        self.addCleanup(shutil.rmtree, mail)
        box = mail / "demo.example" / "ann" / "Maildir"
        for name in ("cur", "new", "tmp"):
            (box / name).mkdir(parents=True)
        (box / "new" / "1.M1.host").write_bytes(b"Subject: x\n\nbody\n")
        for path in (mail, *mail.rglob("*")):
            shutil.chown(path, "nobody")
        with Dovecot(f"{mail}/%d/%n/Maildir", uid=65534, gid=65534) as dovecot:
            self.assertEqual(dovecot.fetch("ann@demo.example"), [b"Subject: x\r\n\r\nbody\r\n"])


class ZoneServerTests(SynchronousTestCase):
    """The DNS server, asked by dnspython's own client."""

    def setUp(self) -> None:
        zones = ZoneServer(
            {
                "remote.example": {"MX": ["10 mx.remote.example.", "20 mx2.remote.example."]},
                "mx.remote.example": {"A": ["127.0.0.1"]},
                "alias.example": {"CNAME": ["remote.example."]},
                "*.wild.example": {"A": ["127.0.0.2"]},
                "big.example": {"TXT": [f'"{n} {"x" * 200}"' for n in range(20)]},
            }
        )
        self.addCleanup(zones.close)
        self.zones = zones

    def ask(self, name: str, kind: str) -> dns.message.Message:
        query = dns.message.make_query(name, kind)
        answer, _ = dns.query.udp_with_fallback(query, "127.0.0.1", 5, self.zones.port)
        return answer

    def test_answers_records(self) -> None:
        answer = self.ask("remote.example", "MX")
        self.assertEqual(len(answer.answer[0]), 2)

    def test_no_such_name_and_no_such_type(self) -> None:
        self.assertEqual(self.ask("nowhere.example", "A").rcode(), dns.rcode.NXDOMAIN)
        nodata = self.ask("mx.remote.example", "MX")
        self.assertEqual((nodata.rcode(), nodata.answer), (dns.rcode.NOERROR, []))

    def test_follows_aliases_and_wildcards(self) -> None:
        kinds = [rrset.rdtype for rrset in self.ask("alias.example", "MX").answer]
        self.assertEqual(kinds, [dns.rdatatype.CNAME, dns.rdatatype.MX])
        self.assertEqual(str(self.ask("a.b.wild.example", "A").answer[0][0]), "127.0.0.2")

    def test_a_long_answer_goes_by_tcp(self) -> None:
        self.assertEqual(len(self.ask("big.example", "TXT").answer[0]), 20)
        self.assertEqual([transport for _, _, transport in self.zones.queries], ["udp", "tcp"])

    def test_broken_and_silent_names(self) -> None:
        self.zones.broken.add("remote.example")
        self.assertEqual(self.ask("remote.example", "MX").rcode(), dns.rcode.SERVFAIL)
        self.zones.silent.add("mx.remote.example")
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(0.2)
            query = dns.message.make_query("mx.remote.example", "A").to_wire()
            client.sendto(query, ("127.0.0.1", self.zones.port))
            self.assertRaises(TimeoutError, client.recv, 512)


class ExactSinkTests(SynchronousTestCase):
    """aiosmtpd as the remote, spoken to by hand."""

    def test_keeps_the_octets_and_refuses_whom_it_is_told_to(self) -> None:
        with ExactSink({"no@y.test": "550 5.1.1 no such user"}) as sink, RawSmtp(sink.port) as client:
            client.ehlo()
            self.assertEqual(client.message("a@x.test", ["no@y.test"], b"").code, 550)
            client.cmd("RSET")
            self.assertEqual(client.message("a@x.test", ["b@y.test"], b"X: y\r\n\r\n..dot").code, 250)
            self.assertEqual(sink.wait_count(1), [Taken("a@x.test", ("b@y.test",), b"X: y\r\n\r\n.dot\r\n")])
