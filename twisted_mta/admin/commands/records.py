"""What the commands about the directory share: its records, changed live and shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from ...directory.interfaces import Alias, Customer, Domain, User
from ..context import CommandError, Context, NotFound
from ..tables import Cell

T = TypeVar("T")

of_customer = click.option("--customer", "owner", metavar="NAME", default="", help="Of this customer alone.")
"""An option of what lists records."""


def changed(change: Callable[[], T], kind: str, name: str) -> T:
    """Make a change of the directory, its errors in words for the operator."""
    try:
        return change()
    except KeyError:
        raise NotFound(f"there is no {kind} {name}") from None
    except ValueError as error:
        raise CommandError(str(error)) from None


def public(record: Customer | Domain | User | Alias) -> dict[str, Any]:
    """A record as JSON shows it: without password hashes."""
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    for secret in ("password_hash", "scram"):
        fields.pop(secret, None)
    plain: dict[str, Any] = msgspec.to_builtins(fields)
    return plain


def state(suspended: bool) -> Cell:
    """A word for it."""
    return Cell("suspended", "yellow") if suspended else Cell("active", "green")


def remove(context: Context, kind: str, name: str) -> None:
    """Remove a record, and say so."""
    changed(lambda: context.directory().remove(kind, name), kind, name)
    context.say({"removed": name, "kind": kind}, lambda: f"{kind.capitalize()} {name} removed.")
