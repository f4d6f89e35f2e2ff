"""``mta queue export`` and ``import``: messages as files, to look at them elsewhere or to move them to another queue.

A message is two files: ``ID.eml`` is its content as it is, ``ID.json`` its envelope and what is still to be delivered.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, cast, get_args

import click
import msgspec

from ...mail.address import AddressError, canonical
from ...mail.envelope import Message, Recipient
from ...mail.events import Operator, Routed
from ...queue.damage import Damaged, words
from ...queue.interfaces import CHUNK, NewDelivery, NewMessage
from ..base import Command, pass_context
from ..context import FAILED, CommandError, Context, NotFound
from ..selection import filter_options, is_filtered, queue_filter, selected
from ..tables import many

FORMAT: Literal[2] = 2

replace = msgspec.structs.replace


def by_name(kind: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """A struct with the fields of one that the queue writes as an array: in a file each has its name."""

    def named(part: Any) -> Any:
        if isinstance(part, type) and issubclass(part, msgspec.Struct):
            return by_name(part)
        return Union[tuple(map(named, get_args(part)))] if isinstance(part, UnionType) else part  # noqa: UP007

    fields = [
        (field.name, named(field.type), *(() if field.required else (field.default,)))
        for field in msgspec.structs.fields(kind)
    ]
    return msgspec.defstruct(f"{kind.__name__}File", fields, frozen=True, kw_only=True, forbid_unknown_fields=True)


if TYPE_CHECKING:
    from ...mail.envelope import Message as MessageFile
    from ...mail.envelope import Recipient as RecipientFile
    from ...queue.lmdb_store import LmdbStore
else:
    MessageFile, RecipientFile = by_name(Message), by_name(Recipient)


class DeliveryFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What waits for one destination.  What is ``held`` stays so; the rest is there to be read only."""

    destination: str
    recipients: tuple[RecipientFile, ...]
    held: bool = False
    attempts: int = 0
    last_reply: str = ""


class EnvelopeFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An envelope's file.  Times are seconds since the epoch.  Id, size and numbers in ``message`` are there to be read
    only."""

    format: Literal[2] = FORMAT
    message: MessageFile
    lane_customer: str = ""
    deliveries: tuple[DeliveryFile, ...]


@click.command("export", cls=Command)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.argument("ids", metavar="[ID]...", nargs=-1)
@filter_options
@pass_context
def export(context: Context, folder: Path, ids: tuple[str, ...], **options: Any) -> None:
    """Write messages to files in DIR, two for each: ID.eml its content, ID.json its envelope.

    All, or those that IDs and filters choose, with all that is still to be delivered of each. They stay in the queue:
    to move mail elsewhere put it on hold first, export, import there, and remove it here.
    """
    store = context.store()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    chosen = selected(store, ids, options)
    count, last = 0, ""
    lost: list[str] = []
    try:
        for message, _ in chosen():
            if message.id != last:
                last = message.id
                count += _write(context, folder, message)
    except Damaged as error:
        if ids or is_filtered(queue_filter(options)):
            raise CommandError(f"{words(error.how)}; without filters export passes what can't be read") from None
        click.echo(f"mta: the queue's file is damaged ({error.how}); what can be read is exported", err=True)
        count, lost = _write_readable(context, folder)
    os.sync()  # so many files at once cost less than each by itself
    if not count and (ids or is_filtered(queue_filter(options))):
        raise NotFound("nothing in the queue matches")
    value: dict[str, Any] = {"folder": str(folder), "messages": count} | ({"lost": lost} if lost else {})

    def lines() -> list[str]:
        told = [f"{many(count, 'message')} exported to {folder}."]
        return told + ([f"{many(len(lost), 'message')} can't be read: {' '.join(lost)}"] if lost else [])

    context.say(value, lines)
    if lost:
        raise click.exceptions.Exit(FAILED)


def _write_readable(context: Context, folder: Path) -> tuple[int, list[str]]:
    """Export what can be read of a damaged queue: how many, and the ids of what can't."""
    store = context.store()
    count = 0
    lost: list[str] = []
    for name in cast("LmdbStore", store).ids():
        try:
            message = store.message(name)
            there = store.deliveries(name)
            if message is not None and there:
                count += _write(context, folder, message)
            elif message is not None or there:
                lost.append(name)
        except (Damaged, CommandError, KeyError):
            lost.append(name)
    return count, lost


def _write(context: Context, folder: Path, message: Message) -> bool:
    store = context.store()
    deliveries = store.deliveries(message.id)
    partial = folder / f".{message.id}.part"
    try:
        with partial.open("wb") as file:
            for number in range(message.chunks):
                file.write(context.done(store.read(message.id, number)))
    except (KeyError, CommandError):
        partial.unlink(missing_ok=True)
        if store.message(message.id) is None:
            return False  # it has left meanwhile
        raise
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CommandError(str(error)) from None
    released = not any(it.release for it in deliveries)  # at once, or by an operator
    if message.handling is not None and released:
        message = replace(message, handling=replace(message.handling, release=0.0))
    envelope = EnvelopeFile(
        message=msgspec.convert(message, MessageFile, from_attributes=True),
        lane_customer=deliveries[0].customer if deliveries else message.customer,
        deliveries=tuple(
            DeliveryFile(
                destination=it.destination,
                recipients=tuple(msgspec.convert(to, RecipientFile, from_attributes=True) for to in it.recipients),
                held=it.state == "held",
                attempts=it.attempts,
                last_reply=it.last_reply,
            )
            for it in deliveries
        ),
    )
    partial.rename(folder / f"{message.id}.eml")
    (folder / f"{message.id}.json").write_bytes(msgspec.json.format(msgspec.json.encode(envelope), indent=2) + b"\n")
    return True


@click.command("import", cls=Command)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--hold", is_flag=True, help="Put all of it on hold.")
@pass_context
def import_(context: Context, folder: Path, hold: bool) -> None:
    """Put messages that "mta queue export" wrote into the queue, each under a new id, due now, or when
    its sender wants it released.

    They keep their envelope, age and customer, whose quotas are not asked; attempts count anew. All files are looked at
    first: if one is wrong nothing is imported. What is imported twice is delivered twice.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise NotFound(f"there are no messages in {folder}")
    envelopes = [_read(path) for path in files]
    imported: dict[str, str] = {}
    for path, envelope in zip(files, envelopes, strict=True):
        imported[envelope.message.id] = _import(context, path.with_suffix(".eml"), envelope, hold)
    context.say({"imported": imported}, lambda: f"{many(len(imported), 'message')} imported from {folder}.")


def _read(path: Path) -> EnvelopeFile:
    try:
        envelope = msgspec.json.decode(path.read_bytes(), type=EnvelopeFile)
        with path.with_suffix(".eml").open("rb"):
            pass
        for address in (envelope.message.sender, *(to.address for it in envelope.deliveries for to in it.recipients)):
            if address:
                canonical(address)
    except (msgspec.MsgspecError, AddressError, OSError) as error:
        raise CommandError(f"{path}: {error}; nothing was imported") from None
    if not all(it.recipients and ":" in it.destination for it in envelope.deliveries) or not envelope.deliveries:
        raise CommandError(f"{path}: each delivery needs recipients and a destination; nothing was imported")
    return envelope


def _import(context: Context, content: Path, envelope: EnvelopeFile, hold: bool) -> str:
    store, now = context.store(make=True), context.now()
    incoming = context.guard(store.incoming)
    try:
        with content.open("rb") as file:
            while data := file.read(CHUNK):
                waiting = incoming.write(data)
                if waiting is not None:
                    context.done(waiting)
        deliveries = tuple(
            NewDelivery(
                it.destination,
                tuple(msgspec.convert(to, Recipient, from_attributes=True) for to in it.recipients),
            )
            for it in envelope.deliveries
        )
        everyone = tuple(to.address for it in deliveries for to in it.recipients)
        message = replace(
            msgspec.convert(envelope.message, Message, from_attributes=True),
            id=incoming.id,
            recipients=len(everyone),
            size=incoming.size,
            chunks=-(-incoming.size // CHUNK),
        )
        event = Operator(time=now, id=incoming.id, action="import", who=context.who, recipients=everyone)
        places = {it.destination: tuple(to.address for to in it.recipients) for it in deliveries}
        routed = Routed(time=now, id=incoming.id, destinations=places)
        held = [it.destination for it in envelope.deliveries if hold or it.held]
        release = message.handling.release if message.handling is not None else 0.0
        new = NewMessage(
            message=message,
            deliveries=deliveries,
            # Where some are to be held nothing of it may go before they are.
            next_attempt=max(release, now + 60 if held else now),
            story=(event, routed),
            lane_customer=envelope.lane_customer,
        )
        context.done(incoming.commit(new))
    except BaseException:
        incoming.abort()
        raise
    context.events(event)
    context.events(routed)
    if held:
        context.done(store.act("hold", [(incoming.id, name) for name in held], context.who, now))
        rest = [(incoming.id, it.destination) for it in envelope.deliveries if it.destination not in held]
        if release <= now:
            context.done(store.act("retry", rest, context.who, now))
    return incoming.id
