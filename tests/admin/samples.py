"""Events, messages and deliveries for the tests of this room."""

from __future__ import annotations

from typing import Any

from twisted_mta.mail import events as ev

NOON = 1795435200.0  # 2026-11-23 12:00:00 UTC
ID = "0h7x2k9m4p8q1r3s"
REPORT = "0h7x2k9m4p8q1r4t"


def delivered(**changes: Any) -> ev.Delivered:
    values: dict[str, Any] = {
        "time": NOON, "id": ID, "recipient": "bob@remote.example", "original": "bob@remote.example",
        "destination": "smtp:remote.example", "relay": "mx.remote.example[198.51.100.3]:25", "status": "2.0.0",
        "reply": "250 2.0.0 Ok: queued as 4F", "attempt": 1, "delay": 1.25, "seconds": 0.3,
        "sender": "anna@isp.example", "customer": "acme", "size": 4096,
    }  # fmt: skip
    return ev.Delivered(**{**values, **changes})


def deferred(**changes: Any) -> ev.Deferred:
    values: dict[str, Any] = {
        "time": NOON + 2, "id": ID, "recipient": "erin@slow.example", "destination": "smtp:slow.example", "relay": "",
        "status": "4.4.1", "reply": "451 4.4.1 connect to mx.slow.example[198.51.100.9]:25: timed out", "attempt": 1,
        "delay": 30.0, "seconds": 30.0, "sender": "anna@isp.example", "customer": "acme", "size": 4096,
        "next_attempt": NOON + 90,
    }  # fmt: skip
    return ev.Deferred(**{**values, **changes})


def bounced(**changes: Any) -> ev.Bounced:
    values: dict[str, Any] = {
        "time": NOON + 3, "id": ID, "recipient": "dave@nowhere.example", "destination": "smtp:nowhere.example",
        "relay": "", "status": "5.1.2", "reply": "550 5.1.2 nowhere.example does not exist", "attempt": 1,
        "delay": 0.2, "seconds": 0.1, "sender": "anna@isp.example", "customer": "acme", "size": 4096, "report": REPORT,
    }  # fmt: skip
    return ev.Bounced(**{**values, **changes})


def accepted(**changes: Any) -> ev.Accepted:
    values: dict[str, Any] = {
        "time": NOON, "id": ID, "session": "s1", "client": "192.0.2.7", "listener": "submission",
        "helo": "laptop.example", "protocol": "ESMTPSA", "sender": "anna@isp.example",
        "recipients": ("bob@remote.example", "sales@isp.example", "dave@nowhere.example"), "size": 4096,
        "seconds": 0.02, "user": "anna@isp.example", "customer": "acme", "message_id": "<1@isp.example>",
        "tls": "TLSv1.3 TLS_AES_256_GCM_SHA384", "mechanism": "PLAIN",
    }  # fmt: skip
    return ev.Accepted(**{**values, **changes})


SESSION: dict[str, Any] = {"session": "s1", "client": "192.0.2.7", "listener": "submission"}

STORY: list[ev.AnyEvent] = [
    ev.Service(time=NOON, what="ready", detail="3 listeners"),
    ev.Connected(time=NOON, port=40112, role="submission", **SESSION),
    ev.Authenticated(time=NOON, user="anna@isp.example", customer="acme", mechanism="PLAIN", **SESSION),
    accepted(),
    ev.Routed(time=NOON, id=ID, destinations={"smtp:remote.example": ("bob@remote.example",)}),
    delivered(time=NOON + 1, tls="TLSv1.3 TLS_AES_256_GCM_SHA384"),
    delivered(
        time=NOON + 1, recipient="carl@isp.example", original="sales@isp.example", destination="maildir:isp.example",
        relay="maildir", reply="250 2.0.0 delivered to the mailbox", delay=0.03, seconds=0.01, file="/var/mail/x",
    ),
    deferred(),
    bounced(delay=432000.0, seconds=0.0, status="4.4.1", reply="451 4.4.1 timed out", expired=True),
    ev.Reported(time=NOON + 3, id=REPORT, about=ID, kind="failed", sender="", recipients=("anna@isp.example",),
                size=2100),
    ev.Operator(time=NOON + 4, id=ID, action="remove", who="root", recipients=("erin@slow.example",)),
    ev.Done(time=NOON + 4, id=ID, seconds=4.0),
    ev.Disconnected(time=NOON + 5, reason="quit", seconds=5.3, commands=9, messages=1, **SESSION),
]  # fmt: skip

SAMPLES: list[ev.AnyEvent] = [
    *STORY,
    ev.AuthFailed(time=NOON, user="anna@isp.example", mechanism="LOGIN", reply="535 5.7.8 Wrong", **SESSION),
    ev.Rejected(time=NOON, stage="rcpt", reply="550 5.1.1 No", helo="h", sender="a@b", recipient="c@d", user="e@f",
                customer="g", limit="recipients_per_day", **SESSION),
    ev.TlsFailed(time=NOON, reason="no shared cipher", **SESSION),
    ev.Overloaded(time=NOON, listener="mx", refused=812, waited=0.6, clients={"192.0.2.1": 800, "2001:db8::1": 12}),
    ev.Delayed(time=NOON, id=ID, recipients=("bob@remote.example",), report=REPORT),
]  # fmt: skip
