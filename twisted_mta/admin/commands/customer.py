"""``mta customer``: who pays, and with which limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import click

from ...config.settings import Quota
from ...config.units import UnitError, parse_size
from ...directory.interfaces import Customer
from ..base import Group, pass_context
from ..context import Context, NotFound
from ..tables import Cell, Column, count, size, table
from .records import changed, public, remove, state

SIZES = frozenset({"queued_bytes", "message_bytes"})
LIMITS: dict[str, str] = {field.name: field.name.replace("_", "-") for field in attrs.fields(Quota)}
DEFAULT = "default"


class Limit(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.2
    """A number or a size, "none" for no limit, "default" for what the configuration says."""

    def __init__(self, sized: bool) -> None:
        self.name = "SIZE" if sized else "N"
        self._sized = sized

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str | None:
        """The value."""
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        if value in ("none", DEFAULT):
            return value
        if self._sized:
            try:
                return parse_size(value)
            except UnitError as error:
                self.fail(f'"{value}" {error}')
        if not value.isascii() or not value.isdigit():
            self.fail(f'"{value}" is not a number, "none" or "default"')
        return int(value)


def limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """An option for each limit."""
    for name, dashed in reversed(LIMITS.items()):
        what = "Octets" if name in SIZES else "How many"
        text = f'{what}; "none": no limit, "default": as in the configuration.' if name == next(iter(LIMITS)) else ""
        command = click.option(f"--{dashed}", name, type=Limit(name in SIZES), help=text)(command)
    return command


def given_limits(options: dict[str, Any]) -> dict[str, int | str | None]:
    """The limits among a command's options: a number, None for no limit, "default"."""
    return {name: None if options[name] == "none" else options[name] for name in LIMITS if options[name] is not None}


def show_limit(name: str, value: int | None) -> str:
    """A limit's value for people."""
    return size(value) if value is not None and name in SIZES else count(value)


@click.group(cls=Group)
def customer() -> None:
    """Customers: who pays, and their limits."""


@customer.command("add")
@click.argument("name")
@limit_options
@pass_context
def customer_add(context: Context, name: str, **options: Any) -> None:
    """Add a customer. Limits that are not given are those of [quota.default]."""
    limits: dict[str, Any] = {key: value for key, value in given_limits(options).items() if value != DEFAULT}
    directory = context.directory(make=True)
    record = changed(lambda: directory.add_customer(name, limits), "customer", name)
    context.say(public(record), lambda: f"Customer {record.name} added.")


@customer.command("set")
@click.argument("name")
@limit_options
@click.option("--suspend/--resume", "suspended", default=None, help="Refuse, or again accept, the customer's mail.")
@pass_context
def customer_set(context: Context, name: str, suspended: bool | None, **options: Any) -> None:
    """Change a customer's limits, or suspend the customer."""
    given = given_limits(options)
    if not given and suspended is None:
        raise click.UsageError("Nothing to change: give a limit, --suspend or --resume.")
    directory = context.directory()
    before = context.done(directory.customer(name))
    if before is None:
        raise NotFound(f"there is no customer {name}")
    limits = {key: value for key, value in {**before.limits, **given}.items() if value != DEFAULT}
    changes: dict[str, Any] = {"limits": limits} if given else {}
    if suspended is not None:
        changes["suspended"] = suspended
    record = changed(lambda: directory.set_customer(name, **changes), "customer", name)
    context.say(public(record), lambda: f"Customer {record.name} changed.")


@customer.command("list")
@pass_context
def customer_list(context: Context) -> None:
    """List the customers, with the limits of their own."""
    directory = context.directory()
    customers: list[Customer] = directory.entries("customer")  # type: ignore[assignment]

    def lines() -> list[str]:
        if not customers:
            return ["There are no customers yet: mta customer add NAME"]
        rows: list[list[Cell | str]] = []
        for record in customers:
            own = ", ".join(f"{LIMITS.get(k, k)} {show_limit(k, v)}" for k, v in sorted(record.limits.items()))
            domains, users = (len(directory.entries(kind, record.name)) for kind in ("domain", "user"))
            rows.append([record.name, state(record.suspended), f"{domains:,}", f"{users:,}", own or Cell("-", "dim")])
        heads = [
            Column(title="Customer", flexible=True, least=12),
            Column(title="State"),
            Column(title="Domains", align="right"),
            Column(title="Users", align="right"),
            Column(title="Limits of its own", flexible=True, least=20),
        ]
        return table(heads, rows, context.width)

    context.say([public(record) for record in customers], lines)


@customer.command("remove")
@click.argument("name")
@pass_context
def customer_remove(context: Context, name: str) -> None:
    """Remove a customer to whom nothing belongs any more."""
    remove(context, "customer", name)
