"""A second process on the store of a test.

filler.py PATH COUNT SIZE [one]     add messages, all in one commit or one at a time
filler.py PATH hold                 hold LMDB's write lock until a line comes
filler.py PATH remove ID DESTINATION
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.queue.samples import NOON, SETTINGS, clock, new
from twisted_mta.queue.lmdb_store import LmdbStore
from twisted_mta.queue.writer import InlineWriter


def fired(deferred: Any) -> Any:
    results: list[Any] = []
    deferred.addCallback(results.append)
    return results[0]


def main() -> None:
    store = LmdbStore(sys.argv[1], clock(), SETTINGS, InlineWriter())
    fired(store.start())
    if sys.argv[2] == "hold":
        assert store._environment is not None
        with store._environment.begin():
            print("held", flush=True)
            sys.stdin.readline()
    elif sys.argv[2] == "remove":
        assert fired(store.act("remove", [(sys.argv[3], sys.argv[4])], "root", NOON)) == 1
    else:
        body = os.urandom(int(sys.argv[3]))
        for _ in range(int(sys.argv[2])):
            incoming = store.incoming()
            incoming.write(body)
            fired(incoming.commit(new(incoming.id)))
    fired(store.stop())


if __name__ == "__main__":
    main()
