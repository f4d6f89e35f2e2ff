"""File descriptors: as many as the settings may need, or a word about it."""

from __future__ import annotations

import resource

from ..config import Problem, Settings

_OURS = 256
"""The reactor, LMDB, threads, DNS, Maildir files, the metrics' clients."""


def descriptors_needed(settings: Settings) -> int:
    """How many descriptors may be open at once when every limit on connections is used up."""
    return settings.smtp.connections + settings.relay.connections + _OURS


def raise_descriptors(settings: Settings) -> Problem | None:
    """Raises the soft limit of open files as far as is needed and allowed.

    Gives a warning when the hard limit is too low for the settings, else None.  Never raises: a lower limit means
    that fewer connections are served, and the listeners survive that.
    """
    needed = descriptors_needed(settings)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < needed:
        wanted = needed if hard == unlimited else min(needed, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError):  # a sandbox may forbid the call
            pass
    if soft == unlimited or soft >= needed:
        return None
    return Problem(
        key="smtp.connections",
        value=settings.smtp.connections,
        wrong=f"and relay.connections may need {needed} open files, but the process may have {soft}",
        mend=f"raise LimitNOFILE= of the unit (ulimit -Hn) to {needed}, or lower the connections",
        severity="warning",
    )
