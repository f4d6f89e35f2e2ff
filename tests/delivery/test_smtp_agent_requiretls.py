"""Mail that requires TLS (RFC 8689 §4.2), and mail that does not: real TLS, in memory."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import trustme
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.delivery.sending import PUBLIC, Scene, make_job, outcome, said, settings
from twisted_mta.delivery.interfaces import Result
from twisted_mta.delivery.smtp_agent import LmtpAgent
from twisted_mta.smtp.tls import ServerTls
from twisted_mta.testing.dns import FakeResolver
from twisted_mta.testing.network import MemoryNetwork
from twisted_mta.testing.peer import Behaviour, PeerFactory

EXTENSIONS = ("PIPELINING", "SIZE 10240000", "8BITMIME")
AUTHORITY, STRANGER = trustme.CA(), trustme.CA()


@functools.cache
def authorities() -> str:
    """The file of those whom we trust."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    AUTHORITY.cert_pem.write_to_path(str(folder / "ca.pem"))
    return str(folder / "ca.pem")


@functools.cache
def tls(*names: str, by: trustme.CA = AUTHORITY) -> ServerTls:
    issued = by.issue_cert(*names)
    return ServerTls(b"".join(pem.bytes() for pem in issued.cert_chain_pems), issued.private_key_pem.bytes())


def good(name: str = "mx1.example.org", **more: Any) -> Behaviour:
    """A server that keeps TLS."""
    return Behaviour(**{"extensions": (*EXTENSIONS, "REQUIRETLS"), "tls": tls(name), **more})


class Case(SynchronousTestCase):
    def scene(
        self, first: Behaviour | None = None, second: Behaviour | None = None, signed: bool = True, **relay: Any
    ) -> Scene:
        scene = Scene(first, second, ca=authorities(), **relay)
        if signed:
            scene.resolver.signed = {"example.org"}
        return scene

    def deliver(self, scene: Scene, **more: Any) -> Result:
        (result,) = scene.deliver(make_job(requiretls="required", **more))
        return result

    def refused(self, scene: Scene, reply: str, words: str = "", **more: Any) -> None:
        result = self.deliver(scene, **more)
        self.assertEqual(said([result]), [f"{reply} ours"])
        self.assertIn(words, result.reply.text)
        self.assertEqual(scene.first.mails + scene.second.mails, [])
        self.assertNotIn("MAIL", "".join(scene.first.commands + scene.second.commands))


class RequiredTests(Case):
    """What has to be so before a message with REQUIRETLS leaves (RFC 8689 §4.2.1)."""

    def test_all_is_well(self) -> None:
        scene = self.scene(good())
        result = self.deliver(scene)
        self.assertEqual(said([result]), ["250 2.0.0"])
        self.assertRegex(result.tls, r"^TLSv1\.3 TLS_\w+ verified$")
        (mail,) = scene.first.mails
        self.assertEqual((mail.secure, mail.parameters), (True, "SIZE=23 REQUIRETLS"))

    def test_without_it_nothing_is_said_of_it(self) -> None:
        scene = self.scene(good())
        scene.deliver(make_job())
        self.assertEqual(scene.first.mails[0].parameters, "SIZE=23")

    def test_no_tls(self) -> None:
        scene = self.scene(Behaviour(extensions=(*EXTENSIONS, "REQUIRETLS")))
        self.refused(scene, "550 5.7.10", "does not offer it")
        self.assertEqual(scene.first.commands, ["EHLO mta.isp.example", "QUIT"])
        self.assertEqual(scene.second.commands, ["EHLO mta.isp.example", "QUIT"])

    def test_no_tls_just_now(self) -> None:
        busy = {"STARTTLS": "454 4.7.0 later"}
        self.refused(self.scene(good(replies=busy), good(replies=busy)), "451 4.7.10", "454 4.7.0 later")

    def test_no_requiretls(self) -> None:
        """Nor what it offered in clear counts."""
        scene = self.scene(good(extensions=EXTENSIONS), good("mx2.example.org", extensions=EXTENSIONS))
        self.refused(scene, "550 5.7.30", "does not offer REQUIRETLS")
        self.assertEqual(scene.first.commands[-2:], ["EHLO mta.isp.example", "QUIT"])

    def test_another_s_certificate(self) -> None:
        self.refused(self.scene(good("mx9.example.org"), good("mx1.example.org")), "550 5.7.10", "another host")

    def test_a_stranger_s_certificate(self) -> None:
        strange = good(tls=tls("mx1.example.org", "mx2.example.org", by=STRANGER))
        self.refused(self.scene(strange, strange), "550 5.7.10", "nobody whom we trust")

    def test_an_unproven_mx(self) -> None:
        scene = self.scene(good(), good("mx2.example.org"), signed=False)
        self.refused(scene, "550 5.7.30", "DNSSEC")
        self.assertEqual(scene.first.commands, [])

    def test_the_next_host_has_it(self) -> None:
        for first in (Behaviour(), good(extensions=EXTENSIONS), good("mx9.example.org")):
            scene = self.scene(first, good("mx2.example.org"))
            self.assertEqual(self.deliver(scene).host, "mx2.example.org")

    def test_a_host_that_is_away_gives_hope(self) -> None:
        scene = self.scene(Behaviour())
        del scene.network.hosts[PUBLIC, 25]
        scene.resolver.records["mx2.example.org"] = {"A": [PUBLIC]}
        (result,) = scene.deliver(make_job(requiretls="required"))
        self.assertEqual(said([result]), ["451 4.4.1 ours"])

    def test_names_that_need_no_mx(self) -> None:
        """A domain that is its own host, an address literal, and the smarthost."""
        for destination, name, fixed in (
            ("smtp:plain.example", "plain.example", False),
            (f"smtp:[{PUBLIC}]:25", PUBLIC, False),
            ("smtp:[relay.example]:25", "relay.example", True),
        ):
            for certified in (name, "other.example"):
                scene = self.scene(good(certified), signed=False)
                scene.resolver.records |= {"plain.example": {"A": [PUBLIC]}, "relay.example": {"A": [PUBLIC]}}
                result = self.deliver(scene, destination=destination)
                right = "250 2.0.0" if certified == name else "550 5.7.10 ours"
                self.assertEqual(said([result]), [right], (destination, fixed))

    def test_authorities_that_cannot_be_read(self) -> None:
        scene = self.scene(good())
        scene.agent.reconfigure(settings(ca="/nonexistent"))
        result = self.deliver(scene)
        self.assertEqual(said([result]), ["451 4.3.5 ours"])
        self.assertIn("relay.ca", result.reply.text)

    def test_idle_connections(self) -> None:
        """One that is not verified is not for such mail; one that is serves other mail too."""
        scene = self.scene(good())
        scene.deliver(make_job())
        self.assertFalse(self.deliver(scene).reused)
        (other,) = scene.deliver(make_job())
        self.assertEqual((other.reused, other.tls[-8:]), (True, "verified"))
        self.assertTrue(self.deliver(scene).reused)
        self.assertEqual(len(scene.first.peers), 2)
        self.assertEqual([mail.parameters[8:] for mail in scene.first.mails], ["", "REQUIRETLS", "", "REQUIRETLS"])


class ReportTests(Case):
    """RFC 8689 §5: a report is not lost for want of REQUIRETLS."""

    def test_with_it_where_it_can_be(self) -> None:
        scene = self.scene(Behaviour(), good("mx2.example.org"))
        self.deliver(scene, sender="")
        self.assertEqual(scene.first.mails, [])
        self.assertEqual(scene.second.mails[0].parameters, "SIZE=23 REQUIRETLS")

    def test_without_it_elsewhere(self) -> None:
        for first, signed in ((Behaviour(), True), (good(extensions=EXTENSIONS), True), (good(), False)):
            scene = self.scene(first, signed=signed)
            self.assertEqual(said([self.deliver(scene, sender="")]), ["250 2.0.0"])
            self.assertEqual(scene.first.mails[0].parameters, "SIZE=23")

    def test_the_settings_hold_all_the_same(self) -> None:
        scene = self.scene(Behaviour(), tls="encrypt")
        self.assertEqual(said([self.deliver(scene, sender="")]), ["451 4.7.4 ours"])

    def test_a_host_that_is_away_is_waited_for(self) -> None:
        scene = self.scene()
        scene.network.hosts.clear()
        self.assertEqual(said([self.deliver(scene, sender="")]), ["451 4.4.1 ours"])


class OptionalTests(Case):
    """TLS-Required: No (RFC 8689 §4.2.2)."""

    def test_in_clear_where_the_settings_want_tls(self) -> None:
        scene = self.scene(Behaviour(), tls="encrypt")
        (result,) = scene.deliver(make_job(requiretls="optional"))
        self.assertEqual((result.reply.code, result.tls), (250, ""))

    def test_no_other_mail_uses_that_connection(self) -> None:
        scene = self.scene(Behaviour(), tls="encrypt")
        scene.deliver(make_job(requiretls="optional"))
        self.assertEqual(said(scene.deliver(make_job())), ["451 4.7.4 ours"])
        self.assertEqual(len(scene.first.mails), 1)

    def test_tls_where_it_can_be_had(self) -> None:
        scene = self.scene(good(), tls="encrypt")
        (result,) = scene.deliver(make_job(requiretls="optional"))
        self.assertTrue(result.tls)

    def test_unless_the_operator_says_so(self) -> None:
        scene = self.scene(Behaviour(), tls="encrypt", tls_optional=False)
        self.assertEqual(said(scene.deliver(make_job(requiretls="optional"))), ["451 4.7.4 ours"])
        scene = self.scene(good(), tls="none")
        self.assertEqual(scene.deliver(make_job(requiretls="optional"))[0].tls, "")


class LmtpTests(Case):
    """Delivery is the end of it (RFC 8689 §4.4): on this machine as always, over a network under TLS."""

    def lmtp(self, destination: str, **behaviour: Any) -> str:
        self.server = PeerFactory(Behaviour(lmtp=True, **behaviour))
        network = MemoryNetwork(dict.fromkeys(["/lmtp", ("127.0.0.1", 24), ("10.0.0.5", 24)], self.server))
        resolver = FakeResolver({"store.example": {"A": ["10.0.0.5"]}})
        agent = LmtpAgent(settings(ca=authorities()), resolver, network)
        job = make_job(destination=destination, requiretls="required")
        started = Deferred.fromCoroutine(agent.deliver(job))
        network.flush()
        (result,) = said(outcome(started))
        return result

    def test_here(self) -> None:
        for place in ("unix:/lmtp", "127.0.0.1:24"):
            self.assertEqual(self.lmtp(f"lmtp:{place}"), "250 2.0.0")
            self.assertNotIn("REQUIRETLS", self.server.mails[0].parameters)

    def test_elsewhere(self) -> None:
        place = "lmtp:store.example:24"
        self.assertEqual(self.lmtp(place), "550 5.7.10 ours")
        self.assertEqual(self.lmtp(place, tls=tls("other.example")), "550 5.7.10 ours")
        self.assertEqual(self.lmtp(place, tls=tls("store.example")), "250 2.0.0")
        self.assertTrue(self.server.mails[0].secure)
        offers = (*EXTENSIONS, "REQUIRETLS")
        self.assertEqual(self.lmtp(place, tls=tls("store.example"), extensions=offers), "250 2.0.0")
        self.assertIn("REQUIRETLS", self.server.mails[0].parameters)
