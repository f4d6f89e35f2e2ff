"""Greylisting (RFC 6647): a stranger's first message from a site to a recipient is asked to come again later.

What is known is kept in an LMDB environment of its own, with hashed keys, an expiry for each entry and a bound on their
number, and shared by all processes.  It is never synced, as it may be lost: senders come again.  So nothing waits for
the disk, and where it can't be read or written nobody is asked to come again.
"""

from __future__ import annotations

import hashlib
import ipaddress
import shutil
import struct
from math import ceil
from pathlib import Path

import attrs
import lmdb
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from ..config.settings import Settings
from ..directory.interfaces import Resolution
from ..mail.status import Reply
from .interfaces import Peer, Policy, Transaction
from .network import parse_ip, site

MAP_SIZE = 1 << 30
PURGE = 4
"""Expired entries that each change removes: more than it adds."""

_RECORD = struct.Struct(">ddI")
_WHEN = struct.Struct(">Q")
_log = Logger()


@attrs.define(slots=True)
class _Entry:
    """``first`` is when it was first seen, ``expires`` when it is forgotten, ``passed`` how often it came again."""

    first: float
    expires: float
    passed: int = 0


class GreyTable:
    """The table in the folder ``path``, which is made when it is not there.  Whoever opens it closes it.

    Raises lmdb.Error; a table that is damaged is replaced by an empty one.
    """

    def __init__(self, path: str | Path, entries: int) -> None:
        self.entries = entries
        try:
            self._open(path)
        except (lmdb.CorruptedError, lmdb.InvalidError, lmdb.VersionMismatchError):
            _log.warn("The greylist in {path} is damaged; a new one is begun", path=str(path))
            shutil.rmtree(path)
            self._open(path)

    def _open(self, path: str | Path) -> None:
        Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._env = lmdb.open(str(path), map_size=MAP_SIZE, max_dbs=2, mode=0o600, sync=False, metasync=False)
        try:
            self._known = self._env.open_db(b"known")
            self._expiry = self._env.open_db(b"expiry")
        except lmdb.Error:
            self._env.close()
            raise

    def __len__(self) -> int:
        with self._env.begin() as txn:
            return int(txn.stat(self._known)["entries"])

    def close(self) -> None:
        """Write what is known to the disk, and close."""
        self._env.sync(True)
        self._env.close()

    def wait(self, client: str, sender: str, recipient: str, now: float, settings: Settings) -> float:
        """Seconds until this sender may come again; 0.0 if the message is welcome now."""
        grey = settings.greylist
        whose, triplet = _key("client", client), _key("triplet", client, sender, recipient)
        with self._env.begin(write=True) as txn:
            known = self._get(txn, whose, now)
            if known is not None and 0 < grey.allow_after <= known.passed:
                self._put(txn, whose, known, attrs.evolve(known, expires=now + grey.remember))
                return 0.0
            seen = self._get(txn, triplet, now)
            if seen is None or seen.first > now:
                self._put(txn, triplet, seen, _Entry(now, now + max(grey.retry_within, grey.delay)))
                return float(grey.delay)
            if not seen.passed and now < seen.first + grey.delay:
                return float(seen.first + grey.delay - now)
            self._put(txn, triplet, seen, _Entry(seen.first, now + grey.remember, min(seen.passed + 1, 1 << 31)))
            if not seen.passed:
                passed = known.passed + 1 if known is not None else 1
                self._put(txn, whose, known, _Entry(known.first if known else now, now + grey.remember, passed))
            return 0.0

    def _get(self, txn: lmdb.Transaction, key: bytes, now: float) -> _Entry | None:
        found = txn.get(key, db=self._known)
        if found is None:
            return None
        entry = _Entry(*_RECORD.unpack(found))
        if entry.expires > now:
            return entry
        self._remove(txn, key, entry.expires)
        return None

    def _put(self, txn: lmdb.Transaction, key: bytes, old: _Entry | None, new: _Entry) -> None:
        if old is not None and old.passed == new.passed and int(old.expires) // 3600 == int(new.expires) // 3600:
            return  # hardly later: not worth a change
        if old is not None:
            txn.delete(_WHEN.pack(int(old.expires)) + key, db=self._expiry)
        txn.put(key, _RECORD.pack(new.first, new.expires, new.passed), db=self._known)
        txn.put(_WHEN.pack(int(new.expires)) + key, b"", db=self._expiry)
        if old is None:
            self._make_room(txn, new.first)

    def _make_room(self, txn: lmdb.Transaction, now: float) -> None:
        """Remove what has expired, and what expires first where there is too much."""
        cursor = txn.cursor(self._expiry)
        for _ in range(PURGE):
            if not cursor.first():
                return
            first = bytes(cursor.key())
            (expires,) = _WHEN.unpack_from(first)
            if expires >= now and txn.stat(self._known)["entries"] <= self.entries:
                return
            self._remove(txn, first[_WHEN.size :], expires)

    def _remove(self, txn: lmdb.Transaction, key: bytes, expires: float) -> None:
        txn.delete(key, db=self._known)
        txn.delete(_WHEN.pack(int(expires)) + key, db=self._expiry)


class GreylistPolicy(Policy):
    """Asks strangers on a listener of role "mx" to come again, if ``greylist.enabled``.

    ``clock`` gives seconds since the epoch.  Whoever makes it calls :meth:`close`.
    """

    def __init__(self, settings: Settings, clock: IReactorTime) -> None:
        self._clock = clock
        self._table: GreyTable | None = None
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed settings."""
        self._settings = settings
        self.idle = not settings.greylist.enabled
        if not settings.greylist.enabled:
            self.close()
        elif self._table is not None:
            self._table.entries = settings.greylist.entries

    def close(self) -> None:
        """Close the table, if it is open."""
        table, self._table = self._table, None
        if table is not None:
            table.close()

    async def rcpt(self, peer: Peer, transaction: Transaction, recipient: str, resolution: Resolution) -> Reply | None:
        """451 4.7.1 for who has not come before (RFC 6647 §2.4), unless it is on an allow list."""
        settings = self._settings
        if not settings.greylist.enabled or not peer.guarded or peer.allowed:
            return None
        try:
            if self._table is None:
                self._table = GreyTable(Path(settings.state_dir) / "greylist", settings.greylist.entries)
            wait = self._table.wait(
                network(peer.address), transaction.sender.lower(), recipient.lower(), self._clock.seconds(), settings
            )
        except (lmdb.Error, OSError) as error:
            _log.warn("The greylist is passed over: {why}", why=str(error))
            return None
        return Reply(451, "4.7.1", f"Greylisted: please try again in {ceil(wait)} seconds") if wait > 0 else None


def network(address: str) -> str:
    """What a sender's hosts share, as a large one tries again from another: an IPv4 /24 or an IPv6 /64."""
    ip = parse_ip(address)
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ipaddress.IPv4Network((int(ip), 24), strict=False))
    return site(address)


def _key(*words: str) -> bytes:
    """What a peer chose is never a key itself: it may be long, or made to be like another."""
    joined = b"".join(len(word).to_bytes(4, "big") + word.encode("utf-8", "surrogatepass") for word in words)
    return hashlib.blake2b(joined, digest_size=16).digest()
