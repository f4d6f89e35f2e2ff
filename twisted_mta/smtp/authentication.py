"""AUTH: from the SASL exchange through ``twisted.cred`` to an account (RFC 4954)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.task import deferLater
from twisted.logger import Logger

from ..directory.auth import Certified, Proven, certified_users
from ..directory.claims import TokenRefused
from ..directory.interfaces import IMailAccount
from ..directory.oauth import BearerToken
from ..mail.events import Authenticated, AuthFailed
from ..mail.status import MailError, Reply, printable
from ..wire import commands as c
from ..wire import oauth, sasl, scram
from ..wire.order import AuthState
from ..wire.server import constant
from .peers import is_loopback
from .tls import channel_binding

if TYPE_CHECKING:
    from ..policy.interfaces import Peer
    from .server import MtaServer

Claim = sasl.Credentials | sasl.Proven | sasl.Claimed
"""What an exchange comes to that the portal is asked about."""

AUTHENTICATED = constant(235, "2.7.0", "Authenticated")
DENIED = constant(535, "5.7.8", sasl.DENIED.text)
DENIED_SCRAM = constant(535, "5.7.8", f"{sasl.DENIED.text}, or this account has to log in by PLAIN once")
DENIED_CERTIFICATE = constant(535, "5.7.8", "The certificate that you have shown is not this user's")
DENIED_TOKEN = constant(535, "5.7.8", "The token is not accepted, or not for this user: get a new one")
TOKEN_TOO_WEAK = constant(535, "5.7.8", "The token does not allow to send mail here: get one with the right scope")
NO_TOKEN = constant(535, "5.7.8", "A token is needed")
UNAVAILABLE = constant(454, "4.7.0", "Passwords can't be checked just now; try again later")

_log = Logger()


def standing(server: MtaServer) -> AuthState:
    """AUTH is for submission, and passwords travel under TLS, or within the machine (RFC 4954 §4, RFC 8314)."""
    if server.factory.portal is None or server.factory.listener.role != "submission":
        return "none"
    return "offered" if server.peer.secure or is_loopback(server.peer.address) else "needs-tls"


def offered(server: MtaServer) -> list[str]:
    """The mechanisms that a client may use on this channel, as the settings list them."""
    factory = server.factory
    usable = {"PLAIN", "LOGIN"}
    if factory.keys is not None:
        usable |= {scram.NAME, scram.PLUS} if server.wire.tls == "up" else {scram.NAME}
    if factory.tokens:
        usable |= {oauth.OAUTHBEARER, oauth.XOAUTH2}
    if server.peer.certified:
        usable.add("EXTERNAL")
    return [name for name in factory.settings.submission.mechanisms if name in usable]


async def identify(server: MtaServer) -> None:
    """See whether the certificate that the client has shown may be a user's."""
    peer, shown = server.peer, server.peer.certificate
    if shown is None or server.wire.auth != "offered":
        return
    try:
        found = await certified_users(server.factory.directory, shown.fingerprint, shown.addresses)
        peer.certified = bool(found)
    except MailError:
        peer.certified = True  # AUTH will say that it can't be told just now


def begin(server: MtaServer, command: c.Auth) -> None:
    """AUTH."""
    names = offered(server)
    if command.mechanism not in names:
        if command.mechanism in ("PLAIN", "LOGIN") and names:  # known, and weaker than our policy (RFC 4954 §6)
            server.reply(Reply(534, "5.7.9", f"This mechanism is too weak here: use {' or '.join(names)}"))
            return
        server.reply(Reply(504, "5.5.4", f"This mechanism is not offered: use {' or '.join(names) or 'none'}"))
        return
    if command.mechanism in (oauth.OAUTHBEARER, oauth.XOAUTH2):
        server.exchange = oauth.OAuth(command.mechanism)
    elif command.mechanism in (scram.NAME, scram.PLUS):
        server.exchange = _scram(server, command.mechanism, names)
    else:
        server.exchange = sasl.MECHANISMS[command.mechanism]()
    step(server, command.initial, initial=True)


def _scram(server: MtaServer, mechanism: str, names: list[str]) -> scram.Scram:
    def binding(kind: str) -> bytes:
        return channel_binding(server.transport.getHandle(), kind) if server.peer.secure else b""

    return scram.Scram(mechanism == scram.PLUS, scram.PLUS in names, binding)


def respond(server: MtaServer, command: c.AuthResponse) -> None:
    """A response to a challenge."""
    step(server, command.line)


def step(server: MtaServer, line: bytes | None, initial: bool = False) -> None:
    """Give a response to the exchange, and go on with what it says."""
    assert server.exchange is not None
    try:
        outcome = server.exchange.step(None if line is None else sasl.decode(line, initial))
    except sasl.Denied as error:
        server.exchange = None
        server.ask(_denied(server, error.mechanism, error.username, DENIED_SCRAM))
        return
    except sasl.SaslError as error:
        server.exchange = None
        server.reply(error.reply)
        return
    if isinstance(outcome, bytes):
        server.reply(sasl.challenge(outcome))
    elif isinstance(outcome, sasl.Wanted):
        server.ask(_found(server, outcome))
    elif isinstance(outcome, oauth.Bearer):
        server.ask(_bearer(server, outcome))
    else:
        assert isinstance(outcome, Claim)
        server.exchange = None
        server.ask(_login(server, outcome))


async def _found(server: MtaServer, wanted: sasl.Wanted) -> Reply:
    """The challenge for a user whose keys have to be found."""
    exchange, factory = server.exchange, server.factory
    assert isinstance(exchange, scram.Scram)
    assert factory.keys is not None
    try:
        keys = await factory.keys.find(wanted.username)
    except Exception as error:
        server.exchange = None
        return _not_checked(server, wanted, error)
    return sasl.challenge(exchange.found(keys))


async def _bearer(server: MtaServer, bearer: oauth.Bearer) -> Reply:
    """A token.  A client whose token is refused is told why first, and answers that for its reply (RFC 7628 §3.2.3)."""
    exchange, tokens = server.exchange, server.factory.tokens
    assert isinstance(exchange, oauth.OAuth)
    assert tokens is not None
    status: oauth.Status = "invalid_token"
    if bearer.token:
        try:
            reply = await _admitted(server, bearer)
        except UnauthorizedLogin as error:
            reply = _reason(error, bearer)
            if isinstance(error, TokenRefused):
                status = error.status
            reply = await _denied(server, bearer.mechanism, bearer.username, reply)
        if reply.code < 500 or server.wire.state == "closed":  # 421 and 454 want no answer of the client's
            server.exchange = None
            return reply
    else:
        reply = NO_TOKEN  # nobody was guessing: the client asks where to get one (RFC 7628 §4.3)
    return sasl.challenge(exchange.refused(status, reply, tokens.scope, tokens.configuration))


async def _login(server: MtaServer, credentials: Claim) -> Reply:
    try:
        return await _admitted(server, credentials)
    except UnauthorizedLogin as error:
        return await _denied(server, credentials.mechanism, credentials.username, _reason(error, credentials))


def _reason(error: UnauthorizedLogin, credentials: Claim | oauth.Bearer) -> Reply:
    if isinstance(error, MailError):
        return error.reply
    if isinstance(error, TokenRefused):
        return TOKEN_TOO_WEAK if error.status == "insufficient_scope" else DENIED_TOKEN
    return DENIED_CERTIFICATE if isinstance(credentials, sasl.Claimed) else DENIED


async def _admitted(server: MtaServer, credentials: Claim | oauth.Bearer) -> Reply:
    """The reply to a good login, and to one that can't be checked.  Raises UnauthorizedLogin for a bad one."""
    peer, factory = server.peer, server.factory
    portal = factory.portal
    assert portal is not None
    try:
        _, account, leave = await portal.login(_for_cred(credentials, peer), peer, IMailAccount)
    except UnauthorizedLogin:
        raise
    except Exception as error:
        return _not_checked(server, credentials, error)
    username = credentials.username or account.user.address
    await _delay(server, username)
    factory.throttle.succeeded(peer, username)
    if server.wire.state == "closed":
        leave()
        return AUTHENTICATED
    server.leave = leave
    peer.account = account
    peer.mechanism = credentials.mechanism
    tell(server)
    return AUTHENTICATED


def tell(server: MtaServer) -> None:
    """The session is a user's."""
    peer, factory = server.peer, server.factory
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


def _for_cred(credentials: Claim | oauth.Bearer, peer: Peer) -> Any:
    if isinstance(credentials, oauth.Bearer):
        return BearerToken(credentials.username, credentials.token)
    username = credentials.username.encode()
    if isinstance(credentials, sasl.Proven):
        return Proven(username)
    if isinstance(credentials, sasl.Claimed):
        shown = peer.certificate
        assert shown is not None
        return Certified(username, shown.fingerprint, shown.addresses)
    return UsernamePassword(username, credentials.password)


async def _denied(server: MtaServer, mechanism: str, username: str, reply: Reply) -> Reply:
    """A guess: it is counted, told, and answered late."""
    server.peer.auth_failures += 1
    reply = server.factory.throttle.failed(server.peer, username) or reply
    _tell_failed(server, mechanism, username, reply, temporary=False)
    await _delay(server, username)
    return reply


def _not_checked(server: MtaServer, attempt: Claim | oauth.Bearer | sasl.Wanted, error: Exception) -> Reply:
    if not isinstance(error, MailError):
        _log.failure("The login of {user} could not be checked", user=printable(attempt.username))
    # RFC 4954 §6: 454 says that it was not the credentials, whatever went wrong with us
    reply = error.reply if isinstance(error, MailError) and error.reply.code == 454 else UNAVAILABLE
    _tell_failed(server, attempt.mechanism, attempt.username, reply, temporary=True)
    return reply


async def _delay(server: MtaServer, username: str) -> None:
    seconds = server.factory.throttle.delay(server.peer, username)
    if seconds > 0:
        await deferLater(server.factory.clock, seconds)


def _tell_failed(server: MtaServer, mechanism: str, username: str, reply: Reply, temporary: bool) -> None:
    peer, factory = server.peer, server.factory
    factory.events(
        AuthFailed(
            time=factory.clock.seconds(),
            session=peer.session,
            client=peer.address,
            listener=peer.listener,
            user=printable(username),
            mechanism=mechanism,
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
