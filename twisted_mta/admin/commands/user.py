"""``mta user``: people with a mailbox, and how they log in."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from ...directory.interfaces import User
from ...mail.address import AddressError, canonical
from ..base import Group, pass_context
from ..context import CommandError, Context, NotFound
from ..tables import Cell, Column, table
from .records import changed, of_customer, public, remove, state


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
    try:
        canonical(address)
    except AddressError as error:
        raise CommandError(str(error)) from None
    directory = context.directory(make=True)
    changed(lambda: directory.check_user(address, senders), "user", address)  # before a password is asked for
    password, generated = new_password(**source)
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
@of_customer
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
    remove(context, "user", address)
