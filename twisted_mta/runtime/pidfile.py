"""twistd's pid file, which a second twistd takes for a service that runs: put away while a successor starts."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


class PidFile:
    """A pid file of ours; ``path`` "" is none."""

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None
        self._text: str | None = None

    def put_away(self) -> None:
        """Remove it.  Where that is not allowed it stays, and the successor will complain about it."""
        if self._path is not None:
            with suppress(OSError):
                self._text = self._path.read_text("ascii")
                self._path.unlink()

    def put_back(self) -> None:
        """Write what it said."""
        if self._path is not None and self._text is not None:
            with suppress(OSError):
                self._path.write_text(self._text, "ascii")
