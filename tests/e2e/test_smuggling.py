"""SMTP smuggling (CVE-2023-51764 and its kin): one message in is never two, and none of ours is two for the next hop.

The variants are all that were published as an end of data that some server took for CRLF.CRLF.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.case import ANN, BEN, parse
from tests.peers.exact import ExactSink
from tests.peers.mta import Mta
from tests.peers.postfix import Postfix
from tests.peers.rawsmtp import Closed, RawSmtp

pytestmark = pytest.mark.peer

ENDS = {
    "LF.LF": b"\n.\n",
    "LF.CRLF": b"\n.\r\n",
    "CRLF.LF": b"\r\n.\n",
    "CR.CR": b"\r.\r",
    "CR.CRLF": b"\r.\r\n",
    "CRLF.CR": b"\r\n.\r",
    "CR.LF": b"\r.\n",
    "LF.CR": b"\n.\r",
    "LFCR.LFCR": b"\n\r.\n\r",
    "CRCRLF.CRCRLF": b"\r\r\n.\r\r\n",
    "CRLF.CRCRLF": b"\r\n.\r\r\n",
    "CRLF.NULCRLF": b"\r\n.\0\r\n",
    "CRLFNUL.CRLF": b"\r\n\0.\r\n",
    "NULLF.LF": b"\0\n.\n",
    "CRNULLF.CRNULLF": b"\r\0\n.\r\0\n",
    "CRLF.spaceCRLF": b"\r\n. \r\n",
    "CRLF.tabCRLF": b"\r\n.\t\r\n",
    "CRLFspace.CRLF": b"\r\n .\r\n",
    "CRLF..CRLF": b"\r\n..\r\n",
    "NEL": b"\x85.\x85",
    "NEL in UTF-8": b"\xc2\x85.\xc2\x85",
    "LINE SEPARATOR": b"\xe2\x80\xa8.\xe2\x80\xa8",
    "VT and FF": b"\x0b.\x0c",
    "high bits": b"\x8d\x8a.\x8d\x8a",
}
SMUGGLED = (
    f"MAIL FROM:<admin@demo.example>\r\nRCPT TO:<{BEN}>\r\nDATA\r\nSubject: smuggled\r\n\r\nevil\r\n.\r\n"
).encode()


@pytest.fixture(scope="module", params=["reject", "replace"])
def mta(request: pytest.FixtureRequest) -> Iterator[Mta]:
    """The service with each of the two ways to treat a bare newline."""
    with Mta({"smtp": {"bare_newline": request.param, "errors": 1000}}) as service:
        yield service


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_in(mta: Mta, end: bytes) -> None:
    """What follows a false end of data is content, or the whole is refused; never is it a second message."""
    accepted = len(mta.events("accept"))
    with RawSmtp(mta.mx) as client:
        client.ehlo()
        for command in ("MAIL FROM:<outer@elsewhere.example>", f"RCPT TO:<{BEN}>", "DATA"):
            assert not client.cmd(command).refused
        client.send(b"Subject: outer\r\n\r\nbody" + end + SMUGGLED)
        answer = client.answer()
        # Exactly one reply to all of that: had the false end been taken, more would follow.
        try:
            after = client.cmd("NOOP")
            assert after.code == 250
            client.cmd("QUIT")
            assert client.rest() == b""
        except Closed:
            assert answer.refused
    if not answer.refused:
        mta.wait_event("done", id=answer.text.split()[-1])
    assert len(mta.events("accept")) == accepted + (not answer.refused)
    assert [m for m in mta.mailbox(BEN) if parse(m)["Subject"] == "smuggled"] == []
    if mta.settings["smtp"]["bare_newline"] == "reject" and answer.refused:
        assert "5.5.2" in answer.text or "5.6.0" in answer.text


def test_in_arrives_as_one(mta: Mta) -> None:
    """The control: the same words with dots stuffed rightly are one message, and its content is all of them."""
    with RawSmtp(mta.mx) as client:
        client.ehlo()
        content = b"Subject: control\r\n\r\nbody\r\n..\r\n" + SMUGGLED.removesuffix(b"\r\n.\r\n")
        answer = client.message("outer@elsewhere.example", [BEN], content)
    assert answer.code == 250
    mta.wait_event("done", id=answer.text.split()[-1])
    [message] = [m for m in mta.mailbox(BEN) if parse(m)["Subject"] == "control"]
    assert message.replace(b"\r\n", b"\n").endswith(b"body\n.\n" + SMUGGLED.replace(b"\r\n", b"\n")[:-2])


def test_in_a_true_end_after_a_bare_cr(mta: Mta) -> None:
    """CR CRLF.CRLF does end the data: what came before is judged by itself, and framing is kept."""
    with RawSmtp(mta.mx) as client:
        client.ehlo()
        answer = client.message("outer@elsewhere.example", [BEN], b"Subject: bare cr\r\n\r\nbody\r")
        assert answer.refused == (mta.settings["smtp"]["bare_newline"] == "reject")
        assert client.cmd("NOOP").code == 250


def offsets() -> list[int]:
    """Where a line with a dot is put: about every boundary at which content is cut into chunks on its way."""
    chunks = (1 << 12, 1 << 14, 1 << 16, 65520)
    return sorted({chunk * n + d for chunk in chunks for n in (1, 2) for d in range(-4, 5)})


def dotted(length: int) -> bytes:
    """Content with lone dots about every chunk boundary, as it should arrive: CRLF lines, not dot-stuffed."""
    head = b"Subject: dots\r\n\r\n"
    content = bytearray(head)
    for offset in (o for o in offsets() if o < length):
        gap = offset - len(content) - 2
        if gap > 0:
            while gap > 900:
                content += b"x" * 898 + b"\r\n"
                gap -= 900
            content += b"x" * gap + b"\r\n"
        content += b".\r\n"
    return bytes(content) + b"end"


def stuffed(content: bytes) -> bytes:
    """RFC 5321 §4.5.2, the plain way."""
    return content.replace(b"\r\n.", b"\r\n..")


def relay_by(port: int) -> dict[str, object]:
    """Settings that send all mail to a port of loopback."""
    return {"relay": {"networks": ["127.0.0.0/8"], "smarthost": f"127.0.0.1:{port}"}}


def test_out_every_octet_arrives() -> None:
    """Dots about every chunk boundary reach a byte-exact remote as one message, octet for octet."""
    with ExactSink() as sink, Mta(relay_by(sink.port)) as service:
        contents = [dotted(length) for length in (5000, 20000, 70000, 140000)]
        with RawSmtp(service.mx) as client:
            client.ehlo()
            for content in contents:
                assert client.message("a@elsewhere.example", ["b@remote.example"], stuffed(content)).code == 250
        taken = sorted((t.content for t in sink.wait_count(len(contents))), key=len)
        service.wait_empty()
        assert len(sink.taken) == len(contents)
        for got, content in zip(taken, contents, strict=True):
            assert got.endswith(content + b"\r\n")


def test_out_through_postfix_is_one_message() -> None:
    """Content that looks like a second transaction stays content on its way into a real Postfix."""
    with Postfix() as postfix, Mta(relay_by(postfix.port)) as service:
        content = b"Subject: outer\r\n\r\nbody\r\n.\r\n" + SMUGGLED.replace(b"demo.example", b"remote.example")
        with RawSmtp(service.mx) as client:
            client.ehlo()
            answer = client.message("a@elsewhere.example", ["bob@remote.example"], stuffed(content))
            assert answer.code == 250
        [message] = postfix.wait_messages(1)
        service.wait_empty()
        assert len(postfix.messages()) == 1
        _, _, body = content.replace(b"\r\n", b"\n").partition(b"\n\n")
        assert message.endswith(b"\n\n" + body + b"\n")  # Postfix has added header fields


def test_out_of_our_own_command_is_one_message() -> None:
    """``mta send`` takes a file with bare newlines: what leaves is one message with CRLF."""
    with ExactSink() as sink, Mta(relay_by(sink.port)) as service:
        text = f"Subject: sent\n\nbody\n.\n{SMUGGLED.decode().replace(chr(13), '')}"
        service.cli("send", "--from", ANN, "--to", "b@remote.example", stdin=text)
        [taken] = sink.wait_count(1)
        assert b"body\r\n.\r\nMAIL FROM" in taken.content
        assert b"\n" not in taken.content.replace(b"\r\n", b"")
