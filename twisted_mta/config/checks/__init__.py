"""What is unsafe, impossible or doubtful about settings that are well formed.

An error stops the start; a warning is said and the service starts.  Errors are what would relay for strangers, show a
password, loop, or never work; doubts are warnings.  Files that are named are looked at, nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..problems import Problem
from ..settings import Settings
from . import checkers, delivery, limits, listeners, oauth, process

_SUBJECTS = (process, listeners, delivery, limits, checkers, oauth)


def check(settings: Settings) -> Iterator[Problem]:
    """All problems of ``settings``, without file and line."""
    for subject in _SUBJECTS:
        yield from subject.check(settings)
