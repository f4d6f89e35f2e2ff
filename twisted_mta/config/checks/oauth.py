"""What would never work, or let strangers in, in the ``[oauth.NAME]`` tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from .. import units
from ..addresses import is_loopback
from ..problems import Problem, error, warning
from ..settings import OAuth, Settings
from ..toml import write_path

_ISSUER = '"https://login.isp.example/realms/isp"'


def check(settings: Settings) -> Iterator[Problem]:
    """All problems of the authorization servers, without file and line."""
    issuers: dict[str, str] = {}
    for name, server in settings.oauth.items():
        key = write_path(("oauth", name))
        if server.issuer and server.issuer in issuers:
            wrong = f"is the issuer of {issuers[server.issuer]} too"
            yield error(f"{key}.issuer", server.issuer, wrong, "keep one of the two tables")
        issuers.setdefault(server.issuer, key)
        yield from _places(key, server)
        yield from _claims(key, server)
        yield from _files(key, server)
        for option in ("timeout", "refresh"):
            if getattr(server, option) <= 0:
                shown = units.format_duration(getattr(server, option))
                yield error(f"{key}.{option}", shown, "answers nothing", "write more than 0s")
    if settings.oauth and not {"OAUTHBEARER", "XOAUTH2"} & set(settings.submission.mechanisms):
        wrong = "offers neither OAUTHBEARER nor XOAUTH2, so that [oauth] serves nobody"
        mend = "add one of them, or take the [oauth] tables away"
        yield warning("submission.mechanisms", list(settings.submission.mechanisms), wrong, mend)


def _places(key: str, server: OAuth) -> Iterator[Problem]:
    wanted = "keys" if server.kind == "jwt" else "endpoint"
    for option in ("issuer", "keys", "endpoint"):
        value = getattr(server, option)
        if value and (wrong := url_flaw(value, path=option == "keys")):
            yield error(f"{key}.{option}", value, wrong, f"write such as {_ISSUER}")
        elif value and option not in ("issuer", wanted):
            wrong = f'is not used with kind = "{server.kind}"'
            yield warning(f"{key}.{option}", value, wrong, "leave it out")
    if server.kind == "jwt" and not server.issuer:
        yield error(f"{key}.issuer", "", "is empty", f'write what tokens have as "iss", such as {_ISSUER}')
    elif server.kind == "introspection" and not server.issuer and not server.endpoint:
        mend = "name the URL, or the issuer whose configuration has it"
        yield error(f"{key}.endpoint", "", "is empty, and issuer is too", mend)
    elif server.kind == "tokeninfo" and not server.endpoint:
        mend = 'write such as "https://oauth2.googleapis.com/tokeninfo"'
        yield error(f"{key}.endpoint", "", "is empty", mend)


def url_flaw(text: str, path: bool = False) -> str:
    """What is wrong with a URL that we ask; "" when nothing is.  ``path``: it may be a file's instead."""
    if path and text.startswith("/"):
        return ""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        return "is no URL"
    if url.scheme not in ("https", "http") or not url.hostname or port == 0 or not text.isascii() or " " in text:
        return "is no URL, nor an absolute path" if path else "is no URL"
    if url.username is not None or url.fragment:
        return "has a password or a fragment in it"
    if url.scheme == "http" and not _is_here(url.hostname):
        return "would show tokens, or take keys, in clear"
    return ""


def _is_here(host: str) -> bool:
    return host == "localhost" or (units.is_ip_address(host) and is_loopback(host))


def _claims(key: str, server: OAuth) -> Iterator[Problem]:
    if not server.audience:
        wrong = "is empty: a token that a user gave to any other service of this server would do"
        say = warning if server.kind == "introspection" else error
        yield say(f"{key}.audience", [], wrong, 'write what our tokens have as "aud"')
    for scope in server.scopes:
        if not scope or not scope.isascii() or not scope.isprintable() or set(scope) & set(' "\\'):
            yield error(f"{key}.scopes", scope, "is no scope (RFC 6749 §3.3)", "write one word for each")
    if not server.user:
        yield error(f"{key}.user", "", "is empty", 'write the claim that has the address, such as "email"')
    if server.kind == "jwt" and not server.algorithms:
        yield error(f"{key}.algorithms", [], "is empty", "leave it out")


def _files(key: str, server: OAuth) -> Iterator[Problem]:
    if server.kind == "introspection" and bool(server.client_id) != bool(server.client_secret_file):
        empty = "client_secret_file" if server.client_id else "client_id"
        yield error(f"{key}.{empty}", "", "is empty, but its companion is set", "set both, or none")
    files = {"client_secret_file": server.client_secret_file, "ca": server.ca}
    if server.keys.startswith("/"):
        files["keys"] = server.keys
    for option, path in files.items():
        if path and not Path(path).is_file():
            yield error(f"{key}.{option}", path, "is no file that can be read", "name one, or leave it empty")
