"""What every store keeps to (:class:`~twisted_mta.queue.interfaces.IMessageStore`), run for each engine."""

from __future__ import annotations

from .due import Due
from .ending import Ending
from .operators import Operators
from .reception import Reception
from .settling import Settling


class Contract(Reception, Due, Settling, Operators, Ending):
    """All of it; mixed into a ``twisted.trial.unittest.TestCase``."""
