"""Becoming nobody in particular once the ports are bound.

Order matters: groups while we are still root, then the group, then the user; and at last the proof that there is no
way back (setuid(2), initgroups(3); POS36-C and POS37-C of the CERT C rules).
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
from pathlib import Path

import attrs
from twisted.logger import Logger

log = Logger()

UMASK = 0o077
"""Mail is private: files that we make are for our user alone."""


class PrivilegeError(Exception):
    """The user or group of the settings could not be taken on; the service must not go on as root."""


@attrs.frozen(kw_only=True)
class Account:
    """A user to become, resolved."""

    name: str
    uid: int
    gid: int
    home: str


def find_account(user: str, group: str = "") -> Account | None:
    """The account of the settings ``user`` and ``group``; None when ``user`` is "".

    Raises :class:`PrivilegeError` when the machine does not know one of them.
    """
    if not user:
        return None
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise PrivilegeError(f'user: "{user}" is no user of this machine') from None
    try:
        gid = grp.getgrnam(group).gr_gid if group else entry.pw_gid
    except KeyError:
        raise PrivilegeError(f'group: "{group}" is no group of this machine') from None
    return Account(name=user, uid=entry.pw_uid, gid=gid, home=entry.pw_dir)


def own_account(group: str) -> Account:
    """Ourselves with another group, for what we make to belong to.  Raises :class:`PrivilegeError`."""
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        raise PrivilegeError(f'group: "{group}" is no group of this machine') from None
    return Account(name=_name(), uid=os.geteuid(), gid=gid, home="")


def drop(account: Account | None) -> bool:
    """Becomes ``account`` for good, and sets the umask; says whether the user changed.

    Started by somebody else than root it changes nothing: systemd's ``User=`` or twistd's ``--uid`` were first.  Call
    it once the ports are bound and what root alone can read is read, before any thread starts.  Raises
    :class:`PrivilegeError` when it does not succeed wholly.
    """
    os.umask(UMASK)
    if account is None or os.geteuid() == account.uid:
        return False
    if os.geteuid() != 0:
        log.warn("user = {user!r} has no effect: not started by root", user=account.name)
        return False
    if account.uid == 0:
        return False
    try:
        os.initgroups(account.name, account.gid)
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    except OSError as error:
        raise PrivilegeError(f"user: becoming {account.name} failed: {error.strerror}") from error
    _verify(account)
    os.environ.update(HOME=account.home, USER=account.name, LOGNAME=account.name)
    return True


def _verify(account: Account) -> None:
    if os.getresuid() != (account.uid,) * 3 or os.getresgid() != (account.gid,) * 3:
        raise PrivilegeError(f"user: still {os.getresuid()}, {os.getresgid()} after becoming {account.name}")
    try:
        os.setuid(0)
    except PermissionError:
        return
    raise PrivilegeError(f"user: {account.name} can become root again")


def make_folder(path: str, account: Account | None = None, mode: int = 0o700) -> None:
    """Makes ``path`` and what is missing above it; what is made belongs to ``account`` when we are root.

    A folder that is there keeps its owner and mode.  Raises OSError.
    """
    folder = Path(path)
    if folder.is_dir():
        return
    make_folder(str(folder.absolute().parent), account, 0o755)
    folder.mkdir(mode=mode, exist_ok=True)
    folder.chmod(mode)
    give(folder, account)


def make_state(path: str, account: Account | None = None) -> None:
    """Makes the state folder where there is none.  Raises :class:`PrivilegeError`."""
    try:
        make_folder(path, account)
    except OSError as error:
        raise PrivilegeError(
            f'state_dir: "{path}" cannot be made: {error.strerror}; make it for the service\'s user, or name another'
        ) from error


def make_log(path: str, account: Account | None = None, mode: int = 0o640) -> None:
    """Makes the event log's file where there is none, for ``account`` to write into when it is no longer root.

    Raises :class:`PrivilegeError`.
    """
    file = Path(path)
    if file.exists():
        return
    try:
        make_folder(str(file.absolute().parent), account, 0o750)
        os.close(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
        give(file, account)
    except OSError as error:
        raise PrivilegeError(f'log.file: "{path}" cannot be made: {error.strerror}') from error


def check_log(path: str) -> None:
    """Whether whom we have become can write to the event log's file.  Raises :class:`PrivilegeError` when not."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        if error.errno == errno.ENXIO:  # a named pipe that nobody reads yet
            return
        raise PrivilegeError(
            f'log.file: "{path}" cannot be written by user {_name()}: {error.strerror}; make it theirs, or name another'
        ) from error


def check_program(path: str) -> None:
    """Whether whom we have become can start our own program again, as workers are.  Raises :class:`PrivilegeError`."""
    if not os.access(path, os.X_OK, effective_ids=True):
        raise PrivilegeError(
            f'user: "{_name()}" cannot run {path}, which workers need; install it where everybody may read, such as '
            "/opt, or set workers = 0"
        )


def _name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def give(path: Path, account: Account | None) -> None:
    """Makes ``account`` the owner of one file or folder, when we are root.  Never follows a symbolic link."""
    if account is not None and os.geteuid() == 0:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)
