"""The sending side: mixed traffic at a steady rate, with a ledger of what was promised."""

from __future__ import annotations

import random
import re
import threading
import time

import attrs

from tests.peers.mta import Mta
from tests.peers.rawsmtp import RawSmtp
from tests.survival.far import digest, domain
from tests.survival.ledger import Sent

ANN, BEN, CARA = "ann@demo.example", "ben@demo.example", "cara@tight.example"
USERS = (ANN, BEN, CARA)
"""Cara's customer has a small quota."""

SMALL = 16 << 10
"""Octets up to which a message's time to its 250 is that of a commit."""

_ID = re.compile(r"queued as (\S+)")


@attrs.frozen
class Mix:
    """What is sent: shares of hosts, sizes, recipients.  ``rate``: messages a second, over ``senders`` threads."""

    rate: float = 8.0
    senders: int = 4
    largest: int = 3 << 20
    local: float = 0.25
    many: float = 0.06
    most: int = 40
    hosts: dict[str, float] = attrs.field(
        factory=lambda: {
            "quick1": 30.0,
            "quick2": 25.0,
            "tls": 10.0,
            "slow": 8.0,
            "defers": 8.0,
            "refuses": 5.0,
            "hangs": 1.5,
            "gone": 1.0,
        }
    )


class Senders:
    """Threads that send until ``stop``.  ``sent`` is the ledger by tags; ``commits`` are (when, seconds to the 250)."""

    def __init__(self, mta: Mta, mix: Mix, seed: str) -> None:
        self.sent: dict[str, Sent] = {}
        self.commits: list[tuple[float, float]] = []
        self.refusals: dict[str, int] = {}
        self._mta, self._mix, self._seed = mta, mix, seed
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._next = time.monotonic()
        self._number = 0
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(mix.senders)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """No more; returns when all is said."""
        self._over.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a sender hangs"

    def promised(self) -> int:
        """How many messages have had their 250."""
        return sum(it.state == "promised" for it in list(self.sent.values()))

    def _turn(self) -> int:
        """Wait for the next message's time, which all threads share; its number."""
        with self._lock:
            now = time.monotonic()
            at = self._next = max(self._next + 1 / self._mix.rate, now - 1.0)
            self._number += 1
            number = self._number
        self._over.wait(at - now)
        return number

    def _run(self, thread: int) -> None:
        chance = random.Random(f"{self._seed}/{thread}")
        while not self._over.is_set():
            try:
                with self._session(chance) as (session, user):
                    for _ in range(chance.choice([1, 1, 3, 10])):
                        number = self._turn()
                        if self._over.is_set():
                            return
                        self._message(session, user, f"t{number}", chance)
            except (OSError, ValueError):
                self._over.wait(0.1)

    def _session(self, chance: random.Random) -> _Session:
        kind = chance.choice(["plain", "plain", "plain", "submission", "submissions"])
        return _Session(self._mta, kind, chance.choice([ANN, ANN, ANN, BEN, BEN, CARA]))

    def _recipients(self, tag: str, chance: random.Random) -> tuple[str, ...]:
        mix = self._mix
        count = chance.randrange(2, mix.most + 1) if chance.random() < mix.many else 1
        found = []
        for number in range(count):
            if chance.random() < mix.local:
                found.append(chance.choice([ANN, BEN]))
            else:
                host = chance.choices(list(mix.hosts), list(mix.hosts.values()))[0]
                good = "good" if host == "refuses" and chance.random() < 0.3 else ""
                found.append(f"{good}{tag}.{number}@{domain(host)}")
        return tuple(dict.fromkeys(found))

    def _message(self, session: RawSmtp, user: str, tag: str, chance: random.Random) -> None:
        recipients = self._recipients(tag, chance)
        sender = user or f"{tag}@{domain('back')}"
        size = int(500 * (self._mix.largest / 500) ** (chance.random() ** 4))
        line = f"{tag} {chance.randbytes(30).hex()}\r\n.{chance.randbytes(4).hex()}\r\n".encode()
        body = line * (size // len(line) + 1)
        sent = Sent(tag=tag, sender=sender, recipients=recipients, time=time.time())
        with self._lock:
            self.sent[tag] = sent
        commands = [f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{it}>" for it in recipients), "DATA"]
        session.send("".join(f"{command}\r\n" for command in commands).encode())
        answers = [session.answer() for _ in commands]
        if answers[-1].code != 354:
            refused = next(it for it in answers if it.refused)
            self._close(sent, "refused", refused.code, refused.text)
            session.cmd("RSET")
            return
        # Recipients that were refused one by one, by a quota, are none of the message's.
        taken = [it for it, answer in zip(recipients, answers[1:-1], strict=True) if not answer.refused]
        sent.recipients = tuple(taken)
        head = f"From: {sender}\r\nSubject: {tag}\r\nX-Tag: {tag}\r\nX-Digest: {digest(body)}\r\n\r\n".encode()
        session.send(head + body.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        began = time.monotonic()
        answer = session.answer()
        if answer.code != 250:
            self._close(sent, "refused", answer.code, answer.text)
            return
        found = _ID.search(answer.text)
        sent.id = found[1] if found else ""
        sent.state = "promised"
        if size <= SMALL:
            self.commits.append((time.time(), time.monotonic() - began))

    def _close(self, sent: Sent, state: str, code: int, words: str) -> None:
        sent.state = state
        with self._lock:
            key = f"{code} {' '.join(words.split()[:8])}"
            self.refusals[key] = self.refusals.get(key, 0) + 1


class _Session:
    """A session of one kind, with who logged in ("": nobody).  Raises OSError and ValueError where it is refused."""

    def __init__(self, mta: Mta, kind: str, user: str) -> None:
        self._mta, self._kind, self._user = mta, kind, "" if kind == "plain" else user

    def __enter__(self) -> tuple[RawSmtp, str]:
        port = {"plain": self._mta.mx, "submission": self._mta.submission, "submissions": self._mta.submissions}
        self._session = session = RawSmtp(port[self._kind], timeout=30, implicit_tls=self._kind == "submissions")
        try:
            if session.greeting.code != 220 or session.ehlo().code != 250:
                raise ConnectionError("no greeting")
            if self._kind == "submission":
                session.starttls()
            if self._user and (answer := session.auth_plain(self._user, self._mta.password)).code != 235:
                raise ConnectionError(f"no login: {answer}")
        except BaseException:
            session.socket.close()
            raise
        return session, self._user

    def __exit__(self, *error: object) -> None:
        try:
            if error[0] is None:
                self._session.cmd("QUIT")
        finally:
            self._session.socket.close()
