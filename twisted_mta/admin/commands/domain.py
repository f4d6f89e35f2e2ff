"""``mta domain``: whose mail is local."""

from __future__ import annotations

import click

from ...directory.interfaces import Domain
from ..base import Group, pass_context
from ..context import Context
from ..tables import Cell, Column, table
from .records import changed, of_customer, public, remove


@click.group(cls=Group)
def domain() -> None:
    """Domains of ours: their mail is local."""


@domain.command("add")
@click.argument("name", metavar="DOMAIN")
@click.option("--customer", "owner", metavar="NAME", required=True, help="Whose it is.")
@pass_context
def domain_add(context: Context, name: str, owner: str) -> None:
    """Add a domain of a customer."""
    directory = context.directory(make=True)
    record = changed(lambda: directory.add_domain(name, owner), "domain", name)
    context.say(public(record), lambda: f"Domain {record.name} added for customer {record.customer}.")


@domain.command("list")
@of_customer
@pass_context
def domain_list(context: Context, owner: str) -> None:
    """List the domains, those that the configuration names included."""
    directory = context.directory()
    domains: list[Domain] = directory.entries("domain", owner)  # type: ignore[assignment]
    named = [] if owner else [name for name in context.settings.local.domains if name not in {d.name for d in domains}]

    def lines() -> list[str]:
        if not domains and not named:
            return ["There are no domains yet: mta domain add DOMAIN --customer NAME"]
        rows: list[list[Cell | str]] = [[record.name, record.customer] for record in domains]
        rows += [[name, Cell("local.domains", "dim")] for name in named]
        return table([Column(title="Domain", flexible=True, least=20), Column(title="Customer")], rows, context.width)

    context.say([*map(public, domains), *({"name": name, "customer": ""} for name in named)], lines)


@domain.command("remove")
@click.argument("name", metavar="DOMAIN")
@pass_context
def domain_remove(context: Context, name: str) -> None:
    """Remove a domain without users and aliases."""
    remove(context, "domain", name)
