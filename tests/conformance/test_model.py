"""Random sessions of the whole server against a model that was written from the RFCs alone (:mod:`.model`).

There is one reply to each command, in order and of a code that the model allows, and each message taken arrives once,
byte for byte."""

from __future__ import annotations

import base64
import itertools
from collections import Counter

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from tests.conformance.case import JOE, RELAYED, STRANGER
from tests.conformance.model import Command, Fault, Mail, Model
from tests.testing.world import ANNA, BERT, BOB, people
from twisted_mta.mail.events import Accepted
from twisted_mta.testing.client import MemoryClient
from twisted_mta.testing.server import TestServer

CONFIG = """
    [relay]
    networks = ["192.0.2.0/24"]
    [smtp]
    errors = 100000
    auth_attempts = 100000
    auth_delay = "0s"
    message_bytes = 100000
    header_bytes = 50000
    [submission]
    mechanisms = ["PLAIN", "LOGIN"]
    [defence]
    tarpit = "0s"
    auth_failures_per_hour = 100000
"""
UTF8 = "\u00fcser@isp.example"
MARK = b"X-Model: "
HEAD = MARK + b"%d\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\nMessage-ID: <%d@model.example>\r\n\r\n"


def coded(*words: str) -> bytes:
    """A SASL response."""
    return base64.b64encode("\0".join(words).encode())


def commands(kind: str, *lines: str, fault: Fault = "") -> list[Command]:
    """Commands without further meaning."""
    return [Command(kind, line.encode() + b"\r\n", fault) for line in lines]  # type: ignore[arg-type]


def mails() -> list[Command]:
    """MAIL, well and badly."""

    def mail(sender: str, words: str = "", fault: Fault = "", utf8: bool = False, verb: str = "MAIL FROM:") -> Command:
        return Command("mail", f"{verb}<{sender}>{words}\r\n".encode(), fault, sender, utf8=utf8)

    return [
        mail(ANNA, " SIZE=500"), mail(ANNA, verb="mail From:"), mail(ANNA, " BODY=8BITMIME  "),
        mail(ANNA, utf8=True, words=" SMTPUTF8"), mail(JOE, fault="foreign"),
        mail("", " RET=HDRS ENVID=x+2By AUTH=<>", fault="foreign"),
        mail(UTF8, " SMTPUTF8 SIZE=10", utf8=True, fault="foreign"), mail(UTF8, fault="utf8"),
        mail(ANNA, " FOO=BAR", "parameter"), mail(ANNA, " SIZE=10 NOTIFY=NEVER", "parameter"),
        mail(ANNA, " SIZE=x", "value"), mail(ANNA, " BODY=9BIT", "value"), mail(ANNA, " SIZE=1 size=1", "value"),
        mail(ANNA, " SIZE=99999999", "size"), mail("a@b@c.example", fault="syntax"),
        mail("a b@c.example", fault="syntax"), mail("a@b..example", fault="syntax"),
        *commands("mail", "MAIL", "MAIL FROM:", "MAIL FROM:a@b.example", "MAIL TO:<a@b.example>", fault="syntax"),
    ]  # fmt: skip


def rcpts() -> list[Command]:
    """RCPT, well and badly."""

    def rcpt(path: str, words: str = "", fault: Fault = "", to: str = "", utf8: bool = False) -> Command:
        return Command("rcpt", f"RCPT TO:<{path}>{words}\r\n".encode(), fault, recipient=to or path, utf8=utf8)

    return [
        rcpt(ANNA), rcpt(BERT), rcpt(BERT, " NOTIFY=NEVER ORCPT=rfc822;x@y.example"),
        rcpt('"be\\rt"@ISP.example', to=BERT), rcpt(f"@a.example,@b.example:{ANNA}", to=ANNA),
        rcpt(UTF8, utf8=True), rcpt(BOB, fault="relay"),
        rcpt("nobody@isp.example", fault="nobody"), rcpt("bob%else.example@isp.example", fault="nobody"),
        rcpt(ANNA, " FOO=1", "parameter"), rcpt(ANNA, " NOTIFY=NEVER,DELAY", "value"), rcpt(ANNA, " ORCPT=x", "value"),
        rcpt("", fault="syntax"), rcpt("anna", fault="syntax"), rcpt("an na@isp.example", fault="syntax"),
        *commands("rcpt", "RCPT", "RCPT TO:anna@isp.example", "RCPT FROM:<a@b.example>", fault="syntax"),
    ]  # fmt: skip


OTHERS = [
    *commands("hello", "EHLO client.example", "ehlo client.example  ", "HELO client.example", "EHLO other.example"),
    *commands("hello", "EHLO", "HELO", "EHLO a b", "EHLO \x01", fault="syntax"),
    *commands("rset", "RSET", "rset \t"), *commands("rset", "RSET now", fault="syntax"),
    *commands("noop", "NOOP", "NOOP RSET", "nOOp"), *commands("help", "HELP", "HELP MAIL"),
    *commands("vrfy", "VRFY anna", f"VRFY {BERT}"), *commands("vrfy", "VRFY", fault="syntax"),
    *commands("expn", "EXPN team"), *commands("expn", "EXPN", fault="syntax"),
    *commands("unknown", "FOO", "", "NOOPS", "SEND FROM:<a@b.example>", ".", "x" * 600, "Subject: x", "*"),
    *commands("unknown", "NOOP \nRSET", "RSET\r", "NOOP \0", "VRFY \u00e9", fault="syntax"),
    *commands("data", "DATA x", fault="syntax"),
]  # fmt: skip
ANY = [*mails(), *rcpts(), *rcpts(), *OTHERS, *commands("data", "DATA")]
FIRST = commands("hello", "EHLO client.example", "HELO x.example") + commands("rset", "RSET")
SENDERS = [*mails()[:6] * 4, *mails()]
RECIPIENTS = [*rcpts()[:6] * 4, *rcpts()]
PLAIN_OK = Command("auth", b"AUTH PLAIN " + coded("", ANNA, "secret") + b"\r\n")
LOGINS = [
    [PLAIN_OK],
    [Command("auth", b"auth plain " + coded("", ANNA, "wrong") + b"\r\n", "password")],
    [Command("auth", b"AUTH NONSENSE\r\n", "mechanism")],
    [Command("auth", b"AUTH\r\n", "syntax")],
    [Command("auth", b"AUTH PLAIN !!!\r\n", "syntax")],
    [Command("auth", b"AUTH PLAIN\r\n", steps=2), Command("response", coded("", ANNA, "secret") + b"\r\n")],
    [Command("auth", b"AUTH PLAIN\r\n", steps=2), Command("response", b"*\r\n", "cancel")],
    [Command("auth", b"AUTH PLAIN\r\n", steps=2), Command("response", b"AAAA\r\n", "syntax")],
    [
        Command("auth", b"AUTH LOGIN\r\n", steps=3),
        Command("response", coded(ANNA) + b"\r\n"),
        Command("response", coded("secret") + b"\r\n"),
    ],
    [
        Command("auth", b"AUTH LOGIN " + coded(ANNA) + b"\r\n", steps=2),
        Command("response", coded("wrong") + b"\r\n", "password"),
    ],
]
PIECES = (
    b"text\r\n", b"\r\n", b".", b"..", b"\r\n.\r\n", b"\r\n..\r\n", b".\r\n", b"QUIT\r\n", b"\xe4\xff", b"\t \x01\x7f",
    b"x" * 300, b"MAIL FROM:<a@b.example>\r\n", b"RSET\r\nDATA\r\n", b"Received: odd\r\n", b"From nobody\r\n",
    b"BDAT 9 LAST\r\n",
)  # fmt: skip
FLAWS = (b"a\nb", b"\n.\n", b"\r\n.\n", b"\n.\r\n", b"\r.\r", b"\r\r\n", b"NUL \0 here", b"y" * 1001)
BODIES = st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join)
FLAW = st.one_of(st.just(b""), st.just(b""), st.sampled_from(FLAWS))
CUTS = st.lists(st.integers(0, 3000), max_size=6)


class Session(RuleBasedStateMachine):
    """One client at a time of one server; a session that has ended is followed by another."""

    def __init__(self) -> None:
        super().__init__()
        self.server = TestServer(CONFIG, store="memory")
        people(self.server)
        self.server.add_user(UTF8)
        self.remote = self.server.remote("else.example", extensions=("PIPELINING", "8BITMIME", "SIZE", "SMTPUTF8"))
        self.expected: list[Mail] = []
        self.numbers = itertools.count()

    @initialize(where=st.sampled_from([("mx", STRANGER), ("mx", RELAYED), ("submission", STRANGER)]))
    def connect(self, where: tuple[str, str]) -> None:
        self.where = where
        self.client: MemoryClient = self.server.connect(*where)
        self.model = Model(relays=where[1] == RELAYED, login=where[0] == "submission", taken=self.expected)
        assert [reply.code for reply in self.client.replies] == [220]

    # What a client does.  There is one rule, as hypothesis would leave out some of several.

    @rule(data=st.data())
    def turn(self, data: st.DataObject) -> None:
        model = self.model
        if model.reading:
            actions = [self.content] * 9 + [self.end]
        elif model.unsure or model.recipients or model.chunks is not None:
            actions = [self.chunks] * 6 + [self.say, self.say, self.begin, self.end]
        elif model.login and not model.user:
            actions = [self.secure] * (0 if model.tls else 4) + [self.log_in] * 4 + [self.say, self.begin, self.end]
        else:
            actions = [self.begin] * 6 + [self.say] * 3 + [self.log_in, self.start_tls, self.end]
        data.draw(st.sampled_from(actions))(data)

    def say(self, data: st.DataObject) -> None:
        """Commands of all kinds."""
        self.send(data.draw(st.lists(st.sampled_from(ANY), min_size=1, max_size=8)), data.draw(CUTS))

    def begin(self, data: st.DataObject) -> None:
        """A transaction, mostly as it should be."""
        first = data.draw(st.sampled_from(FIRST))
        sender = data.draw(st.sampled_from(SENDERS))
        recipients = data.draw(st.lists(st.sampled_from(RECIPIENTS), min_size=1, max_size=4))
        last = commands("data", "DATA") if data.draw(st.booleans()) else []
        self.send([first, sender, *recipients, *last], data.draw(CUTS))

    def content(self, data: st.DataObject) -> None:
        """Content, and what is pipelined behind it."""
        flaw = data.draw(FLAW)
        content = self.numbered(data.draw(BODIES), flaw)
        wire = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"
        behind = data.draw(st.lists(st.sampled_from([*mails(), *OTHERS]), max_size=4))
        self.send([Command("content", wire, "flaw" if flaw else "", content=content), *behind], data.draw(CUTS))

    def chunks(self, data: st.DataObject) -> None:
        """BDAT, several of them in one go; a flaw is in the last one, which may lack the end of its line."""
        body, flaw, last = data.draw(BODIES), data.draw(FLAW), data.draw(st.sampled_from([True, True, True, False]))
        content = self.numbered(body, b"") if self.model.chunks is None else body + b"\r\n"
        content = content.removesuffix(b"\r\n") if last and data.draw(st.booleans()) else content
        places = sorted({*data.draw(st.lists(st.integers(0, len(content)), max_size=4)), 0, len(content)})
        parts = [content[start:end] for start, end in itertools.pairwise(places)] or [b""]
        batch = [self.chunk(part, last and at == len(parts) - 1) for at, part in enumerate(parts)]
        if flaw and last:
            batch[-1] = self.chunk(parts[-1] + b"\r\n" + flaw, True, "flaw")
        self.send(batch, data.draw(CUTS))

    def chunk(self, part: bytes, last: bool, fault: Fault = "") -> Command:
        wire = b"BDAT %d%b\r\n%b" % (len(part), b" LAST" if last else b"", part)
        return Command("bdat", wire, fault, content=part, last=last)

    def log_in(self, data: st.DataObject) -> None:
        """AUTH, well and badly, and what is pipelined behind it."""
        behind = data.draw(st.lists(st.sampled_from(OTHERS), max_size=2))
        self.send([*data.draw(st.sampled_from(LOGINS)), *behind], data.draw(CUTS))

    def secure(self, data: st.DataObject) -> None:
        """TLS as it should be begun."""
        self.send(commands("rset", "RSET") + commands("hello", "EHLO client.example"), [])
        self.start_tls(data)
        if self.model.tls:
            self.send(commands("hello", "EHLO client.example"), [])

    def start_tls(self, data: st.DataObject) -> None:
        """STARTTLS; what is sent behind it in clear ends the session, by a reply or in the handshake."""
        behind = data.draw(st.sampled_from([b"", b"", b"", b"", b"NOOP\r\n", b"\x16\x03\x01", b" x"]))
        if behind == b" x":
            self.send([Command("starttls", b"STARTTLS x\r\n", "syntax")], [])
            return
        if self.model.tls or self.model.busy or not self.model.hello:
            behind = b""  # it is refused, and what is behind it would be commands
        self.send([Command("starttls", b"STARTTLS\r\n" + behind, "close" if behind else "")], [])
        if self.model.tls and not self.client.secure:
            self.client.begin_tls()

    def end(self, data: st.DataObject) -> None:
        """The client goes, with or without a word, or says what no server can go on from."""
        how = data.draw(st.sampled_from(["", "QUIT", "QUIT x", "BDAT", "BDAT x", "BDAT 1 FIRST", "BDAT 3 LAST"]))
        if how == "BDAT 3 LAST" and self.model.recipients:
            how = "QUIT"  # it would be a message, without a number
        if self.model.reading or not how:
            self.client.drop()
            self.connect(self.where)
        elif how == "BDAT 3 LAST":  # out of order: its octets are none the less no commands
            self.send([Command("bdat", b"BDAT 3 LAST\r\na\r\n", content=b"a\r\n", last=True)], [])
        else:
            kind = "quit" if how[0] == "Q" else "bdat"
            fault: Fault = "" if how == "QUIT" else "syntax" if kind == "quit" else "close"
            self.send(commands(kind, how, fault=fault), [])

    # How it is checked

    def numbered(self, body: bytes, flaw: bytes) -> bytes:
        number = next(self.numbers)
        text = HEAD % (number, number) + body + flaw
        return text if text.endswith(b"\r\n") else text + b"\r\n"

    def send(self, batch: list[Command], cuts: list[int]) -> None:
        """Send commands, cut into pieces; see that each gets its reply, and go where they lead."""
        wire = b"".join(command.wire for command in batch)
        places = sorted({cut % (len(wire) + 1) for cut in cuts} | {0, len(wire)})
        replies = [
            reply for start, end in itertools.pairwise(places) for reply in self.client.send_raw(wire[start:end])
        ]
        for at, command in enumerate(batch):
            if self.model.closed:
                assert len(replies) == at, f"the session was over, and said {replies[at:]}"
                break
            if self.model.reading and command.kind != "content":
                assert len(replies) == at, f"{command.wire!r} is content, and was answered by {replies[at:]}"
                self.finish([one.wire for one in batch[at:]])
                break
            allowed = self.model.allowed(command)
            assert len(replies) > at, f"{command.wire!r} brought no reply"
            assert replies[at].code in allowed, f"{command.wire!r} brought {replies[at]}, not {set(allowed)}"
            self.model.learn(command, replies[at].code)
        else:
            assert len(replies) == len(batch), f"{replies[len(batch) :]} came of nothing"
        if self.model.closed:
            assert self.client.closed
            self.connect(self.where)
        assert not self.client.closed

    def finish(self, begun: list[bytes]) -> None:
        """Commands have become content: end it.  Its lines are not numbered, and it is looked at no more."""
        (reply,) = self.client.send_raw(b"\r\n.\r\n")
        self.model.learn(Command("content", b"", content=b"".join(begun)), 550)
        if reply.code == 250:
            self.unnumbered += 1

    unnumbered = 0

    def teardown(self) -> None:
        server = self.server
        try:
            if not self.client.closed:
                self.client.drop()
            server.advance(5)
            known = server.told(Accepted)
            found = Counter((event.sender, event.recipients) for event in known)
            wanted = Counter((mail.sender, mail.recipients) for mail in self.expected)
            assert wanted <= found
            assert found.total() == wanted.total() + self.unnumbered
            boxes = {user: server.maildir(user) for user in (ANNA, BERT, UTF8)}
            delivered = Counter(
                (user, numbered(text.replace(b"\n", b"\r\n"))) for user in boxes for text in boxes[user]
            )
            delivered += Counter((to, numbered(mail.content)) for mail in self.remote.mails for to in mail.recipients)
            sent = Counter((to, numbered(mail.content)) for mail in self.expected for to in mail.recipients)
            for place in sent:
                assert 1 <= delivered[place] <= sent[place], place  # who is named twice may get one copy
            server.assert_balanced()
        finally:
            server.close()


def numbered(content: bytes) -> bytes:
    """A message from its number on, as only trace fields may stand before it."""
    return content[max(0, content.find(MARK)) :]


class ModelTests(SynchronousTestCase):
    """The server and the model agree."""

    def test_random_sessions(self) -> None:
        """RFC 5321 §4.1.4 and §4.3.2"""
        # To shrink a finding takes minutes: that is for HYPOTHESIS_PROFILE=thorough.
        quick = settings().max_examples <= 100
        phases = set(Phase) - {Phase.shrink, Phase.explain} if quick else set(Phase)
        chosen = settings(stateful_step_count=20, max_examples=settings().max_examples // 3, phases=phases)
        run_state_machine_as_test(Session, settings=chosen)  # type: ignore[no-untyped-call]
