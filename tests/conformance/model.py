"""A server's side of SMTP as the RFCs have it: which replies each command may get, and what it leads to.

Written from RFC 5321 §4.1.1, §4.1.4 and §4.3.2, RFC 3030 §2, RFC 3207 §4, RFC 4954 §4 and RFC 6531 §3, and from nothing
of ours.  Where the RFCs leave a choice the model allows each answer and goes by the one that was given.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any, Literal

import attrs

Kind = Literal[
    "hello", "mail", "rcpt", "data", "content", "bdat", "rset", "noop", "vrfy", "expn", "help", "quit", "starttls",
    "auth", "response", "unknown",
]  # fmt: skip
Fault = Literal[
    "", "syntax", "parameter", "value", "size", "utf8", "relay", "nobody", "foreign", "flaw", "mechanism", "password",
    "cancel", "close",
]  # fmt: skip
"""What is wrong with a command: its form, a parameter that is not known, or its value; a declared size beyond the
limit; UTF-8 without SMTPUTF8; a recipient elsewhere, or one who does not exist; a sender only its own user may use;
content with a bare newline, a NUL or too long a line; a mechanism not offered; a wrong password; an exchange cancelled;
or nothing that a server could go on from."""

PERMANENT = frozenset(range(550, 555))
SYNTAX = frozenset({500, 501})


@attrs.frozen(repr=False)
class Command:
    """One command, or the content behind a 354, as it is sent; ``wire`` has the octets of a chunk too."""

    kind: Kind
    wire: bytes
    fault: Fault = ""
    sender: str = ""
    recipient: str = ""
    content: bytes = b""
    last: bool = False
    utf8: bool = False
    steps: int = 1  # of AUTH: replies until the end of an exchange that goes well

    def __repr__(self) -> str:
        return f"<{self.kind} {self.wire!r} {self.fault}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # what hypothesis prints


@attrs.frozen
class Mail:
    """A message that the server has said 250 to."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes


@attrs.define
class Model:
    """One session.  ``relays``: its client may send to anybody; ``login``: who does not log in may send to nobody."""

    relays: bool
    login: bool
    hello: bool = False
    tls: bool = False
    user: bool = False
    sender: str | None = None
    utf8: bool = False
    recipients: list[str] = attrs.Factory(list)
    chunks: bytes | None = None  # of BDAT, once it has begun
    unsure: bool = False  # a chunk was refused: RFC 3030 §2 leaves open what follows, but RSET
    reading: bool = False  # 354 was said
    exchange: int = 0  # responses that AUTH still takes
    closed: bool = False
    taken: list[Mail] = attrs.Factory(list)

    def allowed(self, command: Command) -> AbstractSet[int]:
        """The codes with which a command may be answered now."""
        if self.exchange:
            return self._response(command)
        if command.kind == "content":
            return self._verdict(command) if self.reading else SYNTAX
        if command.kind == "response":
            return SYNTAX  # no exchange is under way
        answer: AbstractSet[int] = getattr(self, f"_{command.kind}")(command)
        return answer

    # Which replies: RFC 5321 §4.3.2 and the extensions'

    def _hello(self, command: Command) -> AbstractSet[int]:
        return {500, 501, 502, 504, 550} if command.fault else {250}

    def _mail(self, command: Command) -> AbstractSet[int]:
        wrong = self._fault(command, {"foreign": {550, 553}, "size": {552}} if self.user else {})
        if not self.hello or self.sender is not None:
            return {503} | (wrong if wrong != {250} else set())
        if self.login and not self.user:
            return {530} | (wrong if wrong != {250} else set())
        return wrong | {503} if self.unsure else wrong

    def _rcpt(self, command: Command) -> AbstractSet[int]:
        wrong = self._fault(command, {"nobody": {550}, "relay": {250} if self.relays or self.user else {550, 551}})
        if command.fault == "" and command.utf8 and not self.utf8:
            wrong = {501, 550, 553}
        if self.sender is None or self.unsure or self.chunks is not None:
            return {503} | (wrong if wrong != {250} else set())
        return wrong

    def _fault(self, command: Command, more: dict[str, AbstractSet[int]]) -> AbstractSet[int]:
        known: dict[str, AbstractSet[int]] = {
            "syntax": {501, 553},
            "parameter": {555},
            "value": {501},
            "size": {552},
            "utf8": {501, 550, 553},
        }
        return {**known, **more}.get(command.fault, {250})

    def _data(self, command: Command) -> AbstractSet[int]:
        if self.unsure or self.chunks is not None or not self.recipients:
            late = {503} if self.sender is None or self.chunks is not None else {503, 554}
            return late | ({501} if command.fault else set()) | ({503, 554} if self.unsure else set())
        return {501} if command.fault else {354}

    def _verdict(self, command: Command) -> AbstractSet[int]:
        return PERMANENT if command.fault else {250}

    def _bdat(self, command: Command) -> AbstractSet[int]:
        if command.fault == "close":
            return {421, 500, 501}
        if self.unsure or not self.recipients:
            return {503} if self.sender is None and not self.unsure else {503, 554}
        return self._verdict(command)

    def _rset(self, command: Command) -> AbstractSet[int]:
        return {501} if command.fault else {250}

    def _noop(self, command: Command) -> AbstractSet[int]:
        return {250}

    def _vrfy(self, command: Command) -> AbstractSet[int]:
        return {501, 502, 504} if command.fault else {250, 251, 252, 550, 551, 553, 502, 504}

    def _expn(self, command: Command) -> AbstractSet[int]:
        return {501, 502, 504} if command.fault else {250, 252, 550, 500, 502, 504}

    def _help(self, command: Command) -> AbstractSet[int]:
        return {211, 214, 502, 504}

    def _quit(self, command: Command) -> AbstractSet[int]:
        return {501} if command.fault else {221}

    def _starttls(self, command: Command) -> AbstractSet[int]:
        if command.fault:  # an argument, or something behind it in clear
            return {421, 501, 503}
        return {503} if self.tls else {220, 503} if not self.hello or self.busy else {220}

    def _auth(self, command: Command) -> AbstractSet[int]:
        if not self.login:
            return {500, 502, 503, 504}
        if not self.hello or self.busy or self.user:
            return {503} | ({501, 504, 538} if command.fault else set())
        if not self.tls:
            return {504, 530, 538} | ({501} if command.fault == "syntax" else set())
        if command.steps > 1 and command.fault not in ("syntax", "mechanism"):
            return {334}
        return self._login(command)

    def _login(self, command: Command) -> AbstractSet[int]:
        known: dict[str, AbstractSet[int]] = {
            "syntax": {501}, "mechanism": {504}, "password": {535}, "cancel": {501},
        }  # fmt: skip
        return known.get(command.fault, {235})

    def _response(self, command: Command) -> AbstractSet[int]:
        if command.kind != "response":
            return {500, 501, 535}  # a command is no base64, or no password
        if command.fault == "cancel":
            return {501}
        return {334} if self.exchange > 1 else self._login(command)

    def _unknown(self, command: Command) -> AbstractSet[int]:
        return {501} if command.fault else {500}

    # where it leads: RFC 5321 §4.1.4

    @property
    def busy(self) -> bool:
        """Whether a transaction is open."""
        return self.sender is not None or self.unsure

    def learn(self, command: Command, code: int) -> None:
        """The reply was given."""
        if code in (221, 421):
            self.closed = True
        elif self.exchange:
            self.exchange = self.exchange - 1 if code == 334 else 0
            self.user = self.user or code == 235
        elif command.kind == "content" and self.reading:
            self._ended(command.content, code)
        elif command.kind == "bdat":
            self._chunk(command, code)
        elif command.kind == "auth":
            self.user = code == 235 or self.user
            self.exchange = command.steps - 1 if code == 334 else 0
        elif code < 400:
            self._moved(command)

    def _moved(self, command: Command) -> None:
        if command.kind in ("hello", "rset"):
            self._forget()
            self.hello = self.hello or command.kind == "hello"
        elif command.kind == "mail":
            self._forget()
            self.sender, self.utf8 = command.sender, command.utf8
        elif command.kind == "rcpt":
            self.recipients.append(command.recipient)
        elif command.kind == "data":
            self.reading = True
        elif command.kind == "starttls":
            self._forget()
            self.tls, self.hello, self.user = True, False, False

    def _chunk(self, command: Command, code: int) -> None:
        if code >= 400:
            unsure = self.busy
            self._forget()
            self.unsure = unsure
            return
        content = (self.chunks or b"") + command.content
        if not command.last:
            self.chunks = content
            return
        if content and not content.endswith(b"\r\n"):
            content += b"\r\n"
        self._ended(content, code)

    def _ended(self, content: bytes, code: int) -> None:
        if code == 250:
            assert self.sender is not None
            self.taken.append(Mail(self.sender, tuple(self.recipients), content))
        self._forget()

    def _forget(self) -> None:
        self.sender, self.recipients, self.chunks = None, [], None
        self.unsure = self.reading = self.utf8 = False
