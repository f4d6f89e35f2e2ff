"""``mta alias``: addresses that stand for others."""

from __future__ import annotations

import click

from ...directory.interfaces import Alias
from ..base import Group, pass_context
from ..context import Context
from ..tables import Cell, Column, table
from .records import changed, of_customer, public, remove


@click.group(cls=Group)
def alias() -> None:
    """Aliases: addresses that stand for others."""


@alias.command("add")
@click.argument("address")
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@pass_context
def alias_add(context: Context, address: str, targets: tuple[str, ...]) -> None:
    """Add an alias. "@domain" as ADDRESS catches what is otherwise unknown there."""
    directory = context.directory(make=True)
    record = changed(lambda: directory.add_alias(address, targets), "alias", address)
    context.say(public(record), lambda: f"Alias {record.address} added: {', '.join(record.targets)}.")


@alias.command("list")
@of_customer
@pass_context
def alias_list(context: Context, owner: str) -> None:
    """List the aliases."""
    aliases: list[Alias] = context.directory().entries("alias", owner)  # type: ignore[assignment]

    def lines() -> list[str]:
        if not aliases:
            return ["There are no aliases yet: mta alias add ADDRESS TARGET..."]
        rows = [[a.address, a.customer or Cell("-", "dim"), ", ".join(a.targets)] for a in aliases]
        heads = [
            Column(title="Alias", flexible=True, least=20),
            Column(title="Customer"),
            Column(title="Stands for", flexible=True, least=20),
        ]
        return table(heads, rows, context.width)

    context.say([public(record) for record in aliases], lines)


@alias.command("remove")
@click.argument("address")
@pass_context
def alias_remove(context: Context, address: str) -> None:
    """Remove an alias."""
    remove(context, "alias", address)
