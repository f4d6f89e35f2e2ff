"""Nobody relays who may not: every trick in the book is refused by the running service, and nothing ever leaves."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from tests.e2e.case import ANN, BEN
from tests.peers.exact import ExactSink
from tests.peers.mta import Mta
from tests.peers.rawsmtp import Closed, RawSmtp

VICTIM = "victim@remote.example"

RECIPIENTS = {
    "a remote address": VICTIM,
    "percent hack": "victim%remote.example@demo.example",
    "percent hack at our host name": "victim%remote.example@mta.demo.example",
    "percent hack at our address": "victim%remote.example@[127.0.0.1]",
    "percent hack, twice": "victim%remote.example%demo.example@demo.example",
    "percent hack, quoted": '"victim%remote.example"@demo.example',
    "percent hack for a user of ours": "ann%remote.example@demo.example",
    "percent-encoded @": "victim%40remote.example@demo.example",
    "bang path": "remote.example!victim",
    "bang path at our domain": "remote.example!victim@demo.example",
    "bang path through us": "demo.example!remote.example!victim",
    "bang and percent": "remote.example!victim%other.example@demo.example",
    "bang path, quoted": '"remote.example!victim"@demo.example',
    "source route": "@demo.example:victim@remote.example",
    "source route, several": "@mta.demo.example,@demo.example:victim@remote.example",
    "source route by our address": "@[127.0.0.1]:victim@remote.example",
    "route without @": "remote.example:victim@demo.example",
    "quoted local part with @": '"victim@remote.example"@demo.example',
    "quoted address": '"victim@remote.example"',
    "escaped @": "victim\\@remote.example@demo.example",
    "two @, ours last": "victim@remote.example@demo.example",
    "two @, ours first": "victim@demo.example@remote.example",
    "two @, our address last": "victim@remote.example@[127.0.0.1]",
    "detail": "ann+victim@remote.example",
    "detail with @": "ann+victim@remote.example@demo.example",
    "our address as a literal": "victim@[127.0.0.1]",
    "another's address as a literal": "victim@[192.0.2.1]",
    "IPv6 literal": "victim@[IPv6:::1]",
    "number for an address": "victim@2130706433",
    "localhost": "victim@localhost",
    "our host name": "victim@mta.demo.example",
    "capitals": "VICTIM@REMOTE.EXAMPLE",
    "trailing dot": "victim@remote.example.",
    "trailing dot at ours": "victim%remote.example@demo.example.",
    "below our domain": "victim@sub.demo.example",
    "ends like our domain": "victim@notdemo.example",
    "begins like our domain": "victim@demo.example.remote.example",
    "homograph of our domain": "victim@d\u0435mo.example",
    "comment": "victim@remote.example(demo.example)",
    "comment before": "(ann@demo.example)victim@remote.example",
    "two addresses": "ann@demo.example,victim@remote.example",
    "two addresses, spaced": "ann@demo.example victim@remote.example",
    "semicolon": "ann@demo.example;victim@remote.example",
    "space before": " victim@remote.example",
    "space after": "victim@remote.example ",
    "tab inside": "victim@remote.example\t@demo.example",
    "NUL inside": "victim@remote.example\0@demo.example",
    "bare CR inside": "ann@demo.example\rRCPT TO:<victim@remote.example>",
    "bare LF inside": "ann@demo.example>\nRCPT TO:<victim@remote.example",
    "closing bracket inside": "victim@remote.example>@demo.example",
    "nested brackets": "<victim@remote.example>@demo.example",
    "pipe": "|/bin/sh -c true@demo.example",
    "file": "/tmp/victim@demo.example",
    "include": ":include:/etc/passwd@demo.example",
    "encoded word": "=?utf-8?q?victim=40remote.example?=@demo.example",
}
COMMANDS = {
    "no brackets": f"RCPT TO:{VICTIM}",
    "spaces before the path": f"RCPT TO: <{VICTIM}>",
    "spaces before the colon": f"RCPT TO :<{VICTIM}>",
    "lower case": f"rcpt to:<{VICTIM}>",
    "tab for space": f"RCPT\tTO:<{VICTIM}>",
    "AUTH parameter": f"RCPT TO:<{VICTIM}> AUTH=<{ANN}>",
    "ORCPT parameter": f"RCPT TO:<{VICTIM}> ORCPT=rfc822;{ANN}",
    "two paths": f"RCPT TO:<{ANN}> <{VICTIM}>",
    "two paths by comma": f"RCPT TO:<{ANN}>,<{VICTIM}>",
    "brackets doubled": f"RCPT TO:<<{VICTIM}>>",
    "colon doubled": f"RCPT TO::<{VICTIM}>",
}
SENDERS = {
    "a stranger": "MAIL FROM:<spammer@elsewhere.example>",
    "the null sender": "MAIL FROM:<>",
    "a user of ours": f"MAIL FROM:<{ANN}>",
    "the victim": f"MAIL FROM:<{VICTIM}>",
    "our postmaster": "MAIL FROM:<postmaster@demo.example>",
    "our host": "MAIL FROM:<root@mta.demo.example>",
    "our address": "MAIL FROM:<root@[127.0.0.1]>",
    "claimed authentication": f"MAIL FROM:<{ANN}> AUTH={ANN}",
    "no domain": "MAIL FROM:<postmaster>",
}
GREETINGS = {
    "as us": "EHLO mta.demo.example",
    "as our domain": "HELO demo.example",
    "as localhost": "EHLO localhost",
    "as our address": "EHLO [127.0.0.1]",
    "as the victim": "EHLO remote.example",
}
BEFORE = {
    "XCLIENT": ["XCLIENT ADDR=127.0.0.1 LOGIN=ann@demo.example"],
    "XFORWARD": ["XFORWARD ADDR=127.0.0.1 NAME=localhost"],
    "PROXY": ["PROXY TCP4 127.0.0.1 127.0.0.1 1 25"],
    "double MAIL": ["MAIL FROM:<a@b.example>"],
    "a good recipient first": [f"RCPT TO:<{BEN}>"],
    "failed AUTH": ["AUTH PLAIN " + base64.b64encode(b"\0ann@demo.example\0wrong").decode()],
    "AUTH begun and cancelled": ["AUTH LOGIN", "*"],
    "AUTH begun and left": ["AUTH PLAIN", ""],
    "empty credentials": ["AUTH PLAIN " + base64.b64encode(b"\0\0").decode()],
    "empty password": ["AUTH PLAIN " + base64.b64encode(b"\0ann@demo.example\0").decode()],
    "authorised as another": ["AUTH PLAIN " + base64.b64encode(b"ann@demo.example\0\0").decode()],
    "AUTH by a mechanism we don't have": ["AUTH ANONYMOUS", "AUTH EXTERNAL ="],
    "RSET": ["RSET", "MAIL FROM:<a@b.example>"],
    "EHLO again": ["EHLO mta.demo.example", "MAIL FROM:<a@b.example>"],
    "VRFY": [f"VRFY {VICTIM}"],
    "HELP, NOOP": ["HELP", "NOOP x"],
    "TURN": ["TURN"],
    "ETRN": ["ETRN remote.example"],
}


@pytest.fixture(scope="module")
def sink() -> Iterator[ExactSink]:
    """Where mail would go if any were relayed; at the end none was."""
    with ExactSink() as remote:
        yield remote
        assert remote.taken == []


@pytest.fixture(scope="module")
def mta(sink: ExactSink) -> Iterator[Mta]:
    """The service as it comes, with one domain, and a smarthost that takes everything."""
    settings = {
        "relay": {"smarthost": f"127.0.0.1:{sink.port}"},
        "smtp": {"auth_delay": "0s", "auth_attempts": 100, "errors": 1000},
    }
    with Mta(settings) as service:
        yield service
        assert service.queue_length() == 0


def refused(client: RawSmtp, commands: list[str]) -> None:
    """The last command is refused for good, or the session is ended; a DATA after it finds nobody to send to."""
    try:
        for command in commands[:-1]:
            client.cmd(command)
        answer = client.cmd(commands[-1].encode())
        assert 500 <= answer.code < 600, answer
        if f"RCPT TO:<{BEN}>" not in commands:
            assert client.cmd("DATA").refused
    except Closed:
        return


@pytest.mark.parametrize("recipient", RECIPIENTS.values(), ids=RECIPIENTS.keys())
def test_recipient(mta: Mta, recipient: str) -> None:
    """A stranger's RCPT with a form that some server took for permission."""
    with RawSmtp(mta.mx) as client:
        refused(client, ["EHLO x.example", "MAIL FROM:<a@b.example>", f"RCPT TO:<{recipient}>"])


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_command(mta: Mta, command: str) -> None:
    """A RCPT command that is written in another way."""
    with RawSmtp(mta.mx) as client:
        refused(client, ["EHLO x.example", "MAIL FROM:<a@b.example>", command])


@pytest.mark.parametrize("sender", SENDERS.values(), ids=SENDERS.keys())
def test_sender(mta: Mta, sender: str) -> None:
    """Whoever the sender claims to be."""
    with RawSmtp(mta.mx) as client:
        refused(client, ["EHLO x.example", sender, f"RCPT TO:<{VICTIM}>"])


@pytest.mark.parametrize("greeting", GREETINGS.values(), ids=GREETINGS.keys())
def test_greeting(mta: Mta, greeting: str) -> None:
    """Whoever the client claims to be."""
    with RawSmtp(mta.mx) as client:
        refused(client, [greeting, "MAIL FROM:<a@b.example>", f"RCPT TO:<{VICTIM}>"])


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE.keys())
def test_before(mta: Mta, before: list[str]) -> None:
    """Whatever was said before."""
    with RawSmtp(mta.mx) as client:
        refused(client, ["EHLO x.example", "MAIL FROM:<a@b.example>", *before, f"RCPT TO:<{VICTIM}>"])


def test_without_any_greeting(mta: Mta) -> None:
    """MAIL and RCPT first thing."""
    with RawSmtp(mta.mx) as client:
        refused(client, ["MAIL FROM:<a@b.example>", f"RCPT TO:<{VICTIM}>"])


def test_under_tls_without_authentication(mta: Mta) -> None:
    """TLS is no permission."""
    with RawSmtp(mta.mx) as client:
        client.ehlo()
        assert client.starttls().code == 250
        refused(client, ["MAIL FROM:<a@b.example>", f"RCPT TO:<{VICTIM}>"])


def test_authentication_before_starttls_is_forgotten(mta: Mta) -> None:
    """What was proved in clear is not valid under TLS (RFC 3207 §4.2)."""
    with RawSmtp(mta.submission) as client:
        client.ehlo()
        client.auth_plain(ANN, mta.password)
        assert client.starttls().code in {250, 503}
        if client.tls:
            refused(client, [f"MAIL FROM:<{ANN}>", f"RCPT TO:<{VICTIM}>"])


@pytest.mark.parametrize("recipient", [VICTIM, BEN], ids=["to a remote", "to a user of ours"])
def test_submission_without_authentication(mta: Mta, recipient: str) -> None:
    """The submission port takes nothing from whom it does not know."""
    with RawSmtp(mta.submissions, implicit_tls=True) as client:
        refused(client, ["EHLO x.example", f"MAIL FROM:<{ANN}>", f"RCPT TO:<{recipient}>"])


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE.keys())
def test_submission_before(mta: Mta, before: list[str]) -> None:
    """On the submission port, whatever was said before."""
    with RawSmtp(mta.submissions, implicit_tls=True) as client:
        refused(client, ["EHLO x.example", f"MAIL FROM:<{ANN}>", *before, f"RCPT TO:<{VICTIM}>"])


@pytest.mark.parametrize(
    "recipient",
    [form for name, form in RECIPIENTS.items() if "hack" in name or "bang path at" in name or "ours last" in name],
)
def test_authenticated_user_gets_no_hacks_either(mta: Mta, recipient: str) -> None:
    """For a user too, ``%`` and ``!`` are plain characters of a mailbox that does not exist."""
    with RawSmtp(mta.submissions, implicit_tls=True) as client:
        client.ehlo()
        assert client.auth_plain(ANN, mta.password).code == 235
        answers = [client.cmd(f"MAIL FROM:<{ANN}>"), client.cmd(f"RCPT TO:<{recipient}>")]
        assert answers[0].code == 250
        # "victim%remote.example@[127.0.0.1]" names no domain of ours; it must not become remote.example's either.
        assert answers[1].refused or "127.0.0.1" in recipient or "mta.demo" in recipient


def test_the_control_a_known_recipient_is_taken(mta: Mta) -> None:
    """The same session with a mailbox of ours works: the refusals above are about the recipients."""
    with RawSmtp(mta.mx) as client:
        client.ehlo()
        assert client.message("a@b.example", [BEN], b"Subject: control\r\n\r\nx").code == 250
    assert len(mta.wait_mailbox(BEN)) == 1
