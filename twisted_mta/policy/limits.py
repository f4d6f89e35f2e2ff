"""A customer's limits: their own values over ``[quota.default]``."""

from __future__ import annotations

import functools

import attrs

from ..config.settings import Quota, Settings
from ..directory.interfaces import Customer
from ..queue.interfaces import Limits


def limits_for(settings: Settings, customer: Customer | None) -> Limits:
    """The limits that hold for a customer; none at all for mail that is nobody's."""
    if customer is None:
        return _UNLIMITED
    return _limits(settings.quota["default"], tuple(customer.limits.items()))


_UNLIMITED = Limits()


@functools.lru_cache(1024)
def _limits(default: Quota, own: tuple[tuple[str, int | None], ...]) -> Limits:
    return Limits(**(attrs.asdict(default) | dict(own)))
