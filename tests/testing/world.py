"""What the tests of the whole server share."""

from __future__ import annotations

from email import message_from_bytes
from email.message import Message

from twisted_mta.testing.case import MtaTestCase
from twisted_mta.testing.server import TestServer

ANNA, BERT = "anna@isp.example", "bert@isp.example"
BOB = "bob@else.example"


def people(server: TestServer, **limits: int | None) -> None:
    """A customer with a domain and two users."""
    server.add_customer("acme", **limits)
    server.add_domain("isp.example", "acme")
    server.add_user(ANNA)
    server.add_user(BERT)


def report_of(content: bytes) -> dict[str, str]:
    """The recipient's fields of a DSN (RFC 3464 §2.3)."""
    parsed = message_from_bytes(content)
    assert parsed.get_content_type() == "multipart/report", parsed.get_content_type()
    status = parsed.get_payload(1)
    assert isinstance(status, Message)
    recipient = status.get_payload(1)
    assert isinstance(recipient, Message)
    return dict(recipient.items())


class WorldCase(MtaTestCase):
    """With these people."""

    def setUp(self) -> None:
        super().setUp()
        people(self.server)
