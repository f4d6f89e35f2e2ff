"""The client's state machine against servers that say anything, in any pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.mail.status import Reply
from twisted_mta.wire.client import ClientConnection
from twisted_mta.wire.exchange import Closed, Event, Finished, Ready, SendContent, State, Transfer

_REPLIES = [
    b"220 mx\r\n",
    b"250 ok\r\n",
    b"250-mx\r\n250-PIPELINING\r\n250 STARTTLS\r\n",
    b"250-mx\r\n250 8BITMIME\r\n",
    b"354 go\r\n",
    b"334 what\r\n",
    b"421 4.3.2 bye\r\n",
    b"450 4.2.1 later\r\n",
    b"452 4.5.3 too many recipients\r\n",
    b"550 5.1.1 no\r\n",
    b"250-half",
    b"\r\n",
    b"\n",
    b"rubbish\r\n",
]
_SAID = st.lists(st.sampled_from(_REPLIES), max_size=14)
_LIKELY = st.lists(st.sampled_from(_REPLIES[:5] + _REPLIES[7:10]), max_size=14)
TRANSFER = Transfer("a@b", ("x@c", "y@c", "z@c"), 10)

_TEXT = st.one_of(
    st.text(max_size=20),
    st.lists(
        st.sampled_from(["a", "@", "b.c", "\r\n", "DATA", ">", "<", " ", "\u00fc", "\u0085", "\u2028", '"', "+0A"])
    ).map("".join),
)
_ADDRESS = st.one_of(_TEXT, _TEXT.map("{}@example.org".format))


def drive(pieces: list[bytes], lmtp: bool = False) -> tuple[list[Event], list[bytes], State]:
    """A shell that does all it is told at once, begins a message whenever it may (three at most), and quits then."""
    connection = ClientConnection("mta", tls="may", lmtp=lmtp)
    said: list[bytes] = []
    seen: list[Event] = []
    begun = 0

    def follow(events: list[Event]) -> None:
        nonlocal begun
        said.append(connection.take())
        seen.extend(events)
        for event in events:
            if isinstance(event, Ready) and connection.state is State.READY:
                if begun < 3:
                    begun += 1
                    follow(connection.begin(TRANSFER))
                else:
                    connection.quit()
                    follow([])
            elif isinstance(event, SendContent) and connection.state is State.CONTENT:
                said.append(b".\r\n")
                connection.content_sent()

    for piece in pieces:
        follow(connection.receive(piece))
    follow(connection.connection_lost(Reply(451, "4.4.2", "lost")))
    assert connection.state is State.CLOSED
    finished = [event for event in seen if isinstance(event, Finished)]
    assert len(finished) == begun
    assert all(len(event.outcomes) == 3 for event in finished)
    assert all(outcome.remote for event in finished for outcome in event.outcomes if outcome.reply.code == 250)
    assert sum(isinstance(event, Closed) for event in seen) == 1
    assert isinstance(seen[-1], Closed)
    return seen, [part for part in said if part], connection.state


class FuzzTests(SynchronousTestCase):
    """Whatever comes: no exception, one outcome for each recipient, and one end."""

    @given(_SAID, st.booleans())
    def test_anything(self, pieces: list[bytes], lmtp: bool) -> None:
        drive(pieces, lmtp)

    @given(_LIKELY, st.booleans())
    def test_likely(self, pieces: list[bytes], lmtp: bool) -> None:
        drive([b"220 mx\r\n", _REPLIES[3], *pieces], lmtp)

    @given(st.binary(max_size=200))
    def test_bytes(self, data: bytes) -> None:
        drive([data])

    def test_every_split(self) -> None:
        """A pipelined session cut at every place gives the same events.

        The server's words are given only as far as an honest one could have said them: up to each wait for us.
        """
        turns = [
            b"220-hello\r\n220 mx\r\n",
            b"250-mx\r\n250-SIZE 100\r\n250 PIPELINING\r\n",
            b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n550-5.1.1 no\r\n550 5.1.1 such\r\n452 4.5.3 too many\r\n354 go\r\n",
            b"250-2.0.0 ok\r\n250 2.0.0 queued\r\n",
            b"250 2.1.0 ok\r\n550 5.1.1 no\r\n550 5.1.1 no\r\n550 5.1.1 no\r\n354 go\r\n",
            b"554 5.5.1 no recipients\r\n",
            b"421 4.3.2 bye\r\n",
        ]
        whole = drive(turns)
        self.assertEqual(sum(isinstance(event, Finished) for event in whole[0]), 3)
        for number, turn in enumerate(turns):
            for cut in range(1, len(turn)):
                pieces = [*turns[:number], turn[:cut], turn[cut:], *turns[number + 1 :]]
                events, said, _ = drive(pieces)
                self.assertEqual(events, whole[0])
                self.assertEqual(b"".join(said), b"".join(whole[1]))
        single = [bytes([octet]) for octet in b"".join(turns)]
        self.assertEqual(drive(single)[0], whole[0])


class CommandTests(SynchronousTestCase):
    """Whatever the queue holds, it ends no line and begins no command: a reply for each that is expected, no more."""

    @given(
        _ADDRESS,
        st.lists(st.tuples(_ADDRESS, _TEXT, _TEXT), min_size=1, max_size=3),
        _TEXT,
        st.sampled_from(["", "FULL", "HDRS"]),
        st.booleans(),
        st.sampled_from([b"", b"250-DSN\r\n", b"250-SMTPUTF8\r\n", b"250-DSN\r\n250-SMTPUTF8\r\n"]),
    )
    def test_nothing_breaks_out(
        self, sender: str, recipients: list[tuple[str, str, str]], envid: str, ret: str, utf8: bool, offers: bytes
    ) -> None:
        connection = ClientConnection("mta")
        connection.receive(b"220 mx\r\n")
        connection.take()
        connection.receive(b"250-mx\r\n" + offers + b"250 PIPELINING\r\n")
        addresses = tuple(address for address, _, _ in recipients)
        wishes = tuple((notify, orcpt) for _, notify, orcpt in recipients)
        transfer = Transfer(sender, addresses, 1, False, ret, envid, wishes, utf8)  # type: ignore[arg-type]
        events = connection.begin(transfer)
        lines = connection.take().split(b"\r\n")
        if any(isinstance(event, Finished) for event in events):
            self.assertEqual(lines, [b""])
            return
        self.assertEqual([lines[0][:11], *lines[-2:]], [b"MAIL FROM:<", b"DATA", b""])
        self.assertTrue(1 <= len(lines) - 3 <= len(recipients))
        for line in lines[1:-2]:
            self.assertEqual(line[:9], b"RCPT TO:<")
        for line in lines:
            text = line.decode("ascii" if b"UTF8" not in offers else "utf-8")
            self.assertTrue(text.isprintable(), text)
            self.assertTrue('"' in text or text.count(">") == (text != "" and text != "DATA"), text)
