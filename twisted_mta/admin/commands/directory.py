"""``mta customer``, ``domain``, ``user`` and ``alias``: who our customers are, changed live."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs
import click
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from ...config.settings import Quota
from ...config.units import UnitError, parse_size
from ...directory.interfaces import Alias, Customer, Domain, User
from ..base import Group, pass_context
from ..context import CommandError, Context, NotFound
from ..tables import Cell, Column, count, size, table

T = TypeVar("T")

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


# customers


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
    _remove(context, "customer", name)


# domains


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
@click.option("--customer", "owner", metavar="NAME", default="", help="Of this customer alone.")
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
    _remove(context, "domain", name)


# users


@click.group(cls=Group)
def user() -> None:
    """Users: people with a mailbox and a password."""


def password_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where the password comes from."""
    command = click.option("--no-password", is_flag=True, help="Have none here: a [checker] knows it.")(command)
    command = click.option("--generate", is_flag=True, help="Make one up and print it.")(command)
    return click.option("--password-stdin", is_flag=True, help="Read it from standard input.")(command)


def new_password(password_stdin: bool, generate: bool, no_password: bool) -> tuple[str, bool]:
    """A password, "" for none, and whether we made it up."""
    if password_stdin + generate + no_password > 1:
        raise click.UsageError("Give one of --password-stdin, --generate and --no-password.")
    if no_password:
        return "", False
    if generate:
        # 4 groups of 5 from 32 letters: 100 bits, and easy to read out
        letters = "abcdefghijkmnpqrstuvwxyz23456789"
        return "-".join("".join(secrets.choice(letters) for _ in range(5)) for _ in range(4)), True
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
        if not password:
            raise click.UsageError("No password came from standard input.")
        return password, False
    if not sys.stdin.isatty():
        raise click.UsageError("Nobody is there to type a password: use --password-stdin, --generate or --no-password.")
    password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return str(password), False


def _with_password(record: User, password: str, generated: bool) -> dict[str, Any]:
    return {**public(record), "password": password} if generated else public(record)


@user.command("add")
@click.argument("address")
@password_options
@click.option("--sender", "senders", metavar="ADDRESS", multiple=True,
              help='A further address, or "@domain", that the user may send as; may be repeated.')  # fmt: skip
@pass_context
def user_add(context: Context, address: str, senders: tuple[str, ...], **source: bool) -> None:
    """Add a user of a domain. Asks for the password, unless told where it comes from."""
    password, generated = new_password(**source)
    directory = context.directory(make=True)
    record = changed(lambda: directory.add_user(address, password, senders), "user", address)

    def lines() -> list[str]:
        said = [f"User {record.address} added for customer {record.customer}."]
        return [*said, f"Password: {password}"] if generated else said

    context.say(_with_password(record, password, generated), lines)


@user.command("passwd")
@click.argument("address")
@password_options
@pass_context
def user_passwd(context: Context, address: str, **source: bool) -> None:
    """Change a user's password."""
    directory = context.directory()
    if context.done(directory.user(address)) is None:
        raise NotFound(f"there is no user {address}")
    password, generated = new_password(**source)
    record = changed(lambda: directory.set_user(address, password=password), "user", address)

    def lines() -> list[str]:
        said = [f"Password of {record.address} changed."]
        return [*said, f"Password: {password}"] if generated else said

    context.say(_with_password(record, password, generated), lines)


@user.command("set")
@click.argument("address")
@click.option("--suspend/--resume", "suspended", default=None, help="Refuse, or again accept, the user's login.")
@click.option("--sender", "senders", metavar="ADDRESS", multiple=True,
              help="What the user may also send as; replaces all that were given before; may be repeated.")  # fmt: skip
@click.option("--no-senders", is_flag=True, help="Only the user's own address.")
@click.option("--certificate", "certificates", metavar="FILE", multiple=True,
              help="A TLS certificate (PEM), or its SHA-256 fingerprint, to log in with by EXTERNAL; replaces all that"
                   " were given before; may be repeated.")  # fmt: skip
@click.option("--no-certificates", is_flag=True, help="None is this user's any more.")
@pass_context
def user_set(
    context: Context,
    address: str,
    suspended: bool | None,
    senders: tuple[str, ...],
    no_senders: bool,
    certificates: tuple[str, ...],
    no_certificates: bool,
) -> None:
    """Suspend a user, change what the user may send as, or the certificates to log in with."""
    changes: dict[str, Any] = {}
    if suspended is not None:
        changes["suspended"] = suspended
    if senders or no_senders:
        changes["senders"] = () if no_senders else senders
    if certificates or no_certificates:
        changes["certificates"] = () if no_certificates else tuple(map(_fingerprint, certificates))
    if not changes:
        options = "--suspend, --resume, --sender, --no-senders, --certificate or --no-certificates"
        raise click.UsageError(f"Nothing to change: give {options}.")
    record = changed(lambda: context.directory().set_user(address, **changes), "user", address)

    def lines() -> list[str]:
        shown = [f"Certificate {fingerprint}" for fingerprint in record.certificates] if certificates else []
        return [f"User {record.address} changed.", *shown]

    context.say(public(record), lines)


def _fingerprint(given: str) -> str:
    """That of a PEM file's first certificate; what is no file is one already, or nothing."""
    path = Path(given)
    try:
        if not path.is_file():
            return given
        return x509.load_pem_x509_certificates(path.read_bytes())[0].fingerprint(SHA256()).hex()
    except (OSError, ValueError) as error:
        raise CommandError(f"{given} has no certificate that can be read: {error}") from None


@user.command("list")
@click.option("--customer", "owner", metavar="NAME", default="", help="Of this customer alone.")
@click.option("--domain", "of_domain", metavar="DOMAIN", default="", help="Of this domain alone.")
@pass_context
def user_list(context: Context, owner: str, of_domain: str) -> None:
    """List the users."""
    users: list[User] = context.directory().entries("user", owner)  # type: ignore[assignment]
    if of_domain:
        users = [record for record in users if record.address.rpartition("@")[2] == of_domain.lower()]

    def lines() -> list[str]:
        if not users:
            return [
                "There are no such users." if owner or of_domain else "There are no users yet: mta user add ADDRESS"
            ]
        heads = [
            Column(title="Address", flexible=True, least=20),
            Column(title="Customer"),
            Column(title="State"),
            Column(title="May also send as", flexible=True, least=16),
        ]
        rows = [[u.address, u.customer, state(u.suspended), ", ".join(u.senders) or Cell("-", "dim")] for u in users]
        return table(heads, rows, context.width)

    context.say([public(record) for record in users], lines)


@user.command("remove")
@click.argument("address")
@pass_context
def user_remove(context: Context, address: str) -> None:
    """Remove a user. The mailbox on disk stays."""
    _remove(context, "user", address)


# aliases


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
@click.option("--customer", "owner", metavar="NAME", default="", help="Of this customer alone.")
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
    _remove(context, "alias", address)


def _remove(context: Context, kind: str, name: str) -> None:
    changed(lambda: context.directory().remove(kind, name), kind, name)
    context.say({"removed": name, "kind": kind}, lambda: f"{kind.capitalize()} {name} removed.")
