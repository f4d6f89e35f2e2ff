"""Numbers that no mail would pass, or that the standards want higher."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from ..addresses import too_wide
from ..problems import Problem, error, warning
from ..settings import KIB, MINUTE, Duration, Settings
from ..toml import write_path
from ..units import format_duration, format_size

PATIENCE = Duration(5 * MINUTE)
"""Seconds that a client waits for the greeting and for most replies (RFC 5321 §4.5.3.2.1 to §4.5.3.2.3)."""


def check(settings: Settings) -> Iterator[Problem]:
    """All problems of the queue, of a session's limits, and of quotas."""
    yield from _queue(settings)
    yield from _smtp(settings)
    yield from _patience(settings)
    yield from _quota(settings)


def _queue(settings: Settings) -> Iterator[Problem]:
    queue = settings.queue
    if not queue.retry:
        yield error("queue.retry", [], "is empty", 'write the waits between attempts, such as ["5m", "30m", "2h"]')
    for wait in queue.retry:
        if wait < 1:
            wrong = "would try without a pause"
            yield error("queue.retry", format_duration(wait), wrong, 'write "1s" or more; RFC 5321 asks for "30m"')
    if queue.retry and queue.lifetime < queue.retry[0]:
        wrong = f"is over before the first retry after {format_duration(queue.retry[0])}"
        yield warning("queue.lifetime", format_duration(queue.lifetime), wrong, 'write "5d"')
    if queue.lifetime and queue.delay_warning >= queue.lifetime:
        wrong = "is not sooner than queue.lifetime, so nobody is warned"
        yield warning(
            "queue.delay_warning", format_duration(queue.delay_warning), wrong, 'write "4h", or "0s" for never'
        )
    if queue.sync == "never":
        yield warning("queue.sync", "never", "loses acknowledged mail in a power cut", 'write "always"')
    if queue.map_size < 1024 * KIB:
        yield error("queue.map_size", format_size(queue.map_size), "holds no queue", 'write "1MiB" or more')


def _smtp(settings: Settings) -> Iterator[Problem]:
    smtp = settings.smtp
    if len(smtp.banner) > 200 or not smtp.banner.isascii():
        yield error("smtp.banner", smtp.banner, "does not fit a greeting", "write up to 200 ASCII characters")
    if smtp.recipients < 100:
        yield warning(
            "smtp.recipients", smtp.recipients, "is less than RFC 5321 §4.5.3.1.8 asks for", "write 100 or more"
        )
    if smtp.message_bytes < 64 * KIB:
        wrong = "is less than RFC 5321 §4.5.3.1.7 asks for"
        yield warning("smtp.message_bytes", format_size(smtp.message_bytes), wrong, 'write "64KiB" or more')
    if smtp.header_bytes > smtp.message_bytes:
        wrong = "is more than smtp.message_bytes"
        yield warning("smtp.header_bytes", format_size(smtp.header_bytes), wrong, "lower it")
    for text in smtp.verify_networks:
        if too_wide(ipaddress.ip_network(text)):
            wrong = "lets strangers find out all addresses"
            yield warning("smtp.verify_networks", text, wrong, "name the networks of your own programs")
    if smtp.timeout <= 0:
        yield error("smtp.timeout", format_duration(smtp.timeout), "would end every session at once", 'write "5m"')
    elif smtp.timeout < 5 * MINUTE:
        wrong = "is less than RFC 5321 §4.5.3.2.7 asks for; slow clients are cut off"
        yield warning("smtp.timeout", format_duration(smtp.timeout), wrong, 'write "5m"')
    if settings.dns.timeout <= 0:
        yield error("dns.timeout", format_duration(settings.dns.timeout), "answers nothing", 'write "5s"')


def _patience(settings: Settings) -> Iterator[Problem]:
    """Waits that end a session before it has begun, or last longer than clients do."""
    if settings.smtp.overload_timeout <= 0:
        shown = format_duration(settings.smtp.overload_timeout)
        yield error("smtp.overload_timeout", shown, "would end strangers' sessions at once", 'write "10s"')
    for key, wait, usual in (
        ("defence.greeting_delay", settings.defence.greeting_delay, "2s"),
        ("defence.tarpit", settings.defence.tarpit, "15s"),
    ):
        if wait >= PATIENCE:
            wrong = f"is longer than clients wait, {format_duration(PATIENCE)} (RFC 5321 §4.5.3.2)"
            yield error(key, format_duration(wait), wrong, f'write "{usual}"')
    greylist = settings.greylist
    if greylist.enabled and greylist.delay >= greylist.retry_within:
        wrong = (
            f"is not less than greylist.retry_within = {format_duration(greylist.retry_within)}: nobody ever gets in"
        )
        yield error("greylist.delay", format_duration(greylist.delay), wrong, 'write "5m"')


def _quota(settings: Settings) -> Iterator[Problem]:
    for name, quota in settings.quota.items():
        key = write_path(("quota", name))
        if quota.message_bytes is not None and quota.message_bytes > settings.smtp.message_bytes:
            wrong = f"is more than smtp.message_bytes = {format_size(settings.smtp.message_bytes)}, which holds"
            yield warning(
                f"{key}.message_bytes", format_size(quota.message_bytes), wrong, "lower it, or raise the other"
            )
        largest = min(settings.smtp.message_bytes, quota.message_bytes or settings.smtp.message_bytes)
        if quota.queued_bytes is not None and quota.queued_bytes < largest:
            wrong = f"is less than one message of the largest size, {format_size(largest)}"
            yield warning(f"{key}.queued_bytes", format_size(quota.queued_bytes), wrong, "raise it")
