"""AUTH: from the SASL exchange through ``twisted.cred`` to an account (RFC 4954)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.task import deferLater
from twisted.logger import Logger

from ..directory.interfaces import IMailAccount
from ..mail.events import Authenticated, AuthFailed
from ..mail.status import MailError, Reply, printable
from ..wire import commands as c
from ..wire import sasl
from ..wire.server import constant

if TYPE_CHECKING:
    from .server import MtaServer

AUTHENTICATED = constant(235, "2.7.0", "Authenticated")
DENIED = constant(535, "5.7.8", "The user name or the password is wrong")
UNAVAILABLE = constant(454, "4.7.0", "Passwords can't be checked just now; try again later")
NO_MECHANISM = constant(504, "5.5.4", f"This mechanism is not offered: use {' or '.join(sasl.MECHANISMS)}")

_log = Logger()


def begin(server: MtaServer, command: c.Auth) -> None:
    """AUTH."""
    make = sasl.MECHANISMS.get(command.mechanism)
    if make is None:
        server.reply(NO_MECHANISM)
        return
    server.exchange = make()
    step(server, command.initial, initial=True)


def respond(server: MtaServer, command: c.AuthResponse) -> None:
    """A response to a challenge."""
    step(server, command.line)


def step(server: MtaServer, line: bytes | None, initial: bool = False) -> None:
    """Give a response to the exchange, and go on with what it says."""
    assert server.exchange is not None
    try:
        outcome = server.exchange.step(None if line is None else sasl.decode(line, initial))
    except sasl.SaslError as error:
        server.exchange = None
        server.reply(error.reply)
        return
    if isinstance(outcome, bytes):
        server.reply(sasl.challenge(outcome))
    else:
        server.exchange = None
        server.ask(_login(server, outcome))


async def _login(server: MtaServer, credentials: sasl.Credentials) -> Reply:
    peer, factory = server.peer, server.factory
    throttle, portal = factory.throttle, factory.portal
    assert portal is not None
    user = printable(credentials.username)
    try:
        offered = UsernamePassword(credentials.username.encode(), credentials.password)
        _, account, leave = await portal.login(offered, peer, IMailAccount)
    except UnauthorizedLogin as error:
        peer.auth_failures += 1
        reply = error.reply if isinstance(error, MailError) else DENIED
        reply = throttle.failed(peer, credentials.username) or reply
        _tell_failed(server, credentials, user, reply, temporary=False)
        await _delay(server, credentials)
        return reply
    except Exception as error:
        if not isinstance(error, MailError):
            _log.failure("The password of {user} could not be checked", user=user)
        # RFC 4954 §6: 454 says that it was not the credentials, whatever went wrong with us
        reply = error.reply if isinstance(error, MailError) and error.temporary else UNAVAILABLE
        _tell_failed(server, credentials, user, reply, temporary=True)
        return reply
    await _delay(server, credentials)
    throttle.succeeded(peer, credentials.username)
    if server.wire.state == "closed":
        leave()
        return AUTHENTICATED
    server.leave = leave
    peer.account = account
    peer.mechanism = credentials.mechanism
    factory.events(
        Authenticated(
            time=factory.clock.seconds(),
            session=peer.session,
            client=peer.address,
            listener=peer.listener,
            user=peer.user,
            customer=peer.customer,
            mechanism=peer.mechanism,
        )
    )
    return AUTHENTICATED


async def _delay(server: MtaServer, credentials: sasl.Credentials) -> None:
    seconds = server.factory.throttle.delay(server.peer, credentials.username)
    if seconds > 0:
        await deferLater(server.factory.clock, seconds)


def _tell_failed(server: MtaServer, credentials: sasl.Credentials, user: str, reply: Reply, temporary: bool) -> None:
    peer, factory = server.peer, server.factory
    factory.events(
        AuthFailed(
            time=factory.clock.seconds(),
            session=peer.session,
            client=peer.address,
            listener=peer.listener,
            user=user,
            mechanism=credentials.mechanism,
            reply=str(reply),
            temporary=temporary,
        )
    )


def logout(server: MtaServer) -> None:
    """The session is over, or begins anew: give the account back."""
    server.exchange = None
    server.peer.account = None
    server.peer.mechanism = ""
    leave, server.leave = server.leave, None
    if leave is not None:
        leave()
