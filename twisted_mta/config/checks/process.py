"""The process: workers, folders, accounts, the host name, the log and the operator's port."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from ..addresses import Exposure, exposure, is_loopback
from ..problems import Problem, error, warning
from ..settings import Settings
from ..units import format_duration
from .listeners import admin_socket, sockets

MAX_WORKERS = 64
"""More would only wait for each other: the queue is written by one process at a time."""


MIN_TIMEOUT = 2.0
"""Seconds; a busy reactor may take that long for one turn."""


def check(settings: Settings) -> Iterator[Problem]:
    """All problems of the process itself."""
    yield from _process(settings)
    yield from _account(settings)
    yield from _admin(settings)


def _process(settings: Settings) -> Iterator[Problem]:
    if settings.workers < 0:
        yield error("workers", settings.workers, "is negative", "write 0: one process does everything")
    elif settings.workers > MAX_WORKERS:
        yield error("workers", settings.workers, f"is more than {MAX_WORKERS}", "write the number of processors")
    if settings.worker_timeout < MIN_TIMEOUT:
        wrong = "is so short that workers which are just busy would be killed"
        yield error("worker_timeout", format_duration(settings.worker_timeout), wrong, 'write "30s"')
    if not settings.state_dir:
        yield error("state_dir", "", "is empty", 'name a folder, such as "/var/lib/twisted-mta"')
    elif _there(Path(settings.state_dir)) and not Path(settings.state_dir).is_dir():
        yield error("state_dir", settings.state_dir, "is not a folder", "name a folder; it is made when missing")
    public = any(exposure(address) is not Exposure.LOOPBACK for _, _, address, _ in sockets(settings))
    if public and "." not in (settings.hostname or os.uname().nodename):
        value = settings.hostname or os.uname().nodename
        wrong = "is not a full domain name, which other hosts refuse in EHLO (RFC 5321 §2.3.5)"
        yield warning("hostname", value, wrong, 'write the name that your address resolves to: "mx1.isp.example"')
    for key, name in (("hostname", settings.hostname), ("relay.hostname", settings.relay.hostname)):
        if "_" in name:
            wrong = "has an underscore, which the name of a mail host may not have (RFC 5321 §4.1.2)"
            yield error(key, name, wrong, "write a name of letters, digits, hyphens and dots")
    log, state = Path(settings.log.file).absolute(), Path(settings.state_dir).absolute()
    missing = _there(log.parent) is not None and not log.parent.is_dir()
    if settings.log.file not in ("", "-") and missing and not log.is_relative_to(state):
        yield error("log.file", settings.log.file, "is in a folder that does not exist", "make the folder first")
    elif not settings.log.file:
        yield error("log.file", "", "is empty", 'write "-" for standard output')


def _there(path: Path) -> bool | None:
    """Whether it is there; None where we may not look."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return None
    return True


def _account(settings: Settings) -> Iterator[Problem]:
    if settings.user:
        try:
            pwd.getpwnam(settings.user)
        except KeyError:
            mend = f'make it with "useradd --system {settings.user}", or name one that exists'
            yield error("user", settings.user, "is no user of this machine", mend)
    if settings.group:
        if not settings.user:
            yield error("group", settings.group, "is set without user", "set user too")
        try:
            grp.getgrnam(settings.group)
        except KeyError:
            mend = f'make it with "groupadd --system {settings.group}", or name one that exists'
            yield error("group", settings.group, "is no group of this machine", mend)


def _admin(settings: Settings) -> Iterator[Problem]:
    if not settings.admin.listen or settings.admin.public:
        return
    address, _ = admin_socket(settings)
    if not is_loopback(address):
        wrong = "would show metrics, with customers' names, to other machines without a password"
        mend = 'listen on "127.0.0.1:8025", or write admin.public = true behind a firewall or proxy'
        yield error("admin.listen", settings.admin.listen, wrong, mend)
