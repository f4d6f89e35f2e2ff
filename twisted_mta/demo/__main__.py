"""The show itself: ``python -m twisted_mta.demo``."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import smtplib
import ssl
import sys
import time
from collections.abc import Callable
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import IO, NoReturn

import click

from . import __doc__ as what
from .stage import (
    ANN,
    BEN,
    BOB,
    CUSTOMER,
    DOMAIN,
    HOST,
    NOBODY,
    REMOTE_DOMAIN,
    REMOTE_HOST,
    USUAL_PORTS,
    DemoFailed,
    Process,
    Stage,
    short,
    staged,
    until,
)


def heading(text: str) -> None:
    """A line that begins a part."""
    click.echo(f"\n{click.style(text, bold=True)}")


def fact(name: str, text: str) -> None:
    """One thing that is now so."""
    click.echo(f"  {click.style('✓', fg='green')} {click.style(f'{name:<10}', bold=True)} {text}")


def command(text: str) -> None:
    """A command line."""
    click.echo(f"  {click.style('$', dim=True)} {click.style(text, fg='cyan')}")


def introduce(stage: Stage) -> None:
    """What runs where."""
    ports = stage.ports
    fact("service", f"{HOST}, `twistd mta` on 127.0.0.1")
    click.echo(
        f"{'':15}mx {ports['mx']} · submission {ports['submission']} (STARTTLS) and {ports['submissions']} (TLS)"
    )
    click.echo(f"{'':15}http://127.0.0.1:{ports['admin']}/metrics and /healthz")
    for name, usual in USUAL_PORTS.items():
        if ports[name] != usual:
            click.echo(f"{'':15}{click.style(f'{usual} was taken, so {name} is on {ports[name]}', fg='yellow')}")
    fact("customer", f"{CUSTOMER} with the domain {DOMAIN} and two mailboxes")
    for address, password in stage.passwords.items():
        click.echo(f"{'':15}{address}  password {click.style(password, fg='yellow')}")
    fact("remote", f"{REMOTE_HOST}, another MTA on port {ports['remote']}, the MX of {REMOTE_DOMAIN} by DNS")


def send(stage: Stage, recipient: str, subject: str) -> str:
    """Ann's mail program hands a message in, as hers would: submission, STARTTLS, AUTH.  Gives the message's id."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = ANN, recipient, subject
    message.set_content(f"Hello {recipient.partition('@')[0]},\n\nthis went through twisted-mta.\n\nAnn\n")
    context = ssl.create_default_context(cafile=stage.certificate)
    with smtplib.SMTP("localhost", stage.ports["submission"], "laptop.example", timeout=20) as session:
        session.starttls(context=context)
        session.login(ANN, stage.passwords[ANN])
        session.mail(ANN)
        code, words = session.rcpt(recipient)
        if code == 250:
            code, words = session.data(message.as_bytes(policy=SMTP))
        if code != 250:
            raise DemoFailed(f"the message to {recipient} was refused: {code} {words.decode()}")
    return words.decode().split()[-1]


def show(stage: Stage, number: int, title: str, recipient: str, holds: str, proof: Callable[[], list[Path]]) -> None:
    """Sends one message, waits for what must come of it, and prints its trace."""
    heading(f"{number}  {title}")
    before = len(proof())
    identity = send(stage, recipient, title)
    click.echo(f"  {ANN} hands it in on port {stage.ports['submission']}, TLS and password; 250, it is on disk:")
    until(f"the message to {recipient} to end well", lambda: len(proof()) > before, 20, stage.service)
    until("the end of its story", lambda: _is_done(stage, identity), 20, stage.service)
    command(f"mta trace {identity}")
    sys.stdout.flush()
    stage.service.mta("trace", identity, shown=True)
    click.echo(f"  {click.style('→', fg='green')} {short(proof()[-1].parent)}/ holds {holds}")


def _is_done(stage: Stage, identity: str) -> bool:
    story = json.loads(stage.service.mta("trace", identity, "--json"))
    return any(event["event"] == "done" for event in story["events"])


def go_on(stage: Stage) -> None:
    """Lines to paste."""
    ports, password = stage.ports, stage.passwords[ANN]
    letter = stage.service.folder / "letter.eml"
    letter.write_text(f"From: {ANN}\nTo: {BOB}\nSubject: From curl\n\nHello Bob!\n", newline="\r\n")
    heading("Go on yourself")
    command(f"swaks --server 127.0.0.1:{ports['submission']} --tls --auth PLAIN -au {ANN} -ap {password} \\")
    click.echo(click.style(f"        --from {ANN} --to {BEN}", fg="cyan"))
    command(f"curl smtps://localhost:{ports['submissions']} --cacert {short(stage.certificate)} \\")
    click.echo(click.style(f"        --user {ANN}:{password} --mail-from {ANN} \\", fg="cyan"))
    click.echo(click.style(f"        --mail-rcpt {BOB} --upload-file {short(letter)}", fg="cyan"))
    program = Path(sys.executable).with_name("mta")
    command(f"export MTA_CONFIG={short(stage.service.config)}")
    for words in ("status", "queue list", f"usage {CUSTOMER}", "--help"):
        command(f"{short(program)} {words}")
    boxes, others = (short(stage.mailbox(process, ANN).parent) for process in (stage.service, stage.remote))
    click.echo(f"\n  Mailboxes   {boxes}/ here, {others}/ on the other host")
    click.echo(f"  Settings    {short(stage.service.config)}")
    click.echo(f"  Event log   {short(stage.service.folder / 'mta.log')}")


def follow(log: Path, process: Process) -> NoReturn:
    """Prints the event log as it grows, until interrupted."""
    click.echo(f"\n  It stays up until {click.style('Ctrl-C', bold=True)}. What happens from now on:\n")
    with log.open("rb") as events:
        events.seek(0, os.SEEK_END)
        pending = b""
        while True:
            pending += events.read()
            *lines, pending = pending.split(b"\n")
            for line in lines:
                click.echo(click.style(f"  {line.decode('utf-8', 'replace')}", dim=True))
            if process.ended:
                raise DemoFailed(f"{process.name} has ended by itself:\n{process.last_words()}")
            time.sleep(0.1)


def _lock(var: Path) -> IO[bytes]:
    """Holds the place for as long as the file is open.  Raises :class:`DemoFailed`."""
    var.mkdir(parents=True, exist_ok=True)
    lock = (var / "demo.lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise DemoFailed(f"another demonstration runs in {short(var)} already; end it first with Ctrl-C") from None
    return lock


def perform(var: Path, *, once: bool) -> None:
    """The whole demonstration, with its state in ``var``.  Raises :class:`DemoFailed`; Ctrl-C ends it."""
    click.echo(
        f"{click.style('twisted-mta', bold=True)}: the real service on loopback, state in {short(var / 'demo')}\n"
    )
    with _lock(var):
        home = var / "demo"
        shutil.rmtree(home, ignore_errors=True)
        click.echo(click.style("  starting …", dim=True))
        with staged(home) as stage:
            introduce(stage)
            here, there = stage.service, stage.remote
            show(stage, 1, "To a mailbox here", BEN, "it, as a file of a Maildir", lambda: stage.arrived(here, BEN))
            show(
                stage,
                2,
                "To another host, found by MX",
                BOB,
                "it, written by the other host",
                lambda: stage.arrived(there, BOB),
            )
            show(
                stage,
                3,
                "To nobody there, so a report comes back",
                NOBODY,
                "the report (RFC 3464)",
                lambda: stage.arrived(here, ANN),
            )
            go_on(stage)
            if not once:
                follow(here.folder / "mta.log", here)


@click.command(help=what)
@click.option("--once", is_flag=True, help="End after the show; status 0 if every message met its fate.")
@click.option("--var", type=click.Path(path_type=Path), default=Path("var"), help="Where its state goes.  [var]")
def main(once: bool, var: Path) -> None:
    """The command."""

    def interrupted(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    try:
        perform(var.absolute(), once=once)
    except DemoFailed as error:
        click.echo(f"\n{click.style('✗', fg='red')} {error}", err=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        click.echo("\n  Stopped. `make demo` starts anew.")
        raise SystemExit(1 if once else 0) from None


if __name__ == "__main__":
    main()
