"""What a command is told where it is out of order: tables.  Sans-I/O.

Source: RFC 5321 §4.1.4, RFC 3207 §4, RFC 4954 §4, RFC 3030 §2, RFC 2033 §4.
"""

from __future__ import annotations

from typing import Literal, get_args

from ..mail.status import Reply

State = Literal[
    "connect",
    "refused",
    "fresh",
    "greeted",
    "mail",
    "rcpt",
    "content",
    "chunk",
    "chunks",
    "spoilt",
    "auth",
    "tls",
    "closed",
]
"""``refused``: the greeting was a refusal, and nothing but QUIT is served (RFC 5321 §3.1).  ``chunk``: octets of a BDAT
are awaited; ``chunks``: the next BDAT is; ``spoilt``: one was refused, and nothing but RSET, or the last one, makes way
for another message."""
TlsState = Literal["none", "offered", "up"]
AuthState = Literal["none", "needs-tls", "offered", "done"]

_HELLO_FIRST = Reply(503, "5.5.1", "Say EHLO or HELO first")
_IN_TRANSACTION = Reply(503, "5.5.1", "Not while a message is under way: send it, or RSET")
_NO_MAIL = Reply(503, "5.5.1", "Send MAIL first")
_NO_RECIPIENTS = Reply(554, "5.5.1", "There are no valid recipients")
_IN_CHUNKS = Reply(503, "5.5.1", "The message has begun with BDAT, and goes on with BDAT")
_SPOILT = Reply(503, "5.5.1", "A chunk of this message was refused: send RSET")

_ANYTIME: dict[State, Reply] = {"refused": Reply(503, "5.5.1", "The greeting refused you: say QUIT")}
_LMTP_WORDS: dict[Reply, Reply] = {
    _HELLO_FIRST: Reply(503, "5.5.1", "Say LHLO first"),
    _NO_RECIPIENTS: Reply(503, "5.5.1", "There are no valid recipients"),
}
_BUSY: dict[State, Reply] = {
    **_ANYTIME,
    "mail": _IN_TRANSACTION,
    "rcpt": _IN_TRANSACTION,
    "chunks": _IN_TRANSACTION,
    "spoilt": _SPOILT,
}


def _always(reply: Reply) -> dict[State, Reply]:
    return dict.fromkeys(get_args(State), reply)


ORDER: dict[str, dict[State, Reply]] = {
    "HELO": _ANYTIME,
    "EHLO": _ANYTIME,
    "LHLO": _always(Reply(500, "5.5.1", "This is SMTP: say EHLO")),
    "MAIL": {"fresh": _HELLO_FIRST, **_BUSY},
    "RCPT": {**_ANYTIME, "fresh": _HELLO_FIRST, "greeted": _NO_MAIL, "chunks": _IN_CHUNKS, "spoilt": _SPOILT},
    "DATA": {
        **_ANYTIME,
        "fresh": _HELLO_FIRST,
        "greeted": _NO_MAIL,
        "mail": _NO_RECIPIENTS,
        "chunks": _IN_CHUNKS,
        "spoilt": _SPOILT,
    },
    "BDAT": {**_ANYTIME, "fresh": _HELLO_FIRST, "greeted": _NO_MAIL, "mail": _NO_RECIPIENTS, "spoilt": _SPOILT},
    "RSET": _ANYTIME,
    "NOOP": _ANYTIME,
    "QUIT": {},
    "VRFY": _ANYTIME,
    "EXPN": _ANYTIME,
    "ETRN": {"fresh": _HELLO_FIRST, **_BUSY},
    "HELP": _ANYTIME,
    "STARTTLS": {"fresh": _HELLO_FIRST, **_BUSY},
    "AUTH": {"fresh": _HELLO_FIRST, **_BUSY},
    "XCLIENT": _BUSY,
}
"""What each command is told in a state where it is out of order.  A greeting of the other protocol always is (RFC 2033
§4.1): whoever has taken one for the other hears it before mail is lost."""

LMTP_ORDER: dict[str, dict[State, Reply]] = {
    **{
        verb: {state: _LMTP_WORDS.get(reply, reply) for state, reply in refusals.items()}
        for verb, refusals in ORDER.items()
    },
    "HELO": _always(Reply(500, "5.5.1", "This is LMTP: say LHLO")),
    "EHLO": _always(Reply(500, "5.5.1", "This is LMTP: say LHLO")),
    "LHLO": _ANYTIME,
}
"""The same in LMTP, where a message that nobody is to get is refused with 503 (RFC 2033 §4.2, §4.3)."""

TLS_REFUSALS: dict[str, Reply] = {
    "none": Reply(502, "5.5.1", "STARTTLS is not offered here"),
    "up": Reply(503, "5.5.1", "TLS is up already"),
}
NO_XCLIENT = Reply(550, "5.7.0", "You are not one of those who may speak for others")
AUTH_REFUSALS: dict[str, Reply] = {
    "none": Reply(503, "5.5.1", "AUTH is not offered here"),
    "needs-tls": Reply(538, "5.7.11", "Send STARTTLS first: passwords are not taken in clear"),
    "done": Reply(503, "5.5.1", "You have authenticated already"),
}
