"""What would never work, or show passwords, in the ``[checker.NAME]`` tables."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from .. import units
from ..problems import Problem, error
from ..settings import Checker, Settings
from ..toml import write_path

_SAMPLES = {
    "dovecot": '"unix:/run/dovecot/auth-client"',
    "ldap": '"ldaps://ldap.isp.example"',
    "sql": '"sqlite:/var/lib/isp/users.db" or "postgresql://mta@db.isp.example/users"',
}
_LIBRARIES = {"ldap": ("ldap3", "ldap"), "postgresql": ("psycopg", "postgresql")}
_PLACEHOLDERS = ("{address}", "{user}", "{domain}")


def check(settings: Settings) -> Iterator[Problem]:
    """All problems of the checkers, without file and line."""
    for name, checker in settings.checker.items():
        key = write_path(("checker", name))
        wrong = _server(checker)
        if wrong:
            yield error(f"{key}.server", checker.server, wrong, f"write {_SAMPLES[checker.kind]}")
            continue
        yield from _library(key, checker)
        if checker.timeout <= 0:
            mend = 'write "5s"'
            yield error(f"{key}.timeout", units.format_duration(checker.timeout), "answers nothing", mend)
        if checker.kind == "ldap":
            yield from _ldap(key, checker)
        elif checker.kind == "sql" and not re.search(r"(?<![:\w]):(address|user)\b", checker.query):
            mend = 'write such as "SELECT password FROM users WHERE address = :address"'
            yield error(f"{key}.query", checker.query, "does not ask for :address or :user", mend)


def _server(checker: Checker) -> str:
    """What is wrong with the server's address; "" when nothing is."""
    if checker.kind == "dovecot":
        try:
            return "is empty" if units.canonical(units.parse_endpoint)(checker.server) == "" else ""
        except units.UnitError as error:
            return error.wrong
    scheme = checker.server.partition(":")[0]
    if checker.kind == "sql":
        if scheme == "sqlite":
            return "" if checker.server.startswith("sqlite:/") else "has no absolute path"
        return "" if scheme in ("postgresql", "postgres") else "is no database that is known"
    try:
        place = urlsplit(checker.server)
        good = scheme in ("ldap", "ldaps") and bool(place.hostname) and place.port != 0
    except ValueError:
        good = False
    return "" if good else "is not the address of an LDAP server"


def _library(key: str, checker: Checker) -> Iterator[Problem]:
    scheme = checker.server.partition(":")[0].replace("postgres:", "postgresql:")
    needed = _LIBRARIES.get("ldap" if checker.kind == "ldap" else "postgresql" if scheme.startswith("postgres") else "")
    if needed is not None and importlib.util.find_spec(needed[0]) is None:
        wrong = f"needs the library {needed[0]}"
        yield error(f"{key}.kind", checker.kind, wrong, f'install it with "pip install twisted-mta[{needed[1]}]"')


def _ldap(key: str, checker: Checker) -> Iterator[Problem]:
    searched, named = (any(word in text for word in _PLACEHOLDERS) for text in (checker.filter, checker.dn))
    if checker.filter and not searched:
        yield error(f"{key}.filter", checker.filter, "finds the same for everybody", 'write "(mail={address})"')
    elif checker.filter and not checker.base:
        yield error(f"{key}.base", "", "is empty, but filter is set", 'write such as "ou=people,dc=isp,dc=example"')
    elif not checker.filter and not named:
        mend = 'write such as "uid={user},ou=people,dc=isp,dc=example", or set base and filter'
        yield error(f"{key}.dn", checker.dn, "names nobody's entry", mend)
    for option in ("password_file", "ca"):
        path = getattr(checker, option)
        if path and not Path(path).is_file():
            yield error(f"{key}.{option}", path, "is no file that can be read", "name one, or leave it empty")
