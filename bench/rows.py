"""What the tables show of which workload, and the bars that ours is held to."""

from __future__ import annotations

from bench.report import Bar, Row, Run

TWO, ONE = "{:.2f}", "{:,.1f}"
QUARTER = Bar("share", 0.25)

SECTIONS: dict[str, tuple[Row, ...]] = {
    "Accepting": (
        Row("accept, sessions reused", "accept_rate", "4 KiB, sessions reused: messages/s", bar=Bar("times", 5, 3)),
        Row("accept, a session each", "accept_rate", "4 KiB, a session each: messages/s", bar=Bar("times", 4, 3)),
        Row("accept, 64 KiB", "accept_rate", "64 KiB: messages/s", bar=Bar("times", 4)),
        Row("accept, sessions reused", "cpu", "4 KiB, sessions reused: CPU s per 1,000", TWO),
        Row("accept, a session each", "cpu", "4 KiB, a session each: CPU s per 1,000", TWO),
        Row("accept, 64 KiB", "cpu", "64 KiB: CPU s per 1,000", TWO),
    ),
    "End to end": (
        Row("relay, sessions reused", "relay_rate", "4 KiB, sessions reused: messages/s", bar=Bar("times", 3)),
        Row("relay, a session each", "relay_rate", "4 KiB, a session each: messages/s", bar=Bar("times", 3)),
        Row("relay, 64 KiB", "relay_rate", "64 KiB: messages/s", bar=Bar("times", 3)),
        Row("relay, 100 recipients", "relay_rate", "100 recipients: recipients/s", bar=Bar("best", 1.5)),
        Row("relay, sessions reused", "accept_rate", "accepted meanwhile, 4 KiB, sessions reused: messages/s"),
        Row("relay, a session each", "accept_rate", "accepted meanwhile, 4 KiB, a session each: messages/s"),
        Row("relay, 64 KiB", "accept_rate", "accepted meanwhile, 64 KiB: messages/s"),
        Row("relay, 100 recipients", "accept_rate", "accepted meanwhile, 100 recipients: recipients/s"),
        Row("relay, sessions reused", "cpu", "4 KiB, sessions reused: CPU s per 1,000", TWO, QUARTER),
        Row("relay, a session each", "cpu", "4 KiB, a session each: CPU s per 1,000", TWO, QUARTER),
        Row("relay, 64 KiB", "cpu", "64 KiB: CPU s per 1,000", TWO, QUARTER),
        Row("relay, 100 recipients", "cpu", "100 recipients: CPU s per 1,000 messages", TWO, QUARTER),
        Row("relay, sessions reused", "source_cpu", "smtp-source, sessions reused: CPU s per 1,000", TWO),
        Row("relay, a session each", "source_cpu", "smtp-source, a session each: CPU s per 1,000", TWO),
    ),
    "Submission: TLS 1.3, AUTH PLAIN, 4 KiB, relayed": (
        Row("submission, a session each", "session_rate", "a session each: sessions/s"),
        Row("submission, a session each", "relay_rate", "a session each: end to end messages/s"),
        Row("submission, a session each", "p99", "a session each: 99 % had their 250 within ms"),
        Row("submission, sessions reused", "accept_rate", "20 messages a session: messages/s"),
        Row("submission, sessions reused", "relay_rate", "20 messages a session: end to end messages/s"),
        Row("submission, a session each", "cpu", "a session each: CPU s per 1,000, Dovecot's included", TWO),
        Row("submission, sessions reused", "cpu", "20 messages a session: CPU s per 1,000, Dovecot's included", TWO),
        Row("submission, a session each", "source_cpu", "the clients, a session each: CPU s per 1,000", TWO),
        Row("submission, sessions reused", "source_cpu", "the clients, 20 messages a session: CPU s per 1,000", TWO),
    ),
    "Idle sessions": (
        Row("idle sessions", "per_session", "in clear: KiB a session", ONE, Bar("most", 5)),
        Row("idle sessions", "sessions", "in clear: sessions held"),
        Row("idle sessions", "processes", "in clear: processes"),
        Row("idle sessions", "session_rate", "in clear: opened a second"),
        Row("idle sessions, TLS", "per_session", "TLS: KiB a session", ONE, Bar("most", 64)),
        Row("idle sessions, TLS", "sessions", "TLS: sessions held"),
        Row("idle sessions, TLS", "session_rate", "TLS: opened a second"),
        Row("idle sessions, TLS", "cpu", "TLS: CPU s per 1,000 opened", TWO),
        Row("idle sessions", "base", "MiB without sessions", ONE),
    ),
    "Neighbours: fifty good clients beside silent, TLS and slow strangers": (
        Row("neighbours", "sessions", "bad neighbours"),
        Row("neighbours", "held", "of them still there at the end: %", bar=Bar("least", 100)),
        Row("neighbours", "per_session", "KiB for each of them", ONE),
        Row("neighbours", "relay_rate_alone", "the good, alone: end to end messages/s"),
        Row("neighbours", "relay_rate", "the good, beside them: end to end messages/s"),
        Row("neighbours", "relay_rate_fall", "fall, end to end: %", ONE, Bar("most", 10)),
        Row("neighbours", "accept_rate_fall", "fall, accepted: %", ONE, Bar("most", 10)),
    ),
    "Overload: three times as many sessions as it takes, a message each": (
        Row("overload", "usual_rate", "50 clients: accepted messages/s"),
        Row("overload", "offered_rate", "offered sessions/s"),
        Row("overload", "accept_rate", "accepted messages/s"),
        Row("overload", "kept", "accepted, % of what 50 clients hand in", bar=Bar("least", 90)),
        Row("overload", "p99", "99 % of the accepted had their 250 within s", TWO, Bar("most", 5)),
        Row("overload", "refused", "refused with 4xx: % of the sessions", ONE),
        Row("overload", "refusal_p99", "99 % of the refused knew within s", TWO),
        Row("overload", "failed", "reset, or given up by the client: % of the sessions", ONE, Bar("most", 1)),
        Row("overload", "relay_rate", "delivered meanwhile: messages/s"),
        Row("overload", "relayed_share", "delivered meanwhile: % of the accepted", bar=Bar("least", 50)),
        Row("overload", "drained", "then delivered to the last within s", ONE),
        Row("overload", "memory", "MiB at the end"),
    ),
}

_CHIEF = (
    ("relay_rate_fall", "{:.1f} % fall"),
    ("kept", "{:.0f} % kept"),
    ("per_session", "{:.1f} KiB"),
    ("relay_rate", "{:,.0f}/s"),
    ("accept_rate", "{:,.0f}/s"),
)


def chief(run: Run) -> str:
    """The figure of a run that says most."""
    return next((form.format(run.figures[name]) for name, form in _CHIEF if name in run.figures), "-")
