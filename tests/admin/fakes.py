"""A store that only knows its size."""

from __future__ import annotations

from collections.abc import Callable

from twisted_mta.queue.interfaces import Commit, QueueStats

STATS = QueueStats(
    messages=3, deliveries=4, recipients=5, bytes=12288, held=1, destinations=2, oldest=1795435200.0,
    map_size=1 << 30, map_used=1 << 20, disk_free=1 << 34,
)  # fmt: skip


class SizedStore:
    def __init__(self, stats: QueueStats | Exception = STATS) -> None:
        self.answer = stats
        self.tell: Callable[[Commit], None] | None = None

    def watch_commits(self, tell: Callable[[Commit], None]) -> None:
        self.tell = tell

    def stats(self) -> QueueStats:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer
