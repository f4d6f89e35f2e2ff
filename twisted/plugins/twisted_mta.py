"""Lets twistd find "mta".  Imported for every run of twistd, whatever it serves: so it imports nothing of ours."""

from twisted.application.service import ServiceMaker

mta = ServiceMaker(  # type: ignore[no-untyped-call]
    "twisted-mta",
    "twisted_mta.tap",
    "A mail transfer agent: SMTP in, a durable queue, delivery to mailboxes and by relay.",
    "mta",
)
