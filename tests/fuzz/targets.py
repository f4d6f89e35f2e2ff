"""What is fuzzed: each target takes any octets, and raises only when something is wrong.

The first octet of an input says how the rest is cut into pieces, as the network may, so that a finding is one file.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.wire.test_client_fuzz import drive
from tests.wire.test_content import decode
from tests.wire.test_server import NO, converse, greeted
from twisted_mta.mail.address import AddressError, canonical, parse_address
from twisted_mta.mail.header import Head
from twisted_mta.mail.status import MailError
from twisted_mta.wire import commands as c
from twisted_mta.wire import proxy, sasl
from twisted_mta.wire.oauth import OAUTHBEARER, XOAUTH2, OAuth
from twisted_mta.wire.replies import ReplyError, ReplyParser

_STEPS = (1, 2, 3, 5, 7, 16, 61, 997)


def pieces(data: bytes) -> tuple[bytes, list[bytes]]:
    """The input without its first octet, whole and cut."""
    step = _STEPS[data[0] % len(_STEPS)] if data else 1
    rest = data[1:]
    return rest, [rest[at : at + step] for at in range(0, len(rest), step)]


def server(data: bytes) -> None:
    """A session: what it comes to does not depend on how its octets arrive."""
    whole, cut = pieces(data)

    def seen(parts: list[bytes]) -> list[c.Command]:
        # Of several flaws in one message, which is noticed first depends on the pieces; that there is one does not.
        return [
            c.ContentEnd(b"", NO, False) if isinstance(event, c.ContentEnd) and event.flaw is not None else event
            for event in converse(greeted(auth="offered"), *parts)
        ]

    assert seen([whole]) == seen(cut)


def content(data: bytes) -> None:
    """The content of a message ends at the first CRLF.CRLF and nowhere else, and has no bare newline."""
    whole, cut = pieces(data)
    end = (b"\r\n" + whole).find(b"\r\n.\r\n")
    for replace in (False, True):
        first, second = decode(whole, replace=replace), decode(*cut, replace=replace)
        assert first[1] == second[1] == (None if end < 0 else whole[end + 3 :])
        if first[1] is not None:
            assert (first[2] is None) == (second[2] is None)
            if first[2] is None:
                assert first[0] == second[0]
                plain = first[0].replace(b"\r\n", b"")
                assert not {0, 10, 13} & set(plain)


def client(data: bytes) -> None:
    """A server that says anything: one outcome for each recipient, and one end."""
    _, cut = pieces(data)
    drive(cut, lmtp=bool(data) and data[0] >= 128)


def replies(data: bytes) -> None:
    """Replies are the same however they arrive; only ReplyError escapes."""
    whole, cut = pieces(data)

    def heard(parts: list[bytes]) -> list[object]:
        parser, found = ReplyParser(), []
        try:
            for part in parts:
                found += parser.receive(part)
        except ReplyError:
            return ["error"]
        return found

    assert heard([whole]) == heard(cut)


def login(data: bytes) -> None:
    """The SASL exchanges; only SaslError escapes."""
    for make in (sasl.Plain, sasl.Login, sasl.External, lambda: OAuth(OAUTHBEARER), lambda: OAuth(XOAUTH2)):
        exchange: sasl.Exchange = make()
        try:
            for line in data.split(b"\n"):
                if not isinstance(exchange.step(sasl.decode(line, initial=True)), bytes):
                    break
        except sasl.SaslError:
            pass


def header(data: bytes) -> None:
    """A header section: the same however it arrives, and what is changed in it is all that changes."""
    whole, cut = pieces(data)

    def read(parts: list[bytes]) -> bytes | None:
        head = Head(8192)
        try:
            if not any(head.feed(part) for part in parts):
                head.end()
        except MailError:
            return None
        for name in ("Received", "subject", "X-Absent"):
            assert (name in head) == (head.count(name) > 0) == (head.get(name) is not None)
            head.remove(name)
            assert name not in head
        return head.fields

    first, second = read([whole]), read(cut)
    assert (first is None) == (second is None)
    assert first == second


def address(data: bytes) -> None:
    """An address; only AddressError escapes, and what is canonical stays so."""
    text = data.decode("utf-8", "replace")
    try:
        known = canonical(text)
    except AddressError:
        return
    assert canonical(known) == known
    assert not known or str(parse_address(known)) == known
    assert not set(known) & set("\r\n\0")


def proxied(data: bytes) -> None:
    """The header of the PROXY protocol; only ProxyError escapes."""
    whole, cut = pieces(data)

    def read(parts: list[bytes]) -> object:
        reader = proxy.ProxyHeader()
        try:
            for part in parts:
                found = reader.receive(part)
                if found is not None:
                    return (found.address, found.port) if hasattr(found, "address") else type(found)
        except proxy.ProxyError:
            return "error"
        return None

    assert read([whole]) == read(cut)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "address": address,
    "client": client,
    "content": content,
    "header": header,
    "login": login,
    "proxied": proxied,
    "replies": replies,
    "server": server,
}
