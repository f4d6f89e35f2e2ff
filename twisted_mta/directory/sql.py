"""Passwords checked by an SQL database: SQLite from the standard library, PostgreSQL by psycopg.

What a client gave reaches the database only as a parameter.  The drivers block, so each checker has threads of its
own, and each thread a connection of its own that is kept.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from functools import partial
from typing import Any

from ..config.settings import Checker
from .answers import NoAnswer
from .passwords import Threads, verify_password

PARAMETERS = ("address", "user", "domain", "password")
_PARAMETER = re.compile(rf"(?<![:\w]):({'|'.join(PARAMETERS)})\b")


class SqlSource:
    """See :class:`~.outside.Source`.  PostgreSQL needs the extra "postgresql"."""

    def __init__(self, name: str, settings: Checker, reactor: Any) -> None:
        self._settings = settings
        self._threads = Threads(reactor, f"checker.{name}", settings.threads)
        self._local = threading.local()
        self._compares = ":password" in settings.query
        self._errors: type[Exception] = sqlite3.Error
        scheme = settings.server.partition(":")[0]
        if scheme == "sqlite":
            self._open, self._query = self._sqlite, settings.query
        else:
            import psycopg

            self._psycopg: Any = psycopg
            query = _PARAMETER.sub(r"%(\1)s", settings.query.replace("%", "%%"))
            self._open, self._query, self._errors = self._postgresql, query, psycopg.Error

    def start(self) -> None:
        """See :class:`~.outside.Source`."""
        self._threads.start()

    def stop(self) -> None:
        """See :class:`~.outside.Source`."""
        self._threads.leave()

    async def good(self, address: str, password: str) -> bool:
        """See :class:`~.outside.Source`."""
        return await self._threads.run(partial(self._good, address, password))

    def _good(self, address: str, password: str) -> bool:
        user, _, domain = address.rpartition("@")
        values = {"address": address, "user": user, "domain": domain}
        if self._compares:
            values["password"] = password
        row = self._row(values)
        if row is None:
            return False
        if self._compares:
            return bool(row[0])
        stored = row[0] if isinstance(row[0], str) else ""
        stored = stored.removeprefix("{ARGON2ID}")
        if stored and not stored.startswith("$argon2id$"):
            raise NoAnswer("the query gives a hash that is not argon2id; let it compare :password itself")
        return bool(stored) and verify_password(stored, password)

    def _row(self, values: dict[str, str]) -> Any:
        """The first row.  A connection that has been kept may be dead by now, so a new one is tried then."""
        kept = getattr(self._local, "connection", None)
        if kept is not None:
            try:
                return kept.execute(self._query, values).fetchone()
            except self._errors:
                self._local.connection = None
                kept.close()
        self._local.connection = self._open()
        return self._local.connection.execute(self._query, values).fetchone()

    def _sqlite(self) -> Any:
        path = self._settings.server.removeprefix("sqlite:")
        escaped = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        return sqlite3.connect(f"file:{escaped}?mode=ro", timeout=self._settings.timeout, uri=True)

    def _postgresql(self) -> Any:
        seconds = self._settings.timeout
        return self._psycopg.connect(
            self._settings.server,
            autocommit=True,
            connect_timeout=max(round(seconds), 2),  # libpq's least
            options=f"-c statement_timeout={max(round(seconds * 1000), 1)} -c default_transaction_read_only=on",
            application_name="twisted-mta",
            tcp_user_timeout=max(round(seconds * 1000), 1),
        )
