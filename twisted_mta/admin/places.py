"""Whether the service will be able to write where the settings send it: the state, the event log, the mailboxes.

Tried as whom the service will be, and nothing is left behind: no folder is made, and a file that is made to try has no
name.  What is missing is made by the service, so the folder above it is tried.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..config.problems import Problem, error, warning
from ..config.settings import Settings
from ..delivery.maildir_files import mailbox_path
from ..mail.status import MailError
from ..runtime.privileges import Account, PrivilegeError, find_account

_FOR_GOOD = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ELOOP)
"""Errors that stop the service; others, such as a full disk, may pass."""
_ENVIRONMENTS = ("queue", "directory")


def check_places(settings: Settings) -> Iterator[Problem]:
    """What cannot be written, without file and line.  As root this takes on the service's user for the while."""
    state = Path(settings.state_dir).absolute()
    if not settings.state_dir or (_is_there(state) and not state.is_dir()):
        return  # which is said elsewhere
    try:
        account = _account(settings, state)
    except PrivilegeError:
        return
    if account is None:
        wrong = (
            f"is for another user than {_name(os.geteuid())}: whether they can write what they have to was not tried"
        )
        yield warning("state_dir", settings.state_dir, wrong, "run mta check as root or as that user")
        return
    root = os.geteuid() == 0
    if _is_there(state):
        with _acting_as(account):
            yield from _state(settings, state, account)
    else:
        yield from _missing(settings, state)
    with _acting_as(account):
        for problem in (_log(settings, state, account, root), _mailboxes(settings, state, account)):
            if problem is not None:
                yield problem


def _account(settings: Settings, state: Path) -> Account | None:
    """Who the service will be; None for somebody whom we can't stand for."""
    own = os.geteuid()
    wanted = find_account(settings.user, settings.group)
    if wanted is None and _is_there(state):
        found = state.stat()  # whom a unit's User= names: the command line takes the owner for the service, too
        wanted = Account(name=_name(found.st_uid), uid=found.st_uid, gid=found.st_gid, home="")
    if wanted is None:
        return Account(name=_name(own), uid=own, gid=os.getegid(), home="")
    return wanted if own in (0, wanted.uid) else None


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@contextlib.contextmanager
def _acting_as(account: Account) -> Iterator[None]:
    """Be somebody else, if we are root, in all that is asked of the file system."""
    if os.geteuid() != 0 or account.uid == 0:
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    try:
        os.setgroups(os.getgrouplist(account.name, account.gid))
        os.setegid(account.gid)
        os.seteuid(account.uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def _state(settings: Settings, state: Path, account: Account) -> Iterator[Problem]:
    failed = _tried(state)
    if failed is not None:
        yield _problem("state_dir", settings.state_dir, account, failed)
        return
    for name in _ENVIRONMENTS:
        for path in (state / name, state / name / "data.mdb", state / name / "lock.mdb"):
            failed = _access(path)
            if failed is not None:
                yield _problem("state_dir", settings.state_dir, account, failed)
                break


def _missing(settings: Settings, state: Path) -> Iterator[Problem]:
    """The service makes it before it changes the user."""
    failed = _tried(state)
    if failed is None:
        return
    wrong = f"is not there, and user {_name(os.geteuid())} cannot make it in {failed[0]}: {failed[1].strerror}"
    mend = "make it for the service's user, or name another"
    make = error if os.geteuid() == 0 and failed[1].errno in _FOR_GOOD else warning
    yield make("state_dir", settings.state_dir, wrong, mend)


def _log(settings: Settings, state: Path, account: Account, root: bool) -> Problem | None:
    name = settings.log.file
    file = Path(name).absolute()
    if name in ("", "-"):
        return None
    failed = _access(file)
    if failed is None and not _is_there(file):
        if root or (file.is_relative_to(state) and not _is_there(state)):
            return None  # it is made by root, or with the state
        failed = _tried(file.parent)
    return _problem("log.file", name, account, failed) if failed is not None else None


def _mailboxes(settings: Settings, state: Path, account: Account) -> Problem | None:
    local = settings.local
    postmaster = local.postmaster or (f"postmaster@{local.domains[0]}" if local.domains else "postmaster@localhost")
    if local.lmtp:
        return None
    try:
        path, _ = mailbox_path(local.mailbox, str(state), postmaster, local.detail_delimiter)
    except MailError:
        return None
    folder = Path(path).absolute()
    if folder.is_relative_to(state) and not _is_there(state):
        return None
    failed = _tried(folder / "new")
    if failed is None:
        return None
    wrong = f"is where postmaster's mail goes, and {failed[0]} cannot be written by user {account.name}: "
    mend = f"let {account.name} write there, or name another place; mail for it waits until then"
    return warning("local.mailbox", local.mailbox, wrong + (failed[1].strerror or ""), mend)


def _tried(folder: Path) -> tuple[Path, OSError] | None:
    """What fails when a file is made in a folder, or in what there is above it."""
    for place in (folder, *folder.parents):
        try:
            with tempfile.TemporaryFile(dir=place):
                return None
        except FileNotFoundError:
            continue
        except OSError as failed:
            return _barrier(place) or place, failed
    return None


def _barrier(path: Path) -> Path | None:
    """The folder on the way to it that may not be passed, if there is one."""
    for folder in reversed(path.parents):
        if _is_there(folder) and not os.access(folder, os.X_OK, effective_ids=True):
            return folder
    return None


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except OSError:
        return False
    return True


def _access(path: Path) -> tuple[Path, OSError] | None:
    """What fails when something that is there is written to; a pipe's reader notices nothing of it."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
        elif not os.access(path, os.W_OK | (os.X_OK if stat.S_ISDIR(mode) else 0), effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except FileNotFoundError:
        return None
    except OSError as failed:
        return _barrier(path) or path, failed
    return None


def _problem(key: str, value: str, account: Account, failed: tuple[Path, OSError]) -> Problem:
    path, place = failed[0], Path(value).absolute()
    mend = f'"chown {account.name} {path}" makes it theirs; or name another'
    if path == place:
        where = "cannot be written"
    elif path.is_relative_to(place):
        where = f"has {path}, which cannot be written"
    elif path == _barrier(place):
        where = f"is below {path}, which cannot be passed"
        mend = f'"chmod o+x {path}" lets everybody pass; or name another'
    else:
        where = f"is to be made in {path}, which cannot be written"
    wrong = f"{where} by user {account.name}: {failed[1].strerror}"
    return (error if failed[1].errno in _FOR_GOOD else warning)(key, value, wrong, mend)
