"""BY and MT-PRIORITY on their way to other hosts (RFC 2852 §4.1.4, RFC 6710)."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.delivery.sending import Scene, make_job
from twisted_mta.delivery.interfaces import Result
from twisted_mta.mail.envelope import Handling
from twisted_mta.mail.status import Reply
from twisted_mta.testing.peer import Behaviour
from twisted_mta.wire.capabilities import parse_capabilities

ALL = ("PIPELINING", "DELIVERBY 60", "MT-PRIORITY MIXER")


class Case(SynchronousTestCase):
    def send(self, *extensions: str, **handling: Any) -> tuple[Result, list[str]]:
        """What came of a message for an example host with these extensions, and MAIL as it came there."""
        scene = Scene(Behaviour(extensions=extensions))
        if "deliver_by" in handling:
            handling["deliver_by"] += scene.network.seconds()
        (result,) = scene.deliver(make_job(handling=Handling(**handling)))
        return result, [line for line in scene.first.commands if line.startswith("MAIL")]


class Offers(SynchronousTestCase):
    def test_deliver_by(self) -> None:
        for offer, least in (("DELIVERBY", 0), ("deliverby 120", 120), ("DELIVERBY x", 0), ("DSN", None)):
            found = parse_capabilities(Reply(250, "", f"mx\n{offer}"))
            self.assertEqual(found.deliver_by, least, offer)

    def test_priority(self) -> None:
        for offer, has in (("MT-PRIORITY", True), ("MT-PRIORITY STANAG4406", True), ("PRIORITY", False)):
            self.assertEqual(parse_capabilities(Reply(250, "", f"mx\n{offer}")).mt_priority, has)


class PassedOn(Case):
    def test_what_is_left_of_the_time(self) -> None:
        result, (mail,) = self.send(*ALL, deliver_by=90.9, by_mode="R", trace=True)
        self.assertTrue(result.reply.positive)
        self.assertTrue(result.timed)
        self.assertEqual(mail, "MAIL FROM:<sender@isp.example> BY=90;RT")

    def test_a_time_that_is_over(self) -> None:
        result, (mail,) = self.send(*ALL, deliver_by=-30.5, by_mode="N")
        self.assertEqual(mail, "MAIL FROM:<sender@isp.example> BY=-31;N")
        self.assertTrue(result.reply.positive)

    def test_to_who_does_not_offer_it(self) -> None:
        result, (mail,) = self.send("PIPELINING", deliver_by=90, by_mode="N", priority=4)
        self.assertEqual(mail, "MAIL FROM:<sender@isp.example>")
        self.assertEqual((result.reply.code, result.timed, result.action), (250, False, "relayed"))

    def test_priority(self) -> None:
        self.assertEqual(self.send(*ALL, priority=-4)[1], ["MAIL FROM:<sender@isp.example> MT-PRIORITY=-4"])
        self.assertEqual(self.send(*ALL, request="for;1")[1], ["MAIL FROM:<sender@isp.example>"])


class Returned(Case):
    """Of mode R."""

    def refused(self, *extensions: str, seconds: float) -> str:
        result, mails = self.send(*extensions, deliver_by=seconds, by_mode="R")
        self.assertEqual(mails, [])
        self.assertFalse(result.remote)
        return f"{result.reply.code} {result.reply.enhanced}"

    def test_nobody_is_told_who_does_not_offer_it(self) -> None:
        self.assertEqual(self.refused("PIPELINING", seconds=1000), "554 5.3.3")

    def test_too_near_for_the_next_server(self) -> None:
        self.assertEqual(self.refused(*ALL, seconds=59), "554 5.4.7")

    def test_over(self) -> None:
        self.assertEqual(self.refused(*ALL, seconds=0.5), "554 5.4.7")
