"""The workloads: each starts a target with an empty queue, loads it, ends it, and gives figures by name.

Among them may be what the machine did meanwhile (:data:`bench.machine.SHARES`), without the start and the end.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import attrs

from bench.clients import Job
from bench.drive import Held, Outcome, Running, percentile
from bench.group import Group
from bench.load import AFTER, Load, RecipientSink, SilentHop, Sink, run
from bench.machine import Times
from bench.targets import PASSWORD, USER, Conditions, Target

SECONDS = 4.0
"""How long a load lasts at most: a slow server gets fewer messages, but no fewer than :data:`LEAST`."""
LEAST = 100
IMPATIENT = 10.0
"""Seconds after which a client of an overload gives up."""
OVERLOAD_SECONDS = 6.0
TIMES = 3
"""How many times what a server can take it is offered in an overload."""

COMMON = Conditions()

Figures = dict[str, float]


class NotMeasuredError(Exception):
    """A target can't do this workload; the words say why."""


@contextlib.contextmanager
def started(target: Target, sink: Sink | SilentHop, conditions: Conditions = COMMON) -> Iterator[Group]:
    """The target, relaying to the sink, which ends with it."""
    try:
        yield target.start(sink.port, conditions)
    finally:
        target.stop()
        sink.close()


def fitting(most: int, rate: float) -> int:
    """How many messages to hand in, of a server that takes ``rate`` a second."""
    return max(min(most, LEAST), min(most, int(rate * SECONDS)))


def handed_in(target: Target, most: int, load: Load, *, relay: bool) -> Figures:
    """Mail by smtp-source.

    With ``relay`` it is accepted, queued and relayed to a sink at the same time; without, the next hop never greets,
    so that everything is accepted and queued and nothing leaves.
    """
    many = load.recipients > 1
    sink = (RecipientSink if many else Sink)() if relay else None
    with started(target, sink or SilentHop()) as group:
        warm = attrs.evolve(load, messages=min(most, 20 if many else 100))
        first = run(warm, target.port, group, sink)
        rate = min(first["accept_rate"], first.get("relay_rate", first["accept_rate"])) / load.recipients
        return run(attrs.evolve(load, messages=fitting(most, rate * 2)), target.port, group, sink)


def submission(target: Target, most: int, *, per_session: int) -> Figures:
    """Users who log in under TLS and hand in mail, which is relayed: a session for each message, or for many."""
    if not target.logins:
        raise NotMeasuredError("no users set up for it, or no Dovecot on this machine (apt-get install dovecot-core)")
    job = Job(
        "load",
        target.tls_port,
        per_session=per_session,
        tls=True,
        user=USER,
        password=PASSWORD,
        sender=USER,
    )
    sink = Sink()
    with started(target, sink, Conditions(logins=True)) as group:
        _accepted(Running(attrs.evolve(job, messages=5 * max(20, per_session))).outcome(60))  # warm
        warm = _accepted(Running(attrs.evolve(job, messages=max(100, 20 * per_session))).outcome(60))
        count = fitting(most, warm.rate) // (2 * per_session) * 2 * per_session
        _wait_for(sink, 0)
        start, cpu, before, began = sink.poll(), group.cpu(), Times.now(), time.perf_counter()
        outcome = _accepted(Running(attrs.evolve(job, messages=count)).outcome(120))
        arrived = _wait_for(sink, start + count)
        shares = Times.now().since(before)
        time.sleep(AFTER)
        return {
            **shares,
            "accept_rate": outcome.rate,
            "session_rate": outcome.rate / per_session,
            "relay_rate": count / (arrived - began),
            "cpu": (group.cpu() - cpu) * 1000 / count,
            "source_cpu": outcome.cpu * 1000 / count,
            "p99": percentile(outcome.latencies, 0.99) * 1000,
        }


def _accepted(outcome: Outcome) -> Outcome:
    """The same, if all sessions went well."""
    if bad := outcome.refused + outcome.lost + outcome.late:
        raise RuntimeError(f"{bad} of {bad + outcome.done} sessions failed: {outcome.refused} refused")
    return outcome


def _wait_for(sink: Sink, count: int, seconds: float = 60.0) -> float:
    """When ``count`` were in the sink; with 0: when no more came for half a second."""
    last, moved = sink.poll(), time.perf_counter()
    while True:
        now, found = time.perf_counter(), sink.poll()
        if found != last:
            last, moved = found, now
        if (count and found >= count) or (not count and now - moved > 0.5):
            return moved
        if now - moved > seconds:
            raise RuntimeError(f"only {found} of {count} messages have arrived")
        time.sleep(0.005)


def idle(target: Target, *, tls: bool) -> Figures:
    """Memory of sessions that have said EHLO and are silent."""
    if tls and not target.tls:
        raise NotMeasuredError("its TLS does not work here")
    crowd = target.crowd
    first, count = (crowd.first // 4, crowd.tls) if tls else (crowd.first, crowd.plain)
    job = Job("hold", target.tls_port if tls else target.port, sessions=first, tls=tls, window=crowd.window)
    sink = Sink()
    with started(target, sink, Conditions(crowd=True)) as group:
        run(Load(5, sessions=1), target.port, group, sink)  # load what loads late
        base, _ = _settled(group)
        with Held(job):  # these fill what the heap had to spare
            before, _ = _settled(group)
            began, cpu = time.perf_counter(), group.cpu()
            with Held(attrs.evolve(job, sessions=count)) as held:
                took, spent = time.perf_counter() - began, group.cpu() - cpu
                after, processes = _settled(group)
                still = held.close()
    if still < count:
        raise RuntimeError(f"{count - still} of {count} idle sessions were closed")
    return {
        "sessions": count,
        "per_session": (after - before) / count,
        "base": base / 1024,
        "processes": processes,
        "session_rate": count / took,
        "cpu": spent * 1000 / count,
    }


def _settled(group: Group) -> tuple[float, int]:
    """Memory once it has stopped moving."""
    last = group.memory()
    for _ in range(8):
        time.sleep(0.7)
        now = group.memory()
        if abs(now[0] - last[0]) < 64:
            return now
        last = now
    return last


def neighbours(target: Target, most: int) -> Figures:
    """What fifty good clients get, relayed end to end, without and with a crowd of bad neighbours around them.

    Those are silent sessions in clear and with TLS, and senders of an octet a second, all from many other addresses
    and strangers to a target that knows strangers.
    """
    if not target.tls:
        raise NotMeasuredError("its TLS does not work here")
    crowd, sink = target.crowd, Sink()
    spread = (crowd.strangers + crowd.strangers_tls + crowd.slow) // 50
    with started(target, sink, Conditions(crowd=True, wary=True)) as group:
        warm = run(Load(min(most, 500)), target.port, group, sink)
        good = Load(fitting(most, warm["relay_rate"]))

        def rates() -> list[Figures]:
            return [run(good, target.port, group, sink) for _ in range(2)]

        before = rates()
        memory, _ = _settled(group)
        job = Job("hold", target.port, sources=spread, window=crowd.strangers_window)
        silent = attrs.evolve(job, sessions=crowd.strangers)
        shaken = attrs.evolve(job, port=target.tls_port, sessions=crowd.strangers_tls, tls=True, window=crowd.window)
        slow = attrs.evolve(job, kind="slow", sessions=crowd.slow, recipient=target.resident)
        with Held(silent) as one, Held(shaken) as two, Held(slow) as three:
            count = silent.sessions + shaken.sessions + slow.sessions
            full, _ = _settled(group)
            during = rates()
            still = sum(held.close() for held in (one, two, three))
        time.sleep(1)
        after = rates()
    figures: Figures = {"held": still / count * 100, "per_session": (full - memory) / count, "sessions": count}
    for name in ("accept_rate", "relay_rate"):
        alone = statistics.mean(one[name] for one in before + after)
        beside = statistics.mean(one[name] for one in during)
        figures |= {f"{name}_alone": alone, name: beside, f"{name}_fall": (1 - beside / alone) * 100}
    return figures


def overload(target: Target, most: int) -> Figures:
    """New sessions, each with a message, at three times the rate that the target takes when it is only kept busy."""
    job = Job("load", target.port, messages=min(most, 300), sessions=50, sources=50, patience=IMPATIENT)
    sink = Sink()
    with started(target, sink) as group:
        warm = Running(job).outcome(90)
        if not warm.accepted:
            raise NotMeasuredError("it takes nothing from fifty clients at once")
        usual = Running(attrs.evolve(job, messages=fitting(most, warm.rate))).outcome(90)
        _wait_for(sink, 0)
        offered = TIMES * usual.rate
        start, before, began = sink.poll(), Times.now(), time.perf_counter()
        flood = Running(attrs.evolve(job, kind="flood", rate=offered, seconds=OVERLOAD_SECONDS))
        while time.perf_counter() - began < OVERLOAD_SECONDS:
            time.sleep(0.01)
            delivered = sink.poll() - start
        shares = Times.now().since(before)
        outcome = flood.outcome(OVERLOAD_SECONDS + 3 * IMPATIENT)
        arrived = _wait_for(sink, 0) - began
        memory, _ = group.memory()
    sessions = outcome.done + outcome.refused + outcome.lost + outcome.late
    rate = outcome.rate_within(OVERLOAD_SECONDS)
    return {
        **shares,
        "usual_rate": usual.rate,
        "offered_rate": offered,
        "accept_rate": rate,
        "kept": rate / usual.rate * 100,
        "p50": percentile(outcome.latencies, 0.5),
        "p99": percentile(outcome.latencies, 0.99),
        "refusal_p99": percentile(outcome.refusals, 0.99),
        "refused": outcome.refused / sessions * 100,
        "failed": (outcome.lost + outcome.late) / sessions * 100,
        "relay_rate": delivered / OVERLOAD_SECONDS,
        "relayed_share": delivered / OVERLOAD_SECONDS / rate * 100 if rate else 0.0,
        "drained": max(0.0, arrived - OVERLOAD_SECONDS),
        "memory": memory / 1024,
    }


@attrs.frozen
class Workload:
    """One of the table.  ``measure`` is given a target; ``all_rounds``: whether each target is measured in each round,
    else peers but Postfix in the first one alone; ``rounds``: in how many rounds it is measured at most."""

    name: str
    measure: Callable[[Target], Figures]
    all_rounds: bool = False
    rounds: int = 99


def workloads(messages: int) -> list[Workload]:
    """All of them, with so many messages each at most."""
    plain, fresh = Load(messages), Load(messages, reuse=False)
    large, many = Load(messages, sessions=20, length=65536), Load(messages, sessions=20, recipients=100)
    return [
        Workload("accept, sessions reused", lambda target: handed_in(target, messages, plain, relay=False)),
        Workload("accept, a session each", lambda target: handed_in(target, messages, fresh, relay=False)),
        Workload("accept, 64 KiB", lambda target: handed_in(target, messages // 2, large, relay=False)),
        Workload("relay, sessions reused", lambda target: handed_in(target, messages, plain, relay=True)),
        Workload("relay, a session each", lambda target: handed_in(target, messages, fresh, relay=True)),
        Workload("relay, 64 KiB", lambda target: handed_in(target, messages // 2, large, relay=True)),
        Workload(
            "relay, 100 recipients",
            lambda target: handed_in(target, messages // 10, many, relay=True),
            all_rounds=True,
        ),
        Workload("submission, a session each", lambda target: submission(target, messages, per_session=1)),
        Workload("submission, sessions reused", lambda target: submission(target, messages, per_session=20)),
        Workload("idle sessions", partial(idle, tls=False), rounds=1),
        Workload("idle sessions, TLS", partial(idle, tls=True), rounds=1),
        Workload("neighbours", lambda target: neighbours(target, messages), rounds=2),
        Workload("overload", lambda target: overload(target, messages), rounds=2),
    ]
