"""What is fuzzed: each target takes any octets, and raises only when something is wrong.

The first octet of an input says how the rest is cut into pieces, as the network may, so that a finding is one file.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.wire.dialogue import NO, converse, greeted
from tests.wire.scramclient import ScramClient
from tests.wire.test_client_fuzz import drive
from tests.wire.test_content import decode
from twisted_mta.mail.address import AddressError, canonical, parse_address
from twisted_mta.mail.conversion import Converter, Survey
from twisted_mta.mail.header import Head
from twisted_mta.mail.mime import Unclear
from twisted_mta.mail.status import MailError, Reply
from twisted_mta.wire import capabilities, notification, proxy, sasl, xclient
from twisted_mta.wire import commands as c
from twisted_mta.wire.oauth import OAuth
from twisted_mta.wire.replies import ReplyError, ReplyParser
from twisted_mta.wire.scram import Keys, Scram

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


BEGUN = b"EHLO x\r\nMAIL FROM:<a@b.example> BODY=BINARYMIME\r\nRCPT TO:<c@d.example>\r\n"


def chunks(data: bytes) -> None:
    """A message by BDAT, however its commands and octets are mixed and cut: what it comes to is the same."""
    whole, cut = pieces(data)

    def seen(parts: list[bytes]) -> list[tuple[object, ...]]:
        connection = greeted(auth="offered")
        events = converse(connection, BEGUN.replace(b" BODY=BINARYMIME", b"") if whole[:1] < b"\x80" else BEGUN, *parts)
        # How far a flawed message is given out, and by which flaw it is known, depends on the pieces.
        told: list[tuple[object, ...]] = []
        for event in events:
            ended = isinstance(event, c.ContentEnd | c.ChunkEnd)
            told.append((type(event), event.flaw is not None) if ended and event.flaw is not None else (event,))  # type: ignore[attr-defined]
        return [*told, (connection.state, connection.buffered)]

    assert seen([whole]) == seen(cut)


def conversion(data: bytes) -> None:
    """Whatever the structure, what is converted is 7bit, wherever it is cut; what is not is said to be unclear."""
    whole, cut = pieces(data)

    def made(parts: list[bytes]) -> bytes | None:
        survey = Survey("7bit")
        try:
            for part in parts:
                survey.feed(part)
            survey.finish()
        except Unclear:
            return None
        converter = Converter(survey.plan())
        return b"".join([converter.convert(part) for part in parts]) + converter.close()

    converted = made([whole])
    assert converted == made(cut)
    assert converted is None or (converted.isascii() and b"\0" not in converted)


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
    """The SASL exchanges of one message or two; only SaslError escapes, and what was said is not in words."""
    for make in (*sasl.MECHANISMS.values(), lambda: OAuth("OAUTHBEARER"), lambda: OAuth("XOAUTH2")):
        exchange = make()
        try:
            for line in data.split(b"\n"):
                found = exchange.step(sasl.decode(line, initial=True))
                if not isinstance(found, bytes):
                    assert "secret" not in repr(found)
                    break
        except sasl.SaslError:
            pass


KEYS = Keys.make("secret", b"salt" * 4, 1)


def scrams(data: bytes) -> None:
    """SCRAM; only SaslError escapes, and nobody is proven but by the proof."""
    plus, offered = bool(data[:1] > b"\x40"), bool(data[:1] > b"\x80")
    exchange = Scram(plus, offered, lambda kind: b"bound" if kind == "tls-exporter" else b"", b"nonce")
    proven = ScramClient("anna", "secret", b"p=tls-exporter" if plus else b"n", b"bound" if plus else b"", b"own")
    challenge = b""
    try:
        for line in data[1:].split(b"\n"):
            # The mark stands for a proof that no fuzzer finds.
            said = proven.final(challenge) if line == b"*" and challenge else line
            found = exchange.step(said)
            if isinstance(found, sasl.Wanted):
                challenge = exchange.found(KEYS)
                assert challenge.startswith(b"r=")
                assert challenge.count(b",") == 2
            elif isinstance(found, sasl.Proven):
                assert b"\n*" in data
                assert found.username
                return
    except sasl.SaslError:
        pass


def notices(data: bytes) -> None:
    """DSN's parameters: what is taken stands for printable ASCII, may be passed on as it is, and is then the same."""
    text = data.decode("utf-8", "replace")
    known = notification.decode_orcpt(text)
    if known is not None:
        assert known[1].isascii()
        assert known[1].isprintable()
        plain = notification.ascii_orcpt(text)
        assert plain.isascii()
        assert plain.isprintable()
        assert " " not in plain
        assert notification.ascii_orcpt(plain) == plain
        assert (notification.decode_orcpt(plain) or known) == known
    envid = notification.decode_envid(text)
    assert envid is None or notification.decode_envid(notification.encode_xtext(envid)) in (envid, None)
    notify = notification.parse_notify(text)
    assert notify is None or notification.parse_notify(notify) == notify
    assert notification.encode_address(text).isascii()


def offers(data: bytes) -> None:
    """What EHLO is answered, and how the next message is begun: nothing escapes, and limits are numbers."""
    capabilities.parse_capabilities(Reply(250, "", data.decode("utf-8", "replace")))


def claims(data: bytes) -> None:
    """XCLIENT's argument; only XclientError escapes, and nothing in it can end a line."""
    try:
        found = xclient.parse(data.decode("utf-8", "replace"))
    except xclient.XclientError:
        return
    assert not set(repr(found)) & set("\r\n\0")


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
    "chunks": chunks,
    "claims": claims,
    "client": client,
    "content": content,
    "conversion": conversion,
    "header": header,
    "login": login,
    "notices": notices,
    "offers": offers,
    "proxied": proxied,
    "replies": replies,
    "scrams": scrams,
    "server": server,
}
