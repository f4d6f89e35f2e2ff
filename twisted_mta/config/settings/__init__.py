"""The settings, typed, frozen and with their defaults.  One class is one table of the TOML file.

The docstring under each attribute is the operator's documentation: ``docs/configuration.md`` is generated from it.
Durations are seconds, sizes are octets; in the file they are written "5d", "90s", "50MiB".  The names of
:mod:`..kinds` are plain ``str`` and ``int`` to whoever reads a setting; loading takes from them what a text or number
must look like.
"""

from __future__ import annotations

from typing import Literal

import attrs

from ..kinds import DAY, GIB, HOUR, KIB, MIB, MINUTE, Duration, MaybeAddressPort, MaybeDomain, Size
from .delivery import Dns, Local, Queue, Quota, Relay
from .listening import Listener, Role, Sni, Tls, TlsMode
from .login import Checker, Mechanism, OAuth, Signature, Submission
from .reception import Defence, Extensions, Greylist, Smtp

__all__ = [
    "DAY",
    "GIB",
    "HOUR",
    "KIB",
    "MIB",
    "MINUTE",
    "Admin",
    "Checker",
    "Defence",
    "Dns",
    "Duration",
    "Extensions",
    "Greylist",
    "Listener",
    "Local",
    "Log",
    "Mechanism",
    "OAuth",
    "Queue",
    "Quota",
    "Relay",
    "Role",
    "Settings",
    "Signature",
    "Size",
    "Smtp",
    "Sni",
    "Submission",
    "Tls",
    "TlsMode",
]


@attrs.frozen(kw_only=True)
class Admin:
    """The operator's HTTP side: /metrics, /healthz."""

    listen: MaybeAddressPort = "127.0.0.1:8025"
    """"address:port"; empty: none."""
    public: bool = False
    """Whether ``listen`` may be an address that other machines reach.  /metrics asks for no password and tells
    how much mail comes, goes and waits, so a firewall or a proxy must stand before it."""


@attrs.frozen(kw_only=True)
class Log:
    """The event log."""

    format: Literal["text", "json"] = "text"
    """"text" reads like Postfix's log, "json" is one object a line."""
    file: str = "-"
    """Where events go; "-": standard output.  A file is reopened on SIGUSR1, for logrotate."""
    sessions: bool = True
    """Whether connects and disconnects are logged."""


def _listeners() -> dict[str, Listener]:
    return {
        "mx": Listener(port=2525, role="mx", tls="starttls"),
        "submission": Listener(port=2587, role="submission", tls="starttls"),
        "submissions": Listener(port=2465, role="submission", tls="implicit"),
    }


@attrs.frozen(kw_only=True)
class Settings:
    """Everything.  With no file at all: loopback on 2525, 2587, 2465 and 8025, state under ``./var``."""

    hostname: MaybeDomain = ""
    """Our name in greetings, EHLO, Received and reports (RFC 5321 §2.3.5); empty: the machine's."""
    state_dir: str = "./var"
    """Where the queue, the directory, mailboxes and made-up certificates live."""
    workers: int = 0
    """Worker processes that serve beside a parent that watches them; 0: one process does everything."""
    worker_timeout: Duration = Duration(30)
    """How long a worker may give no sign of life before it is killed and replaced; to start it has four
    times as long, and 30s at least."""
    user: str = ""
    """Whom to become once the ports are bound, when started by root; empty: stay."""
    group: str = ""
    """The group likewise; empty: the user's."""
    listen: dict[str, Listener] = attrs.Factory(_listeners)
    tls: Tls = attrs.Factory(Tls)
    sni: dict[str, Sni] = attrs.Factory(dict)
    smtp: Smtp = attrs.Factory(Smtp)
    defence: Defence = attrs.Factory(Defence)
    greylist: Greylist = attrs.Factory(Greylist)
    submission: Submission = attrs.Factory(Submission)
    checker: dict[str, Checker] = attrs.Factory(dict)
    oauth: dict[str, OAuth] = attrs.Factory(dict)
    extensions: Extensions = attrs.Factory(Extensions)
    relay: Relay = attrs.Factory(Relay)
    local: Local = attrs.Factory(Local)
    queue: Queue = attrs.Factory(Queue)
    quota: dict[str, Quota] = attrs.Factory(lambda: {"default": Quota()})
    """``[quota.default]`` holds for every customer; a customer's own values in the directory override it."""
    dns: Dns = attrs.Factory(Dns)
    admin: Admin = attrs.Factory(Admin)
    log: Log = attrs.Factory(Log)
