"""Peers, transactions and accounts for the stages to judge."""

from __future__ import annotations

from collections.abc import Coroutine
from itertools import count
from typing import Any

from twisted.internet.task import Clock

from tests.directory.test_contract import now
from twisted_mta.config.settings import Local
from twisted_mta.directory.auth import MailAccount
from twisted_mta.directory.memory import MemoryDirectory
from twisted_mta.mail.status import MailError, Reply
from twisted_mta.policy.interfaces import Peer, Transaction

_sessions = count()


def peer(address: str = "192.0.2.1", role: str = "mx", **facts: Any) -> Peer:
    """A new session."""
    return Peer(session=f"s{next(_sessions)}", address=address, port=1025, listener=role, role=role, **facts)


def transaction(sender: str = "anna@isp.example", **facts: Any) -> Transaction:
    """A new transaction."""
    return Transaction(sender=sender, started=0.0, **facts)


def answer_of(answer: Coroutine[Any, Any, Reply | None]) -> Reply | None:
    """What a hook answers, or the reply of what it raises."""
    try:
        return now(answer)
    except MailError as error:
        return error.reply


def code(answer: Coroutine[Any, Any, Reply | None]) -> str:
    """ "250" for None, else the codes of the reply that refuses."""
    reply = answer_of(answer)
    return f"{reply.code} {reply.enhanced}" if reply is not None else "250"


def directory() -> MemoryDirectory:
    """A directory with two customers."""
    made = MemoryDirectory(Local(), Clock())
    made.add_customer("acme")
    made.add_domain("isp.example", "acme")
    made.add_user("anna@isp.example", "secret")
    made.add_user("bert@isp.example", "secret")
    made.add_alias("sales@isp.example", ("anna@isp.example",))
    made.add_customer("bolt")
    made.add_domain("bolt.example", "bolt")
    made.add_user("carl@bolt.example", "secret")
    return made


def account(of: MemoryDirectory, address: str = "anna@isp.example") -> MailAccount:
    """A user's avatar."""
    user = now(of.user(address))
    assert user is not None
    customer = now(of.customer(user.customer))
    assert customer is not None
    return MailAccount(user, customer)
